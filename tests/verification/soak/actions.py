"""What a soak is asked for, and what befalls its processes: they are killed, stopped for a while, and started again."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from soak.roles import read, write
from soak.verdict import has_proved, turns_of
from soak.workers import Post
from worker_processes import Crowd

PATIENCE = 120
"""Seconds in which every process must have ended that was told to stop."""


@dataclass(frozen=True)
class Plan:
    """What a run is asked for.

    Attributes:
        minutes: How long processes are at work and killed.
        seed: Of who is killed when, and of the faults.
        writers: How many.
        readers: How many.
        remote: ``"local"`` or ``"localstack"``.
        faults: Whether the network does harm.
        sabotage: ``"wrong"``: a reader sees a wrong vector; ``"lost"``: a writer acknowledges what it has not pushed;
            ``"error"``: a process ends with an error that is not typed.
    """

    minutes: float = 10.0
    seed: int = 0
    writers: int = 8
    readers: int = 4
    remote: str = "localstack"
    faults: bool = True
    sabotage: str = ""

    @property
    def seconds(self) -> float:
        return self.minutes * 60

    @property
    def day(self) -> float:
        """Seconds that a day of the protocol takes: a writer has two halves of it for a pack."""
        return min(20.0, max(4.0, self.seconds / 30))

    @property
    def grace(self) -> float:
        """Seven of these days, unless the run is too short; more than one, because S3 tells times in whole seconds."""
        return max(self.day + 2, min(7 * self.day, self.seconds / 4))


class Havoc:
    """Starts processes, kills them, stops them for a while, and starts them again."""

    def __init__(self, plan: Plan, crowd: Crowd, posts: list[tuple[Callable[[Post], None], Post]]) -> None:
        self._plan, self._crowd, self._posts = plan, crowd, posts
        self._chance = random.Random(plan.seed)
        self._running = [crowd.start(*work) for work in posts]
        self._asleep: dict[int, float] = {}
        self.began = time.monotonic()
        self.kills: Counter[str] = Counter()
        self.stalls: Counter[str] = Counter()

    def reign(self, stopped: Callable[[], bool], say: Callable[[str], object]) -> None:
        """Do harm until the time is over, which begins when every writer is at work, or somebody ended by himself."""
        patience = time.monotonic() + PATIENCE
        while not (all(turns_of([post])[0] for work, post in self._posts if work is write) or stopped()):
            time.sleep(0.1)
            if self._unwell() or time.monotonic() > patience:
                return
        self.began = time.monotonic()
        end = time.monotonic() + self._plan.seconds
        every = min(2.0, self._plan.seconds / 40)
        told = time.monotonic()
        while time.monotonic() < end and not stopped():
            time.sleep(self._chance.uniform(0.2, 1.8) * every)
            if self._unwell():
                return
            self._wake(time.monotonic())
            victim = self._chance.choice(self._mortal())
            if self._chance.random() < 0.75:
                self._kill(victim)
            elif len(self._asleep) < 2 and victim not in self._asleep:
                self._stall(victim)
            if time.monotonic() - told > 60:
                told = time.monotonic()
                say(f"{(end - told) / 60:.1f} minutes to go, {sum(self.kills.values())} kills")
        self._wake(float("inf"))
        # A short run on a slow machine proves nothing before this.
        while not (all(map(has_proved, self._readers())) or stopped() or self._unwell()):
            time.sleep(0.2)
            if time.monotonic() > end + PATIENCE:
                return

    def end(self, flag: Path) -> list[str]:
        """Tell all to stop, and wait for them; return who did not, or not well."""
        self._wake(float("inf"))
        flag.touch()
        deadline = time.monotonic() + PATIENCE
        for process in self._running:
            process.join(max(0.0, deadline - time.monotonic()))
        hung = [process.name for process in self._running if process.exitcode is None]
        return self._unwell() + [f"{name} did not end" for name in hung]

    def _readers(self) -> list[Post]:
        return [post for work, post in self._posts if work is read]

    def _mortal(self) -> list[int]:
        """Who may be next: writers and readers mostly. Three live as long as the run, so that growth would show."""
        role = self._chance.choice(["writer"] * 4 + ["reader"] * 3 + ["merger", "sweeper", "watcher"])
        names = [post.name for _, post in self._posts]
        spared = {"writer 0", "writer 4", "reader 0"}
        mortal = [n for n, name in enumerate(names) if name.startswith(role) and name not in spared]
        return mortal or list(range(len(names)))

    def _unwell(self) -> list[str]:
        # Why, the judge tells: it is written beside the journal.
        return [
            f"{process.name} ended with {process.exitcode}"
            for process in self._running
            if process.exitcode not in {None, 0}
        ]

    def _kill(self, which: int) -> None:
        process = self._running[which]
        process.kill()
        process.join()
        self._asleep.pop(which, None)
        self.kills[self._posts[which][1].name.split()[0]] += 1
        self._running[which] = self._crowd.start(*self._posts[which])

    def _stall(self, which: int) -> None:
        """Stop a process: for a while, for more than a writer has for a pack, or for more than the grace period."""
        day, grace = self._plan.day, self._plan.grace
        seconds = self._chance.choice([0.2 * day, 0.7 * day, 1.2 * day, 1.2 * grace])
        os.kill(self._running[which].pid, signal.SIGSTOP)
        self._asleep[which] = time.monotonic() + seconds
        self.stalls[self._posts[which][1].name.split()[0]] += 1

    def _wake(self, now: float) -> None:
        for which in [which for which, until in self._asleep.items() if until <= now]:
            os.kill(self._running[which].pid, signal.SIGCONT)
            del self._asleep[which]
