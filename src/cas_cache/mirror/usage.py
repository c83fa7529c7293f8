"""Who has a namespace open, and when its packs were last used here: what `evict` needs to know.

`UseLock` is held by whoever has the namespace open, shared, and alone by an eviction: rows move then, and no reader may
have looked one up before. It ends with the process that holds it, however that ends. A namespace whose files are closed
for want of descriptors does not hold it, and forgets its rows if they have moved when it takes the lock again.

`Usage` is derived and approximate: what is lost makes a pack older. A process notes a pack the first time that it
serves a row of it, so a note costs one small file once, not one a call.
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

from cas_cache.disk import NO_LOCKS, open_plain, read_error, read_plain, write_atomically
from cas_cache.errors import MirrorError
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
"""Why the file of the lock may not exist, or may not be opened. Every other error passes."""


class UseLock:
    """Held from its making on, with others. Where its file cannot be made nobody can evict, so none is needed."""

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
        """Hold it alone, unless others hold it too: then as before.

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
            # The attempt may have let go of the shared lock.
            self._share()
            return False
        return True

    def share(self) -> None:
        """Hold it with others again."""
        if self._descriptor is not None:
            self._share()

    def release(self) -> None:
        """Let go."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _share(self) -> None:
        """Wait while somebody evicts. Where the file system has no such locks, nobody evicts from here."""
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
        # A descriptor is no work: without this a mirror that is opened often would run out of them.
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
        """Note the packs of rows that are served."""
        if self._state is not state:
            self._state = state
            self._starts = np.array([extent.start for extent in state.extents], np.int64)
        if isinstance(rows, slice):
            first, last = np.searchsorted(self._starts, [rows.start, rows.stop - 1], "right") - 1
            used = list(range(int(first), int(last) + 1))
        else:
            # Extents are few: which of them is met is told by a count, without a sort of the rows.
            counts = np.bincount(np.searchsorted(self._starts, rows, "right") - 1, minlength=len(self._starts))
            used = np.flatnonzero(counts).tolist()
        self.note_packs(pack for at in used if (pack := state.extents[at].pack) is not None)

    def note_packs(self, packs: Iterable[str]) -> None:
        """Note packs that are used, or that are new."""
        new = set(packs) - self._noted
        if new:
            self._noted |= new
            now = time.time()
            self._write({**read_usage(self._folder), **dict.fromkeys(new, now)})

    def _write(self, used: dict[str, float]) -> None:
        try:
            write_atomically(self._folder / USAGE_FILE, json.dumps(used).encode())
        except OSError as err:
            # A mirror that may not be written is not evicted from here either.
            logger.info("the use of packs is not noted: %s", err)


def read_usage(folder: Path) -> dict[str, float]:
    """Return when each pack was last used, in seconds since 1970 by this machine's clock, where that is known."""
    try:
        document = parsed_json(read_plain(folder / USAGE_FILE))
        return {str(pack): float(at) for pack, at in document.items()}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError):
        return {}
