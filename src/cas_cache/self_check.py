"""The self-check: some rows that others have encoded are encoded anew, and compared, before the first are served.

Wrong weights under the right name are what no key can see. Vectors are reproducible to tolerance, not to the bit
(padding, batches, devices), so directions are compared. How far two may differ depends on how coarse their numbers are:
a cosine of 0.9999 is a difference of 1.4 % in length, 0.999 of 4.5 %, 0.99 of 14 %.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.errors import SelfCheckFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cas_cache.identity import EncoderSpec

LEAST_COSINE = {"float64": 0.9999, "float32": 0.9999, "float16": 0.999, "bfloat16": 0.99}
"""By the dtype of the vectors, or of the weights where those are coarser and the spec says so."""

LEAST_OF_INTEGERS = 0.9
"""Quantized vectors: the cosine, or the share of equal bits, whichever is greater."""


def sample(extents: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return which rows to compare: at random, and of as many extents as possible.

    Args:
        extents: (n,) int64, the extent that each row is in.
        count: How many to choose at most.

    Returns:
        Ascending positions in `extents`.
    """
    shuffled = np.random.default_rng().permutation(len(extents))
    by_extent = shuffled[np.argsort(extents[shuffled], kind="stable")]
    starts = np.flatnonzero(np.r_[True, np.diff(extents[by_extent]) != 0])
    turn = np.arange(len(by_extent)) - np.repeat(starts, np.diff(np.r_[starts, len(by_extent)]))
    return np.sort(by_extent[np.argsort(turn, kind="stable")[:count]])


def similarities(stored: NDArray[Any], fresh: NDArray[Any]) -> NDArray[np.float64]:
    """Return how alike corresponding vectors are, 1 for the same direction.

    Args:
        stored: (n, *shape).
        fresh: (n, *shape), of the same dtype.

    Returns:
        (n,) float64: the cosine, 1 if both are zero, 0 if one is; of integers and bools the share of equal bits if that
        is greater.
    """
    count = len(stored)
    a, b = (vectors.reshape(count, -1).astype(np.float64) for vectors in (stored, fresh))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines: NDArray[np.float64] = (a * b).sum(axis=1) / np.where(lengths > 0, lengths, 1)
    cosines[(a == b).all(axis=1)] = 1.0
    if stored.dtype.kind == "f":
        return cosines
    bits = [np.ascontiguousarray(vectors).reshape(count, -1).view(np.uint8) for vectors in (stored, fresh)]
    different = np.unpackbits(bits[0] ^ bits[1], axis=1).sum(axis=1, dtype=np.int64)
    whole = bits[0].shape[1] * (1 if stored.dtype == np.bool_ else 8)
    alike: NDArray[np.float64] = np.maximum(cosines, 1 - different / whole)
    return alike


def compare(
    spec: EncoderSpec,
    stored: NDArray[Any],
    fresh: NDArray[Any],
    rows: NDArray[np.int64],
    packs: Sequence[str | None],
) -> None:
    """Compare stored vectors with those that the encoder gives now.

    Args:
        spec: Whose vectors they should be.
        stored: (n, *shape).
        fresh: What the encoder gives for the same items.
        rows: (n,) int64, the mirror's rows of `stored`.
        packs: Where each came from.

    Raises:
        SelfCheckFailed: If dtype or shape differ, or a vector is too far from its stored one.
    """
    if (fresh.dtype, fresh.shape) != (stored.dtype, stored.shape):
        raise SelfCheckFailed(
            f"The cache holds {stored.dtype} vectors of shape {stored.shape[1:]} for {_named(spec)}, and the encoder "
            f"makes {fresh.dtype} vectors of shape {fresh.shape[1:]}. {_WAY_OUT}",
            spec=spec,
            rows=tuple(rows.tolist()),
            packs=tuple(sorted({pack for pack in packs if pack})),
            similarity=0.0,
        )
    found = similarities(stored, fresh)
    wrong = np.flatnonzero(~(found >= _least(spec, stored.dtype)))
    if len(wrong):
        first = int(wrong[0])
        raise SelfCheckFailed(
            f"{len(wrong)} of {len(rows)} vectors that were compared are not what the encoder makes for "
            f"{_named(spec)}: row {rows[first]}, from pack {packs[first]}, has a similarity of "
            f"{found[first]:.4f} where at least {_least(spec, stored.dtype)} is expected. {_WAY_OUT}",
            spec=spec,
            rows=tuple(rows[wrong].tolist()),
            packs=tuple(sorted({pack for at in wrong.tolist() if (pack := packs[at])})),
            similarity=float(found[wrong].min()),
        )


def _least(spec: EncoderSpec, dtype: np.dtype[Any]) -> float:
    if dtype.kind != "f":
        return LEAST_OF_INTEGERS
    of_weights = str(spec.params.get("dtype") or dtype.name)
    return min(LEAST_COSINE.get(name, LEAST_COSINE["float32"]) for name in (dtype.name, of_weights))


def _named(spec: EncoderSpec) -> str:
    prompt = f", prompt {spec.prompt!r}" if spec.prompt else ""
    role = f", role {spec.role}" if spec.role else ""
    return f"{spec.model} at {spec.revision}{prompt}{role} (namespace {spec.namespace})"


_WAY_OUT = (
    "Nothing was served. Either these weights are not those that the name and revision stand for, or whoever pushed "
    "that pack used others: give yours a name of their own (model_id=, revision=), or `cas-cache drop` the namespace. "
    "self_check=0 turns the comparison off."
)
