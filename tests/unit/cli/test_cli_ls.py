"""`ls`: what is in a mirror, and `ls --repository`: what is in a repository."""

import json
import re
from collections import Counter as Count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cas_cache import EmbeddingCache
from cas_cache.display import visible
from cas_cache.identity import EncoderSpec
from cas_cache.mirror import Mirror
from cas_cache.repository import Repository
from cas_cache.repository.inventory import inventory
from cas_cache.storage import open_storage
from cli_fixtures import DOCUMENTS, EMPTY, Places, made, tree
from storages import OTHER_SPEC, SPEC, Counting, Machine, Memory, texts


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return made(tmp_path)


def listed(run: Any, *words: object, code: int = 0) -> dict[str, dict[str, Any]]:
    result = run("ls", *words, "--json")
    assert result.code == code, result.err
    return {one["namespace"]: one for one in json.loads(result.out)["namespaces"]}


def test_ls_says_where_rows_are(run: Any, places: Places) -> None:
    """Only here, pushed, or some of them, as far as the mirror knows; null where there is none."""
    found = listed(run, places.mirror)
    assert {name: one["where"] for name, one in found.items()} == {
        SPEC.namespace: "partly pushed", OTHER_SPEC.namespace: "local only", EMPTY.namespace: None,
    }  # fmt: skip
    screen = run("ls", places.mirror).out
    assert "23 rows  3 local only" in screen
    run("push", places.mirror, "--remote", places.remote)
    assert {one["where"] for one in listed(run, places.mirror).values()} == {"pushed", None}
    assert "pushed" in run("ls", places.mirror).out


def test_ls_shows_the_prompt(run: Any, tmp_path: Path) -> None:
    """Two namespaces of one model are told apart by it."""
    spec = EncoderSpec(model="org/model", revision="a1b2c3d", prompt="query: ")
    with EmbeddingCache(tmp_path) as cache:
        cache.put(["apple"], np.ones((1, 2), np.float32), spec)
    assert "prompt 'query: '" in run("ls", tmp_path).out


def test_ls_there(run: Any, places: Places) -> None:
    """Packs, rows, dtype, shape, bytes and the spec of each namespace; the mirror is not asked, or made."""
    before = tree(places.mirror.parent)
    found = listed(run, "--repository", "--remote", places.remote)
    assert listed(run, places.mirror, "--remote", places.remote, "--repository") == found
    assert set(found) == {SPEC.namespace, DOCUMENTS.namespace}
    mine = found[SPEC.namespace]
    assert (mine["packs"], mine["rows"], mine["dtype"], mine["shape"], mine["superseded"]) == (4, 20, "float32", [4], 0)
    assert (mine["bytes"], mine["spec"], mine["prompt"]) == (20 * 16, SPEC.document(), SPEC.prompt)
    screen = run("ls", "--repository", "--remote", places.remote)
    assert "20 rows  4 packs  float32[4]  320 B" in screen.out
    assert "7 rows   1 pack   float32[4]  112 B" in screen.out
    assert all(len(line) <= 80 for line in screen.out.splitlines())
    assert tree(places.mirror.parent) == before


