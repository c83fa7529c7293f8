"""Local files that are complete or absent, and that are regular files.

`write_atomically` writes a temporary file, flushes it, renames it and flushes the folder. After a crash, the name holds
the old bytes or the new ones. fsspec's local file system guarantees neither.

A mirror may come from somebody else, in an archive. Every file of a mirror is therefore opened by `open_plain`, after
`check_folder` has examined each folder between the mirror's directory and the file. A symbolic link is refused wherever
it leads, and so is a pipe, which would block. cas_cache never creates a link. This does not protect against somebody
who writes to the directory while it is in use: a link can be placed between check and use.
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
from cas_cache.files.exclusive import ExclusiveLock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from numpy.typing import NDArray

TEMP_PREFIX = ".tmp-"
"""Prefix of the names of files that a crash may leave behind; no other file has it."""


_OTHER_FILE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR})
"""Errors that mean that the name belongs to another file, or to none. Any other error of a read says nothing about the
file."""

NOT_SUPPORTED = frozenset(
    {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, errno.EACCES, errno.EBADF, errno.EISDIR}
)
"""Errors of a file system for a call that it does not support. Calls that are not essential are then skipped."""

NO_LOCKS = frozenset(
    {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, errno.EBADF}
)
"""Errors of a file system without locks."""

NO_LINKS = NOT_SUPPORTED | {errno.EXDEV, errno.EMLINK, errno.ENOTTY}

EXCLUSIVE = b"exclusive-create\n"
"""Content of a lock file on a file system without locks: every process then takes an `ExclusiveLock`."""

FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT})

NO_ROOM = FULL_DISK | {errno.EFBIG}
"""Errors of a write without space, including a limit of the size of a file."""

_TOO_MANY_FILES = "Too many files are open: close some, or allow more with `ulimit -n`"

_NOT_MAPPED_NOW = frozenset({errno.EIO, errno.ESTALE})
"""Errors after which a read would fail as well. Any other error means that maps are unsupported or exhausted."""

_ADVICE = {
    errno.EMFILE: _TOO_MANY_FILES,
    errno.ENFILE: _TOO_MANY_FILES,
    errno.ENOMEM: "Free some memory",
    errno.EACCES: "Check its owner and permissions",
    errno.EPERM: "Check its owner and permissions",
    errno.EIO: "Check the disk",
}


def write_atomically(path: Path, data: bytes | memoryview, *, create_only: bool = False) -> bool:
    """Write a file so that its name never holds a part of the data.

    Args:
        path: The file; its folder exists.
        data: The new content.
        create_only: Leave an existing file unchanged. The file system decides, so of two writers exactly one wins.

    Returns:
        False if `create_only` found an existing file, else True.

    Raises:
        OSError: If the file system raises it; nothing is left behind.
    """
    temp = path.parent / f"{TEMP_PREFIX}{uuid.uuid4().hex}"
    # The order is essential. Data is durable before the name points to it, and the name is durable before this returns.
    try:
        with temp.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if create_only:
            if not move_new(temp, path):
                # Its creator may have died, or failed, before its name was durable.
                flush(path.parent)
                return False
        else:
            temp.replace(path)
    finally:
        temp.unlink(missing_ok=True)
    flush(path.parent)
    return True


def move_new(temp: Path, path: Path) -> bool:
    """Give a file a name that no other file has.

    Without hard links, all processes that create the name take turns, with a file that only one of them can create.

    Returns:
        False if another file has the name. That file stays unchanged.

    Raises:
        OSError: If the file system raises it.
    """
    # A rename would replace an existing file; only a hard link fails if the name exists.
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
    """Open a file of a mirror and return its descriptor. A new file gets the mode 0666, less the umask.

    Args:
        path: The file; its folder was checked.
        flags: Flags of `os.open`.

    Raises:
        LinkInMirror: If it is a symbolic link.
        DamagedMirror: If it is a pipe, a socket or a device.
        OSError: If the file system raises it.
    """
    try:
        # Without O_NONBLOCK, opening a pipe waits for its other end. It has no effect on regular files.
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
        f"{path} is not a file but a pipe, a socket or a device. Nothing of it was read or written. cas_cache makes "
        "none: find out who did, and delete it."
    )


def plain(path: str, flags: int) -> int:
    """Open a file of a mirror, as the `opener` of `open`, which keeps the file's name."""
    return open_plain(Path(path), flags)


