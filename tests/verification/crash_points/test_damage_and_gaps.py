"""Compaction, prune and pull where something is damaged, and where listings lack something: nothing sound is lost."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cas_cache.errors import DamagedPack, RepositoryError
from cas_cache.format import layout
from cas_cache.format.manifest import Manifest
from cas_cache.repository import Repository, pack
from cas_cache.repository.compacting import compact
from cas_cache.repository.pruning import prune
from cas_cache.storage import Storage, threads
from cas_cache.testing import MemoryStorage
from fault_injection import DAY, Hooked, InOrder, World
from repository_fixtures import NOTES, Mirrors, Scene, compact_it, compacted, found_by, kinds_of, prune_it, pulled
from storages import SPEC, Machine
from tiers import sampled


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make chunks so small that each pack has several of vectors, and mirrors quick: nobody pulls the plug here."""
    monkeypatch.setattr(threads, "pool", InOrder)
    monkeypatch.setattr(pack, "CHUNK_BYTES", 48)
    monkeypatch.setattr(os, "fsync", lambda _: None)


def lose(memory: MemoryStorage, path: str) -> None:
    del memory.objects[path]


def flip(memory: MemoryStorage, path: str) -> None:
    memory.objects[path] = bytes([memory.objects[path][0] ^ 1]) + memory.objects[path][1:]


damages = pytest.mark.parametrize("damage", [lose, flip])


def manifests(storage: Storage) -> dict[str, Manifest]:
    """Return the manifests of the namespace of `SPEC` by pack, the oldest first."""
    repository = Repository(storage)
    return {name: repository.manifest(*of) for of in repository.packs(SPEC.namespace) for name in of[1:]}


def chunks_of(name: str, manifest: Manifest) -> list[str]:
    """Return the paths of what readers need of a pack."""
    return [layout.object_path(name, it) for it in manifest.objects if not it.endswith("zarr.json")]


@pytest.mark.verify
@damages
def test_a_damaged_merge_hides_none_of_its_sources(before: Scene, damage: Callable[[MemoryStorage, str], None]) -> None:
    """Whichever object of it: its rows come from what it supersedes, now and with the next pull; prune keeps these."""
    compact_it(before, before.storage)
    ((merge, manifest),) = [it for it in manifests(before.storage).items() if it[1].supersedes]
    for path in chunks_of(merge, manifest):
        scene = before.again()
        damage(scene.storage, path)
        reader = Machine(scene.mirrors.new(), scene.storage)
        (problem,) = reader.pull().problems
        assert isinstance(problem, DamagedPack)
        assert problem.pack == merge
        assert found_by(reader) == scene.known
        reader.pull()
        assert found_by(reader) == scene.known
        if damage is lose:
            # A flipped bit shows in no listing.
            prune_it(scene, scene.storage)
            assert set(manifest.supersedes) < manifests(scene.storage).keys()


@damages
@pytest.mark.verify
def test_a_damaged_source_stays_what_it_was(before: Scene, damage: Callable[[MemoryStorage, str], None]) -> None:
    """Whichever object of it: no merge supersedes it, prune keeps it, and once it is mended its rows are back."""
    source, *others = manifests(before.storage)
    for path in chunks_of(source, manifests(before.storage)[source]):
        scene = before.again()
        sound = scene.storage.objects[path]
        damage(scene.storage, path)
        (problem,) = compact(Repository(scene.storage), at_least=2).problems
        assert isinstance(problem, DamagedPack)
        assert problem.pack == source
        prune_it(scene, scene.storage)
        now = manifests(scene.storage)
        assert source in now
        assert sorted(name for it in now.values() for name in it.supersedes) == sorted(others)
        Machine(scene.mirrors.new(), scene.storage).pull()
        scene.storage.put(path, sound)
        assert kinds_of(scene.storage) <= NOTES
        assert pulled(scene.mirrors.new(), scene.storage) == scene.known


class Lacking(Hooked):
    """A storage whose listings, or whose first one of all, lack what a rule says."""

    def __init__(self, inner: Storage, rule: Callable[[str], bool], *, always: bool) -> None:
        super().__init__(inner)
        self.rule, self.always = rule, always

    def _call(self, number: int, verb: str, path: str, call: Callable[[], Any]) -> Any:
        result = call()
        if verb == "list" and (path == "" or self.always):
            return [entry for entry in result if not self.rule(entry.path)]
        return result


@pytest.mark.verify
@pytest.mark.parametrize("always", sampled([False, True], keep={False}), ids=["one listing", "all listings"])
def test_a_prune_whose_listing_lacks_something(tmp_path: Path, world: World, always: bool) -> None:
    """Any one object, or any kind of them: prune refuses, or deletes nothing that is needed."""
    before = compacted(Mirrors(tmp_path), MemoryStorage())
    author = Machine(before.author, before.storage)
    author.push()
    Machine(before.reader, before.storage).pull()
    before.known = found_by(Machine(before.reader, before.storage))
    assert [len(some) for some in before.known] == [13, 10]
    world.wait(8 * DAY)
    paths = [entry.path for entry in before.storage.list("")]
    rules: list[Callable[[str], bool]] = [lambda path, one=one: path == one for one in paths]
    rules += [lambda path, some=some: path.startswith(some) for some in ("manifests/", "packs/", "specs/", "")]
    rules += [lambda path, some=set(paths[first::2]): path in some for first in (0, 1)]
    refused = pruned = 0
    for rule in rules:
        scene = before.again()
        try:
            prune(Repository(Lacking(scene.storage, rule, always=always)))
            pruned += 1
        except RepositoryError:  # IncompleteListing; or where not even the probe of the clock is listed
            refused += 1
            assert scene.storage.objects == before.storage.objects
        kinds, found = scene.judged()
        assert kinds <= NOTES | {"orphan"}
        assert found == scene.known
    assert refused >= 5
    assert pruned >= 20
