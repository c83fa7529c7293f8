"""Every example of every ``--help`` runs as printed, on a small mirror and a repository.

`s3://team/emb` is a directory here, under its ``file://`` URL; ``55dc47fb`` is the beginning of a namespace's id.
"""

import hashlib
import json
import shlex
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from cas_cache import EmbeddingCache
from cas_cache.cli import cli
from cas_cache.cli.commands import Command
from cas_cache.mirror import Mirror, View
from storages import SPEC, truth

TEXTS = ["apple pie", "plum cake", "pear tart", "peach melba"]
SLOW = {"cas-cache demo", "cas-cache demo --keep demo", "cas-cache doctor s3://team/emb --test-remote"}
"""Examples that other tests run, with all that they print."""


def commands(group: click.Group, *path: str) -> dict[str, click.Command]:
    """Return every command and group, by the words that call it."""
    found: dict[str, click.Command] = {" ".join(path): group}
    for name, command in group.commands.items():
        words = (*path, name)
        found |= commands(command, *words) if isinstance(command, click.Group) else {" ".join(words): command}
    return found


COMMANDS = commands(cli)
EXAMPLES = sorted({line for command in COMMANDS.values() if isinstance(command, Command) for line in command.examples})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory: a pushed mirror, its repository, queries, and an old cache of mteb 1.x."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with EmbeddingCache("my_mirror", remote=tmp_path / "shared") as cache:
        cache.put(TEXTS, truth(TEXTS), SPEC)
    mirror = Mirror(tmp_path / "my_mirror")
    view = View("SciFact", SPEC.namespace, SPEC.model, SPEC.revision, "document", "default", "test")
    mirror.views.record(view, mirror.namespace(SPEC).keys[:3], None, ["a", "b", "c"])
    (tmp_path / "queries.txt").write_text("apple pie\nplum cake\n", "utf-8")
    old = tmp_path / "old" / "Task"
    old.mkdir(parents=True)
    np.ones((2, 4), np.float32).tofile(old / "vectors.npy")
    index = {hashlib.sha256(text.encode()).hexdigest(): row for row, text in enumerate(["fig", "kiwi"])}
    (old / "index.json").write_text(json.dumps(index), "utf-8")
    (old / "dimension").write_text("4", "utf-8")
    return tmp_path


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_examples(run: Any, name: str) -> None:
    """They call the command itself, stand below the options as they are, and are examples of one spelling."""
    examples = getattr(COMMANDS[name], "examples", ())
    assert examples
    text = run(*name.split(), "--help").out
    assert text.endswith("\nExamples:\n" + "".join(f"  {line}\n" for line in examples))
    for line in examples:
        assert line.startswith(f"cas-cache {name}".rstrip())


@pytest.mark.parametrize("line", EXAMPLES)
def test_every_example_can_be_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """Options and values are those that the command has."""
    (tmp_path / "queries.txt").write_text("apple pie", "utf-8")
    monkeypatch.chdir(tmp_path)
    command: click.Command = cli
    words = shlex.split(line)[1:]
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    with command.make_context(command.name, words):
        pass


@pytest.mark.parametrize("line", [line for line in EXAMPLES if line not in SLOW])
def test_every_example_runs(run: Any, folder: Path, line: str) -> None:
    """Each ends with 0 and prints something: JSON, if it says so."""
    words = [
        SPEC.namespace[:8] if word == "55dc47fb" else word.replace("s3://team/emb", f"file://{folder / 'shared'}")
        for word in shlex.split(line)[1:]
    ]
    if words[:2] == ["import", "mteb"]:
        words.append("--accept-unsafe")
    result = run(*words)
    assert (result.code, bool(result.out)) == (0, True), result.err
    if "--json" in words:
        json.loads(result.out)
