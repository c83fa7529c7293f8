"""Two at one repository: one does all of its work before one storage operation of the other, whichever that is.

Old listings, merges of what has gone, and writers that slept for days: nothing is lost, nothing is wrong, and whoever
comes too late takes back what it wrote or is told.
"""

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cas_cache.errors import IncompleteListing, RepositoryError
from cas_cache.format import layout
from cas_cache.mirror import Mirror
from cas_cache.repository import Repository, pack
from cas_cache.repository.compacting import compact
from cas_cache.repository.pruning import prune
from cas_cache.storage import Storage, threads
from cas_cache.testing import MemoryStorage
from fault_injection import DAY, HOUR, Coarse, Deadly, Died, InOrder, Intruded, World
from repository_fixtures import (
    ALL,
    NOTES,
    Mirrors,
    Scene,
    assert_has,
    compact_it,
    compacted,
    drop_it,
    found_by,
    kinds_of,
    prune_it,
    pulled,
    push_it,
)
from storages import OTHER_SPEC, SPEC, Machine


@pytest.fixture(autouse=True)
def _one_thing_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the n-th operation the same in every run, chunks small, and mirrors quick: nobody pulls the plug here."""
    monkeypatch.setattr(threads, "pool", InOrder)
    monkeypatch.setattr(pack, "CHUNK_BYTES", 96)
    monkeypatch.setattr(os, "fsync", lambda _: None)


Flow = Callable[[Scene, Storage], Any]


def everywhere(
    before: Scene, world: World, flow: Flow, intrusion: Callable[[Scene], Any]
) -> Iterator[tuple[Scene, Intruded]]:
    """Yield a new scene, and its storage with an intrusion before each operation of a flow; at last one without any.

    `met` of the storage is that operation already. Each begins at the same time.
    """
    world.begin()
    calls = [*calls_of(before, flow), ("", "")]
    assert len(calls) > 8
    for at, met in enumerate(calls, 1):
        world.again()
        scene = before.again()
        storage = Intruded(scene.storage, at, lambda scene=scene: intrusion(scene))
        storage.met = met
        yield scene, storage
        assert not storage.calls or storage.reached == any(met)


def calls_of(before: Scene, flow: Flow) -> list[tuple[str, str]]:
    """Return every operation of a flow that nobody disturbs."""
    scene = before.again()
    storage = Intruded(scene.storage, 10**6, lambda: None)
    flow(scene, storage)
    return storage.seen


def is_manifest(call: tuple[str, str]) -> bool:
    """Whether a call makes a pack visible."""
    return call[0] == "put" and call[1].startswith(layout.MANIFESTS)


def pull_it(scene: Scene, storage: Storage) -> None:
    Machine(scene.reader, storage).pull()


def default_prune(_: Scene, storage: Storage) -> None:
    prune(Repository(storage))


def compact_and_prune(scene: Scene) -> None:
    """Leave nothing of what was listed before but its rows."""
    old = {pack for _, pack in Repository(scene.storage).packs()}
    compact_it(scene, scene.storage)
    prune_it(scene, scene.storage)
    assert old.isdisjoint(pack for _, pack in Repository(scene.storage).packs())


# Pulls ---------------------------------------------------------------------------------------------------------------


@pytest.mark.verify
@pytest.mark.parametrize("knows", ["nothing", "a pack of each"])
def test_a_pull_from_packs_that_are_merged_and_pruned_meanwhile(before: Scene, world: World, knows: str) -> None:
    """Whenever they go, the pull finds their rows in the merges and has no damage to report."""
    half = before.mirrors.new()
    machine = Machine(half, before.storage)
    if knows != "nothing":
        listing = machine.repository.packs
        machine.repository.packs = lambda namespace=None: listing(namespace)[:2]  # type: ignore[method-assign]
        assert machine.pull().packs == 2
    for scene, storage in everywhere(replace(before, first_reader=half), world, pull_it, compact_and_prune):
        reader = Machine(scene.reader, storage)
        report = reader.pull()
        assert report.problems == []
        assert found_by(reader) == scene.known
        # And has read them to their end: there is nothing left to do.
        assert Machine(reader.mirror.directory, scene.storage).pull().rows == 0


def test_a_pull_of_what_is_dropped_meanwhile(before: Scene, world: World) -> None:
    """Its rows are there and right, or misses; that packs have gone is all that is said; the others are all there."""
    seen = set()
    before = replace(before, first_reader=Mirror(before.mirrors.new()).directory)
    for scene, storage in everywhere(before, world, pull_it, lambda scene: drop_it(scene, scene.storage)):
        reader = Machine(scene.reader, storage)
        try:
            problems = reader.pull().problems
        except IncompleteListing:
            problems = []
            # One that knows packs of the namespace is told so, and still takes the others if it asks for them.
            assert storage.reached
            assert reader.pull([OTHER_SPEC.namespace]).problems == []
        assert all(isinstance(it, IncompleteListing) for it in problems), problems
        found = found_by(reader)
        assert found[1] == scene.known[1]
        assert set(found[0]) <= set(scene.known[0])
        seen.add(len(found[0]))
    assert {0, len(before.known[0])} < seen


asleep = pytest.mark.parametrize("at_manifest", [False, True], ids=["asleep before an object", "asleep at a manifest"])
"""Where a writer falls asleep: before the PUT of a manifest its first look at the clock is over."""

# Compactions ---------------------------------------------------------------------------------------------------------


@pytest.mark.verify
def test_two_compactions_at_once(before: Scene, world: World) -> None:
    """Wherever the second runs in the first: every row is there, and nothing is left that no manifest names."""
    taken_back = set()
    for scene, storage in everywhere(before, world, compact_it, lambda scene: compact_it(scene, scene.storage)):
        report = compact(Repository(storage), at_least=2)
        assert report.problems == []
        taken_back.add(report.taken_back)
        kinds, found = scene.judged()
        assert kinds <= NOTES
        assert found == pulled(scene.reader, scene.storage) == scene.known
        assert compact(Repository(scene.storage), at_least=2).merges == []
        prune_it(scene, scene.storage)
        kinds, found = scene.judged()
        assert kinds <= {"duplicate-keys"}
        assert found == pulled(scene.reader, scene.storage) == scene.known
    assert taken_back >= {0, 1, 2}


def merged_and_pruned(scene: Scene, world: World) -> None:
    """Sleep for 8 days, in which others merge the same packs, and prune them as soon as they may."""
    compact_it(scene, scene.storage)
    eight_days(scene, world)


def must_be_told(err: RepositoryError) -> None:
    """Make sure that what a writer was told is that it took too long."""
    assert "took more than 12 hours" in str(err)


def eight_days(scene: Scene, world: World) -> None:
    """Sleep for 8 days, at the end of which somebody prunes."""
    world.wait(8 * DAY)
    prune(Repository(scene.storage))


@pytest.mark.verify
@asleep
def test_a_compaction_whose_sources_are_merged_and_pruned_meanwhile(
    before: Scene, world: World, at_manifest: bool
) -> None:
    """It takes back what it wrote, all of it, or is told that it took too long; nothing of the others' is harmed."""
    outcomes = set()
    for scene, storage in everywhere(before, world, compact_it, lambda scene: merged_and_pruned(scene, world)):
        if is_manifest(storage.met) != at_manifest:
            continue
        try:
            report = compact(Repository(storage), at_least=2)
            assert report.problems == []
            outcomes.add(report.taken_back)
            leftovers = NOTES
        except RepositoryError as err:
            must_be_told(err)
            outcomes.add("told")
            leftovers = NOTES | {"orphan"}
        kinds, found = scene.judged()
        assert kinds <= leftovers
        assert found == pulled(scene.reader, scene.storage) == scene.known
        eight_days(scene, world)
        kinds, found = scene.judged()
        assert kinds <= {"duplicate-keys"}
        assert found == scene.known
    assert outcomes >= ({"told"} if at_manifest else {0, 1})


