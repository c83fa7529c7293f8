"""compact, prune, drop and evict from the command line: what they print, what they ask, and the code they end with."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cas_cache import EmbeddingCache
from cas_cache.cli.evict import _bytes
from storages import OTHER_SPEC, SPEC, Encoder, texts


class Terminal:
    """Standard input of somebody who can be asked."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Return a mirror that pushed four small packs of one namespace and one of another to `repo` beside it."""
    for i in range(4):
        with EmbeddingCache(tmp_path / "mirror", remote=tmp_path / "repo", push="manual") as opened:
            opened.encode(texts(10, i * 10), SPEC, Encoder())
            opened.encode(texts(5), OTHER_SPEC, Encoder())
            opened.push()
    return tmp_path / "mirror"


@pytest.fixture
def repo(cache: Path) -> Path:
    return cache.parent / "repo"


def files(repo: Path) -> set[str]:
    return {path.relative_to(repo).as_posix() for path in repo.rglob("*") if path.is_file()}


def age(repo: Path, days: float) -> None:
    """Let everything be that much older."""
    for path in repo.rglob("*"):
        if path.is_file():
            status = path.stat()
            os.utime(path, (status.st_atime, status.st_mtime - days * 86_400))


def test_compact(run: Any, cache: Path, repo: Path) -> None:
    """The plan, then the work, then nothing to do."""
    before = files(repo)
    result = run("compact", cache, "--remote", repo, "--at-least", 2, "--dry-run")
    assert (result.code, result.err) == (0, "")
    assert (
        result.out == f"would merge 4 packs of {SPEC.namespace}: 40 rows, 640 B\n1 merge planned, 0 written, 0 rows\n"
    )
    assert files(repo) == before
    result = run("compact", cache, "--remote", repo, "--at-least", 2)
    assert result.out.endswith("1 merge planned, 1 written, 40 rows\n")
    assert files(repo) > before
    document = json.loads(run("compact", cache, "--remote", repo, "--at-least", 2, "--json").out)
    assert document == {
        "url": str(repo), "dry_run": False, "merges": [], "written": [], "rows": 0, "taken_back": 0, "problems": [],
    }  # fmt: skip


def test_compact_waits_and_can_be_confined(run: Any, cache: Path, repo: Path) -> None:
    """Four packs are too few unless told otherwise; a namespace is named by the beginning of its id."""
    assert run("compact", cache, "--remote", repo).out == "0 merges planned, 0 written, 0 rows\n"
    other = run("compact", cache, "--remote", repo, "--at-least", 2, "--namespace", OTHER_SPEC.namespace[:6])
    assert other.out == "0 merges planned, 0 written, 0 rows\n"
    mine = run("compact", cache, "--remote", repo, "--at-least", 2, "--namespace", SPEC.namespace)
    assert "1 written" in mine.out
    wrong = run("compact", cache, "--remote", repo, "--namespace", "zz")
    assert (wrong.code, wrong.err.startswith("cas-cache: 0 namespaces of")) == (1, True)
    assert run("compact", cache, "--remote", repo, "--at-least", 1).code == 2


def test_a_damaged_pack_is_told(run: Any, cache: Path, repo: Path) -> None:
    """Exit code 1: something was left as it is."""
    damaged = next(repo.glob("packs/*/vectors/c/0/0"))
    damaged.write_bytes(b"x")
    result = run("compact", cache, "--remote", repo, "--at-least", 2)
    problems = result.err.count("left as it is: ")
    assert (result.code, problems) == ((1, 1) if problems else (0, 0))
    assert problems == (damaged.parts[-5] in result.err)


def test_prune(run: Any, cache: Path, repo: Path) -> None:
    """Nothing young goes; what is old goes, and every row is still there for a new mirror."""
    run("compact", cache, "--remote", repo, "--at-least", 2)
    result = run("prune", cache, "--remote", repo, "--yes")
    assert (result.code, result.err) == (0, "")
    assert result.out == "deleted 0 packs, 0 B; 4 are not old enough\n"
    age(repo, 8)
    before = files(repo)
    dry = run("prune", cache, "--remote", repo, "--dry-run")
    assert dry.out.startswith(f"would delete 4 superseded of {SPEC.namespace}: ")
    assert files(repo) == before
    some = run("prune", cache, "--remote", repo, "--yes", "--most-packs", 3)
    assert some.out.splitlines()[-1].endswith("0 are not old enough, 1 more at the next run")
    document = json.loads(run("prune", cache, "--remote", repo, "--yes", "--json").out)
    assert [deletion["reason"] for deletion in document["deletions"]] == ["superseded"]
    new = run("pull", cache.parent / "new", "--remote", repo, "--json")
    assert json.loads(new.out)["rows"] == 45
    assert run("pull", cache, "--remote", repo).code == 0
    assert run("check", "--remote", repo, "--read-data").code == 0


