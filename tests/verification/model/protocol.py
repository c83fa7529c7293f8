"""The model check: every order of every step of a few processes, with deaths, sleeps and listings that are not atomic.

`python tests/verification/model/protocol.py` explores all configurations, and prints how many states there were; with
names, only those; with `--large`, those that take minutes. `mutants.py` has the rules that are broken on purpose.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / "support")]

from model.pruning import pruner
from model.reading import reader
from model.world import (
    ENDS,
    GRACE,
    NEVER,
    NOT_FOR_GOOD,
    NOT_TWICE,
    REACHABLE,
    THINKS,
    TIDY,
    WHOLE_PACKS,
    Actor,
    Broken,
    Move,
    Op,
    Pack,
    Program,
    Rules,
    World,
    bits,
    reachable,
    superseded,
)
from model.writing import WAITS, compactor, writer

PROGRAMS: dict[str, Program] = {"writer": writer, "compactor": compactor, "pruner": pruner, "reader": reader}

PUTS = {"put 0": 0, "put 1": 1, "manifest": 2}
"""Steps that are a PUT: who dies there may have sent it already, and it arrives at any later time."""


MAY_THINK = frozenset({"begin", "look", "manifests", "read", "others", "asks", "delete"})
"""Steps that may be thoughts."""


@dataclass(frozen=True)
class Configuration:
    """Who takes part, from which start, and how much may happen.

    Attributes:
        world: The start.
        ticks: How far time goes.
        large: Whether it takes minutes.
    """

    world: World
    ticks: int
    large: bool = False


@dataclass
class Explored:
    """What a search met.

    Attributes:
        states: How many.
        transitions: How many.
        broken: The property that does not hold, or none.
        trace: What led there, a line a step.
    """

    states: int = 0
    transitions: int = 0
    broken: str = ""
    trace: list[str] = field(default_factory=list)


def moves(world: World, rules: Rules, ticks: int) -> Iterator[Move]:
    """Yield all that can happen next."""
    for me, actor in enumerate(world.actors):
        if actor.at == "done":
            continue
        for told, op, after in PROGRAMS[actor.program](world, me, rules):
            yield from _with_thoughts(f"{actor.program} {me} {told}", op, after, me, rules)
        if world.crashes and actor.at != "begin":
            dead = world.with_actor(me, actor.ended())._replace(crashes=world.crashes - 1)
            yield f"{actor.program} {me} dies", None, dead
            if actor.at in PUTS:
                put = (actor.local[0], PUTS[actor.at], actor.local[1])
                yield f"{actor.program} {me} dies with a PUT on its way", None, dead._replace(flying=(put,))
    for put in world.flying:
        arrived = world.put(*put)._replace(flying=tuple(it for it in world.flying if it != put))
        yield f"the PUT of {('object 0', 'object 1', 'the manifest')[put[1]]} of {put[0]} arrives", None, arrived
    if world.damages:
        yield from _damages(world)
    if world.time < ticks and any(map(_minds_time, world.actors)):
        yield "half a day goes by", None, world._replace(time=world.time + 1)


def _with_thoughts(told: str, op: Op, world: World, me: int, rules: Rules) -> Iterator[Move]:
    """Yield a step, together with the thoughts that follow it."""
    if world.actors[me].at in MAY_THINK:
        following = list(PROGRAMS[world.actors[me].program](world, me, rules))
        if following[0][1] == THINKS:
            for then, _, after in following:
                yield from _with_thoughts(f"{told}, {then}", op, after, me, rules)
            return
    yield told, op, world


def _minds_time(actor: Actor) -> bool:
    """Whether it makes a difference for a process that time goes by."""
    if actor.program in ("writer", "compactor"):
        return actor.at != "done"
    if actor.program == "pruner":
        return actor.at == "begin" or actor.runs > 1
    return actor.at == "list 1"


def _damages(world: World) -> Iterator[Move]:
    """An object of a merge is lost, while its sources are there and nobody has begun to delete them."""
    if any(it.program == "pruner" and it.at not in ("begin", "done") for it in world.actors):
        return
    for at, pack in enumerate(world.packs):
        sources = [world.packs[source] for source in bits(pack.merged)]
        if pack.manifest >= 0 and sources and all(it.manifest >= 0 and it.whole for it in sources):
            hurt = world.delete(at, 1).packs[at]._replace(excused=True)
            yield f"object 1 of {at} is lost", None, world.with_pack(at, hurt)._replace(damages=world.damages - 1)


def holds(world: World) -> None:
    """Check what is true at every moment.

    Raises:
        Broken: If it is not.
    """
    if world.acknowledged & ~reachable(world):
        raise Broken(REACHABLE)
    for pack in world.packs:
        if pack.manifest >= 0 and not pack.excused and not pack.whole:
            raise Broken(WHOLE_PACKS)


def alone(world: World, actor: Actor, rules: Rules) -> World:
    """Let one process run to its end, with nobody else.

    Raises:
        Broken: If a property does not hold on its way.
    """
    world = world._replace(actors=(actor,), crashes=0, bad_reads=0, damages=0, hidden=0)
    while world.actors[0].at != "done" and (step := next(PROGRAMS[actor.program](world, 0, rules), None)):
        world = step[2]
        holds(world)
    return world


def holds_at_the_end(world: World, rules: Rules) -> None:
    """Check what is true once all processes are done: the next ones of each kind have it their way.

    Raises:
        Broken: If it is not.
    """
    for disk in {actor.disk for actor in world.actors if actor.program == "reader"} | {(0, 0)}:
        after = alone(world, Actor("reader", "begin", (), disk), rules)
        if world.acknowledged & ~after.actors[0].disk[1]:
            raise Broken(NOT_FOR_GOOD)
    try:
        compacted = alone(world, Actor("compactor", "begin"), rules)
        again = alone(compacted, Actor("compactor", "begin"), rules)
    except Broken as broken:
        raise Broken(ENDS if broken.name == NOT_TWICE else broken.name) from None
    if len(again.packs) > len(compacted.packs):
        raise Broken(ENDS)
    late = compacted._replace(time=compacted.time + GRACE)
    # Orphans alone are refused, for a listing without a manifest may be a wrong one: by force.
    forced = rules if late.listed(0) | late.listed(1) else replace(rules, prune_refuses_bare_listings=False)
    pruned = alone(late, Actor("pruner", "begin"), forced)
    visible = pruned.listed(0) | pruned.listed(1)
    for at, pack in enumerate(pruned.packs):
        if max(pack.objects) >= 0 and not visible >> at & 1:
            raise Broken(TIDY)
    whole = sum(1 << at for at in bits(visible) if pruned.packs[at].whole)
    if superseded(pruned.packs, whole) & visible:
        raise Broken(TIDY)


def explore(configuration: Configuration, rules: Rules | None = None) -> Explored:
    """Visit every state that can be reached, the nearest first, up to the first in which a property does not hold."""
    rules = rules or Rules()
    found = Explored()
    start = configuration.world
    came: dict[World, tuple[World, str] | None] = {start: None}
    level = [start]
    judged: set[tuple[object, ...]] = set()
    world = start
    try:
        while level:
            following: list[World] = []
            for world in level:
                for told, _, after in moves(world, rules, configuration.ticks):
                    found.transitions += 1
                    if after not in came:
                        came[after] = (world, told)
                        following.append(after)
                        if after.packs is not world.packs or after.acknowledged != world.acknowledged:
                            holds(after)
                        if _is_over(after):
                            readers = tuple(it.disk for it in after.actors if it.program == "reader")
                            end = (after.time, after.packs, after.acknowledged, readers)
                            if end not in judged:
                                judged.add(end)
                                holds_at_the_end(after, rules)
            level = following
    except Broken as broken:
        found.broken = broken.name
        last = after if after in came and came[after] is not None and came[after][0] is world else world
        found.trace = _trace(came, last)
    found.states = len(came)
    return found


def _is_over(world: World) -> bool:
    """Whether nobody does anything any more; a prune that never came is none."""
    return not world.flying and all(
        it.at == "done" or (it.program, it.at) == ("pruner", "begin") for it in world.actors
    )


def _trace(came: dict[World, tuple[World, str] | None], last: World) -> list[str]:
    lines: list[str] = []
    step = came[last]
    while step is not None:
        before, told = step
        lines.append(f"day {before.time / 2:g}: {told}")
        step = came[before]
    return lines[::-1]


# Configurations ------------------------------------------------------------------------------------------------------


def pushes(rows: int, runs: int = 1, planned: int = NEVER) -> Actor:
    """Return a push of rows that wait, perhaps planned already; with 2 runs, it is called again if it failed."""
    return Actor("writer", "begin", (), (rows, planned, NEVER if planned == NEVER else 0, WAITS), runs)


def begins(program: str, runs: int = 1, disk: tuple[int, ...] = ()) -> Actor:
    """Return a process that is about to begin."""
    return Actor(program, "begin", (), disk if program != "reader" else disk or (0, 0), runs)


def published(rows: int, page: int, merged: int = 0) -> Pack:
    """Return a pack that is there from the start."""
    return Pack(page, rows, merged, (0, 0), 0)


def worlds(packs: tuple[Pack, ...], *actors: Actor, **budgets: int) -> World:
    """Return a start at which packs are there; the rows of those that are visible are acknowledged."""
    rows = 0
    for pack in packs:
        rows |= pack.rows if pack.manifest >= 0 else 0
    return World(0, packs, actors, rows, **budgets)


ONE = (published(4, 0),)
"""A prune refuses a repository that shows no pack at all."""

TWO = (published(1, 0), published(2, 1))
BEGUN = Pack(0, 1, 0, (0, NEVER))
"""Its writer died after the first object."""

THREE = (*TWO, published(4, 0))
MERGED = (*TWO, published(3, 0, merged=3))

CONFIGURATIONS = {
    "a push under the plan of one that died, again, a prune": Configuration(
        worlds((*ONE, BEGUN), pushes(1, 2, planned=1), begins("pruner")), GRACE
    ),
    "a push, a prune, a pull": Configuration(worlds(ONE, pushes(1), begins("pruner"), begins("reader")), GRACE),
    "a compaction, a prune, a pull": Configuration(
        worlds(TWO, begins("compactor"), begins("pruner"), begins("reader")), GRACE
    ),
    "a compaction, a prune, a death": Configuration(
        worlds(TWO, begins("compactor"), begins("pruner"), crashes=1), GRACE
    ),
    "two compactions, a death": Configuration(worlds(TWO, begins("compactor"), begins("compactor"), crashes=1), 1),
    "two pushes, a compaction": Configuration(worlds((), pushes(1), pushes(2), begins("compactor")), 1),
    "a push, a compaction, a pull, a death": Configuration(
        worlds(TWO[:1], pushes(2), begins("compactor"), begins("reader"), crashes=1), 0
    ),
    "merged packs, a prune that dies, another, two pulls": Configuration(
        worlds(MERGED, begins("pruner", 2), begins("reader", 2), crashes=1), GRACE
    ),
    "a merge that loses an object, a prune, two pulls": Configuration(
        worlds(MERGED, begins("pruner"), begins("reader", 2), damages=1, bad_reads=1), GRACE
    ),
    "bytes that are not as stored, a compaction, a prune": Configuration(
        worlds(THREE, begins("compactor"), begins("pruner"), bad_reads=1), GRACE
    ),
    "listings that lack pages, a push, a prune": Configuration(
        worlds(MERGED, pushes(4), begins("pruner"), hidden=4), GRACE
    ),
    "a listing that is empty, two pulls, a push": Configuration(
        worlds(TWO, pushes(4), begins("reader", 2, (1, 1)), hidden=1), 1
    ),
    "a push that dies and is called again, a prune": Configuration(
        worlds(ONE, pushes(1, 2), begins("pruner"), crashes=1), GRACE, large=True
    ),
    "two pushes, a compaction, a pull": Configuration(
        worlds((), pushes(1), pushes(2), begins("compactor"), begins("reader")), 0, large=True
    ),
    "two pushes, a prune": Configuration(worlds(ONE, pushes(1), pushes(2), begins("pruner")), GRACE, large=True),
    "two compactions, a prune": Configuration(
        worlds(TWO, begins("compactor"), begins("compactor"), begins("pruner")), GRACE, large=True
    ),
    "two pushes, a compaction, a pull, a death": Configuration(
        worlds((), pushes(1), pushes(2), begins("compactor"), begins("reader"), crashes=1), 0, large=True
    ),
    "a push that dies and is called again, a prune, a pull": Configuration(
        worlds(ONE, pushes(1, 2), begins("pruner"), begins("reader"), crashes=1), GRACE, large=True
    ),
}


def main() -> int:
    """Explore, and print what was met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="configurations; all small ones by default")
    parser.add_argument("--large", action="store_true", help="those that take minutes, too")
    arguments = parser.parse_args()
    bad = 0
    for name, configuration in CONFIGURATIONS.items():
        if name not in arguments.names if arguments.names else configuration.large and not arguments.large:
            continue
        began = time.process_time()
        found = explore(configuration)
        seconds = time.process_time() - began
        print(f"{found.states:>10,} states {found.transitions:>11,} transitions {seconds:>7.1f} s  {name}", flush=True)
        if found.broken:
            bad += 1
            print(f"BROKEN: {found.broken}", *found.trace, sep="\n  ")
    return bad


if __name__ == "__main__":
    raise SystemExit(main())
