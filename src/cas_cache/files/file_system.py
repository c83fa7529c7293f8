"""Abilities of a file system that a mirror, or a repository in a directory, needs.

Many abilities are optional: locks, hard links, maps, folders that can be flushed (see `disk`). It is essential that
files can be renamed over others, flushed and, in a mirror, written in the middle. These abilities are tested where a
mirror or a repository is about to be created, before anything is encoded.
"""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING

from cas_cache.files.disk import TEMP_PREFIX, is_full, open_plain

if TYPE_CHECKING:
    from pathlib import Path


def missing_ability(folder: Path, *, in_place: bool) -> str | None:
    """Test the essential abilities in a folder; return a description of the first that is missing, or None.

    Args:
        folder: An existing folder. Nothing is left in it.
        in_place: Also test writing in the middle of a file, which a mirror does and a repository does not.

    Raises:
        OSError: If no file can be created there, or the disk is full.
    """
    probe, other = (folder / f"{TEMP_PREFIX}{uuid.uuid4().hex}" for _ in range(2))
    descriptor = open_plain(probe, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    doing = "write to a file"
    try:
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            file.write(b"first")
            if in_place:
                doing = "write in the middle of a file"
                if not _keeps_places(file.fileno()):
                    return "does not keep what is written in the middle of a file"
            doing = "make a file durable"
            os.fsync(file.fileno())
        doing = "rename a file over another"
        os.close(open_plain(other, os.O_RDWR | os.O_CREAT | os.O_EXCL))
        probe.replace(other)
        if probe.exists() or not other.stat().st_size:
            return "does not rename a file over another"
    except OSError as err:
        if is_full(err):
            raise
        return f"cannot {doing} ({err})"
    finally:
        probe.unlink(missing_ok=True)
        other.unlink(missing_ok=True)
    return None


def _keeps_places(descriptor: int) -> bool:
    """Write at the end and then at the beginning of a file; return True if both are read back."""
    os.write(descriptor, b"last")
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, b"FIRST")
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.read(descriptor, len(b"FIRSTlast") + 1) == b"FIRSTlast"
