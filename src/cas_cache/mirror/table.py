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

from cas_cache.display import size
from cas_cache.errors import AlreadyClosed, DamagedMirror, MirrorReadError, MirrorWriteError, set_aside
from cas_cache.files.disk import FULL_DISK, advice, flush, is_full, read_plain, reading, write_atomically
from cas_cache.identity import KEY_BYTES
from cas_cache.mirror.column import Column
from cas_cache.mirror.pace import PACE_FILE
from cas_cache.mirror.state import State
from cas_cache.mirror.usage import USAGE_FILE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

STATE_FILE = "state.json"

NEW = ".new"
"""Suffix of the files of a rewrite, until they replace the old files."""

ROWS_AT_ONCE = 1 << 14
"""Number of rows that a rewrite copies and makes durable at a time: 25 MB at 384 float32."""


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
        self._closed = False
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
        mapped = self._columns(self.state)[1].map_privately(start, stop, self._inode)
        return np.array(vectors[start:stop]) if mapped is None else mapped

    def suspend(self) -> None:
        """Drop the maps until the next use. Returned arrays keep their own."""
        self._maps = None

    def close(self) -> None:
        """Drop the maps. Returned arrays keep their own; any later use raises `AlreadyClosed`."""
        self._closed = True
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
        self.check_open()
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
            with reading(path):
                status = path.lstat()
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
        columns = self._columns(shaped)
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
            self._write_state(shaped)
        except OSError as err:
            self._give_back(columns)
            raise _write_error(self.folder, err, start) from err
        self.refresh(force=True)

    def commit(self, state: State) -> None:
        """Commit `state`.

        Raises:
            MirrorWriteError: If the disk is full or a write fails; the earlier state stays committed.
        """
        try:
            self._write_state(state)
        except OSError as err:
            raise _write_error(self.folder, err, self.state.rows) from err
        self.refresh(force=True)

    def _write_state(self, state: State) -> None:
        if not state.incarnation:
            state = replace(state, incarnation=secrets.token_hex(8))
        try:
            write_atomically(self._path, state.to_bytes())
        except OSError as err:
            if not is_full(err):
                raise
            # A push or an eviction needs only a block or two. These files are hints that are written again, so make
            # room.
            for name in (USAGE_FILE, PACE_FILE):
                (self.folder / name).unlink(missing_ok=True)
            write_atomically(self.folder / STATE_FILE, state.to_bytes())

    def _give_back(self, columns: Sequence[Column]) -> None:
        """Truncate the bytes that a failed write left after the committed rows: the disk may be full."""
        try:
            self.refresh(force=True)  # the state may have been committed although the write reported an error
            for column in columns:
                column.cut(self.state.rows)
        except (OSError, DamagedMirror) as err:
            logger.info("%s keeps bytes that do not count: %s", self.folder, err)

    def rewrite(self, runs: Sequence[tuple[int, int]], state: State) -> None:
        """Keep only some rows. The caller holds the lock, and no other object has the table open.

        The kept rows are written to new files. Then `state` is committed with a flag that says so, and the new files
        replace the old ones. A crash before the commit leaves the old rows; `finish_rewrite` completes a rewrite that
        was interrupted after it.

        Args:
            runs: (start, stop) of the rows that stay, ascending.
            state: The state after the rewrite.

        Raises:
            MirrorWriteError: If the disk is full or a write fails; the table is unchanged.
        """
        columns = self._columns(state, NEW)
        try:
            self._write_kept(columns, runs)
            self._commit_rewrite(state)
        except OSError as err:
            if not self._is_rewriting():
                for column in columns:
                    column.path.unlink(missing_ok=True)
            raise _rewrite_error(self.folder, err, self.state, state) from err
        # `refresh` rejects a state with fewer rows or another generation, unless it has no earlier one to compare with.
        self._maps = None
        self._stamp = None
        self.state = replace(state, rows=0)
        self.refresh()
        if self.state.rewriting:
            self.finish_rewrite()

    def _write_kept(self, columns: Sequence[Column], runs: Sequence[tuple[int, int]]) -> None:
        """Write the rows of some runs to the files of a rewrite."""
        old: tuple[NDArray[Any], ...] = self._mapped()
        for column, values in zip(columns, old, strict=True):
            column.path.unlink(missing_ok=True)
            at = 0
            for start, stop in runs:
                for first in range(start, stop, ROWS_AT_ONCE):
                    part = values[first : min(first + ROWS_AT_ONCE, stop)]
                    column.write(at, part)
                    at += len(part)
            if at:
                column.set_rows(at)
        # The names of the files must be durable before the state that needs them is.
        flush(self.folder)

    def _commit_rewrite(self, state: State) -> None:
        try:
            self._write_state(replace(state, rewriting=True))
        except OSError as err:
            if state.rows or not is_full(err) or self._is_rewriting():
                raise
            self._commit_nothing(state)

    def _commit_nothing(self, state: State) -> None:
        """Commit a state without rows on a full disk. A folder without a state file has no rows, and needs no space."""
        # Without its state file the folder has no rows. Only when that is durable may the columns be deleted.
        (self.folder / STATE_FILE).unlink()
        flush(self.folder)
        for column in self._columns(self.state):
            column.path.unlink(missing_ok=True)
        try:
            self._write_state(state)
        except OSError as err:
            logger.info("%s has no rows, and no room for a state that says so: %s", self.folder, err)

    def _is_rewriting(self) -> bool:
        """Return True if the committed state may need the files of a rewrite."""
        try:
            return State.from_bytes(read_plain(self.folder / STATE_FILE), str(self.folder)).rewriting
        except (OSError, DamagedMirror):
            return True

    def finish_rewrite(self) -> None:
        """Rename the new files of a rewrite over the old ones.

        The caller holds the lock, and no process has mapped the columns.
        """
        try:
            for column, new in zip(self._columns(self.state), self._columns(self.state, NEW), strict=True):
                if new.path.exists():
                    new.path.replace(column.path)
                elif not self.state.rows:
                    column.path.unlink(missing_ok=True)
            # All renames are durable before the flag is cleared: a crash in between only repeats this function.
            flush(self.folder)
        except OSError as err:
            raise _write_error(self.folder, err, self.state.rows) from err
        self.commit(replace(self.state, rewriting=False))

    def _mapped(self) -> tuple[NDArray[np.uint8], NDArray[Any], NDArray[np.uint64]]:
        self.check_open()
        maps, state = self._maps, self.state
        if maps is None or len(maps[0]) != state.rows:
            columns = self._columns(state)
            before = maps or (None, None, None)
            keys, vectors, digests = (
                column.map(state.rows, known) for column, known in zip(columns, before, strict=True)
            )
            maps = self._maps = keys, vectors, digests
            self._inode = columns[1].inode
        return maps

    def check_open(self) -> None:
        """Raise `AlreadyClosed` if the table is closed."""
        if self._closed:
            raise AlreadyClosed(
                f"The namespace {self.state.namespace} in {self.folder.parent.parent} is closed: its cache or mirror "
                "was closed, or rows were evicted from it and others may have moved. Open the cache or mirror again."
            )

    def _columns(self, state: State, ending: str = "") -> tuple[Column, Column, Column]:
        dtype = np.dtype(state.dtype or "float32").newbyteorder("<")
        return (
            Column(self.folder / f"keys.npy{ending}", np.dtype(np.uint8), (KEY_BYTES,)),
            Column(self.folder / f"vectors.npy{ending}", dtype, state.shape),
            Column(self.folder / f"digests.npy{ending}", np.dtype("<u8"), ()),
        )


def _write_error(folder: Path, err: OSError, rows: int) -> MirrorWriteError:
    return MirrorWriteError(
        f"{_what(err)} at {folder}. The {rows} rows committed before are safe. {advice(err, 'Make room')}, or use "
        "another directory, and run the same command again: it goes on from there."
    )


def _rewrite_error(folder: Path, err: OSError, before: State, after: State) -> MirrorWriteError:
    if not is_full(err):
        return _write_error(folder, err, before.rows)
    return MirrorWriteError(
        f"{_what(err)} at {folder}. None of its {before.rows} rows was lost. {after.rows} have to stay and are "
        f"written again, which needs {size(after.rows * after.row_bytes)} of room for a while. Make that room, or push "
        "pending rows (`cas-cache push`), and evict again."
    )


def _what(err: OSError) -> str:
    return "The disk is full" if err.errno in FULL_DISK else f"Writing failed ({err})"
