"""The guarantees of every storage, as tests.

A subclass whose name starts with ``Test`` and that has a fixture `opener` runs all of them with pytest::

    class TestMine(StorageContract):
        @pytest.fixture
        def opener(self, tmp_path):
            return functools.partial(open_storage, f"mine://{tmp_path}")

`opener` returns a function that opens the same, initially empty, storage again at each call. If the storage declares
`PROCESSES`, other processes call it as well, so it must be picklable. `RefusalContract` and `BucketContract` add
guarantees that only services can give. This module does not import pytest. Call ``pytest.register_assert_rewrite`` with
its name in a conftest.py for detailed assertion messages.
"""
# ruff: noqa: S101 - asserts are what tests are made of

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ClassVar

from cas_cache.errors import AccessDenied, ObjectNotFound, RemoteError
from cas_cache.storage.interface import CREATE_ONLY, PROCESSES, ObjectInfo, Storage
from cas_cache.testing.expectations import expect_bytes, expect_error, expect_listing, expect_missing, time_zone
from cas_cache.testing.processes import in_process

if TYPE_CHECKING:
    from collections.abc import Callable

    Opener = Callable[[], Storage]

EVERYTHING = 2**62
"""More bytes than any object has. The maximum that every service accepts in a Range header is 2**63 - 1."""

SMALL = bytes(range(64))
NAMESPACE, PACK = "0123456789abcdef" * 2, "fedcba9876543210" * 4


