"""Commands in the prose of README and of every page: the ones in backticks that stand in no block.

Each `cas-cache` command with all that it needs runs, in a folder with a mirror and a repository that the settings name.
One that is only named (`cas-cache drop`, `cas-cache evict --max-size`) has a command and options that exist. Those of
the tutorial are played where they stand, with their own mirror and server: test_docs_tutorial.py.
"""

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest

from cas_cache import EmbeddingCache
from cas_cache.cli import cli
from installs import ROOT, assert_installs
from storages import SPEC, truth
from tiers import sampled

FENCE = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`((?:cas-cache|make|python|pip) [^`]+)`")
PAGES = [
    ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "localstack" / "README.md",
    *(page for page in sorted(ROOT.glob("docs/**/*.md")) if page.name != "cli.md"),
]  # fmt: skip
REPOSITORIES = {"s3://BUCKET/PREFIX", "s3://cas-cache/team", "s3://team/emb", "/shared/emb", "URL"}
DELETES = {"prune", "drop", "evict"}


def inline() -> dict[str, list[str]]:
    """Return every command in prose, with the pages that have it."""
    found: dict[str, list[str]] = {}
    for page in PAGES:
        for command in INLINE.findall(FENCE.sub("", page.read_text("utf-8"))):
            found.setdefault(" ".join(command.split()), []).append(str(page.relative_to(ROOT)))
    return found


FOUND = inline()
OURS = [command for command in FOUND if command.startswith("cas-cache ")]


def meant(words: list[str]) -> tuple[click.Command, list[str]]:
    """Return the command that words name, and the words after its name."""
    command: click.Command = cli
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        assert words[0] in command.commands, words[0]
        command = command.commands[words[0]]
        words = words[1:]
    return command, words


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory: a mirror and its repository, which are those of the settings too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("CAS_CACHE_DIR", str(tmp_path / "mirrors"))
    monkeypatch.setenv("CAS_CACHE_REMOTE", str(tmp_path / "shared"))
    for where in (None, tmp_path / "my_mirror"):
        with EmbeddingCache(where, remote=tmp_path / "shared") as cache:
            cache.put(["apple", "pear"], truth(["apple", "pear"]), SPEC)
    return tmp_path


@pytest.mark.parametrize("command", sampled(OURS, keep=12))
def test_every_command_in_prose_runs(run: Any, folder: Path, command: str) -> None:
    """It ends with 0. What deletes runs with ``--dry-run``; placeholders stand for what is in the folder."""
    places = {"MIRROR": "my_mirror", "CACHE": "my_mirror", "NEW": str(folder / "new"), "ID": SPEC.namespace}
    places["PACK"] = next((folder / "shared" / "packs").iterdir()).name
    places |= dict.fromkeys(REPOSITORIES, f"file://{folder / 'shared'}")
    words = [places.get(word, word) for word in shlex.split(command)[1:]]
    called, rest = meant(words)
    for option in (word for word in rest if word.startswith("-")):
        assert option in {name for parameter in called.params for name in parameter.opts}, option
    try:
        called.make_context(called.name, list(rest), resilient_parsing=False)
    except click.UsageError:
        assert all(word.startswith("-") for word in rest), "neither whole nor only named"
        return
    if isinstance(called, click.Group) or command == "cas-cache demo":
        return  # test_cli_demo.py runs the demo, and compares what it prints
    result = run(*words, *(["--dry-run"] if words[0] in DELETES else []))
    if result.code == 2:  # the command itself asks for one of several options
        assert all(word.startswith("-") for word in rest), result.err
        return
    assert result.code == 0, result.err


@pytest.mark.parametrize("command", [command for command in FOUND if command not in OURS])
def test_every_other_command_in_prose_exists(command: str) -> None:
    """A target of the Makefile, a script of the repository, or a package that can be installed."""
    tool, first, *_ = shlex.split(command)
    if tool == "make":
        assert re.search(rf"^{first}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE), command
    elif tool == "pip":
        assert_installs(shlex.split(command)[2:])
    else:
        assert (ROOT / first).is_file(), command


def test_prose_has_commands() -> None:
    """The pattern finds them: also one that is broken over two lines."""
    assert "cas-cache check --repository --read-data" in FOUND
    assert len(OURS) > 25