def test_ls_of_a_url_is_that_of_the_repository(run: Any, places: Places) -> None:
    """A URL as CACHE, or a repository's directory, lists the repository without an option; no mirror is made."""
    before = tree(places.mirror.parent)
    url = f"file://{places.remote}"
    assert listed(run, url) == listed(run, "--repository", "--remote", places.remote)
    for place in (url, places.remote):
        assert run("ls", place).out == run("ls", "--repository", "--remote", places.remote).out
    assert run("ls", url, "--remote", places.remote).code == 1
    assert tree(places.mirror.parent) == before


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_ls_and_status_fit_the_terminal(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """Nothing is wider, and at 60 columns no amount is torn apart; long names and prompts are folded, not cut."""
    monkeypatch.setenv("COLUMNS", str(columns))
    mirror, remote = tmp_path / "mirror", tmp_path / "remote"
    prompt = "Instruct: Given a web search query, retrieve relevant passages that answer it\nQuery: "
    spec = EncoderSpec(model="sentence-transformers/all-MiniLM-L6-v2", revision="c9745ed", prompt=prompt, role="query")
    with EmbeddingCache(mirror, remote=remote, push="manual") as cache:
        cache.put(texts(1100), np.ones((1100, 384), np.float32), spec)
        cache.push()
        cache.put(texts(1200, 1100), np.ones((1200, 384), np.float32), spec)
    for words in (("ls", mirror), ("ls", f"file://{remote}"), ("status", mirror, "--remote", remote)):
        result = run(*words)
        assert all(len(line) <= columns for line in result.out.splitlines()[:-1]), result.out
        if columns >= 60:
            assert re.search(r"(3\.5|1\.7|1\.8) MB", result.out), result.out
    flat = "".join(line[14:] for line in run("ls", mirror).out.splitlines()[1:])
    assert repr(prompt).replace(" ", "") in flat.replace(" ", "")
    assert "2,300 rows" in run("ls", mirror).out


def test_ls_there_counts_a_merge_once(run: Any, places: Places) -> None:
    """What it has replaced is counted apart, until prune removes it."""
    run("compact", places.mirror, "--remote", places.remote, "--at-least", "2")
    mine = listed(run, "--repository", "--remote", places.remote)[SPEC.namespace]
    assert (mine["packs"], mine["rows"], mine["superseded"]) == (1, 20, 4)


def test_ls_there_tells_what_it_cannot_read(run: Any, places: Places) -> None:
    """A damaged manifest counts as a pack without rows, a spec that is missing is null; the exit code is 1."""
    next((places.remote / "manifests" / DOCUMENTS.namespace).iterdir()).write_bytes(b"{}")
    (places.remote / "specs" / f"{SPEC.namespace}.json").unlink()
    found = listed(run, "--repository", "--remote", places.remote, code=1)
    assert (found[DOCUMENTS.namespace]["packs"], found[DOCUMENTS.namespace]["rows"]) == (1, 0)
    assert (found[SPEC.namespace]["spec"], found[SPEC.namespace]["rows"]) == (None, 20)
    result = run("ls", "--repository", "--remote", places.remote)
    assert (result.code, result.err.count("skipped: ")) == (1, 2)
    assert "(its spec cannot be read)" in result.out


def test_ls_there_needs_a_repository(run: Any, places: Places, tmp_path: Path) -> None:
    """None named is usage, a mistyped one an error; an empty one has its sentence."""
    Mirror(tmp_path / "new")
    assert run("ls", tmp_path / "new", "--repository").code == 2
    assert "nothing exists there at all" in run("ls", "--repository", "--remote", tmp_path / "typo").err
    Repository(open_storage(str(tmp_path / "empty"), None)).create()
    result = run("ls", "--repository", "--remote", tmp_path / "empty")
    assert (result.code, "is empty" in result.out) == (0, True)
    assert run("ls", places.mirror, "--storage-option", "a=b").code == 2


@pytest.mark.parametrize("command", ["ls", "check"])
def test_the_side_that_a_command_looks_at(run: Any, places: Places, command: str) -> None:
    """It is the one that is named; an option chooses the other; both named without an option are an error."""
    url, key = f"file://{places.remote}", "repository" if command == "ls" else "url"
    repository = [
        (places.remote,),
        (url,),
        ("--remote", places.remote),
        (places.mirror, "--repository"),
        (places.mirror, "--remote", places.remote, "--repository"),
    ]
    for words in repository:
        assert json.loads(run(command, *words, "--json").out)[key] == str(places.remote), words
    for words in (
        (places.mirror,),
        (places.mirror, "--mirror"),
        (places.mirror, "--remote", places.remote, "--mirror"),
    ):
        assert json.loads(run(command, *words, "--json").out)["mirror"] == str(places.mirror), words
    both = run(command, places.mirror, "--remote", places.remote)
    assert (both.code, "--mirror or --repository" in both.err) == (2, True)
    assert "There is no cas_cache mirror" in run(command, url, "--mirror").err
    assert run(command, places.mirror, "--storage-option", "a=b").code == 2


def test_ls_there_costs_one_listing(tmp_path: Path) -> None:
    """And a request for the marker, each manifest and each spec."""
    memory = Memory()
    for spec, packs in ((SPEC, 5), (OTHER_SPEC, 2)):
        machine = Machine(tmp_path / spec.namespace, memory)
        for number in range(packs):
            machine.encode(texts(2, 10 * number), spec)
            machine.push()
    counting = Counting(memory)
    found, problems = inventory(Repository(counting))
    assert problems == []
    assert {one.namespace: (one.packs, one.rows) for one in found} == {
        SPEC.namespace: (5, 10), OTHER_SPEC.namespace: (2, 4),
    }  # fmt: skip
    assert Count(verb for verb, _ in counting.calls) == {"list": 1, "get": 1 + 7 + 2}


def test_a_namespace_of_two_kinds_is_told(tmp_path: Path) -> None:
    """Packs that differ in what a vector is are a problem; the kind of most of them is shown."""
    memory = Memory()
    for name, dtype in (("one", "float32"), ("two", "float16")):
        machine = Machine(tmp_path / name, memory)
        machine.encode(texts(2, ord(name[0])), dtype=dtype)
        machine.push()
    (found,), (problem,) = inventory(Repository(memory))
    assert "differ in what a vector is" in str(problem)
    assert (found.packs, found.rows, found.dtype in ("float32", "float16")) == (2, 4, True)


def test_what_others_wrote_cannot_command_a_terminal() -> None:
    """Control characters of a spec are shown, not sent."""
    spec = EncoderSpec(model="org/\x1b[2Jmodel", revision="1")
    assert visible(spec.model) == "org/\\x1b[2Jmodel"
    assert visible("模型 é") == "模型 é"
