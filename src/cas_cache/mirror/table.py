"""The columns of one namespace, with their one commit point.

Appending writes rows past the committed ones, makes them durable, and replaces ``state.json`` last. A crash before the
replacement leaves bytes that do not count, and the next append overwrites them. Readers map the rows that the state
names, and read the state again when its file has changed, so they see the commits of other processes.

There is one writer at a time, which holds the lock. Readers need no lock, because committed rows never change.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.errors import AlreadyClosed, DamagedMirror, MirrorReadError, MirrorWriteError, set_aside
from cas_cache.files.disk import FULL_DISK, advice, is_full, read_plain, reading, write_atomically
from cas_cache.identity import KEY_BYTES
from cas_cache.mirror.column import Column
from cas_cache.mirror.state import State
from cas_cache.mirror.usage import USAGE_FILE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

STATE_FILE = "state.json"


class Table:
    """The append-only columns ``keys``, ``vectors`` and ``digests`` in one folder.

    Attributes:
        state: The committed state at the last `refresh` or `append`.
    """

    def __init__(self, folder: Path, namespace: str) -> None:
        self.folder = folder
        self._path = folder / STATE_FILE
        self.state = State(namespace=namespace)
        self._stamp: tuple[int, int, int] | None = None
        self._maps: tuple[NDArray[np.uint8], NDArray[Any], NDArray[np.uint64]] | None = None
        self._inode: int | None = None
        self.closed = False
        self.refresh()

    def __repr__(self) -> str:
        return f"Table({str(self.folder)!r}, rows={self.state.rows})"

    @property
    def keys(self) -> NDArray[np.uint8]:
        """(rows, 32) uint8 key column, mapped."""
        return self._mapped()[0]

    @property
    def vectors(self) -> NDArray[Any]:
        """(rows, *shape) vector column, mapped."""
        return self._mapped()[1]

    @property
    def digests(self) -> NDArray[np.uint64]:
        """(rows,) uint64 digest column, mapped."""
        return self._mapped()[2]

    def private_vectors(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows [start, stop) of the vectors as a copy-on-write map that the caller owns, or as a copy."""
        vectors = self.vectors
        mapped = self.columns(self.state)[1].map_privately(start, stop, self._inode)
        return np.array(vectors[start:stop]) if mapped is None else mapped

    def suspend(self) -> None:
        """Drop the maps until the next use. Returned arrays keep their own."""
        self._maps = None

    def close(self) -> None:
        """Drop the maps. Returned arrays keep their own; any later use raises `AlreadyClosed`."""
        self.closed = True
        self._maps = None

    def refresh(self, *, force: bool = False) -> None:
        """Read the state if its file has changed since the last time.

        Args:
            force: Read the file even if it looks unchanged. The stamp consists of an inode number, which can be used
                again, and a clock that advances in steps of milliseconds. A reader that it misleads misses a row; a
                writer would lose one.

        Raises:
            DamagedMirror: If the state is damaged, missing, another namespace's, or has fewer rows than before.
            MirrorReadError: If the system refuses the read.
            AlreadyClosed: If the table is closed.
        """
        if self.closed:
            raise self.closed_error()
        path = self._path
        try:
            newer = self._read_state(force=force)
        except FileNotFoundError as err:
            if self._stamp is None:
                return
            raise DamagedMirror(
                f"{path} is gone while it was in use. Open the cache again; rows that were pushed come back with "
                "`cas-cache pull`."
            ) from err
        if newer is None:
            return
        state, stamp = newer
        if state.namespace != self.state.namespace:
            raise DamagedMirror(
                f"{path} belongs to namespace {state.namespace}, not {self.state.namespace}: folders were mixed up. "
                f"Nothing of it was served. Put them back. If that is not possible: {set_aside(self.folder)}"
            )
        if self._is_other(state):
            raise DamagedMirror(
                f"{path} is not what it was: it had {self.state.rows} rows and has {state.rows}, perhaps others. The "
                "folder was replaced while it was in use. Nothing of it was served. Open the cache again."
            )
        self.state, self._stamp = state, stamp

    def has_moved(self) -> bool:
        """Return True if rows may have moved since the last `refresh`. Reads the file even if it looks unchanged.

        Raises:
            DamagedMirror: If the state is damaged.
        """
        try:
            newer = self._read_state(force=True)
        except FileNotFoundError:
            return self._stamp is not None
        return newer is not None and self._is_other(newer[0])

    def _read_state(self, *, force: bool) -> tuple[State, tuple[int, int, int]] | None:
        """Return the state in the file and its stamp; None if the stamp is unchanged."""
        path = self._path
        try:
            try:
                status = path.lstat()
            except OSError:
                with reading(path):
                    raise
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            if stamp == self._stamp and not force:
                return None
            return State.from_bytes(read_plain(path), str(path)), stamp
        except (FileNotFoundError, MirrorReadError):
            raise
        except OSError as err:
            raise DamagedMirror(f"{path} is not a file ({err}). Nothing was served. {set_aside(self.folder)}") from err

    def _is_other(self, state: State) -> bool:
        """Return True if a state does not continue the known one: rows moved, or the folder was created again."""
        moved = state.generation != self.state.generation and self._stamp is not None
        another = self.state.incarnation not in ("", state.incarnation)
        return state.rows < self.state.rows or moved or another

    def append(self, keys: NDArray[np.uint8], vectors: NDArray[Any], digests: NDArray[np.uint64], state: State) -> None:
        """Write rows after the committed ones and commit `state`, which includes them.

        Raises:
            MirrorWriteError: If the disk is full or a write fails; the committed rows are unchanged.
        """
        shaped = replace(state, dtype=vectors.dtype.name, shape=vectors.shape[1:])
        start = self.state.rows
        columns = self.columns(shaped)
        values: tuple[NDArray[Any], ...] = (keys, vectors, digests)
        try:
            # Order matters: the rows are durable before the state counts them, so a crash never leaves a state whose
            # rows are not on disk.
            if len(keys):
                for column, rows in zip(columns, values, strict=True):
                    if not start:
                        # Another process may still map files of an unfinished eviction. Unlink them: overwriting would
                        # change the mapped rows.
                        column.path.unlink(missing_ok=True)
                    column.write(start, rows)
                for column in columns:
                    column.set_rows(shaped.rows)
            self.write_state(shaped)
        except OSError as err:
            self._truncate_uncommitted(columns)
            raise write_error(self.folder, err, start) from err
        self.refresh(force=True)

    def commit(self, state: State) -> None:
        """Commit `state`.

        Raises:
            MirrorWriteError: If the disk is full or a write fails; the earlier state stays committed.
        """
        try:
            self.write_state(state)
        except OSError as err:
            raise write_error(self.folder, err, self.state.rows) from err
        self.refresh(force=True)

    def write_state(self, state: State) -> None:
        """Replace the state file, which commits `state`.

        Raises:
            OSError: If the file system raises it.
        """
        if not state.incarnation:
            state = replace(state, incarnation=secrets.token_hex(8))
        try:
            write_atomically(self._path, state.to_bytes())
        except OSError as err:
            if not is_full(err):
                raise
            # A push or an eviction needs only a block or two, so make room: the first file is a hint that is written
            # again, the second was a hint of earlier versions and is not read any more.
            for name in (USAGE_FILE, "pace.json"):
                (self.folder / name).unlink(missing_ok=True)
            write_atomically(self._path, state.to_bytes())

    def _truncate_uncommitted(self, columns: Sequence[Column]) -> None:
        """Truncate the bytes that a failed write left after the committed rows: the disk may be full."""
        try:
            self.refresh(force=True)  # the state may have been committed although the write reported an error
            for column in columns:
                column.cut(self.state.rows)
        except (OSError, DamagedMirror) as err:
            logger.info("%s keeps bytes that do not count: %s", self.folder, err)

    def _mapped(self) -> tuple[NDArray[np.uint8], NDArray[Any], NDArray[np.uint64]]:
        if self.closed:
            raise self.closed_error()
        maps, state = self._maps, self.state
        if maps is None or len(maps[0]) != state.rows:
            columns = self.columns(state)
            before = maps or (None, None, None)
            keys, vectors, digests = (
                column.map(state.rows, known) for column, known in zip(columns, before, strict=True)
            )
            maps = self._maps = keys, vectors, digests
            self._inode = columns[1].inode
        return maps

    def closed_error(self) -> AlreadyClosed:
        """Return the error for a use of a table that is closed."""
        return AlreadyClosed(
            f"The namespace {self.state.namespace} in {self.folder.parent.parent} is closed: its cache or mirror was "
            "closed, or rows were evicted from it and others may have moved. Open the cache or mirror again."
        )

    def replaced(self, state: State) -> None:
        """Read a state that `refresh` would reject, because its rows are fewer or have moved: this process moved them.

        Args:
            state: The state that was committed.
        """
        self._maps, self._stamp = None, None
        self.state = replace(state, rows=0)
        self.refresh()

    def columns(self, state: State, ending: str = "") -> tuple[Column, Column, Column]:
        """Return the files of the columns of a state: keys, vectors and digests."""
        dtype = np.dtype(state.dtype or "float32").newbyteorder("<")
        return (
            Column(self.folder / f"keys.npy{ending}", np.dtype(np.uint8), (KEY_BYTES,)),
            Column(self.folder / f"vectors.npy{ending}", dtype, state.shape),
            Column(self.folder / f"digests.npy{ending}", np.dtype("<u8"), ()),
        )


def write_error(folder: Path, err: OSError, rows: int) -> MirrorWriteError:
    """Return an error for a write that failed after `rows` rows were committed."""
    return MirrorWriteError(
        f"{failure(err)} at {folder}. The {rows} rows committed before are safe. {advice(err, 'Make room')}, or use "
        "another directory, and run the same command again: it goes on from there."
    )


def failure(err: OSError) -> str:
    """Return what happened, as the beginning of a sentence."""
    return "The disk is full" if err.errno in FULL_DISK else f"Writing failed ({err})"
