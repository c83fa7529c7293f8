"""Real client code in threads of which exactly one runs at a time; at each step somebody chooses who goes on.

A step is what comes before anything that others can see: a storage operation, a mirror's lock, a commit. So a run is
decided by the list of choices, and is lived through again with the same list: that is a schedule.

Adds: `Scheduler`; choosers, of which `chooser_of` makes one of a seed; `Given`, which replays a schedule; `shrunk`,
which drops context switches while a schedule still fails. Nothing here knows what the clients do.
"""

import random
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from cas_cache.storage import Storage
from fault_injection import Died, Hooked

PATIENCE = 60.0
"""Seconds without an end, after which somebody must be waiting for what no scheduler knows."""

Schedule = tuple[int, ...]
"""Who goes on at each choice, by number; ``~number``: that one dies instead."""

Chooser = Callable[[Sequence[int], int | None], int]
"""Given who can go on, and who has until now (None: nobody, or who cannot any more), chooses; ``~number`` kills."""


class Stuck(AssertionError):
    """Nobody can go on: each waits for another (or for what the scheduler does not see)."""


@dataclass(eq=False)
class Client:
    """Somebody who takes part.

    Attributes:
        name: For people.
        body: What it does.
        number: By which it is chosen.
        at: Its next step.
        over: Whether it has ended.
        dead: Whether it was killed: every step of it raises `Died` from then on.
    """

    name: str
    body: Callable[[], Any]
    number: int
    at: str = "begins"
    over: bool = False
    dead: bool = False
    waits_since: int | None = None
    turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    thread: threading.Thread | None = None


class Scheduler:
    """One run.

    Attributes:
        choices: What was chosen so far.
        log: (name, step) of each choice.
        switches: How often somebody had to stop who could have gone on.
    """

    def __init__(self) -> None:
        self.choices: list[int] = []
        self.log: list[tuple[str, str]] = []
        self.switches = 0
        self._choose: Chooser = Given()
        self._clients: list[Client] = []
        self._by_thread: dict[int, Client] = {}
        self._released = 0
        self._stopped = False
        self._failure: BaseException | None = None
        self._ended = threading.Semaphore(0)

    def add(self, name: str, body: Callable[[], Any]) -> Client:
        """Let somebody take part."""
        client = Client(name, body, len(self._clients))
        client.thread = threading.Thread(target=self._live, args=(client,), name=name, daemon=True)
        self._clients.append(client)
        return client

    def run(self, choose: Chooser) -> None:
        """Let all live to their ends.

        Args:
            choose: Who goes on.

        Raises:
            Stuck: If nobody can go on.
            BaseException: What a client raised, but `Died`; the others are stopped.
        """
        self._choose = choose
        for client in self._clients:
            assert client.thread is not None
            client.thread.start()
        self._next(None)
        if not self._ended.acquire(timeout=PATIENCE):
            raise Stuck(f"somebody waits outside of the scheduler:\n{self._stacks()}")
        self._stopped = True
        for client in self._clients:
            assert client.thread is not None
            client.turn.release()
            client.thread.join(PATIENCE)
            assert not client.thread.is_alive(), f"{client.name} does not end:\n{self._stacks()}"
        if self._failure is not None:
            raise self._failure

    def step(self, what: str) -> None:
        """Let somebody be chosen before the caller goes on; without effect for who does not take part.

        Raises:
            Died: If the caller was killed, or all are stopped.
        """
        me = self._by_thread.get(threading.get_ident())
        if me is None:
            return
        me.at = what
        if not (me.dead or self._stopped):
            self._next(me)
        if me.dead or self._stopped:
            raise Died(what)

    def wait(self, what: str) -> None:
        """Let others go on until one of them lets go of something; then the caller tries again."""
        me = self._by_thread[threading.get_ident()]
        me.waits_since = self._released
        self.step(what)
        me.waits_since = None

    def let_go(self) -> None:
        """Tell who waits that it is worth another try."""
        self._released += 1

    def takes_part(self) -> bool:
        """Whether the caller is one of the clients."""
        return threading.get_ident() in self._by_thread

    def storage(self, inner: Storage) -> Storage:
        """Return a storage whose operations are steps of whoever calls it."""
        return _Stepping(inner, self)

    def _live(self, me: Client) -> None:
        self._by_thread[threading.get_ident()] = me
        me.turn.acquire()
        try:
            if not (me.dead or self._stopped):
                me.body()
        except Died:
            me.dead = True
        except BaseException as err:  # noqa: BLE001 - told by `run`
            self._failure = self._failure or err
        me.over = True
        self._released += 1
        if self._stopped:
            return
        if self._failure is not None or all(it.over for it in self._clients):
            self._ended.release()
        else:
            self._next(me)

    def _next(self, me: Client | None) -> None:
        """Hand over to who is chosen; returns when the caller's turn has come again, at once for who is over."""
        live = [it for it in self._clients if not it.over]
        ready = [it for it in live if it.waits_since is None or it.waits_since < self._released]
        if not ready:
            self._failure = Stuck(f"each waits for another:\n{self._stacks()}")
            self._stopped = True
            self._ended.release()
            return
        current = me.number if me is not None and me in ready else None
        choice = self._choose([it.number for it in ready], current)
        chosen = self._clients[max(choice, ~choice)]
        assert chosen in ready
        chosen.dead = chosen.dead or choice < 0
        self.choices.append(choice)
        self.log.append((chosen.name, "dies" if choice < 0 else chosen.at))
        if chosen is me:
            return
        self.switches += current is not None
        chosen.turn.release()
        if me is not None and not me.over:
            me.turn.acquire()

    def _stacks(self) -> str:
        frames = sys._current_frames()
        told = []
        for it in self._clients:
            if not it.over:
                frame = frames.get(it.thread.ident or 0) if it.thread else None
                stack = "".join(traceback.format_stack(frame)[-12:]) if frame else ""
                told.append(f"--- {it.name}, at {it.at}:\n{stack}")
        return "\n".join(told)


