"""The open files and the locks of one namespace.

Every process that has a namespace open holds a shared `UseLock`; an eviction holds it alone, because it moves rows and
no reader may have looked one up before. The lock ends with the process that holds it, however that ends.

When many namespaces are open, the files of some are closed between two calls (see `descriptors`). Another process may
then evict rows, which moves the rest. A row number is valid as long as the namespace is `held`; without that, using it
after rows have moved raises `AlreadyClosed`.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from cas_cache.errors import AlreadyClosed, MirrorError, MirrorWriteError
from cas_cache.files.disk import NO_LOCKS, advice, check_folder, lock_of, open_plain, read_error
from cas_cache.mirror.descriptors import POOL, Pooled
from cas_cache.mirror.index import KeyIndex
from cas_cache.mirror.memo import Memo
from cas_cache.mirror.rewrite import finish_rewrite
from cas_cache.mirror.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

logger = logging.getLogger(__name__)

USE_FILE = ".use"

NO_LOCK_FILE = frozenset(
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
                if err.errno not in NO_LOCK_FILE:
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


class NamespaceFiles(Pooled):
    """The table, index and memo of a namespace, and the locks that protect them.

    Args:
        folder: The folder of the namespace.
        namespace: The id of the namespace.
    """

    def __init__(self, folder: Path, namespace: str) -> None:
        super().__init__()
        self.folder = folder
        self.namespace = namespace
        # Threads that share this object must not refresh the table or extend the index at the same time.
        self._handle = threading.RLock()
        # Taken before anything is read: until the lock is held, an eviction may move rows.
        self._use = UseLock(folder)
        try:
            self.table = Table(folder, namespace)
            self.index, self.memo = KeyIndex(folder), Memo(folder, namespace)
            if self.table.state.rewriting:
                with self.locked():
                    finish_rewrite(self.table)
        except BaseException:
            self._use.release()  # the error's traceback keeps this object alive
            raise
        POOL.use(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"NamespaceFiles({str(self.folder)!r})"

    def close(self) -> None:
        """Drop the maps and descriptors and let others evict. Any later look-up or write raises `AlreadyClosed`.

        Arrays that were returned stay valid: each has a map of its own, and files are replaced, never truncated.
        """
        with self._handle, self._gate:
            self.table.close()
            self.index.close()
            self._use.release()
        POOL.discard(self)

    def reopen(self) -> bool:
        """Open the files again if they were closed because descriptors ran short.

        Returns:
            False if the namespace was closed or rows have moved; the caller then has to get it from the mirror again.
        """
        try:
            self.hold()
        except AlreadyClosed:
            return False
        self.release()
        return True

    def hold(self) -> None:
        """Keep the namespace open, so that rows do not move, until `release`.

        Raises:
            AlreadyClosed: If the namespace is closed, or rows have moved since its last use.
        """
        if self.table.closed:
            raise self.table.closed_error()
        super().hold()

    def refresh(self) -> None:
        """Read the commits of other processes.

        Raises:
            AlreadyClosed: If the namespace is closed.
        """
        with self.opened():
            self.table.refresh()

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

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Keep the files open, for one thread at a time."""
        self.hold()
        try:
            with self._handle:
                yield
        finally:
            self.release()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the only writer, after reading all commits of others.

        Raises:
            MirrorWriteError: If the namespace cannot be locked.
        """
        check_folder(self.folder)
        # The use lock comes first, as in an eviction; in the other order two processes could wait for each other.
        with self.held():
            try:
                lock = lock_of(self.folder / ".lock")
                lock.acquire()
            except OSError as err:
                raise MirrorWriteError(
                    f"{self.folder} cannot be written ({err}). Nothing was changed. {advice(err, 'Make it writable')}, "
                    "or use another directory."
                ) from err
            try:
                with self._handle:
                    # A writer that misses a commit would overwrite its rows, so it reads the state even if the file
                    # looks unchanged.
                    self.table.refresh(force=True)
                    yield
            finally:
                lock.release()

    def _open_files(self) -> None:
        use = UseLock(self.folder)  # before anything is read: until it is held, an eviction may move rows
        try:
            if self.table.has_moved():
                self.table.close()
            if self.table.closed:
                raise self.table.closed_error()
        except BaseException:
            use.release()
            raise
        self._use = use

    def _close_files(self) -> None:
        self.table.suspend()
        # Index and memo are derived: a reopened namespace reads them again, or sorts the keys again.
        self.index, self.memo = KeyIndex(self.folder), Memo(self.folder, self.namespace)
        self._use.release()
