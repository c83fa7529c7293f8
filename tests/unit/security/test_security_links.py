"""Symbolic links below a mirror's or a repository's directory are followed neither to read nor to write."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import hostile_mirrors as mirrors
from cas_cache import EmbeddingCache
from cas_cache.errors import AccessDenied, CasCacheError, DamagedMirror, LinkInMirror
from cas_cache.files.disk import links_below, open_plain, read_plain
from cas_cache.mirror import Mirror
from cas_cache.mirror.index import TEMP_NAME
from cas_cache.repository import Repository
from cas_cache.storage import open_storage
from folder_tree import tree
from hostile_mirrors import SPEC, TASK, TEXTS, all_of_it, copy
from scale import SCALE
from tiers import sampled

SECRET = b"not yours to read, nor to write\n" * 400

NEVER_READ = {"spec.json": "of the calibration: for people", ".keys.npy": "for other tools", ".index": "the same"}
"""What is written for others to read, and never read or opened here: a new one takes the link's place."""


def names(mirror: Path) -> list[str]:
    """All that is below the mirror's directory."""
    return sorted(str(path.relative_to(mirror)) for path in mirror.rglob("*"))


def outside(mirror: Path, name: str, victim: Path) -> None:
    """The very content lies outside, and a link leads to it."""
    shutil.move(mirror / name, victim / "it")
    (mirror / name).symlink_to(victim / "it")


def another(mirror: Path, name: str, victim: Path) -> None:
    """A link leads to something else of the victim's."""
    was_folder = (mirror / name).is_dir()
    shutil.rmtree(mirror / name) if was_folder else (mirror / name).unlink()
    (victim / "folder" / "inner").mkdir(parents=True)
    (victim / "folder" / "inner" / "file").write_bytes(SECRET)
    (victim / "file").write_bytes(SECRET)
    (mirror / name).symlink_to(victim / ("folder" if was_folder else "file"))


def nowhere(mirror: Path, name: str, victim: Path) -> None:
    """A link leads to a name outside that is not there, so that it would be made."""
    shutil.rmtree(mirror / name) if (mirror / name).is_dir() else (mirror / name).unlink()
    (mirror / name).symlink_to(victim / "made-by-you")


def inside(mirror: Path, name: str, _: Path) -> None:
    """A link that stays inside, relative."""
    path = mirror / name
    path.rename(path.with_name(f"{path.name}-moved"))
    path.symlink_to(f"{path.name}-moved")


KINDS = [outside, nowhere, another, inside]
"""With a scale of 1, each name has two of them: one that leads to something, one that leads nowhere or another way."""


@pytest.mark.verify
@pytest.mark.parametrize("kind", sampled(KINDS, keep={outside}), ids=lambda kind: kind.__name__)
def test_no_link_in_a_mirror_is_followed(
    place: Path, tmp_path: Path, kind: Callable[[Path, str, Path], None], figure: Callable[[str, int], None]
) -> None:
    """For each file and folder that a mirror has: a link in its place is refused by name, and what it leads to stays.

    Whatever is done with the mirror afterwards, in this process and by every flow there is.
    """
    refused = 0
    turn = KINDS.index(kind)
    for number, name in enumerate(names(place / "mirror")):
        if SCALE == 1 and number % 2 != turn % 2:
            continue
        here = tmp_path / str(number)
        mirror, remote = copy(place / "mirror", here / "mirror"), copy(place / "remote", here / "remote")
        victim = here / "victim"
        victim.mkdir()
        kind(mirror, name, victim)
        before = tree(victim)
        said = all_of_it(mirror, remote)
        assert tree(victim) == before, (name, said)
        told = [message for message in said.values() if str(mirror / name) in message]
        if not any(name.endswith(end) and ("/namespaces/" not in f"/{name}") for end in NEVER_READ):
            assert told, (name, said)
            assert any("is a symbolic link" in message for message in told), told
            refused += 1
        shutil.rmtree(here)
    figure("symlinks refused", refused)


LEFT_BEHIND = [TEMP_NAME, "vectors.npy.new", "keys.npy.new", "digests.npy.new", ".tmp-0", "memo", "catalogue", "faiss"]


