"""Descriptions of code: functions by source, closure and defaults; classes outside of the libraries by their methods.

A library's own function is known by its name. All other code is described by its source, or by its bytecode if the
source does not compile to it (a file that was edited since, an interactive session).
"""

from __future__ import annotations

import dis
import functools
import hashlib
import linecache
import types
from typing import Any

from cas_cache.errors import IdentityError
from cas_cache.models.names import class_name, is_installed, is_library, module_name, top_package
from cas_cache.models.values import (
    VOLATILE,
    Other,
    attributes_of,
    cannot_describe,
    hashed,
    named_by_user,
    plain_value,
)

MAX_DEPTH = 64
"""Maximum levels of functions that refer to other functions."""

IGNORED_MEMBERS = frozenset(
    {"__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__abstractmethods__",
     "__parameters__", "__orig_bases__", "__firstlineno__", "__static_attributes__", "__annotate__", "_abc_impl",
     "__classcell__", "__slots__", "__type_params__", "__annotations_cache__", "__annotate_func__"}
)  # fmt: skip
"""Members of a class that are not part of its computation."""

OPAQUE = frozenset({"logging", "typing", "types", "threading", "_thread"})
"""Modules of Python whose objects are not part of a computation."""

CodeOfFile = dict[tuple[str, int], types.CodeType]


class CodeReader:
    """Describes functions and classes; each is described once, and later by reference.

    Args:
        reference: Describes a value that is not plain, for example a module of the model that is being described.
    """

    def __init__(self, reference: Other | None = None) -> None:
        self._reference = reference
        self._seen: dict[int, str] = {}
        self._depth = 0

    def callable(self, value: Any, where: str) -> Any:  # noqa: PLR0911 - one line per type
        """Return plain JSON for a function, method, partial, or an object with `__call__`.

        Raises:
            IdentityError: If it refers to something that cannot be described.
        """
        if (stated := named_by_user(value)) is not None:
            return stated
        if isinstance(value, functools.partial):
            return {
                "partial": self.callable(value.func, where),
                "arguments": [self.value(argument, where) for argument in value.args],
                "keywords": self.value(value.keywords, where),
            }
        if isinstance(value, types.MethodType):
            return {"method": self.callable(value.__func__, where), "of": self.value(value.__self__, where)}
        if isinstance(value, types.BuiltinFunctionType | types.MethodDescriptorType | types.WrapperDescriptorType):
            return {"builtin": f"{top_package(getattr(value, '__module__', None))}:{value.__qualname__}"}
        if isinstance(value, types.FunctionType):
            return self._function(value, where)
        if isinstance(value, type):
            return self.own_class(value, where)
        return self.instance(value, where)

    def value(self, value: Any, where: str) -> Any:
        """Return plain JSON for a value that code refers to."""
        return plain_value(value, where, self._other)

    def value_or_class(self, value: Any, where: str) -> Any:
        """Return plain JSON for a value, or the name of its class if it hides its state, as locks and kernels do."""
        try:
            return self.value(value, where)
        except IdentityError:
            return {"class": class_name(type(value))}

    def instance(self, value: Any, where: str) -> Any:
        """Return plain JSON for an object: its class, and its attributes except counters and the like (`VOLATILE`).

        Raises:
            IdentityError: If it has no attributes in Python, or they are nested too deeply.
        """
        if (stated := named_by_user(value)) is not None:
            return stated
        attributes = attributes_of(value)
        if _hides_its_state(value, attributes) or self._depth >= MAX_DEPTH:
            raise cannot_describe(value, where)
        return self._once(
            value,
            lambda: {
                "class": self.own_class(type(value), where),
                "attributes": {name: self.value(held, f"{where}.{name}") for name, held in _lasting(attributes)},
            },
        )

    def own_class(self, cls: type, where: str) -> Any:
        """Return a class's stable name, and the members of its classes that belong to no library."""
        own = [ancestor for ancestor in cls.__mro__ if not is_library(ancestor)]
        if not own:
            return class_name(cls)
        code = [self._once(part, lambda part=part: self._members(part, where)) for part in own]
        base = next((class_name(part) for part in cls.__mro__ if is_library(part)), "")
        return {"name": class_name(cls), "base": base, "code": hashed(repr(code))}

    def _members(self, cls: type, where: str) -> Any:
        described = {}
        for name, member in sorted(vars(cls).items()):
            if name in IGNORED_MEMBERS:
                continue
            place = f"{where} ({cls.__qualname__}.{name})"
            plain = getattr(member, "__func__", getattr(member, "fget", member))
            if callable(plain) and not isinstance(plain, types.GenericAlias):
                described[name] = self.callable(plain, place)
            elif not _is_descriptor(member):
                described[name] = self.value(member, place)
        return [class_name(cls), described]

    def _function(self, function: types.FunctionType, where: str) -> Any:
        name = f"{top_package(function.__globals__.get('__name__'))}:{function.__qualname__}"
        held = captured(function)
        if is_library(function):
            if not held:
                return {"library": name}
            # A decorator of a library: the function that it wraps counts, which may belong to the user.
            return {"library": name, "closure": self._captured(held, where)}
        if self._depth >= MAX_DEPTH:
            raise cannot_describe(function, where)
        return self._once(
            function,
            lambda: {
                "function": function.__qualname__,
                "code": code_hash(function.__code__),
                "closure": self._captured(held, where),
                "defaults": self.value([function.__defaults__ or (), function.__kwdefaults__ or {}], where),
                "globals": self._globals(_globals(function), where),
            },
        )

    def _captured(self, names: dict[str, Any], where: str) -> dict[str, Any]:
        return {name: self.value(held, f"{where}, {name}") for name, held in _lasting(names)}

    def _globals(self, names: dict[str, Any], where: str) -> dict[str, Any]:
        return {name: self.value_or_class(held, f"{where}, {name}") for name, held in _lasting(names)}

    def _other(self, value: Any, where: str) -> Any:
        if self._reference is not None and (described := self._reference(value, where)) is not None:
            return described
        if isinstance(value, types.ModuleType):
            return {"module": module_name(value.__name__)}
        if callable(value) or isinstance(value, functools.partial):
            return self.callable(value, where)
        if isinstance(value, types.CellType):
            return self.value(value.cell_contents, where)
        return self.instance(value, where)

    def _once(self, thing: Any, describe: Any) -> Any:
        if id(thing) in self._seen:
            return {"again": self._seen[id(thing)]}
        self._seen[id(thing)] = f"{len(self._seen)}"
        self._depth += 1
        try:
            return describe()
        finally:
            self._depth -= 1


