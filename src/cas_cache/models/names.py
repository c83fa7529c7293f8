"""Names of classes and functions that are the same on every machine and under every release of a library.

A library moves its classes between modules from one release to the next, so a class of a library is named by its
package and its qualified name. Code that belongs to no known library is named by module and qualified name.
"""

from __future__ import annotations

import functools
import sys
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
"""Packages whose code a version and the results of the self-check answer for. All other code is described."""

STANDARD = frozenset(sys.stdlib_module_names) - {"__main__"}

REMOTE_CODE = "transformers_modules"
"""The package under which transformers imports the code of a repository, below a name with paths and commits."""


def top_package(module: str | None) -> str:
    """Return the first part of a module's name, "" for None."""
    return (module or "").partition(".")[0]


def is_library(thing: Any) -> bool:
    """Return True if a class or function belongs to a known library or to Python itself.

    A function counts by the module in which its code was defined: decorators copy the name of another one.
    """
    names = getattr(thing, "__globals__", None)
    module = names.get("__name__") if isinstance(names, dict) else getattr(thing, "__module__", None)
    return _is_library_module(module)


@functools.cache
def _is_library_module(module: str | None) -> bool:
    top = top_package(module)
    return top in LIBRARIES or top in STANDARD


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
