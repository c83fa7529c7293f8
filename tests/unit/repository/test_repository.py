"""The repository: one marker that all clients agree on, and manifests and specs that match their names."""

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cas_cache.errors import (
    DamagedPack,
    NotARepository,
    ObjectNotFound,
    RemoteUnavailable,
    RepositoryError,
    UnsupportedFormat,
)
from cas_cache.format import layout
from cas_cache.format.marker import new_marker
from cas_cache.repository import Repository
from cas_cache.storage import open_storage
from cas_cache.testing import StorageCall, WrappedStorage
from storages import OTHER_SPEC, SPEC, Counting, Flaky, Machine, Memory, packs, texts

CREATE = """
import json, sys
from cas_cache.repository import Repository
from cas_cache.storage import open_storage
url, options = json.loads(sys.argv[1])
repository = Repository(open_storage(url, options))
print("ready", flush=True)
sys.stdin.readline()
repository.create()
print(repository.id, flush=True)
"""


def race(url: str, options: dict[str, Any] | None) -> set[str]:
    """Let two processes create a repository at once; return the ids that they, and a third process, then see."""
    command = [sys.executable, "-c", CREATE, json.dumps([url, options])]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(2)]
    try:
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        ids = {process.communicate(timeout=60)[0].strip() for process in processes}
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0]
    later = Repository(open_storage(url, options))
    assert later.open()
    return ids | {later.id}


@pytest.mark.verify
def test_two_processes_create_one_local_repository(tmp_path: Path) -> None:
    """Of two simultaneous creators on a local disk one wins, and both use its repository."""
    assert len(race(str(tmp_path / "repo"), None)) == 1


@pytest.mark.verify
def test_two_processes_create_one_s3_repository(s3_remote: Any) -> None:
    """The same holds for a bucket."""
    assert len(race(s3_remote.url, s3_remote.storage_options)) == 1


@pytest.mark.parametrize("attempt", range(5))
def test_many_threads_create_one_repository(tmp_path: Path, attempt: int) -> None:
    """Eight simultaneous creators end with one id."""
    barrier = threading.Barrier(8)

    def create(_: int) -> str:
        repository = Repository(open_storage(str(tmp_path)))
        barrier.wait()
        repository.create()
        return repository.id

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(create, range(8)))) == 1


def test_the_loser_of_a_race_uses_the_winners_repository() -> None:
    """A creator whose marker is written second reads back the first, and uses its id."""
    memory = Memory()

    class Late(Counting):
        def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
            if path == layout.MARKER and path not in memory.objects:
                winner.create()
            super().put(path, data, create_only=create_only)

    winner, loser = Repository(memory), Repository(Late(memory))
    loser.create()
    assert loser.id == winner.id == json.loads(memory.objects[layout.MARKER])["id"]


def test_a_repository_made_between_two_requests_is_found() -> None:
    """A marker that is written between the look-up and the listing is not a foreign file."""
    memory = Memory()

    class Behind(Counting):
        def list(self, prefix: str) -> Any:
            Repository(memory).create()
            return super().list(prefix)

    repository = Repository(Behind(memory))
    assert repository.open()
    assert repository.id == json.loads(memory.objects[layout.MARKER])["id"]


def test_a_doctor_at_work_is_not_something_else() -> None:
    """Objects below `doctor/` do not make a prefix foreign: the first push works."""
    memory = Memory()
    memory.put(f"doctor/{'0' * 32}/a", b"tried out")
    repository = Repository(memory)
    assert not repository.open()
    repository.create()
    assert repository.open()
    memory.put("doctors.txt", b"not ours")
    del memory.objects[layout.MARKER]
    with pytest.raises(NotARepository):
        Repository(memory).open()