def test_prune_asks_for_force(run: Any, cache: Path, repo: Path) -> None:
    """Less than a day is an error that says so; forced it goes at once."""
    run("compact", cache, "--remote", repo, "--at-least", 2)
    for grace in ("0s", "23h", "90m"):
        result = run("prune", cache, "--remote", repo, "--yes", "--grace", grace)
        assert (result.code, "--force" in result.err) == (1, True)
    assert run("prune", cache, "--remote", repo, "--yes", "--grace", "1d").code == 0
    assert run("prune", cache, "--remote", repo, "--yes", "--grace", "week").code == 2
    forced = run("prune", cache, "--remote", repo, "--yes", "--grace", "0s", "--force")
    assert forced.out.startswith("deleted 4 superseded of ")


def test_prune_believes_the_mirror(run: Any, cache: Path, repo: Path) -> None:
    """A pack that the mirror knows and the listing lacks stops it; another repository's mirror is an error."""
    age(repo, 8)
    next(repo.glob(f"manifests/{SPEC.namespace}/*.json")).unlink()
    before = files(repo)
    result = run("prune", cache, "--remote", repo, "--yes")
    assert (result.code, "known to be there" in result.err) == (1, True)
    assert files(repo) == before
    stranger = cache.parent / "stranger"
    with EmbeddingCache(stranger, remote=cache.parent / "other") as opened:
        opened.encode(texts(1), SPEC, Encoder())
    other = run("prune", stranger, "--remote", repo, "--yes")
    assert (other.code, "belongs to the repository at" in other.err) == (1, True)
    assert run("prune", cache.parent / "none", "--remote", repo, "--yes").out.startswith("deleted 1 orphan: ")


