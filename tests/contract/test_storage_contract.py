"""The guarantees of every storage, on local disk, in memory and on S3."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from cas_cache.errors import NotARepository, ObjectNotFound
from cas_cache.repository import Repository
from cas_cache.storage import Storage, open_storage
from cas_cache.storage.interface import ObjectInfo
from storages import Memory

Opener = Callable[[], Storage]


@pytest.fixture(params=["dict", "local", "fsspec-memory", "s3"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    """Return a function that opens the same, initially empty storage at each call."""
    if request.param == "dict":
        memory = Memory()
        return lambda: memory
    if request.param == "local":
        return lambda: open_storage(str(tmp_path / "store"))
    if request.param == "fsspec-memory":
        return lambda: open_storage(f"memory://{tmp_path}/store")
    remote = request.getfixturevalue("s3_remote")
    return lambda: open_storage(remote.url, remote.storage_options)


def test_contract(opener: Opener) -> None:
    """Bytes come back, ranges are cut at the end, a name is replaced whole, and other processes' writes are seen."""
    storage, other = opener(), opener()
    assert storage.list("") == []
    assert other.list("manifests") == []
    with pytest.raises(ObjectNotFound):
        other.get("packs/a", 0, 10)
    storage.put("packs/a", b"0123456789")
    storage.put("packs/b/c", memoryview(b"xyz"))
    storage.put("manifests-not/a", b"1")
    assert other.get("packs/a", 0, 100) == b"0123456789"
    assert other.get("packs/a", 3, 6) == b"345"
    assert other.get("packs/a", 0, 2**62) == b"0123456789"
    assert other.list("packs") == [ObjectInfo("packs/a", 10), ObjectInfo("packs/b/c", 3)]
    assert [found.path for found in other.list("")] == ["manifests-not/a", "packs/a", "packs/b/c"]
    assert other.list("manifests") == []
    storage.put("packs/a", b"new")
    assert other.get("packs/a", 0, 100) == b"new"
    storage.put("empty", b"")
    assert other.get("empty", 0, 100) == b""


def test_create_only_keeps_the_first(opener: Opener) -> None:
    """Of two creations of one name the first stays, and the second is not an error."""
    opener().put("marker", b"first", create_only=True)
    opener().put("marker", b"second", create_only=True)
    assert opener().get("marker", 0, 100) == b"first"


@pytest.mark.parametrize(
    ("code", "content"),
    [("ConditionalRequestConflict", None), ("NotImplemented", b"mine"), ("PreconditionFailed", None)],
)
def test_what_services_answer_to_create_only(tmp_path: Path, code: str, content: bytes | None) -> None:
    """A conflict leaves the object to the other writer; a service without conditional writes gets a plain write."""
    storage = open_storage(f"memory://{tmp_path}/{code}")
    write = storage._fs.pipe_file

    class ServiceError(Exception):
        response: ClassVar = {"Error": {"Code": code}}

    def answer(path: str, data: bytes, mode: str = "overwrite") -> None:
        if mode == "create":
            raise FileExistsError(path) if code == "PreconditionFailed" else OSError("refused") from ServiceError()
        write(path, data)

    storage._fs.pipe_file = answer
    try:
        storage.put("marker", b"mine", create_only=True)
        found = {listed.path for listed in storage.list("")}
        assert found == (set() if content is None else {"marker"})
    finally:
        del storage._fs.pipe_file


def test_neighbouring_prefixes_are_not_seen(tmp_path: Path, s3_remote: Any) -> None:
    """`emb` does not list the contents of `emb2`, and ignores a console's empty "folder"."""
    neighbour = open_storage(s3_remote.url + "2", s3_remote.storage_options)
    neighbour.put("x", b"1")
    bucket = open_storage(f"s3://{s3_remote.bucket}", s3_remote.storage_options)
    # fsspec cannot write a name that ends with a slash, but consoles do.
    bucket._fs.call_s3("put_object", Bucket=s3_remote.bucket, Key="emb/", Body=b"")
    repository = Repository(open_storage(s3_remote.url, s3_remote.storage_options))
    assert repository.open() is False
    repository.create()
    with pytest.raises(NotARepository, match=r"Did you mean s3://.*/emb\?"):
        Repository(bucket).create()


def test_traffic_is_counted(opener: Opener) -> None:
    """Bytes of content and requests add up."""
    storage = opener()
    before = storage.traffic.up, storage.traffic.down, storage.traffic.requests
    storage.put("a", b"12345")
    storage.get("a", 1, 3)
    storage.list("")
    after = storage.traffic.up, storage.traffic.down, storage.traffic.requests
    assert [b - a for a, b in zip(before, after, strict=True)] == [5, 2, 3]


def test_local_writes_leave_nothing_behind(tmp_path: Path) -> None:
    """A crash's temporary file is not listed, and a finished write leaves none."""
    storage = open_storage(f"file://{tmp_path}")
    storage.put("a/b", b"1")
    (tmp_path / "a" / ".tmp-123").write_bytes(b"half")
    assert storage.list("") == [ObjectInfo("a/b", 1)]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [".tmp-123", "b"]
