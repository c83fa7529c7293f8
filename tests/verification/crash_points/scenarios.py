"""Who meets at a repository in a schedule, and what each of them makes sure of.

Adds to `scheduler` what the clients do: `Stage` has a method for each of them, and `PLAYS` are who takes part together.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cas_cache import sync
from cas_cache.errors import IncompleteListing, RepositoryError
from cas_cache.identity import keys_of_texts
from cas_cache.repository import Repository
from cas_cache.repository.check_report import Severity
from cas_cache.repository.checking import check
from cas_cache.repository.compacting import compact
from cas_cache.repository.dropping import drop
from cas_cache.repository.pruning import prune
from cas_cache.storage import Storage
from cas_cache.testing import MemoryStorage
from crash_points.scheduler import Scheduler
from fault_injection import DAY, HOUR, World
from repository_fixtures import ALL, SPECS, Mirrors, Scene, assert_has, found_by
from storages import SPEC, Machine

IDLE_STEPS = 6
"""Of the clock, before each time that it moves."""


@dataclass
class Stage:
    """One run of a play.

    Attributes:
        scene: What is there at the beginning: a copy.
        world: Whose time it is.
        scheduler: Who chooses.
        known: What was acknowledged, for each of `SPECS`; grows.
        authors: Directories from which something is pushed.
        mortals: Numbers of the clients that may die.
        told: How many writers were told that they took too long.
        doubts: What pulls, checks and prunes noticed that only such a writer may cause.
    """

    scene: Scene
    world: World
    scheduler: Scheduler
    known: list[set[str]]
    authors: list[Path] = field(default_factory=list)
    mortals: list[int] = field(default_factory=list)
    told: int = 0
    doubts: list[str] = field(default_factory=list)

    @property
    def storage(self) -> Storage:
        """The repository, each operation a step."""
        return self.scheduler.storage(self.scene.storage)

    def new_mirror(self, *batches: tuple[int, int, int]) -> Path:
        """Return a mirror that has texts to push: (which of `SPECS`, first, last + 1) of `ALL`."""
        directory = self.scene.mirrors.new()
        machine = Machine(directory, self.scene.storage)
        for which, start, stop in batches:
            machine.encode(ALL[start:stop], SPECS[which])
        return directory

    def due(self) -> list[list[str]]:
        """What was acknowledged until now."""
        return [sorted(some) for some in self.known]

    def _add(self, name: str, body: Callable[[], Any], *, mortal: bool = True) -> None:
        client = self.scheduler.add(name, body)
        if mortal:
            self.mortals.append(client.number)

    # What they do

    def pushes(self, name: str, directory: Path, *, before: Callable[[Machine], object] | None = None) -> None:
        """Somebody pushes; what is in no pack only waits, all else of the mirror is acknowledged then."""
        if directory not in self.authors:
            self.authors.append(directory)

        def body() -> None:
            machine = Machine(directory, self.storage)
            if before is not None:
                before(machine)
            with self._may_be_told():
                assert machine.push().problems == []
                for some, mine in zip(self.known, published(machine), strict=True):
                    some.update(mine)

        self._add(name, body)

    def pulls(self, name: str, directory: Path, *, dropped: bool = False) -> None:
        """Somebody pulls all there is: what was acknowledged before is found, unless its namespace was dropped."""

        def body() -> None:
            due, machine = self.due(), Machine(directory, self.storage)
            problems = machine.pull().problems
            if dropped:
                # A push that began before the drop ends with packs whose spec has gone: the next push writes it.
                due[0] = []
                assert all(isinstance(it, IncompleteListing) or str(it).startswith("specs/") for it in problems)
            else:
                self.doubts += map(str, problems)
            assert_has(found_by(machine), due)

        self._add(name, body)

    def pulls_lazily(self, name: str, directory: Path) -> None:
        """Somebody pulls keys, then vectors of half of what was acknowledged before, then the others: all are found."""

        def body() -> None:
            due, machine = self.due(), Machine(directory, self.storage)
            self.doubts += map(str, sync.pull_keys(machine.mirror, machine.repository).problems)
            for first in (0, 1):
                for spec, some in zip(SPECS, due, strict=True):
                    half, ns = some[first::2], machine.mirror.get(spec.namespace)
                    if half and ns is not None:
                        keys = keys_of_texts(half)
                        report = sync.pull_rows(machine.mirror, machine.repository, spec.namespace, keys)
                        self.doubts += map(str, report.problems)
            assert_has(found_by(machine), due)

        self._add(name, body)

    def compacts(self, name: str) -> None:
        def body() -> None:
            with self._may_be_told():
                assert compact(Repository(self.storage), at_least=2).problems == []

        self._add(name, body)

    def prunes(self, name: str, times: int = 1, **options: Any) -> None:
        def body() -> None:
            repository = Repository(self.storage)
            for _ in range(times):
                try:
                    prune(repository, **options)
                except IncompleteListing as err:
                    self.doubts.append(str(err))

        self._add(name, body)

    def drops(self, name: str) -> None:
        self._add(name, lambda: drop(Repository(self.storage), SPEC.namespace, force=True))

    def checks(self, name: str) -> None:
        """Somebody checks all data: others at work are no damage."""

        def body() -> None:
            report = check(Repository(self.storage), read_data=True)
            self.doubts += [str(it) for it in report.findings if it.severity == Severity.LOSS]

        self._add(name, body)

    def time_passes(self, *hours: float) -> None:
        def body() -> None:
            for some in hours:
                # Where all are as likely to go on, the clock is not the first at its end.
                for _ in range(IDLE_STEPS):
                    self.scheduler.step("no time passes")
                self.scheduler.step(f"{some} hours pass")
                self.world.wait(some * HOUR)

        self._add("clock", body, mortal=False)

    @contextmanager
    def _may_be_told(self) -> Iterator[None]:
        try:
            yield
        except RepositoryError as err:
            if "took more than 12 hours" not in str(err):
                raise
            self.told += 1


def published(machine: Machine) -> list[list[str]]:
    """Return the texts, for each of `SPECS`, whose rows are in a pack; every row of the mirror is judged."""
    found = found_by(machine)
    waiting: list[set[str]] = []
    for spec, some in zip(SPECS, found, strict=True):
        ns = machine.mirror.get(spec.namespace)
        extents = [] if ns is None else ns.table.state.waiting
        rows = [] if ns is None else ns.find(keys_of_texts(some)).tolist()
        runs = [range(it.start, it.stop) for it in extents]
        waiting.append({text for text, row in zip(some, rows, strict=True) if any(row in run for run in runs)})
    return [[text for text in some if text not in wait] for some, wait in zip(found, waiting, strict=True)]


# Plays ---------------------------------------------------------------------------------------------------------------


def crowded(mirrors: Mirrors, world: World) -> Scene:
    """Return a scene with small packs to merge, merged ones to prune, and an author who has more to push.

    A namespace has three rows in a merge and two packs of its sources, old enough to go, and two young packs.
    """
    storage = MemoryStorage()
    made = Scene(mirrors, storage, mirrors.new(), mirrors.new())
    author = Machine(made.author, storage)
    for turn, start in enumerate((0, 1, 4, 6)):
        for spec in SPECS[: 2 - turn % 2]:
            author.encode(ALL[start : start + 2], spec)
        assert author.push().packs == 2 - turn % 2
        if turn == 1:
            compact(Repository(storage), at_least=2)
            world.wait(8 * DAY)
    reader = Machine(made.reader, storage)
    reader.pull()
    made.known = found_by(reader)
    author.encode(ALL[12:14], SPECS[0])
    author.encode(ALL[12:13], SPECS[1])
    return made


def bare(mirrors: Mirrors, world: World) -> Scene:
    """Return a scene without a repository."""
    made = Scene(mirrors, MemoryStorage(), mirrors.new(), mirrors.new())
    Machine(made.author, made.storage).encode(ALL[:2], SPEC)
    Machine(made.reader, made.storage)
    return made


@dataclass(frozen=True)
class Play:
    """Who takes part.

    Attributes:
        cast: Lets them take part.
        scene: Makes what is there.
        sleeps: Whether so much time may pass that writers are told, and others notice.
        locks: Whether mirrors' locks and commits are steps.
        drops: Whether a namespace may go.
    """

    cast: Callable[[Stage], None]
    scene: Callable[[Mirrors, World], Scene] = crowded
    sleeps: bool = False
    locks: bool = False
    drops: bool = False


def everybody(stage: Stage) -> None:
    stage.pushes("author", stage.scene.author)
    stage.pushes("another author", stage.new_mirror((0, 12, 15)))
    stage.compacts("compactor")
    stage.prunes("pruner")
    stage.pulls("reader", stage.scene.reader)


def everybody_and_time(stage: Stage) -> None:
    everybody(stage)
    stage.time_passes(11, 24 * 8)


def mergers(stage: Stage) -> None:
    stage.compacts("compactor")
    stage.compacts("another compactor")
    stage.pulls("reader", stage.scene.mirrors.new())
    stage.checks("checker")


def dropping(stage: Stage) -> None:
    stage.pushes("author", stage.scene.author)
    stage.drops("dropper")
    stage.compacts("compactor")
    stage.pulls("reader", stage.scene.mirrors.new(), dropped=True)


def beginners(stage: Stage) -> None:
    stage.pushes("author", stage.scene.author)
    stage.pushes("another author", stage.new_mirror((0, 1, 3), (1, 1, 2)))
    stage.pushes("third author", stage.new_mirror((0, 0, 2)))
    stage.pulls("reader", stage.scene.reader)


def roommates(stage: Stage) -> None:
    """Three processes at one mirror, each with a `Mirror` of its own: two encode and push, one pulls."""
    directory = stage.scene.author
    for number, name in enumerate(("process", "another process")):
        texts = ALL[13 + number : 15 + number]
        stage.pushes(name, directory, before=lambda machine, texts=texts: machine.encode(texts, SPEC))
    stage.pulls("third process", directory)
    stage.compacts("compactor")


def lazy_reading(stage: Stage) -> None:
    stage.pulls_lazily("lazy reader", stage.scene.mirrors.new())
    stage.pulls("reader", stage.scene.mirrors.new())

    def maintains() -> None:
        compact(Repository(stage.storage), at_least=2)
        prune(Repository(stage.storage), grace=0, force=True)

    stage._add("maintainer", maintains)


def sleepers(stage: Stage) -> None:
    stage.pushes("author", stage.scene.author)
    stage.pushes("author again", stage.scene.author)
    stage.prunes("pruner", times=2, grace=DAY)
    stage.time_passes(11.9, 0.2, 12, 24 * 7)


PLAYS = {
    "everybody": Play(everybody),
    "everybody, and days": Play(everybody_and_time, sleeps=True),
    "two compactions": Play(mergers),
    "push and drop": Play(dropping, drops=True),
    "first pushes": Play(beginners, bare),
    "one mirror": Play(roommates, locks=True),
    "lazy reader": Play(lazy_reading),
    "sleepers": Play(sleepers, sleeps=True, locks=True),
}