def test_drop(run: Any, cache: Path, repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks, unless told not to; what is in use must be forced."""
    result = run("drop", cache, "--remote", repo, "--namespace", SPEC.namespace, "--yes")
    assert (result.code, "in the last day" in result.err) == (1, True)
    age(repo, 2)
    before = files(repo)
    dry = run("drop", cache, "--remote", repo, "--namespace", SPEC.namespace[:8], "--dry-run")
    assert dry.out.startswith(f"would delete namespace {SPEC.namespace}: 4 packs, ")
    monkeypatch.setattr("cas_cache.cli.options.sys.stdin", Terminal())
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: "n")
    refused = run("drop", cache, "--remote", repo, "--namespace", SPEC.namespace)
    assert (refused.code, files(repo)) == (1, before)
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: "y")
    assert run("drop", cache, "--remote", repo, "--namespace", SPEC.namespace).code == 0
    assert not any(SPEC.namespace in name for name in files(repo))
    pulled = run("pull", cache, "--remote", repo)
    assert (pulled.code, "lists no pack of namespace" in pulled.err) == (1, True)


def test_drop_with_json(run: Any, cache: Path, repo: Path) -> None:
    """With --json nobody is asked, so --yes or --dry-run is needed."""
    age(repo, 2)
    assert run("drop", cache, "--remote", repo, "--namespace", OTHER_SPEC.namespace, "--json").code == 2
    document = json.loads(
        run("drop", cache, "--remote", repo, "--namespace", OTHER_SPEC.namespace, "--json", "--yes").out
    )
    assert (document["namespace"], len(document["packs"]), document["dry_run"]) == (OTHER_SPEC.namespace, 1, False)
    assert run("drop", cache, "--remote", repo, "--yes").code == 2


@pytest.mark.parametrize("command", ["compact", "prune", "drop"])
def test_offline_and_without_a_remote(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """One line that says what to name, or that the cache is offline; nothing is made."""
    arguments = {"drop": ["--namespace", SPEC.namespace, "--yes"], "prune": ["--yes"]}.get(command, [])
    assert run(command, tmp_path / "mirror", *arguments).code == 2
    gone = run(command, tmp_path / "mirror", "--remote", tmp_path / "repo", *arguments)
    assert (gone.code, "There is no repository" in gone.err) == (1, True)
    monkeypatch.setenv("CAS_CACHE_OFFLINE", "1")
    offline = run(command, tmp_path / "mirror", "--remote", tmp_path / "repo", *arguments)
    assert (offline.code, "offline" in offline.err) == (1, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.verify
def test_push_passes_the_hint_on(run: Any, tmp_path: Path) -> None:
    """On stderr, and in the JSON."""
    for i in range(65):
        cache = EmbeddingCache(tmp_path / "mirror", remote=tmp_path / "repo", push="manual")
        cache.encode(texts(1, i), SPEC, Encoder())
        if i < 63:
            cache.push()
    result = run("push", tmp_path / "mirror", "--remote", tmp_path / "repo")
    assert (result.code, result.err) == (0, "")
    cache = EmbeddingCache(tmp_path / "mirror")
    cache.encode(texts(1, 100), SPEC, Encoder())
    result = run("push", tmp_path / "mirror", "--remote", tmp_path / "repo")
    assert (result.code, result.err.startswith("hint: Namespace ")) == (0, True)


def test_evict(run: Any, cache: Path, repo: Path) -> None:
    """A dry run says what goes; what has gone comes back with a pull; what waits keeps it too large: exit code 1."""
    row = 4 * 4 + 32 + 8 + 16
    dry = run("evict", cache, "--yes", "--max-size", f"{25 * row}B", "--dry-run", "--json")
    assert dry.code == 0
    document = json.loads(dry.out)
    assert (document["bytes_before"], document["bytes_after"], document["in_use"]) == (45 * row, 25 * row, [])
    assert len(document["evicted"]) == 2
    result = run("evict", cache, "--yes", "--max-size", f"{25 * row} B")
    assert (result.code, result.err) == (0, "")
    assert result.out.endswith("evicted 2 packs: 3.2 kB before, 1.8 kB after, of which 0 B are pending\n")
    assert json.loads(run("pull", cache, "--remote", repo, "--json").out)["rows"] == 20
    with EmbeddingCache(cache) as opened:
        opened.encode(texts(3, 500), SPEC, Encoder())
    del opened
    assert run("evict", cache, "--yes", "--max-size", "0").code == 1
    assert "of which 216 B are pending" in run("evict", cache, "--yes", "--max-size", "1k").out


@pytest.mark.parametrize(
    ("text", "expected"), [("0", 0), ("1B", 1), ("2kB", 2000), ("1.5 GiB", 1_610_612_736), ("50G", 5 * 10**10)]
)
def test_sizes(text: str, expected: int) -> None:
    """Decimal and binary units, with and without the B."""
    assert _bytes(None, None, text) == expected  # type: ignore[arg-type]


def test_wrong_sizes_are_usage(run: Any, cache: Path) -> None:
    """So is none at all; a directory that is no mirror is one line."""
    for size in ("", "many", "5 XB", "-1", "50"):
        assert run("evict", cache, "--yes", f"--max-size={size}").code == 2
    assert run("evict", cache, "--yes").code == 2
    gone = run("evict", cache.parent / "none", "--yes", "--max-size", "1G")
    assert (gone.code, gone.err.count("\n")) == (1, 1)


@pytest.mark.parametrize("command", ["compact", "prune", "drop"])
def test_read_only_is_heeded(run: Any, cache: Path, repo: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """Nothing is written or deleted; looking is allowed."""
    monkeypatch.setenv("CAS_CACHE_READ_ONLY", "1")
    before = files(repo)
    arguments = {"drop": ["--namespace", SPEC.namespace, "--yes", "--force"], "prune": ["--yes"]}.get(command, [])
    refused = run(command, cache, "--remote", repo, *arguments)
    assert (refused.code, "Unset CAS_CACHE_READ_ONLY" in refused.err) == (1, True)
    assert files(repo) == before
    assert run("check", "--remote", repo).code == 0


def test_a_dropped_namespace_does_not_stop_the_others(run: Any, cache: Path, repo: Path) -> None:
    """It is told at each pull, with the way out, and what is new of the others arrives; prune goes on, too."""
    colleague = cache.parent / "colleague"
    run("pull", colleague, "--remote", repo)
    run("drop", cache, "--remote", repo, "--namespace", SPEC.namespace, "--yes", "--force")
    with EmbeddingCache(cache, remote=repo, push="manual") as opened:
        opened.encode(texts(7, 700), OTHER_SPEC, Encoder())
        opened.push()
    result = run("pull", colleague, "--remote", repo)
    assert (result.code, result.out.startswith("pulled 1 pack, 7 rows")) == (1, True)
    assert f"move {colleague / 'namespaces' / SPEC.namespace} out of the mirror" in result.err
    assert run("prune", cache, "--remote", repo, "--yes").code == 0
    kept = run("evict", colleague, "--yes", "--max-size", "0")
    assert (kept.code, "40 rows" in run("ls", colleague).out) == (1, True), "the only copy is not evicted"
    for path in sorted((colleague / "namespaces" / SPEC.namespace).rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (colleague / "namespaces" / SPEC.namespace).rmdir()
    assert run("pull", colleague, "--remote", repo).code == 0


def test_a_mistyped_remote_is_no_success(run: Any, cache: Path) -> None:
    """A new mirror that pulls from nothing is told so; a mirror that is named as the remote as well."""
    nothing = run("pull", cache.parent / "new", "--remote", cache.parent / "reop")
    assert (nothing.code, "nothing exists there at all" in nothing.err) == (1, True)
    mirror = run("pull", cache.parent / "new", "--remote", cache)
    assert (mirror.code, "is a mirror, not a repository" in mirror.err) == (1, True)
