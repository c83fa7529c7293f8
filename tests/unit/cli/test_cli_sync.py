"""`status`, `sync`, and the filters of what is moved."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cas_cache import EmbeddingCache
from cas_cache.mirror import Mirror, View
from cas_cache.repository import compact, prune
from storages import OTHER_SPEC, SPEC, texts, truth

DOCUMENTS = replace(SPEC, role="document")
SCOPED = replace(SPEC, model="org/scoped", role=None, scope={"task": "NanoNFCorpus"})


class Team(NamedTuple):
    """A mirror, a remote, and what a colleague has pushed to it."""

    mirror: Path
    remote: Path


@pytest.fixture
def team(tmp_path: Path) -> Team:
    """The colleague's rows of two namespaces are there; those of a third wait here; of the first, both have some."""
    team = Team(tmp_path / "mirror", tmp_path / "remote")
    with EmbeddingCache(tmp_path / "colleague", remote=team.remote) as cache:
        cache.put(texts(5), truth(texts(5)), SPEC)
        cache.put(texts(7), truth(texts(7)), DOCUMENTS)
    with EmbeddingCache(team.mirror, remote=team.remote, push="manual") as cache:
        cache.pull([SPEC.namespace])
        cache.put(texts(3, start=100), truth(texts(3, start=100)), SPEC)
        cache.put(texts(4), truth(texts(4)), SCOPED)
    return team


def rows(directory: Path) -> dict[str, int]:
    return {ns.spec.namespace: ns.rows for ns in Mirror(directory).namespaces()}


def status(run: Any, team: Team, *arguments: str) -> dict[str, Any]:
    done = run("status", team.mirror, "--remote", team.remote, "--json", *arguments)
    assert done.code == 0
    return {one["namespace"]: one for one in json.loads(done.out)["namespaces"]}


def test_status_says_what_is_only_here_and_only_there(run: Any, team: Team) -> None:
    """By namespace: rows and bytes to push and to pull; nothing is changed by looking."""
    before = {p: p.read_bytes() for p in team.mirror.rglob("*.json")}
    found = status(run, team)
    assert set(found) == {SPEC.namespace, DOCUMENTS.namespace, SCOPED.namespace}
    size = truth(["a"]).nbytes
    both = found[SPEC.namespace]
    assert (both["local_rows"], both["rows_to_push"], both["remote_packs"], both["packs_to_pull"]) == (8, 3, 1, 0)
    assert (both["bytes_to_push"], both["up_to_date"]) == (3 * size, False)
    there = found[DOCUMENTS.namespace]
    assert (there["local_rows"], there["packs_to_pull"], there["rows_to_pull"]) == (0, 1, 7)
    assert (there["bytes_to_pull"], there["model"], there["role"]) == (7 * size, SPEC.model, "document")
    here = found[SCOPED.namespace]
    assert (here["local_rows"], here["rows_to_push"], here["remote_packs"]) == (4, 4, 0)
    assert {p: p.read_bytes() for p in team.mirror.rglob("*.json")} == before


def test_status_for_people(run: Any, team: Team) -> None:
    """Two lines a namespace and a sum, within 80 columns."""
    done = run("status", team.mirror, "--remote", team.remote)
    assert "8 rows; 3 to push (48 B)" in done.out
    assert "0 rows; 7 in 1 pack to pull (112 B)" in done.out
    assert "3 namespaces, 0 up to date; 112 B to push, 112 B to pull" in done.out
    assert all(len(line.rstrip()) <= 80 for line in done.out.splitlines())


@pytest.mark.parametrize("every", [True, False], ids=["the namespace", "one pack"])
def test_status_reports_packs_that_are_gone(run: Any, team: Team, *, every: bool) -> None:
    """Deleted from the repository behind the mirror's back: exit code 1, and the way to send the rows again."""
    with EmbeddingCache(team.mirror, remote=team.remote, push="manual") as cache:
        cache.push()
    manifests = sorted((team.remote / "manifests" / SPEC.namespace).iterdir())
    assert len(manifests) == 2
    for manifest in manifests if every else manifests[:1]:
        manifest.unlink()
    done = run("status", team.mirror, "--remote", team.remote)
    assert done.code == 1
    said = " ".join((done.out + done.err).split())
    assert f"lists no pack of namespace {SPEC.namespace}" in said if every else f"first is {manifests[0].stem}" in said
    assert "--rebind" in said


def test_status_knows_packs_that_were_merged(run: Any, team: Team) -> None:
    """Merged and pruned by somebody else: nothing is gone."""
    with EmbeddingCache(team.mirror, remote=team.remote, push="manual") as cache:
        cache.push()
    with EmbeddingCache(team.mirror.parent / "third", remote=team.remote) as cache:
        compact(cache.repository, at_least=2)
        assert prune(cache.repository, grace=0, force=True).deletions
    assert run("status", team.mirror, "--remote", team.remote).code == 0


def test_sync_leaves_both_sides_in_step(run: Any, team: Team) -> None:
    """Pull, then push; once more there is nothing to do."""
    done = run("sync", team.mirror, "--remote", team.remote, "--json")
    moved = json.loads(done.out)
    assert (moved["pulled"]["rows"], moved["pushed"]["rows"]) == (7, 7)
    assert all(one["up_to_date"] for one in status(run, team).values())
    assert rows(team.mirror) == {SPEC.namespace: 8, DOCUMENTS.namespace: 7, SCOPED.namespace: 4}
    again = run("sync", team.mirror, "--remote", team.remote)
    assert (again.code, again.out) == (0, "pulled 0 packs, 0 rows, 0 B\npushed 0 packs, 0 rows, 0 B\n")