class _Stepping(Hooked):
    def __init__(self, inner: Storage, scheduler: Scheduler) -> None:
        super().__init__(inner)
        self._scheduler = scheduler

    def _call(self, number: int, verb: str, path: str, call: Callable[[], Any]) -> Any:
        self._scheduler.step(f"{verb} {path}")
        return call()


# Choosers ------------------------------------------------------------------------------------------------------------


class Given:
    """Replays a schedule; where it does not fit, or has ended, who goes on does so, else the first who can."""

    def __init__(self, schedule: Sequence[int] = ()) -> None:
        self._left = iter(schedule)

    def __call__(self, ready: Sequence[int], current: int | None) -> int:
        choice = next(self._left, None)
        if choice is not None and max(choice, ~choice) in ready:
            return choice
        return current if current is not None else ready[0]


class Uniform:
    """At each step everybody is as likely to go on."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def __call__(self, ready: Sequence[int], current: int | None) -> int:
        return self._rng.choice(ready)


class Priorities:
    """Probabilistic concurrency testing: the highest of random priorities goes on, and loses it at `depth` - 1 steps.

    Few switches, anywhere: an error that takes `depth` of them in order is found with a probability of at least
    1 / (clients x steps ** (depth - 1)), whatever else there is (Burckhardt et al., ASPLOS 2010).

    Args:
        rng: Where chance comes from.
        depth: How many constraints of order an error has.
        length: About how many steps a run takes.
    """

    def __init__(self, rng: random.Random, depth: int, length: int) -> None:
        self._rng, self._step, self._lowest = rng, 0, 0.0
        self._changes = set(rng.sample(range(1, max(length, depth) + 1), depth - 1))
        self._of: dict[int, float] = {}

    def __call__(self, ready: Sequence[int], current: int | None) -> int:
        for number in ready:
            if number not in self._of:
                self._of[number] = 1 + self._rng.random()
        self._step += 1
        if self._step in self._changes:
            self._lowest -= 1
            self._of[max(ready, key=self._priority)] = self._lowest
        return max(ready, key=self._priority)

    def _priority(self, number: int) -> float:
        return self._of[number]


class Mortal:
    """Lets another choose, and kills who is chosen at one step."""

    def __init__(self, choose: Chooser, at: int, mortals: Sequence[int]) -> None:
        self._choose, self._left, self._mortals = choose, at, mortals

    def __call__(self, ready: Sequence[int], current: int | None) -> int:
        choice = self._choose(ready, current)
        if choice not in self._mortals:
            return choice
        self._left -= 1
        return ~choice if self._left == 0 else choice


def chooser_of(seed: int, length: int, mortals: Sequence[int] = ()) -> Chooser:
    """Return the chooser of a seed: priorities of depth 2, 3 or 4, or uniform; in every fourth, somebody dies.

    Args:
        seed: Which.
        length: About how many steps a run takes.
        mortals: Who may die, by number.
    """
    rng = random.Random(seed)
    choose: Chooser = Uniform(rng) if seed % 4 == 0 else Priorities(rng, 1 + seed % 4, length)
    return Mortal(choose, rng.randrange(2, length), mortals) if mortals and seed // 4 % 4 == 3 else choose


# Schedules -----------------------------------------------------------------------------------------------------------


def told(schedule: Sequence[int]) -> str:
    """Return a schedule as a word that `parsed` reads: ``0x5,1,~2`` is 0 five times, 1 once, 2 dies."""
    runs = ((number, len(list(run))) for number, run in groupby(schedule))
    return ",".join((f"~{~it}" if it < 0 else str(it)) + (f"x{count}" if count > 1 else "") for it, count in runs)


def parsed(text: str) -> Schedule:
    """Return the schedule that `told` has told."""
    schedule: list[int] = []
    for part in filter(None, text.split(",")):
        number, _, count = part.partition("x")
        schedule += [~int(number[1:]) if number.startswith("~") else int(number)] * int(count or 1)
    return tuple(schedule)


def shrunk(schedule: Schedule, failing: Callable[[Schedule], Schedule | None], most: int = 200) -> Schedule:
    """Drop context switches, and deaths, while a schedule still fails.

    Args:
        schedule: One that fails.
        failing: Runs a schedule and returns what was really chosen if it fails (in the same way), else None.
        most: Runs at most.
    """
    best, runs = schedule, 0
    shorter = True
    while shorter and runs < most:
        shorter = False
        for candidate in _simpler(best):
            runs += 1
            found = failing(candidate)
            if found is not None and _weight(found) < _weight(best):
                best, shorter = found, True
                break
            if runs >= most:
                break
    return best


def _weight(schedule: Schedule) -> tuple[int, int]:
    runs = [number for number, _ in groupby(schedule)]
    return len(runs) + sum(number < 0 for number in runs), len(schedule)


def _simpler(schedule: Schedule) -> Iterator[Schedule]:
    """Yield schedules with a switch or two less: halves of it first, then without one run, or one that waits longer."""
    runs = [tuple(run) for _, run in groupby(schedule)]
    for size in (len(runs) // 2, len(runs) // 4, 2, 1):
        for first in range(0, len(runs), max(1, size)):
            if size:
                yield tuple(it for run in runs[:first] + runs[first + size :] for it in run)
    for first in range(len(runs) - 2):
        order = [*runs[:first], runs[first], runs[first + 2], runs[first + 1], *runs[first + 3 :]]
        yield tuple(it for run in order for it in run)
