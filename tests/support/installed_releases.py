"""Other releases and other packages than the environment has, in a folder that a process puts before it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from paths import SUPPORT

if TYPE_CHECKING:
    from pathlib import Path


def packages(folder: Path, *names: str) -> Path:
    """Install packages, without what they need, into a folder, and return it."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *names]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def run(folders: list[Path], *arguments: str) -> str:
    """Run this Python with a script in a new process that imports from some folders first; return what it prints."""
    path = os.pathsep.join([*map(str, folders), str(SUPPORT)])
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
