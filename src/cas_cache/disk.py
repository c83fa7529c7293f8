"""Local files that are whole or absent, and that are files.

`write_atomically` is temp file, flush, rename, flush of the folder: after a crash the name holds the old bytes or the
new ones. fsspec's local file system promises neither.

A mirror may come from somebody else, in an archive. So whatever of a mirror is opened by its name is opened by
`open_plain`, after `check_folder` has seen each folder between the mirror's directory and the file: a symbolic link is
refused wherever it leads, and a pipe, which would be waited for, is as well. Nothing of ours is ever a link. Who may
write in the directory while it is in use can put a link there between the two: that is no defence against them.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from cas_cache.errors import CasCacheError, DamagedMirror, LinkInMirror, MirrorReadError, as_cause
from cas_cache.exclusive import ExclusiveLock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from numpy.typing import NDArray

TEMP_PREFIX = ".tmp-"
"""What a crash may leave behind starts with this; no name of ours does."""


_OTHER_FILE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR})
"""These say that another file, or none, has the name. Every other error of a read says nothing about the file."""

NOT_SUPPORTED = frozenset(
    {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, errno.EACCES, errno.EBADF, errno.EISDIR}
)
"""Errors of a file system for a call that it does not support. Calls that are not essential are then left out."""

NO_LOCKS = frozenset(
    {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, errno.EBADF}
)
"""Errors of a file system without locks."""

NO_LINKS = NOT_SUPPORTED | {errno.EXDEV, errno.EMLINK, errno.ENOTTY}

EXCLUSIVE = b"exclusive-create\n"
"""Content of a lock file on a file system without locks: every process then takes an `ExclusiveLock`."""

FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT})

NO_ROOM = FULL_DISK | {errno.EFBIG}
"""A limit of the size of a file leaves no room, either."""

_TOO_MANY_FILES = "Too many files are open: close some, or allow more with `ulimit -n`"

_NOT_MAPPED_NOW = frozenset({errno.EIO, errno.ESTALE})
"""A read would fail as well. Everything else says that there are no maps, or no more of them."""

_ADVICE = {
    errno.EMFILE: _TOO_MANY_FILES,
    errno.ENFILE: _TOO_MANY_FILES,
    errno.ENOMEM: "Free some memory",
    errno.EACCES: "Check its owner and permissions",
    errno.EPERM: "Check its owner and permissions",
    errno.EIO: "Check the disk",
}


def write_atomically(path: Path, data: bytes | memoryview, *, create_only: bool = False) -> bool:
    """Write a file so that its name never holds a part of it.

    Args:
        path: The file; its folder exists.
        data: What it will hold.
        create_only: Leave an existing file as it is. Decided by the file system, so of two writers exactly one wins.

    Returns:
        False if `create_only` found the file there, else True.

    Raises:
        OSError: As the file system says; nothing is left behind.
    """
    temp = path.parent / f"{TEMP_PREFIX}{uuid.uuid4().hex}"
    try:
        with temp.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if create_only:
            if not move_new(temp, path):
                # Whoever made it may have died, or failed, before its name was durable.
                flush(path.parent)
                return False
        else:
            temp.replace(path)
    finally:
        temp.unlink(missing_ok=True)
    flush(path.parent)
    return True


def move_new(temp: Path, path: Path) -> bool:
    """Give a file a name that no file has.

    Without hard links, all who make the name take turns, by a file that only one of them can create.

    Returns:
        False if a file has the name. It stays as it is.

    Raises:
        OSError: As the file system says.
    """
    try:
        path.hardlink_to(temp)
    except FileExistsError:
        return False
    except OSError as err:
        if err.errno not in NO_LINKS:
            raise
        with ExclusiveLock(path.with_name(f"{TEMP_PREFIX}{path.name}.held")):
            if os.path.lexists(path):
                return False
            temp.replace(path)
    return True


def open_plain(path: Path, flags: int = os.O_RDONLY) -> int:
    """Open a file of a mirror and return its descriptor. A new one gets the mode that the umask leaves of 0666.

    Args:
        path: The file; its folder was checked.
        flags: As for `os.open`.

    Raises:
        LinkInMirror: If it is a symbolic link.
        DamagedMirror: If it is a pipe, a socket or a device.
        OSError: As the file system says.
    """
    try:
        # Without O_NONBLOCK the opening of a pipe waits for its other end. To files it does nothing.
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as err:
        if err.errno == errno.ELOOP or path.is_symlink():
            raise _link(path) from err
        raise
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise DamagedMirror(
        f"{path} is no file but a pipe, a socket or a device. Nothing of it was read or written. cas_cache makes none: "
        "find out who did, and delete it."
    )


def plain(path: str, flags: int) -> int:
    """Open a file of a mirror: the `opener` of `open`, whose file has a name then."""
    return open_plain(Path(path), flags)


def read_plain(path: Path) -> bytes:
    """Return the bytes of a file of a mirror.

    Raises:
        MirrorReadError: If the system refuses the read.
        FileNotFoundError: If there is no such file.
        LinkInMirror: As `open_plain` does, and what else it raises.
    """
    with reading(path), os.fdopen(open_plain(path), "rb") as file:
        return file.read()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an error of the system, which says nothing about the file, into `MirrorReadError`.

    Raises:
        MirrorReadError: If the body raised such an error.
        OSError: As the body raised it, if the name is not a file's.
    """
    try:
        yield
    except CasCacheError:
        raise
    except MemoryError as err:
        raise read_error(path, OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))) from as_cause(err)
    except OSError as err:
        if err.errno in _OTHER_FILE:
            raise
        raise read_error(path, err) from as_cause(err)