@pytest.mark.parametrize("name", sampled(LEFT_BEHIND, keep=4))
def test_links_under_names_that_come_and_go(place: Path, tmp_path: Path, name: str) -> None:
    """Of temporary files and of folders that are made when needed: nothing is written or deleted through them."""
    mirror, remote = copy(place / "mirror", tmp_path / "mirror"), copy(place / "remote", tmp_path / "remote")
    victim = tmp_path / "victim"
    for number in range(600):  # more than a memo's folder may hold
        (victim / f"folder-{number % 3}").mkdir(parents=True, exist_ok=True)
        (victim / f"file-{number}").write_bytes(SECRET[:10])
    (victim / "index.0-9").write_bytes(SECRET)
    before = tree(victim)
    for folder in (mirror / "namespaces").iterdir():
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        (folder / name).symlink_to(victim if name in ("memo", "catalogue", "faiss") else victim / "index.0-9")
    all_of_it(mirror, remote)
    assert tree(victim) == before


def test_a_mirror_that_is_reached_by_a_link(place: Path, tmp_path: Path) -> None:
    """The directory, or one above it, may be a link: that is the user's own choice."""
    copy(place / "mirror", tmp_path / "disk" / "mirror")
    remote = copy(place / "remote", tmp_path / "remote")
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "mirror")
    (tmp_path / "above").symlink_to(tmp_path / "disk")
    assert all_of_it(tmp_path / "link", remote) == {}
    assert all_of_it(tmp_path / "above" / "mirror", remote) == {}


def test_folders_of_others_may_be_links(place: Path, tmp_path: Path) -> None:
    """A link beside the tasks' folders is not ours: it is skipped when tasks are listed."""
    mirror = copy(place / "mirror", tmp_path / "mirror")
    (mirror / "latest").symlink_to(mirror / TASK)
    assert Mirror(mirror).views.tasks() == [TASK]


def test_the_error_says_what_to_do(place: Path, tmp_path: Path, run: Any) -> None:
    """Which name, where it leads, that nothing happened there, and the way out; from the shell as well."""
    mirror = copy(place / "mirror", tmp_path / "mirror")
    link = mirror / "namespaces" / SPEC.namespace / "state.json"
    link.unlink()
    link.symlink_to("/etc/hostname")
    with pytest.raises(LinkInMirror, match=r"state\.json is a symbolic link to /etc/hostname") as caught:
        EmbeddingCache(mirror).get(TEXTS, SPEC)
    assert "remove the link and keep what it leads to" in str(caught.value)
    done = run("ls", mirror)
    assert done.code == 1
    assert "is a symbolic link to /etc/hostname" in done.err
    assert "not followed" in " ".join(done.err.split())


PASSED_OVER = (*NEVER_READ, "catalogue.json", "digests.npy", "keys.npy")
"""The last three are of a catalogue: a damaged one is forgotten, and replaced."""


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Path]:
    os.mkfifo(tmp_path / "pipe")
    yield tmp_path / "pipe"
    (tmp_path / "pipe").unlink()


@pytest.mark.verify
def test_pipes_are_not_waited_for(place: Path, tmp_path: Path) -> None:
    """A pipe in the place of any file would be waited for for ever: it is refused, or skipped."""
    files = [name for name in names(place / "mirror") if not (place / "mirror" / name).is_dir()]
    for number, name in enumerate(files[:: 3 if SCALE == 1 else 1]):
        mirror = copy(place / "mirror", tmp_path / str(number))
        (mirror / name).unlink()
        os.mkfifo(mirror / name)
        said = all_of_it(mirror, copy(place / "remote", tmp_path / f"{number}-remote"))
        assert any("a pipe" in message for message in said.values()) or (
            name.endswith(PASSED_OVER) and ("/catalogue/" in name or "namespaces" not in name)
        ), (name, said)


