"""Schedules of plays: each from the same beginning, judged at its end, found again by its seed or its list of choices.

Adds to `scheduler` and `plays`: `Theatre`, the world of one play; `explored`, which runs the schedules of many seeds;
`story`, which tells a failure so that it can be lived through again.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
from filelock import FileLock, Timeout

from cas_cache.files import disk
from cas_cache.mirror import table
from cas_cache.repository import Repository
from cas_cache.repository.compacting import compact
from cas_cache.repository.dropping import drop
from cas_cache.repository.pruning import prune
from cas_cache.storage import threads
from crash_points.mutants import MUTANTS
from crash_points.scenarios import PLAYS, Stage
from crash_points.scheduler import Chooser, Given, Schedule, Scheduler, chooser_of, shrunk, told
from fault_injection import DAY, InOrder, World
from repository_fixtures import ALL, DEATHS, SPECS, Mirrors, assert_has, found_by, kinds_of, pulled
from storages import SPEC, Machine


class Ticking(World):
    """A world whose clock moves by a millisecond when it is looked at, and when it is told to: the same each time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(monkeypatch)
        monkeypatch.setattr("time.time", self._look)

    def _look(self) -> float:
        self._ahead += 0.001
        return 1_800_000_000.0 + self._ahead


# Running and judging -------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What became of one run.

    Attributes:
        choices: Who went on.
        log: And what each was about to do.
        switches: How often somebody had to stop who could have gone on.
        failure: What went wrong.
        folder: The mirrors are below it.
    """

    choices: Schedule
    log: list[tuple[str, str]]
    switches: int
    failure: BaseException | None
    folder: Path


@dataclass
class Explored:
    """What became of the runs of many seeds.

    Attributes:
        runs: How many.
        distinct: How many different schedules they were.
        steps: Of all of them.
        seed: The first that failed, or None.
        outcome: And what became of it.
    """

    runs: int = 0
    distinct: int = 0
    steps: int = 0
    seed: int | None = None
    outcome: Outcome | None = None


class Theatre:
    """Where one play is given again and again.

    Args:
        name: Of the play.
        folder: Where mirrors go.
        mutant: Name of one of `MUTANTS`, which breaks something once the scene was made.
    """

    def __init__(self, name: str, folder: Path, mutant: str | None = None) -> None:
        self.name, self.play, self.mutant = name, PLAYS[name], mutant
        self.patches = pytest.MonkeyPatch()
        self.world = Ticking(self.patches)
        self.patches.setattr(threads, "pool", InOrder)
        self.patches.setattr(os, "fsync", lambda _: None)
        self.scheduler: Scheduler | None = None
        if self.play.locks:
            self._make_locks_steps()
        self.before = self.play.scene(Mirrors(folder), self.world)
        if mutant is not None:
            MUTANTS[mutant][1](self.patches)
        self.world.begin()
        self._right: set[Any] = set()
        plain = self.replay(())
        assert mutant is not None or plain.failure is None, plain.failure
        self.length = len(plain.choices)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.patches.undo()

    def run(self, chooser_for: Callable[[Stage], Chooser]) -> Outcome:
        """Give the play once; who chooses is told who takes part."""
        self.world.again()
        scene = self.before.again()
        scheduler = self.scheduler = Scheduler()
        stage = Stage(scene, self.world, scheduler, [set(some) for some in scene.known])
        self.play.cast(stage)
        failure: BaseException | None = None
        try:
            scheduler.run(chooser_for(stage))
            self._judge(stage)
        except Exception as err:  # noqa: BLE001 - whatever it is: the schedule has found it
            failure = err
        self.scheduler = None
        folder = scene.mirrors.folder
        return Outcome(tuple(scheduler.choices), scheduler.log, scheduler.switches, failure, folder)

    def of_seed(self, seed: int) -> Outcome:
        """Give the play with the schedule of a seed."""
        return self.run(lambda stage: chooser_of(seed, self.length, stage.mortals))

    def replay(self, schedule: Schedule) -> Outcome:
        """Give the play with a schedule that was told; who is not told of goes on as long as it can."""
        return self.run(lambda _: Given(schedule))

    def shrunk(self, outcome: Outcome) -> Schedule:
        """Return a schedule with as few switches as were found that fails with an error of the same kind."""

        def failing(schedule: Schedule) -> Schedule | None:
            found = self.replay(schedule)
            return found.choices if type(found.failure) is type(outcome.failure) else None

        return shrunk(outcome.choices, failing)

    def _judge(self, stage: Stage) -> None:
        """Judge what is left; then everybody finishes, and all there is is found."""
        assert self.play.drops or not stage.doubts or (self.play.sleeps and stage.told), stage.doubts
        state = self._state(stage)
        if state in self._right:
            return
        scene = stage.scene
        if self.play.drops:
            self._judge_drop(stage)
        else:
            kinds, found = scene.judged()
            assert kinds <= DEATHS, kinds
            assert_has(found, stage.due())
            everything = self._finished(stage)
            assert pulled(scene.mirrors.new(), scene.storage) == everything
            assert pulled(scene.reader, scene.storage) == everything
            assert kinds_of(scene.storage) <= {"duplicate-keys"}
        self._right.add(state)

    def _finished(self, stage: Stage) -> list[list[str]]:
        """Let everybody finish; return all that must be there then."""
        storage, everything = stage.scene.storage, [set(some) for some in stage.known]
        for directory in stage.authors:
            author = Machine(directory, storage)
            assert author.push().problems == []
            for some, mine in zip(everything, found_by(author), strict=True):
                some.update(mine)
        compact(Repository(storage), at_least=2)
        self.world.wait(8 * DAY)
        prune(Repository(storage))
        return [[text for text in ALL if text in some] for some in everything]

    def _judge_drop(self, stage: Stage) -> None:
        """The other namespace is whole; of the one that was dropped there is nothing, or right rows of a later push."""
        storage = stage.scene.storage
        assert kinds_of(storage) <= DEATHS | {"spec-missing"}
        reader = Machine(stage.scene.mirrors.new(), storage)
        for spec in SPECS:
            reader.mirror.namespace(spec)
        assert reader.pull().problems == []
        found = found_by(reader)
        assert set(found[1]) >= stage.known[1]
        if Repository(storage).packs(SPEC.namespace):
            drop(Repository(storage), SPEC.namespace, force=True)
        self.world.wait(8 * DAY)
        prune(Repository(storage))
        assert kinds_of(storage) <= {"duplicate-keys", "superseded"}
        assert pulled(stage.scene.mirrors.new(), storage) == [[], found[1]]

    def _state(self, stage: Stage) -> Any:
        """What tells the end of one run from another's, but for times."""
        mirrors = [Machine(directory, stage.scene.storage).mirror for directory in stage.authors]
        states = [(ns.table.state.extents, ns.table.state.complete) for it in mirrors for ns in it.namespaces()]
        known = tuple(frozenset(some) for some in stage.known)
        return frozenset(stage.scene.storage.objects.items()), tuple(states), known

    # Locks and commits of mirrors as steps

    def _make_locks_steps(self) -> None:
        theatre = self

        class Lock(FileLock):  # type: ignore[misc]
            """Never waits in the system: whoever does not get it lets others go on."""

            def acquire(self, *args: Any, **kwargs: Any) -> Any:
                scheduler = theatre.scheduler
                if scheduler is None or not scheduler.takes_part():
                    return super().acquire(*args, **kwargs)
                scheduler.step(f"lock {Path(self.lock_file).parent.name}")
                while True:
                    try:
                        return super().acquire(blocking=False)
                    except Timeout:
                        scheduler.wait(f"waits for {self.lock_file}")

            def release(self, force: bool = False) -> None:
                super().release(force)
                if theatre.scheduler is not None:
                    theatre.scheduler.let_go()

        self.patches.setattr(disk, "FileLock", Lock)
        write_state = table.Table.write_state

        def stepping_commit(self: table.Table, state: Any) -> None:
            if theatre.scheduler is not None:
                theatre.scheduler.step("commit")
            write_state(self, state)

        self.patches.setattr(table.Table, "write_state", stepping_commit)


def explored(theatre: Theatre, seeds: Iterable[int]) -> Explored:
    """Run the schedules of seeds until one fails."""
    explored, seen = Explored(), set[Schedule]()
    for seed in seeds:
        outcome = theatre.of_seed(seed)
        seen.add(outcome.choices)
        explored.runs, explored.distinct = explored.runs + 1, len(seen)
        explored.steps += len(outcome.choices)
        if outcome.failure is not None:
            explored.seed, explored.outcome = seed, outcome
            break
    return explored


def story(theatre: Theatre, outcome: Outcome) -> str:
    """Tell a failure: how to replay it, with how few switches it fails, and what happened then."""
    least = theatre.shrunk(outcome)
    again = theatre.replay(least)
    steps = "\n".join(f"  {name}: {what[:80]}" for name, what in again.log)
    what = f"--mutant '{theatre.mutant}'" if theatre.mutant else f"--play '{theatre.name}'"
    replay = f"python tests/verification/crash_points/test_schedules.py {what} --schedule {told(least)}"
    return f"{type(outcome.failure).__name__}: {outcome.failure}\n{replay}\n{steps}"
