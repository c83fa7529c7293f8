"""docs/how-to/test-with-faults.md: its Python blocks run as printed, in order, in one new folder."""

import re
from pathlib import Path
from typing import Any

import pytest

from paths import ROOT

PAGE = ROOT / "docs" / "how-to" / "test-with-faults.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """And prints what it says; in the second block, the damage was met."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    blocks = BLOCK.findall(PAGE.read_text("utf-8"))
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)
    printed = capsys.readouterr().out
    assert "the connection was reset at put b\n['lost-answer']\n" in printed
