"""Abilities of a file system that a mirror, or a repository in a directory, needs.

Much can be done without: locks, hard links, maps, folders that can be flushed (see `disk`). Files that are renamed over
others, flushed and, in a mirror, written in the middle cannot. That is tried where a mirror or a repository is about to
be made, before anything is encoded.
"""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING

from cas_cache.disk import TEMP_PREFIX, is_full, open_plain

if TYPE_CHECKING:
    from pathlib import Path


def missing_ability(folder: Path, *, in_place: bool) -> str | None:
    """Try what files in a folder have to do, and return what does not work there; None if all does.

    Args:
        folder: An existing folder. Nothing is left in it.
        in_place: Try to write in the middle of a file as well, as a mirror does and a repository does not.

    Raises:
        OSError: If no file can be made there, or the disk is full.
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
    """Write at the end and then at the beginning of a file, and return True if that is read again."""
    os.write(descriptor, b"last")
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, b"FIRST")
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.read(descriptor, len(b"FIRSTlast") + 1) == b"FIRSTlast"
