"""The code does what the model says: its operations on the storage, in their order, are steps that the model takes.

Real push, compaction, prune and pull run over a storage that notes each call. A real pack has 7 objects or more, all of
which the two of the model stand for: a run of requests for objects of one pack is a step for the first and one for the
second. A real listing is one call, in the model two pages. The marker, specs and probes' ends are not in the model.
"""

from itertools import groupby
from pathlib import Path

import pytest

from cas_cache.format import layout
from cas_cache.repository import Repository
from cas_cache.repository.compacting import compact
from cas_cache.repository.pruning import DAY, prune
from cas_cache.storage import threads
from cas_cache.testing import CountingStorage, MemoryStorage
from fault_injection import HOUR, Deadly, Died, InOrder, World
from model.protocol import PROGRAMS, begins, published, pushes
from model.world import GRACE, NEVER, THINKS, Actor, Op, Pack, Rules
from model.world import World as ModelWorld
from storages import Machine, texts

Calls = list[tuple[str, str]]


def operations(calls: Calls, packs: list[str]) -> list[Op]:  # noqa: C901 - a table
    """Return real calls as operations of the model; `packs` are the names by their numbers, and new ones are added."""

    def number(pack: str) -> int:
        if pack not in packs:
            packs.append(pack)
        return packs.index(pack)

    found: list[tuple[str, str, int, str]] = []
    for verb, path in calls:
        if verb == "list" and path == "":
            found += [("list", what, page, path) for what in ("manifests", "objects") for page in (0, 1)]
        elif verb == "list" and path.startswith(layout.MANIFESTS):
            found += [("list", "manifests", page, path) for page in (0, 1)]
        elif verb == "list" and path.startswith(f"{layout.PACKS}/"):
            found.append(("list", "pack", number(path.split("/")[1]), path))
        elif of := layout.parse_manifest_path(path):
            found.append((verb, "manifest", number(of[1]), path))
        elif object_of := layout.parse_object_path(path):
            found.append((verb, "object", number(object_of[0]), path))
        elif (verb, layout.is_probe_path(path)) == ("put", True):
            found.append(("put", "probe", 0, path))
    steps: list[Op] = []
    for (verb, what, of), group in groupby(found, lambda it: it[:3]):
        names = [path for *_, path in group]
        only_keys = all("/keys/" in name for name in names)
        # To ask for a manifest by name, `zarr.json` is read for its namespace: no step of the model.
        if what == "object" and verb == "get" and all(name.endswith("zarr.json") for name in names):
            continue
        steps += [(verb, what, of)] * (2 if what == "object" and not only_keys else 1)
    return steps


def accepts(start: ModelWorld, steps: list[Op]) -> list[ModelWorld]:
    """Return the ends to which the only process of the model can come by these operations."""
    worlds = {start}
    for step in [*steps, None]:
        # What concerns nobody else, or only the process' own clock and disk, is free.
        free = list(worlds)
        for world in free:
            for _, op, after in _moves(world):
                if op in (None, THINKS) and after not in worlds:
                    worlds.add(after)
                    free.append(after)
        if step is not None:
            worlds = {after for world in worlds for _, op, after in _moves(world) if op == step}
            assert worlds, f"the model does not take {step} after {steps[: steps.index(step)]}"
    return [world for world in worlds if world.actors[0].at == "done"]


def _moves(world: ModelWorld):  # type: ignore[no-untyped-def]
    actor = world.actors[0]
    return [] if actor.at == "done" else list(PROGRAMS[actor.program](world, 0, Rules()))


def stored(memory: MemoryStorage, packs: list[str]) -> list[tuple[bool, int]]:
    """Return, for each pack, whether it is visible, and whether none, some (1) or all (2) of its objects are there."""
    paths = memory.objects
    manifests = {of[1] for of in map(layout.parse_manifest_path, paths) if of}
    counts = {pack: sum(path.startswith(f"packs/{pack}/") for path in paths) for pack in packs}
    return [(pack in manifests, min(2, counts[pack]) if counts[pack] >= 7 else min(1, counts[pack])) for pack in packs]


def modelled(world: ModelWorld) -> list[tuple[bool, int]]:
    """Return the same of a world of the model."""
    return [(pack.manifest >= 0, sum(time >= 0 for time in pack.objects)) for pack in world.packs]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """Return time that can be moved; what runs side by side runs in order."""
    monkeypatch.setattr(threads, "pool", InOrder)
    return World(monkeypatch)


