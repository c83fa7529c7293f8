"""One namespace of the mirror: rows by key.

Adds to the table what makes it a cache: keys are found, a key is stored once (the first vector wins), what a row is
made of is checked, rows are proved by their digest before this process first serves them, and waiting rows are
planned into packs. It never encodes and never talks to a remote.
"""

from __future__ import annotations

import math
import secrets
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from cas_cache.errors import DamagedMirror, MirrorWriteError, ShapeMismatch
from cas_cache.identity import first_of_each
from cas_cache.mirror.index import ABSENT, KeyIndex
from cas_cache.mirror.table import Table
from cas_cache.rows import digest_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from cas_cache.identity import EncoderSpec

NONCE_BYTES = 16

GATHER_ROWS = 8192
"""Rows gathered at a time while they are proved: 12 MB of 384 float32, small against any answer."""


@dataclass(frozen=True, slots=True)
class PlannedPack:
    """Waiting rows that will be one pack.

    Attributes:
        nonce: Drawn once, kept until the pack is published: a retry makes the same pack.
        runs: (start, stop) of the rows in the mirror, ascending.
        rows: How many there are.
    """

    nonce: str
    runs: tuple[tuple[int, int], ...]

    @property
    def rows(self) -> int:
        """How many rows."""
        return sum(stop - start for start, stop in self.runs)


