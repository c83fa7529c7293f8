"""What the processes of a soak do: write, read, merge, prune and check."""

import json
import os
import shutil
import time
from contextlib import suppress

import numpy as np

from cas_cache import EmbeddingCache
from cas_cache.mirror import Mirror
from cas_cache.mirror.check import check_mirror
from cas_cache.repository import pruning
from cas_cache.repository.check_report import Severity
from cas_cache.repository.checking import check
from cas_cache.repository.compacting import compact
from soak.workers import SPECS, Post, batch, note_problems, noting_errors, rounds, texts_of, vectors_of, wrong_rows

PULLS = 6
"""How often a reader pulls before it looks: where one request in a hundred lies, one of hundreds does."""

HARMLESS = frozenset({"superseded", "duplicate-keys", "orphan"})
"""Kinds of findings that are right where writers are killed and packs are merged; any other is a false alarm."""


# Writers -------------------------------------------------------------------------------------------------------------


def write(post: Post) -> None:
    """Encode and push in turns, each acknowledged when its push has returned."""
    events = post.events()
    turn = max((event["turn"] for event in events if event["op"] == "commit"), default=-1)
    _nothing_was_lost(post, turn)
    caches: list[EmbeddingCache] = []

    def one_turn() -> None:
        nonlocal turn
        if not caches or turn % 4 == 0:
            caches[:] = [post.cache(self_check=8 * (post.number == 2), lazy=post.number == 3)]
        _encode(post, caches[0], turn + 1)
        post.note(op="commit", turn=turn + 1)
        turn += 1
        if post.number == 5:
            with post.cache(push="background", on_remote_error="warn") as pushing_by_itself:
                _encode(post, pushing_by_itself, turn)
        if post.sabotage != "lost":
            report = caches[0].push()
            post.note(op="push", rows=report.rows, bytes=report.bytes)
        post.note(op="ack", turn=turn)
        if turn % 16 == 0:
            _check_own_mirror(post)

    rounds(post, one_turn)


def _encode(post: Post, cache: EmbeddingCache, turn: int) -> None:
    """Encode the texts of a turn with each of `SPECS`, and compare what comes back."""
    wrong = rows = 0
    for which, spec in enumerate(SPECS):
        texts = batch(post.number, turn, which)
        vectors = cache.encode(texts, spec, lambda missing, which=which: vectors_of(which, missing), adds_prompt=True)
        wrong += wrong_rows(which, texts, vectors)
        rows += len(texts)
    post.note(op="encode", compared=rows, wrong=wrong)


def _nothing_was_lost(post: Post, last: int) -> None:
    """After a start: what was committed before is in the mirror, without the network."""
    with noting_errors(post):
        cache = EmbeddingCache(post.folder / post.mirror, offline=True, progress=False)
        missing = wrong = compared = 0
        for which, spec in enumerate(SPECS):
            texts = texts_of({post.number: last}, which)
            vectors, found = cache.get(texts, spec)
            missing += int((~found).sum())
            compared += int(found.sum())
            here = [text for text, there in zip(texts, found, strict=True) if there]
            wrong += wrong_rows(which, here, vectors[found]) if here else 0
        post.note(op="restart", compared=compared, missing=missing, wrong=wrong)


def _check_own_mirror(post: Post) -> None:
    report = check_mirror(Mirror(post.folder / post.mirror))
    post.note(op="check mirror", alarms=[f"{it.kind}: {it.what}" for it in report.findings])


# Readers -------------------------------------------------------------------------------------------------------------


class Acknowledged:
    """The last turn of each writer that was acknowledged, by its journal."""

    def __init__(self, post: Post) -> None:
        self._folder = post.folder
        self._read: dict[str, int] = {}
        self.turns: dict[int, int] = {}

    def look(self) -> dict[int, int]:
        """Read what the journals have since the last look."""
        for path in self._folder.glob("writer *.journal"):
            with path.open("rb") as file:
                file.seek(self._read.get(path.name, 0))
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._read[path.name] = self._read.get(path.name, 0) + len(line)
                    event = json.loads(line)
                    if event["op"] == "ack":
                        self.turns[int(path.stem.split()[1])] = event["turn"]
        return dict(self.turns)


