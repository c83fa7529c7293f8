"""One namespace of the mirror: rows by key.

Adds to the table what makes it a cache: keys are found, a key is stored once (the first vector wins), what a row is
made of is checked, rows are proved by their digest before this process first serves them, and waiting rows are
planned into packs. It never encodes and never talks to a remote.

Its files may be closed between two calls, when many namespaces are open (see `descriptors`). Then others may evict,
and rows move. The number of a row is valid as long as the namespace is `held`; without that, a use after rows have
moved raises `AlreadyClosed`.
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

from cas_cache.disk import advice, check_folder, is_full, lock_of
from cas_cache.errors import AlreadyClosed, MirrorWriteError, ShapeMismatch
from cas_cache.identity import first_of_each
from cas_cache.mirror.appearances import Appearances
from cas_cache.mirror.descriptors import POOL, Pooled
from cas_cache.mirror.index import ABSENT, KeyIndex
from cas_cache.mirror.memo import Memo, as_rows, count_of
from cas_cache.mirror.overview import html_of_namespace
from cas_cache.mirror.plan import PlannedPack
from cas_cache.mirror.remote_keys import RemoteKeyIndex
from cas_cache.mirror.row_verifier import RowVerifier
from cas_cache.mirror.table import Table
from cas_cache.mirror.usage import Usage, UseLock, read_usage
from cas_cache.mirror.verified import UNKNOWN, DoubtedRows, VerifiedPacks
from cas_cache.rows import digest_rows, row_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from cas_cache.identity import Batch, EncoderSpec
    from cas_cache.mirror.memo import Rows
    from cas_cache.mirror.plan import WholePack
    from cas_cache.mirror.state import Extent, State

NONCE_BYTES = 16

MIN_MAPPED_BYTES = 1 << 20
"""Below this a copy is cheaper than a map, of which a process may have some 65,000."""

GATHER_BYTES = 1 << 24
"""What a thread gathers at a time; less than that is gathered by the caller."""

GATHER_THREADS = 4
"""Most of a large gather is the first touch of the answer's memory, which two cores do twice as fast as one."""


