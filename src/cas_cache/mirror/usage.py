"""Locks and times of use of a namespace: what `evict` needs to know.

Every process that has a namespace open holds a shared `UseLock`; an eviction holds it alone, because it moves rows and
no reader may have looked one up before. The lock ends with the process that holds it, however that ends. A namespace
whose files were closed because descriptors ran short does not hold the lock, and discards its rows if they have moved
when it takes the lock again.

`Usage` is derived and approximate: a lost record makes a pack look older. A process records a pack the first time that
it serves one of its rows, so the cost is one small file per pack and process, not per call.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import time
from typing import TYPE_CHECKING

import numpy as np

from cas_cache.errors import MirrorError
from cas_cache.files.disk import NO_LOCKS, open_plain, read_error, read_plain, write_atomically
from cas_cache.identity import parsed_json

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from cas_cache.mirror.state import State

logger = logging.getLogger(__name__)

USAGE_FILE = "used.json"
USE_FILE = ".use"


NOT_MADE = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT}
)
"""Errors of a lock file that cannot be created or opened at all. Any other error may be temporary and is raised."""


class UseLock:
    """A lock that is shared from construction on. If its file cannot be created, no process can evict or needs it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / USE_FILE
        self._descriptor: int | None = None
        self._no_locks = ""
        for flags in (os.O_RDWR | os.O_CREAT, os.O_RDONLY):
            try:
                self._descriptor = open_plain(self._path, flags)
                break
            except OSError as err:
                if err.errno not in NOT_MADE:
                    raise read_error(self._path, err) from err
        if self._descriptor is not None:
            self._share()

    def __repr__(self) -> str:
        return f"UseLock({'held' if self._descriptor is not None else 'free'})"

    def alone(self) -> bool:
        """Try to take the lock alone; return False and keep it shared if others hold it.

        Raises:
            MirrorError: If the file system has no locks.
        """
        if self._no_locks:
            raise MirrorError(
                f"The file system of {self._path.parent} has no file locks ({self._no_locks}), so it is not known "
                "whether another process reads the namespace. Nothing was evicted. Push what is pending, and use a new "
                "directory, on a local disk, for the mirror."
            )
        if self._descriptor is None:
            return False
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            # A failed attempt to upgrade may have released the shared lock.
            self._share()
            return False
        return True

    def share(self) -> None:
        """Share the lock with others again."""
        if self._descriptor is not None:
            self._share()

    def release(self) -> None:
        """Release the lock."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _share(self) -> None:
        """Wait until no process evicts. On a file system without such locks, this process cannot evict."""
        descriptor = self._descriptor
        if descriptor is not None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            except OSError as err:
                self._descriptor = None
                os.close(descriptor)
                if err.errno not in NO_LOCKS:
                    raise read_error(self._path, err) from err
                self._no_locks = str(err)
                logger.info("no eviction from here: %s", err)

    def __del__(self) -> None:
        # Without this, a program that opens a mirror often and never closes it would run out of descriptors.
        self.release()


class Usage:
    """The packs that this process has used."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._noted: set[str] = set()
        self._state: State | None = None
        self._starts: NDArray[np.int64] = np.empty(0, np.int64)

    def __repr__(self) -> str:
        return f"Usage({len(self._noted)} packs)"

    def note(self, rows: NDArray[np.int64] | slice, state: State) -> None:
        """Record the packs of rows that are served."""
        if self._state is not state:
            self._state = state
            self._starts = np.array([extent.start for extent in state.extents], np.int64)
        if isinstance(rows, slice):
            first, last = np.searchsorted(self._starts, [rows.start, rows.stop - 1], "right") - 1
            used = list(range(int(first), int(last) + 1))
        else:
            # There are few extents, so counting the rows of each is faster than sorting the rows.
            counts = np.bincount(np.searchsorted(self._starts, rows, "right") - 1, minlength=len(self._starts))
            used = np.flatnonzero(counts).tolist()
        self.note_packs(pack for at in used if (pack := state.extents[at].pack) is not None)

    def note_packs(self, packs: Iterable[str]) -> None:
        """Record packs that were used or are new."""
        new = set(packs) - self._noted
        if new:
            self._noted |= new
            now = time.time()
            self._write({**read_usage(self._folder), **dict.fromkeys(new, now)})

    def _write(self, used: dict[str, float]) -> None:
        try:
            write_atomically(self._folder / USAGE_FILE, json.dumps(used).encode())
        except OSError as err:
            # A process that may not write to the mirror cannot evict from it either.
            logger.info("the use of packs is not noted: %s", err)


def read_usage(folder: Path) -> dict[str, float]:
    """Return the last use of each pack, in seconds since 1970 by this machine's clock, as far as it is known."""
    try:
        document = parsed_json(read_plain(folder / USAGE_FILE))
        return {str(pack): float(at) for pack, at in document.items()}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError):
        return {}