class Real:
    """A repository of three small packs, of which the model knows rows and pages."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.memory = folder, MemoryStorage()
        self.counted = CountingStorage(self.memory)
        self.packs: list[str] = []
        for turn in range(3):
            self.push(f"author {turn}", turn)

    def push(self, name: str, turn: int) -> None:
        """Publish two rows of their own."""
        machine = Machine(self.folder / name, self.counted)
        machine.encode(texts(2, 2 * turn))
        machine.push()
        self.taken()

    def taken(self) -> list[Op]:
        """Return the operations since the last time."""
        calls, self.counted.calls = self.counted.calls, []
        return operations(calls, self.packs)

    def agrees(self, start: ModelWorld, steps: list[Op]) -> ModelWorld:
        """Make sure that the model takes these steps to an end at which the storage is what it really is."""
        ends = [end for end in accepts(start, steps) if modelled(end) == stored(self.memory, self.packs)]
        assert ends, f"no end of the model has {stored(self.memory, self.packs)}"
        return ends[0]


THREE_PACKS = tuple(published(1 << at, at % 2) for at in range(3))


def at(time: int, packs: tuple[Pack, ...], actor: Actor) -> ModelWorld:
    return ModelWorld(time, packs, (actor,))


@pytest.fixture
def real(tmp_path: Path, world: World) -> Real:
    return Real(tmp_path)


def test_a_push(real: Real) -> None:
    """Objects, then the manifest, and nothing else."""
    machine = Machine(real.folder / "new", real.counted)
    machine.encode(texts(2, 8))
    machine.push()
    end = real.agrees(at(0, THREE_PACKS, pushes(8)), real.taken())
    assert end.acknowledged == 8


def test_a_push_that_died_is_finished_under_the_same_name(real: Real) -> None:
    """The second attempt writes the same objects again; the model keeps the name, and draws no other."""
    machine = Machine(real.folder / "new", Deadly(real.memory, 7, after=True))
    machine.encode(texts(2, 8))
    with pytest.raises(Died):
        machine.push()
    Machine(real.folder / "new", real.counted).push()
    steps = real.taken()
    begun = (*THREE_PACKS, Pack(1, 8, 0, (0, NEVER)))
    end = real.agrees(at(0, begun, pushes(8, planned=3)), steps)
    assert len(end.packs) == 4


def test_a_push_that_comes_too_late(real: Real, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asleep before its manifest it gives up; asleep within that it looks for its objects, and here finds them."""
    real_put = MemoryStorage.put
    for asleep_within in (False, True):
        name = f"slow {asleep_within}"
        machine = Machine(real.folder / name, real.counted)
        machine.encode(texts(2, 10 + 2 * asleep_within))

        def sleepy(
            storage: MemoryStorage, path: str, data: bytes, *, create_only: bool = False, within: bool = asleep_within
        ) -> None:
            real_put(storage, path, data, create_only=create_only)
            if path.startswith(layout.MANIFESTS if within else layout.PACKS):
                world.wait(20 * HOUR)

        with monkeypatch.context() as patched:
            patched.setattr(MemoryStorage, "put", sleepy)
            with pytest.raises(Exception, match="took more than 12 hours"):
                machine.push()
        steps = real.taken()
        packs = (*THREE_PACKS, *([] if not asleep_within else [Pack(0, 8, 0, (0, 0))]))
        worlds = [at(0, packs, pushes(8))]
        ends = [end for start in worlds for end in asleep(start, steps, before_manifest=not asleep_within)]
        assert stored(real.memory, real.packs) in [modelled(end) for end in ends]
        assert all(end.acknowledged == 0 for end in ends)


def asleep(start: ModelWorld, steps: list[Op], *, before_manifest: bool) -> list[ModelWorld]:
    """Return the ends of a push that sleeps for two days before, or after, the PUT of its manifest."""
    ends = []
    put = [step is not None and step[:2] == ("put", "manifest") for step in steps]
    cut = len(steps) if before_manifest else put.index(True) + 1
    for world in _through(start, steps[:cut]):
        ends += accepts(world._replace(time=world.time + 4), steps[cut:])
    return ends