def is_full(err: BaseException) -> bool:
    """Return True if the reason of an error, or of what led to it, is a disk, a quota or a limit without room."""
    cause: BaseException | None = err
    while cause is not None and not (isinstance(cause, OSError) and cause.errno in NO_ROOM):
        cause = cause.__cause__
    return cause is not None


def read_error(path: Path, err: OSError) -> MirrorReadError:
    """Return the error that says why a file cannot be read now, and what to do before the next attempt."""
    return MirrorReadError(
        f"{path} cannot be read now ({err}). It is not known to be damaged, and nothing was changed. {advice(err)}, "
        "then try again."
    )


def advice(err: OSError, otherwise: str = "Wait a moment") -> str:
    """Return what to do about an error of the system before the next attempt, as the beginning of a sentence."""
    return _ADVICE.get(err.errno or 0, otherwise)


def check_folder(*folders: Path) -> None:
    """Refuse folders below a mirror's directory that are symbolic links. One that is not there is fine.

    Raises:
        LinkInMirror: If one is.
        MirrorReadError: If the system refuses to say so.
    """
    for folder in folders:
        with reading(folder):
            if folder.is_symlink():
                raise _link(folder)


def links_below(root: Path, path: str) -> str | None:
    """Return the first name on the way to a file below a directory that is a symbolic link; None if none is.

    Args:
        root: The directory, which may be reached by links.
        path: Below it, with slashes.
    """
    place = str(root)
    for name in path.split("/"):
        place = f"{place}/{name}"
        try:
            if stat.S_ISLNK(os.lstat(place).st_mode):
                return place
        except (FileNotFoundError, NotADirectoryError):
            return None
    return None


