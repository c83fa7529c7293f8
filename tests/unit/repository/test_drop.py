"""Drop deletes one namespace: manifests first, then spec and objects; other namespaces are not touched."""

import math
from pathlib import Path

import pytest

from cas_cache.errors import ConfigurationError, IncompleteListing, NotARepository, RemoteUnavailable, UnsupportedFormat
from cas_cache.format import layout
from cas_cache.repository import Repository
from cas_cache.repository.checking import check
from cas_cache.repository.dropping import QUIET_SECONDS, drop, plan_drop
from cas_cache.repository.pruning import prune
from cas_cache.storage.interface import ObjectInfo
from cas_cache.testing import FlakyStorage
from storages import OTHER_SPEC, SPEC, Counting, Machine, Memory, packs, texts

MINE, OTHERS = SPEC.namespace, OTHER_SPEC.namespace


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    """Return two namespaces with two packs each, written two days ago."""
    memory = Memory()
    machine = Machine(tmp_path / "writer", memory)
    for i in range(2):
        for spec in (SPEC, OTHER_SPEC):
            machine.encode(texts(5, i * 5), spec)
        machine.push()
    for path in memory._modified:
        memory._modified[path] -= 2 * QUIET_SECONDS
    return memory


def test_drop(memory: Memory, tmp_path: Path) -> None:
    """The whole namespace is deleted, nothing else is, and the repository is clean."""
    mine = {pack for namespace, pack in packs(memory) if namespace == MINE}
    kept = {path: data for path, data in memory.objects.items() if MINE not in path and path.split("/")[1:2] != []}
    kept = {path: data for path, data in kept.items() if path.split("/")[1] not in mine}
    report = drop(Repository(memory), MINE)
    assert (set(report.packs), report.spec, len(report.objects)) == (mine, layout.spec_path(MINE), 14)
    assert {path: data for path, data in memory.objects.items() if path != layout.MARKER} == kept
    assert check(Repository(memory), read_data=True).findings == []
    reader = Machine(tmp_path / "reader", memory)
    assert reader.pull().problems == []
    assert reader.found(texts(10)) == []
    assert len(reader.found(texts(10), OTHER_SPEC)) == 10


def test_order(memory: Memory) -> None:
    """Manifests are deleted before the spec, and the spec before any object."""
    counting = Counting(memory)
    report = drop(Repository(counting), MINE)
    deleted = [path for verb, path in counting.calls if verb == "delete"][1:]
    assert set(deleted[:2]) == set(report.manifests)
    assert deleted[2] == report.spec
    assert set(deleted[3:]) == set(report.objects)


def test_dry_run(memory: Memory) -> None:
    """Nothing is written or deleted, not even a probe of the clock."""
    before, counting = dict(memory.objects), Counting(memory)
    report = drop(Repository(counting), MINE, dry_run=True)
    assert {verb for verb, _ in counting.calls} == {"get", "list"}
    assert memory.objects == before
    wet = drop(Repository(memory), MINE)
    assert wet.as_json() == report.as_json()
    assert wet.as_json().keys() == {"namespace", "packs", "objects", "bytes"}
    assert wet.bytes == sum(len(data) for data in before.values()) - sum(map(len, memory.objects.values()))


def test_what_is_in_use_must_be_forced(memory: Memory, tmp_path: Path) -> None:
    """A pack of the last day, or of unknown age, stops it; one of another namespace does not."""
    machine = Machine(tmp_path / "late", memory)
    machine.encode(texts(1, 99))
    machine.push()
    before = dict(memory.objects)
    with pytest.raises(ConfigurationError, match="in the last day"):
        drop(Repository(memory), MINE)
    assert memory.objects == before
    assert len(drop(Repository(memory), OTHERS).packs) == 2
    assert len(drop(Repository(memory), MINE, force=True).packs) == 3


@pytest.mark.parametrize("position", [0, 1, 2])
def test_an_unknown_time_is_not_quiet(position: int) -> None:
    """Its position among the manifests does not matter."""
    times = [0.0, 0.0, 0.0]
    times[position] = math.nan
    listed = [ObjectInfo(f"manifests/{MINE}/{i:064x}.json", 1, time) for i, time in enumerate(times)]
    assert not plan_drop(listed, MINE, now=1e9).idle >= QUIET_SECONDS
    assert plan_drop(listed[:position], MINE, now=1e9).idle >= QUIET_SECONDS


def test_no_such_namespace(memory: Memory) -> None:
    """An unknown namespace is an error that says so, not a success."""
    with pytest.raises(ConfigurationError, match="There is no namespace"):
        drop(Repository(memory), "0" * 32)
    with pytest.raises(ValueError, match="not a namespace id"):
        drop(Repository(memory), "../../etc")
    with pytest.raises(NotARepository):
        drop(Repository(Memory()), MINE)


def test_a_listing_without_the_marker_deletes_nothing(memory: Memory) -> None:
    """Such a listing is incomplete."""

    class Blind(Counting):
        def list(self, prefix: str) -> list[ObjectInfo]:
            return [] if not prefix else super().list(prefix)

    before = dict(memory.objects)
    with pytest.raises(IncompleteListing):
        drop(Repository(Blind(memory)), MINE)
    assert memory.objects == before


def test_a_newer_repository_is_not_written(memory: Memory) -> None:
    """An unknown writer feature stops it."""
    memory.objects[layout.MARKER] = memory.objects[layout.MARKER].replace(
        b'"writer_features":[]', b'"writer_features":["x"]'
    )
    before = dict(memory.objects)
    with pytest.raises(UnsupportedFormat):
        drop(Repository(memory), MINE)
    assert memory.objects == before


def test_a_pack_that_appears_meanwhile_stays_with_its_spec(memory: Memory, tmp_path: Path) -> None:
    """A client that pushes while a namespace is dropped loses nothing."""
    machine = Machine(tmp_path / "late", memory)
    machine.encode(texts(3, 50))

    class Late(Counting):
        pushed = False

        def delete(self, path: str) -> None:
            super().delete(path)
            if path.startswith("manifests/") and not self.pushed:
                self.pushed = True
                machine.push()

    drop(Repository(Late(memory)), MINE)
    assert layout.spec_path(MINE) in memory.objects
    reader = Machine(tmp_path / "reader", memory)
    assert reader.pull().problems == []
    assert reader.found(texts(3, 50)) == texts(3, 50)


def test_a_drop_that_broke_off(memory: Memory, tmp_path: Path) -> None:
    """After each deletion, rows are right or missing; the same call and a prune finish the work."""
    objects, modified = dict(memory.objects), dict(memory._modified)
    for at in range(2, 2 + 17):
        memory.objects, memory._modified = dict(objects), dict(modified)
        with pytest.raises(RemoteUnavailable):
            drop(Repository(FlakyStorage(memory, "delete", at=at)), MINE)
        reader = Machine(tmp_path / f"reader-{at}", memory)
        reader.pull()
        reader.found(texts(10))
        assert len(reader.found(texts(10), OTHER_SPEC)) == 10
        if layout.spec_path(MINE) in memory.objects:
            drop(Repository(memory), MINE)
        prune(Repository(memory), grace=0, force=True)
        assert not any(MINE in path for path in memory.objects)
        assert check(Repository(memory), read_data=True).findings == []
