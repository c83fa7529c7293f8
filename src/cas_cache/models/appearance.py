"""The appearance of an encoder: a short text for each of its plain attributes, its own code, and versions.

The identity cannot contain all of that, because counters, timers and caches change while an encoder works. So the
appearance is recorded beside the vectors (`cas_cache.mirror.appearances`), and the vectors of an encoder with another
appearance are compared before rows are served.

Code is followed: methods, the functions that they call, and the values that these capture, have as defaults or read as
globals. Values are only compared: long ones are hashed, very large ones by a sample, and objects of the libraries for
models are represented by their class, because the identity describes them. Credentials are dropped.
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
"""Levels of nested objects that are described: the base URL of a service's client is on the third."""

MAX_PATHS = 4000
"""Maximum attributes of one encoder that are described, its own first; this many take about 20 ms."""

MODEL_LIBRARIES = frozenset(
    {"torch", "transformers", "tokenizers", "sentence_transformers", "peft", "accelerate", "datasets", "onnxruntime"}
    | {"openvino", "optimum", "mteb", "faiss", "PIL", "tqdm"}
)
"""Packages whose objects are represented by their class, because the identity describes what they compute."""

CLOSED = MODEL_LIBRARIES | {
    *("_asyncio", "_contextvars", "_io", "_queue", "_socket", "_ssl", "_thread", "_weakref", "abc", "asyncio"),
    *("concurrent", "contextvars", "io", "logging", "multiprocessing", "queue", "selectors", "socket", "ssl"),
    *("subprocess", "tempfile", "threading", "weakref"),
}
"""Packages whose objects are not searched: locks, loggers, threads, connections."""

METADATA = "mteb_model_meta"
"""An attribute that is not described: name and revision are in the identity, the rest changes with mteb's releases."""

TORCH_LIBRARIES = ("torch", "transformers", "sentence_transformers")

FUNCTION_HOLDERS = (types.MethodType, classmethod, staticmethod, property, functools.cached_property, CACHED)


def appearance_of(encoder: Any, ignored: Collection[str] = ()) -> dict[str, str]:
    """Return the appearance of an encoder, by the path of each attribute, such as ``config['max_tokens']``.

    Args:
        encoder: Any object.
        ignored: Paths that are skipped, with everything below them.
    """
    return _Walk(encoder, ignored).run()


@dataclass(frozen=True, slots=True)
class _Place:
    """The place of a value in an encoder.

    Attributes:
        path: Its path in the appearance.
        depth: Number of objects around it.
        in_code: Only code refers to it, so the identity does not describe a model below it.
    """

    path: str
    depth: int
    in_code: bool = False

    def below(self, part: str, *, deeper: int = 0, in_code: bool = False) -> _Place:
        return _Place(f"{self.path}{part}", self.depth + deeper, self.in_code or in_code)


class _Walk:
    """A walk over an encoder's code and attributes, those of the encoder itself first."""

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
            self._describe_class(part, "", closed=top_package(part.__module__) in CLOSED)
        for name, value in attributes_of(self._encoder).items():
            if name != METADATA:
                self._add(_Place(name, 1), value)
        while self._pending:
            self._describe(*self._pending.popleft())
        self._describe_versions(cls)
        return self.found

    def _add(self, place: _Place, value: Any) -> None:
        """Schedule a value."""
        if place.path not in self._ignored and level_of_name(_last_name(place.path)) is not Level.SECRET:
            self._pending.append((place, value))

    def _describe(self, place: _Place, value: Any) -> None:
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
                self._describe_classes(value, place.path)
            elif function is not None:
                self._describe_function(place, value, function)
            else:
                self._describe_object(place, value)

    def _describe_object(self, place: _Place, value: Any) -> None:
        name = class_name(type(value))
        self._has_torch |= top_package(type(value).__module__) == "torch" or is_module(value)
        self.found[place.path] = _part_text(value) if place.in_code and is_part(value) else name
        parts = None if place.depth >= MAX_DEPTH else _parts(value)
        if parts is None:
            return
        if isinstance(value, CONTAINERS):
            self.found[place.path] += f" with {hashed(repr(list(parts)))}"
        else:
            self._describe_classes(type(value), place.path)
        for part, held in parts.items():
            self._add(place.below(part, deeper=1), held)

    def _describe_classes(self, cls: type, where: str) -> None:
        """Describe a class that an encoder uses, and the classes that it extends, if they belong to no package."""
        for part in reversed(cls.__mro__):
            if self._is_own(part) and (part is cls or id(part) not in self._seen):
                self._seen[id(part)] = (part, where)
                self._describe_class(part, f"{where} {part.__qualname__}.", closed=False)

    def _describe_class(self, cls: type, where: str, *, closed: bool) -> None:
        """Describe a class's code and attributes; of a library's class only replaced methods."""
        for name, member in (foreign_methods(cls) if closed else dict(vars(cls))).items():
            if _function_of(member) is not None:
                self._add(_Place(f"{where}{name}()", 2), member)
            elif not (name.startswith("__") or hasattr(type(member), "__get__") or name == "_abc_impl"):
                self._add(_Place(f"{where or cls.__name__ + '.'}{name}", 2), member)

    def _describe_function(self, place: _Place, value: Any, function: Any) -> None:
        """Describe a function's code, and the values that it captures, has as defaults and reads as globals."""
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
                self._add_globals(function, place)
        for name, held in parts.items():
            if not (held is None or (isinstance(held, tuple | dict) and not held)):
                self._add(place.below(f".{name}", in_code=True), held)

    def _add_globals(self, function: Any, place: _Place) -> None:
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

    def _describe_versions(self, cls: type) -> None:
        """Describe the versions of the libraries whose code makes the vectors."""
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
    if isinstance(value, FUNCTION_HOLDERS):
        for name in ("__func__", "fget", "func", "__wrapped__"):
            function = getattr(value, name, None)
            if isinstance(function, types.FunctionType):
                return function
    return None


def _part_text(part: Any) -> str:
    """Return the text of a model or tokenizer that only code refers to."""
    name = class_name(type(part))
    try:
        return f"{name} {hashed(repr(describe_part(part, name)))}"
    except IdentityError:
        return name


def _parts(value: Any) -> dict[str, Any] | None:
    """Return the values in a container or object, by the end of their paths; None if it is not searched."""
    if isinstance(value, MAPPINGS):
        items = list(value.items())  # copied at once, because another thread may add items
        return {f"[{item_text(key) or type(key).__name__}]": held for key, held in items if _is_neutral(key)}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {f".{name}": held for name, held in zip(value._fields, value, strict=True)}
    if isinstance(value, list | tuple | deque):
        return {f"[{i}]": held for i, held in enumerate(value)}
    if is_module(value):
        return _own_state(value)
    if isinstance(value, CONTAINERS) or top_package(type(value).__module__) in CLOSED:
        return None
    return {f".{name}": held for name, held in attributes_of(value).items()}


def _own_state(module: Any) -> dict[str, Any]:
    """Return the attributes of torch modules with code of their own, whose lists and counters the identity skips."""
    return {
        f".{path}.{name}" if path else f".{name}": held
        for path, part in walk(module)
        if top_package(type(part).__module__) not in CLOSED
        for name, held in vars(part).items()
        if not is_of_torch(name)
    }


def _is_neutral(key: Any) -> bool:
    return not isinstance(key, str) or (level_of_name(key) is Level.NEUTRAL and redact(key) == key)


def _last_name(path: str) -> str:
    return re.split(r"[.\[]", path)[-1].strip("]'\"")