@pytest.mark.verify
def test_a_compaction_whose_sources_are_dropped_meanwhile(before: Scene, world: World) -> None:
    """It takes back what it wrote; a drop that comes between its last look and its manifest is done again."""
    outcomes = set()
    for scene, storage in everywhere(before, world, compact_it, lambda scene: drop_it(scene, scene.storage)):
        report = compact(Repository(storage), at_least=2)
        assert report.problems == []
        outcomes.add(report.taken_back)
        if is_manifest(storage.met) and SPEC.namespace in storage.met[1]:
            assert kinds_of(scene.storage) <= NOTES | {"spec-missing"}
            drop_it(scene, scene.storage)
        kinds, found = scene.judged()
        assert kinds <= NOTES
        assert found == [[] if storage.reached else scene.known[0], scene.known[1]]
    assert outcomes == {0, 1}


# Pushes and prunes ---------------------------------------------------------------------------------------------------


@pytest.fixture
def waiting(tmp_path: Path, world: World) -> Scene:
    """Return a repository with much to prune, all of it old enough, and an author who has something to push."""
    scene = compacted(Mirrors(tmp_path), MemoryStorage())
    world.wait(8 * DAY)
    return scene


def wanted(scene: Scene) -> list[list[str]]:
    """Return what is there once the author has pushed."""
    pushed = (ALL[12:15], ALL[12:16])
    return [[text for text in ALL if text in {*a, *b}] for a, b in zip(scene.known, pushed, strict=True)]


