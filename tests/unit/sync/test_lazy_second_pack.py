"""Lazy caches where one pack cannot be read: other packs answer, verified rows are kept, pulls go on."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cas_cache import EmbeddingCache
from cas_cache.errors import AccessDenied, DataWarning, RemoteUnavailable, RemoteWarning, UnreadablePack
from cas_cache.repository import Repository, pack, reading
from cas_cache.repository.compacting import compact
from cas_cache.testing import StorageCall, WrappedStorage
from storages import SPEC, Machine, Memory, packs, texts, truth
from tiers import sampled

SHARED = texts(200)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make chunks of 1,600 bytes: a pack of 200 rows has 2 of vectors."""
    monkeypatch.setattr(pack, "CHUNK_BYTES", 1600)
    monkeypatch.setattr(reading, "GAP_BYTES", 64)
    monkeypatch.setattr(reading, "RANGE_BYTES", 320)


@pytest.fixture
def twice(tmp_path: Path) -> Memory:
    """A repository in which two packs hold the same 200 keys, because two machines encoded them at the same time."""
    memory = Memory()
    machines = [Machine(tmp_path / name, memory) for name in ("first", "second")]
    for machine in machines:
        machine.encode(SHARED)
    assert [machine.push().packs for machine in machines] == [1, 1]
    return memory


def lazily(directory: Path, storage: Any, **options: Any) -> EmbeddingCache:
    cache = EmbeddingCache(directory, remote=str(directory.parent / "unused"), lazy=True, **options)
    cache.repository = Repository(storage)
    return cache


def vectors_of(memory: Memory, pack_id: str) -> list[str]:
    return sorted(path for path in memory.objects if pack_id in path and "/vectors/c" in path)


def flip(memory: Memory, path: str) -> None:
    data = bytearray(memory.objects[path])
    memory.objects[path] = bytes(byte ^ 255 for byte in data)


def found_by(cache: EmbeddingCache, asked: list[str]) -> list[str]:
    """Return the texts that a cache finds, after comparing every vector with the right one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", (DataWarning, RemoteWarning))
        vectors, found = cache.get(asked, SPEC)
    hits = [text for text, hit in zip(asked, found, strict=True) if hit]
    np.testing.assert_array_equal(vectors[found], truth(hits).reshape(len(hits), -1) if hits else vectors[found])
    return hits


class Refusing(WrappedStorage):
    """Answers with an error for one pack's vectors, as a bucket policy or a failing disk of the service does."""

    def __init__(self, inner: Memory, pack_id: str, error: Callable[[str], Exception]) -> None:
        super().__init__(inner)
        self.pack, self.error = pack_id, error

    def _call(self, call: StorageCall) -> Any:
        if self.pack in call.path and "/vectors/c" in call.path:
            raise self.error(f"{call.path} may not be read.")
        return call.run()


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("how", sampled(["flipped", "cut", "deleted", "refused"], keep=3))
def test_a_key_in_two_packs_is_served_from_the_readable_one(
    twice: Memory, tmp_path: Path, which: int, how: str
) -> None:
    """As an eager cache does, whichever of the two the catalogue names first, and in the next process again."""
    _, broken = packs(twice)[which]
    storage: Any = twice
    if how == "refused":
        storage = Refusing(twice, broken, AccessDenied)
    for path in vectors_of(twice, broken):
        if how == "flipped":
            flip(twice, path)
        elif how == "cut":
            twice.objects[path] = twice.objects[path][:-7]
        elif how == "deleted":
            del twice.objects[path]
    for _ in range(2):
        with lazily(tmp_path / "laptop", storage, read_only=True) as cache:
            assert found_by(cache, SHARED[::3]) == SHARED[::3]
    with lazily(tmp_path / "laptop", storage, read_only=True) as cache:
        assert found_by(cache, SHARED) == SHARED


