"""Describe what an encoder looks like now: a short text for each plain attribute, its own code, and versions.

Identity cannot hold all of that: counters, timers and caches change while an encoder works. So it is recorded beside
the vectors (`cas_cache.mirror.appearances`), and an encoder that looks otherwise is compared before rows are served.

Values are compared, never restored: long ones are hashed, large arrays by a sample, and objects of the libraries for
models are known by their class alone, because the identity describes them. Nothing of a credential is kept.
"""

from __future__ import annotations

import re
import sys
import types
from collections import deque
from typing import TYPE_CHECKING, Any

from cas_cache.identity.credentials import Level, level_of_name, redact
from cas_cache.models.attributes import attributes_of
from cas_cache.models.names import class_name, top_package
from cas_cache.models.parts import is_module
from cas_cache.models.value_text import CONTAINERS, MAPPINGS, SCALARS, code_hash, item_text, text_of
from cas_cache.models.values import hashed

if TYPE_CHECKING:
    from collections.abc import Collection

MAX_DEPTH = 6
"""Levels of nested objects that are described: a client of a service keeps its base URL in the third."""

MAX_PATHS = 2000
"""The most attributes of one encoder that are described, which takes about 10 ms."""

MODEL_LIBRARIES = frozenset(
    {"torch", "transformers", "tokenizers", "sentence_transformers", "peft", "accelerate", "datasets", "onnxruntime"}
    | {"openvino", "optimum", "mteb", "faiss", "PIL", "tqdm"}
)
"""Packages whose objects are known by their class: what they compute is in the identity."""

CLOSED = MODEL_LIBRARIES | {
    *("_asyncio", "_contextvars", "_io", "_queue", "_socket", "_ssl", "_thread", "_weakref", "abc", "asyncio"),
    *("concurrent", "contextvars", "io", "logging", "multiprocessing", "queue", "selectors", "socket", "ssl"),
    *("subprocess", "tempfile", "threading", "weakref"),
}
"""Packages whose objects are not looked into: locks, loggers, threads, connections."""

METADATA = "mteb_model_meta"
"""An attribute that is not described: the identity has name and revision, and the rest changes with mteb's releases."""

TORCH_LIBRARIES = ("torch", "transformers", "sentence_transformers")


def appearance_of(encoder: Any, ignored: Collection[str] = ()) -> dict[str, str]:
    """Return what an encoder looks like, by the path of each attribute, such as ``config['max_tokens']``.

    Args:
        encoder: Any object.
        ignored: Paths that are left out, with all that lies below them.
    """
    walk = _Walk(encoder, ignored)
    walk.look_at_class(type(encoder))
    for name, value in attributes_of(encoder).items():
        if name != METADATA:
            walk.look_at(name, value, 1)
    walk.look_at_versions(type(encoder))
    return walk.found


class _Walk:
    """One walk over an encoder's attributes."""

    def __init__(self, encoder: Any, ignored: Collection[str]) -> None:
        self.found: dict[str, str] = {}
        self._ignored = frozenset(ignored)
        self._inside = {id(encoder)}
        self._has_torch = False

    def look_at(self, path: str, value: Any, depth: int) -> None:
        """Describe a value, and what it holds."""
        if path in self._ignored or level_of_name(_last_name(path)) is Level.SECRET:
            return
        if len(self.found) >= MAX_PATHS:
            self.found["(more)"] = f"more than {MAX_PATHS} attributes"
            return
        text = text_of(value)
        if text is not None:
            self.found[path] = text
            return
        name = class_name(type(value))
        parts = None if id(value) in self._inside or depth >= MAX_DEPTH else _parts(value)
        self._has_torch |= top_package(type(value).__module__) == "torch" or is_module(value)
        if parts is None:
            self.found[path] = name
            return
        self.found[path] = f"{name} with {hashed(repr(list(parts)))}" if isinstance(value, CONTAINERS) else name
        self._inside.add(id(value))
        for part, held in parts.items():
            self.look_at(f"{path}{part}", held, depth + 1)
        self._inside.discard(id(value))

    def look_at_class(self, cls: type) -> None:
        """Describe the code and the class attributes of classes that do not belong to the libraries."""
        self.found["class"] = " < ".join(class_name(part) for part in cls.__mro__[:-1])
        for part in reversed(cls.__mro__):
            if top_package(part.__module__) in CLOSED:
                continue
            for name, member in vars(part).items():
                function = getattr(member, "__func__", getattr(member, "fget", member))
                if isinstance(function, types.FunctionType):
                    self.found[f"{name}()"] = code_hash(function.__code__)
                    self._look_at_globals(function)
                elif not (name.startswith("__") or hasattr(type(member), "__get__") or name == "_abc_impl"):
                    self.look_at(f"{part.__name__}.{name}", member, 2)

    def _look_at_globals(self, function: types.FunctionType) -> None:
        for name in function.__code__.co_names:
            value = function.__globals__.get(name, function)
            if type(value) in SCALARS and not name.startswith("__"):
                self.look_at(f"global {name}", value, 2)

    def look_at_versions(self, cls: type) -> None:
        """Describe the versions of the libraries whose code makes the vectors."""
        used = {top_package(part.__module__) for part in cls.__mro__} & MODEL_LIBRARIES
        if self._has_torch:
            used.update(TORCH_LIBRARIES)
        for package in sorted(used):
            version = getattr(sys.modules.get(package), "__version__", None)
            if version is not None:
                self.found[f"version of {package}"] = str(version)


def _parts(value: Any) -> dict[str, Any] | None:
    """Return what a container or an object holds, by the end of its path; None if it is not looked into."""
    if isinstance(value, MAPPINGS):
        items = list(value.items())  # at once: another thread may fill it
        return {f"[{item_text(key) or type(key).__name__}]": held for key, held in items if _is_kept(key)}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {f".{name}": held for name, held in zip(value._fields, value, strict=True)}
    if isinstance(value, list | tuple | deque):
        return {f"[{i}]": held for i, held in enumerate(value)}
    if isinstance(value, CONTAINERS) or top_package(type(value).__module__) in CLOSED or is_module(value):
        return None
    return {f".{name}": held for name, held in attributes_of(value).items()}


def _is_kept(key: Any) -> bool:
    return not isinstance(key, str) or (level_of_name(key) is Level.NEUTRAL and redact(key) == key)


def _last_name(path: str) -> str:
    return re.split(r"[.\[]", path)[-1].strip("]'\"")
