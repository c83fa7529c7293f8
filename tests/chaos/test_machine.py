"""Two mirrors and a maintainer do anything in any order, and die anywhere; a dict knows what must be found.

Drops are left out: they lose rows on purpose.
"""

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from cas_cache.repository import Repository, Storage, interface
from cas_cache.repository.compact import compact
from cas_cache.repository.prune import prune
from cas_cache.testing import MemoryStorage
from chaos.faults import DAY, Deadly, Died, InOrder, World
from chaos.scenes import ALL, DEATHS, SPECS, Mirrors, assert_has, found_by, kinds_of, pulled
from repository.storages import Machine

deaths = st.none() | st.tuples(st.integers(1, 30), st.booleans())
"""The operation at which who acts dies, and whether that takes effect; None: it lives."""


class Everybody(RuleBasedStateMachine):
    """Mirrors at one repository, and what was acknowledged."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = pytest.MonkeyPatch()
        self.patches.setattr(interface, "ThreadPoolExecutor", InOrder)
        self.patches.setattr(os, "fsync", lambda _: None)
        self.world = World(self.patches)
        self.folder = Path(tempfile.mkdtemp(prefix="cas-cache-test-"))
        self.mirrors = Mirrors(self.folder)
        self.memory = MemoryStorage()
        self.directories = [self.mirrors.new(), self.mirrors.new()]
        self.known: list[set[str]] = [set(), set()]

    def teardown(self) -> None:
        """Nobody dies any more: everything is pushed, merged and pruned, and found by a new mirror."""
        try:
            for who in (0, 1):
                self.push(who, None)
            compact(Repository(self.memory), at_least=2)
            assert kinds_of(self.memory) <= DEATHS
            prune(Repository(self.memory), grace=0, force=True)
            assert kinds_of(self.memory) <= {"duplicate-keys"}
            everything = [[text for text in ALL if text in some] for some in self.known]
            assert pulled(self.mirrors.new(), self.memory) == everything
        finally:
            self.patches.undo()
            shutil.rmtree(self.folder)

    def dying(self, death: tuple[int, bool] | None) -> Storage:
        return self.memory if death is None else Deadly(self.memory, death[0], after=death[1])

    @initialize(starts=st.lists(st.integers(0, 18), min_size=6, max_size=6))
    def begin(self, starts: list[int]) -> None:
        for turn, start in enumerate(starts):
            self.publish(turn % 2, turn % 3 // 2, start, None)

    @rule(who=st.integers(0, 1), which=st.integers(0, 1), start=st.integers(0, 18), count=st.integers(1, 4))
    def encode(self, who: int, which: int, start: int, count: int) -> None:
        Machine(self.directories[who], self.memory).encode(ALL[start : start + count], SPECS[which])

    @rule(who=st.integers(0, 1), which=st.integers(0, 1), start=st.integers(0, 18), death=deaths)
    def publish(self, who: int, which: int, start: int, death: tuple[int, bool] | None) -> None:
        self.encode(who, which, start, 2)
        self.push(who, death)

    def push(self, who: int, death: tuple[int, bool] | None) -> None:
        machine = Machine(self.directories[who], self.dying(death))
        try:
            assert machine.push().problems == []
        except Died:
            return
        for some, mine in zip(self.known, found_by(machine), strict=True):
            some.update(mine)

    @rule(who=st.integers(0, 1), death=deaths)
    def pull(self, who: int, death: tuple[int, bool] | None) -> None:
        machine = Machine(self.directories[who], self.dying(death))
        try:
            assert machine.pull().problems == []
        except Died:
            found_by(machine)
        else:
            assert_has(found_by(machine), [list(some) for some in self.known])

    @rule(at_least=st.integers(2, 3), death=deaths)
    def compact(self, at_least: int, death: tuple[int, bool] | None) -> None:
        with suppress(Died):
            assert compact(Repository(self.dying(death)), at_least=at_least).problems == []

    @rule(days=st.sampled_from([0.0, 2.0, 8.0]), death=deaths)
    def prune(self, days: float, death: tuple[int, bool] | None) -> None:
        self.world.wait(days * DAY)
        with suppress(Died):
            prune(Repository(self.dying(death)))

    @rule(days=st.sampled_from([0.4, 8.0]))
    def time_passes(self, days: float) -> None:
        self.world.wait(days * DAY)

    @rule()
    def look(self) -> None:
        assert kinds_of(self.memory) <= DEATHS
        assert_has(pulled(self.mirrors.new(), self.memory), [list(some) for some in self.known])


TestEverybody = Everybody.TestCase
TestEverybody.settings = settings(
    max_examples=12,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.generate,),  # to shrink a failure takes minutes; allow it by hand where it helps
    suppress_health_check=list(HealthCheck),
)
