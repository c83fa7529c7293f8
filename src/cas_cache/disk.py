"""Local files that are whole or absent.

`write_atomically` is temp file, flush, rename, flush of the folder: after a crash the name holds the old bytes or the
new ones. fsspec's local file system promises neither.
"""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

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
                return False
        else:
            temp.replace(path)
    finally:
        temp.unlink(missing_ok=True)
    flush(path.parent)
    return True


def flush(path: Path) -> None:
    """Make the bytes of a file, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
