"""``--dry-run``, which every command has that writes: it says what would be done, and writes nothing at all."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cas_cache import EmbeddingCache
from cas_cache.cli import cli
from cli_fixtures import Places, leaves, made, tree
from storages import OTHER_SPEC, SPEC, texts, truth
from tiers import sampled

READS = {"ls", "info", "status", "search", "check", "doctor", "demo", "keys list", "keys new"}
"""What writes nothing of the user's: search keeps an index, which is derived; doctor's trial and demo clean up.

A new key is a file that was not there; there is nothing to plan."""


def old(places: Places) -> list[object]:
    """An old cache of mteb, and whose vectors are in it."""
    directory = places.out.parent / "old"
    return [directory, "--spec", directory / "spec.json"]


def a_pack(places: Places) -> str:
    """Return the id of a pack in the repository."""
    return min((places.remote / "manifests" / SPEC.namespace).iterdir()).stem


COMMANDS: dict[str, Callable[[Places], list[object]]] = {
    "pull": lambda p: ["pull", p.mirror, "--remote", p.remote],
    "pull into a new mirror": lambda p: ["pull", p.out / "new", "--remote", p.remote],
    "pull the keys": lambda p: ["pull", p.out / "new", "--remote", p.remote, "--keys-only"],
    "pull a part": lambda p: ["pull", p.mirror, "--remote", p.remote, "--role", "document"],
    "push": lambda p: ["push", p.mirror, "--remote", p.remote],
    "push a part": lambda p: ["push", p.mirror, "--remote", p.remote, "--namespace", OTHER_SPEC.namespace[:9]],
    "push to a new repository": lambda p: ["push", p.mirror, "--remote", p.out / "second", "--rebind"],
    "sync": lambda p: ["sync", p.mirror, "--remote", p.remote],
    "push from a mirror that has met none": lambda p: ["push", p.out.parent / "fresh", "--remote", p.remote],
    "sync of a mirror that has met none": lambda p: ["sync", p.out.parent / "fresh", "--remote", p.remote],
    "compact": lambda p: ["compact", p.mirror, "--remote", p.remote, "--at-least", "2"],
    "prune": lambda p: ["prune", p.mirror, "--remote", p.remote, "--yes"],
    "drop": lambda p: ["drop", p.mirror, "--remote", p.remote, "--namespace", SPEC.namespace, "--yes"],
    "drop a pack": lambda p: ["drop", p.mirror, "--remote", p.remote, "--pack", a_pack(p), "--yes"],
    "evict": lambda p: ["evict", p.mirror, "--max-size", "1kB", "--yes"],
    "import mteb": lambda p: ["import", "mteb", *old(p), p.out / "new", "--accept-unsafe"],
    "export": lambda p: ["export", p.mirror, p.out / "file", "--format", "npy", "--namespace", SPEC.namespace],
}


@pytest.fixture
def places(tmp_path: Path, run: Any) -> Places:
    """Everything that a command could change: both sides, a killed pack that is old, and an old cache of mteb."""
    found = made(tmp_path)
    EmbeddingCache(tmp_path / "fresh").put(texts(2), truth(texts(2)), OTHER_SPEC)
    orphan = found.remote / "packs" / ("0" * 64) / "zarr.json"
    orphan.parent.mkdir()
    orphan.write_bytes(b"{}")
    for path in found.remote.rglob("*"):
        if path.is_file():
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 30 * 86_400))
    assert run("export", found.mirror, tmp_path / "old", "--format", "mteb", "-n", SPEC.namespace).code == 0
    return found


def test_every_command_that_writes_has_it() -> None:
    """And each of them is tried here."""
    have = {name for name, command in leaves(cli).items() if any("--dry-run" in it.opts for it in command.params)}
    assert have == set(leaves(cli)) - READS
    assert have <= {name if name in have else name.split()[0] for name in COMMANDS}


@pytest.mark.parametrize("name", sampled(COMMANDS, keep=3))
def test_nothing_is_written_and_the_command_would_have(run: Any, places: Places, tmp_path: Path, name: str) -> None:
    """Not a byte, file or folder, here, there or elsewhere; then the same command without it changes something."""
    words = COMMANDS[name](places)
    before = tree(tmp_path)
    for extra in ([], ["--json"], ["-q"]):
        result = run(*words, "--dry-run", *extra)
        assert result.code in (0, 1 if name == "evict" else 0), result
        assert bool(result.out) == (extra != ["-q"])
    assert tree(tmp_path) == before
    assert run(*words).code in (0, 1 if name == "evict" else 0)
    assert tree(tmp_path) != before


@pytest.mark.parametrize(
    "name", sampled([name for name in COMMANDS if name not in ("evict", "prune", "drop", "compact")], keep=4)
)
def test_what_it_says_is_what_is_done(run: Any, places: Places, name: str) -> None:
    """Rows, packs and namespaces agree with those of the command; bytes, and what was new, are known only then."""
    words = COMMANDS[name](places)
    dry = json.loads(run(*words, "--dry-run", "--json").out)
    wet = json.loads(run(*words, "--json").out)
    assert (dry.pop("dry_run"), wet.pop("dry_run")) == (True, False)
    for document in (dry, wet):
        for part in (document, document.get("pulled", {}), document.get("pushed", {})):
            part.pop("bytes", None)
            part.pop("stored", None)
    assert dry == wet


@pytest.mark.parametrize("name", ["prune", "drop", "compact"])
def test_who_may_only_read_sees_the_plan(run: Any, places: Places, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Read-only is heeded by not writing; without --dry-run it is refused."""
    monkeypatch.setenv("CAS_CACHE_READ_ONLY", "1")
    words = COMMANDS[name](places)
    assert run(*words, "--dry-run").code == 0
    assert run(*words).code == 1


@pytest.mark.parametrize("name", sampled(["pull", "push", "sync"], keep=3))
def test_errors_are_those_of_the_command(
    run: Any, places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """No known repository, another one, an unknown filter, no mirror, offline: the same code with and without it."""
    with EmbeddingCache(tmp_path / "x", remote=tmp_path / "second") as cache:
        cache.put(["a"], [[1.0]], OTHER_SPEC)
    EmbeddingCache(tmp_path / "alone").close()
    before = tree(tmp_path)
    wrong: list[list[object]] = [
        [tmp_path / "alone"],
        [places.mirror, "--remote", tmp_path / "second"],
        [places.mirror, "--remote", places.remote, "--model", "no/such"],
        [places.mirror, "--remote", tmp_path / "nothing"],
        [places.out / "none", "--remote", tmp_path / "nothing"],
    ]
    for words in wrong:
        dry = run(name, *words, "--dry-run")
        assert (dry.code, dry.out) == (1, ""), words
        assert tree(tmp_path) == before
        wet = run(name, *words)
        assert wet.code == dry.code, words
        if (places.out / "none").exists():  # a pull makes its mirror before it asks
            before = tree(tmp_path)
    monkeypatch.setenv("CAS_CACHE_OFFLINE", "1")
    assert run(name, places.mirror, "--remote", places.remote, "--dry-run").code == 1


def test_a_damaged_manifest_is_told(run: Any, places: Places) -> None:
    """By a dry run, too: on standard error, with exit code 1."""
    for path in (places.remote / "manifests").rglob("*.json"):
        path.write_bytes(b"{}")
    result = run("pull", places.out / "new", "--remote", places.remote, "--dry-run")
    assert (result.code, "skipped: " in result.err) == (1, True)
    assert result.out.startswith("would pull 0 packs, 0 rows, ")
