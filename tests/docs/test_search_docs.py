"""docs/how-to/search.md: every block runs as printed, in order, in one folder; every option is named."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from paths import ROOT

PAGE = (ROOT / "docs" / "how-to" / "search.md").read_text("utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(language: str) -> list[str]:
    return [body for found, body in BLOCK.findall(PAGE) if found == language]


@pytest.mark.verify
def test_every_block_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The hub is not reachable here: mteb's offline encoder and a local task have the names that the page uses."""
    mteb = pytest.importorskip("mteb")
    from stdlib_docs import StdlibDocsRetrieval

    encoder = mteb.get_model("mteb/baseline-random-encoder")
    task = type("NanoArguAnaRetrieval", (StdlibDocsRetrieval,), {})
    task.metadata = StdlibDocsRetrieval.metadata.model_copy(update={"name": "NanoArguAnaRetrieval"})
    monkeypatch.setattr(mteb, "get_model", lambda name: encoder)
    monkeypatch.setattr(mteb, "get_tasks", lambda tasks: [task() for _ in tasks])
    monkeypatch.chdir(tmp_path)
    first, approximate, of_a_task, in_mteb = blocks("python")
    names: dict[str, Any] = {}
    execute(first, names)
    assert names["found"].rows.shape == (1, 2)
    execute(approximate, names)
    assert names["searcher"].covered == 2504
    assert "2504" in capsys.readouterr().out
    results: dict[str, Any] = {}
    execute(in_mteb, results)
    assert not results["results"].exceptions
    found: dict[str, Any] = {}
    execute(of_a_task, found)
    assert len(found["found"].ids) == 300
    (shell,) = blocks("sh")
    for line in shell.splitlines():
        ended = run(*shlex.split(line)[1:])
        assert ended.code == 0, ended.err
        assert ended.out


def execute(block: str, names: dict[str, Any]) -> None:
    exec(compile(block, "search.md", "exec"), names)


def test_every_option_is_named() -> None:
    """The page shows each option of the command."""
    options = set(re.findall(r"--[a-z]+", ROOT.joinpath("src/cas_cache/cli/search.py").read_text()))
    assert options <= set(re.findall(r"--[a-z]+", PAGE))