def test_a_pack_that_was_pruned_after_its_keys_were_read(twice: Memory, tmp_path: Path) -> None:
    """The catalogue is read again, and the other pack answers."""
    with lazily(tmp_path / "laptop", twice, read_only=True) as cache:
        cache.pull_keys()
        gone = packs(twice)[0][1]
        for path in [path for path in twice.objects if gone in path]:
            del twice.objects[path]
        assert found_by(cache, SHARED) == SHARED


def test_a_refusal_is_raised_only_if_rows_are_left_unread(twice: Memory, tmp_path: Path) -> None:
    """A pack that alone has a row and may not be read is an error; the rows of other packs come all the same."""
    author = Machine(tmp_path / "author", twice)
    more = texts(50, 1000)
    author.encode(more)
    before = set(packs(twice))
    author.push()
    (_, only) = (set(packs(twice)) - before).pop()
    with lazily(tmp_path / "laptop", Refusing(twice, only, AccessDenied), on_remote_error="raise") as cache:
        with pytest.raises(UnreadablePack, match="may not be read"):
            cache.get([*SHARED, *more], SPEC)
        assert cache.get(SHARED, SPEC)[1].all()


def test_a_damaged_merge_is_answered_from_the_packs_that_it_supersedes(tmp_path: Path) -> None:
    """Their keys are not in the catalogue until then, and they stay in the repository for a grace period."""
    memory = Memory()
    author = Machine(tmp_path / "author", memory)
    for first in (0, 100):
        author.encode(SHARED[first : first + 100])
        author.push()
    (merge,) = compact(Repository(memory), at_least=2).written
    for path in vectors_of(memory, merge):
        flip(memory, path)
    with lazily(tmp_path / "laptop", memory, read_only=True) as cache:
        assert found_by(cache, SHARED) == SHARED


def test_rows_before_a_damaged_range_are_kept(tmp_path: Path) -> None:
    """The first chunk of a pack verifies, the second does not: its rows alone are misses."""
    memory = Memory()
    author = Machine(tmp_path / "author", memory)
    author.encode(SHARED)
    author.push()
    flip(memory, vectors_of(memory, packs(memory)[0][1])[-1])
    with lazily(tmp_path / "laptop", memory, read_only=True) as cache:
        assert found_by(cache, SHARED) == SHARED[:100]
    with EmbeddingCache(tmp_path / "laptop", offline=True) as offline:
        assert found_by(offline, SHARED) == SHARED[:100]


def test_rows_before_a_lost_connection_are_kept(tmp_path: Path) -> None:
    """The same where the remote goes away in the middle of a pack."""
    memory = Memory()
    author = Machine(tmp_path / "author", memory)
    author.encode(SHARED)
    author.push()
    last = vectors_of(memory, packs(memory)[0][1])[-1]

    class Breaking(WrappedStorage):
        def _call(self, call: StorageCall) -> Any:
            if call.path == last:
                raise RemoteUnavailable("no answer")
            return call.run()

    with lazily(tmp_path / "laptop", Breaking(memory), read_only=True) as cache:
        assert found_by(cache, SHARED) == SHARED[:100]


def test_a_failed_push_does_not_pause_pulls(twice: Memory, tmp_path: Path) -> None:
    """Somebody who may read and not write still finds what others have."""

    class ReadOnly(WrappedStorage):
        def _call(self, call: StorageCall) -> Any:
            if call.verb == "put":
                raise AccessDenied("no permission to write")
            return call.run()

    with lazily(tmp_path / "laptop", ReadOnly(twice), self_check=0) as cache:
        cache.encode(["new"], SPEC, truth)
        with pytest.warns(RemoteWarning, match="no permission"):
            cache.flush()
        assert cache.get(SHARED, SPEC)[1].all()


def test_nothing_is_served_of_a_repository_without_a_readable_pack(twice: Memory, tmp_path: Path) -> None:
    """Both packs damaged: misses, and the search for other packs ends."""
    for _, pack_id in packs(twice):
        for path in vectors_of(twice, pack_id):
            flip(twice, path)
    with lazily(tmp_path / "laptop", twice, read_only=True) as cache:
        assert found_by(cache, SHARED) == []
