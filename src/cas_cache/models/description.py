"""`describe`: what an encoder computes, as a plain JSON document and a digest.

A description of an unchanged checkpoint is equal on every machine, in every process and under other releases of the
libraries. It differs whenever a part differs that can change vectors. It contains a hash over a sample of the weights;
`weights_fingerprint` reads all of them.
"""

from __future__ import annotations

import hashlib
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cas_cache.models import sentence_transformers as st
from cas_cache.models.modules import ModuleReader
from cas_cache.models.names import class_name, foreign_functions
from cas_cache.models.parts import global_hooks, is_module, offloaded, unwrapped
from cas_cache.models.tensors import is_simple, sample_step, sample_view, tensor_parts, update
from cas_cache.models.values import canonical, hashed

if TYPE_CHECKING:
    from collections.abc import Mapping

SAMPLE_HEX = 16

MAX_PARTS = 8
"""Maximum modules that are listed by name; for a model with more, only its own name is listed."""

Tensors = list[tuple[str, Any, Any]]
"""Of each tensor: its path, the tensor, and the module that holds it."""


@dataclass(frozen=True, slots=True)
class Description:
    """A description of what a model computes.

    Attributes:
        document: The whole description as plain JSON; long values are replaced by their hash.
        digest: 32 hex digits of a hash over the document.
        weights: 16 hex digits of a hash over a sample of all tensors; "" for a model without tensors.
        parts: The names of the model's modules in their order, to show to people.
    """

    document: Mapping[str, Any]
    digest: str
    weights: str
    parts: tuple[str, ...]

    def identity(self) -> dict[str, Any]:
        """Return the part that belongs in an encoder spec, as short plain JSON."""
        return {"parts": list(self.parts), "computes": self.digest, "weights": self.weights}


def describe(model: Any) -> Description:
    """Return a description of what a torch module computes, including a `SentenceTransformer`.

    Args:
        model: A torch module.

    Raises:
        IdentityError: If something that can change vectors cannot be described, or weights cannot be read.
        TypeError: If it is not a torch module.
    """
    document, tensors = read(model)
    return Description(document, hashed(canonical(document)), _sample(model, tensors), _parts_of(model))


def read(model: Any) -> tuple[dict[str, Any], Tensors]:
    """Return the document of a torch module, and its tensors.

    Raises:
        IdentityError: If something that can change vectors cannot be described.
        TypeError: If it is not a torch module.
    """
    if not is_module(model):
        raise TypeError(f"{class_name(type(model))} is not a torch module. Pass the module that holds the weights.")
    reader = ModuleReader()
    document = {"model": reader.describe(model, "model"), **global_hooks(reader.code)}
    for name, function in foreign_functions("torch.nn.functional").items():
        document[f"patched torch.nn.functional.{name}"] = reader.code.callable(function, f"torch.nn.functional.{name}")
    return document, reader.tensors


def in_memory(tensor: Any, path: str, module: Any) -> Any:
    """Return a tensor, or for a placeholder the values that accelerate stores elsewhere."""
    if not tensor.is_meta:
        return tensor
    values = offloaded(module, path.rpartition(".")[2])
    return tensor if values is None else values


def _parts_of(model: Any) -> tuple[str, ...]:
    inner = [unwrapped(child) for child in model.children()]
    if not inner or len(inner) > MAX_PARTS or not st.is_model(model):
        return (type(unwrapped(model)).__name__,)
    return tuple(_part(child) for child in inner)


def _part(module: Any) -> str:
    held = list(dict.fromkeys(unwrapped(child) for child in module.children()))  # a child with two names counts once
    if len(held) == 1 and hasattr(held[0], "config"):
        return f"{type(module).__name__}({type(held[0]).__name__})"
    return type(module).__name__


class _Sample:
    """Views of some values of every tensor, to hash the sample again.

    NumPy views see every later change of the values, so a second hash takes microseconds. Tensors that were moved,
    replaced, resized or transposed have another layout.
    """

    def __init__(self, tensors: Tensors) -> None:
        self._places = [_place(*entry) for entry in tensors]
        self._layouts = [None if view is None else _layout(entry[1]) for _, view, entry in self._places]

    def covers(self, tensors: Tensors) -> bool:
        """Return True if these are the tensors of the sample, as they were laid out in memory."""
        return len(tensors) == len(self._places) and all(
            tensor is entry[1]
            and path == entry[0]
            and module is entry[2]
            and (view is None or _layout(tensor) == layout)
            for (path, tensor, module), (_, view, entry), layout in zip(
                tensors, self._places, self._layouts, strict=True
            )
        )

    def digest(self) -> str:
        digest = hashlib.sha256()
        for head, view, entry in self._places:
            digest.update(head)
            if view is not None:
                digest.update(view.tobytes())
                continue
            path, tensor, module = entry
            for part in tensor_parts(in_memory(tensor, path, module), path):
                update(digest, part, path, step=1 if isinstance(part, str) else sample_step(part))
        return digest.hexdigest()[:SAMPLE_HEX]


def _layout(tensor: Any) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def _place(path: str, tensor: Any, module: Any) -> tuple[bytes, Any, tuple[str, Any, Any]]:
    """Return the bytes to hash before a tensor's values, a view of these or None, and the tensor to read without one.

    Both ways hash the same bytes, because weights do not change when they are offloaded.
    """
    view = sample_view(tensor.detach()) if is_simple(tensor) else None
    shape = "" if view is None else f"{str(tensor.dtype).removeprefix('torch.')}\0{tuple(tensor.shape)}\0"
    return f"{path}\0{shape}".encode(), view, (path, tensor, module)


_samples: weakref.WeakKeyDictionary[Any, _Sample] = weakref.WeakKeyDictionary()


def _sample(model: Any, tensors: Tensors) -> str:
    """Return a hash over name, dtype, shape and some values of every tensor."""
    if not tensors:
        return ""
    known = _samples.get(model)
    if known is None or not known.covers(tensors):
        known = _samples[model] = _Sample(tensors)
    return known.digest()
