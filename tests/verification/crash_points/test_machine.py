"""Two clients and a maintainer do anything in any order, and anything goes wrong; a dict knows what must be found.

Rules are what people and storages do: a client dies, fails, stalls for days or has its clock set at the n-th operation;
an object is damaged; a reader lives on an old listing; somebody newer has been there. After each, every vector of both
mirrors is judged. CAS_CACHE_TEST_SCALE makes it so many times as many runs.
"""

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from cas_cache.errors import UnsupportedFormat
from cas_cache.format import layout
from cas_cache.repository import Repository, pack
from cas_cache.repository.pruning import storage_time
from cas_cache.storage import threads
from crash_points.actions import Fault, Frozen
from crash_points.clients import ACTS, Team
from crash_points.mutants import greedy_merge, no_hashes, no_haste
from fault_injection import DAY, InOrder, World
from repository_fixtures import ALL, Mirrors, assert_has, found_by
from scale import SCALE
from storages import Machine

GRACE_DAYS = 7

RUNS = 8
"""Of up to 40 steps each."""

ats = st.integers(1, 20)
acts = st.lists(st.sampled_from(sorted(ACTS)), min_size=1, max_size=5).map(tuple)
slept = st.sampled_from([("ten days", "prune"), ("compact", "ten days", "prune"), ("half a day",)])
faults = st.one_of(
    st.none(),
    st.builds(Fault, at=ats, kind=st.sampled_from(["dies", "fails"]), after=st.booleans()),
    st.builds(Fault, at=ats, kind=st.just("stalls"), acts=acts | slept),
    st.builds(Fault, at=ats, kind=st.just("skews"), days=st.sampled_from([-10.0, 10.0])),
)
clients, namespaces, starts = st.integers(0, 1), st.integers(0, 1), st.integers(0, 17)
numbers = st.integers(0, 10**6)