class Namespace:
    """The rows of one encoder spec in the mirror.

    Attributes:
        spec: Whose vectors these are.
        folder: Where they are.
    """

    def __init__(self, folder: Path, spec: EncoderSpec) -> None:
        self.spec = spec
        self.folder = folder
        self._table = Table(folder, spec.namespace)
        self._index = KeyIndex()
        # Threads that share a handle may not refresh it, or extend the index, at once.
        self._handle = threading.RLock()
        # One byte a row: which rows this process has seen to agree with their digest.
        self._proved = np.zeros(self.rows, np.bool_)

    def __repr__(self) -> str:
        return f"Namespace({self.spec.namespace}, rows={self.rows})"

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
    def waiting_rows(self) -> int:
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
        return self._table.keys

    def refresh(self) -> None:
        """Take in what other processes have committed."""
        with self._handle:
            self._table.refresh()
            self._make_room()

    def find(self, keys: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the row of each key, or -1.

        Args:
            keys: (n, 32) uint8.
        """
        with self._handle:
            self.refresh()
            column = self._table.keys
            self._index.extend(column)
            return self._index.find(keys, column)

    def holds(self, keys: NDArray[np.uint8]) -> bool:
        """Whether every one of the keys has a row."""
        return bool((self.find(keys) != ABSENT).all())

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return the vectors of rows, in order, as an array of the caller's own.

        Args:
            rows: (n,) int64, each in [0, `rows`).

        Returns:
            (n, *shape), writable.

        Raises:
            DamagedMirror: If a row does not agree with its digest. Nothing is returned.
        """
        if not len(rows):
            return np.empty((0, *self.shape), self.dtype)
        self.prove(rows)
        out = np.empty((len(rows), *self.shape), self.dtype)
        # mode="clip" gathers without a buffer; `prove` has checked the range.
        return np.take(self._table.vectors, rows, axis=0, out=out, mode="clip")

    def prove(self, rows: NDArray[np.int64]) -> None:
        """Check rows against their digests, each once in this process.

        Raises:
            DamagedMirror: If one does not agree.
        """
        if len(rows) and not (int(rows.min()) >= 0 and int(rows.max()) < len(self._proved)):
            msg = f"rows must be in [0, {len(self._proved)})"
            raise IndexError(msg)
        unproved = np.unique(rows[~self._proved[rows]])
        for start in range(0, len(unproved), GATHER_ROWS):
            block = unproved[start : start + GATHER_ROWS]
            digests = digest_rows(self._table.keys[block], self._table.vectors[block])
            wrong = block[digests != self._table.digests[block]]
            if len(wrong):
                raise DamagedMirror(
                    f"{len(wrong)} rows of {self.folder} do not agree with their digests, the first is row {wrong[0]}: "
                    "the files were changed after they were committed. Nothing of them was served. Delete that "
                    "folder: what was pushed comes back with `cas-cache pull`, the rest is encoded anew."
                )
            self._proved[block] = True

    def append(
        self,
        keys: NDArray[np.uint8],
        vectors: NDArray[Any],
        *,
        pack: str | None = None,
        upto: tuple[int, int] | None = None,
    ) -> int:
        """Store the rows whose keys are not here yet, and commit.

        Args:
            keys: (n, 32) uint8.
            vectors: (n, *shape), as `rows.storable` gives them.
            pack: The pack they came from, or None if they wait to be pushed.
            upto: With `pack`: these are its rows up to this one, of that many.

        Returns:
            How many rows were new.

        Raises:
            ShapeMismatch: If dtype or row shape are not the namespace's.
            MirrorWriteError: If the disk is full or refuses.
        """
        with self._locked():
            self._check_fact(vectors)
            distinct, _ = first_of_each(keys)
            new = distinct[self.find(keys[distinct]) == ABSENT]
            state = self._table.state.appended(len(new), pack)
            if pack is not None and upto is not None:
                state = state.read(pack, upto[0], complete=upto[0] == upto[1])
            if state is not self._table.state:
                # All new, the usual case, is stored as it is: a copy would double the memory of a chunk.
                new_keys, new_vectors = (keys, vectors) if len(new) == len(keys) else (keys[new], vectors[new])
                first = self.rows
                self._table.append(new_keys, new_vectors, digest_rows(new_keys, new_vectors), state)
                self.refresh()
                self._proved[first:] = True
        return len(new)

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
            upper = len(state.waiting) + self.waiting_rows // most_rows + 1
            nonces = [secrets.token_hex(NONCE_BYTES) for _ in range(upper)]
            planned = state.planned(most_rows, nonces, now=time.time(), most_age=most_age)
            if planned != state:
                self._table.commit(planned)
        runs: dict[str, list[tuple[int, int]]] = {}
        for extent in planned.waiting:
            runs.setdefault(extent.nonce or "", []).append((extent.start, extent.stop))
        return [PlannedPack(nonce, tuple(pack_runs)) for nonce, pack_runs in runs.items()]

    def published(self, plan: PlannedPack, pack: str) -> None:
        """Note that a planned pack is in the repository."""
        with self._locked():
            self._table.commit(self._table.state.published(plan.nonce, pack))

    def forget_packs(self) -> None:
        """Let every row wait to be pushed again, as if no pack were known."""
        with self._locked():
            self._table.commit(self._table.state.unpublished())

    def skip(self, pack: str, rows: int) -> None:
        """Note that a pack of `rows` rows need not be read: every key of it is here."""
        with self._locked():
            self._table.commit(self._table.state.read(pack, rows, complete=True))

    def supersede(self, packs: Iterable[str]) -> None:
        """Note that the rows of packs are all here by way of another: they need not be read, and may go."""
        with self._locked():
            self._table.commit(self._table.state.superseding(packs))

    def forget(self, packs: Iterable[str]) -> None:
        """Forget superseded packs that have gone; their rows stay."""
        with self._locked():
            self._table.commit(self._table.state.forgotten(packs))

    def read(self, plan: PlannedPack, column: str, start: int, stop: int) -> NDArray[Any]:
        """Return rows [start, stop) of a planned pack from ``"keys"``, ``"vectors"`` or ``"digests"``.

        Raises:
            DamagedMirror: If a vector asked for does not agree with its digest: damage is never shared.
        """
        columns = {"keys": self._table.keys, "vectors": self._table.vectors, "digests": self._table.digests}
        parts = _cut(plan.runs, start, stop)
        if column == "vectors":
            for first, last in parts:
                self.prove(np.arange(first, last))
        chosen = [columns[column][first:last] for first, last in parts]
        return chosen[0] if len(chosen) == 1 else np.concatenate(chosen)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Be the one writer, with everybody's commits in view."""
        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire()
        except OSError as err:
            raise MirrorWriteError(
                f"{self.folder} cannot be written ({err}). Nothing was changed. Make it writable, or use another "
                "directory."
            ) from err
        try:
            with self._handle:
                # A writer that missed a commit would write over its rows: it reads the state whatever its stamp says.
                self._table.refresh(force=True)
                self._make_room()
            yield
        finally:
            lock.release()

    def _make_room(self) -> None:
        """Remember for as many rows as there are now which of them were proved."""
        if len(self._proved) < self.rows:
            proved = np.zeros(self.rows, np.bool_)
            proved[: len(self._proved)] = self._proved
            self._proved = proved

    def _check_fact(self, vectors: NDArray[Any]) -> None:
        """Refuse vectors that are not made like the namespace's."""
        if self.dtype is None or (vectors.dtype == self.dtype and vectors.shape[1:] == self.shape):
            return
        raise ShapeMismatch(
            f"The namespace {self.spec.namespace} ({self.spec.model}) holds {self.dtype} vectors of shape "
            f"{self.shape}; these are {vectors.dtype} of shape {vectors.shape[1:]}. Nothing of them was stored. One "
            "spec has one dtype and one shape: put what differs (precision, truncation) into params=."
        )


def _cut(runs: tuple[tuple[int, int], ...], start: int, stop: int) -> list[tuple[int, int]]:
    """The parts of runs that hold positions [start, stop) of all of them joined."""
    parts, at = [], 0
    for first, last in runs:
        begin, end = max(start - at, 0), min(stop - at, last - first)
        if begin < end:
            parts.append((first + begin, first + end))
        at += last - first
    return parts