def lock_of(path: Path) -> FileLock | ExclusiveLock:
    """Return the lock of a file of a mirror, which is made. Which kind of lock it is is decided once, when it is made.

    Raises:
        LinkInMirror: As `open_plain` does, and what else it raises.
        OSError: If the file system had locks when the file was made, and has none now.
    """
    # Not by filelock: its older versions follow links, cut what these lead to, and pass over the umask.
    descriptor = _lock_file(path)
    try:
        if os.read(descriptor, len(EXCLUSIVE)) == EXCLUSIVE:
            return ExclusiveLock(path.with_name(f"{path.name}.held"))
        # Where there is no flock, some versions of filelock wait forever for a file that exists.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except OSError as err:
        if err.errno in NO_LOCKS:
            reason = f"{os.strerror(err.errno or 0)}: no file locks now, and there were when the mirror was made"
            raise OSError(err.errno, reason, str(path)) from err
        raise
    finally:
        os.close(descriptor)
    return FileLock(path)


def _lock_file(path: Path) -> int:
    try:
        return open_plain(path)
    except FileNotFoundError:
        if not has_locks(path.parent):
            write_atomically(path, EXCLUSIVE)
        return open_plain(path, os.O_RDWR | os.O_CREAT)


def has_locks(folder: Path) -> bool:
    """Return True if files in a folder can be locked.

    Raises:
        OSError: If no file can be made there.
    """
    probe = folder / f"{TEMP_PREFIX}{uuid.uuid4().hex}"
    descriptor = open_plain(probe, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        if err.errno not in NO_LOCKS:
            raise
        return False
    finally:
        os.close(descriptor)
        probe.unlink(missing_ok=True)
    return True


def mapped(
    file: BinaryIO, dtype: Any, mode: str, offset: int, shape: tuple[int, ...], known: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Return a part of a file as a map, or, where the file system has no maps, read into memory.

    Args:
        file: Open to be read.
        dtype: Of the array.
        mode: ``"r"`` for a read-only array, ``"c"`` for one of the caller's own.
        offset: Where the array begins.
        shape: Its shape.
        known: The first of its rows, where they were read before: these are not read again.

    Raises:
        OSError: If the file cannot be read, either.
    """
    try:
        return np.memmap(file, dtype, "c" if mode == "c" else "r", offset, shape)
    except OSError as err:
        if err.errno in _NOT_MAPPED_NOW:
            raise
    array = np.empty(shape, dtype)
    rows = 0 if known is None else len(known)
    if known is not None and rows:
        array[:rows] = known
    unread = array[rows:].reshape(-1).view(np.uint8).data
    file.seek(offset + array[:rows].nbytes)
    while unread and (count := file.readinto(unread)):  # type: ignore[attr-defined]
        unread = unread[count:]
    if unread:
        raise OSError(errno.EIO, "the file ended early", file.name)
    array.flags.writeable = mode == "c"
    return array


def _link(path: Path) -> LinkInMirror:
    return LinkInMirror(
        f"{path} is a symbolic link to {path.readlink()}. Links in a mirror are not followed, wherever they lead: "
        "nothing was read or written there. cas_cache makes none. Put the file or folder that belongs there in its "
        "place, or remove the link and keep what it leads to: what was pushed comes back with `cas-cache pull`. To "
        "have a mirror elsewhere, name that directory, or a link to the whole of it."
    )


def make_folder(folder: Path, mode: int = 0o777, *, below: Path | None = None) -> None:
    """Make a folder, and those above it that are missing, so that they are there after a power cut.

    Args:
        folder: Which; it may be there.
        mode: Of the folder itself, less the umask.
        below: Folders below this one are made durable although they are there: who made them may have died before.

    Raises:
        OSError: As the file system says.
    """
    for path in reversed((folder, *folder.parents)):
        missing = not path.exists()
        if missing:
            with suppress(FileExistsError):
                path.mkdir(mode if path == folder else 0o777)
        if missing or path == folder or (below is not None and below in path.parents):
            flush(path.parent)
    if not folder.is_dir():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder))


def flush(path: Path) -> None:
    """Make the bytes of a file durable, or the names in a folder, as far as the file system does that for folders."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as err:
        # A folder may also be written by somebody who may not read it, and so cannot flush it.
        if err.errno not in NOT_SUPPORTED or not path.is_dir():
            raise
