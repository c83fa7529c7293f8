"""Encoding what is missing: chunk by chunk, so that what was paid for is committed before more is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.errors import ShapeMismatch
from cas_cache.mirror.index import ABSENT
from cas_cache.mirror.pace import Pace
from cas_cache.rows import as_array, storable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from cas_cache.mirror import Namespace

CHUNK_ITEMS = 8192
"""Items encoded between two commits, to begin with: what a crash costs at most."""

MOST_CHUNK_BYTES = 64 << 20
"""Chunks do not grow beyond this."""

QUICK_SECONDS = 0.5
"""An encoder that takes less than this for a chunk is given twice as many next; a crash costs it a second at most."""


def in_chunks(
    positions: NDArray[np.int64],
    encode: Callable[[NDArray[np.int64]], Any],
    chunk_items: int | None,
    note: Callable[[Pace], object],
) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    """Encode items and yield (their positions, their vectors), a chunk at a time.

    A chunk is encoded when the one before it was dealt with; the time that this takes counts as the chunk's.

    Args:
        positions: (n,) int64, of what is to be encoded.
        encode: Given some of the positions, returns one vector for each.
        chunk_items: The most items of a chunk. None begins with `CHUNK_ITEMS` and doubles them while that is quick.
        note: Is told how many items the encoder took, and how long for it, before they are looked at.

    Raises:
        WrongAnswer: If the encoder does not return one vector for each item.
        ShapeMismatch: If chunks differ in dtype or row shape.
    """
    kind: tuple[Any, ...] | None = None
    start, size = 0, chunk_items or CHUNK_ITEMS
    while start < len(positions):
        began, chunk = time.monotonic(), positions[start : start + size]
        start += size
        answer = as_array(encode(chunk))
        measured = Pace(len(chunk), time.monotonic() - began)
        vectors = storable(answer, len(chunk))
        note(measured)
        kind = kind or (vectors.dtype, vectors.shape[1:])
        if kind != (vectors.dtype, vectors.shape[1:]):
            raise ShapeMismatch(
                f"The encoder answered with {kind[0]} vectors of shape {kind[1]} first and with {vectors.dtype} of "
                f"shape {vectors.shape[1:]} later in one call. The later ones were not stored."
            )
        yield chunk, vectors
        quick = time.monotonic() - began < QUICK_SECONDS
        if quick and chunk_items is None and 2 * vectors.nbytes <= MOST_CHUNK_BYTES:
            size *= 2


def gathered(
    ns: Namespace, rows: NDArray[np.int64], encoded_at: Mapping[int, int], kept_out: Mapping[int, NDArray[Any]]
) -> NDArray[Any]:
    """Return the rows' vectors, and those that were not stored in their places.

    Args:
        ns: Where the rows are.
        rows: (n,) int64.
        encoded_at: For each position that was missing, the one whose item was encoded for it.
        kept_out: Vectors that were not stored, by the position that they were encoded for.
    """
    some = next(iter(kept_out.values()))
    vectors = np.empty((len(rows), *some.shape), some.dtype)
    stored = rows != ABSENT
    if stored.any():
        vectors[stored] = ns.take(rows[stored])
    for at in np.flatnonzero(~stored).tolist():
        vectors[at] = kept_out[encoded_at[at]]
    return vectors
