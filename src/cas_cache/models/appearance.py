"""What an encoder looks like now: a short text for each of its plain attributes, its own code, and versions.

Identity cannot hold all of that: counters, timers and caches change while an encoder works. So it is recorded beside
the vectors (`cas_cache.mirror.appearances`), and an encoder that looks otherwise is compared before rows are served.

Code is followed: methods, the functions that they call, and what these capture, have as defaults or read as globals.
Values are compared, never restored: long ones are hashed, very large ones by a sample, and objects of the libraries for
models are known by their class alone, because the identity describes them. Nothing of a credential is kept.
"""

from __future__ import annotations

import functools
import re
import sys
import types
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cas_cache.errors import IdentityError
from cas_cache.identity.credentials import Level, level_of_name, redact
from cas_cache.models.encoders import describe_part, is_part
from cas_cache.models.functions import bytecode_hash, captured, names_used, without_counters
from cas_cache.models.names import class_name, foreign_methods, is_installed, is_library, top_package
from cas_cache.models.parts import is_module, is_of_torch, walk
from cas_cache.models.value_text import CACHED, CONTAINERS, MAPPINGS, item_text, text_of
from cas_cache.models.values import attributes_of, hashed

if TYPE_CHECKING:
    from collections.abc import Collection

MAX_DEPTH = 6
"""Levels of nested objects that are described: a client of a service keeps its base URL in the third."""

MAX_PATHS = 4000
"""The most attributes of one encoder that are described, its own first; that many take about 20 ms."""

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
"""Packages into whose objects nothing looks: locks, loggers, threads, connections."""

METADATA = "mteb_model_meta"
"""Not described: name and revision are in the identity, and the rest changes with each release of mteb."""

TORCH_LIBRARIES = ("torch", "transformers", "sentence_transformers")

FUNCTION_HOLDERS = (types.MethodType, classmethod, staticmethod, property, functools.cached_property, CACHED)


def appearance_of(encoder: Any, ignored: Collection[str] = ()) -> dict[str, str]:
    """Return what an encoder looks like, by the path of each attribute, such as ``config['max_tokens']``.

    Args:
        encoder: Any object.
        ignored: Paths that are left out, with all that lies below them.
    """
    return _Walk(encoder, ignored).run()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a value was found.

    Attributes:
        path: As in an appearance.
        depth: How many objects it is in.
        in_code: Only code refers to it, so no model below it is in the identity.
    """

    path: str
    depth: int
    in_code: bool = False

    def of(self, part: str, *, deeper: int = 0, in_code: bool = False) -> _Place:
        return _Place(f"{self.path}{part}", self.depth + deeper, self.in_code or in_code)


class _Walk:
    """One walk over an encoder's code and attributes, those of the encoder itself first."""

    def __init__(self, encoder: Any, ignored: Collection[str]) -> None:
        self.found: dict[str, str] = {}
        self._encoder = encoder
        self._home = top_package(type(encoder).__module__)
        self._ignored = frozenset(ignored)
        self._seen: dict[int, tuple[Any, str]] = {id(encoder): (encoder, "(the encoder)")}
        self._pending: deque[tuple[_Place, Any]] = deque()
        self._has_torch = False

    def run(self) -> dict[str, str]:
        cls = type(self._encoder)
        self.found["class"] = " < ".join(class_name(part) for part in cls.__mro__[:-1])
        for part in reversed(cls.__mro__):
            self._look_at_class(part, "", closed=top_package(part.__module__) in CLOSED)
        for name, value in attributes_of(self._encoder).items():
            if name != METADATA:
                self._add(_Place(name, 1), value)
        while self._pending:
            self._look_at(*self._pending.popleft())
        self._look_at_versions(cls)
        return self.found

    def _add(self, place: _Place, value: Any) -> None:
        """Look at a value later."""
        if place.path not in self._ignored and level_of_name(_last_name(place.path)) is not Level.SECRET:
            self._pending.append((place, value))

    def _look_at(self, place: _Place, value: Any) -> None:
        if len(self.found) >= MAX_PATHS:
            self.found["(more)"] = f"more than {MAX_PATHS} attributes"
            return
        function = _function_of(value)
        text = None if function is not None or isinstance(value, type) else text_of(value)
        if text is not None:
            self.found[place.path] = text
        elif id(value) in self._seen:
            self.found[place.path] = f"{class_name(type(value))}, as {self._seen[id(value)][1]}"
        else:
            self._seen[id(value)] = (value, place.path)
            if isinstance(value, type):
                self.found[place.path] = class_name(value)
                self._look_at_classes(value, place.path)
            elif function is not None:
                self._look_at_function(place, value, function)
            else:
                self._look_at_object(place, value)

    def _look_at_object(self, place: _Place, value: Any) -> None:
        name = class_name(type(value))
        self._has_torch |= top_package(type(value).__module__) == "torch" or is_module(value)
        self.found[place.path] = _described(value) if place.in_code and is_part(value) else name
        parts = None if place.depth >= MAX_DEPTH else _parts(value)
        if parts is None:
            return
        if isinstance(value, CONTAINERS):
            self.found[place.path] += f" with {hashed(repr(list(parts)))}"
        else:
            self._look_at_classes(type(value), place.path)
        for part, held in parts.items():
            self._add(place.of(part, deeper=1), held)

    def _look_at_classes(self, cls: type, where: str) -> None:
        """Look at a class that an encoder uses, and at those that it extends, if they belong to no package."""
        for part in reversed(cls.__mro__):
            if self._is_own(part) and (part is cls or id(part) not in self._seen):
                self._seen[id(part)] = (part, where)
                self._look_at_class(part, f"{where} {part.__qualname__}.", closed=False)

    def _look_at_class(self, cls: type, where: str, *, closed: bool) -> None:
        """Look at a class's code and attributes; of a library's class, at methods that were replaced."""
        for name, member in (foreign_methods(cls) if closed else dict(vars(cls))).items():
            if _function_of(member) is not None:
                self._add(_Place(f"{where}{name}()", 2), member)
            elif not (name.startswith("__") or hasattr(type(member), "__get__") or name == "_abc_impl"):
                self._add(_Place(f"{where or cls.__name__ + '.'}{name}", 2), member)

    def _look_at_function(self, place: _Place, value: Any, function: Any) -> None:
        """Look at a function's code, and at what it captures, has as defaults, and reads of its module."""
        if isinstance(value, functools.partial):
            self.found[place.path] = "partial"
            parts = {"func": value.func, "args": value.args, "keywords": value.keywords}
        elif isinstance(value, types.MethodType):
            self.found[place.path] = f"method {function.__qualname__}"
            parts = {"__self__": value.__self__, "__func__": function}
        else:
            self.found[place.path] = f"function {function.__qualname__} {bytecode_hash(function.__code__)}"
            parts = captured(function)
            if self._is_own(function):
                parts |= {"__defaults__": function.__defaults__, "__kwdefaults__": function.__kwdefaults__}
                self._look_at_globals(function, place)
        for name, held in parts.items():
            if not (held is None or (isinstance(held, tuple | dict) and not held)):
                self._add(place.of(f".{name}", in_code=True), held)

    def _look_at_globals(self, function: Any, place: _Place) -> None:
        names = names_used(function.__code__) & function.__globals__.keys()
        variables = without_counters({name: function.__globals__[name] for name in names}, function.__code__)
        for name, value in sorted(variables.items()):
            foreign = isinstance(value, type | types.FunctionType) and not self._is_own(value)
            if not (value is None or name.startswith("__") or foreign or isinstance(value, types.ModuleType)):
                self._add(_Place(f"global {function.__module__}.{name}", place.depth, in_code=True), value)

    def _is_own(self, thing: Any) -> bool:
        """Return True for a class or function of the encoder's package, or of no installed package."""
        module = getattr(thing, "__module__", None) or ""
        package = top_package(module)
        return package == self._home or not (package in CLOSED or is_library(thing) or is_installed(module))

    def _look_at_versions(self, cls: type) -> None:
        """Look at the versions of the libraries whose code makes the vectors."""
        used = {top_package(part.__module__) for part in cls.__mro__} & MODEL_LIBRARIES
        if self._has_torch:
            used.update(TORCH_LIBRARIES)
        for package in sorted(used):
            version = getattr(sys.modules.get(package), "__version__", None)
            if version is not None:
                self.found[f"version of {package}"] = str(version)