def _through(start: ModelWorld, steps: list[Op]) -> set[ModelWorld]:
    """Return the worlds right after the last of these operations."""
    worlds = {start}
    for step in steps:
        free = list(worlds)
        for world in free:
            for _, op, after in _moves(world):
                if op in (None, THINKS) and after not in worlds:
                    worlds.add(after)
                    free.append(after)
        worlds = {after for world in worlds for _, op, after in _moves(world) if op == step}
    return worlds


def test_a_compaction(real: Real) -> None:
    """Listing, manifests, sources, objects, another listing, the manifest."""
    compact(Repository(real.counted), at_least=2)
    steps = merged_reads(real.taken())
    end = real.agrees(at(0, THREE_PACKS, begins("compactor")), steps)
    assert end.packs[3].merged == 0b111


def merged_reads(steps: list[Op]) -> list[Op]:
    """The compactor of the model reads a pack in one step: it takes all of it, or nothing."""
    kept: list[Op] = []
    for step in steps:
        if not (kept and step == kept[-1] and step is not None and step[:2] == ("get", "object")):
            kept.append(step)
    return kept


def compacted(real: Real) -> tuple[Pack, ...]:
    compact(Repository(real.counted), at_least=2)
    real.taken()
    return (*THREE_PACKS, published(7, 1, merged=7))


def test_a_compaction_of_what_is_compacted(real: Real) -> None:
    """It lists, reads manifests, and does nothing."""
    packs = compacted(real)
    compact(Repository(real.counted), at_least=2)
    real.agrees(at(0, packs, begins("compactor")), real.taken())


def test_a_pull(real: Real) -> None:
    """Listing, manifests, objects; of what is merged the merge alone; nothing again the second time."""
    reader = Machine(real.folder / "reader", real.counted)
    for is_compacted in (False, True):
        before = compacted(real) if is_compacted else THREE_PACKS
        Machine(real.folder / f"fresh {is_compacted}", real.counted).pull()
        end = real.agrees(at(0, before, begins("reader")), real.taken())
        assert end.actors[0].disk == ((1 << len(before)) - 1, 7)
        reader.pull()
        real.taken()
        known = (1 << len(before)) - 1
        reader.pull()
        real.agrees(at(0, before, begins("reader", disk=(known, 7))), real.taken())


def test_a_pull_of_what_has_gone(real: Real) -> None:
    """The manifest of a listed pack is missing: the pull lists again."""
    listing = real.counted.list

    def lists_and_loses(prefix: str) -> object:
        found = listing(prefix)
        for path in [path for path in real.memory.objects if real.packs[0] in path]:
            del real.memory.objects[path]
        return found

    real.counted.list = lists_and_loses  # type: ignore[method-assign, assignment]
    Machine(real.folder / "reader", real.counted).pull()
    del real.counted.list
    calls = [call for call in real.counted.calls if layout.parse_manifest_path(call[1]) or call[0] == "list"]
    assert [verb for verb, _ in calls] == ["list", "get", "get", "get", "list", "list"]


def test_a_prune(real: Real, world: World) -> None:
    """Two listings, manifests, a look by name, and each manifest before its objects."""
    packs = compacted(real)
    machine = Machine(real.folder / "dead", Deadly(real.memory, 7, after=True))
    machine.encode(texts(2, 8))
    with pytest.raises(Died):
        machine.push()
    orphan = next(path.split("/")[1] for path in real.memory.objects if _is_orphan(path, real.packs))
    real.packs.append(orphan)
    world.wait(8 * DAY)
    prune(Repository(real.counted))
    steps = sorted_manifests(real.taken())
    end = real.agrees(at(GRACE, (*packs, Pack(0, 8, 0, (0, NEVER))), begins("pruner")), steps)
    assert modelled(end) == [(False, 0)] * 3 + [(True, 2), (False, 0)]


def _is_orphan(path: str, packs: list[str]) -> bool:
    return path.startswith("packs/") and path.split("/")[1] not in packs


def sorted_manifests(steps: list[Op]) -> list[Op]:
    """Manifests are read side by side, in order of their names; in the model in order of their numbers.

    Of an orphan, a few objects of a run of deletions may be one: the model's second DELETE is of what is not there.
    """
    found: list[Op] = []
    for (verb, what), group in groupby(steps, lambda it: it[:2] if it else ("", "")):
        run = list(group)
        found += sorted(run, key=lambda it: it[2] if it else 0) if (verb, what) == ("get", "manifest") else run
    return found
