"""One namespace of the mirror: rows by key.

Turns the table into a cache. It finds keys, stores each key once (the first vector wins), checks dtype and shape,
verifies each row against its digest before this process first serves it, and plans pending rows into packs. It never
encodes and never connects to a remote.

When many namespaces are open, the files of some are closed between two calls (see `descriptors`). Another process may
then evict rows, which moves the rest. A row number is valid as long as the namespace is `held`; without that, using it
after rows have moved raises `AlreadyClosed`.
"""

from __future__ import annotations

import math
import os
import secrets
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from cas_cache.display import Displayable
from cas_cache.errors import AlreadyClosed, MirrorWriteError, ShapeMismatch
from cas_cache.files.disk import advice, check_folder, is_full, lock_of
from cas_cache.format.rows import digest_rows, row_bytes
from cas_cache.identity import first_of_each
from cas_cache.mirror.appearances import Appearances
from cas_cache.mirror.descriptors import POOL, Pooled
from cas_cache.mirror.index import ABSENT, KeyIndex
from cas_cache.mirror.memo import Memo, as_rows, count_of
from cas_cache.mirror.overview import table_of_namespace
from cas_cache.mirror.plan import PlannedPack
from cas_cache.mirror.remote_keys import RemoteKeyIndex
from cas_cache.mirror.row_verifier import RowVerifier
from cas_cache.mirror.table import Table
from cas_cache.mirror.usage import Usage, UseLock, read_usage
from cas_cache.mirror.verified import UNKNOWN, DoubtedRows, VerifiedPacks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from rich.console import Group

    from cas_cache.identity import Batch, EncoderSpec
    from cas_cache.mirror.memo import Rows
    from cas_cache.mirror.plan import WholePack
    from cas_cache.mirror.state import Extent, State

NONCE_BYTES = 16

MIN_MAPPED_BYTES = 1 << 20
"""Answers smaller than this are copied. A copy is cheaper than a map then, and a process can have some 65,000 maps."""

GATHER_BYTES = 1 << 24
"""Bytes that a thread gathers at a time; the caller gathers smaller answers itself."""

GATHER_THREADS = 4
"""Maximum number of threads of a gather. Most of a large gather is the first touch of the answer's memory, which two
cores do twice as fast as one."""


