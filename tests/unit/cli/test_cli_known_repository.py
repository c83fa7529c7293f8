"""A mirror names its repository for the commands that need one, and `ls` finds the user's mirrors."""

import json
from pathlib import Path
from typing import Any

import pytest

from cas_cache import EmbeddingCache
from cas_cache.mirror import Mirror
from cas_cache.repository import Repository
from cas_cache.storage import open_storage
from cli_fixtures import DOCUMENTS, Places, made
from storages import OTHER_SPEC, SPEC, texts, truth


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return made(tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        ("status", "--json"),
        ("pull", "--dry-run", "--json"),
        ("push", "--dry-run", "--json"),
        ("sync", "--dry-run", "--json"),
        ("check", "--repository", "--json"),
        ("compact", "--dry-run", "--json"),
        ("prune", "--dry-run", "--json"),
        ("drop", "--dry-run", "--json", "-n", SPEC.namespace),
        ("ls", "--repository", "--json"),
    ],
    ids=lambda words: words[0],
)
def test_a_mirror_names_its_repository(run: Any, places: Places, words: tuple[str, ...]) -> None:
    """Without a remote, each command does what it does with the mirror's repository as the remote."""
    command, *options = words
    named = run(command, places.mirror, "--remote", places.remote, *options)
    assert (named.code, named.err) == (0, "")
    assert run(command, places.mirror, *options) == named


def test_push_and_pull_without_a_remote(run: Any, places: Places) -> None:
    """Rows reach the repository that the mirror belongs to, and a colleague's rows arrive from there."""
    assert run("push", places.mirror).out.startswith("pushed 2 packs, 9 rows")
    assert run("pull", places.mirror).out.startswith("pulled 1 pack, 7 rows")
    with EmbeddingCache(places.mirror) as cache:
        assert cache.get(texts(7), DOCUMENTS)[1].all()
    assert OTHER_SPEC.namespace in {namespace for namespace, _ in Repository(open_storage(str(places.remote))).packs()}


def test_a_remote_that_is_named_wins(run: Any, places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting names a remote, too: another repository than the mirror's is an error, never ignored."""
    with EmbeddingCache(places.out / "other", remote=places.out / "repo") as cache:
        cache.put(texts(1), truth(texts(1)), SPEC)
    monkeypatch.setenv("CAS_CACHE_REMOTE", str(places.out / "repo"))
    assert "A mirror serves one repository" in run("status", places.mirror).err


def test_a_repository_that_moved_is_told(run: Any, places: Places) -> None:
    """The mirror's recorded URL leads nowhere: nothing is made there, and the error names the URL."""
    places.remote.rename(places.out / "moved")
    ended = run("push", places.mirror)
    assert (ended.code, str(places.remote) in ended.err, "Check the URL" in ended.err) == (1, True, True)
    assert not places.remote.exists()
    assert run("push", places.mirror, "--remote", places.out / "moved").code == 0


def test_doctor_looks_at_the_repository_of_a_mirror(run: Any, places: Places) -> None:
    """A mirror whose marker is damaged names no repository, and is a finding."""
    document = json.loads(run("doctor", places.mirror, "--json").out)
    assert document["url"] == str(places.remote)
    assert "belongs" in {finding["name"] for finding in document["findings"]}
    (places.mirror / "cas-cache-mirror.json").write_text("{}")
    ended = run("doctor", places.mirror, "--json")
    (fails,) = [finding for finding in json.loads(ended.out)["findings"] if finding["status"] == "FAIL"]
    assert (ended.code, fails["name"], json.loads(ended.out)["url"]) == (1, "mirror", None)


def test_check_of_a_repository_directory(run: Any, places: Places) -> None:
    """The directory of a repository is one for `check`, as its URL is."""
    assert run("check", places.remote) == run("check", "--remote", places.remote)


def test_ls_without_arguments_lists_all_mirrors(
    run: Any, places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with its repository and namespaces; one that cannot be read is a problem of its own."""
    home = tmp_path / "caches"
    monkeypatch.setenv("CAS_CACHE_DIR", str(home))
    assert (run("ls").code, "There is no mirror in" in run("ls").out) == (0, True)
    run("pull", f"file://{places.remote}")
    with EmbeddingCache() as cache:
        cache.put(texts(2), truth(texts(2)), OTHER_SPEC)
    Mirror(home / "empty")
    (home / "not_a_mirror").mkdir()
    found = json.loads(run("ls", "--json").out)
    by_name = {Path(one["mirror"]).name: one for one in found["mirrors"]}
    (pulled,) = by_name.keys() - {"local", "empty"}
    assert by_name[pulled]["repository"] == str(places.remote)
    assert {one["namespace"] for one in by_name[pulled]["namespaces"]} == {SPEC.namespace, DOCUMENTS.namespace}
    assert [one["rows"] for one in by_name["local"]["namespaces"]] == [2]
    screen = run("ls").out
    assert f"mirror {home / pulled}, of {places.remote}" in screen
    assert f"mirror {home / 'local'}\n" in screen
    assert f"The mirror {home / 'empty'} is empty" in screen
    (home / "empty" / "cas-cache-mirror.json").write_text("{}")
    ended = run("ls")
    assert (ended.code, "skipped: " in ended.err, f"mirror {home / 'local'}\n" in ended.out) == (1, True, True)
    assert [one["error"] for one in json.loads(run("ls", "--json").out)["problems"]] == ["DamagedMirror"]


def test_doctor_examines_the_directory_of_a_repository(run: Any, tmp_path: Path) -> None:
    """Named as CACHE it is examined as a repository, as `ls` and `check` do, not as a damaged mirror."""
    with EmbeddingCache(tmp_path / "mirror", remote=tmp_path / "repo") as cache:
        cache.put(["a"], [[1.0, 2.0]], SPEC)
    done = run("doctor", tmp_path / "repo", "--json")
    found = json.loads(done.out)
    assert (done.code, found["url"]) == (0, str(tmp_path / "repo")), done.out
