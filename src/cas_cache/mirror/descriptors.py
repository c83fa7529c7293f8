"""File descriptors: a process holds a limited number for its mirrors, however many namespaces and answers there are.

An open namespace holds one descriptor for its use lock and one for each mapped file. An answer that is a map of the
file holds one as long as the array lives. When there are too many, the least recently used namespaces close their files
and open them again at the next use; answers beyond their limit are copied.
"""

from __future__ import annotations

import errno
import itertools
import os
import resource
import threading
from contextlib import contextmanager
from mmap import mmap
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakKeyDictionary, WeakSet

import numpy as np

from cas_cache.files.disk import mapped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader

    from numpy.typing import NDArray

SHARE = 4
"""Divisor of the process's limit: a quarter for namespaces and a quarter for answers leave half for everything else."""

MAX_OPEN = 256
"""Maximum number of descriptors for namespaces, if the process's limit allows it: some 60 namespaces, all files
mapped."""

MAX_ANSWERS = 1 << 14
"""Maximum number of answers that are maps, if the limit allows it. Linux allows 65,530 maps per process by default
(max_map_count)."""

EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors of a process or machine that has run out of descriptors, maps or memory."""

_maps: WeakSet[Any] = WeakSet()
_answers: WeakSet[Any] = WeakSet()


def map_file(
    file: BufferedReader, dtype: Any, offset: int, shape: tuple[int, ...], known: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Map a part of a namespace's file, read-only; see `disk.mapped`."""
    array = mapped(file, dtype, "r", offset, shape, known)
    _count(array, _maps)
    return array


def map_answer(file: BufferedReader, dtype: Any, offset: int, shape: tuple[int, ...]) -> NDArray[Any]:
    """Map a part of a file copy-on-write, as an answer to a look-up; see `disk.mapped`."""
    array = mapped(file, dtype, "c", offset, shape)
    _count(array, _answers)
    return array.view(np.ndarray)


def _count(array: NDArray[Any], maps: WeakSet[Any]) -> None:
    base: object = array.base
    if isinstance(base, mmap):  # otherwise the rows were read into memory, which needs no descriptor
        maps.add(base)


def may_map_answer() -> bool:
    """Return True while fewer answers than the limit are maps."""
    return len(_answers) < _limit(MAX_ANSWERS)


def _limit(most: int) -> int:
    # Read each time: a program may change its limit while it runs.
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most if soft == resource.RLIM_INFINITY else min(most, soft // SHARE)


class Pooled:
    """An object that opens files when it is used, and whose files the pool may close between two uses.

    A subclass wraps each use of its files in `held`, and implements `_open_files` and `_close_files`.
    """

    def __init__(self) -> None:
        self._gate = threading.Lock()
        self._holders = 0
        self._suspended = False

    @contextmanager
    def held(self) -> Iterator[Self]:
        """Keep the files open until the block ends. Blocks may be nested, and used by several threads at once."""
        self.hold()
        try:
            yield self
        finally:
            self.release()

    def hold(self) -> None:
        """Keep the files open until `release`, which must be called once for each `hold`."""
        with self._gate:
            if self._suspended:
                self._open_files()
                self._suspended = False
            self._holders += 1
            nested = self._holders > 1
        # An object that is held already counts as in use; its place in the pool is up to date.
        if not nested:
            POOL.use(self)

    def release(self) -> None:
        """End one `hold`."""
        with self._gate:
            self._holders -= 1

    def suspend(self) -> bool:
        """Close the files until the next use; return False if they are in use."""
        # Never wait here: the pool holds its lock, and the thread that holds this gate may be waiting for it.
        if not self._gate.acquire(blocking=False):
            return False
        try:
            if self._holders:
                return False
            self._suspended = True
            self._close_files()
        finally:
            self._gate.release()
        return True

    def _open_files(self) -> None:
        """Open the files again that `_close_files` closed."""
        raise NotImplementedError

    def _close_files(self) -> None:
        """Drop every descriptor and map."""
        raise NotImplementedError


class Pool:
    """The objects of this process that may have open files, in the order of their last use.

    It holds weak references only: a mirror that is dropped without `close` takes its namespaces with it.
    """

    def __init__(self) -> None:
        self._clock = itertools.count()
        self._last_use: WeakKeyDictionary[Pooled, int] = WeakKeyDictionary()
        self.forked()

    def __repr__(self) -> str:
        return f"Pool({len(self._last_use)} open, {len(_maps)} maps)"

    def forked(self) -> None:
        """Replace the lock after a fork: the thread that may have held it does not exist in the child."""
        # Reentrant, because the garbage collector may close a mirror while this thread holds the lock.
        self._lock = threading.RLock()

    def use(self, member: Pooled) -> None:
        """Record that an object is used now, and suspend others if there are too many descriptors."""
        with self._lock:
            self._last_use[member] = next(self._clock)
            if not self._excess():
                return
            for other, _ in sorted(self._last_use.items(), key=lambda item: item[1]):
                if other is not member and other.suspend():
                    self.discard(other)
                if not self._excess():
                    return

    def discard(self, member: Pooled) -> None:
        """Remove an object whose files are closed."""
        with self._lock:
            self._last_use.pop(member, None)

    def _excess(self) -> bool:
        # One descriptor for the lock of each namespace, and one for each map.
        return len(self._last_use) + len(_maps) > _limit(MAX_OPEN)


POOL = Pool()

os.register_at_fork(after_in_child=POOL.forked)