class Namespace(Pooled, Displayable):
    """The rows of one encoder spec in the mirror.

    Attributes:
        spec: The encoder spec of the vectors.
        folder: The folder of the namespace.
        remote_keys: The rows that the repository is known to have.
        appearances: The appearances of the encoders that made rows.
    """

    def __init__(self, folder: Path, spec: EncoderSpec) -> None:
        super().__init__()
        self.spec = spec
        self.folder = folder
        self.remote_keys = RemoteKeyIndex(folder / "catalogue", spec.namespace)
        # Taken before anything is read: until the lock is held, an eviction may move rows.
        self._use = UseLock(folder)
        try:
            self._open()
        except BaseException:
            self._use.release()  # the error's traceback keeps this object alive
            raise
        POOL.use(self)

    def _open(self) -> None:
        folder = self.folder
        self._table = Table(folder, self.spec.namespace)
        self._index = KeyIndex(folder)
        self._memo = Memo(folder, self.spec.namespace)
        self._usage = Usage(folder)
        self._verified = VerifiedPacks(folder)
        self.appearances = Appearances(folder)
        # Threads that share this object must not refresh the table or extend the index at the same time.
        self._handle = threading.RLock()
        self._row_verifier = RowVerifier(self._table)
        if self._table.state.rewriting:
            with self._locked():
                self._table.finish_rewrite()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the maps and descriptors and let others evict. Any later look-up or write raises `AlreadyClosed`.

        Arrays that `take` returned stay valid: each has a map of its own, and files are replaced, never truncated.
        """
        with self._handle, self._gate:
            self._table.close()
            self._index.close()
            self.remote_keys.close()
            self._use.release()
        POOL.discard(self)

    def reopen(self) -> bool:
        """Open the files again if they were closed because descriptors ran short.

        Returns:
            False if the namespace was closed or rows have moved; the caller then has to get it from the mirror again.
        """
        try:
            with self.held():
                return True
        except AlreadyClosed:
            return False

    def hold(self) -> None:
        """Keep the namespace open, so that rows do not move, until `release`.

        Raises:
            AlreadyClosed: If the namespace is closed, or rows have moved since its last use.
        """
        self._table.check_open()
        super().hold()

    def _open_files(self) -> None:
        use = UseLock(self.folder)  # before anything is read: until it is held, an eviction may move rows
        try:
            if self._table.has_moved():
                self._table.close()
            self._table.check_open()
        except BaseException:
            use.release()
            raise
        self._use = use

    def _close_files(self) -> None:
        self._table.suspend()
        # Index and memo are derived: a reopened namespace reads them again, or sorts the keys again.
        self._index, self._memo = KeyIndex(self.folder), Memo(self.folder, self.spec.namespace)
        self._use.release()

    def __repr__(self) -> str:
        return f"Namespace({self.spec.namespace}, rows={self.rows})"

    def __rich__(self) -> Group:
        return table_of_namespace(self)

    @property
    def rows(self) -> int:
        """Number of committed rows."""
        return self._table.state.rows

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """Dtype of the vectors; None before the first vector is stored."""
        return None if self._table.state.dtype is None else np.dtype(self._table.state.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one vector."""
        return self._table.state.shape

    @property
    def row_bytes(self) -> int:
        """Size of one vector in bytes."""
        return self._table.state.row_bytes

    @property
    def pending_rows(self) -> int:
        """Number of rows that are pending, that is, in no pack yet."""
        return sum(extent.rows for extent in self._table.state.waiting)

    @property
    def packs(self) -> frozenset[str]:
        """The packs that need not be pulled: read completely, pushed from this mirror, or superseded by such a pack."""
        return self._table.state.complete | self._table.state.superseded

    @property
    def lasting_packs(self) -> frozenset[str]:
        """The known packs that must stay in the repository: no other known pack has all of their rows."""
        return self._table.state.complete - self._table.state.superseded

    @property
    def keys(self) -> NDArray[np.uint8]:
        """(rows, 32) uint8 key column, mapped read-only."""
        with self.held():
            return self._table.keys

    def columns(self, most_rows: int) -> Iterator[tuple[int, NDArray[np.uint8], NDArray[Any], NDArray[np.uint64]]]:
        """Yield (first row, keys, vectors, digests) for all rows in order, `most_rows` at a time, unverified."""
        with self.held():
            keys, vectors, digests = self._table.keys, self._table.vectors, self._table.digests
        for first in range(0, len(keys), most_rows):
            part = slice(first, first + most_rows)
            yield first, keys[part], vectors[part], digests[part]

    def refresh(self) -> None:
        """Read the commits of other processes.

        Raises:
            AlreadyClosed: If the namespace is closed.
        """
        with self._opened():
            self._table.refresh()

    def find(self, keys: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the row of each key, or -1 if it has none.

        Args:
            keys: (n, 32) uint8.
        """
        with self._opened():
            self._table.refresh()
            column = self._table.keys
            self._index.extend(column)
            return self._index.find(keys, column)

    def holds(self, keys: NDArray[np.uint8]) -> bool:
        """Return True if every key has a row."""
        return bool((self.find(keys) != ABSENT).all())

    def remembered(self, batch: Batch) -> Rows | None:
        """Return the rows that answered the same batch before; None if they are unknown."""
        if batch.digest is None:
            return None
        with self._opened():
            self._table.refresh()
            return self._memo.find(batch.digest, batch.size, self._table.keys)

    def remember(self, batch: Batch, rows: NDArray[np.int64]) -> None:
        """Remember which rows answer a batch.

        Args:
            batch: The batch.
            rows: (n,) int64, the row of each key of the batch.
        """
        if batch.digest is not None and len(rows):
            with self._opened():
                self._memo.note(batch.digest, as_rows(rows), self._table.keys)

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
        with self.held():
            self._row_verifier.verify(rows)
            self._usage.note(rows, self._table.state)
            if isinstance(rows, slice):
                if count_of(rows) * self.row_bytes >= MIN_MAPPED_BYTES:
                    return self._table.private_vectors(rows.start, rows.stop)
                return np.array(self._table.vectors[rows])
            return _gather(self._table.vectors, rows)

    def doubted(self, rows: Rows, trusted: frozenset[str] | None = None) -> DoubtedRows:
        """Return the rows that the self-check has to compare; see `VerifiedPacks.doubted`."""
        return self._verified.doubted(rows, self._table.state, trusted)

    def note_verified(self, units: Iterable[str], appearance: str = "") -> None:
        """Record packs, or sources of merges, whose rows were compared with an encoder of this appearance."""
        self._verified.note(dict.fromkeys(units, appearance))

    def run_of(self, row: int) -> Extent:
        """Return the extent that a row belongs to: a run of rows from one source."""
        return next(extent for extent in self._table.state.extents if row < extent.stop)

    def unverified_packs(self) -> dict[str, int]:
        """Return the packs that were never compared with an encoder in this mirror, with their rows in the mirror."""
        return self._verified.unverified(self._table.state)

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
            self._check_fact(pack.vectors)
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
        with self._locked():
            self._check_fact(vectors)
            distinct, _ = first_of_each(keys)
            new = distinct[self.find(keys[distinct]) == ABSENT]
            state = advanced(self._table.state, new)
            if state is not self._table.state:
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
                self._index.prune(first)
                self._table.append(new_keys, new_vectors, digests, state)
                self.refresh()
                self._row_verifier.note(first)
            self._save_index()
        return len(new)

    def check_writable(self) -> None:
        """Take the lock once, to find a namespace that cannot be written before anything is encoded for it.

        Raises:
            MirrorWriteError: If the namespace cannot be locked.
        """
        with self._locked():
            pass

    def applied_rows(self, pack: str) -> int:
        """Return how many rows of a pack were read, which is where reading it continues."""
        return self._table.state.applied.get(pack, 0)

    def small_packs(self, rows: int) -> int:
        """Return how many known packs that are not superseded have fewer than `rows` rows."""
        return sum(self.applied_rows(pack) < rows for pack in self.lasting_packs)

    def plan(self, most_rows: int, *, most_age: float = math.inf) -> list[PlannedPack]:
        """Plan all pending rows into packs of at most `most_rows` rows and return the plans.

        Rows that were planned before and are not published keep their plan, so that a retry publishes the same pack. If
        that was more than `most_age` seconds ago by this machine's clock, they get a new nonce: a prune may take the
        objects of an old upload for orphans, and no name may be used again after it was deleted.
        """
        with self._locked():
            state = self._table.state
            upper = len(state.waiting) + self.pending_rows // most_rows + 1
            nonces = [secrets.token_hex(NONCE_BYTES) for _ in range(upper)]
            planned = state.planned(most_rows, nonces, now=time.time(), most_age=most_age)
            if planned != state:
                self._table.commit(planned)
        extents: dict[str, list[Extent]] = {}
        for extent in planned.waiting:
            extents.setdefault(extent.nonce or "", []).append(extent)
        return [_planned_pack(nonce, of_pack) for nonce, of_pack in extents.items()]

    def published(self, plan: PlannedPack, pack: str) -> None:
        """Record that a planned pack was published in the repository."""
        with self._locked():
            self._table.commit(self._table.state.published(plan.nonce, pack))
        self._usage.note_packs([pack])
        self._verified.note({pack: plan.appearance or UNKNOWN})

    def forget_packs(self) -> None:
        """Make every row pending again, as if no pack were known."""
        with self._locked():
            self._table.commit(self._table.state.unpublished())
        self.remote_keys.forget()

    def skip(self, pack: str, rows: int, supersedes: tuple[str, ...] = ()) -> None:
        """Record a pack that need not be read: the mirror has all of its keys, and those of the packs it supersedes."""
        with self._locked():
            self._table.commit(self._table.state.read(pack, rows, complete=True, supersedes=supersedes))

    def skip_packs(self, packs: Sequence[tuple[str, int]]) -> None:
        """Record several packs that need not be read, (id, rows) each, in one commit."""
        if packs:
            with self._locked():
                self._table.commit(self._table.state.with_packs([(pack, 0, rows, ()) for pack, rows in packs]))

    def supersede(self, packs: Iterable[str]) -> None:
        """Record packs whose rows are in another known pack: they need not be read, and may be pruned."""
        with self._locked():
            self._table.commit(self._table.state.superseding(packs))

    def note_gone(self, superseded: Iterable[str], missing: Iterable[str]) -> None:
        """Record packs that are not in the repository any more.

        Args:
            superseded: Superseded packs. They are forgotten; their rows stay.
            missing: Packs whose only copy may be in this mirror, so that they are not evicted. Replaces the earlier
                list.
        """
        with self._locked():
            state = self._table.state.forgotten(superseded)
            state = replace(state, missing=frozenset(missing))
            if state != self._table.state:
                self._table.commit(state)

    def packs_by_use(self) -> list[tuple[str, int, float]]:
        """Return (pack, rows in the mirror, last use in seconds since 1970) of each pack that can be evicted.

        Packs that the repository lacked at the last pull cannot be: the mirror may have the only copy of their rows.
        """
        used, rows = read_usage(self.folder), Counter[str]()
        for extent in self._table.state.extents:
            if extent.pack is not None and extent.pack not in self._table.state.missing:
                rows[extent.pack] += extent.rows
        return [(pack, count, used.get(pack, 0.0)) for pack, count in rows.items()]

    def rows_of(self, packs: frozenset[str]) -> int:
        """Return how many rows came from these packs, or were published in them."""
        return sum(extent.rows for extent in self._table.state.extents if extent.pack in packs)

    def reserve(self) -> bool:
        """Try to take the exclusive lock; return False if the namespace is open elsewhere. `unreserve` releases it."""
        self.hold()
        reserved = False
        try:
            reserved = self._use.alone()
        finally:
            if not reserved:
                self.release()
        return reserved

    def unreserve(self) -> None:
        """Give the exclusive lock back, so that others can open the namespace."""
        self._use.share()
        self.release()

    def evict(self, packs: Iterable[str]) -> frozenset[str]:
        """Remove the rows that came from these packs from a reserved namespace, and close it.

        Returns:
            The packs whose rows were removed. If the disk is too full to write the remaining rows again, these are all
            packs that can be evicted.

        Raises:
            MirrorWriteError: If a write fails, or the disk is too full to write the remaining rows again. No row was
                lost.
        """
        chosen = frozenset(packs)
        try:
            with self._locked(), self._handle:
                # Index and memo go first: after a crash there is no index, rather than one with the old row numbers.
                self._index.prune(0)
                self._memo.clear()
                try:
                    self._rewrite_without(chosen)
                except MirrorWriteError as err:
                    every = chosen.union(pack for pack, _, _ in self.packs_by_use())
                    if every == chosen or not is_full(err):
                        raise
                    chosen = every
                    self._rewrite_without(chosen)
                return chosen
        finally:
            # The next process that opens the namespace finishes a rewrite that failed midway.
            self.close()

    def _rewrite_without(self, packs: frozenset[str]) -> None:
        state, runs = self._table.state.evicted(packs)
        self._table.rewrite(runs, state)

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
            values: NDArray[Any] = getattr(self._table, column)
        chosen = [values[first:last] for first, last in parts]
        return chosen[0] if len(chosen) == 1 else np.concatenate(chosen)

    def _save_index(self) -> None:
        """Save the index for processes that open the mirror later. The caller is the only writer."""
        with self._handle:
            column = self._table.keys
            self._index.extend(column)
            self._index.save(column)

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """Keep the files open, for one thread at a time."""
        self.hold()
        try:
            with self._handle:
                yield
        finally:
            self.release()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the only writer, after reading all commits of others."""
        check_folder(self.folder)
        # The use lock comes first, as in an eviction; in the other order two processes could wait for each other.
        with self.held(), self._writing():
            yield

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            lock = lock_of(self.folder / ".lock")
            lock.acquire()
        except OSError as err:
            raise MirrorWriteError(
                f"{self.folder} cannot be written ({err}). Nothing was changed. {advice(err, 'Make it writable')}, or "
                "use another directory."
            ) from err
        try:
            with self._handle:
                # A writer that misses a commit would overwrite its rows, so it reads the state even if the file looks
                # unchanged.
                self._table.refresh(force=True)
                yield
        finally:
            lock.release()

    def _check_fact(self, vectors: NDArray[Any]) -> None:
        """Raise `ShapeMismatch` if dtype or shape of vectors are not the namespace's."""
        if self.dtype is None or (vectors.dtype == self.dtype and vectors.shape[1:] == self.shape):
            return
        raise ShapeMismatch(
            f"The namespace {self.spec.namespace} ({self.spec.model}) holds {self.dtype} vectors of shape "
            f"{self.shape}; these are {vectors.dtype} of shape {vectors.shape[1:]}. Nothing of them was stored. One "
            "spec has one dtype and one shape: put what differs (precision, truncation) into params=. Vectors that "
            "come as lists of Python numbers are float32 unless dtype= says otherwise."
        )


def _planned_pack(nonce: str, extents: list[Extent]) -> PlannedPack:
    appearances = {extent.appearance for extent in extents}
    return PlannedPack(
        nonce,
        tuple((extent.start, extent.stop) for extent in extents),
        appearances.pop() if len(appearances) == 1 else None,
    )


def _runs(sources: NDArray[np.int64]) -> list[tuple[int | None, int]]:
    """Return (source, rows) for each run of rows from one source."""
    starts = np.flatnonzero(np.r_[True, np.diff(sources) != 0]) if len(sources) else np.empty(0, np.int64)
    counts = np.diff(np.r_[starts, len(sources)])
    return list(zip(sources[starts].tolist(), counts.tolist(), strict=True))


def _gather(vectors: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
    """Return the vectors of rows, which `RowVerifier.verify` found in range, in memory that the caller owns."""
    out = np.empty((len(rows), *vectors.shape[1:]), vectors.dtype)
    step = max(1, GATHER_BYTES // row_bytes(vectors.dtype, vectors.shape[1:]))

    def gather(start: int) -> None:
        part = slice(start, start + step)
        # mode="clip" avoids a buffer; the rows are known to be in range.
        np.take(vectors, rows[part], axis=0, out=out[part], mode="clip")

    if len(rows) <= step:
        gather(0)
        return out
    with ThreadPoolExecutor(min(GATHER_THREADS, os.cpu_count() or 1), "cas_cache-gather") as threads:
        for _ in threads.map(gather, range(0, len(rows), step)):
            pass
    return out