def test_open_plain(tmp_path: Path, pipe: Path) -> None:
    """Opens files; tells links, pipes, folders and nothing apart."""
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "loose").symlink_to(tmp_path / "nowhere")
    assert read_plain(tmp_path / "file") == b"abc"
    for link in ("link", "loose"):
        for flags in (os.O_RDONLY, os.O_RDWR | os.O_CREAT, os.O_RDWR | os.O_CREAT | os.O_TRUNC):
            with pytest.raises(LinkInMirror, match=f"{link} is a symbolic link"):
                open_plain(tmp_path / link, flags)
    for flags in (os.O_RDONLY, os.O_RDWR):
        with pytest.raises(DamagedMirror, match="a pipe"):
            open_plain(pipe, flags)
    with pytest.raises(IsADirectoryError):
        open_plain(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_plain(tmp_path / "nothing")
    assert (tmp_path / "file").read_bytes() == b"abc"
    assert not (tmp_path / "nowhere").exists()


# A local repository --------------------------------------------------------------------------------------------------


def repository_flows(mirror: Path, remote: Path) -> list[str]:
    said = []
    for flow in (mirrors.pull, mirrors.encode, mirrors.push, lambda _, there: mirrors.maintain(there)):
        try:
            flow(mirror, remote)
        except CasCacheError as err:
            said.append(f"{type(err).__name__}: {err}")
    return said


@pytest.mark.filterwarnings("ignore:.* packs were skipped:cas_cache.errors.DataWarning")
@pytest.mark.verify
@pytest.mark.filterwarnings("ignore::cas_cache.errors.RemoteWarning")
@pytest.mark.parametrize("kind", sampled(KINDS, keep={outside}), ids=lambda kind: kind.__name__)
def test_no_link_in_a_repository_is_followed(
    place: Path, tmp_path: Path, kind: Callable[[Path, str, Path], None], figure: Callable[[str, int], None]
) -> None:
    """For each file and folder of one pack and around it: what a link leads to is neither read, written nor deleted."""
    refused = 0
    every = names(place / "remote")
    pack = min(Path(name).parts[1] for name in every if name.startswith("packs/"))
    for number, name in enumerate(it for it in every if not it.startswith("packs/") or it == "packs" or pack in it):
        here = tmp_path / str(number)
        remote, mirror = copy(place / "remote", here / "remote"), here / "mirror"
        victim = here / "victim"
        victim.mkdir()
        kind(remote, name, victim)
        before = tree(victim)
        with pytest.raises(AccessDenied, match="is a symbolic link") as caught:
            open_storage(str(remote)).get(name, 0, 1)
        assert str(remote / name) in str(caught.value)
        said = repository_flows(mirror, remote)
        assert tree(victim) == before, (name, said)
        refused += 1
        shutil.rmtree(here)
    figure("symlinks refused", refused)


@pytest.mark.parametrize("verb", ["get", "put", "create", "list", "delete"])
def test_every_verb_of_a_local_storage(tmp_path: Path, verb: str) -> None:
    """A folder that is a link is refused by each; of a name that is a link, `delete` removes the link alone."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_bytes(SECRET)
    root = tmp_path / "root"
    root.mkdir()
    (root / "folder").symlink_to(victim)
    (root / "file").symlink_to(victim / "file")
    storage = open_storage(str(root))
    before = tree(victim)
    calls: dict[str, Callable[[str], Any]] = {
        "get": lambda path: storage.get(path, 0, 9),
        "put": lambda path: storage.put(path, b"x"),
        "create": lambda path: storage.put(path, b"x", create_only=True),
        "list": storage.list,
        "delete": storage.delete,
    }
    for path in ("folder/file", "folder/inner/file", "folder/new"):
        with pytest.raises(AccessDenied, match="folder is a symbolic link"):
            calls[verb](path)
    if verb == "delete":
        storage.delete("file")
        assert not (root / "file").is_symlink()
    else:
        with pytest.raises(AccessDenied, match="file is a symbolic link"):
            calls[verb]("file")
    assert tree(victim) == before


def test_a_repository_that_is_reached_by_a_link(place: Path, tmp_path: Path) -> None:
    """The directory, or one above it, may be a link."""
    copy(place / "remote", tmp_path / "disk" / "remote")
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    assert repository_flows(tmp_path / "mirror", tmp_path / "link" / "remote") == []
    assert Repository(open_storage(str(tmp_path / "link" / "remote"))).open()


def test_links_below(tmp_path: Path) -> None:
    """The first link on the way; names that are not there, or below a file, are none."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "file").write_bytes(b"")
    (tmp_path / "a" / "link").symlink_to("b")
    assert links_below(tmp_path, "a/b/c") is None
    assert links_below(tmp_path, "a/file/c") is None
    assert links_below(tmp_path, "x/link") is None
    assert links_below(tmp_path, "a/link/c") == str(tmp_path / "a" / "link")
