"""File systems of fsspec other than clouds: those that need folders work, those that cannot list or write are refused.

A stand-in on a directory behaves like SFTP and SMB: a write creates no folder, and no method is asynchronous. Real
WebDAV and SFTP servers were tried by hand; `docs/how-to/storage.md` names them.
"""

import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from cas_cache import EmbeddingCache
from cas_cache.errors import AccessDenied, InvalidURL, ObjectNotFound, RemoteUnavailable
from cas_cache.repository import Repository
from cas_cache.repository.checking import check
from cas_cache.storage import Storage, open_storage
from cas_cache.storage.local import LocalStorage
from storages import SPEC, Encoder, texts, truth


class Folders(fsspec.AbstractFileSystem):
    """A directory, as a file system that needs folders and allows only one call at a time."""

    protocol = ("folders", "sftp")

    def __init__(self, root: str = "/", **options: Any) -> None:
        super().__init__()
        if options:
            raise TypeError(f"connect() got an unexpected keyword argument {next(iter(options))!r}")  # like paramiko
        self.root = Path(root)
        self.busy = threading.Lock()

    def _path(self, path: str) -> Path:
        assert self.busy.locked(), "two calls at a time, or one outside of a method"
        return self.root / path.lstrip("/")

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in {"cat_file", "pipe_file", "ls", "exists", "makedirs", "rm_file", "mv"}:
            return found

        def alone(*args: Any, **options: Any) -> Any:
            assert self.busy.acquire(blocking=False), "two calls at a time"
            try:
                return found(*args, **options)
            finally:
                self.busy.release()

        return alone

    def cat_file(self, path: str, start: int = 0, end: int | None = None, **_: Any) -> bytes:
        return self._path(path).read_bytes()[start:end]

    def pipe_file(self, path: str, value: bytes, **_: Any) -> None:
        self._path(path).write_bytes(value)

    def exists(self, path: str, **_: Any) -> bool:
        return self._path(path).exists()

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        self._path(path).mkdir(parents=True, exist_ok=exist_ok)

    def rm_file(self, path: str) -> None:
        self._path(path).unlink()

    def mv(self, path1: str, path2: str, **_: Any) -> None:
        self._path(path1).replace(self._path(path2))

    def ls(self, path: str, detail: bool = True, **_: Any) -> Any:
        return [
            {
                "name": f"{path}/{entry.name}",
                "type": "directory" if entry.is_dir() else "file",
                "size": entry.stat().st_size,
                "mtime": entry.stat().st_mtime,
            }
            for entry in self._path(path).iterdir()
        ]


@pytest.fixture(params=["folders", "sftp"])
def url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a URL of such a file system; the one under sftp's name replaces files by renaming."""
    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, request.param, Folders)  # type: ignore[attr-defined]
    return f"{request.param}://team/emb"


def opened(url: str, root: Path) -> Storage:
    return open_storage(url, {"root": str(root)})


def test_a_repository_where_folders_are_needed(tmp_path: Path, url: str) -> None:
    """Two writers start in a path that does not exist, then pull and check; no partial file is left or listed."""
    options = {"root": str(tmp_path / "server")}
    (tmp_path / "server").mkdir()
    for name, first in (("a", 0), ("b", 20)):
        with EmbeddingCache(tmp_path / name, remote=url, storage_options=options, on_remote_error="raise") as cache:
            cache.encode(texts(30, first), SPEC, Encoder())
    (tmp_path / "server" / "team" / "emb" / ".tmp-1").write_bytes(b"half")
    with EmbeddingCache(tmp_path / "c", remote=url, storage_options=options, read_only=True) as cache:
        assert cache.pull().rows == 50
        np.testing.assert_array_equal(cache.get(texts(50), SPEC)[0], truth(texts(50)))
    report = check(Repository(opened(url, tmp_path / "server")), read_data=True)
    assert (report.clean, report.packs) == (True, 2)
    assert not [path for path in (tmp_path / "server").rglob(".tmp-*") if path.name != ".tmp-1"]


def test_the_verbs(tmp_path: Path, url: str) -> None:
    """A missing file is not found, create-only keeps the first, ranges end with the file."""
    storage = opened(url, tmp_path)
    assert storage.list("") == []
    with pytest.raises(ObjectNotFound):
        storage.get("packs/a", 0, 1)
    storage.put("packs/x/a", b"0123456789", create_only=True)
    storage.put("packs/x/a", b"other", create_only=True)
    assert storage.get("packs/x/a", 3, 100) == b"3456789"
    storage.put("packs/x/a", b"new")
    assert [(entry.path, entry.size) for entry in storage.list("packs")] == [("packs/x/a", 3)]
    shutil.rmtree(tmp_path / "team" / "emb" / "packs")
    storage.put("packs/x/a", b"again")
    storage.delete("packs/x/a")
    storage.delete("packs/x/a")
    assert storage.list("") == []


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any depth: fsspec's own listing skips such a folder, and the packs in it would be missing."""
    storage = opened(url, tmp_path)
    storage.put("manifests/a/1.json", b"1")
    storage.put("manifests/b/2.json", b"2")
    ls = Folders.ls

    def failing(self: Folders, path: str, detail: bool = True, **options: Any) -> Any:
        if path.endswith("/b"):
            raise OSError("connection lost")
        return ls(self, path, detail, **options)

    monkeypatch.setattr(Folders, "ls", failing)
    with pytest.raises(RemoteUnavailable, match="connection lost"):
        storage.list("manifests")


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (type("HTTPError", (Exception,), {"status_code": 403})("forbidden"), AccessDenied),
        (type("HTTPError", (Exception,), {"status_code": 500})("oops"), RemoteUnavailable),
        (type("SSHException", (Exception,), {})("connection lost"), RemoteUnavailable),
    ],
)
def test_errors_of_other_packages_are_ours(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch, raised: Exception, expected: type[Exception]
) -> None:
    """Packages behind fsspec have errors of their own, which are not bugs of cas_cache."""

    def fail(*_: Any, **__: Any) -> None:
        raise raised

    storage = opened(url, tmp_path)
    monkeypatch.setattr(Folders, "cat_file", fail)
    with pytest.raises(expected):
        storage.get("x", 0, 1)


@pytest.mark.parametrize(
    "refused",
    ["http://127.0.0.1:1/emb", "https://host/emb", "github://emb", "zip://emb", "smb://host/share", "readonly://emb"],
)
def test_a_file_system_that_cannot_hold_a_repository_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """It is refused by name when opened, even by readers: a page without links would look like an empty repository."""

    class ReadOnly(fsspec.AbstractFileSystem):
        protocol = "readonly"

        def ls(self, path: str, detail: bool = True, **_: Any) -> Any:
            return []

    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "readonly", ReadOnly)  # type: ignore[attr-defined]
    protocol = refused.partition(":")[0]
    with pytest.raises(InvalidURL, match=rf"file system of {protocol}:// cannot .*(Use s3://|Mount the share)"):
        EmbeddingCache(tmp_path / "m", remote=refused, read_only=True)
    assert not (tmp_path / "m").exists()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="a directory in which nobody can create a folder")
def test_a_directory_that_cannot_be_created_is_named() -> None:
    """It is not an object that is missing: the error says what could not be created."""
    with pytest.raises(RemoteUnavailable, match=r"/proc/none/repository could not be created .*\. Name another"):
        LocalStorage("/proc/none/repository").put("packs/a", b"1")
