"""The pages under docs/: their Python blocks run as printed, in order, in one new folder."""

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(("page", "printed"), [("explanation/self-check.md", "0 2\n")])
def test_every_python_block_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], page: str, printed: str
) -> None:
    """And prints what its comments say."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CAS_CACHE_SELF_CHECK")
    names: dict[str, Any] = {}
    blocks = BLOCK.findall((ROOT / "docs" / page).read_text("utf-8"))
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), names)
    assert printed in capsys.readouterr().out
