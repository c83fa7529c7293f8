"""What a `SentenceTransformer` does with what its modules computed: truncate, normalise, quantize.

Read in sentence-transformers 6.2, and private to it in part; all else of that kind is in `compat`.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

ENCODE_STEPS = frozenset({"encode", "encode_query", "encode_document", "forward", "_inference"})
"""Methods of a `SentenceTransformer` that its `encode` goes through; one that was put on the object may do anything."""

NORMALISED_AT_ONCE = 1 << 14
"""Rows; with 1,024 dimensions 64 MB, and as much again for what torch makes of them."""


def truncates_last(model: Any) -> bool:
    """Whether a model is a plain `SentenceTransformer`, which truncates and normalises what its modules computed.

    Modules of others (``trust_remote_code``) may truncate by themselves, and some take the size as an argument.
    """
    from sentence_transformers import SentenceTransformer

    if type(model) is not SentenceTransformer or not ENCODE_STEPS.isdisjoint(vars(model)):
        return False
    if "truncate_dim" not in inspect.signature(SentenceTransformer.encode).parameters:
        return False  # before sentence-transformers 5
    if not {"truncate_dim", "normalize_embeddings"}.isdisjoint(model.get_model_kwargs()):
        return False
    return all(type(module).__module__.partition(".")[0] == "sentence_transformers" for module in _steps(model))


def _steps(modules: Any) -> Iterator[Any]:
    """The modules that a `SentenceTransformer` runs one after another, those behind a router included."""
    for module in modules.children():
        yield module
        for route in getattr(module, "sub_modules", {}).values():
            yield from _steps(route)


def computes_in_float32(model: Any) -> bool:
    """Whether a `SentenceTransformer` answers, and so normalises, in float32, for all that can be seen."""
    import torch

    dtypes = {parameter.dtype for parameter in model.parameters()}
    mixed = torch.is_autocast_enabled(model.device.type)
    return getattr(model, "backend", "torch") == "torch" and dtypes == {torch.float32} and not mixed


def normalized(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return vectors divided by their lengths, as sentence-transformers does it: (n, d) float32, zeros stay zero."""
    import torch

    answer = np.empty(vectors.shape, np.float32)
    for first in range(0, len(vectors), NORMALISED_AT_ONCE):
        rows = slice(first, first + NORMALISED_AT_ONCE)
        answer[rows] = torch.nn.functional.normalize(torch.from_numpy(vectors[rows]), p=2, dim=1).numpy()
    return answer


def quantized(vectors: NDArray[Any], precision: str, ranges: NDArray[np.float32] | None = None) -> NDArray[Any]:
    """Return a call's float vectors in int8, uint8, binary or ubinary, as sentence-transformers does it.

    Args:
        vectors: (n, d).
        precision: The precision.
        ranges: (2, d), for int8 and uint8; None takes them from the vectors.
    """
    from sentence_transformers.util import quantize_embeddings

    answer: NDArray[Any] = quantize_embeddings(vectors, precision=precision, ranges=ranges)
    return answer
