"""The storages for tests count and fail as documented, and answers of services are told apart without a server."""

import datetime as dt
import math
import subprocess
import sys
from typing import Any

import botocore.utils
import pytest
from aiobotocore.session import AioSession

from cas_cache.errors import AccessDenied, ObjectNotFound, RemoteUnavailable
from cas_cache.storage import filesystems, listings, open_storage
from cas_cache.storage.interface import CREATE_ONLY, PROCESSES, ObjectInfo
from cas_cache.testing import CountingStorage, Fault, FaultyStorage, FlakyStorage, MemoryStorage, WrappedStorage
from cas_cache.testing.expectations import expect_listing
from cas_cache.testing.processes import in_process
from tiers import sampled


def test_importing_testing_imports_no_pytest() -> None:
    """The suite can be imported, and the wrappers used, without pytest and fsspec."""
    code = "import sys, cas_cache.testing; print(*{'pytest', 'fsspec'} & set(sys.modules))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.split() == []


def test_counting() -> None:
    """Calls are counted by verb, including failed ones, and are returned in an order that threads do not change."""
    storage = CountingStorage(MemoryStorage())
    storage.put("b", b"1")
    storage.put("a", b"1")
    storage.list("")
    storage.delete("a")
    with pytest.raises(ObjectNotFound):
        storage.get("a", 0, 1)
    assert storage.by_verb() == {"put": 2, "list": 1, "delete": 1, "get": 1}
    assert storage.taken() == [("delete", "a"), ("get", "a"), ("list", ""), ("put", "a"), ("put", "b")]
    assert storage.taken() == []
    assert storage.by_verb()["put"] == 0


def test_failing_before_the_effect() -> None:
    """The n-th call of the verb raises without an effect; the calls before and after it work."""
    memory = MemoryStorage()
    storage = FlakyStorage(memory, "put", at=2)
    storage.put("1", b"")
    assert storage.list("") == [ObjectInfo("1", 0)]
    with pytest.raises(RemoteUnavailable, match="put 2: not done"):
        storage.put("2", b"")
    storage.put("3", b"")
    assert sorted(memory.objects) == ["1", "3"]


def test_failing_after_the_effect() -> None:
    """The call takes effect and its answer is lost, for PUT and DELETE alike."""
    memory = MemoryStorage()
    with pytest.raises(RemoteUnavailable, match="put a: done"):
        FlakyStorage(memory, "put", after=True).put("a", b"1")
    assert memory.objects == {"a": b"1"}
    with pytest.raises(TimeoutError):
        FlakyStorage(memory, after=True, error=TimeoutError).delete("a")
    assert memory.objects == {}


def test_failing_until_mended() -> None:
    """Without a number of times, every call from the n-th on fails; without a verb, all calls count."""
    storage = FlakyStorage(MemoryStorage(), at=2, times=None)
    storage.put("a", b"1")
    for attempt in (lambda: storage.get("a", 0, 1), lambda: storage.list(""), lambda: storage.delete("a")):
        with pytest.raises(RemoteUnavailable):
            attempt()
    storage.mend()
    assert storage.get("a", 0, 1) == b"1"


@pytest.mark.parametrize(
    ("expected", "says"),
    [
        ({"x/a": 1, "x/b": 2, "x/c": 1, "x/d": 1}, "LIST of x/ does not show x/c and 1 others."),
        ({"x/a": 1}, "LIST of x/ shows x/b, which does not exist or is not below it."),
        ({"x/a": 1, "x/b": 3}, "LIST of x/ says that x/b, an object of 3 bytes, has 2."),
    ],
)
def test_what_a_listing_does_wrong_is_said(expected: dict[str, int], says: str) -> None:
    """An object that is absent, one too many, and a wrong size; a right listing passes."""
    storage = MemoryStorage()
    storage.put("x/b", b"22")
    storage.put("x/a", b"1")
    expect_listing(storage, "x", {"x/a": 1, "x/b": 2})
    with pytest.raises(AssertionError) as caught:
        expect_listing(storage, "x", expected)
    assert str(caught.value) == says


def test_a_listing_has_each_path_once_in_order() -> None:
    """Repeated and unordered entries are not what a storage promises."""

    class Unordered(WrappedStorage):
        def list(self, prefix: str) -> list[ObjectInfo]:
            return super().list(prefix)[::-1]

    memory = MemoryStorage()
    for path in ("a", "b"):
        memory.put(path, b"1")
    for storage in (Unordered(memory), FaultyStorage(memory, [Fault("duplicate-entry")])):
        with pytest.raises(AssertionError, match="not in order of the paths, or shows one twice"):
            expect_listing(storage, "", {"a": 1, "b": 1})