class Namespace(Pooled):
    """The rows of one encoder spec in the mirror.

    Attributes:
        spec: Whose vectors these are.
        folder: Where they are.
        remote_keys: Which rows the repository has, as far as that was asked for.
        appearances: What the encoders that made rows looked like.
    """

    def __init__(self, folder: Path, spec: EncoderSpec) -> None:
        super().__init__()
        self.spec = spec
        self.folder = folder
        self.remote_keys = RemoteKeyIndex(folder / "catalogue", spec.namespace)
        # Before anything is read: rows may move until it is held.
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
        # Threads that share a handle may not refresh it, or extend the index, at once.
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
        """Drop the maps and descriptors and let others evict. Every later look-up or write raises `AlreadyClosed`.

        Arrays that `take` returned stay valid: each has a map of its own, and files are replaced, never cut.
        """
        with self._handle, self._gate:
            self._table.close()
            self._index.close()
            self.remote_keys.close()
            self._use.release()
        POOL.discard(self)

    def reopen(self) -> bool:
        """Open the files if they were closed for want of descriptors.

        Returns:
            False if the namespace was closed, or rows have moved: it has to be taken from the mirror again.
        """
        try:
            with self.held():
                return True
        except AlreadyClosed:
            return False

    def hold(self) -> None:
        """Keep the namespace open, and so its rows where they are, until `release`.

        Raises:
            AlreadyClosed: If it is closed, or if rows have moved since it was last used.
        """
        self._table.check_open()
        super().hold()

    def _open_files(self) -> None:
        use = UseLock(self.folder)  # before anything is read: rows may move until it is held
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
        # Both are derived: what they had in memory is read or sorted again.
        self._index, self._memo = KeyIndex(self.folder), Memo(self.folder, self.spec.namespace)
        self._use.release()

    def __repr__(self) -> str:
        return f"Namespace({self.spec.namespace}, rows={self.rows})"

    def _repr_html_(self) -> str:
        return html_of_namespace(self)

    @property
    def rows(self) -> int:
        """How many rows are committed."""
        return self._table.state.rows

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """What vectors are made of; None before the first."""
        return None if self._table.state.dtype is None else np.dtype(self._table.state.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one vector."""
        return self._table.state.shape

    @property
    def row_bytes(self) -> int:
        """Bytes of one vector."""
        return self._table.state.row_bytes

    @property
    def pending_rows(self) -> int:
        """How many rows are in no pack yet."""
        return sum(extent.rows for extent in self._table.state.waiting)

    @property
    def packs(self) -> frozenset[str]:
        """The packs that are known here: read to their end, published from here, or all in one that was."""
        return self._table.state.complete | self._table.state.superseded

    @property
    def lasting_packs(self) -> frozenset[str]:
        """The packs that are known here and may not go: no other is known to hold their rows."""
        return self._table.state.complete - self._table.state.superseded

    @property
    def keys(self) -> NDArray[np.uint8]:
        """(rows, 32) uint8, mapped read-only."""
        with self.held():
            return self._table.keys

    def columns(self, most_rows: int) -> Iterator[tuple[int, NDArray[np.uint8], NDArray[Any], NDArray[np.uint64]]]:
        """Yield (first row, keys, vectors, digests) of all rows as they lie, so many at a time, not proved."""
        with self.held():
            keys, vectors, digests = self._table.keys, self._table.vectors, self._table.digests
        for first in range(0, len(keys), most_rows):
            part = slice(first, first + most_rows)
            yield first, keys[part], vectors[part], digests[part]

    def refresh(self) -> None:
        """Take in what other processes have committed.

        Raises:
            AlreadyClosed: If it is closed.
        """
        with self._opened():
            self._table.refresh()

    def find(self, keys: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the row of each key, or -1.

        Args:
            keys: (n, 32) uint8.
        """
        with self._opened():
            self._table.refresh()
            column = self._table.keys
            self._index.extend(column)
            return self._index.find(keys, column)

    def holds(self, keys: NDArray[np.uint8]) -> bool:
        """Whether every one of the keys has a row."""
        return bool((self.find(keys) != ABSENT).all())

    def remembered(self, batch: Batch) -> Rows | None:
        """Return the rows that answered the same batch before, or None."""
        if batch.digest is None:
            return None
        with self._opened():
            self._table.refresh()
            return self._memo.find(batch.digest, batch.size, self._table.keys)

    def remember(self, batch: Batch, rows: NDArray[np.int64]) -> None:
        """Note which rows answer a batch.

        Args:
            batch: The batch.
            rows: (n,) int64, the row of each of its keys.
        """
        if batch.digest is not None and len(rows):
            with self._opened():
                self._memo.note(batch.digest, as_rows(rows), self._table.keys)

    def take(self, rows: Rows) -> NDArray[Any]:
        """Return the vectors of rows, in order, as an array of the caller's own.

        Args:
            rows: (n,) int64, each in [0, `rows`), or a slice.

        Returns:
            (n, *shape), writable. Of a long ascending run it is a copy-on-write map of the file: rows never change in
            place, and what the caller writes is the caller's alone. It is a copy while many such maps are alive.

        Raises:
            DamagedMirror: If a row does not agree with its digest. Nothing is returned.
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
        """Return which rows the self-check has to compare; see `VerifiedPacks.doubted`."""
        return self._verified.doubted(rows, self._table.state, trusted)

    def note_verified(self, units: Iterable[str], appearance: str = "") -> None:
        """Record packs, or sources of merges, whose rows were compared with an encoder of that appearance."""
        self._verified.note(dict.fromkeys(units, appearance))

    def run_of(self, row: int) -> Extent:
        """Return the run of rows from one source that a row belongs to."""
        return next(extent for extent in self._table.state.extents if row < extent.stop)

    def unverified_packs(self) -> dict[str, int]:
        """Return the packs that no encoder was compared with here, each with its rows in the mirror."""
        return self._verified.unverified(self._table.state)

    def verify(self, rows: Rows) -> None:
        """Check rows against their digests, each once in this process.

        Raises:
            DamagedMirror: If one does not agree.
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
        """Store the rows whose keys are not here yet, and commit.

        Args:
            keys: (n, 32) uint8.
            vectors: (n, *shape), as `rows.storable` gives them.
            digests: (n,) uint64, where they are known to agree; None makes them.
            pack: The pack they came from, or None if they wait to be pushed.
            upto: With `pack`: these are its rows up to this one, of that many.
            supersedes: With `pack`: those whose rows it has, once it was read to its end.
            appearance: Without `pack`: the id of the appearance of the encoder that made them.
            sources: With `pack`, if it is a merge: (n,) int64, from which of the merged packs each row came.

        Returns:
            How many rows were new.

        Raises:
            ShapeMismatch: If dtype or row shape are not the namespace's.
            MirrorWriteError: If the disk is full or refuses.
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
        """Store the rows of whole packs whose keys are not here yet, one pack after the other, with one commit.

        Returns:
            How many rows were new.

        Raises:
            ShapeMismatch: If dtype or row shape are not the namespace's, or not the same in all of them.
            MirrorWriteError: If the disk is full or refuses.
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
        """Store the rows whose keys are not here yet, and commit; `advanced` is told which of them are new."""
        with self._locked():
            self._check_fact(vectors)
            distinct, _ = first_of_each(keys)
            new = distinct[self.find(keys[distinct]) == ABSENT]
            state = advanced(self._table.state, new)
            if state is not self._table.state:
                # All new, the usual case, is stored as it is: a copy would double the memory of a chunk.
                whole = len(new) == len(keys)
                new_keys, new_vectors = (keys, vectors) if whole else (keys[new], vectors[new])
                if digests is None:
                    digests = digest_rows(new_keys, new_vectors)
                elif not whole:
                    digests = digests[new]
                first = self.rows
                self._index.prune(first)
                self._table.append(new_keys, new_vectors, digests, state)
                self.refresh()
                self._row_verifier.note(first)
            self._save_index()
        return len(new)

    def check_writable(self) -> None:
        """Take the lock once: a namespace that cannot be written is found before anything is encoded for it.

        Raises:
            MirrorWriteError: If it cannot be locked.
        """
        with self._locked():
            pass

    def applied_rows(self, pack: str) -> int:
        """How many rows of a pack were read here: where to go on."""
        return self._table.state.applied.get(pack, 0)

    def small_packs(self, rows: int) -> int:
        """Return how many of the packs that are known here, and not superseded, have fewer rows than that."""
        return sum(self.applied_rows(pack) < rows for pack in self.lasting_packs)

    def plan(self, most_rows: int, *, most_age: float = math.inf) -> list[PlannedPack]:
        """Plan every waiting row into a pack of at most `most_rows` rows and return all plans.

        What was planned before and not published is planned as it was, unless that is more than `most_age` seconds ago
        by this machine's clock: then it gets a new nonce, because a name may not be used for long before it is visible.
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
        """Note that a planned pack is in the repository."""
        with self._locked():
            self._table.commit(self._table.state.published(plan.nonce, pack))
        self._usage.note_packs([pack])
        self._verified.note({pack: plan.appearance or UNKNOWN})

    def forget_packs(self) -> None:
        """Let every row wait to be pushed again, as if no pack were known."""
        with self._locked():
            self._table.commit(self._table.state.unpublished())
        self.remote_keys.forget()

    def skip(self, pack: str, rows: int, supersedes: tuple[str, ...] = ()) -> None:
        """Note that a pack of `rows` rows need not be read: every key of it is here, and of those it supersedes."""
        with self._locked():
            self._table.commit(self._table.state.read(pack, rows, complete=True, supersedes=supersedes))

    def skip_packs(self, packs: Sequence[tuple[str, int]]) -> None:
        """Note the same of several packs, (id, rows) each, with one commit."""
        if packs:
            with self._locked():
                self._table.commit(self._table.state.with_packs([(pack, 0, rows, ()) for pack, rows in packs]))

    def supersede(self, packs: Iterable[str]) -> None:
        """Note that the rows of packs are all here by way of another: they need not be read, and may go."""
        with self._locked():
            self._table.commit(self._table.state.superseding(packs))

    def note_gone(self, superseded: Iterable[str], missing: Iterable[str]) -> None:
        """Note what the repository has no more.

        Args:
            superseded: Packs whose rows are in others: they are forgotten, their rows stay.
            missing: Packs whose rows may be here alone: they are not evicted. All of them, as of now.
        """
        with self._locked():
            state = self._table.state.forgotten(superseded)
            state = replace(state, missing=frozenset(missing))
            if state != self._table.state:
                self._table.commit(state)

    def packs_by_use(self) -> list[tuple[str, int, float]]:
        """Return (pack, rows here, last use) of each pack that can be evicted, the last use in seconds since 1970.

        Packs that the repository lacked at the last pull cannot: the rows here may be the only ones.
        """
        used, rows = read_usage(self.folder), Counter[str]()
        for extent in self._table.state.extents:
            if extent.pack is not None and extent.pack not in self._table.state.missing:
                rows[extent.pack] += extent.rows
        return [(pack, count, used.get(pack, 0.0)) for pack, count in rows.items()]

    def rows_of(self, packs: frozenset[str]) -> int:
        """Return how many rows came from packs, or were published in them."""
        return sum(extent.rows for extent in self._table.state.extents if extent.pack in packs)

    def reserve(self) -> bool:
        """Keep all others out; False if another process or object has the namespace open. `unreserve` lets them in."""
        self.hold()
        reserved = False
        try:
            reserved = self._use.alone()
        finally:
            if not reserved:
                self.release()
        return reserved

    def unreserve(self) -> None:
        """Let others in again."""
        self._use.share()
        self.release()

    def evict(self, packs: Iterable[str]) -> frozenset[str]:
        """Remove the rows that came from packs, of a namespace that is reserved, and close it.

        Returns:
            The packs whose rows went: on a disk that is too full to write the other rows again, all that can go.

        Raises:
            MirrorWriteError: If the disk refuses, or is too full to write the rows again that have to stay. No row was
                lost.
        """
        chosen = frozenset(packs)
        try:
            with self._locked(), self._handle:
                # A crash leaves no index rather than one of rows that have moved.
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
            # What failed on its way is finished by whoever opens it next.
            self.close()

    def _rewrite_without(self, packs: frozenset[str]) -> None:
        state, runs = self._table.state.evicted(packs)
        self._table.rewrite(runs, state)

    def read(self, plan: PlannedPack, column: str, start: int, stop: int) -> NDArray[Any]:
        """Return rows [start, stop) of a planned pack from ``"keys"``, ``"vectors"`` or ``"digests"``.

        Raises:
            DamagedMirror: If a vector asked for does not agree with its digest: damage is never shared.
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
        """Leave what was indexed for those who open the mirror; only the one writer may."""
        with self._handle:
            column = self._table.keys
            self._index.extend(column)
            self._index.save(column)

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """Hold the files open, for one thread at a time."""
        self.hold()
        try:
            with self._handle:
                yield
        finally:
            self.release()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Be the one writer, with everybody's commits in view."""
        check_folder(self.folder)
        # Before the lock, as an eviction does: otherwise each of two processes could wait for the other.
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
                # A writer that missed a commit would write over its rows: it reads the state whatever its stamp says.
                self._table.refresh(force=True)
                yield
        finally:
            lock.release()

    def _check_fact(self, vectors: NDArray[Any]) -> None:
        """Refuse vectors that are not made like the namespace's."""
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
    """Return the vectors of rows that `RowVerifier.verify` has found in range, in memory of the caller's own."""
    out = np.empty((len(rows), *vectors.shape[1:]), vectors.dtype)
    step = max(1, GATHER_BYTES // row_bytes(vectors.dtype, vectors.shape[1:]))

    def gather(start: int) -> None:
        part = slice(start, start + step)
        # mode="clip" gathers without a buffer.
        np.take(vectors, rows[part], axis=0, out=out[part], mode="clip")

    if len(rows) <= step:
        gather(0)
        return out
    with ThreadPoolExecutor(min(GATHER_THREADS, os.cpu_count() or 1), "cas_cache-gather") as threads:
        for _ in threads.map(gather, range(0, len(rows), step)):
            pass
    return out