def _function_of(value: Any) -> Any:
    """Return the function of a method, property, cached function or partial; None for anything else."""
    if isinstance(value, types.FunctionType):
        return value
    if isinstance(value, functools.partial):
        return value.func
    names = ("__func__", "fget", "func", "__wrapped__") if isinstance(value, FUNCTION_HOLDERS) else ()
    found = (getattr(value, name, None) for name in names)
    return next((function for function in found if isinstance(function, types.FunctionType)), None)


def _described(part: Any) -> str:
    """Return the text of a model or tokenizer that only code refers to."""
    name = class_name(type(part))
    try:
        return f"{name} {hashed(repr(describe_part(part, name)))}"
    except IdentityError:
        return name


def _parts(value: Any) -> dict[str, Any] | None:
    """Return what a container or an object holds, by the end of its path; None if nothing may look into it."""
    if isinstance(value, MAPPINGS):
        items = list(value.items())  # at once: another thread may fill it
        return {f"[{item_text(key) or type(key).__name__}]": held for key, held in items if _is_kept(key)}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {f".{name}": held for name, held in zip(value._fields, value, strict=True)}
    if isinstance(value, list | tuple | deque):
        return {f"[{i}]": held for i, held in enumerate(value)}
    if is_module(value):
        return _remembered(value)
    if isinstance(value, CONTAINERS) or top_package(type(value).__module__) in CLOSED:
        return None
    return {f".{name}": held for name, held in attributes_of(value).items()}


def _remembered(module: Any) -> dict[str, Any]:
    """Return the attributes of torch modules with code of their own: identity leaves out lists and counters."""
    return {
        f".{path}.{name}" if path else f".{name}": held
        for path, part in walk(module)
        if top_package(type(part).__module__) not in CLOSED
        for name, held in vars(part).items()
        if not is_of_torch(name)
    }


def _is_kept(key: Any) -> bool:
    return not isinstance(key, str) or (level_of_name(key) is Level.NEUTRAL and redact(key) == key)


def _last_name(path: str) -> str:
    return re.split(r"[.\[]", path)[-1].strip("]'\"")