def _fails(message: str) -> None:
    raise ValueError(message)


def _ends() -> None:
    raise SystemExit(3)


@pytest.mark.parametrize("method", sampled(["fork", "spawn"], keep={"fork"}))
def test_failures_of_another_process_are_failures_here(method: Any) -> None:
    """An exception or the end of a child is raised in the parent, with the child's message."""
    with pytest.raises(AssertionError, match="ValueError: in the child"):
        in_process(method, _fails, "in the child")
    with pytest.raises(AssertionError, match="SystemExit: 3"):
        in_process(method, _ends)
    assert in_process(method, len, "four") == 4


def test_capabilities_are_declared() -> None:
    """Clouds and local disks create in one step; memory stays in its process; nothing is assumed of other storages."""
    assert open_storage("s3://team/emb", {"anon": True}).capabilities == {CREATE_ONLY, PROCESSES}
    assert open_storage("some/directory").capabilities == {CREATE_ONLY, PROCESSES}
    assert open_storage("memory://x").capabilities == set()
    assert open_storage("sftp://x/y", later=True).capabilities == {PROCESSES}
    assert MemoryStorage().capabilities == {CREATE_ONLY}


@pytest.mark.parametrize(
    ("info", "modified"),
    [
        ({"LastModified": dt.datetime(1970, 1, 2, tzinfo=dt.UTC)}, 86_400),
        ({"last_modified": dt.datetime(1970, 1, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=2)))}, 0),
        ({"updated": "1970-01-01T00:00:01.500Z", "mtime": dt.datetime(2000, 1, 1, tzinfo=dt.UTC)}, 1.5),
        ({"mtime": 12}, 12),
        ({"created": 1.25, "size": 3}, 1.25),
        ({"mtime": dt.datetime(2000, 1, 1)}, math.nan),  # noqa: DTZ001 - the time zone is unknown
        ({"mtime": None, "size": 3}, math.nan),
    ],
    ids=str,
)
def test_times_in_listings(info: dict[str, Any], modified: float) -> None:
    """Times become seconds since 1970, whatever key a file system uses; uncertain ones become NaN."""
    found = listings.modified(info)
    assert found == modified or (math.isnan(found) and math.isnan(modified))
    # An unknown age is neither old nor new, whichever comparison is used.
    assert not ObjectInfo("a", 1).modified < 1e12
    assert not ObjectInfo("a", 1).modified > 0


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (OSError("Forbidden: b/team/o\nno permission"), AccessDenied),
        (OSError("Connection reset: Forbidden: x"), RemoteUnavailable),
        (PermissionError("no"), AccessDenied),
        (ConnectionError("no"), RemoteUnavailable),
    ],
    ids=str,
)
def test_what_file_systems_raise(raised: Exception, expected: type[Exception]) -> None:
    """A refusal is told apart from an outage in every verb, including gcsfs's plain OSError for a 403."""
    storage = open_storage("memory://refusals")

    class Refusing:
        def __getattr__(self, name: str) -> Any:
            raise raised

    storage._opened = dict.fromkeys(storage._opened, (Refusing(), "root"))
    for attempt in (
        lambda: storage.get("x", 0, 1),
        lambda: storage.list(""),
        lambda: storage.put("x", b"1"),
        lambda: storage.put("x", b"1", create_only=True),
        lambda: storage.delete("x"),
    ):
        with pytest.raises(expected):
            attempt()


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-23T14:10:51.000Z",
        "2026-11-23T14:10:51Z",
        "2026-11-23T14:10:51.123456Z",
        "2026-11-23T14:10:51+02:00",
        "Mon, 23 Nov 2026 14:10:51 GMT",
        "1795443051",
        1795443051.5,
    ],
)
def test_times_of_s3_are_those_that_botocore_reads(text: Any) -> None:
    """The fast path handles one form, and botocore's parser all others."""
    found = filesystems._time_of(text)
    assert found.tzinfo is not None
    assert found == botocore.utils.parse_timestamp(text)


def test_s3_listings_are_read_the_quick_way() -> None:
    """The fast path is set for the session that s3fs would make; a given session stays unchanged."""
    opened = open_storage("s3://bucket/emb", {"profile": "some"})._fs
    assert opened.session.profile == "some"
    parser = opened.session.get_component("response_parser_factory").create_parser("rest-xml")
    assert parser._timestamp_parser is filesystems._time_of
    given = AioSession()
    assert open_storage("s3://bucket/emb", {"session": given})._fs.session is given
    parser = given.get_component("response_parser_factory").create_parser("rest-xml")
    assert parser._timestamp_parser is not filesystems._time_of
