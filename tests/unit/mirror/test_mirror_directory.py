"""Mirror: its directory, other contents of a directory, and the repository that it belongs to."""

import json
import stat
from pathlib import Path

import pytest

from cas_cache.errors import (
    DamagedMirror,
    MirrorWriteError,
    NotAMirror,
    RepositoryMismatch,
    UnsupportedFormat,
)
from cas_cache.identity import EncoderSpec
from cas_cache.mirror import Mirror
from mirror_rows import OTHER, SPEC, keys_for, vectors_for

MARKER = "cas-cache-mirror.json"


def test_is_made_where_nothing_is(tmp_path: Path) -> None:
    """A new directory is created with its parents, readable by its owner only, with a marker that identifies it."""
    mirror = Mirror(tmp_path / "a" / "b")
    assert stat.S_IMODE(mirror.directory.stat().st_mode) == 0o700
    document = json.loads((mirror.directory / MARKER).read_bytes())
    assert document == {"format": "cas-cache-mirror", "version": 1, "repository": None, "url": None}
    assert mirror.repository is None
    assert mirror.namespaces() == []


def test_opens_again(tmp_path: Path) -> None:
    """A relative path, a string, and `create=False` all open an existing mirror."""
    ns = Mirror(tmp_path).namespace(SPEC)
    ns.append(keys_for([1]), vectors_for(keys_for([1])))
    again = Mirror(str(tmp_path), create=False)
    assert [(found.spec, found.rows) for found in again.namespaces()] == [(SPEC, 1)]
    assert again.namespace(SPEC) is again.get(SPEC.namespace)


