"""A few bytes that claim 2**60 rows, nest 100,000 deep or are megabytes of one text: an error, soon, in little memory.

Each case runs in a process of its own, with a limit on its memory (`fuzz.bombs`).
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fuzz.bombs import CASES
from paths import PYTHONPATH, ROOT

pytestmark = pytest.mark.verify

MAX_BYTES = 200 << 20
MAX_SECONDS = 20.0
"""Of processor time; the longest takes about 2."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """Return what each case came to."""
    command = [sys.executable, str(Path(__file__).with_name("bombs.py")), str(tmp_path_factory.mktemp("bombs"))]
    paths = (PYTHONPATH, str(ROOT), os.environ.get("PYTHONPATH", ""))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=1200)
    return {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("name", CASES)
def test_bounded(name: str, results: dict[str, dict[str, object]], figure: Callable[[str, int], None]) -> None:
    """Neither memory nor time goes by what a document claims, and only errors of ours are raised."""
    result = results[name]
    assert not str(result["outcome"]).startswith(("raised", "ended")), result["outcome"]
    assert result["bytes"] < MAX_BYTES, f"{result['bytes']:,} bytes"  # type: ignore[operator]
    assert result["seconds"] < MAX_SECONDS, f"{result['seconds']} s"  # type: ignore[operator]
    figure("documents that claim too much", 1)


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("manifest: 2**57 rows in one chunk", "DamagedPack"),
        ("queries: pickled objects", "exit 1"),
        ("faiss: 2**60 rows", "broken"),
        ("settings: nested", "ConfigurationError"),
        ("spec: nested less", "IdentityError"),
    ],
)
def test_said(name: str, outcome: str, results: dict[str, dict[str, object]]) -> None:
    """What came out is what should: the cases reach what they are meant for."""
    assert outcome in str(results[name]["outcome"])
