"""What a push or pull holds at a time: a few chunks, however large the pack."""

import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cas_cache.errors import RemoteUnavailable
from cas_cache.format.manifest import Manifest
from cas_cache.format.rows import digest_rows
from cas_cache.repository import Repository, pack
from cas_cache.storage import open_storage
from cas_cache.storage.threads import IN_FLIGHT, put_all
from cas_cache.testing import CountingStorage, FlakyStorage, MemoryStorage
from storages import SPEC

NONCE = "0" * 32
CHUNK = 4 << 20
WIDTH = 256


class Matrix:
    """Rows that are in memory already, as those of a mapped file are."""

    def __init__(self, rows: int) -> None:
        self.rows, self.dtype, self.shape = rows, np.dtype(np.float32), (WIDTH,)
        keys = np.zeros((rows, 32), np.uint8)
        keys[:, :8] = np.arange(rows, dtype="<u8").view(np.uint8).reshape(rows, 8)
        vectors = np.arange(rows * WIDTH, dtype=np.float32).reshape(rows, WIDTH)
        self.columns = {"keys": keys, "vectors": vectors, "digests": digest_rows(keys, vectors)}

    def column(self, array: str, start: int, stop: int) -> NDArray[Any]:
        return self.columns[array][start:stop]


class Sink(MemoryStorage):
    """Holds a copy of what it is given for a moment, as file systems do, and drops it."""

    def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
        copy = bytes(memoryview(data))
        time.sleep(0.02)
        del copy
        if not path.startswith("packs/"):
            super().put(path, data, create_only=create_only)


@pytest.fixture
def large_pack(monkeypatch: pytest.MonkeyPatch) -> Matrix:
    """Return the rows of 16 chunks of 4 MiB."""
    monkeypatch.setattr(pack, "CHUNK_BYTES", CHUNK)
    return Matrix(16 * CHUNK // (4 * WIDTH))


def peak_of(work: Callable[[], object]) -> int:
    """Return the most bytes that were allocated at a time, beyond those before."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_push_holds_a_copy_of_a_few_chunks(large_pack: Matrix) -> None:
    """Only the storage copies: as many chunks as are on their way."""
    repository = Repository(Sink())
    repository.create()
    peak = peak_of(lambda: repository.publish(SPEC.namespace, large_pack, NONCE))
    assert peak < (IN_FLIGHT + 1) * CHUNK


def test_a_pull_holds_a_few_chunks(large_pack: Matrix, tmp_path: Path) -> None:
    """Those on their way, the one that is read, and the digests' products, 2 MiB a thread."""
    repository = Repository(open_storage(str(tmp_path)))
    repository.create()
    name = repository.publish(SPEC.namespace, large_pack, NONCE)
    manifest = repository.manifest(SPEC.namespace, name)
    keys = repository.keys(name, manifest)
    upto = 0

    def read() -> None:
        nonlocal upto
        for _, vectors, _, stop in repository.read(name, manifest, keys):
            np.testing.assert_array_equal(vectors, large_pack.columns["vectors"][upto:stop])
            upto = stop

    peak = peak_of(read)
    assert upto == large_pack.rows
    # Of a pack of 64 MiB.
    assert peak < 10 * CHUNK


def test_a_chunk_is_the_rows_where_they_lie() -> None:
    """Nothing is copied to be hashed; only a chunk that needs padding is made anew, and ends with zeros."""
    source = Matrix(5)
    facts: dict[str, Any] = {"dtype": "float32", "shape": (WIDTH,), "objects": {}, "nonce": NONCE}
    for chunk_rows, padded in ((5, 0), (3, 1)):
        steps = {"keys": chunk_rows, "vectors": chunk_rows, "digests": chunk_rows}
        manifest = Manifest(namespace=SPEC.namespace, rows=5, chunk_rows=steps, **facts)
        made = dict(pack.contents(manifest, source))
        contents = [memoryview(made[name]()) for name, _, _ in manifest.chunks("vectors")]
        assert all(content.readonly and content.nbytes == chunk_rows * 4 * WIDTH for content in contents)
        assert b"".join(contents) == source.columns["vectors"].tobytes() + bytes(padded * 4 * WIDTH)
        shared = [np.shares_memory(np.frombuffer(c, np.uint8), source.columns["vectors"]) for c in contents]
        assert shared == [True] if not padded else shared == [True, False]


def test_an_object_is_made_when_its_turn_comes() -> None:
    """While none can be written, no more are made than are on their way."""
    made: list[int] = []
    gate, full = threading.Event(), threading.Semaphore(0)

    class Gated(MemoryStorage):
        def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
            full.release()
            assert gate.wait(60)
            super().put(path, data, create_only=create_only)

    def make(item: int) -> bytes:
        made.append(item)
        return bytes([item])

    storage = Gated()
    writing = threading.Thread(target=put_all, args=(storage, [(str(i), lambda i=i: make(i)) for i in range(20)]))
    writing.start()
    for _ in range(IN_FLIGHT):
        assert full.acquire(timeout=60)
    at_the_gate = sorted(made)
    gate.set()
    writing.join(60)
    assert at_the_gate == list(range(IN_FLIGHT))
    assert storage.objects == {str(i): bytes([i]) for i in range(20)}


def test_nothing_is_begun_after_a_failure() -> None:
    """What was on its way is waited for, and its objects may be there; no other is made."""
    counting = CountingStorage(MemoryStorage())
    with pytest.raises(RemoteUnavailable):
        put_all(FlakyStorage(counting, "put", at=5), [(str(i), lambda: b"x") for i in range(50)])
    # The fifth failed; others may have been begun until that was noticed.
    assert 4 <= len(counting.calls) < 5 + 2 * IN_FLIGHT