@pytest.mark.verify
def test_a_prune_within_a_push(waiting: Scene, world: World) -> None:
    """At every operation of the push: what is old goes, and nothing of the push."""
    for scene, storage in everywhere(waiting, world, push_it, lambda scene: prune(Repository(scene.storage))):
        assert Machine(scene.author, storage).push().packs == 2
        kinds, found = scene.judged()
        assert found == wanted(scene)
        assert kinds <= (set() if storage.reached else NOTES | {"orphan"})


@pytest.mark.verify
@pytest.mark.parametrize("coarse", [False, True], ids=["exact times", "times in seconds"])
def test_a_push_within_a_prune(waiting: Scene, world: World, coarse: bool) -> None:
    """At every operation of the prune: what is old goes, nothing of the push, and no new pack makes it suspicious."""
    for scene, storage in everywhere(
        waiting, world, default_prune, lambda scene: Machine(scene.author, scene.storage).push()
    ):
        report = prune(Repository(Coarse(storage) if coarse else storage))
        assert len(report.deletions) == 7
        if not storage.reached:
            Machine(scene.author, scene.storage).push()
        assert scene.judged() == (set(), wanted(scene))


def begun(waiting: Scene) -> Scene:
    """Let the author die before the manifest of its first pack."""
    manifest = next(at for at, call in enumerate(calls_of(waiting, push_it), 1) if is_manifest(call))
    with pytest.raises(Died):
        Machine(waiting.author, Deadly(waiting.storage, manifest, after=False)).push()
    return waiting


def orphans_of(storage: Storage) -> set[str]:
    """Return the packs that have objects and no manifest."""
    written = {entry.path.split("/")[1] for entry in storage.list(layout.PACKS)}
    return written.difference(name for _, name in Repository(storage).packs())


@pytest.mark.verify
@asleep
@pytest.mark.parametrize("again", [False, True], ids=["the first time", "the second time"])
def test_a_push_that_sleeps_for_days(waiting: Scene, world: World, again: bool, at_manifest: bool) -> None:
    """Wherever it falls asleep: it is told, or right; and the next push is right, under new names if it was told."""
    told = 0
    if again:
        waiting = begun(waiting)
        world.wait(11.9 * HOUR)
    for scene, storage in everywhere(waiting, world, push_it, lambda scene: eight_days(scene, world)):
        if is_manifest(storage.met) != at_manifest:
            continue
        try:
            Machine(scene.author, storage).push()
        except RepositoryError as err:
            must_be_told(err)
            told += 1
            kinds, found = scene.judged()
            assert kinds <= {"orphan"}
            assert_has(found, scene.known)
            hidden = orphans_of(scene.storage)
            assert Machine(scene.author, scene.storage).push().packs > 0
            assert orphans_of(scene.storage) == hidden, "a name was used again"
        assert scene.judged()[1] == wanted(scene)
        eight_days(scene, world)
        assert scene.judged() == (set(), wanted(scene))
    assert told >= (2 if at_manifest else 9)