class Everybody(RuleBasedStateMachine):
    """A `Team`, and who lives on an old listing."""

    done: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.patches = pytest.MonkeyPatch()
        self.patches.setattr(threads, "pool", InOrder)
        self.patches.setattr(os, "fsync", lambda _: None)
        # A merge has several chunks of keys and of vectors.
        self.patches.setattr(pack, "CHUNK_BYTES", 96)
        self.folder = Path(tempfile.mkdtemp(prefix="cas-cache-test-"))
        self.team = Team(World(self.patches), Mirrors(self.folder))
        self.old: tuple[Frozen, float, list[list[str]]] | None = None
        self.done["runs"] += 1

    def teardown(self) -> None:
        """Everything is pushed, merged and pruned, and found by a new mirror; nothing else is left."""
        try:
            self.team.finish()
            self.done["told"] += self.team.told
        finally:
            self.patches.undo()
            shutil.rmtree(self.folder)

    def note(self, name: str) -> None:
        self.done["steps"] += 1
        self.done[name] += 1

    @initialize(first=st.lists(starts, min_size=6, max_size=6))
    def begin(self, first: list[int]) -> None:
        for turn, start in enumerate(first):
            self.team.encode(turn % 2, turn % 3 // 2, ALL[start : start + 2])
            self.team.push(turn % 2)

    @rule(who=clients, which=namespaces, start=starts, count=st.integers(1, 4))
    def encode(self, who: int, which: int, start: int, count: int) -> None:
        self.note("encode")
        self.team.encode(who, which, ALL[start : start + count])

    @rule(who=clients, which=namespaces, start=starts, count=st.integers(1, 6), fault=faults)
    def ask(self, who: int, which: int, start: int, count: int, fault: Fault | None) -> None:
        self.note("ask")
        self.team.ask(who, which, ALL[start : start + count], fault)

    @rule(who=clients, which=namespaces, start=starts, fault=faults)
    def publish(self, who: int, which: int, start: int, fault: Fault | None) -> None:
        self.note("publish")
        self.team.encode(who, which, ALL[start : start + 2])
        self.team.push(who, fault)

    @rule(who=clients, fault=faults)
    def pull(self, who: int, fault: Fault | None) -> None:
        self.note("pull")
        self.team.pull(who, fault)

    @rule(which=namespaces, start=starts, fault=faults)
    def pull_lazily(self, which: int, start: int, fault: Fault | None) -> None:
        self.note("pull lazily")
        self.team.pull_lazily(which, ALL[start : start + 5], fault)

    @rule(at_least=st.integers(2, 3), fault=faults)
    def compact(self, at_least: int, fault: Fault | None) -> None:
        self.note("compact")
        self.team.compact(fault, at_least)

    @rule(days=st.sampled_from([0.0, 2.0, 8.0]), fault=faults)
    def prune(self, days: float, fault: Fault | None) -> None:
        self.note("prune")
        self.team.world.wait(days * DAY)
        self.team.prune(fault)

    @rule(days=st.sampled_from([0.4, 8.0]))
    def time_passes(self, days: float) -> None:
        self.note("time passes")
        self.team.world.wait(days * DAY)

    @rule(days=st.sampled_from([-10.0, 10.0]))
    def storage_jumps(self, days: float) -> None:
        """The storage's clock is set while nobody is at work; an old reader cannot know how long it has."""
        self.note("storage jumps")
        self.team.memory.ahead += days * DAY
        self.old = None

    @rule(who=clients)
    def reopen(self, who: int) -> None:
        self.note("reopen")
        self.team.reopen(who)

    @rule(who=clients, part=st.sampled_from([0.0, 0.5]))
    def evict(self, who: int, part: float) -> None:
        self.note("evict")
        self.team.evict(who, part)

    @rule(which=namespaces)
    def drop(self, which: int) -> None:
        self.note("drop")
        self.team.drop(which)
        self.old = None

    @rule()
    def an_old_reader(self) -> None:
        """It lists, and when it is next met it reads: within the grace period nothing of what it listed is gone."""
        if self.old is None:
            self.note("old reader lists")
            known = [sorted(some) for some in self.team.known]
            self.old = Frozen(self.team.memory), storage_time(Repository(self.team.memory)), known
            return
        (storage, since, due), self.old = self.old, None
        reader = Machine(self.team.mirrors.new(), storage)
        problems = reader.pull().problems
        found = found_by(reader)
        in_time = storage_time(Repository(self.team.memory)) - since < GRACE_DAYS * DAY
        self.note(f"old reader reads {'in time' if in_time else 'late'}")
        if in_time:
            assert problems == []
            assert_has(found, due)

    @rule(
        which=numbers,
        how=st.sampled_from(["flip", "flip", "cut", "remove"]),
        at=st.integers(0, 10**6),
        meanwhile=acts,
    )
    def damage(self, which: int, how: str, at: int, meanwhile: tuple[str, ...]) -> None:
        """Any object that something names; nothing proves the id in the marker, so no byte of that one is flipped."""
        packs = {pack for _, pack in Repository(self.team.memory).packs()}
        paths = [it for it in sorted(self.team.memory.objects) if _is_named(it, packs)]
        path = paths[which % len(paths)]
        if path == layout.MARKER and how == "flip":
            how = "cut"
        if how == "remove" and path.startswith(layout.MANIFESTS):
            # Without its manifest a pack is an orphan, and is pruned as one.
            meanwhile = tuple(it for it in meanwhile if it != "prune")
        self.note(f"{how} {path.split('/')[0]}")
        self.team.damage(path, how, at, meanwhile)
        self.done["damages found"] += 1
        self.team.sound()

    @rule(reader=st.booleans(), meanwhile=acts)
    def an_unknown_feature(self, reader: bool, meanwhile: tuple[str, ...]) -> None:
        """Readers refuse, or writers do and readers read; nothing is written; without it all is as before."""
        self.note("unknown feature")
        said = self.team.mark("reader_features" if reader else "writer_features", meanwhile)
        assert said[0] is (UnsupportedFormat if reader else None)
        assert set(said[1:]) <= {UnsupportedFormat, None}
        assert said[2:] == [UnsupportedFormat] * 2
        self.team.sound()

    @rule(which=numbers, meanwhile=acts)
    def a_newer_pack(self, which: int, meanwhile: tuple[str, ...]) -> None:
        """Everybody passes it over, and nobody deletes it."""
        packs = Repository(self.team.memory).packs()
        if packs:
            self.note("newer pack")
            reader = self.team.add_newer(packs[which % len(packs)], meanwhile)
            assert_has(found_by(reader), [list(some) for some in self.team.known])
            self.team.sound()

    @rule()
    def look(self) -> None:
        self.note("look")
        self.team.sound()


def _is_named(path: str, packs: set[str]) -> bool:
    of = layout.parse_object_path(path)
    return of[0] in packs if of else not layout.is_probe_path(path)


def runs(count: int) -> settings:
    """Settings for so many runs."""
    return settings(
        max_examples=count,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate,),  # to shrink a failure takes minutes; allow it by hand where it helps
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.verify
def test_everybody(figure: Callable[[str, int], None]) -> None:
    """Whatever happens in whichever order: no vector is wrong, nothing acknowledged is lost, every damage is found."""
    Everybody.done.clear()
    run_state_machine_as_test(Everybody, settings=runs(RUNS * SCALE))
    done = Everybody.done
    figure("state machine runs", done["runs"])
    figure("state machine steps", done["steps"])
    figure("damages found", done["damages found"])


@pytest.mark.verify
@pytest.mark.parametrize("breaks", [no_haste, no_hashes, greedy_merge])
def test_the_machine_notices(figure: Callable[[str, int], None], breaks: Callable[[pytest.MonkeyPatch], None]) -> None:
    """A protection taken away shows, mostly within the runs of CI."""

    class Broken(Everybody):
        def __init__(self) -> None:
            super().__init__()
            breaks(self.patches)

    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever notices
        run_state_machine_as_test(Broken, settings=runs(6 * RUNS))
    figure("mutants found by the state machine", 1)
