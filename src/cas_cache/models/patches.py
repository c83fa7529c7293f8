"""Find what other code has put in place of a library's methods and functions."""

from __future__ import annotations

import sys
import types
from typing import Any

from cas_cache.models.functions import is_installed
from cas_cache.models.names import is_library

_found: dict[Any, tuple[tuple[int, ...], dict[str, Any]]] = {}


def foreign_methods(cls: type) -> dict[str, Any]:
    """Return methods of a library's class that no library defined; cached until the class changes."""
    if not is_library(cls):
        return {}
    return _changed(cls, vars(cls), lambda member: not is_library(member))


def foreign_functions(module: str) -> dict[str, Any]:
    """Return functions of a library's module that no library and no installed package defined.

    A module of a library may import functions of other packages, so those do not count.
    """
    members = vars(sys.modules[module]) if module in sys.modules else {}
    return _changed(module, members, lambda member: not (is_library(member) or is_installed(_home(member))))


def _home(function: types.FunctionType) -> str | None:
    return function.__globals__.get("__name__")


def _changed(owner: Any, members: Any, is_foreign: Any) -> dict[str, Any]:
    seen = tuple(map(id, members.values()))
    known = _found.get(owner)
    if known is None or known[0] != seen:
        found = {n: m for n, m in members.items() if isinstance(m, types.FunctionType) and is_foreign(m)}
        known = _found[owner] = (seen, found)
    return known[1]
