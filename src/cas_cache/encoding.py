"""Encode missing items chunk by chunk, and commit each chunk before the next one is encoded.

If the encoder raises or the process is killed, uncommitted vectors are lost. A chunk is therefore small: a few seconds
of the encoder's work, and never a large part of what was committed before.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.errors import ShapeMismatch
from cas_cache.format.rows import as_array, storable
from cas_cache.mirror.index import ABSENT
from cas_cache.mirror.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from cas_cache.mirror import Namespace

FIRST_ITEMS = 8
"""Items of the first chunk, whose duration is unknown: 8 s for an encoder that encodes one item per second."""

SMALL_ITEMS = 256
"""The limit by committed items is never below this: with fewer items, a commit costs more than it protects."""

COMMITTED_SHARE = 1 / 4
"""A larger chunk has at most this share of the items that the call has committed before.

An encoder that fails suddenly, however fast it was, loses at most a fifth of its results.
"""

GROWTH = 4
"""Maximum growth from one chunk to the next, because the duration of one chunk may be an accident."""

CHUNK_SECONDS = 5.0
"""Maximum seconds of a chunk at the speed of the one before it. If the encoder slows down by half, it takes 10 s."""

MAX_CHUNK_BYTES = 64 << 20
"""Maximum bytes of vectors of one chunk."""


class ChunkSizes:
    """Chooses how many items to encode before the next commit.

    The first chunk has `FIRST_ITEMS` items, or what an earlier measurement allows. Each later one is limited by the
    number of committed items, by the speed of the chunk before it, and by the size of its vectors; see the constants
    above.

    Args:
        chunk_items: The size of every chunk; None chooses sizes by measurement.
        earlier: Measurement of the last chunk of the same encoder in this process, if there is one.
    """

    def __init__(self, chunk_items: int | None = None, earlier: Pace | None = None) -> None:
        self._fixed = chunk_items
        self._committed = 0
        self.next = chunk_items or FIRST_ITEMS
        """Number of items of the next chunk."""
        if chunk_items is None and earlier is not None and earlier.items:
            self.next = min(SMALL_ITEMS, _items_in_time(earlier))

    def add(self, measured: Pace, row_bytes: int) -> None:
        """Add the measurement of a committed chunk.

        Args:
            measured: Number of items, and the encoder's seconds for them.
            row_bytes: Size of one vector in bytes.
        """
        if self._fixed is not None:
            return
        self._committed += measured.items
        self.next = min(
            max(SMALL_ITEMS, int(self._committed * COMMITTED_SHARE)),
            GROWTH * max(self.next, measured.items),
            max(1, MAX_CHUNK_BYTES // max(1, row_bytes)),
            _items_in_time(measured),
        )


def _items_in_time(pace: Pace) -> int:
    """Return how many items take `CHUNK_SECONDS`, at least 1."""
    return max(1, int(pace.items * min(CHUNK_SECONDS / max(pace.seconds, 1e-6), 1e6)))


def in_chunks(
    positions: NDArray[np.int64],
    encode: Callable[[NDArray[np.int64]], Any],
    sizes: ChunkSizes,
    record: Callable[[Pace], object],
) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    """Encode items one chunk at a time; yield (positions, vectors) of each chunk.

    The next chunk is encoded only after the caller has committed the one before it.

    Args:
        positions: (n,) int64, positions of the items to encode.
        encode: Encodes items, given by their positions; returns one vector per position.
        sizes: Chooses the number of items of each chunk.
        record: Called with the items and the encoder's seconds of each chunk whose vectors can be stored.

    Raises:
        InvalidEncoderOutput: If the encoder does not return one vector per item.
        ShapeMismatch: If chunks differ in dtype or row shape.
    """
    first: tuple[Any, ...] | None = None
    start = 0
    while start < len(positions):
        began, chunk = time.monotonic(), positions[start : start + sizes.next]
        start += len(chunk)
        answer = as_array(encode(chunk))
        measured = Pace(len(chunk), time.monotonic() - began)
        vectors = storable(answer, len(chunk))
        record(measured)
        first = first or (vectors.dtype, vectors.shape[1:])
        if first != (vectors.dtype, vectors.shape[1:]):
            raise ShapeMismatch(
                f"The encoder answered with {first[0]} vectors of shape {first[1]} first and with {vectors.dtype} of "
                f"shape {vectors.shape[1:]} later in one call. The later ones were not stored."
            )
        # The generator continues here only when the caller has committed this chunk, so `sizes` counts committed items.
        yield chunk, vectors
        sizes.add(measured, vectors.nbytes // len(chunk))


def gathered(
    ns: Namespace, rows: NDArray[np.int64], encoded_at: Mapping[int, int], kept_out: Mapping[int, NDArray[Any]]
) -> NDArray[Any]:
    """Return the vectors of rows, with vectors that must not be stored in their places.

    Args:
        ns: The namespace that holds the rows.
        rows: (n,) int64, `ABSENT` for items whose vector was not stored.
        encoded_at: For each position that was missing, the position whose item was encoded for it.
        kept_out: Vectors that were not stored, by the position that they were encoded for.
    """
    sample = next(iter(kept_out.values()))
    vectors = np.empty((len(rows), *sample.shape), sample.dtype)
    stored = rows != ABSENT
    if stored.any():
        vectors[stored] = ns.take(rows[stored])
    for at in np.flatnonzero(~stored).tolist():
        vectors[at] = kept_out[encoded_at[at]]
    return vectors
