"""``--yes``: what deletes asks a person, and does not guess where there is none."""

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cas_cache.cli import cli
from cli_fixtures import Places, leaves, made, tree
from storages import SPEC
from tiers import sampled

DELETE = {"drop", "prune", "evict"}
OLD = 30 * 86_400


@pytest.fixture
def places(tmp_path: Path, run: Any) -> Places:
    """Something for each of them to delete."""
    found = made(tmp_path)
    assert run("compact", found.mirror, "--remote", found.remote, "--at-least", "2").code == 0
    assert run("pull", found.mirror, "--remote", found.remote).code == 0
    for path in found.remote.rglob("*"):
        if path.is_file():
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - OLD))
    return found


def words_of(name: str, places: Places) -> list[str]:
    words = {
        "drop": ["drop", places.mirror, "--remote", places.remote, "--namespace", SPEC.namespace],
        "prune": ["prune", places.mirror, "--remote", places.remote],
        "evict": ["evict", places.mirror, "--max-size", "800B"],
    }[name]
    return [str(word) for word in words]


def test_every_command_that_deletes_has_it() -> None:
    """And no other: compact deletes nothing."""
    have = {name for name, command in leaves(cli).items() if any("--yes" in it.opts for it in command.params)}
    assert have == DELETE


@pytest.mark.parametrize("name", sorted(DELETE))
@pytest.mark.parametrize("extra", sampled([[], ["--json"], ["-q"]], keep=4), ids=["plain", "json", "quiet"])
def test_where_nobody_can_be_asked_it_refuses(run: Any, places: Places, name: str, extra: list[str]) -> None:
    """Usage, exit code 2, before any request, with the two ways out; with --yes it does it."""
    before = tree(places.mirror.parent)
    refused = run(*words_of(name, places), *extra)
    assert (refused.code, refused.out) == (2, "")
    assert "--yes" in refused.err
    assert "--dry-run" in refused.err
    assert tree(places.mirror.parent) == before
    assert run(*words_of(name, places), *extra, "--yes").code == 0
    assert tree(places.mirror.parent) != before


def on_a_terminal(words: list[str], answer: str) -> tuple[int, str]:
    """Run a command whose standard streams are a terminal, on which somebody types; return code and screen."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "cas_cache", *words]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True) as process:
        os.close(theirs)
        os.write(ours, f"{answer}\n".encode())
        screen = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # Linux says so when the other end is closed
                break
            if not part:
                break
            screen += part
    os.close(ours)
    return process.returncode, screen.decode()


@pytest.mark.verify
@pytest.mark.parametrize("name", sampled(sorted(DELETE), keep=4))
def test_on_a_terminal_it_shows_the_plan_and_asks(places: Places, name: str) -> None:
    """No is exit code 1, and nothing was deleted; so is an answer of nothing; yes does it."""
    before = tree(places.mirror.parent)
    for answer in ("n", ""):
        code, screen = on_a_terminal(words_of(name, places), answer)
        assert (code, "[y/N]" in screen, "Nothing was deleted." in screen) == (1, True, True), screen
        assert tree(places.mirror.parent) == before
    if name != "drop":  # whose question is its plan
        assert "would " in screen
    code, screen = on_a_terminal(words_of(name, places), "y")
    assert code == 0, screen
    assert tree(places.mirror.parent) != before


def test_a_question_is_seen_with_q(places: Places) -> None:
    """It is no result, and a command that waits in silence is taken for one that hangs."""
    code, screen = on_a_terminal([*words_of("evict", places), "-q"], "n")
    assert (code, "[y/N]" in screen) == (1, True)


@pytest.mark.parametrize("name", sampled(["prune", "evict"], keep=2))
def test_nothing_to_delete_is_nothing_to_ask(places: Places, name: str) -> None:
    """On a terminal, too."""
    words = words_of(name, places)
    words = [*words[:-1], "50GB"] if name == "evict" else [*words, "--grace", "90d"]
    code, screen = on_a_terminal(words, "")
    assert (code, "[y/N]" in screen) == (0, False), screen
    assert " 0 packs" in screen
