"""The processes of a soak: what they are told, what they note, and the right vectors. What they do is in `soak.roles`.

All that they do is noted in journals that only grow, each event flushed to the disk before the next thing is done; the
judge (`soak.verdict`) has nothing else. A process that was killed goes on where its journal ends.

Time is short here: a day of the protocol (see `repository.MAX_SECONDS` and `prune.MIN_GRACE`) takes seconds, in all
processes alike, so that writers meet the end of their time, and prune deletes beside them, in proportion.
"""

import json
import os
import random
import resource
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cas_cache import EmbeddingCache, EncoderSpec
from cas_cache.errors import (
    CasCacheError,
    ConfigurationError,
    EncoderError,
    IdentityError,
    MirrorError,
    RemoteWarning,
    RepositoryMismatch,
    SelfCheckFailed,
)
from cas_cache.repository import Repository, pruning, publishing
from cas_cache.storage import open_storage
from cas_cache.sync import pushing
from cas_cache.testing import FaultyStorage
from soak.faulty import faults
from storages import truth
from worker_processes import Job

SPECS = (
    EncoderSpec(model="org/model", revision="a1b2c3d", prompt="query: ", role="query"),
    EncoderSpec(model="org/other", revision="a1b2c3d"),
)
KINDS = (("float32", 32), ("float16", 24))
"""dtype and width of the vectors of each of `SPECS`."""

OWN_ROWS, SHARED_ROWS, SHARED = 24, 8, 400

NEVER = (ConfigurationError, EncoderError, IdentityError, MirrorError, SelfCheckFailed)
"""Errors that no fault of the network explains; `RepositoryMismatch` is one: a bit of the marker may be flipped."""


@dataclass(frozen=True)
class Post(Job):
    """What a process of a soak is told.

    Attributes:
        direct: Options of the file system that reach it without faults.
        day: Seconds that a day of the protocol takes.
        grace: Seconds of grace that prune gives.
        pause: Seconds between two rounds.
        mirror: Name of the mirror's folder; several may have one.
        faults: Whether calls of the storage are harmed in the process itself.
        sabotage: What a lying process does, to show that the judge condemns it.
    """

    direct: dict[str, Any] = field(default_factory=dict)
    day: float = 20.0
    grace: float = 140.0
    pause: float = 1.0
    mirror: str = ""
    faults: bool = False
    sabotage: str = ""

    def note(self, **event: Any) -> None:
        """Append an event and flush it to the disk."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        event |= {"at": time.monotonic(), "resident": _resident(), "peak": peak}
        event |= {"pid": os.getpid(), "processor": time.process_time()}
        with self.journal.open("ab", buffering=0) as file:
            file.write(json.dumps(event).encode() + b"\n")
            os.fsync(file.fileno())

    def cache(self, folder: Path | None = None, **options: Any) -> EmbeddingCache:
        """Open the cache in the process's own mirror, or in another."""
        given = {"push": "manual", "on_remote_error": "raise", "self_check": 0, "progress": False} | options
        cache = EmbeddingCache(
            folder or self.folder / self.mirror, remote=self.url, storage_options=self.options or None, **given
        )
        if self.faults:
            cache.repository = self.repository()
        return cache

    def repository(self, *, direct: bool = False) -> Repository:
        """Return the repository; past the faults if `direct`."""
        storage = open_storage(self.url, self.direct if direct else self.options)
        if self.faults and not direct:
            storage = FaultyStorage(storage, faults(f"{self.name} {time.monotonic()}", wire=False))
            _faulty.append(storage)
        return Repository(storage)


_faulty: list[FaultyStorage] = []
"""Those of this process."""


def _resident() -> int:
    """Bytes of memory that this process has now."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - not a file of anybody's
        return int(file.read().split()[1]) * 4096


def batch(number: int, turn: int, which: int) -> list[str]:
    """Return the texts that a writer encodes in one turn with one of `SPECS`: its own, and some that others have."""
    own = [f"writer {number} turn {turn} row {i}" for i in range(OWN_ROWS)]
    shared = random.Random(f"{number} {turn} {which}").sample(range(SHARED), SHARED_ROWS)
    return own + [f"shared {i}" for i in shared]


def texts_of(turns: dict[int, int], which: int) -> list[str]:
    """Return the distinct texts of all turns up to the last of each writer, by its number."""
    every = (text for number, last in turns.items() for turn in range(last + 1) for text in batch(number, turn, which))
    return list(dict.fromkeys(every))


def vectors_of(which: int, texts: list[str]) -> Any:
    """Return the right vectors: another for each text and each of `SPECS`."""
    return truth([f"{which} {text}" for text in texts], *KINDS[which])


def wrong_rows(which: int, texts: list[str], vectors: Any) -> int:
    """Return how many vectors differ from the right ones by as much as a bit, or are of another kind."""
    right = vectors_of(which, texts)
    if vectors.shape != right.shape or vectors.dtype != right.dtype:
        return len(texts)
    return int((vectors.view(np.uint8) != right.view(np.uint8)).any(axis=1).sum()) if texts else 0


def shorten(day: float) -> None:
    """Let a day of the protocol take so many seconds in this process."""
    publishing.MAX_SECONDS = pushing.MAX_SECONDS = day / 2
    pruning.DAY = pruning.MIN_GRACE = day
    pruning.GRACE = 7 * day


# Rounds --------------------------------------------------------------------------------------------------------------


def rounds(post: Post, do: Callable[[], None]) -> None:
    """Do something again and again until told to stop, or until who started this is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the one that started this one stops it
    shorten(post.day)
    # What a background push tells at its end; many pushes fail here.
    sys.stderr = post.flag(f"{post.name}.stderr").open("a")
    told: Counter[str] = Counter()
    parent, chance = os.getppid(), random.Random(f"{post.name} {os.getpid()}")
    while not post.flag("stop").exists() and os.getppid() == parent:
        with noting_errors(post):
            do()
        if injected := Counter(fault.kind for storage in _faulty for fault, _, _ in storage.fired) - told:
            post.note(op="faults", injected=injected)
            told += injected
        time.sleep(post.pause * chance.uniform(0.5, 1.5))


@contextmanager
def noting_errors(post: Post) -> Iterator[None]:
    """Note typed errors, and warnings of a remote that is away; what else is raised ends the process."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("error")
        warnings.simplefilter("always", RemoteWarning)
        try:
            yield
        except CasCacheError as err:
            never = isinstance(err, NEVER) and not isinstance(err, RepositoryMismatch)
            post.note(op="error", error=type(err).__name__, message=str(err)[:500], never=never)
    for _ in told:
        post.note(op="error", error="RemoteWarning", message="", never=False)


def note_problems(post: Post, problems: Iterable[CasCacheError]) -> None:
    for problem in problems:
        post.note(op="error", error=type(problem).__name__, message=str(problem)[:500], never=False)
