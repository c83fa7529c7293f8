"""Clocks that are ten days wrong, writers that sleep longer than the grace period, and disks that fail."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cas_cache.repository import Repository, pack
from cas_cache.repository.pruning import prune
from cas_cache.storage import open_storage, threads
from cas_cache.testing import CountingStorage, Fault, FaultyStorage, MemoryStorage, storages
from failing_disk import failing_disk
from fault_flows import FLOWS, happened, judge
from fault_injection import DAY, InOrder, World
from repository_fixtures import Mirrors, Scene, compacted
from scale import SCALE
from tiers import sampled

TEN_DAYS = 10 * DAY
WRITES = sampled(["push", "encode", "compact"], keep={"push"})
ways = pytest.mark.parametrize("skew", sampled([TEN_DAYS, -TEN_DAYS], keep={TEN_DAYS}), ids=["ahead", "behind"])


@pytest.fixture(autouse=True)
def _one_thing_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "pool", InOrder)
    monkeypatch.setattr(pack, "CHUNK_BYTES", 96)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def two_clocks(monkeypatch: pytest.MonkeyPatch) -> World:
    """Let storages in memory keep their own time, and return a world that moves everybody else's."""
    monkeypatch.setattr(storages, "time", SimpleNamespace(time=time.time))
    return World(monkeypatch)


def scenes_in(folder: Path) -> dict[Any, Scene]:
    """Return what is there before each flow."""
    makers = {flow.scene for flow in FLOWS.values()}
    return {make: make(Mirrors(folder / make.__name__), MemoryStorage()) for make in makers}


@pytest.mark.verify
@ways
@pytest.mark.usefixtures("quick")
def test_a_client_whose_clock_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: Callable[[str, int], None], skew: float
) -> None:
    """Every flow ends as it does with the right time, and a prune deletes nothing that is young."""
    world = two_clocks(monkeypatch)
    scenes = scenes_in(tmp_path)
    world.wait(skew)
    for flow in FLOWS.values():
        scene = scenes[flow.scene].again()
        assert flow.happens(scene, scene.storage) == []
        judge(flow, scene)
    assert prune(Repository(scenes[compacted].storage)).deletions == []
    figure("flows with a wrong clock", len(FLOWS) + 1)


@pytest.mark.verify
@ways
@pytest.mark.usefixtures("quick")
def test_a_storage_whose_clock_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: Callable[[str, int], None], skew: float
) -> None:
    """Its times are compared with its own alone: every flow ends, and a prune deletes nothing that is young."""
    World(monkeypatch)
    fault = Fault("skew", times=None, seconds=skew)
    scenes = scenes_in(tmp_path)
    for name, flow in FLOWS.items():
        scene = scenes[flow.scene].again()
        storage = FaultyStorage(scene.storage, [fault])
        assert flow.happens(scene, storage) == []
        assert storage.fired or name == "first push" or not listed(storage)
        judge(flow, scene)
    skewed = FaultyStorage(scenes[compacted].storage, [fault])
    assert prune(Repository(skewed)).deletions == []
    assert skewed.fired
    figure("flows with a wrong clock", len(FLOWS) + 1)


def listed(storage: FaultyStorage) -> bool:
    """Whether a flow has listed anything."""
    return bool(storage._seen)


def points(calls: int) -> range:
    """Return operations all over a flow."""
    return range(1, calls + 1, max(1, calls // (4 * SCALE)))


def calls_of(before: Scene, name: str) -> int:
    scene = before.again()
    counting = CountingStorage(scene.storage)
    FLOWS[name].happens(scene, counting)
    return len(counting.calls)


@ways
@pytest.mark.parametrize("name", WRITES)
@pytest.mark.usefixtures("quick")
def test_a_clock_that_is_set_while_somebody_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: Callable[[str, int], None], name: str, skew: float
) -> None:
    """At operations all over the flow: the writer is told, or right; nothing is lost, and it goes on."""
    world = two_clocks(monkeypatch)
    flow = FLOWS[name]
    before = flow.scene(Mirrors(tmp_path), MemoryStorage())
    calls, told = calls_of(before, name), 0
    world.begin()
    for at in points(calls):
        world.again()
        scene = before.again()
        storage = FaultyStorage(scene.storage, [Fault("stall", at=at, seconds=skew)], sleep=world.wait)
        told += bool(happened(flow, scene, storage))
        assert len(storage.fired) == 1
        judge(flow, scene)
    assert told
    figure("clocks set while somebody writes", len(points(calls)))


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.usefixtures("quick")
def test_a_stall_longer_than_the_grace_period(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: Callable[[str, int], None], name: str
) -> None:
    """Somebody prunes while a writer sleeps for eight days: it is told, or right; nothing is lost, and it goes on."""
    world = World(monkeypatch)
    flow = FLOWS[name]
    before = flow.scene(Mirrors(tmp_path), MemoryStorage())
    calls, told = calls_of(before, name), 0
    world.begin()
    for at in points(calls):
        world.again()
        scene = before.again()

        def sleeps(seconds: float, scene: Scene = scene) -> None:
            world.wait(seconds)
            prune(Repository(scene.storage))

        storage = FaultyStorage(scene.storage, [Fault("stall", at=at, seconds=8 * DAY)], sleep=sleeps)
        told += bool(happened(flow, scene, storage))
        assert len(storage.fired) == 1
        judge(flow, scene)
    assert told
    figure("stalls longer than the grace period", len(points(calls)))


DISKS: list[tuple[Any, int]] = [
    ("write", errno.ENOSPC),
    ("fsync", errno.EIO),
    ("rename", errno.EIO),
]


@pytest.mark.parametrize(("operation", "code"), DISKS, ids=lambda it: errno.errorcode.get(it, it))
@pytest.mark.parametrize("name", sampled(["push", "pull", "encode"] if SCALE == 1 else FLOWS, keep={"push"}))
@pytest.mark.usefixtures("quick")
def test_a_disk_that_fails(
    tmp_path: Path, figure: Callable[[str, int], None], name: str, operation: Any, code: int
) -> None:
    """The repository's or the mirror's, once or for good: errors of ours alone; then the same command ends."""
    flow = FLOWS[name]
    before = flow.scene(Mirrors(tmp_path / "before"), open_storage(str(tmp_path / "repository")))
    fired = 0
    for at in [1, 4, 10] if SCALE == 1 else range(1, 30 * SCALE):
        scene = before.again()
        _ = scene.reader, scene.author
        with failing_disk(operation, tmp_path, code=code, at=at, times=None if at % 2 else 1) as disk:
            problems = happened(flow, scene, scene.storage)
        assert disk.fired or not problems
        fired += len(disk.fired)
        judge(flow, scene)
        if not disk.fired:
            break
    assert fired
    figure("failures of local disks", fired)