def test_the_home_directory_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` is the user's home, as everywhere."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Mirror("~/cache").directory == tmp_path / "cache"


def test_dotfiles_do_not_make_a_directory_another_ones(tmp_path: Path) -> None:
    """A directory that has only dotfiles (.gitignore, .DS_Store, .nfs0001) can become a mirror."""
    for name in (".gitignore", ".DS_Store"):
        (tmp_path / name).touch()
    assert Mirror(tmp_path).namespaces() == []
    assert (tmp_path / ".gitignore").exists()


@pytest.mark.parametrize("create", [True, False])
def test_what_holds_something_else_is_left_alone(tmp_path: Path, create: bool) -> None:
    """An mteb cache folder, a repository or other files cause an error, and nothing is written."""
    (tmp_path / "NFCorpus").mkdir()
    (tmp_path / "NFCorpus" / "vectors.npy").write_bytes(b"old")
    with pytest.raises(NotAMirror, match="is not empty"):
        Mirror(tmp_path, create=create)
    assert [path.name for path in tmp_path.iterdir()] == ["NFCorpus"]


def test_a_file_is_no_mirror(tmp_path: Path) -> None:
    """The error says that the path is a file."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotAMirror, match="is a file"):
        Mirror(tmp_path / "file")


def test_nothing_is_made_without_create(tmp_path: Path) -> None:
    """A mistyped path creates no directory."""
    with pytest.raises(NotAMirror, match="no cas_cache mirror"):
        Mirror(tmp_path / "typo", create=False)
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"{}", b"\xff", b'{"format": "cas-cache-mirror"}'], ids=repr)
def test_a_garbage_marker_is_damage(tmp_path: Path, content: bytes) -> None:
    """An invalid marker is not overwritten."""
    (tmp_path / MARKER).write_bytes(content)
    with pytest.raises(DamagedMirror, match=MARKER):
        Mirror(tmp_path)
    assert (tmp_path / MARKER).read_bytes() == content


def test_a_marker_of_something_else(tmp_path: Path) -> None:
    """Another program's file with the marker's name is not a mirror's marker."""
    (tmp_path / MARKER).write_text('{"format": "else", "version": 1}')
    with pytest.raises(NotAMirror):
        Mirror(tmp_path)


def test_a_newer_mirror_is_refused(tmp_path: Path) -> None:
    """The directory of a newer version is not changed."""
    (tmp_path / MARKER).write_text('{"format": "cas-cache-mirror", "version": 2}')
    with pytest.raises(UnsupportedFormat, match="Update cas_cache"):
        Mirror(tmp_path)


def test_a_marker_that_vanishes_is_damage(tmp_path: Path) -> None:
    """If a mirror is deleted while it is open, the error is one of cas_cache's, not the file system's."""
    mirror = Mirror(tmp_path)
    (tmp_path / MARKER).unlink()
    with pytest.raises(DamagedMirror):
        _ = mirror.repository


def test_a_mirror_made_meanwhile_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If another process creates the mirror between two checks, the directory still counts as a mirror."""
    exists, looks = Path.exists, []

    def late(self: Path) -> bool:
        if self.name == MARKER and not looks:
            looks.append(self)
            monkeypatch.undo()
            Mirror(tmp_path).namespace(OTHER)
            return False
        return exists(self)

    monkeypatch.setattr(Path, "exists", late)
    assert [ns.spec for ns in Mirror(tmp_path).namespaces()] == [OTHER]
    assert looks


def test_belongs_to_one_repository(tmp_path: Path) -> None:
    """Binding is stored and can be repeated; another repository is refused, by every handle."""
    one, two = Mirror(tmp_path), Mirror(tmp_path)
    one.bind("id-1", "s3://team/emb")
    one.bind("id-1", "s3://team/emb")
    two.bind("id-1", "s3://mirror-of-team/emb")
    for mirror in (one, two, Mirror(tmp_path)):
        assert mirror.repository == "id-1"
        with pytest.raises(RepositoryMismatch, match=r"s3://team/emb.*s3://other"):
            mirror.bind("id-2", "s3://other")
    assert json.loads((tmp_path / MARKER).read_bytes())["url"] == "s3://team/emb"


@pytest.mark.parametrize(
    "name", ["", "..", "x", "a" * 31, "A" * 32, "g" * 32, "a" * 33, "a" * 31 + "/", "../" + "a" * 29]
)
def test_only_ids_are_looked_up(tmp_path: Path, name: str) -> None:
    """Only an id becomes a path."""
    with pytest.raises(ValueError, match="not a namespace id"):
        Mirror(tmp_path).get(name)


def test_foreign_entries_are_passed_over(tmp_path: Path) -> None:
    """Other entries among the namespaces, including files with an id as their name, are not namespaces."""
    mirror = Mirror(tmp_path)
    mirror.namespace(SPEC)
    root = tmp_path / "namespaces"
    (root / "notes").mkdir()
    (root / ".DS_Store").touch()
    (root / ("a" * 32)).touch()
    (root / ("b" * 32)).mkdir()
    assert [ns.spec for ns in Mirror(tmp_path).namespaces()] == [SPEC]


def test_namespaces_are_in_order_of_their_ids(tmp_path: Path) -> None:
    """The order does not depend on the file system."""
    mirror = Mirror(tmp_path)
    specs = [SPEC, OTHER, *(EncoderSpec(model=f"m{i}", revision="1") for i in range(5))]
    for spec in specs:
        mirror.namespace(spec)
    assert [ns.spec.namespace for ns in Mirror(tmp_path).namespaces()] == sorted(spec.namespace for spec in specs)


def test_no_room_for_a_new_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full before the first row causes one of cas_cache's errors too."""
    mirror = Mirror(tmp_path)

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("cas_cache.files.disk.os.fsync", refuse)
        with pytest.raises(MirrorWriteError, match="Make room"):
            mirror.namespace(SPEC)
    assert mirror.namespaces() == []
    assert mirror.namespace(SPEC).rows == 0


def test_representations_show_the_place_and_no_contents(tmp_path: Path) -> None:
    """A representation for logs names places and counts."""
    mirror = Mirror(tmp_path)
    ns = mirror.namespace(SPEC)
    assert repr(mirror) == f"Mirror({str(tmp_path)!r})"
    assert repr(ns) == f"Namespace({SPEC.namespace}, rows=0)"