class StorageContract:
    """Tests of the guarantees of `Storage`. A subclass has the fixture `opener`; see the module."""

    many: ClassVar[int] = 2_500
    """Number of objects in the largest listing: more than two pages of S3 (1,000 each)."""

    writers: ClassVar[int] = 16
    """Number of threads that write them."""

    largest: ClassVar[int] = 48 << 20
    """Size of the largest object in bytes: a chunk of a pack, the most that a push sends in one request."""

    def test_nothing_is_there_at_first(self, opener: Opener) -> None:
        """An empty place lists nothing, anywhere, and every read is ObjectNotFound, also a FileNotFoundError."""
        storage = opener()
        for prefix in ("", "manifests", f"manifests/{NAMESPACE}"):
            expect_listing(storage, prefix, {})
        expect_missing(storage, "packs/none")
        for start, stop in ((5, 10), (0, EVERYTHING), (0, 0)):
            with expect_error(ObjectNotFound):
                storage.get("packs/none", start, stop)
        assert issubclass(ObjectNotFound, FileNotFoundError)

    def test_a_write_is_seen_at_once(self, opener: Opener) -> None:
        """What was absent a moment ago is read and listed after PUT, by the writer and by others."""
        writer, reader = opener(), opener()
        expect_listing(reader, "", {})
        for storage in (writer, reader):
            expect_missing(storage, "packs/a")
        writer.put("packs/a", SMALL)
        for storage in (writer, reader, opener()):
            expect_bytes(storage, "packs/a", 0, len(SMALL), SMALL)
            expect_listing(storage, "packs", {"packs/a": len(SMALL)})
            expect_listing(storage, "", {"packs/a": len(SMALL)})
        writer.put("packs/b", b"1")
        expect_listing(reader, "packs", {"packs/a": len(SMALL), "packs/b": 1})

    def test_reads_past_the_end(self, opener: Opener) -> None:
        """GET of more than there is gives what there is, which is how documents of unknown size are read."""
        storage = opener()
        storage.put("a", SMALL)
        for stop in (len(SMALL) + 1, 16 * len(SMALL), EVERYTHING):
            expect_bytes(storage, "a", 0, stop, SMALL)

    def test_overwrite(self, opener: Opener) -> None:
        """A name that is written again has the new bytes and size, longer or shorter, and nothing of the old."""
        writer, reader = opener(), opener()
        for data in (b"first", b"a longer second", b"3", b""):
            writer.put("a/b", memoryview(data))
            expect_bytes(reader, "a/b", 0, 100, data)
            expect_listing(reader, "a", {"a/b": len(data)})

    def test_ranges(self, opener: Opener) -> None:
        """GET of bytes [start, stop) gives those, cut at the end of the object."""
        storage = opener()
        storage.put("a", SMALL)
        for start in (0, 1, 32, 63):
            for stop in (1, 32, 63, 64, 65, 10_000, EVERYTHING):
                if start < stop:
                    expect_bytes(storage, "a", start, stop, SMALL)

    def test_ranges_beyond_the_end(self, opener: Opener) -> None:
        """GET of a range that is empty, or begins beyond the end of the object, gives nothing."""
        storage = opener()
        storage.put("a", SMALL)
        for start, stop in ((64, 74), (65, EVERYTHING), (1000, 10_000), (0, 0), (50, 1), (64, 64)):
            expect_bytes(storage, "a", start, stop, SMALL)

    def test_delete(self, opener: Opener) -> None:
        """What is deleted is gone at once for everybody, from reads and listings; the rest stays."""
        writer, reader = opener(), opener()
        for path in ("packs/a", "packs/b", "packs/b-2", "packs/c/d"):
            writer.put(path, b"1")
        assert len(reader.list("")) == 4
        writer.delete("packs/b")
        writer.delete("packs/c/d")
        expect_listing(reader, "packs", {"packs/a": 1, "packs/b-2": 1})
        expect_listing(reader, "packs/c", {})
        for path in ("packs/b", "packs/c/d"):
            expect_missing(reader, path)
        writer.put("packs/b", b"22")
        expect_bytes(reader, "packs/b", 0, 9, b"22")
        for listed in reader.list(""):
            writer.delete(listed.path)
        expect_listing(reader, "", {})

    def test_delete_is_idempotent(self, opener: Opener) -> None:
        """Deleting what is not there is fine, in a place with nothing at all too, and again."""
        storage = opener()
        storage.delete("never/was")
        storage.put("a/b", b"1")
        for _ in range(3):
            storage.delete("a/b")
        storage.delete("a/b/c")
        expect_listing(storage, "", {})

    def test_empty_object(self, opener: Opener) -> None:
        """An object without bytes is there: read, listed, overwritten and deleted like any other."""
        storage = opener()
        storage.put("a/empty", b"")
        for start, stop in ((0, 0), (0, 1), (0, EVERYTHING), (5, 10)):
            expect_bytes(storage, "a/empty", start, stop, b"")
        expect_listing(storage, "a", {"a/empty": 0})
        storage.delete("a/empty")
        expect_listing(storage, "a", {})

    def test_large_object(self, opener: Opener) -> None:
        """6 MiB, beyond the block sizes of all file systems, come back bit by bit; so does a range across blocks."""
        storage = opener()
        content = b"".join(i.to_bytes(4, "big") for i in range(6 * 2**18))
        storage.put("a", memoryview(content))
        expect_bytes(opener(), "a", 0, len(content), content)
        expect_bytes(storage, "a", 2**22 - 5, 2**22 + 5, content)
        expect_bytes(storage, "a", len(content) - 7, EVERYTHING, content)

    def test_largest_object(self, opener: Opener) -> None:
        """An object as large as the largest that a push sends in one request is taken."""
        storage, content = opener(), bytes(self.largest - 1) + b"1"
        try:
            storage.put("a", content)
        except AccessDenied:
            raise
        except RemoteError as err:
            raise AssertionError(f"PUT of an object of {self.largest / 2**20:g} MiB fails: {err}") from err
        expect_bytes(storage, "a", self.largest - 2, self.largest, content)

    def test_reads_during_a_write(self, opener: Opener) -> None:
        """GET during a PUT gives the old bytes or the new ones, never a part or a mixture."""
        writer, reader = opener(), opener()
        contents = [bytes([i]) * 2**18 for i in range(4)]  # few: Google takes one write a second of a name
        writer.put("a", contents[0])
        written = threading.Event()

        def read() -> bool:
            for _ in range(200):
                if written.is_set():
                    break
                if reader.get("a", 0, 2**18 + 1) not in contents:
                    return False
                time.sleep(0.005)
            return True

        with ThreadPoolExecutor(2) as pool:
            reading = [pool.submit(read) for _ in range(2)]
            try:
                for content in contents:
                    writer.put("a", content)
            finally:
                written.set()
            if not all(future.result() for future in reading):
                raise AssertionError("During a PUT over an object, GET gave neither the old bytes nor the new ones.")

    def test_listing_of_nested_folders(self, opener: Opener) -> None:
        """A folder lists all that is below it at any depth, in order of paths, and nothing of its neighbours."""
        storage = opener()
        paths = [
            "cas-cache.json",
            "manifests-old/x",
            "manifests.json",
            f"manifests/{NAMESPACE}/{PACK}.json",
            f"packs/{PACK}/vectors/c/0/0/0",
            f"packs/{PACK}/vectors/c/10/0/0",
            f"packs/{PACK}/vectors/c/2/0/0",
            f"packs/{PACK}/zarr.json",
        ]
        for path in reversed(paths):
            storage.put(path, path.encode())
        # A listing shows the objects below a folder, and an object is not a folder.
        for prefix in ("", "manifests", f"manifests/{NAMESPACE}", "packs", f"packs/{PACK}/vectors", "manifest",
                       "nothing/at/all", "cas-cache.json"):  # fmt: skip
            below = [path for path in paths if path.startswith(f"{prefix}/" if prefix else "")]
            expect_listing(storage, prefix, {path: len(path) for path in below})

    def test_listing_is_complete(self, opener: Opener) -> None:
        """Thousands of objects, more than a page of any service, are all listed, once each and in order."""
        storage = opener()
        paths = [f"manifests/{NAMESPACE}/{i:064x}.json" for i in range(self.many)]
        with ThreadPoolExecutor(self.writers) as pool:
            list(pool.map(lambda path: storage.put(path, b"1"), paths))
        expect_listing(opener(), "manifests", dict.fromkeys(paths, 1))

    def test_modified(self, opener: Opener) -> None:
        """Times are in seconds since 1970 whatever the time zone here, do not go back, and move with a new write."""
        storage = opener()
        with time_zone("EAST-5"):
            storage.put("probe-1", b"1")
            (first,) = storage.list("")
            if not math.isfinite(first.modified):
                raise AssertionError("LIST tells no times.")
            assert abs(first.modified - time.time()) < 600, "clocks that differ by hours look like a time zone"
            deadline = time.monotonic() + 10
            storage.put("probe-1", b"2")
            # Services report times in whole seconds.
            while storage.list("")[0].modified == first.modified:
                assert time.monotonic() < deadline
                time.sleep(0.3)
                storage.put("probe-1", b"2")
            again = storage.list("")[0].modified
            assert again > first.modified
            storage.put("probe-2", b"1")
            assert storage.list("")[1].modified >= again
            assert storage.list("")[0].modified == again, "reading and neighbours change nothing"

    def test_create_only(self, opener: Opener) -> None:
        """Of two creations the first stays, where that is declared; else one of them is there, whole."""
        storage = opener()
        storage.put("cas-cache.json", b"first", create_only=True)
        opener().put("cas-cache.json", b"the second", create_only=True)
        data = opener().get("cas-cache.json", 0, 100)
        if CREATE_ONLY in storage.capabilities and data == b"the second":
            raise AssertionError(
                "Create-only is declared and not honoured: a PUT that must not overwrite (If-None-Match) did."
            )
        assert data in {b"first", b"the second"}
        storage.put("cas-cache.json", b"third")
        assert storage.get("cas-cache.json", 0, 100) == b"third"

    def test_many_create_one_name(self, opener: Opener) -> None:
        """Eight creations at once: what is read is one of them, whole; where declared it is there, and stays."""
        for name in ("a", "b", "c"):
            storages = [opener() for _ in range(2)]

            def create(i: int, name: str = name, storages: list[Storage] = storages) -> bytes | None:
                storages[i % 2].put(name, bytes([i]) * 1000, create_only=True)
                try:
                    return storages[i % 2].get(name, 0, 2000)
                except ObjectNotFound:
                    return None  # replaced at this moment

            with ThreadPoolExecutor(8) as pool:
                seen = set(pool.map(create, range(8)))
            final = opener().get(name, 0, 2000)
            if CREATE_ONLY in storages[0].capabilities:
                assert seen == {final}
            assert (seen | {final}) - {None} <= {bytes([i]) * 1000 for i in range(8)}

    def test_many_threads(self, opener: Opener) -> None:
        """One storage serves many threads in shared folders: each sees what it wrote, and deletes only that."""
        storage = opener()

        def work(i: int) -> None:
            for k in range(6):
                path, content = f"shared/{k}/deep/{i}", f"{i} {k}".encode() * 100
                storage.put(path, content)
                assert storage.get(path, 0, EVERYTHING) == content
                assert ObjectInfo(path, len(content)) in storage.list(f"shared/{k}")
                if k % 2:
                    storage.delete(path)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        kept = [(f"shared/{k}/deep/{i}", 100 * len(f"{i} {k}")) for k in (0, 2, 4) for i in range(8)]
        expect_listing(storage, "", dict(kept))

    def test_another_process_writes_behind_ones_back(self, opener: Opener) -> None:
        """What another process adds, replaces and deletes is seen at once by one that listed and read before."""
        storage = opener()
        storage.put("packs/old", b"old")
        storage.put("packs/gone", b"gone")
        expect_listing(storage, "packs", {"packs/gone": 4, "packs/old": 3})
        expect_listing(storage, "manifests", {})
        expect_missing(storage, "manifests/new")
        if PROCESSES in storage.capabilities:
            seen = in_process("spawn", _other_process, opener)
        else:
            seen = _other_process(opener)  # where there are no processes, another storage object is used
        assert seen == [b"old", "packs/gone", "packs/old"]
        expect_bytes(storage, "manifests/new", 0, 9, b"new")
        expect_bytes(storage, "packs/old", 0, 9, b"replaced")
        expect_listing(storage, "", {"manifests/new": 3, "packs/old": 8})
        expect_missing(storage, "packs/gone")

    def test_use_after_fork(self, opener: Opener) -> None:
        """A storage that was in use works in a forked child, from threads as well, and goes on in the parent."""
        storage = opener()
        storage.put("a", b"parent")

        def child() -> list[str]:
            assert storage.get("a", 0, 9) == b"parent"
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda i: storage.put(f"child/{i}", b"child"), range(8)))
            storage.delete("child/0")
            return [entry.path for entry in storage.list("")]

        for _ in range(2):
            assert in_process("fork", child) == ["a", *(f"child/{i}" for i in range(1, 8))]
            assert storage.get("a", 0, 9) == b"parent"
            if PROCESSES in storage.capabilities:
                assert len(storage.list("child")) == 7
                assert storage.get("child/1", 0, 9) == b"child"
            else:
                assert storage.list("child") == []

    def test_names_that_are_not_ours(self, opener: Opener) -> None:
        """What others put under the prefix is listed as what it is, and disturbs nothing."""
        storage = opener()
        foreign = [
            ".DS_Store",
            "README.md",
            "_SUCCESS",
            "manifests/.hidden/x",
            "manifests/a b+c%20d~.json",
            "manifests/notes (copy).txt",
            "manifests/x=1&y=2",
            "packs/{curly},[square].parquet",
            "packs/é/ü-日本.json",
        ]
        ours = f"manifests/{NAMESPACE}/{PACK}.json"
        for path in (*foreign, ours):
            storage.put(path, path.encode())
        sizes = {path: len(path.encode()) for path in (*foreign, ours)}
        expect_listing(opener(), "", sizes)
        expect_listing(storage, "manifests", {path: sizes[path] for path in sizes if path.startswith("manifests/")})
        for path in foreign:
            expect_bytes(storage, path, 0, 1000, path.encode())
            storage.delete(path)
        expect_listing(storage, "", {ours: len(ours)})

    def test_paths_of_our_layout(self, opener: Opener) -> None:
        """Every form of path that a repository has: long hexadecimal names, dots, dashes, digits, deep folders."""
        storage = opener()
        paths = [
            "cas-cache.json",
            f"specs/{NAMESPACE}.json",
            f"manifests/{NAMESPACE}/{PACK}.json",
            f"packs/{PACK}/zarr.json",
            f"packs/{PACK}/keys/c/0/0",
            f"packs/{PACK}/digests/c/0",
            f"packs/{PACK}/vectors/c/123456789" + "/0" * 30,
            f"packs/{'0' * 64}/vectors/zarr.json",
            f"packs/{'f' * 64}/vectors/zarr.json",
        ]
        for path in paths:
            storage.put(path, path.encode(), create_only=True)
        expect_listing(opener(), "", {path: len(path) for path in paths})
        for path in paths:
            expect_bytes(storage, path, 0, 1000, path.encode())
        storage.delete(paths[-1])
        expect_listing(storage, "packs", {path: len(path) for path in paths[3:-1]})

    def test_traffic_is_counted(self, opener: Opener) -> None:
        """Bytes of content and requests add up."""
        storage = opener()
        traffic = storage.traffic
        before = traffic.up, traffic.down, traffic.requests
        storage.put("a", b"12345")
        storage.get("a", 1, 3)
        storage.list("")
        storage.delete("a")
        assert (traffic.up - before[0], traffic.down - before[1], traffic.requests - before[2]) == (5, 2, 4)


def _other_process(opener: Opener) -> list[object]:
    storage = opener()
    seen: list[object] = [storage.get("packs/old", 0, 9), *(entry.path for entry in storage.list("packs"))]
    storage.put("manifests/new", b"new")
    storage.put("packs/old", b"replaced")
    storage.delete("packs/gone")
    return seen
