"""Every kind of fault of a storage in every flow: typed errors or success, no wrong vector, nothing lost."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cas_cache.format import layout
from cas_cache.repository import pack
from cas_cache.storage import threads
from cas_cache.storage.interface import ObjectInfo
from cas_cache.testing import CountingStorage, Fault, FaultyStorage, MemoryStorage
from cas_cache.testing.faults import KINDS
from fault_flows import FLOWS, Flow, happened, judge
from fault_injection import DAY, InOrder, World
from repository_fixtures import Mirrors, Scene
from scale import SCALE
from tiers import sampled

POINTS = 2 * SCALE
"""Operations of a flow at which each kind is injected, spread evenly; at 20 times that it is all of them."""

DAMAGE: list[Any] = ["flipped-bit", "short-body", "range-wrong"]

IN_MEMORY = sorted(KINDS)


FORMS: dict[str, list[dict[str, Any]]] = {
    "skew": [{"seconds": 10 * DAY}, {"seconds": -10 * DAY}],
    "stall": [{"seconds": 8 * DAY}],
    "flipped-bit": [{"which": 0}, {"which": -1}],
    "stale-entry": [{"which": 0}, {"which": -1}],
    "missing-entry": [{"which": 0}, {"which": -1}],
    "range-ignored": [{"path": "vectors/c"}],
    "range-wrong": [{}, {"path": "vectors/c"}],
}
"""What else is told of a fault of a kind; of others, nothing."""

NOWHERE: dict[str, set[str]] = {
    "first push": {"skew", "missing-entry", "duplicate-entry", "cut-listing"},
}
"""By flow, the kinds that cannot happen in it: nothing is listed that is there."""

RANGED = {"lazy pull", "encode lazily"}
"""Flows that read parts of objects."""


@pytest.fixture(autouse=True)
def _one_thing_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the n-th operation the same in every run, chunks small, and mirrors quick."""
    monkeypatch.setattr(threads, "pool", InOrder)
    monkeypatch.setattr(pack, "CHUNK_BYTES", 96)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr("cas_cache.repository.marker.MARKER_PAUSES", (0.0, 0.0))


def calls_of(flow: Flow, before: Scene) -> list[tuple[Any, str]]:
    """Return what a flow asks of its storage when nobody disturbs it."""
    scene = before.again()
    counting = CountingStorage(scene.storage)
    flow.happens(scene, counting)
    return counting.calls


def chances(fault: Fault, calls: list[tuple[Any, str]]) -> int:
    """Return how many of the calls a fault can happen in."""
    return sum(fault.concerns(verb, path) for verb, path in calls)


def spread(most: int, first: bool) -> list[int]:
    """Return some of 1 to `most`, the first and the last among them; of a further form of a kind, the last alone."""
    if most <= POINTS:
        return list(range(1, most + 1))
    if SCALE == 1 and not first:
        return [most]
    return sorted({1 + round(i * (most - 1) / (POINTS - 1)) for i in range(POINTS)})


def gone(storage: MemoryStorage) -> dict[str, ObjectInfo]:
    """Return what a stale listing may still show: a pack whole, a manifest without its objects, a probe."""
    sizes = {f"packs/{'e' * 64}/{name}": 96 for name in ("zarr.json", "keys/c/0/0", "vectors/c/0/0", "digests/c/0")}
    namespaces = sorted({path.split("/")[1] for path in storage.objects if path.startswith("manifests/")})
    for namespace in namespaces:
        sizes |= {layout.manifest_path(namespace, one * 64): 800 for one in "ef"}
    sizes[layout.probe_path("f" * 32)] = 0
    return {path: ObjectInfo(path, size, 0.0) for path, size in sizes.items()}


