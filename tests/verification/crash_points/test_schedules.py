"""Several at one repository, interleaved at every storage operation: whoever goes on when, nothing is lost or wrong.

Each seed is a schedule. One that fails is told as a command that lives through it again, with as few switches as were
found::

    python tests/verification/crash_points/test_schedules.py --play everybody --seed 17
    python tests/verification/crash_points/test_schedules.py --play everybody --schedule 0x17,2x40,0
    python tests/verification/crash_points/test_schedules.py --seeds 5000            # of each play, from 0 on

CAS_CACHE_TEST_SCALE makes it so many times as many schedules.
"""

import argparse
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / "support")]

from crash_points.mutants import MUTANTS
from crash_points.scenarios import PLAYS
from crash_points.scheduler import Given, Scheduler, Stuck, parsed, shrunk, told
from crash_points.schedules import Theatre, explored, story
from scale import SCALE
from storages import Memory
from tiers import sampled

SEEDS = 10 * SCALE
"""Schedules of each play."""

MAX_SEEDS = 40
"""Within so many schedules each mutant is found; most are within 5."""

Figure = Callable[[str, int], None]


@pytest.mark.verify
@pytest.mark.parametrize("name", sampled(PLAYS, keep={"two compactions"}))
def test_every_schedule_is_right(tmp_path: Path, figure: Figure, name: str) -> None:
    """Every vector is right, what was acknowledged is found, checks report no loss, and everybody finishes."""
    with Theatre(name, tmp_path) as theatre:
        run = explored(theatre, range(SEEDS))
        if run.outcome is not None:
            pytest.fail(f"seed {run.seed}: {story(theatre, run.outcome)}")
        figure("schedules explored", run.runs)
        figure("distinct schedules", run.distinct)
        figure("steps of schedules", run.steps)
        assert run.distinct > 0.9 * run.runs


@pytest.mark.parametrize("mutant", sampled(MUTANTS, keep={"manifest first"}))
def test_every_mutant_is_found(tmp_path: Path, figure: Figure, mutant: str) -> None:
    """A protection taken away shows within the schedules of CI, and again in each replay of the one that failed."""
    with Theatre(MUTANTS[mutant][0], tmp_path, mutant) as theatre:
        outcome = explored(theatre, range(MAX_SEEDS)).outcome
        assert outcome is not None, f"nobody notices: {mutant}"
        assert outcome.failure is not None
        again = theatre.replay(parsed(told(outcome.choices)))
        assert again.log == outcome.log
        assert type(again.failure) is type(outcome.failure)
        figure("mutants found by schedules", 1)


@pytest.mark.verify
def test_a_failure_is_told_with_few_switches(tmp_path: Path) -> None:
    """Of a schedule of a hundred switches a few are left; the command that is printed fails again."""
    with Theatre("everybody", tmp_path, "manifest first") as theatre:
        outcome = theatre.of_seed(0)
        assert outcome.failure is not None
        least = theatre.shrunk(outcome)
        assert outcome.switches > 20
        assert theatre.replay(least).switches < 4
        text = story(theatre, outcome)
        schedule = text.split("--schedule ")[1].split()[0]
        assert theatre.replay(parsed(schedule)).failure is not None
        assert "test_schedules.py --mutant 'manifest first'" in text


def test_a_schedule_is_told_and_read() -> None:
    """As a word, deaths included."""
    schedule = (0, 0, 0, 1, ~2, 0, 1, 1)
    assert told(schedule) == "0x3,1,~2,0,1x2"
    assert parsed(told(schedule)) == schedule
    assert parsed("") == ()


def test_shrinking_drops_what_does_not_matter() -> None:
    """Of what fails if 2 goes on before 1 does, 2 alone is left."""

    def failing(schedule: tuple[int, ...]) -> tuple[int, ...] | None:
        order = [it for it in schedule if it in {1, 2}]
        return schedule if order[:1] == [2] else None

    assert len(shrunk((0, 2, 0, 0, 1, 0, 2, 2, 1, ~3), failing)) <= 2


def test_who_waits_for_each_other_is_noticed() -> None:
    """Two that take two locks in different orders: nobody can go on, and both stacks are told."""
    scheduler, held = Scheduler(), set[str]()

    def takes(*names: str) -> Callable[[], None]:
        def body() -> None:
            for name in names:
                scheduler.step(f"take {name}")
                while name in held:
                    scheduler.wait(f"wait for {name}")
                held.add(name)
            held.difference_update(names)
            scheduler.let_go()

        return body

    scheduler.add("one", takes("a", "b"))
    scheduler.add("other", takes("b", "a"))
    with pytest.raises(Stuck, match=r"(?s)--- one, at wait for b.*--- other, at wait for a"):
        scheduler.run(Given((0, 0, 1, 1, 0, 1)))


def test_one_at_a_time_until_it_is_killed() -> None:
    """Clients alternate as they are told, at each storage operation; who is killed does not do what it was about to."""
    scheduler, memory = Scheduler(), Memory()
    running: list[int] = []

    def body(number: int) -> None:
        storage = scheduler.storage(memory)
        for turn in range(3):
            storage.put(f"{number}/{turn}", b"")
            running.append(number)
            assert threading.current_thread().name == str(number)

    for number in (0, 1):
        scheduler.add(str(number), lambda number=number: body(number))
    scheduler.run(Given((0, 1, 0, 1, 1, ~0, 1)))
    assert running == [0, 1, 1, 1]
    assert sorted(memory.objects) == ["0/0", "1/0", "1/1", "1/2"]
    assert scheduler.choices[:6] == [0, 1, 0, 1, 1, ~0]


def main() -> None:
    """Explore, or live through one schedule again."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--play", choices=PLAYS, help="which; all of them otherwise")
    parser.add_argument("--mutant", choices=MUTANTS, help="without one of the protections, in its play")
    parser.add_argument("--seed", type=int, help="the schedule of this seed")
    parser.add_argument("--schedule", help="a schedule as it was told")
    parser.add_argument("--seeds", type=int, default=1000, help="otherwise: how many of each play")
    parser.add_argument("--first", type=int, default=0, help="from this one on")
    given = parser.parse_args()
    play = MUTANTS[given.mutant][0] if given.mutant else given.play
    failed = False
    for name in [play] if play else PLAYS:
        with tempfile.TemporaryDirectory() as folder, Theatre(name, Path(folder), given.mutant) as theatre:
            if given.schedule is not None:
                outcomes = [theatre.replay(parsed(given.schedule))]
            elif given.seed is not None:
                outcomes = [theatre.of_seed(given.seed)]
            else:
                run = explored(theatre, range(given.first, given.first + given.seeds))
                print(f"{name}: {run.runs} schedules, {run.distinct} distinct, {run.steps} steps", flush=True)
                outcomes = [run.outcome] if run.outcome else []
                if run.outcome:
                    print(f"seed {run.seed}")
            for outcome in outcomes:
                failed |= outcome.failure is not None
                print(story(theatre, outcome) if outcome.failure else "nothing fails")
    sys.exit(failed)


if __name__ == "__main__":
    main()
