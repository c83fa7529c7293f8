"""Every kind of object x every damage x every reader: check finds all damage, and none is served as a vector.

`repository.test_damage_matrix` states the verdicts; this module counts. With CAS_CACHE_TEST_SCALE above 1, every object
of a repository is damaged, not one of each kind.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from cas_cache import sync
from cas_cache.errors import CasCacheError
from cas_cache.format import layout
from cas_cache.identity import keys_of_texts
from cas_cache.mirror import Mirror
from cas_cache.mirror.check import check_mirror
from cas_cache.repository import Repository, pack
from cas_cache.repository.checking import check
from cas_cache.repository.compacting import compact
from cas_cache.storage import threads
from cas_cache.testing import MemoryStorage
from damages import CHANGES
from fault_injection import InOrder, World
from scale import SCALE
from storages import OTHER_SPEC, SPEC, Machine, packs, texts, truth

TEXTS = {SPEC: texts(20), OTHER_SPEC: texts(7, start=20)}


WITH_ANOTHER = ("swapped", "replaced", "copied")
"""Damages that involve another valid object or another name."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use several chunks per array in a pack of ten rows, without fsync and without background work."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(threads, "pool", InOrder)
    monkeypatch.setattr(pack, "CHUNK_BYTES", 96)
    World(monkeypatch)  # the same names each time


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, bytes]:
    """Return two packs of one namespace and one of another."""
    memory = MemoryStorage()
    machine = Machine(tmp_path / "author", memory)
    for batch, spec in ((texts(10), SPEC), (texts(10, start=10), SPEC), (TEXTS[OTHER_SPEC], OTHER_SPEC)):
        machine.encode(batch, spec)
        assert machine.push().packs == 1
    return memory.objects


def siblings(whole: dict[str, bytes], path: str) -> list[str]:
    """Return the objects that could be mistaken for one: of the same kind, those of the same size first."""
    folder, _, _ = path.partition("/")
    array = path.split("/")[2:3]
    others = [it for it in sorted(whole) if it != path]
    alike = [it for it in others if it.partition("/")[0] == folder and it.split("/")[2:3] == array]
    alike = alike or [it for it in others if it.partition("/")[0] == folder] or others
    return sorted(alike, key=lambda it: (len(whole[it]) != len(whole[path]), it))


def damaged(whole: dict[str, bytes], path: str) -> dict[str, dict[str, bytes]]:
    """Return every damaged version of a repository, with damage to one object, by the name of the damage."""
    found: dict[str, dict[str, bytes]] = {}
    for name, change in CHANGES.items():
        changed = change(whole[path])
        rest = {it: data for it, data in whole.items() if it != path}
        found[name] = rest if changed is None else rest | {path: changed}
    other = siblings(whole, path)[0]
    found["swapped"] = whole | {path: whole[other], other: whole[path]}
    found["replaced"] = whole | {path: whole[other]}
    folder, _, name = path.rpartition("/")
    found["copied"] = whole | {f"{folder}/{'f' * 64}.json" if "." in name else f"{folder}/99": whole[path]}
    if path == layout.MARKER:
        # No hash covers the marker's id, as `test_damage_matrix` says; and other files may lie beside the marker.
        del found["middle byte flipped"], found["copied"]
    return {name: objects for name, objects in found.items() if objects != whole}


def victims(whole: dict[str, bytes]) -> list[str]:
    """Return one object of each kind; with a larger scale, all."""
    name = min(pack for namespace, pack in packs(_memory(whole)) if namespace == SPEC.namespace)
    arrays = [
        f"packs/{name}/{it}" for it in ("keys/c/1/0", "vectors/c/0/0", "digests/c/0", "vectors/zarr.json", "zarr.json")
    ]
    named = [layout.MARKER, layout.spec_path(SPEC.namespace), layout.manifest_path(SPEC.namespace, name)]
    return sorted(whole) if SCALE > 1 else named + arrays


def _memory(objects: dict[str, bytes]) -> MemoryStorage:
    memory = MemoryStorage()
    memory.objects = dict(objects)
    return memory


# Who reads -----------------------------------------------------------------------------------------------------------


def pulled(mirror: Path, memory: MemoryStorage) -> None:
    Machine(mirror, memory).pull()


def read_lazily(mirror: Path, memory: MemoryStorage) -> None:
    """Read the keys first, then the requested vectors only."""
    machine = Machine(mirror, memory)
    sync.pull_keys(machine.mirror, machine.repository)
    for spec, some in TEXTS.items():
        sync.pull_rows(machine.mirror, machine.repository, spec.namespace, keys_of_texts(some))


def compacted(mirror: Path, memory: MemoryStorage) -> None:
    """Merge first: no damage gets into a merge."""
    compact(Repository(memory), at_least=2)
    pulled(mirror, memory)


READERS = {"pull": pulled, "lazy pull": read_lazily, "compact": compacted}


@pytest.mark.verify
def test_no_damage_is_missed_or_served(
    tmp_path: Path, whole: dict[str, bytes], figure: Callable[[str, int], None]
) -> None:
    """`check --read-data` finds all; a check of names and sizes finds what these show; no reader serves damage."""
    cells = found = 0
    for number, path in enumerate(victims(whole)):
        for name, objects in damaged(whole, path).items():
            report = check(Repository(_memory(objects)), read_data=True)
            assert report.findings, f"{path} {name}: not found"
            found += 1
            sizes = {it: len(data) for it, data in objects.items()} != {it: len(data) for it, data in whole.items()}
            if sizes or not path.startswith("packs/"):
                assert check(Repository(_memory(objects))).findings, f"{path} {name}: not found by names and sizes"
            for reader, read in READERS.items():
                mirror = tmp_path / f"{number} {name} {reader}"
                with suppress(CasCacheError):
                    read(mirror, _memory(objects))
                right(mirror, f"{path} {name} {reader}")
            cells += 2 + len(READERS)
    figure("damages of repositories", found)
    figure("damages of repositories found by check --read-data", found)
    figure("damage cells of repositories", cells)
    assert found > 90


def right(directory: Path, what: str) -> None:
    """Check every vector and digest of a mirror; every row must be one that was encoded."""
    machine = Machine(directory, MemoryStorage())
    for spec, some in TEXTS.items():
        ns = machine.mirror.get(spec.namespace)
        assert len(machine.found(some, spec)) == (0 if ns is None else ns.rows), what
    assert check_mirror(Mirror(directory)).clean, what


@pytest.mark.parametrize("lie", ["vector", "row"])
def test_a_reader_that_serves_damage_is_noticed(tmp_path: Path, lie: str) -> None:
    """The same check fails for a mirror with one wrong vector, and for a row that was never encoded."""
    namespace = Machine(tmp_path / "reader", MemoryStorage()).mirror.namespace(SPEC)
    right(tmp_path / "reader", "nothing")
    vectors = truth(texts(2))
    if lie == "vector":
        vectors[1, 3] += 1
    namespace.append(keys_of_texts(texts(2) if lie == "vector" else ["nobody's", "text 1"]), vectors)
    with pytest.raises(AssertionError):
        right(tmp_path / "reader", "a lie")
