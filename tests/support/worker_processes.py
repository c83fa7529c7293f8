"""Processes that write, compact and pull at once, the journals that they leave, and the judge of these journals.

The judge is Jepsen's set-full: a row is known from the moment in which its push was acknowledged, or in which a pull
that found it ended; every pull that begins later must find it. Times are `time.monotonic()`, one clock for all
processes of a machine.
"""

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from tqdm import tqdm

from cas_cache.identity import keys_of_texts
from cas_cache.mirror.index import ABSENT
from cas_cache.repository import Repository
from cas_cache.repository.compacting import compact
from cas_cache.repository.pruning import prune
from cas_cache.storage import Storage, open_storage
from storages import OTHER_SPEC, SPEC, Machine, truth

SPECS = (SPEC, OTHER_SPEC)
SHARED = [f"shared {i}" for i in range(60)]
OWN_ROWS, SHARED_ROWS = 4, 5
PATIENCE = 90
"""Seconds after which a process that waits for others gives up."""


@dataclass(frozen=True)
class Job:
    """What a worker is told.

    Attributes:
        url: Of the repository.
        options: Of its file system.
        folder: Of mirrors, journals and flags.
        name: Of the worker; its journal is called like it.
        number: Seeds its choices.
        rounds: How often a writer pushes.
        at_least: See `compact`.
    """

    url: str
    options: dict[str, Any]
    folder: Path
    name: str
    number: int = 0
    rounds: int = 0
    at_least: int = 2

    @property
    def journal(self) -> Path:
        return self.folder / f"{self.name}.journal"

    def note(self, **event: Any) -> None:
        """Append an event; one write, so a kill leaves it whole or away, or cut at its end."""
        with self.journal.open("ab", buffering=0) as file:
            file.write(json.dumps(event).encode() + b"\n")

    def events(self) -> list[dict[str, Any]]:
        """The events that are whole."""
        lines = self.journal.read_bytes().splitlines(keepends=True) if self.journal.exists() else []
        return [json.loads(line) for line in lines if line.endswith(b"\n")]

    def open(self) -> Storage:
        return open_storage(self.url, self.options)

    def machine(self, storage: Storage, name: str = "") -> Machine:
        return Machine(self.folder / (name or f"mirror of {self.name}"), storage)

    def flag(self, name: str) -> Path:
        return self.folder / name


def batch(number: int, turn: int, which: int) -> list[str]:
    """Return what a writer pushes in one turn to one of `SPECS`: rows of its own, and some that others have as well."""
    own = [f"writer {number} turn {turn} row {i}" for i in range(OWN_ROWS)]
    return own + random.Random(f"{number} {turn} {which}").sample(SHARED, SHARED_ROWS)


def universe(writers: int, rounds: int) -> list[str]:
    """Return every text that any writer may push."""
    return SHARED + [
        f"writer {number} turn {turn} row {i}"
        for number in range(writers)
        for turn in range(rounds)
        for i in range(OWN_ROWS)
    ]


def write(job: Job) -> None:
    """Push in turns, each acknowledged after it; a writer that was killed goes on with the turn that it was in."""
    done = len(job.events())
    machine = job.machine(job.open())
    for turn in range(done, job.rounds):
        if turn == job.rounds - 1:
            _wait_for(job.flag("last turn"))
        batches = [batch(job.number, turn, which) for which in range(len(SPECS))]
        for spec, texts in zip(SPECS, batches, strict=True):
            machine.encode(texts, spec)
        assert machine.push().problems == []
        job.note(known=batches, at=time.monotonic())


def merge(job: Job) -> None:
    """Compact until told to stop."""
    storage = job.open()
    while not job.flag("stop").exists():
        repository = Repository(storage)
        if repository.open():
            report = compact(repository, at_least=job.at_least)
            problems = [str(it) for it in report.problems]
            job.note(written=len(report.written), taken_back=report.taken_back, problems=problems)
        time.sleep(0.02)


def sweep(job: Job) -> None:
    """Prune until told to stop; nothing is old enough to be deleted. Where nothing is visible yet, prune refuses."""
    storage = job.open()
    while not job.flag("stop").exists():
        repository = Repository(storage)
        if repository.open() and repository.packs():
            report = prune(repository)
            job.note(problems=[f"deleted {it}" for it in report.deletions])
        time.sleep(0.02)


