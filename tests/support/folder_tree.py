"""Modes and contents of all files below a folder."""

import stat
from pathlib import Path


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """All that is below a folder: mode and content of each, links as what they lead to."""
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        content = bytes(path.readlink()) if stat.S_ISLNK(mode) else b"" if path.is_dir() else path.read_bytes()
        found[str(path.relative_to(folder))] = mode, content
    return found
