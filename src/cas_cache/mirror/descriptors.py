"""File descriptors: a process holds a bounded number for its mirrors, whatever the number of namespaces and answers.

An open namespace holds one descriptor for its use lock, and one for each file that it has mapped. An answer that is a
map of the file holds one as long as the array lives. When there are too many, the namespaces that were used longest
ago close their files and open them again when they are next used; answers beyond their limit are copied.
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

from cas_cache.disk import mapped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader

    from numpy.typing import NDArray

SHARE = 4
"""A quarter of the process's limit for namespaces, a quarter for answers: half of it is left for everything else."""

MAX_OPEN = 256
"""Descriptors for namespaces where the limit of the process allows more: some 60 namespaces with all files mapped."""

MAX_ANSWERS = 1 << 14
"""Answers that are maps where the limit allows more. Linux gives a process 65,530 maps by default (max_map_count)."""

EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors of a process or machine that has no descriptor, no map or no memory left."""

_maps: WeakSet[Any] = WeakSet()
_answers: WeakSet[Any] = WeakSet()


def map_file(
    file: BufferedReader, dtype: Any, offset: int, shape: tuple[int, ...], known: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Map a part of a file of a namespace, read-only; see `disk.mapped`."""
    array = mapped(file, dtype, "r", offset, shape, known)
    _count(array, _maps)
    return array


def map_answer(file: BufferedReader, dtype: Any, offset: int, shape: tuple[int, ...]) -> NDArray[Any]:
    """Map a part of a file for the caller of a look-up, copy-on-write; see `disk.mapped`."""
    array = mapped(file, dtype, "c", offset, shape)
    _count(array, _answers)
    return array.view(np.ndarray)


def _count(array: NDArray[Any], maps: WeakSet[Any]) -> None:
    base: object = array.base
    if isinstance(base, mmap):  # otherwise the rows were read into memory
        maps.add(base)


def may_map_answer() -> bool:
    """Return True while fewer answers than the limit are maps."""
    return len(_answers) < _limit(MAX_ANSWERS)


def _limit(most: int) -> int:
    # Asked each time: a program may change its limit while it runs.
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most if soft == resource.RLIM_INFINITY else min(most, soft // SHARE)


class Pooled:
    """An object that opens files when it is used, and whose files the pool may close between two uses.

    A subclass wraps each use of its files in `held` and implements `_open_files` and `_close_files`.
    """

    def __init__(self) -> None:
        self._gate = threading.Lock()
        self._holders = 0
        self._suspended = False

    @contextmanager
    def held(self) -> Iterator[Self]:
        """Keep the files open until the block ends. It may be nested, and used by several threads at once."""
        self.hold()
        try:
            yield self
        finally:
            self.release()

    def hold(self) -> None:
        """Keep the files open until `release`. Each call needs one of its own."""
        with self._gate:
            if self._suspended:
                self._open_files()
                self._suspended = False
            self._holders += 1
            nested = self._holders > 1
        if not nested:
            POOL.use(self)

    def release(self) -> None:
        """End one `hold`."""
        with self._gate:
            self._holders -= 1

    def suspend(self) -> bool:
        """Close the files until the next use; return False if they are in use."""
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
        """Open again what `_close_files` closed."""
        raise NotImplementedError

    def _close_files(self) -> None:
        """Drop every descriptor and map."""
        raise NotImplementedError


class Pool:
    """The objects of this process that may have files open, with the order in which they were used.

    It has no strong reference to them: a mirror that is dropped without `close` takes its namespaces with it.
    """

    def __init__(self) -> None:
        self._clock = itertools.count()
        self._last_use: WeakKeyDictionary[Pooled, int] = WeakKeyDictionary()
        self.forked()

    def __repr__(self) -> str:
        return f"Pool({len(self._last_use)} open, {len(_maps)} maps)"

    def forked(self) -> None:
        """Forget who holds the lock: in a forked process that thread does not exist."""
        # Reentrant: the garbage collector may close a mirror while the lock is held.
        self._lock = threading.RLock()

    def use(self, member: Pooled) -> None:
        """Note that an object is used now, and suspend others if there are too many descriptors."""
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
        """Forget an object whose files are closed."""
        with self._lock:
            self._last_use.pop(member, None)

    def _excess(self) -> bool:
        # One descriptor for the lock of each namespace, and one for each map.
        return len(self._last_use) + len(_maps) > _limit(MAX_OPEN)


POOL = Pool()

os.register_at_fork(after_in_child=POOL.forked)