def read(job: Job) -> None:
    """Pull until told to stop, in turn into a mirror that stays and into a new one; once more of each at the end."""
    texts = universe(job.number, job.rounds)
    storage = job.open()
    machine = job.machine(storage)
    last = False
    while not last:
        last = job.flag("stop").exists()
        _pull(job, machine, texts, new=False)
        folder = f"new mirror of {job.name} {os.getpid()}"
        _pull(job, job.machine(storage, folder), texts, new=True)
        shutil.rmtree(job.folder / folder)


def _pull(job: Job, machine: Machine, texts: list[str], *, new: bool) -> None:
    began = time.monotonic()
    report = machine.pull()
    at = time.monotonic()
    looked = [_look(machine, spec, texts) for spec in SPECS]
    job.note(
        began=began,
        at=at,
        new=new,
        known=[known for known, _ in looked],
        wrong=[wrong for _, wrong in looked],
        problems=[str(it) for it in report.problems],
    )


def _look(machine: Machine, spec: Any, texts: list[str]) -> tuple[list[str], int]:
    """Return the texts that a mirror has, and how many of its rows are wrong or nobody's."""
    ns = machine.mirror.get(spec.namespace)
    if ns is None:
        return [], 0
    rows = ns.find(keys_of_texts(texts))
    here = [text for text, row in zip(texts, rows, strict=True) if row != ABSENT]
    wrong = int((ns.take(rows[rows != ABSENT]) != truth(here)).any(axis=1).sum()) if here else 0
    return here, wrong + ns.rows - len(here)


def _wait_for(flag: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not flag.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody made {flag}")
        time.sleep(0.01)


# Starting and killing ------------------------------------------------------------------------------------------------


class Crowd:
    """Workers as processes; all are gone when the block ends."""

    def __init__(self) -> None:
        # Forked from a server that has imported everything and runs no thread: quick to start, and nothing is held.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["cas_cache.sync", "cas_cache.repository.compacting", "zarr", "s3fs"])
        self._running: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running:
            process.kill()
            process.join()

    def start(self, work: Callable[[Job], None], job: Job) -> Any:
        """Start a worker."""
        process = self._context.Process(target=_run, args=(work, job), name=job.name)
        process.start()
        self._running.append(process)
        return process

    @staticmethod
    def finish(processes: Iterable[Any]) -> None:
        """Wait until workers have ended by themselves, without an error."""
        for process in processes:
            process.join(PATIENCE)
            assert process.exitcode == 0, f"{process.name} ended with {process.exitcode} (None: it hangs)"


def _run(work: Callable[[Job], None], job: Job) -> None:
    warnings.simplefilter("error")
    # The lock that tqdm makes by itself is one of multiprocessing, which complains about those of processes killed.
    tqdm.set_lock(threading.RLock())
    try:
        work(job)
    except BaseException:
        with contextlib.suppress(OSError):
            job.folder.joinpath(f"{job.name}.error").write_text(traceback.format_exc())
        raise


# The judge -----------------------------------------------------------------------------------------------------------


@dataclass
class Verdict:
    """What the journals show.

    Attributes:
        lost: Rows that were known and that a later pull did not find.
        wrong: How many rows were wrong, of all pulls.
        problems: What pulls and compactions reported.
        judged: Pairs of a row and a pull that had to find it.
        pulls: Those that had to find anything.
        merges: How many were written.
        taken_back: How many were taken back.
    """

    lost: list[str] = field(default_factory=list)
    wrong: int = 0
    problems: list[str] = field(default_factory=list)
    judged: int = 0
    pulls: int = 0
    merges: int = 0
    taken_back: int = 0


def judge(events: Iterable[dict[str, Any]]) -> Verdict:
    """Judge the events of all journals together."""
    verdict = Verdict()
    known: dict[tuple[int, str], float] = {}
    events = list(events)
    for event in events:
        for which, texts in enumerate(event.get("known", ())):
            for text in texts:
                known[which, text] = min(event["at"], known.get((which, text), np.inf))
        verdict.merges += event.get("written", 0)
        verdict.taken_back += event.get("taken_back", 0)
        verdict.wrong += sum(event.get("wrong", ()))
        verdict.problems += event.get("problems", ())
    for event in events:
        if "began" in event:
            found = {(which, text) for which, texts in enumerate(event["known"]) for text in texts}
            due = {row for row, at in known.items() if at < event["began"]}
            verdict.judged += len(due)
            verdict.pulls += bool(due)
            verdict.lost += [f"{text!r} of {which}, at {event['at']}" for which, text in sorted(due - found)]
    return verdict