@pytest.mark.parametrize("misses", [1, 3])
def test_a_marker_that_is_not_found_for_a_moment_is_looked_for_again(
    misses: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another client writes the name, rclone's server reports it missing: no error, and no foreign prefix."""
    monkeypatch.setattr("cas_cache.repository.marker.MARKER_PAUSES", (0.0, 0.0, 0.0, 0.0))

    class Replacing(Memory):
        left = 0

        def get(self, path: str, start: int, stop: int) -> bytes:
            if path == layout.MARKER and self.left > 0 and self.objects:
                self.left -= 1
                raise ObjectNotFound(path)
            return super().get(path, start, stop)

    storage = Replacing()
    storage.left = misses
    maker = Repository(storage)
    maker.create()
    storage.left = misses
    finder = Repository(storage)
    assert finder.open()
    assert finder.id == maker.id


def test_a_marker_that_cannot_be_read_back_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage that loses writes is detected at once."""

    class Swallowing(Memory):
        def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
            pass

    monkeypatch.setattr("cas_cache.repository.marker.MARKER_PAUSES", (0.0, 0.0))
    with pytest.raises(RepositoryError, match="cannot be read back"):
        Repository(Swallowing()).create()


def test_a_lost_answer_to_the_marker_is_mended_by_a_retry() -> None:
    """The marker was written and the answer lost: creating again finds it and changes nothing."""
    memory = Memory()
    with pytest.raises(RemoteUnavailable):
        Repository(Flaky(memory, "put", 1, lost=True)).create()
    before = dict(memory.objects)
    Repository(memory).create()
    assert memory.objects == before


def test_something_else_is_not_a_repository(tmp_path: Path) -> None:
    """A prefix with foreign files is refused, named, and left unchanged."""
    (tmp_path / "thesis.tex").write_text("x")
    repository = Repository(open_storage(str(tmp_path)))
    for attempt in (repository.open, repository.create):
        with pytest.raises(NotARepository, match=r"thesis\.tex"):
            attempt()
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_nothing_at_all_is_no_repository_yet(tmp_path: Path) -> None:
    """An empty prefix opens as False, and opening creates nothing."""
    assert Repository(open_storage(str(tmp_path / "new"))).open() is False
    assert not (tmp_path / "new").exists()
    with pytest.raises(RuntimeError):
        _ = Repository(Memory()).id


def with_marker(**changes: Any) -> Memory:
    memory = Memory()
    marker = {"format": "cas-cache", "version": 1, "id": "x", "reader_features": [], "writer_features": [], **changes}
    memory.objects[layout.MARKER] = json.dumps({k: v for k, v in marker.items() if v != "absent"}).encode()
    return memory


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"version": "1"},
        {"reader_features": ["ragged"]},
        {"version": 2, "id": "absent", "reader_features": "absent", "writer_features": {}},
    ],
    ids=str,
)
def test_newer_repositories_are_refused(changes: dict[str, Any]) -> None:
    """A newer version, or a required reader feature, is not damage: the error says to update."""
    repository = Repository(with_marker(**changes))
    for attempt in (repository.open, repository.create):
        with pytest.raises(UnsupportedFormat, match="Update cas_cache"):
            attempt()


@pytest.mark.parametrize(
    "changes",
    [{"format": "zarr"}, {"id": 3}, {"id": "absent"}, {"reader_features": "x"}, {"writer_features": "absent"}],
)
def test_other_markers_are_refused(changes: dict[str, Any]) -> None:
    """A foreign or damaged marker is not a repository."""
    with pytest.raises(NotARepository):
        Repository(with_marker(**changes)).open()


@pytest.mark.parametrize("data", [b"", b"[]", b"3", b"null", b"{", b"\xff", b"[" * 100_000], ids=range(7))
def test_damaged_markers_are_refused(data: bytes) -> None:
    """Any other bytes in the marker are not a repository either."""
    memory = Memory()
    memory.objects[layout.MARKER] = data
    with pytest.raises(NotARepository):
        Repository(memory).open()


def test_writer_features_leave_a_repository_readable(tmp_path: Path) -> None:
    """A repository with a feature for writers can be pulled from, and is never pushed to."""
    memory = Memory()
    first = Machine(tmp_path / "a", memory)
    first.encode(texts(3))
    first.push()
    marker = json.loads(memory.objects[layout.MARKER])
    memory.objects[layout.MARKER] = json.dumps({**marker, "writer_features": ["signed"]}).encode()
    before = dict(memory.objects)
    second = Machine(tmp_path / "b", memory)
    assert second.pull().rows == 3
    second.encode(texts(2, start=3))
    with pytest.raises(UnsupportedFormat, match="signed"):
        second.push()
    assert memory.objects == before
    assert second.mirror.namespace(SPEC).pending_rows == 2


def test_foreign_objects_are_passed_over(tmp_path: Path) -> None:
    """A name that does not parse in a listing is skipped; it is neither read nor an error."""
    memory = Memory()
    machine = Machine(tmp_path, memory)
    machine.encode(texts(1))
    machine.push()
    memory.objects["manifests/README"] = b"x"
    memory.objects[f"manifests/{'0' * 32}/x.json"] = b"x"
    assert machine.repository.packs() == packs(memory)


def test_a_manifest_is_what_its_name_says(tmp_path: Path) -> None:
    """A manifest of another pack, or of another namespace, is damage."""
    memory = Memory()
    machine = Machine(tmp_path, memory)
    machine.encode(texts(1))
    machine.encode(texts(1), OTHER_SPEC)
    machine.push()
    (ns_a, a), (ns_b, b) = packs(memory)
    repository = machine.repository
    assert repository.manifest(ns_a, a).namespace == ns_a
    memory.objects[layout.manifest_path(ns_b, a)] = memory.objects[layout.manifest_path(ns_a, a)]
    with pytest.raises(DamagedPack, match="belongs to namespace"):
        repository.manifest(ns_b, a)
    memory.objects[layout.manifest_path(ns_a, a)] = memory.objects[layout.manifest_path(ns_b, b)]
    with pytest.raises(DamagedPack, match="SHA-256 is not its name"):
        repository.manifest(ns_a, a)
    with pytest.raises(DamagedPack, match="is missing from"):
        repository.manifest(ns_a, "f" * 64)


@pytest.mark.parametrize("damage", ["absent", "other", "junk"])
def test_a_spec_is_what_its_name_says(damage: str) -> None:
    """A spec that is missing, another namespace's or damaged is an error, never a guess."""
    memory = Memory()
    repository = Repository(memory)
    repository.publish_spec(SPEC)
    assert repository.spec(SPEC.namespace) == SPEC
    path = layout.spec_path(SPEC.namespace)
    memory.objects.pop(path)
    if damage != "absent":
        memory.objects[path] = OTHER_SPEC.canonical() if damage == "other" else b"{}"
    with pytest.raises(RepositoryError, match="missing or damaged"):
        repository.spec(SPEC.namespace)


# Several creators, and a storage that keeps the last marker ----------------------------------------------------------


class LastWins(Memory):
    """Overwrites in spite of create-only, as rclone's server does, and counts the writes of the marker."""

    markers = 0

    def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
        self.markers += path == layout.MARKER
        super().put(path, data)


class Replaced(WrappedStorage):
    """Lets another client write its marker before the n-th read that would find one."""

    def __init__(self, inner: Memory, at: int, times: int = 1) -> None:
        super().__init__(inner)
        self.at, self.times, self.reads = at, times, 0

    def _call(self, call: StorageCall) -> Any:
        if call.verb == "get" and call.path == layout.MARKER and layout.MARKER in self.inner.objects:
            self.reads += 1
            if self.at <= self.reads < self.at + self.times:
                self.inner.put(layout.MARKER, new_marker(f"other-{self.reads}"))
        return call.run()


def id_at(memory: Memory) -> str:
    return str(json.loads(memory.objects[layout.MARKER])["id"])


@pytest.mark.parametrize("at", [1, 2])
def test_a_creator_whose_marker_is_replaced_uses_the_last_one(tmp_path: Path, at: int) -> None:
    """It is replaced before the first or the second read-back of the marker; the push continues."""
    memory = LastWins()
    machine = Machine(tmp_path / "mirror", Replaced(memory, at))
    machine.encode(texts(3))
    assert machine.push().rows == 3
    assert machine.mirror.repository == machine.repository.id == id_at(memory) == f"other-{at}"


def test_a_client_that_finds_a_marker_uses_the_last_one(tmp_path: Path) -> None:
    """The marker is replaced between the read that finds it and the read that confirms it."""
    memory = LastWins()
    Repository(memory).create()
    machine = Machine(tmp_path / "mirror", Replaced(memory, 2))
    machine.encode(texts(3))
    assert machine.push().rows == 3
    assert machine.mirror.repository == id_at(memory) == "other-2"


def test_a_marker_that_never_settles_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of reads is limited, and nothing is bound or written."""
    monkeypatch.setattr("cas_cache.repository.marker.MARKER_PAUSES", (0.0, 0.0, 0.0, 0.0))
    memory = LastWins()
    for storage in (Replaced(memory, 1, 100), Replaced(memory, 1, 100)):  # one creates, one finds
        machine = Machine(tmp_path / "mirror", storage)
        machine.encode(texts(3))
        with pytest.raises(RepositoryError, match="no two reads in a row agree"):
            machine.push()
        assert storage.reads <= 8
        assert machine.mirror.repository is None
        assert memory.objects.keys() == {layout.MARKER}
    storage = Replaced(memory, 1, 0)
    assert Machine(tmp_path / "mirror", storage).push().rows == 3


def test_a_first_push_looks_for_the_repository_once(tmp_path: Path) -> None:
    """One listing, and of the marker: the read that finds none, one before it is written, and two that agree."""
    storage = Counting(Memory())
    machine = Machine(tmp_path / "mirror", storage)
    machine.encode(texts(3))
    assert machine.push().rows == 3
    assert storage.calls.count(("list", "")) == 1
    assert storage.calls.count(("get", layout.MARKER)) == 4


def test_a_marker_that_appears_after_the_listing_is_not_replaced() -> None:
    """A listing can take long, and another client may have written a marker by then."""

    class Behind(Counting):
        def list(self, prefix: str) -> Any:
            found = super().list(prefix)
            if layout.MARKER not in memory.objects:
                winner.create()
            return found

    memory = LastWins()
    winner, late = Repository(memory), Repository(Behind(memory))
    late.create()
    assert late.id == winner.id == id_at(memory)
    assert memory.markers == 1


def test_many_threads_push_first_to_a_storage_that_keeps_the_last_marker(tmp_path: Path) -> None:
    """None of eight simultaneous pushes fails, and a new mirror finds the rows of all."""
    memory = LastWins()
    barrier = threading.Barrier(8)

    def push(number: int) -> int:
        machine = Machine(tmp_path / str(number), memory)
        machine.encode(texts(3, 3 * number))
        barrier.wait()
        return machine.push().rows

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(push, range(8))) == [3] * 8
    reader = Machine(tmp_path / "reader", memory)
    assert reader.pull().problems == []
    assert reader.found(texts(24)) == texts(24)
