"""Find what other code has put in place of a library's methods and functions."""

from __future__ import annotations

import re
import sys
import types
from operator import is_ as is_same
from pathlib import Path
from typing import Any

from cas_cache.models.functions import is_installed
from cas_cache.models.names import is_library, top_package

_found: dict[Any, tuple[tuple[Any, ...], dict[str, Any]]] = {}
"""By class or module: its members, and those of them that are foreign. A member that is kept here stays itself."""


def foreign_methods(cls: type) -> dict[str, Any]:
    """Return methods of a library's class that no library defined; cached until the class changes."""
    if not is_library(cls):
        return {}
    return _changed(cls, vars(cls), lambda member: not is_library(member))


def foreign_functions(module: str) -> dict[str, Any]:
    """Return functions of a library's module that no library and no installed package defined.

    A module of a library may import functions of other packages, so those do not count.
    """

    def is_foreign(function: types.FunctionType) -> bool:
        home = function.__globals__.get("__name__")
        return not (is_library(function) or is_installed(home) or _is_imported(module, top_package(home)))

    members = vars(sys.modules[module]) if module in sys.modules else {}
    return _changed(module, members, is_foreign)


def _is_imported(module: str, package: str) -> bool:
    """Return True if a module's source imports from a package: one in a folder on the path is not "installed"."""
    file = getattr(sys.modules[module], "__file__", None) or ""
    try:
        source = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return re.search(rf"^\s*(from|import)\s+{re.escape(package)}\b", source, re.MULTILINE) is not None


def _changed(owner: Any, members: Any, is_foreign: Any) -> dict[str, Any]:
    seen = tuple(members.values())
    known = _found.get(owner)
    if known is None or len(known[0]) != len(seen) or not all(map(is_same, known[0], seen)):
        found = {n: m for n, m in members.items() if isinstance(m, types.FunctionType) and is_foreign(m)}
        known = _found[owner] = (seen, found)
    return known[1]