@pytest.mark.verify
def test_a_push_that_takes_as_long_as_it_may(waiting: Scene, world: World) -> None:
    """Begun anew after 11.9 hours, and asleep for 11.9 hours more: a prune that waits for a day harms nothing of it."""
    waiting = begun(waiting)
    world.wait(11.9 * HOUR)

    def sleeps(scene: Scene) -> None:
        world.wait(11.9 * HOUR)
        prune(Repository(scene.storage), grace=DAY)

    for scene, storage in everywhere(waiting, world, push_it, sleeps):
        assert Machine(scene.author, storage).push().packs == 2
        assert scene.judged()[1] == wanted(scene)


@pytest.mark.verify
@pytest.mark.parametrize("nth", [1, 2], ids=["before its first object", "after its first object"])
def test_a_push_that_wakes_within_a_prune(waiting: Scene, world: World, nth: int) -> None:
    """Asleep for days in its second attempt, awake at each operation of a prune: it is told, or right."""
    waiting = begun(waiting)
    world.wait(11.9 * HOUR)
    asleep_at = nth + next(i for i, (_, path) in enumerate(calls_of(waiting, push_it)) if path.startswith(layout.PACKS))
    world.begin()
    for at in itertools.count(1):
        world.again()
        scene = waiting.again()
        writer = Sleeper(scene.author, scene.storage, asleep_at)
        world.wait(8 * DAY)
        storage = Intruded(scene.storage, at, writer.wakes_up)
        prune(Repository(storage))
        if not storage.reached:
            writer.wakes_up()
        for error in writer.errors:
            must_be_told(error)
        assert kinds_of(scene.storage) <= NOTES | {"orphan"}
        Machine(scene.author, scene.storage).push()
        assert scene.judged()[1] == wanted(scene)
        if not storage.reached:
            break
    assert at > 12


@pytest.mark.verify
def test_a_manifest_that_comes_too_late_within_a_prune(waiting: Scene, world: World) -> None:
    """Its PUT was on its way for days and ends at each operation of a prune: no pack is left that lacks objects."""
    asleep_at = next(at for at, call in enumerate(calls_of(waiting, push_it), 1) if is_manifest(call))
    world.begin()
    refused = 0
    for at in itertools.count(1):
        world.again()
        scene = waiting.again()
        writer = Sleeper(scene.author, scene.storage, asleep_at)
        world.wait(8 * DAY)
        storage = Intruded(scene.storage, at, writer.wakes_up)
        try:
            prune(Repository(storage))
        except IncompleteListing:
            refused += 1  # it came between the listing and the question for it
        if not storage.reached:
            writer.wakes_up()
        (error,) = writer.errors
        must_be_told(error)
        assert kinds_of(scene.storage) <= NOTES | {"orphan"}
        Machine(scene.author, scene.storage).push()
        assert scene.judged()[1] == wanted(scene)
        if not storage.reached:
            break
    assert at > 30
    assert refused


class Sleeper:
    """A push in a thread of its own that falls asleep before its n-th operation."""

    def __init__(self, author: Path, storage: Storage, at: int) -> None:
        self.errors: list[RepositoryError] = []
        self._asleep, self._awake = threading.Event(), threading.Event()
        self._machine = Machine(author, Intruded(storage, at, self._sleeps))
        self._thread = threading.Thread(target=self._pushes)
        self._thread.start()
        assert self._asleep.wait(60)

    def wakes_up(self) -> None:
        """Let it go on, to its end."""
        self._awake.set()
        self._thread.join(60)

    def _sleeps(self) -> None:
        self._asleep.set()
        assert self._awake.wait(60)

    def _pushes(self) -> None:
        try:
            self._machine.push()
        except RepositoryError as err:
            self.errors.append(err)
