"""README: every block runs as printed, in order, in one folder.

mteb's hub is not reachable here, so `mteb.get_model` and `mteb.get_tasks` give mteb's own offline encoder and the local
task under the names that the README uses; ``s3://team`` is a bucket on LocalStack.
"""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from distinct_texts import distinct_texts
from installs import assert_installs
from paths import ROOT

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(language: str) -> list[str]:
    return [body for found, body in BLOCK.findall((ROOT / "README.md").read_text("utf-8")) if found == language]


@pytest.fixture
def team(localstack: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A working directory in which s3://team is a bucket and mteb needs no hub."""
    import mteb

    from stdlib_docs import StdlibDocsRetrieval

    localstack.create_bucket("team")
    for name, value in localstack.environment.items():
        monkeypatch.setenv(name, value)
    encoder = mteb.get_model("mteb/baseline-random-encoder")
    task = type("NanoArguAnaRetrieval", (StdlibDocsRetrieval,), {})
    task.metadata = StdlibDocsRetrieval.metadata.model_copy(update={"name": "NanoArguAnaRetrieval"})
    monkeypatch.setattr(mteb, "get_model", lambda name: encoder)
    monkeypatch.setattr(mteb, "get_tasks", lambda tasks: [task() for _ in tasks])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_python_block_runs(team: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The Python blocks run in order, and do what their comments say."""
    first, without_mteb, text_map, one_role = blocks("python")
    stats = run(first)["cached"].stats
    assert (stats.hits, stats.misses, stats.encoded) == (0, 2300, distinct_texts())
    names = run(without_mteb)
    assert names["found"].tolist() == [True, False]
    assert "hits=1, misses=4, encoded=2" in capsys.readouterr().out
    names = run(text_map)
    assert names["vectors"].shape[0] == distinct_texts()
    queries = run(one_role)["queries"]
    assert (len(queries.ids), len(queries.vectors)) == (300, 300)


@pytest.mark.verify
def test_every_shell_block_runs(team: Path) -> None:
    """Every cas-cache line runs; every make target exists; nothing else is told to be typed."""
    run(blocks("python")[0])
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for line in "".join(blocks("sh")).splitlines():
        words = shlex.split(line, comments=True)
        if words[:2] == ["pip", "install"]:
            assert_installs(words[2:])
            continue
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), line
            continue
        assert words[0] == "cas-cache", line
        done = subprocess.run(
            [sys.executable, "-m", "cas_cache", *(w if w != "ID" else namespace(team) for w in words[1:])],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert done.stdout.strip(), line


def test_the_first_screen() -> None:
    """Thirty lines say what it is, for whom, how to install it, for which Pythons, three lines of code, and a table."""
    text = (ROOT / "README.md").read_text("utf-8")
    first = "\n".join(text.splitlines()[:30])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = re.search(r"Python 3\.(\d+) to 3\.(\d+)", first)
    assert named is not None
    pythons = [int(line.rpartition(".")[2]) for line in project["classifiers"] if ":: Python :: 3." in line]
    assert project["requires-python"] == f">=3.{named[1]}"
    assert set(pythons) <= set(range(int(named[1]), int(named[2]) + 1))
    for said in ("**A shared cache", "encodes the same texts twice", "pip install", "import mteb", "│ second machine"):
        assert said in first, said
    rest = [line for line in text.splitlines()[30:] if line.strip("`")]
    assert rest[0].startswith("!["), "then the picture"


def run(block: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), names)
    return names


def namespace(folder: Path) -> str:
    return min(p.name for p in (folder / "path_to_cache_dir" / "namespaces").iterdir())