def code_hash(code: types.CodeType) -> str:
    """Return a hash of a function's source, or of its bytecode if the source compiles to something else."""
    linecache.checkcache(code.co_filename)
    text = "".join(linecache.getlines(code.co_filename))
    compiled = _compiled(code.co_filename, text).get((code.co_qualname, code.co_firstlineno))
    if compiled is None or compiled != code:
        return bytecode_hash(code)
    return hashed("\n".join(text.splitlines()[code.co_firstlineno - 1 : _last_line(code)]))


def _last_line(code: types.CodeType) -> int:
    inner = [_last_line(part) for part in code.co_consts if isinstance(part, types.CodeType)]
    ends = [end for _, end, _, _ in code.co_positions() if end is not None]
    return max([code.co_firstlineno, *ends, *inner])


@functools.lru_cache(maxsize=64)
def _compiled(filename: str, text: str) -> CodeOfFile:
    """Return the code objects of a source file by qualified name and line; nothing if it does not compile."""
    try:
        return _nested(compile(text, filename, "exec", dont_inherit=True))
    except (SyntaxError, ValueError):
        return {}


def _nested(code: types.CodeType) -> CodeOfFile:
    nested = {(code.co_qualname, code.co_firstlineno): code}
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            nested.update(_nested(part))
    return nested


@functools.lru_cache(maxsize=4096)
def bytecode_hash(code: types.CodeType) -> str:
    """Return a hash of what code does, wherever it was written: equal in every process of one release of Python."""
    return hashed(repr(_bytecode(code)))


def _bytecode(code: types.CodeType) -> tuple[Any, ...]:
    constants = tuple(
        _bytecode(part) if isinstance(part, types.CodeType) else _stable_repr(part) for part in code.co_consts
    )
    return hashlib.sha256(code.co_code).hexdigest(), constants, code.co_names, code.co_varnames, code.co_freevars


def _stable_repr(constant: Any) -> str:
    return repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant)


def names_used(code: types.CodeType) -> set[str]:
    """Return the names of globals and attributes in code, and in that of functions inside of it."""
    inner = (names_used(part) for part in code.co_consts if isinstance(part, types.CodeType))
    return set(code.co_names).union(*inner)


def captured(function: types.FunctionType) -> dict[str, Any]:
    """Return the variables of surrounding functions that a function reads, by name, without its counters."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    held = {name: _content(cell) for name, cell in cells if name != "__class__"}
    return without_counters({name: value for name, value in held.items() if value is not None}, function.__code__)


def without_counters(variables: dict[str, Any], code: types.CodeType) -> dict[str, Any]:
    """Return variables without the numbers that the code itself assigns, such as the time of its last request."""
    return {
        name: value
        for name, value in variables.items()
        if not (isinstance(value, int | float) and name in assigned(code))
    }


@functools.lru_cache(maxsize=4096)
def assigned(code: types.CodeType) -> frozenset[str]:
    """Return the names of the globals and of the variables of surrounding functions that code assigns."""
    stored = {
        step.argval
        for part in _nested(code).values()
        for step in dis.get_instructions(part)
        if step.opname == "STORE_GLOBAL" or (step.opname == "STORE_DEREF" and step.argval in code.co_freevars)
    }
    return frozenset(stored)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that is not assigned yet
        return None


def _globals(function: types.FunctionType) -> dict[str, Any]:
    """Return the globals that a function and its inner functions read, except modules and definitions of libraries."""
    names = names_used(function.__code__) & function.__globals__.keys()
    home = top_package(function.__globals__.get("__name__"))
    described = {name: function.__globals__[name] for name in names if not _is_known(function.__globals__[name], home)}
    return without_counters(described, function.__code__)


def _is_known(held: Any, home: str) -> bool:
    """Return True for modules, and for definitions of libraries and of other installed packages."""
    if isinstance(held, types.ModuleType) or type(held).__module__ in OPAQUE:
        return True
    if isinstance(held, type | types.FunctionType | types.BuiltinFunctionType):
        return is_library(held) or (top_package(held.__module__) != home and is_installed(held.__module__))
    return top_package(type(held).__module__) == "transformers"


def _hides_its_state(value: Any, attributes: dict[str, Any]) -> bool:
    """Return True for an object of an extension type. A plain `object()` has no state."""
    return not attributes and not hasattr(value, "__dict__") and type(value) is not object


def _is_descriptor(member: Any) -> bool:
    return isinstance(member, types.MemberDescriptorType | types.GetSetDescriptorType) or hasattr(
        type(member), "__set_name__"
    )


def _lasting(names: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return the names and values that do not change while a model computes, in order."""
    return [(name, names[name]) for name in sorted(names) if not VOLATILE.search(name)]
