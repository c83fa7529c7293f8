"""One namespace of the mirror: rows by key.

Turns the table into a cache. It finds keys, stores each key once (the first vector wins), checks dtype and shape, and
verifies each row against its digest before this process first serves it. It never encodes and never connects to a
remote.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.display import Displayable
from cas_cache.errors import ShapeMismatch
from cas_cache.format.rows import digest_rows
from cas_cache.identity import first_of_each
from cas_cache.mirror.appearances import Appearances
from cas_cache.mirror.index import ABSENT
from cas_cache.mirror.ledger import PackLedger
from cas_cache.mirror.namespace_files import NamespaceFiles
from cas_cache.mirror.overview import table_of_namespace
from cas_cache.mirror.remote_keys import RemoteKeyIndex
from cas_cache.mirror.rows import RowVerifier, as_rows, count_of, gather_rows
from cas_cache.mirror.usage import Usage
from cas_cache.mirror.verified import DoubtedRows, VerifiedPacks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from rich.console import Group

    from cas_cache.identity import Batch, EncoderSpec
    from cas_cache.mirror.ledger import PlannedPack, WholePack
    from cas_cache.mirror.rows import Rows
    from cas_cache.mirror.state import Extent, State

MIN_MAPPED_BYTES = 1 << 20
"""Answers smaller than this are copied. A copy is cheaper than a map then, and a process can have some 65,000 maps."""


class Namespace(NamespaceFiles, Displayable):
    """The rows of one encoder spec in the mirror.

    Attributes:
        spec: The encoder spec of the vectors.
        remote_keys: The rows that the repository is known to have.
        appearances: The appearances of the encoders that made rows.
    """

    def __init__(self, folder: Path, spec: EncoderSpec) -> None:
        super().__init__(folder, spec.namespace)
        self.spec = spec
        self.remote_keys = RemoteKeyIndex(folder / "catalogue", spec.namespace)
        self.appearances = Appearances(folder)
        self._row_verifier = RowVerifier(self.table)
        self._usage = Usage(folder)
        self._verified = VerifiedPacks(folder)

    def __repr__(self) -> str:
        return f"Namespace({self.spec.namespace}, rows={self.rows})"

    def __rich__(self) -> Group:
        return table_of_namespace(self)

    def close(self) -> None:
        """Like `NamespaceFiles.close`."""
        super().close()
        self.remote_keys.close()

    @property
    def rows(self) -> int:
        """Number of committed rows."""
        return self.table.state.rows

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """Dtype of the vectors; None before the first vector is stored."""
        return None if self.table.state.dtype is None else np.dtype(self.table.state.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one vector."""
        return self.table.state.shape

    @property
    def row_bytes(self) -> int:
        """Size of one vector in bytes."""
        return self.table.state.row_bytes

    @property
    def pending_rows(self) -> int:
        """Number of rows that are pending, that is, in no pack yet."""
        return sum(extent.rows for extent in self.table.state.waiting)

    @property
    def ledger(self) -> PackLedger:
        """The packs that the rows came from, and will be pushed in."""
        # Not an attribute: the cycle would keep a mirror that is dropped without `close` open.
        return PackLedger(self, self._usage, self._verified)

    @property
    def packs(self) -> frozenset[str]:
        """The packs that need not be pulled: read completely, pushed from here, or superseded by such a pack."""
        return self.ledger.packs

    @property
    def keys(self) -> NDArray[np.uint8]:
        """(rows, 32) uint8 key column, mapped read-only."""
        with self.held():
            return self.table.keys

    def columns(self, most_rows: int) -> Iterator[tuple[int, NDArray[np.uint8], NDArray[Any], NDArray[np.uint64]]]:
        """Yield (first row, keys, vectors, digests) for all rows in order, `most_rows` at a time, unverified."""
        with self.held():
            keys, vectors, digests = self.table.keys, self.table.vectors, self.table.digests
        for first in range(0, len(keys), most_rows):
            part = slice(first, first + most_rows)
            yield first, keys[part], vectors[part], digests[part]

    def find(self, keys: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the row of each key, or -1 if it has none.

        Args:
            keys: (n, 32) uint8.
        """
        self.hold()
        try:
            with self._handle:
                self.table.refresh()
                column = self.table.keys
                self.index.extend(column)
                return self.index.find(keys, column)
        finally:
            self.release()

    def holds(self, keys: NDArray[np.uint8]) -> bool:
        """Return True if every key has a row."""
        return bool((self.find(keys) != ABSENT).all())

    def remembered(self, batch: Batch) -> Rows | None:
        """Return the rows that answered the same batch before; None if they are unknown."""
        if batch.digest is None:
            return None
        with self.opened():
            self.table.refresh()
            return self.memo.find(batch.digest, batch.size, self.table.keys)

    def remember(self, batch: Batch, rows: NDArray[np.int64]) -> None:
        """Remember which rows answer a batch.

        Args:
            batch: The batch.
            rows: (n,) int64, the row of each key of the batch.
        """
        if batch.digest is not None and len(rows):
            with self.opened():
                self.memo.note(batch.digest, as_rows(rows), self.table.keys)

    def take(self, rows: Rows) -> NDArray[Any]:
        """Return the vectors of rows, in order, as an array that the caller owns.

        Args:
            rows: (n,) int64, each in [0, `rows`), or a slice.

        Returns:
            Writable (n, *shape) array. A long ascending run is a copy-on-write map of the file, which is safe because
            rows never change in place and the caller's writes stay private. It is a copy while many such maps are
            alive.

        Raises:
            DamagedMirror: If a row does not match its digest. Nothing is returned.
        """
        if not isinstance(rows, slice):
            rows = as_rows(rows)
        if not count_of(rows):
            return np.empty((0, *self.shape), self.dtype)
        self.hold()
        try:
            self._row_verifier.verify(rows)
            if self._usage.complete is not self.table.state:
                self._usage.note(rows, self.table.state)
            if isinstance(rows, slice):
                if count_of(rows) * self.row_bytes >= MIN_MAPPED_BYTES:
                    return self.table.private_vectors(rows.start, rows.stop)
                return np.array(self.table.vectors[rows])
            return gather_rows(self.table.vectors, rows)
        finally:
            self.release()

    def doubted(self, rows: Rows, trusted: frozenset[str] | None = None) -> DoubtedRows:
        """Return the rows that the self-check has to compare; see `VerifiedPacks.doubted`."""
        return self._verified.doubted(rows, self.table.state, trusted)

    @property
    def is_verified(self) -> bool:
        """True if every pack was compared with an encoder, as far as this process knows; False if in doubt."""
        return self._verified.complete is self.table.state

    def note_verified(self, units: Iterable[str], appearance: str = "") -> None:
        """Record packs, or sources of merges, whose rows were compared with an encoder of this appearance."""
        self._verified.note(dict.fromkeys(units, appearance))

    def run_of(self, row: int) -> Extent:
        """Return the extent that a row belongs to: a run of rows from one source."""
        return next(extent for extent in self.table.state.extents if row < extent.stop)

    def unverified_packs(self) -> dict[str, int]:
        """Return the packs that were never compared with an encoder in this mirror, with their rows in the mirror."""
        return self._verified.unverified(self.table.state)

    def verify(self, rows: Rows) -> None:
        """Verify rows against their digests, each once per process.

        Raises:
            DamagedMirror: If a row does not match its digest.
        """
        with self.held():
            self._row_verifier.verify(rows)

    def append(  # noqa: PLR0913 - where rows came from, by name
        self,
        keys: NDArray[np.uint8],
        vectors: NDArray[Any],
        *,
        digests: NDArray[np.uint64] | None = None,
        pack: str | None = None,
        upto: tuple[int, int] | None = None,
        supersedes: tuple[str, ...] = (),
        appearance: str | None = None,
        sources: NDArray[np.int64] | None = None,
    ) -> int:
        """Store the rows whose keys are new, and commit.

        Args:
            keys: (n, 32) uint8 keys.
            vectors: (n, *shape) vectors, as `rows.storable` returns them.
            digests: (n,) uint64 digests that are already verified; None computes them.
            pack: The pack that the rows came from; None if they are to be pushed.
            upto: With `pack`: (end, total). The rows end at this row of the pack, which has that many rows.
            supersedes: With `pack`: the packs that it supersedes once it was read completely.
            appearance: Without `pack`: the id of the appearance of the encoder that made the rows.
            sources: With `pack`, if it is a merge: (n,) int64, the merged pack that each row came from.

        Returns:
            The number of new rows.

        Raises:
            ShapeMismatch: If dtype or row shape are not the namespace's.
            MirrorWriteError: If the disk is full or a write fails.
        """

        def advanced(state: State, new: NDArray[np.int64]) -> State:
            runs = [(None, len(new))] if sources is None else _runs(sources[new])
            state = state.appended(runs, pack, appearance)
            if pack is None or upto is None:
                return state
            return state.read(pack, upto[0], complete=upto[0] == upto[1], supersedes=supersedes)

        new = self._append(keys, vectors, digests, advanced)
        if pack is not None and upto is not None and upto[0] == upto[1]:
            self._usage.note_packs([pack])
        return new

    def append_packs(self, packs: Sequence[WholePack]) -> int:
        """Store the rows of complete packs whose keys are new, one pack after the other, in one commit.

        Returns:
            The number of new rows.

        Raises:
            ShapeMismatch: If dtype or row shape are not the namespace's, or differ between the packs.
            MirrorWriteError: If the disk is full or a write fails.
        """
        if not packs:
            return 0
        for pack in packs:
            _check_kind(self, pack.vectors)
        ends = np.cumsum([len(pack.keys) for pack in packs])

        def advanced(state: State, new: NDArray[np.int64]) -> State:
            counts = np.diff(np.searchsorted(new, ends), prepend=0).tolist()
            return state.with_packs(
                [(pack.pack, count, len(pack.keys), pack.supersedes) for pack, count in zip(packs, counts, strict=True)]
            )

        keys, vectors, digests = (
            np.concatenate([getattr(pack, name) for pack in packs]) for name in ("keys", "vectors", "digests")
        )
        new = self._append(keys, vectors, digests, advanced)
        self._usage.note_packs([pack.pack for pack in packs])
        return new

    def _append(
        self,
        keys: NDArray[np.uint8],
        vectors: NDArray[Any],
        digests: NDArray[np.uint64] | None,
        advanced: Callable[[State, NDArray[np.int64]], State],
    ) -> int:
        """Store the rows whose keys are new, and commit the state that `advanced` returns for them."""
        with self.locked():
            _check_kind(self, vectors)
            distinct, _ = first_of_each(keys)
            new = distinct[self.find(keys[distinct]) == ABSENT]
            state = advanced(self.table.state, new)
            if state is not self.table.state:
                # Usually all rows are new and are stored as they are: a copy would double the memory of a chunk.
                whole = len(new) == len(keys)
                new_keys, new_vectors = (keys, vectors) if whole else (keys[new], vectors[new])
                if digests is None:
                    digests = digest_rows(new_keys, new_vectors)
                elif not whole:
                    digests = digests[new]
                # If the column was restored from a copy, an index file may cover rows that it lacks. This append gives
                # their row numbers to other keys, so such files go first.
                first = self.rows
                self.index.prune(first)
                self.table.append(new_keys, new_vectors, digests, state)
                self.refresh()
                self._row_verifier.note(first)
            column = self.table.keys
            self.index.extend(column)
            self.index.save(column)
        return len(new)

    def read(self, plan: PlannedPack, column: str, start: int, stop: int) -> NDArray[Any]:
        """Return rows [start, stop) of a planned pack from ``"keys"``, ``"vectors"`` or ``"digests"``.

        Raises:
            DamagedMirror: If a requested vector does not match its digest, so that damage is never pushed.
        """
        parts = plan.parts(start, stop)
        with self.held():
            if column == "vectors":
                for first, last in parts:
                    self._row_verifier.verify(slice(first, last))
            values: NDArray[Any] = getattr(self.table, column)
        chosen = [values[first:last] for first, last in parts]
        return chosen[0] if len(chosen) == 1 else np.concatenate(chosen)


def _runs(sources: NDArray[np.int64]) -> list[tuple[int | None, int]]:
    """Return (source, rows) for each run of rows from one source."""
    starts = np.flatnonzero(np.r_[True, np.diff(sources) != 0]) if len(sources) else np.empty(0, np.int64)
    counts = np.diff(np.r_[starts, len(sources)])
    return list(zip(sources[starts].tolist(), counts.tolist(), strict=True))


def _check_kind(ns: Namespace, vectors: NDArray[Any]) -> None:
    """Raise `ShapeMismatch` if dtype or shape of vectors are not the namespace's."""
    if ns.dtype is None or (vectors.dtype == ns.dtype and vectors.shape[1:] == ns.shape):
        return
    raise ShapeMismatch(
        f"The namespace {ns.spec.namespace} ({ns.spec.model}) holds {ns.dtype} vectors of shape "
        f"{ns.shape}; these are {vectors.dtype} of shape {vectors.shape[1:]}. Nothing of them was stored. One "
        "spec has one dtype and one shape: put what differs (precision, truncation) into params=. Vectors that "
        "come as lists of Python numbers are float32 unless dtype= says otherwise."
    )