def test_sync_makes_a_repository(run: Any, tmp_path: Path) -> None:
    """The first one to come pushes."""
    EmbeddingCache(tmp_path / "mirror").put(texts(3), truth(texts(3)), SPEC)
    assert "pushed 1 pack, 3 rows" in run("sync", tmp_path / "mirror", "--remote", tmp_path / "new").out
    with EmbeddingCache(tmp_path / "other", remote=tmp_path / "new") as cache:
        assert cache.pull().rows == 3


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--role", "document"), {"documents"}),
        (("--role", "query", "--role", "document"), {"documents", "own"}),
        (("--model", "org/*"), {"documents", "own"}),
        (("--model", SPEC.model, "--role", "document"), {"documents"}),
        (("--namespace", DOCUMENTS.namespace[:9]), {"documents"}),
    ],
)
def test_a_pull_can_be_of_a_part(run: Any, team: Team, arguments: tuple[str, ...], expected: set[str]) -> None:
    """By role, model (with *) or id: what is not meant stays where it is."""
    fresh = team.mirror.with_name("fresh")
    done = run("pull", fresh, "--remote", team.remote, *arguments)
    assert done.code == 0, done.err
    names = {"documents": DOCUMENTS.namespace, "own": SPEC.namespace}
    assert set(rows(fresh)) == {names[name] for name in expected}


def test_a_push_can_be_of_a_part(run: Any, team: Team) -> None:
    """By task: the namespaces whose scope names it, and those that a view of it has used."""
    mirror = Mirror(team.mirror)
    view = View("OwnTask", SPEC.namespace, SPEC.model, SPEC.revision, "query", "default", "test")
    mirror.views.record(view, mirror.namespace(SPEC).keys[:2], None, None)
    assert set(status(run, team, "--task", "OwnTask")) == {SPEC.namespace}
    assert set(status(run, team, "--task", "NanoNFCorpus")) == {SCOPED.namespace}
    run("push", team.mirror, "--remote", team.remote, "--task", "NanoNFCorpus")
    found = status(run, team)
    assert (found[SCOPED.namespace]["rows_to_push"], found[SPEC.namespace]["rows_to_push"]) == (0, 3)


@pytest.mark.parametrize("command", ["pull", "push", "sync", "status"])
def test_an_unknown_filter_gets_help(run: Any, team: Team, command: str) -> None:
    """What comes near is named; nothing is moved."""
    before = rows(team.mirror)
    done = run(command, team.mirror, "--remote", team.remote, "--model", SPEC.model.replace("o", "0", 1))
    assert (done.code, done.out) == (1, "")
    assert f"Did you mean '{SPEC.model}'" in done.err
    done = run(command, team.mirror, "--remote", team.remote, "--role", "passage")
    assert "There is no role 'passage'. There is " in done.err
    assert rows(team.mirror) == before


def test_status_needs_a_repository(run: Any, team: Team, tmp_path: Path) -> None:
    """None named, offline, a mistyped one, another one: each gets its sentence."""
    EmbeddingCache(tmp_path / "new").put(texts(3), truth(texts(3)), SPEC)
    assert "no repository to compare with" in run("status", tmp_path / "new").err
    assert "There is no repository at" in run("status", tmp_path / "new", "--remote", tmp_path / "typo").err
    with EmbeddingCache(tmp_path / "x", remote=tmp_path / "second") as cache:
        cache.put(texts(1), truth(texts(1)), OTHER_SPEC)
    assert "A mirror serves one repository" in run("status", team.mirror, "--remote", tmp_path / "second").err


def test_a_damaged_manifest_is_a_finding(run: Any, team: Team) -> None:
    """The rest is told; the exit code is 1."""
    (path,) = (team.remote / "manifests" / DOCUMENTS.namespace).iterdir()
    path.write_bytes(b"{}")
    done = run("status", team.mirror, "--remote", team.remote, "--json")
    document = json.loads(done.out)
    assert done.code == 1
    assert len(document["namespaces"]) == 3
    assert path.stem in document["problems"][0]["message"]


def test_status_counts_a_merge_once(run: Any, tmp_path: Path) -> None:
    """Superseded packs are not there to be pulled, and a merge of what is here gives nothing new."""
    team = Team(tmp_path / "mirror", tmp_path / "remote")
    with EmbeddingCache(team.mirror, remote=team.remote, push="manual") as cache:
        for number in range(20):
            cache.put(texts(2, start=10 * number), truth(texts(2, start=10 * number)), SPEC)
            cache.push()
    EmbeddingCache(tmp_path / "new", remote=team.remote, push="manual")
    assert run("compact", "--remote", team.remote).code == 0
    (here,) = status(run, team).values()
    assert (here["remote_packs"], here["packs_to_pull"], here["up_to_date"]) == (1, 0, True)
    (new,) = status(run, Team(tmp_path / "new", team.remote)).values()
    assert (new["remote_packs"], new["packs_to_pull"], new["rows_to_pull"]) == (1, 1, 40)
