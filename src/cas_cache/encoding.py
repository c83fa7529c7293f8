"""Encode missing items chunk by chunk, and commit each chunk before the next one is encoded.

If the encoder raises or the process is killed, uncommitted vectors are lost. A chunk is therefore small: a few seconds
of the encoder's work, and never a large part of what was committed before.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.errors import CacheMiss, ShapeMismatch
from cas_cache.format.rows import as_array, finite_rows, storable
from cas_cache.identity import first_of_each, texts_at
from cas_cache.mirror.index import ABSENT
from cas_cache.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from cas_cache.identity import EncoderSpec, Texts
    from cas_cache.mirror import Namespace
    from cas_cache.mirror.appearances import Appearances
    from cas_cache.stats import Stats

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

    The first chunk has `FIRST_ITEMS` items, or more if the encoder's speed is known. Each later one is limited by the
    number of committed items, by the speed of the chunk before it, and by the size of its vectors; see the constants
    above.

    Args:
        chunk_items: The size of every chunk; None chooses sizes by measurement.
        seconds_per_item: Speed of the same encoder in earlier calls; None if it is not known.
    """

    def __init__(self, chunk_items: int | None = None, seconds_per_item: float | None = None) -> None:
        self._fixed = chunk_items
        self._committed = 0
        self.next = chunk_items or FIRST_ITEMS
        """Number of items of the next chunk."""
        if chunk_items is None and seconds_per_item is not None:
            self.next = min(SMALL_ITEMS, _items_in_time(seconds_per_item))

    def add(self, items: int, seconds: float, row_bytes: int) -> None:
        """Add the measurement of a committed chunk.

        Args:
            items: Number of items.
            seconds: The encoder's seconds for them.
            row_bytes: Size of one vector in bytes.
        """
        if self._fixed is not None:
            return
        self._committed += items
        self.next = min(
            max(SMALL_ITEMS, int(self._committed * COMMITTED_SHARE)),
            GROWTH * max(self.next, items),
            max(1, MAX_CHUNK_BYTES // max(1, row_bytes)),
            _items_in_time(seconds / items),
        )


def _items_in_time(seconds_per_item: float) -> int:
    """Return how many items take `CHUNK_SECONDS`, at least 1."""
    return max(1, int(CHUNK_SECONDS / max(seconds_per_item, 1e-9)))


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """Encodes texts, given by their positions.

    Attributes:
        texts: The texts of a call.
        encoder: Returns one vector per text.
        prompt: Text to put in front of each text.
    """

    texts: Texts
    encoder: Callable[[list[str]], Any]
    prompt: str = ""

    def __call__(self, positions: NDArray[np.int64]) -> Any:
        """Return the encoder's answer for the texts at some ascending positions."""
        texts = texts_at(self.texts, positions)
        return self.encoder([self.prompt + text for text in texts] if self.prompt else texts)


@dataclass(slots=True)
class ObservedEncoder:
    """An encoder whose appearance is observed before and after each call.

    Attributes:
        appearances: The recorded appearances of the namespace that its vectors belong to.
        encode: Encodes items, given by their positions; returns one vector per position.
        describe: Returns the encoder's appearance; None if there is no description.
        dtype: The dtype of vectors that come as lists of Python numbers.
    """

    appearances: Appearances
    encode: Callable[[NDArray[np.int64]], Any]
    describe: Callable[[], dict[str, str]] | None = None
    dtype: np.dtype[Any] | str | None = None
    _first: dict[str, str] | None = None

    @property
    def appearance(self) -> dict[str, str] | None:
        """The encoder's appearance before it was first called; None without a function that describes it."""
        if self._first is None and self.describe is not None:
            self._first = self.describe()
        return self._first

    @property
    def id(self) -> str | None:
        """The id of the encoder's appearance, recorded under its namespace."""
        return None if self.appearance is None else self.appearances.record(self.appearance)

    def __call__(self, positions: NDArray[np.int64]) -> NDArray[Any]:
        """Return the vectors of some items as an array."""
        before = self.appearance
        if before is None or self.describe is None:
            return as_array(self.encode(positions), self.dtype)
        try:
            return as_array(self.encode(positions), self.dtype)
        finally:
            # Also after an error: an attribute that changed during the call does not identify the encoder.
            self.appearances.observe(before, self.describe())


@dataclass(frozen=True, slots=True)
class MissingItems:
    """The items of a call that have no row.

    Attributes:
        ns: The namespace that their vectors belong to.
        keys: (n, 32) uint8, the keys of all items of the call.
        positions: (m,) int64, the positions of the missing items, ascending.
    """

    ns: Namespace
    keys: NDArray[np.uint8]
    positions: NDArray[np.int64]

    def encode(
        self,
        encoder: ObservedEncoder,
        sizes: ChunkSizes,
        stats: Stats,
        on_commit: Callable[[int], object] | None,
        *,
        progress: bool | None,
    ) -> dict[bytes, NDArray[Any]]:
        """Encode each distinct item once; commit each chunk before the next one is encoded.

        Args:
            encoder: Encodes items, given by their positions.
            sizes: Chooses the number of items of each chunk.
            stats: Counts items and the encoder's time.
            on_commit: Called with the bytes of new vectors after each commit; None for nothing.
            progress: Show a progress bar; None shows it on a terminal only.

        Returns:
            The vectors that hold NaN or infinity, by key. They are not stored.

        Raises:
            InvalidEncoderOutput: If the encoder does not return one vector per item.
            ShapeMismatch: If chunks differ in dtype or row shape.
        """
        positions = self.positions[first_of_each(self.keys[self.positions])[0]]
        refused: dict[bytes, NDArray[Any]] = {}
        expected: tuple[Any, ...] | None = None
        start = 0
        with progress_bar("encode", len(positions), progress) as advance:
            while start < len(positions):
                chunk = positions[start : start + sizes.next]
                start += len(chunk)
                began = time.monotonic()
                answer = encoder(chunk)
                seconds = time.monotonic() - began
                vectors = storable(answer, len(chunk))
                stats.add_encoded(self.ns.spec.namespace, len(chunk), seconds)
                expected = expected or (vectors.dtype, vectors.shape[1:])
                if expected != (vectors.dtype, vectors.shape[1:]):
                    raise ShapeMismatch(
                        f"The encoder answered with {expected[0]} vectors of shape {expected[1]} first and with "
                        f"{vectors.dtype} of shape {vectors.shape[1:]} later in one call. The later ones were not "
                        "stored."
                    )
                new, infinite = append_finite(self.ns, self.keys[chunk], vectors, encoder.id)
                refused.update(infinite)
                if on_commit is not None:
                    on_commit(new * self.ns.row_bytes)
                sizes.add(len(chunk), seconds, vectors.nbytes // len(chunk))
                advance(len(chunk))
        return refused

    def gather(self, rows: NDArray[np.int64], refused: Mapping[bytes, NDArray[Any]]) -> NDArray[Any]:
        """Return the vectors of the call's items, now that the missing ones were encoded.

        Args:
            rows: (n,) int64, the row of each item; those of missing items are set.
            refused: The vectors that were not stored, by key.
        """
        rows[self.positions] = self.ns.find(self.keys[self.positions])
        if not refused:
            return self.ns.take(rows)
        sample = next(iter(refused.values()))
        vectors = np.empty((len(rows), *sample.shape), sample.dtype)
        is_stored = rows != ABSENT
        if is_stored.any():
            vectors[is_stored] = self.ns.take(rows[is_stored])
        for position in np.flatnonzero(~is_stored).tolist():
            vectors[position] = refused[self.keys[position].tobytes()]
        return vectors


def append_finite(
    ns: Namespace, keys: NDArray[np.uint8], vectors: NDArray[Any], appearance: str | None = None
) -> tuple[int, dict[bytes, NDArray[Any]]]:
    """Store vectors, except those that hold NaN or infinity.

    Returns:
        The number of new rows, and the vectors that were not stored, by key.
    """
    finite = finite_rows(vectors)
    if finite.all():  # usually true, and avoids a copy of the chunk
        return ns.append(keys, vectors, appearance=appearance), {}
    new = ns.append(keys[finite], vectors[finite], appearance=appearance)
    return new, {key.tobytes(): vector for key, vector in zip(keys[~finite], vectors[~finite], strict=True)}


def cache_miss(
    spec: EncoderSpec,
    keys: NDArray[np.uint8],
    missing: NDArray[np.int64],
    *,
    without_nan: np.dtype[Any] | None = None,
) -> CacheMiss:
    """Return the error for items that are missing.

    Args:
        spec: The encoder's identity.
        keys: (n, 32) uint8, the keys of all items of the call.
        missing: Positions of the missing items.
        without_nan: The dtype of the vectors, if the reason is that it has no NaN; None if encoding is forbidden.
    """
    distinct, _ = first_of_each(keys[missing])
    positions = tuple(missing[distinct][:10].tolist())
    if without_nan is None:
        reason, advice = "only_cached=True forbids encoding them", "Run once without only_cached, or pull."
    else:
        reason = f"{without_nan} vectors have no NaN to stand for them"
        advice = "Leave out the texts that `missing` returns, or call `encode`."
    return CacheMiss(
        f"{len(distinct)} of {len(first_of_each(keys)[0])} distinct items are not in the cache of {spec.model} "
        f"(namespace {spec.namespace}), and {reason}. The first is item {positions[0]} of the call. {advice}",
        positions=positions,
        missing=len(distinct),
    )