@pytest.mark.verify
@pytest.mark.parametrize("name", sampled(FLOWS, keep={"push"}))
def test_every_kind_in_every_flow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: Callable[[str, int], None], name: str
) -> None:
    """Once, at operations all over the flow: only errors of ours, no vector wrong, nothing acknowledged lost.

    And when the fault is over the same command finishes, and an old mirror and a new one have everything.
    """
    world = World(monkeypatch)
    flow = FLOWS[name]
    before = flow.scene(Mirrors(tmp_path), MemoryStorage())
    calls = calls_of(flow, before)
    world.begin()
    cells = 0
    fired = Counter[str]()
    for kind in IN_MEMORY:
        forms = FORMS.get(kind, [{}])
        cases = [(form, at) for form in forms for at in spread(chances(Fault(kind, **form), calls), form is forms[0])]
        for form, at in cases:
            world.again()
            scene = before.again()
            storage = FaultyStorage(scene.storage, [Fault(kind, at=at, **form)], sleep=world.wait)
            storage.deleted.update(gone(scene.storage))
            happened(flow, scene, storage)
            storage.mend()
            judge(flow, scene)
            cells += 1
            fired[kind] += len(storage.fired)
        nowhere = NOWHERE.get(name, set()) | (set() if name in RANGED else {"range-ignored"})
        assert fired[kind] or not cases or kind in nowhere, f"{kind} was not injected"
    figure("fault cells in memory", cells)
    figure("faults injected in memory", fired.total())


@pytest.mark.parametrize("name", sampled((name for name, flow in FLOWS.items() if flow.tells), keep={"pull"}))
def test_damage_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: Callable[[str, int], None], name: str
) -> None:
    """Of every object that a flow reads, each time it is read: an error or a problem, and not one vector of it."""
    world = World(monkeypatch)
    flow = FLOWS[name]
    before = flow.scene(Mirrors(tmp_path), MemoryStorage())
    read = sorted({path for verb, path in calls_of(flow, before) if verb == "get"})
    assert len(read) > 20
    told = 0
    world.begin()
    for n, path in enumerate(read[:: 1 if SCALE > 1 else 3]):
        for kind in DAMAGE if SCALE > 1 or path == layout.MARKER else [DAMAGE[n % len(DAMAGE)]]:
            world.again()
            scene = before.again()
            # Its last byte: of an object that is padded with zeros, one of these.
            storage = FaultyStorage(scene.storage, [Fault(kind, "get", times=None, path=f"^{path}$", which=-1)])
            problems = happened(flow, scene, storage)
            if not storage.fired:
                continue
            assert problems, f"{kind} of {path}"
            told += 1
            storage.mend()
            judge(flow, scene)
    assert told > 5
    figure("damage cells of faults in memory", told)
    figure("damage cells of faults in memory that were told", told)


@pytest.mark.parametrize("name", sampled(["first push", "pull", "encode"], keep={"pull"}))
def test_a_marker_that_was_misread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: Callable[[str, int], None], name: str
) -> None:
    """Whichever bit, the first time or the second: no mirror belongs to a repository that is not there."""
    World(monkeypatch)
    flow = FLOWS[name]
    before = flow.scene(Mirrors(tmp_path), MemoryStorage())
    cells = 0
    for which in range(0, 100, 9 if SCALE == 1 else 1):
        for at in (1, 2):
            scene = before.again()
            storage = faulty_marker(scene.storage, at, which)
            happened(flow, scene, storage)
            assert storage.fired
            judge(flow, scene)
            cells += 1
    figure("markers misread", cells)


def faulty_marker(storage: MemoryStorage, at: int, which: int) -> FaultyStorage:
    """Return a storage whose marker is misread, the n-th time that there is one."""
    # Where there is none, it is looked for when the remote is opened, and right before the write.
    absent = 0 if layout.MARKER in storage.objects else 2
    return FaultyStorage(storage, [Fault("flipped-bit", "get", at=at + absent, path=layout.MARKER, which=which)])


def test_the_kinds_are_these(figure: Callable[[str, int], None]) -> None:
    """None that a storage can have is left out."""
    assert len(IN_MEMORY) > 20
    figure("fault kinds in memory", len(IN_MEMORY))
