"""A failing local disk: full, or with another error, at the n-th write, flush or rename."""

from __future__ import annotations

import builtins
import errno
import io
import os
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Operation = Literal["write", "fsync", "rename"]


SECTOR = 512
"""Number of bytes that a disk writes completely or not at all."""


class FailingDisk:
    """Record of the operations and failures of a `failing_disk`.

    Attributes:
        calls: The number of times that the operation was called.
        fired: The paths of the files at which it failed.
        fired: The files at which it failed.
    """

    def __init__(self, folder: str | os.PathLike[str], code: int, at: int, times: int | None) -> None:
        self.calls = 0
        self.fired: list[str] = []
        self._root, self._code = os.path.realpath(folder), code
        self._at, self._times = at, times
        self._lock = threading.Lock()
        self._fsync, self._open = os.fsync, io.open

    def __repr__(self) -> str:
        return f"FailingDisk({self._root!r}, {len(self.fired)} of {self.calls} failed)"

    def _fails(self, path: str) -> OSError | None:
        """Count an operation; return its error if it has to fail."""
        if not f"{os.path.realpath(path)}/".startswith(f"{self._root}/"):
            return None
        with self._lock:
            self.calls += 1
            past = self.calls - self._at
            if past < 0 or (self._times is not None and past >= self._times):
                return None
            self.fired.append(path)
        return OSError(self._code, os.strerror(self._code), path)

    def _flushed(self, file: Any) -> None:
        if error := self._fails(_path_of(file)):
            raise error
        self._fsync(file)

    def _opened(self, file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        opened = self._open(file, mode, *args, **options)
        if not set(mode) & set("wax+"):
            return opened
        return _File(opened, _path_of(file) if isinstance(file, int) else str(os.fspath(file)), self._fails)

    def _renaming(self, real: Callable[..., None]) -> Callable[..., None]:
        def rename(source: Any, target: Any, **options: Any) -> None:
            if error := self._fails(os.fspath(target)):
                raise error
            real(source, target, **options)

        return rename

    def _patched(self, operation: Operation) -> list[tuple[Any, str, Any]]:
        """Return the functions to replace for an operation: module, name, replacement."""
        if operation == "write":
            return [(builtins, "open", self._opened), (io, "open", self._opened)]
        if operation == "fsync":
            return [(os, "fsync", self._flushed)]
        return [(os, name, self._renaming(getattr(os, name))) for name in ("rename", "replace", "link")]


@contextmanager
def failing_disk(
    operation: Operation,
    folder: str | os.PathLike[str],
    *,
    code: int = errno.ENOSPC,
    at: int = 1,
    times: int | None = 1,
) -> Iterator[FailingDisk]:
    """Make an operation on the files below a folder fail, in this process, while the context is active.

    A failing write writes half of its data, in whole sectors. A failing flush makes nothing durable.

    Args:
        operation: ``"write"`` to an open file; ``"fsync"`` of a file or folder; ``"rename"``, including hard links.
        folder: The folder; other files are not affected.
        code: The error number: `errno.ENOSPC`, a full disk; `errno.EIO`, a broken one.
        at: The first operation that fails, counted from 1.
        times: The number of operations that fail from then on; None for all.

    Yields:
        A record of the operations and failures.
    """
    disk = FailingDisk(folder, code, at, times)
    kept = []
    try:
        for where, name, new in disk._patched(operation):
            kept.append((where, name, getattr(where, name)))
            setattr(where, name, new)
        yield disk
    finally:
        for where, name, old in kept:
            setattr(where, name, old)


class _File:
    """An open file whose writes can fail."""

    def __init__(self, file: Any, path: str, fails: Callable[[str], OSError | None]) -> None:
        self._file, self._path, self._fails = file, path, fails

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: Any) -> Any:
        """Write the data, or write half of it and fail."""
        if error := self._fails(self._path):
            whole = data if isinstance(data, str) else memoryview(data).cast("B")
            self._file.write(whole[: len(whole) // 2 // SECTOR * SECTOR])
            raise error
        return self._file.write(data)


def _path_of(descriptor: Any) -> str:
    """Return the file that a descriptor is open for, where the system reports it."""
    number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
    link = Path(f"/proc/self/fd/{number}")
    if link.exists():
        return str(link.readlink())
    import fcntl  # macOS

    return os.fsdecode(fcntl.fcntl(number, getattr(fcntl, "F_GETPATH", 50), bytes(1024)).rstrip(b"\0"))