def read(post: Post) -> None:
    """Pull, and look up all that was acknowledged before the pull began; every vector is compared."""
    acknowledged = Acknowledged(post)
    rounds(post, lambda: _pull_and_look(post, acknowledged.look()))


def _pull_and_look(post: Post, due: dict[int, int]) -> None:
    kind = ("old", "new", "lazy", "old")[post.number % 4]
    folder = f"{post.mirror} {os.getpid()}" if kind == "new" else post.mirror
    cache = post.cache(post.folder / folder, lazy=kind == "lazy")
    try:
        began = time.monotonic()
        problems = _pulled(post, cache, lazy=kind == "lazy")
        missing, wrong, compared = [], 0, 0
        for which, spec in enumerate(SPECS):
            texts = texts_of(due, which)
            vectors, found = cache.get(texts, spec)
            if post.sabotage == "wrong" and found.any():
                vectors[np.flatnonzero(found)[0]] = 0
            here = [text for text, there in zip(texts, found, strict=True) if there]
            wrong += wrong_rows(which, here, vectors[found]) if here else 0
            compared += len(here)
            missing += [f"{which}: {text}" for text, there in zip(texts, found, strict=True) if not there]
        post.note(
            op=f"pull {kind}",
            began=began,
            bytes=cache.stats.bytes_pulled,
            due={str(number): last for number, last in due.items()},
            compared=compared,
            missing=len(missing),
            first=missing[:3],
            wrong=wrong,
            problems=problems,
        )
    finally:
        if kind == "new":
            with suppress(OSError):
                shutil.rmtree(post.folder / folder)


def _pulled(post: Post, cache: EmbeddingCache, *, lazy: bool) -> int:
    """Pull until nothing was skipped, a few times: what was taken is kept. Return how many problems are left."""
    left = 1
    for _ in range(PULLS):
        with noting_errors(post):
            report = cache.pull_keys() if lazy else cache.pull()
            note_problems(post, report.problems)
            left = len(report.problems)
            if not left:
                break
    return left


# Maintenance ---------------------------------------------------------------------------------------------------------


def merge(post: Post) -> None:
    """Compact."""

    def one_round() -> None:
        repository = post.repository()
        if repository.open():
            report = compact(repository, at_least=post.at_least)
            post.note(op="compact", merges=len(report.written), rows=report.rows, taken_back=report.taken_back)
            note_problems(post, report.problems)

    rounds(post, one_round)


def sweep(post: Post) -> None:
    """Prune with the short grace; and with the real one, which deletes nothing of a repository that is minutes old."""

    def one_round() -> None:
        repository = post.repository()
        if repository.open() and repository.packs():
            report = pruning.prune(repository, grace=post.grace)
            reasons = [it.reason for it in report.deletions]
            post.note(op="prune", deleted={reason: reasons.count(reason) for reason in set(reasons)})
            real = pruning.prune(repository, grace=7 * 86_400.0)
            post.note(op="prune by days", deleted={"": len(real.deletions)} if real.deletions else {})

    rounds(post, one_round)


def watch(post: Post) -> None:
    """Check, in turn quickly and reading all data, past the faults: every alarm is a false one."""
    turn = 0

    def one_round() -> None:
        nonlocal turn
        repository = post.repository(direct=True)
        if repository.open():
            turn += 1
            report = check(repository, read_data=turn % 2 == 0)
            alarms = [it for it in report.findings if it.kind not in HARMLESS]
            post.note(
                op="check" if turn % 2 else "check --read-data",
                packs=report.packs,
                bytes=report.bytes,
                losses=sum(it.severity is Severity.LOSS for it in alarms),
                alarms=[f"{it.kind} {it.path}: {it.what}" for it in alarms],
            )

    rounds(post, one_round)