def read_plain(path: Path) -> bytes:
    """Return the bytes of a file of a mirror.

    Raises:
        MirrorReadError: If the system refuses the read.
        FileNotFoundError: If the file does not exist.
        LinkInMirror: If it is a symbolic link; also the other errors of `open_plain`.
    """
    with reading(path), os.fdopen(open_plain(path), "rb") as file:
        return file.read()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an error of the system, which says nothing about the file, into `MirrorReadError`.

    Raises:
        MirrorReadError: If the body raised such an error.
        OSError: If the body raised one that means that the name is not a file's.
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
    """Return True if an error or one of its causes means that a disk, a quota or a limit has no space."""
    cause: BaseException | None = err
    while cause is not None and not (isinstance(cause, OSError) and cause.errno in NO_ROOM):
        cause = cause.__cause__
    return cause is not None


def read_error(path: Path, err: OSError) -> MirrorReadError:
    """Return an error that says why a file cannot be read now, with advice for the next attempt."""
    return MirrorReadError(
        f"{path} cannot be read now ({err}). It is not known to be damaged, and nothing was changed. {advice(err)}, "
        "then try again."
    )


def advice(err: OSError, otherwise: str = "Wait a moment") -> str:
    """Return advice on an error of the system for the next attempt, as the beginning of a sentence."""
    return _ADVICE.get(err.errno or 0, otherwise)


def check_folder(*folders: Path) -> None:
    """Raise an error for folders of a mirror that are symbolic links. A missing folder is fine.

    Raises:
        LinkInMirror: If a folder is a symbolic link.
        MirrorReadError: If the system refuses to examine a folder.
    """
    for folder in folders:
        with reading(folder):
            if folder.is_symlink():
                raise _link(folder)


def links_below(root: Path, path: str) -> str | None:
    """Return the first symbolic link on the way to a file below a directory; None if there is none.

    Args:
        root: The directory, which may be reached through links.
        path: Path below it, with slashes.
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
    """Return the lock of a file of a mirror. The file is created if necessary, which decides the kind of lock for good.

    Raises:
        LinkInMirror: If it is a symbolic link; also the other errors of `open_plain`.
        OSError: If the file system had locks when the file was created, and has none now.
    """
    # Not opened by filelock: older versions follow links, truncate their targets, and ignore the umask.
    descriptor = _lock_file(path)
    try:
        if os.read(descriptor, len(EXCLUSIVE)) == EXCLUSIVE:
            return ExclusiveLock(path.with_name(f"{path.name}.held"))
        # Fail early without flock: some versions of filelock then wait forever for a file that exists.
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
        OSError: If no file can be created there.
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
    """Return a part of a file as a map, or read into memory on a file system without maps.

    Args:
        file: A file open for reading.
        dtype: The dtype of the array.
        mode: ``"r"`` for a read-only array, ``"c"`` for a copy-on-write array that the caller owns.
        offset: Position of the array in the file.
        shape: The shape of the array.
        known: The first rows of the array, if they were read before; they are not read again.

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
        "nothing was read or written. cas_cache makes none. Put the file or folder that belongs there in its "
        "place, or remove the link and keep what it leads to: what was pushed comes back with `cas-cache pull`. To "
        "have a mirror elsewhere, name that directory, or a link to the whole of it."
    )


def make_folder(folder: Path, mode: int = 0o777, *, below: Path | None = None) -> None:
    """Create a folder and its missing parents, so that they survive a power failure.

    Args:
        folder: The folder; it may exist.
        mode: Mode of the folder itself, less the umask.
        below: Folders below this one are made durable even if they exist: their creator may have died before.

    Raises:
        OSError: If the file system raises it.
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
    """Make the bytes of a file, or the names in a folder, durable, as far as the file system supports this."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as err:
        # A user who may write to a folder but not read it cannot flush it.
        if err.errno not in NOT_SUPPORTED or not path.is_dir():
            raise
