"""Many processes at one repository, some of them killed: acknowledged rows are found by every later pull, bit for bit.

See `worker_processes` for what they do and for who judges.
"""

import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from cas_cache.repository import Repository
from cas_cache.repository.compacting import compact
from cas_cache.repository.pruning import prune
from cas_cache.storage import open_storage
from repository_fixtures import NOTES, Mirrors, kinds_of, pulled
from worker_processes import PATIENCE, SPECS, Crowd, Job, Verdict, batch, judge, merge, read, sweep, universe, write

WRITERS, KILLED_WRITERS = 8, 4

KILLS = 40
"""Processes that are killed, and started again, before all may end by themselves."""


@pytest.mark.parametrize("what", ["nothing", "lost", "wrong"])
def test_the_judge_can_condemn(what: str) -> None:
    """A row that was acknowledged or seen, and that a later pull has not, is lost; one that came meanwhile is not."""
    events: list[dict[str, Any]] = [
        {"at": 2.0, "known": [["a"], []]},
        {"began": 1.0, "at": 3.0, "known": [[], ["b"]], "wrong": [0, 0], "problems": []},
        {"began": 4.0, "at": 5.0, "known": [["a"], ["b"]], "wrong": [0, 0], "problems": []},
    ]
    if what == "lost":
        events[2]["known"] = [[], []]
    if what == "wrong":
        events[2]["wrong"] = [1, 0]
    verdict = judge(events)
    assert len(verdict.lost) == (2 if what == "lost" else 0)
    assert verdict.wrong == (what == "wrong")
    assert (verdict.judged, verdict.pulls) == (2, 1)


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.localstack)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, Any], int]:
    """Return URL and options of an empty place, and how many rounds are enough there."""
    if request.param == "local":
        return str(tmp_path / "repository"), {}, 6
    remote = request.getfixturevalue("s3_remote")
    return remote.url, remote.storage_options, 3


@pytest.mark.verify
def test_eight_writers_two_compactors_and_a_reader(place: tuple[str, dict[str, Any], int], tmp_path: Path) -> None:
    """No pull misses what was acknowledged before it began, none has a wrong vector, and nothing but notes remains."""
    url, options, rounds = place
    folder = tmp_path / "work"
    folder.mkdir()
    writers = [Job(url, options, folder, f"writer {i}", i, rounds) for i in range(WRITERS)]
    mergers = [Job(url, options, folder, f"merger {i}", at_least=(2, 4)[i]) for i in range(2)]
    reader = Job(url, options, folder, "reader", WRITERS, rounds)
    sweeper = Job(url, options, folder, "sweeper")
    jobs = [*writers, *mergers, reader, sweeper]
    with Crowd() as crowd:
        writing = [crowd.start(write, job) for job in writers]
        others = [*(crowd.start(merge, job) for job in mergers), crowd.start(read, reader), crowd.start(sweep, sweeper)]
        # Nobody writes the last round before there were merges, and pulls of both kinds that had something to find.
        wait_for_chaos(jobs, [*writing, *others])
        (folder / "last turn").touch()
        crowd.finish(writing)
        (folder / "stop").touch()
        crowd.finish(others)
    assert_upheld(judge(event for job in jobs for event in job.events()))
    storage, mirrors, texts = open_storage(url, options), Mirrors(tmp_path), universe(WRITERS, rounds)
    assert kinds_of(storage) <= NOTES
    assert pulled(mirrors.new(), storage, texts) == wanted(WRITERS, rounds)
    compact(Repository(storage), at_least=2)
    prune(Repository(storage), grace=0, force=True)
    assert kinds_of(storage) <= {"duplicate-keys"}
    assert pulled(mirrors.new(), storage, texts) == wanted(WRITERS, rounds)


@pytest.mark.verify
def test_writers_compactors_and_readers_that_are_killed(tmp_path: Path) -> None:
    """What was acknowledged survives kills at random moments, and the same commands mend what they leave."""
    url, rounds = str(tmp_path / "repository"), 20
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "last turn").touch()
    works = [(write, Job(url, {}, folder, f"writer {i}", i, rounds)) for i in range(KILLED_WRITERS)]
    works += [(merge, Job(url, {}, folder, f"merger {i}", at_least=2)) for i in range(2)]
    works.append((read, Job(url, {}, folder, "reader", KILLED_WRITERS, rounds)))
    works.append((sweep, Job(url, {}, folder, "sweeper")))
    jobs = [job for _, job in works]
    storage = open_storage(url)
    with Crowd() as crowd:
        running = [crowd.start(*work) for work in works]
        deaths = 0
        chance = random.Random(20)
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.02, 0.5))
            victim = chance.randrange(len(works))
            deaths += stop(running[victim], jobs[victim])
            running[victim] = crowd.start(*works[victim])
        for process, job in zip(running, jobs, strict=True):
            stop(process, job)
        assert deaths > KILLS // 2
        assert kinds_of(storage) <= NOTES | {"orphan"}
        # The same commands again, and nobody is killed any more.
        writing = [crowd.start(*work) for work in works[:KILLED_WRITERS]]
        others = [crowd.start(*work) for work in works[KILLED_WRITERS:]]
        crowd.finish(writing)
        (folder / "stop").touch()
        crowd.finish(others)
    assert_upheld(judge(event for job in jobs for event in job.events()))
    mirrors, texts = Mirrors(tmp_path), universe(KILLED_WRITERS, rounds)
    compact(Repository(storage), at_least=2)
    assert compact(Repository(storage), at_least=2, dry_run=True).merges == []
    prune(Repository(storage), grace=0, force=True)
    assert kinds_of(storage) <= {"duplicate-keys"}
    assert pulled(mirrors.new(), storage, texts) == wanted(KILLED_WRITERS, rounds)
    for job in jobs[:KILLED_WRITERS]:
        author = job.machine(storage)
        assert author.push().rows == 0
        assert all(ns.pending_rows == 0 for ns in author.mirror.namespaces())


def wanted(writers: int, rounds: int) -> list[list[str]]:
    """Return what was pushed to each of `SPECS`, in the order of `universe`."""
    pushed = [
        {text for number in range(writers) for turn in range(rounds) for text in batch(number, turn, which)}
        for which in range(len(SPECS))
    ]
    return [[text for text in universe(writers, rounds) if text in some] for some in pushed]


def wait_for_chaos(jobs: list[Job], processes: list[Any]) -> None:
    """Wait until merges were written, and pulls into an old and into a new mirror had rows that they had to find."""
    deadline = time.monotonic() + PATIENCE
    while True:
        events = [event for job in jobs for event in job.events()]
        verdicts = [judge(it for it in events if it.get("new") in {new, None}) for new in (False, True)]
        if all(verdict.pulls and verdict.merges >= 2 for verdict in verdicts):
            return
        for process in processes:
            assert process.exitcode in {None, 0}, f"{process.name} ended with {process.exitcode}"
        assert time.monotonic() < deadline, verdicts
        time.sleep(0.2)


def assert_upheld(verdict: Verdict) -> None:
    assert verdict.lost == []
    assert verdict.wrong == 0
    assert verdict.problems == []
    assert verdict.judged > 0


def stop(process: Any, job: Job) -> bool:
    """Kill a process; whether it was alive. What ended by itself ended well."""
    process.kill()
    process.join()
    assert process.exitcode in {0, -signal.SIGKILL}, job.folder.joinpath(f"{job.name}.error").read_text()
    return process.exitcode != 0
