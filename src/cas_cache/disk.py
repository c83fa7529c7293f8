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
import os
import stat
import uuid
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from cas_cache.errors import DamagedMirror, LinkInMirror

TEMP_PREFIX = ".tmp-"
"""What a crash may leave behind starts with this; no name of ours does."""


def write_atomically(path: Path, data: bytes | memoryview, *, create_only: bool = False) -> bool:
    """Write a file so that its name never holds a part of it.

    Args:
        path: The file; its folder exists.
        data: What it will hold.
        create_only: Leave an existing file as it is. Decided by the file system (a hard link), so of two writers
            exactly one wins.

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
            try:
                path.hardlink_to(temp)
            except FileExistsError:
                # Whoever made it may have died, or failed, before its name was durable.
                flush(path.parent)
                return False
        else:
            temp.replace(path)
    finally:
        temp.unlink(missing_ok=True)
    flush(path.parent)
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
        LinkInMirror: As `open_plain` does, and what else it raises.
    """
    with os.fdopen(open_plain(path), "rb") as file:
        return file.read()


def check_folder(*folders: Path) -> None:
    """Refuse folders below a mirror's directory that are symbolic links. One that is not there is fine.

    Raises:
        LinkInMirror: If one is.
    """
    for folder in folders:
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


def lock_of(path: Path) -> FileLock:
    """Return the lock of a file of a mirror, which is made.

    Raises:
        LinkInMirror: As `open_plain` does, and what else it raises.
    """
    # Not by filelock: its older versions follow links, cut what these lead to, and pass over the umask.
    os.close(open_plain(path, os.O_RDWR | os.O_CREAT))
    return FileLock(path)


def _link(path: Path) -> LinkInMirror:
    return LinkInMirror(
        f"{path} is a symbolic link to {path.readlink()}. Links in a mirror are not followed, wherever they lead: "
        "nothing was read or written there. cas_cache makes none: delete it, and what was pushed comes back with "
        "`cas-cache pull`. To have a mirror elsewhere, name that directory, or a link to the whole of it."
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
    for one in reversed((folder, *folder.parents)):
        missing = not one.exists()
        if missing:
            with suppress(FileExistsError):
                one.mkdir(mode if one == folder else 0o777)
        if missing or one == folder or (below is not None and below in one.parents):
            # A folder may be written by whoever may not read it, and only who reads it can flush it.
            with suppress(PermissionError):
                flush(one.parent)
    if not folder.is_dir():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder))


def flush(path: Path) -> None:
    """Make the bytes of a file, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
