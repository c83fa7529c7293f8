"""``-q`` and ``-v``, which every command has."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from cas_cache import EmbeddingCache
from cas_cache.cli import cli
from storages import SPEC, texts, truth


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """Three rows that wait."""
    EmbeddingCache(tmp_path / "mirror").put(texts(3), truth(texts(3)), SPEC)
    return tmp_path / "mirror"


def leaves(group: click.Group, *path: str) -> list[tuple[str, ...]]:
    """Every command, by the words that call it."""
    found = []
    for name, command in group.commands.items():
        inner = isinstance(command, click.Group)
        found += leaves(command, *path, name) if inner else [(*path, name)]  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("words", leaves(cli), ids=" ".join)
def test_every_command_has_both(run: Any, words: tuple[str, ...]) -> None:
    """And ``--json``, which is what programs read."""
    text = run(*words, "--help").out
    assert "-q, --quiet" in text
    assert "-v, --verbose" in text
    assert "--json" in text


def test_quiet_prints_errors_only(run: Any, mirror: Path, tmp_path: Path) -> None:
    """Results are done, not told; JSON that was asked for is printed; errors are, with their code."""
    assert run("push", mirror, "--remote", tmp_path / "remote", "-q") == (0, "", "")
    assert run("ls", mirror, "-q") == (0, "", "")
    assert json.loads(run("ls", mirror, "-q", "--json").out)["namespaces"]
    assert json.loads(run("ls", mirror, "--json", "-q").out)["namespaces"]
    failed = run("ls", tmp_path / "typo", "-q")
    assert (failed.code, failed.out) == (1, "")
    assert "cas-cache: " in failed.err
    assert run("ls", mirror).out


def command(*words: object) -> subprocess.CompletedProcess[str]:
    """Run in a process of its own: logging is the process's."""
    call = [sys.executable, "-m", "cas_cache", *map(str, words)]
    return subprocess.run(call, capture_output=True, text=True, check=False)


def test_verbose_says_what_is_done(mirror: Path, tmp_path: Path) -> None:
    """On stderr, what ``cas_cache`` logs; the result is as ever; without it nothing is logged."""
    plain = command("push", mirror, "--remote", tmp_path / "one")
    assert plain.stderr == ""
    loud = command("push", mirror, "--remote", tmp_path / "two", "--rebind", "-v")
    assert loud.stdout == plain.stdout
    assert "cas_cache.sync" in loud.stderr
    assert "Traceback" not in loud.stderr


def test_a_traceback_is_there_with_v(tmp_path: Path) -> None:
    """And not without."""
    assert "Traceback" not in command("ls", tmp_path / "typo").stderr
    failed = command("ls", tmp_path / "typo", "-v")
    assert failed.returncode == 1
    assert "Traceback" in failed.stderr
    assert failed.stderr.splitlines()[-1].startswith("cas-cache: ")


@pytest.mark.verify
def test_both_are_taken_before_the_command_too(mirror: Path, tmp_path: Path) -> None:
    """Before the command, after it, and inside of a group; two of ``-v`` are two wherever they are."""
    assert command("-q", "ls", mirror).stdout == ""
    loud = command("-v", "push", mirror, "--remote", tmp_path / "one")
    assert "cas_cache.sync" in loud.stderr
    assert "Traceback" in command("-v", "ls", tmp_path / "typo").stderr
    assert command("-q", "keys", "list").stdout == ""
    assert command("keys", "-q", "list").stdout == ""
    assert command("keys", "list", "-q").stdout == ""


def test_twice_is_twice_in_any_place(run: Any, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-v ls -v` is `ls -vv`."""
    levels: list[int] = []
    monkeypatch.setattr("cas_cache.cli.output._log", levels.append)
    for words in (("-v", "ls", mirror, "-v"), ("-vv", "ls", mirror), ("ls", mirror, "-vv")):
        run(*words)
        assert levels.pop() == logging.DEBUG
    levels.clear()
    run("-v", "ls", mirror)
    assert levels == [logging.INFO]
