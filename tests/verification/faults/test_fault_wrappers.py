"""Each fault does what it says, and is noted; a fault that cannot happen is refused."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from cas_cache.errors import AccessDenied, BucketNotFound, ObjectNotFound, RemoteUnavailable
from cas_cache.files.disk import write_atomically
from cas_cache.storage.interface import ObjectInfo
from cas_cache.testing import CountingStorage, Fault, FaultyStorage, LatencyStorage, MemoryStorage
from cas_cache.testing.faults import KINDS
from failing_disk import failing_disk
from fault_injection import DAY
from fault_proxy import FaultProxy, WireFault
from paths import ROOT

BODY = bytes(range(10))


@pytest.fixture
def memory() -> MemoryStorage:
    memory = MemoryStorage()
    for name in "abc":
        memory.put(f"x/{name}", BODY)
    return memory


def faulty(memory: MemoryStorage, kind: Any, **told: Any) -> FaultyStorage:
    return FaultyStorage(memory, [Fault(kind, **told)])


def names(listed: list[ObjectInfo]) -> str:
    return "".join(entry.path[-1] for entry in listed)


@pytest.mark.parametrize(
    ("kind", "error", "done"),
    [
        ("error", RemoteUnavailable, False),
        ("error-after", RemoteUnavailable, True),
        ("lost-answer", RemoteUnavailable, True),
        ("timeout", RemoteUnavailable, False),
        ("forbidden", AccessDenied, False),
        ("not-found", BucketNotFound, False),
        ("conflict", RemoteUnavailable, False),
        ("precondition-failed", RemoteUnavailable, False),
        ("too-many-requests", RemoteUnavailable, False),
        ("slow-down", RemoteUnavailable, False),
        ("no-space", RemoteUnavailable, False),
    ],
)
def test_a_write_that_fails(memory: MemoryStorage, kind: Any, error: type[Exception], done: bool) -> None:
    """Before its effect, or after it; the next one is fine."""
    storage = faulty(memory, kind)
    with pytest.raises(error):
        storage.put("new", b"1")
    assert ("new" in memory.objects) == done
    assert [(fault.kind, verb, path) for fault, verb, path in storage.fired] == [(kind, "put", "new")]
    storage.put("newer", b"2")
    assert memory.objects["newer"] == b"2"


def test_a_write_that_is_still_on_its_way(memory: MemoryStorage) -> None:
    """What was not answered in time takes effect after the next call, or when all is mended."""
    storage = faulty(memory, "timeout", times=None)
    for path in ("x/1", "x/2"):
        with pytest.raises(RemoteUnavailable):
            storage.put(path, b"1")
    assert "x/1" in memory.objects
    assert "x/2" not in memory.objects
    storage.mend()
    assert "x/2" in memory.objects
    storage.put("x/3", b"")


def test_a_write_that_is_repeated(memory: MemoryStorage) -> None:
    """The client below asked twice."""
    counting = CountingStorage(memory)
    FaultyStorage(counting, [Fault("repeated")]).put("new", b"1")
    assert counting.by_verb() == {"put": 2}


@pytest.mark.parametrize(("kind", "there"), [("conflict", False), ("precondition-failed", True)])
def test_create_only_meets_another_writer(memory: MemoryStorage, kind: Any, there: bool) -> None:
    """409: another has begun, and may never end. 412: it is there. To who asked, both mean that it is written."""
    faulty(memory, kind).put("new", b"1", create_only=True)
    assert ("new" in memory.objects) == there


@pytest.mark.parametrize(
    ("kind", "told", "read"),
    [
        ("short-body", {}, BODY[2:5]),
        ("short-body", {"which": 1}, BODY[2:3]),
        ("flipped-bit", {"which": -1}, BODY[2:7] + b"\x06"),
        ("range-ignored", {}, BODY),
        ("range-wrong", {}, BODY[:6]),
    ],
)
def test_what_is_read(memory: MemoryStorage, kind: Any, told: dict[str, Any], read: bytes) -> None:
    """Other bytes than were asked for, once."""
    storage = faulty(memory, kind, **told)
    assert storage.get("x/a", 2, 8) == read
    assert len(storage.fired) == 1
    assert storage.get("x/a", 2, 8) == BODY[2:8]
    with pytest.raises(ObjectNotFound):
        faulty(memory, "not-found").get("x/a", 0, 1)


def test_what_cannot_be_changed_is_not_noted(memory: MemoryStorage) -> None:
    """A bit of nothing, an entry of nothing."""
    memory.put("empty", b"")
    for kind in ("flipped-bit", "short-body", "range-ignored", "range-wrong"):
        storage = faulty(memory, kind)
        assert storage.get("empty", 0, 10) == b""
        assert storage.fired == []
    for kind in ("missing-entry", "duplicate-entry", "cut-listing", "stale-entry", "skew"):
        storage = faulty(memory, kind)
        assert storage.list("nothing") == []
        assert storage.fired == []


def test_what_is_listed(memory: MemoryStorage) -> None:
    """Too much, too little, at another time, or not at all."""
    assert names(faulty(memory, "missing-entry", which=1).list("x")) == "ac"
    assert names(faulty(memory, "duplicate-entry", which=-1).list("x")) == "abcc"
    assert names(faulty(memory, "cut-listing").list("x")) == "a"
    with pytest.raises(RemoteUnavailable, match="a page of"):
        faulty(memory, "failing-page").list("x")
    storage = faulty(memory, "skew", seconds=-10 * DAY)
    moved = [before.modified - after.modified for before, after in zip(memory.list(""), storage.list(""), strict=True)]
    assert moved == pytest.approx([10 * DAY] * 3)
    assert storage.fired


def test_a_stale_listing(memory: MemoryStorage) -> None:
    """What was deleted through it is still listed once, with its size."""
    storage = FaultyStorage(memory, [Fault("stale-entry", at=2)])
    storage.list("")
    storage.delete("x/b")
    found = storage.list("x")
    assert found == [ObjectInfo(f"x/{name}", 10) for name in "abc"]
    assert names(storage.list("x")) == "ac"


def test_when_faults_happen(memory: MemoryStorage) -> None:
    """From the n-th call that counts, so many times, until mended; several faults meet in one call."""
    storage = FaultyStorage(memory, [Fault("error", "get", at=2, times=2, path="x/[ab]")])
    for path, fails in [("x/a", False), ("x/c", False), ("x/b", True), ("x/a", True), ("x/b", False)]:
        if fails:
            with pytest.raises(RemoteUnavailable):
                storage.get(path, 0, 1)
        else:
            storage.get(path, 0, 1)
    both = FaultyStorage(memory, [Fault("missing-entry", times=None), Fault("duplicate-entry", times=None, which=-1)])
    assert names(both.list("x")) == "bcc"
    both.mend()
    assert names(both.list("x")) == "abc"


def test_a_stall_moves_a_clock(memory: MemoryStorage) -> None:
    """It waits by what it was given, and then does what it was asked for."""
    waited: list[float] = []
    storage = FaultyStorage(memory, [Fault("stall", seconds=8 * DAY)], sleep=waited.append)
    assert storage.get("x/a", 0, 2) == BODY[:2]
    assert waited == [8 * DAY]


def test_latency(memory: MemoryStorage) -> None:
    """Of each call, and of each byte that is read or written."""
    waited: list[float] = []
    storage = LatencyStorage(memory, 1.0, 0.5, sleep=waited.append)
    storage.get("x/a", 0, 4)
    storage.put("x/d", b"12")
    storage.list("")
    assert waited == [1.0, 2.0, 2.0, 1.0]
    assert storage.waited == 6.0


def test_faults_that_make_no_sense() -> None:
    """Are refused when they are made."""
    with pytest.raises(ValueError, match="There is no fault 'nonsense'"):
        Fault("nonsense")
    with pytest.raises(ValueError, match="not a fault of a put"):
        Fault("flipped-bit", "put")
    with pytest.raises(ValueError, match="counted from 1"):
        Fault("error", at=0)
    with pytest.raises(ValueError, match="reset cannot happen here"):
        FaultyStorage(MemoryStorage(), [WireFault("reset")])
    with pytest.raises(ValueError, match="repeated cannot happen here"):
        FaultProxy("http://127.0.0.1:1", [Fault("repeated")])


def test_every_kind_is_explained() -> None:
    """The page about faults names every kind of fault of a storage."""
    page = (ROOT / "docs/how-to/test-with-faults.md").read_text("utf-8")
    assert {kind for kind in KINDS if f"`{kind}`" not in page} == set()


@pytest.mark.parametrize(
    ("operation", "code"), [("write", errno.ENOSPC), ("fsync", errno.EIO), ("rename", errno.EIO)], ids=str
)
def test_a_disk_fails_below_one_folder(tmp_path: Path, operation: Any, code: int) -> None:
    """At the n-th operation there, with the error that was asked for; elsewhere, and afterwards, all is well."""
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
    with failing_disk(operation, tmp_path / "here", code=code, at=1) as disk:
        write_atomically(tmp_path / "there" / "a", b"1234")
        with pytest.raises(OSError, match=os.strerror(code)) as caught:
            write_atomically(tmp_path / "here" / "a", b"1234")
        assert caught.value.errno == code
        assert len(disk.fired) == 1
        write_atomically(tmp_path / "here" / "b", b"1234")
    assert disk.calls >= 2
    assert (tmp_path / "here" / "b").read_bytes() == (tmp_path / "there" / "a").read_bytes() == b"1234"
    assert not (tmp_path / "here" / "a").exists()


def test_a_write_that_fails_is_torn(tmp_path: Path) -> None:
    """Half of it is in the file, in whole sectors."""
    full = pytest.raises(OSError, match="No space")
    with full, failing_disk("write", tmp_path), (tmp_path / "file").open("wb", buffering=0) as file:
        file.write(b"1234" * 1000)
    assert (tmp_path / "file").read_bytes() == b"1234" * (3 * 512 // 4)
