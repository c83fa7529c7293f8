"""Where tests find the files of the project, and what processes that tests start import from."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
SUPPORT = TESTS / "support"
PYTHONPATH = os.pathsep.join(map(str, (SUPPORT, TESTS / "verification")))
"""The folders of `pythonpath` in pyproject.toml, for a process that is not pytest."""
