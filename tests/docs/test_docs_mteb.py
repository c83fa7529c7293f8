"""docs/how-to/mteb.md: every Python block runs as printed, in order, in one folder.

The hub is not reachable here, so `mteb.get_model` and `mteb.get_tasks` give mteb's own offline encoder and a local task
under the name that the page uses.
"""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from paths import ROOT

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.mark.skipif(find_spec("mteb") is None, reason="mteb is not installed")
@pytest.mark.filterwarnings("ignore:Estimating quantization parameters:UserWarning")
@pytest.mark.verify
def test_every_python_block_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And prints what its comments say; an example of what is refused is refused."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import mteb

    import mteb_tasks

    encoder = mteb.get_model("mteb/baseline-random-encoder")
    monkeypatch.setattr(mteb, "get_model", lambda name: encoder)
    monkeypatch.setattr(mteb, "get_tasks", lambda tasks: [mteb_tasks.misleading_titles(name) for name in tasks])
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    printed = []
    for block in BLOCK.findall((ROOT / "docs" / "how-to" / "mteb.md").read_text("utf-8")):
        exec(compile(block, "docs/how-to/mteb.md", "exec"), names)
        printed.append(capsys.readouterr().out)
    assert "encoded=48" in printed[0]
    assert "'main'" in printed[1]
    assert re.fullmatch(r"\(24, \d+\) 24\n", printed[2])
    assert printed[3] == "0\n"
    assert len(printed) == 7
    assert list((tmp_path / "path_to_cache_dir" / "faiss").glob("*.index"))
