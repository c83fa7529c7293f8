"""Every flow is cut short at every storage operation: nothing acknowledged is lost, and the same command finishes.

A process dies at its n-th operation, before or after its effect, for n = 1, 2, ... until it ends without; or it lives
on with an error; or it really is killed. What it leaves is judged by others, then the same command runs again.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cas_cache.errors import RemoteUnavailable
from cas_cache.repository import pack
from cas_cache.storage import open_storage, threads
from cas_cache.testing import MemoryStorage
from cas_cache.testing.processes import in_process
from crash_points.crash_flows import STORAGE_FLOWS
from crash_points.killed import killed_everywhere
from fault_injection import Deadly, Died, Failing, InOrder, World, points
from repository_fixtures import FLOWS, Mirrors
from tiers import sampled

CHUNK_BYTES = 96
"""A merge has several chunks of keys and of vectors."""


@pytest.fixture(autouse=True)
def _one_thing_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the n-th operation the same in every run, chunks small, and mirrors quick."""
    monkeypatch.setattr(threads, "pool", InOrder)
    monkeypatch.setattr(pack, "CHUNK_BYTES", CHUNK_BYTES)
    # Nobody pulls the plug here, and this is most of the time that a mirror takes.
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.mark.verify
@pytest.mark.parametrize("flow", sampled(STORAGE_FLOWS, keep={"push"}))
def test_a_flow_cut_short_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: Callable[[str, int], None], flow: str
) -> None:
    """At every operation, before and after it: nothing acknowledged is lost, and the same command finishes."""
    world = World(monkeypatch)
    happens = STORAGE_FLOWS[flow]
    before = happens.scene(Mirrors(tmp_path), MemoryStorage())
    seen = set()
    crash_points = 0
    for faulty in (Deadly, Failing):
        for at, after in points():
            world.again()
            scene = before.again()
            storage = faulty(scene.storage, at, after=after)
            try:
                happens.happens(scene, storage)
                assert not storage.reached, f"nobody heard of an error at {storage.met}"
            except (Died, RemoteUnavailable):
                assert storage.reached
            # What is left after one operation is often what is left before the next.
            if scene.state() not in seen:
                seen.add(scene.state())
                happens.judge(scene)
                happens.finishes(scene)
            if not storage.reached:
                break
            crash_points += 1
        assert at > 12
    assert len(seen) > 3
    figure("crash points of storage operations", crash_points)
    figure("states judged", len(seen))


@pytest.mark.verify
# A push notes in its mirror what it has done, so before an operation is not the same as after the one before it.
@pytest.mark.parametrize(("flow", "afters"), [("push", (False, True)), ("compact", (False,))], ids=["push", "compact"])
def test_a_process_killed_anywhere(
    tmp_path: Path, figure: Callable[[str, int], None], flow: str, afters: tuple[bool, ...]
) -> None:
    """With SIGKILL, at every operation: the files of a local repository are as whole as objects in memory."""
    url = str(tmp_path / "repository")
    scene = FLOWS[flow].scene(Mirrors(tmp_path / "before"), open_storage(url))
    told = (tmp_path / "after", url, scene.author, scene.reader, scene.known)
    last = in_process("spawn", killed_everywhere, flow, afters, CHUNK_BYTES, told)
    assert last > 12
    figure("processes killed at a crash point", (last - 1) * len(afters))
