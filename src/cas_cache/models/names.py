"""Whose code a class or function is, and a name for it that is the same on every machine and under every release.

A library moves its classes between modules from one release to the next, so a class of a library is named by its
package and its qualified name. Code that belongs to no known library is named by module and qualified name. Code that
replaces a library's methods and functions at run time is foreign.
"""

from __future__ import annotations

import functools
import re
import sys
import types
from operator import is_ as is_same
from pathlib import Path
from typing import Any

LIBRARIES = frozenset(
    {
        "accelerate", "bitsandbytes", "diffusers", "flash_attn", "huggingface_hub", "mteb", "numpy", "onnx",
        "onnxruntime", "open_clip", "openvino", "optimum", "peft", "PIL", "quanto", "safetensors", "scipy",
        "sentence_transformers", "sentencepiece", "timm", "tokenizers", "torch", "torchao", "torchaudio",
        "torchvision", "transformers", "typing_extensions",
    }
)  # fmt: skip
"""Packages whose code is known by its version and checked by the self-check. All other code is described."""

STANDARD = frozenset(sys.stdlib_module_names) - {"__main__"}

REMOTE_CODE = "transformers_modules"
"""The package under which transformers imports the code of a repository, below a name with paths and commits."""

_foreign: dict[Any, tuple[tuple[Any, ...], dict[str, Any]]] = {}
"""By class or module: its members, and those that are foreign. A member that is held here is not replaced unseen."""


def top_package(module: str | None) -> str:
    """Return the first part of a module's name, "" for None."""
    return (module or "").partition(".")[0]


def is_library(thing: Any) -> bool:
    """Return True if a class or function belongs to a known library or to Python itself.

    A function counts by the module in which its code was defined, because decorators copy the name of another one.
    """
    names = getattr(thing, "__globals__", None)
    module = names.get("__name__") if isinstance(names, dict) else getattr(thing, "__module__", None)
    return _is_library_module(module)


@functools.cache
def _is_library_module(module: str | None) -> bool:
    top = top_package(module)
    return top in LIBRARIES or top in STANDARD


def is_installed(module: str | None) -> bool:
    """Return True for a module of an installed package."""
    file = getattr(sys.modules.get(module or ""), "__file__", None) or ""
    return "site-packages" in file or "dist-packages" in file


def class_name(cls: type) -> str:
    """Return a stable name of a class: ``"torch:Linear"`` in a library, ``"module:Name"`` elsewhere."""
    if is_library(cls):
        return f"{top_package(cls.__module__)}:{cls.__qualname__}"
    return f"{module_name(cls.__module__)}:{cls.__qualname__}"


def module_name(module: str | None) -> str:
    """Return the name of a module as another process that imports it would see it.

    ``__main__`` is named by ``python -m`` or by its file. The code of a model's repository is named by its file alone,
    because the package above it holds a path or a commit.
    """
    name = module or ""
    if name == "__main__":
        main = sys.modules["__main__"]
        spec = getattr(main, "__spec__", None)
        if spec is not None:
            return str(spec.name.removesuffix(".__main__"))
        file = getattr(main, "__file__", None)
        return Path(file).stem if file else name
    if top_package(name) == REMOTE_CODE:
        return f"{REMOTE_CODE}.{name.rpartition('.')[2]}"
    return name


def foreign_methods(cls: type) -> dict[str, Any]:
    """Return methods of a library's class that no library defined; cached until the class changes."""
    if not is_library(cls):
        return {}
    return _foreign_members(cls, vars(cls), lambda member: not is_library(member))


def foreign_functions(module: str) -> dict[str, Any]:
    """Return functions of a library's module that no library and no installed package defined.

    A module of a library may import functions of other packages, so these do not count.
    """

    def is_foreign(function: types.FunctionType) -> bool:
        home = function.__globals__.get("__name__")
        return not (is_library(function) or is_installed(home) or _imports(module, top_package(home)))

    members = vars(sys.modules[module]) if module in sys.modules else {}
    return _foreign_members(module, members, is_foreign)


def _imports(module: str, package: str) -> bool:
    """Return True if a module's source imports from a package, which need not be installed but may be on the path."""
    file = getattr(sys.modules[module], "__file__", None) or ""
    try:
        source = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return re.search(rf"^\s*(from|import)\s+{re.escape(package)}\b", source, re.MULTILINE) is not None


def _foreign_members(owner: Any, members: Any, is_foreign: Any) -> dict[str, Any]:
    current = tuple(members.values())
    known = _foreign.get(owner)
    if known is None or len(known[0]) != len(current) or not all(map(is_same, known[0], current)):
        foreign = {n: m for n, m in members.items() if isinstance(m, types.FunctionType) and is_foreign(m)}
        known = _foreign[owner] = (current, foreign)
    return known[1]
