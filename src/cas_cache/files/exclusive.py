"""A lock for file systems that have none: a file that only one process can create.

Every file system can create a file exclusively, so this lock works where `flock` does not. It has two disadvantages: it
is polled, and it does not end with the process that holds it. Its file therefore names the holder. If the holder was a
process of this machine and has ended, the next process that needs the lock breaks it. Nothing is known of a process on
another machine: the lock is waited for, and then an error names the file.
"""

from __future__ import annotations

import errno
import os
import platform
import secrets
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

POLL = 0.05
"""Seconds between two attempts, as with `filelock`."""

PATIENCE = 120.0
"""Seconds to wait for one holder. A commit takes seconds, an eviction of a large mirror a minute."""

_held: set[str] = set()
"""Tokens of the locks that this process holds. They are needed because a restarted container uses process ids again."""


class ExclusiveLock:
    """A lock that is held while its file exists.

    Args:
        path: The file, which nothing else creates.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._token = ""

    def __repr__(self) -> str:
        return f"ExclusiveLock({str(self._path)!r})"

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Wait until no other process holds the lock, and take it.

        Raises:
            TimeoutError: If one other holder kept it for `PATIENCE` seconds.
            OSError: If the file system raises it.
        """
        token = secrets.token_hex(8)
        _held.add(token)
        try:
            self._create(token)
        except BaseException:
            _held.discard(token)
            raise
        self._token = token

    def release(self) -> None:
        """Release the lock."""
        self._path.unlink(missing_ok=True)
        _held.discard(self._token)

    def _create(self, token: str) -> None:
        holder, since = "", time.monotonic()
        while not _create_file(self._path, f"{machine()} {os.getpid()} {token}"):
            current = self._holder()
            # The wait is limited per holder, because with many waiting processes the lock changes hands often.
            if current != holder:
                holder, since = current, time.monotonic()
            elif time.monotonic() - since > PATIENCE:
                raise TimeoutError(
                    errno.ETIMEDOUT,
                    f"the lock is held by another process ({current or 'unknown'}: its machine, number and token). If "
                    "that process has ended, remove this file",
                    str(self._path),
                )
            elif _has_ended(current):
                self._break(current)
            else:
                time.sleep(POLL)

    def _holder(self) -> str:
        try:
            return self._path.read_text()
        except FileNotFoundError:
            return ""

    def _break(self, holder: str) -> None:
        """Remove the lock of a process that has ended, unless another process has broken and taken it meanwhile."""
        guard = self._path.with_name(f"{self._path.name}.break")
        if not _create_file(guard, holder):
            time.sleep(POLL)
            return
        try:
            # The guard serialises breakers: without it, one could remove the lock that another has just taken.
            if self._holder() == holder:
                self._path.unlink()
        finally:
            guard.unlink()


def machine() -> str:
    """Return a name for the scope of this process's id: containers may share a machine's name, but not its ids."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - the link leads to no file
    except OSError:
        namespace = ""
    return f"{platform.node()}{namespace}"


def _create_file(path: Path, text: str) -> bool:
    """Create a file, or return False if it exists."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    except FileExistsError:
        return False
    try:
        os.write(descriptor, text.encode())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    return True


def _has_ended(holder: str) -> bool:
    """Return True if a holder is a process of this machine, or of this container, that is not running."""
    words = holder.rsplit(" ", 2)
    if len(words) != len(("machine", "number", "token")) or words[0] != machine() or not words[1].isdigit():
        return False
    if int(words[1]) == os.getpid():
        return words[2] not in _held
    try:
        os.kill(int(words[1]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False
