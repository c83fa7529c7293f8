"""The judge of a soak: what the journals of all processes show, and the table that is printed."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from soak.workers import OWN_ROWS, SHARED, SPECS, Post, batch

QUARTERS = 4

SILENT = frozenset({"error", "commit", "ack", "faults"})
"""What is noted and is no operation."""


@dataclass
class Verdict:
    """What was done and what was found.

    Attributes:
        seconds: How long processes were at work and killed.
        operations: How many there were of each kind.
        bytes: Pushed, pulled, and read by checks.
        errors: Typed errors that were met, by type.
        compared: Vectors compared with the right ones.
        wrong: How many of them were wrong.
        lost: Rows that were acknowledged, or committed, and were not found.
        acknowledged: Rows that were acknowledged.
        pulls_judged: Pulls that ended without a problem, so that each acknowledged row had to be there.
        false_alarms: Findings of checks, of repository and mirrors, where nothing was damaged.
        kills: Processes killed, by role.
        stalls: Processes stopped for a while, by role.
        faults: Injected, by kind.
        pruned: Packs deleted beside writers, by reason.
        rates: Rounds a minute, by role and quarter.
        memory: Bytes of the largest process, by role and quarter.
        peak: The most bytes that any process ever had.
        processor: Seconds of processor time, by process.
        failures: Why the run failed; empty if it did not.
    """

    seconds: float = 0.0
    operations: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    compared: int = 0
    wrong: int = 0
    lost: int = 0
    acknowledged: int = 0
    pulls_judged: int = 0
    false_alarms: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    stalls: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    pruned: Counter[str] = field(default_factory=Counter)
    rates: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, list[int]] = field(default_factory=dict)
    peak: int = 0
    processor: dict[int, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def fail(self, what: str) -> None:
        """Note why the run failed."""
        self.failures.append(what)

    def lines(self) -> Iterable[str]:
        """Yield the table."""
        yield f"{self.seconds / 60:>12.1f}  minutes"
        yield f"{sum(self.operations.values()):>12,}  operations"
        yield from _by_kind(self.operations)
        for what in ("pushed", "pulled", "read by checks"):
            yield f"{self.bytes[what]:>12,}  bytes {what}"
        for what, counts in (
            ("processes killed", self.kills),
            ("processes stopped for a while", self.stalls),
            ("faults injected", self.faults),
            ("packs deleted beside writers", self.pruned),
            ("typed errors met", self.errors),
        ):
            yield f"{sum(counts.values()):>12,}  {what}"
            yield from _by_kind(counts)
        for what, count in (
            ("rows acknowledged", self.acknowledged),
            ("rows verified", self.compared),
            ("pulls that had to find every acknowledged row", self.pulls_judged),
            ("false alarms of check", self.false_alarms),
            ("wrong vectors", self.wrong),
            ("rows lost", self.lost),
        ):
            yield f"{count:>12,}  {what}"
        yield f"{self.peak / 1e6:>12,.0f}  MB of memory at most, of one process"
        yield f"{sum(self.processor.values()):>12,.0f}  seconds of processor time of {len(self.processor)} processes"
        yield "rounds a minute, and MB of the largest process, by quarter"
        for role, rates in self.rates.items():
            sizes = " ".join(f"{size / 1e6:6.0f}" for size in self.memory[role])
            yield f"{'':14}{role:10} {' '.join(f'{rate:6.1f}' for rate in rates)}    {sizes}"


def _by_kind(counts: Counter[str]) -> Iterable[str]:
    for kind, count in sorted(counts.items()):
        yield f"{'':14}{count:>10,}  {kind}"


def judge(posts: Iterable[Post], began: float, ended: float) -> Verdict:
    """Judge the journals of all processes together.

    Args:
        posts: Of all of them.
        began: When the first was started, by `time.monotonic`.
        ended: When they were told to stop.
    """
    verdict = Verdict(seconds=ended - began)
    posts = list(posts)
    acknowledged, _ = turns_of(posts)
    verdict.acknowledged = rows_of(acknowledged)
    for post in posts:
        for event in post.events():
            verdict.operations[event["op"]] += event["op"] not in SILENT
            _judge_one(verdict, post, event)
        role = post.name.split()[0]
        _note_pace(verdict, role, post, (began, ended))
        error = post.folder / f"{post.name}.error"
        if error.exists():
            verdict.fail(f"{post.name} ended with an error that is not typed:\n{error.read_text()}")
    verdict.operations = +verdict.operations
    if verdict.wrong:
        verdict.fail(f"{verdict.wrong} wrong vectors were served")
    if verdict.lost:
        verdict.fail(f"{verdict.lost} rows were lost")
    if not verdict.pulls_judged:
        verdict.fail("no pull ended well: nothing was proved")
    return verdict


def _judge_one(verdict: Verdict, post: Post, event: dict[str, Any]) -> None:
    op = event["op"]
    verdict.compared += event.get("compared", 0)
    if event.get("wrong"):
        verdict.wrong += event["wrong"]
        verdict.fail(f"{post.name}: {event['wrong']} wrong vectors of a {op}")
    if op == "faults":
        verdict.faults.update(event["injected"])
    elif op == "error":
        verdict.errors[event["error"]] += 1
        if event["never"]:
            verdict.fail(f"{post.name}: {event['error']}, which no fault explains: {event['message']}")
    elif op == "restart" and event["missing"]:
        verdict.lost += event["missing"]
        verdict.fail(f"{post.name}: {event['missing']} committed rows are not in its mirror after a restart")
    elif op.startswith("pull "):
        verdict.bytes["pulled"] += event["bytes"]
        _judge_pull(verdict, post, event)
    elif op == "push":
        verdict.bytes["pushed"] += event["bytes"]
    else:
        _judge_maintenance(verdict, post, event)


def _judge_maintenance(verdict: Verdict, post: Post, event: dict[str, Any]) -> None:
    verdict.pruned.update(event.get("deleted", {}))
    if event["op"] == "prune by days" and event["deleted"]:
        verdict.fail(f"{post.name}: prune deleted packs that were minutes old")
    verdict.bytes["read by checks"] += event.get("bytes", 0)
    verdict.false_alarms += len(event.get("alarms", ()))
    verdict.failures += [f"{post.name}: false alarm of {event['op']}: {it}" for it in event.get("alarms", ())]


def has_proved(post: Post) -> bool:
    """Whether a reader has ended a pull without a problem that had to find rows."""
    return any(_proves(event) for event in post.events())


def _proves(event: dict[str, Any]) -> bool:
    return event["op"].startswith("pull ") and bool(event["due"]) and not event["problems"]


def _judge_pull(verdict: Verdict, post: Post, event: dict[str, Any]) -> None:
    """A pull that met no problem finds all that was acknowledged before it began."""
    due = rows_of({int(number): last for number, last in event["due"].items()})
    if event["compared"] + event["missing"] != due:
        verdict.fail(f"{post.name} looked for {event['compared'] + event['missing']} rows, and {due} were due")
    if _proves(event):
        verdict.pulls_judged += 1
        if event["missing"]:
            verdict.lost += event["missing"]
            verdict.fail(f"{post.name}: a {event['op']} misses {event['missing']} rows, such as {event['first']}")


def _note_pace(verdict: Verdict, role: str, post: Post, span: tuple[float, float]) -> None:
    """Rounds a minute and memory, by quarter of the run."""
    quarter = (span[1] - span[0]) / QUARTERS
    rates = verdict.rates.setdefault(role, [0.0] * QUARTERS)
    memory = verdict.memory.setdefault(role, [0] * QUARTERS)
    for event in post.events():
        which = min(QUARTERS - 1, max(0, int((event["at"] - span[0]) / quarter)))
        if event["op"] not in SILENT | {"encode", "restart", "check mirror", "prune by days"}:
            rates[which] += 60 / quarter
        verdict.processor[event["pid"]] = event["processor"]
        verdict.peak = max(verdict.peak, event["peak"])
        memory[which] = max(memory[which], event["resident"])


def turns_of(posts: Iterable[Post]) -> tuple[dict[int, int], dict[int, int]]:
    """Return the last turn of each writer that was acknowledged, and the last that was committed."""
    found: tuple[dict[int, int], dict[int, int]] = ({}, {})
    for post in posts:
        for event in post.events():
            if event["op"] in {"ack", "commit"}:
                found[event["op"] == "commit"][post.number] = event["turn"]
    return found


def rows_of(turns: dict[int, int]) -> int:
    """Return how many distinct rows there are in all turns up to the last of each writer."""
    own = sum(last + 1 for last in turns.values()) * OWN_ROWS
    return sum(
        own + len(set[str]().union(*(shared_upto(number, last, which) for number, last in turns.items())))
        for which in range(len(SPECS))
    )


@cache
def shared_upto(number: int, last: int, which: int) -> frozenset[str]:
    """Return the texts that a writer has in common with others, up to a turn."""
    shared: frozenset[str] = frozenset()
    for turn in range(last + 1):
        if len(shared) == SHARED:
            break
        shared = shared.union(batch(number, turn, which)[OWN_ROWS:])
    return shared
