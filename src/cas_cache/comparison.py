"""Maximum distance between two encoders' vectors of the same items, and descriptions of other differences. Pure.

Vectors are reproducible to a tolerance, not to the bit: padding, batches and devices round differently. The distance of
two vectors a and b is |a - b| / max(|a|, |b|). It limits direction and length alike, because normalising a vector keeps
its direction but changes every dot product.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cas_cache.identity import EncoderSpec

MAX_DISTANCE = {"float64": 0.014, "float32": 0.014, "float16": 0.045, "bfloat16": 0.14}
"""Maximum distance by the dtype of the vectors, or of the weights if those are coarser and the spec names them. At
equal lengths, these are cosines of 0.9999, 0.999 and 0.99."""

MAX_INTEGER_DISTANCE = 0.1
"""Maximum distance of quantized vectors: 1 minus the cosine, or the relative difference of the lengths; for packed
bits, the share of different bits."""


def distances(stored: NDArray[Any], fresh: NDArray[Any]) -> NDArray[np.float64]:
    """Return the distances of corresponding vectors, 0 for equal ones.

    Args:
        stored: (n, *shape) vectors.
        fresh: (n, *shape) vectors of the same dtype.

    Returns:
        (n,) float64: the relative distance, 1 if one of the two is zero, NaN if one has NaN. For integers and bools: 1
        minus the cosine or the relative difference of the lengths, whichever is larger; or the share of different bits,
        if that is smaller.
    """
    count = len(stored)
    a, b = (vectors.reshape(count, -1).astype(np.float64) for vectors in (stored, fresh))
    lengths = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    longer = np.maximum(*lengths)
    longer = np.where(longer == 0, 1, longer)
    if stored.dtype.kind == "f":
        relative: NDArray[np.float64] = np.linalg.norm(a - b, axis=1) / longer
        return relative
    product = lengths[0] * lengths[1]
    cosines = (a * b).sum(axis=1) / np.where(product > 0, product, 1)
    cosines[(a == b).all(axis=1)] = 1.0
    bits = [np.ascontiguousarray(vectors).reshape(count, -1).view(np.uint8) for vectors in (stored, fresh)]
    different = np.unpackbits(bits[0] ^ bits[1], axis=1).sum(axis=1, dtype=np.int64)
    whole = bits[0].shape[1] * (1 if stored.dtype == np.bool_ else 8)
    least: NDArray[np.float64] = np.minimum(
        np.maximum(1 - cosines, np.abs(lengths[0] - lengths[1]) / longer), different / whole
    )
    return least


def max_distance(spec: EncoderSpec, dtype: np.dtype[Any]) -> float:
    """Return the maximum distance for vectors of a dtype; the spec may name coarser weights."""
    if dtype.kind != "f":
        return MAX_INTEGER_DISTANCE
    of_weights = str(spec.params.get("dtype") or dtype.name)
    return max(MAX_DISTANCE.get(name, MAX_DISTANCE["float32"]) for name in (dtype.name, of_weights))


def difference_of_kind(stored: NDArray[Any], fresh: NDArray[Any]) -> str | None:
    """Return a description of a difference in dtype or shape, with advice; None if they are the same.

    Args:
        stored: (n, *shape) vectors of the cache.
        fresh: (n, *shape) vectors that the encoder returned for the same items.
    """
    if stored.shape != fresh.shape:
        return (
            f"The cache holds vectors of shape {stored.shape[1:]} and the encoder returns vectors of shape "
            f"{fresh.shape[1:]}. Another output dimension is another encoder: name it in the spec, in params=."
        )
    if stored.dtype == fresh.dtype:
        return None
    types = f"The cache holds {stored.dtype} vectors and the encoder returns {fresh.dtype} vectors."
    if not _same_numbers(stored, fresh):
        return (
            f"{types} The numbers differ, too. Another precision is another encoder: name it in the spec, in params=."
        )
    return (
        f"{types} The numbers are the same: only their type differs, not the weights. Numbers that come as Python "
        f"lists (JSON) become float32 unless dtype= says otherwise. Pass dtype={str(stored.dtype)!r} for lists, or "
        f"convert what the encoder returns to {stored.dtype}."
    )


def _same_numbers(stored: NDArray[Any], fresh: NDArray[Any]) -> bool:
    apart = distances(stored.astype(np.float64), fresh.astype(np.float64))
    coarser = max(MAX_DISTANCE.get(vectors.dtype.name, 0.0) for vectors in (stored, fresh))
    return bool((apart <= coarser).all())
