"""Free disk space: the packs that were used longest ago go, whole, until the mirror is small enough.

Rows that wait to be pushed stay. What goes is in the repository, and the next pull that misses some of it brings it
back; what the repository lacked at the last pull stays. Plan, then run; a namespace that others have open is left as it
is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cas_cache import html
from cas_cache.errors import MirrorError
from cas_cache.formatting import pluralize, size
from cas_cache.identity import KEY_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cas_cache.mirror.mirror import Mirror

DIGEST_BYTES = 8
INDEX_BYTES = 16


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pack whose rows can be evicted.

    Attributes:
        namespace: Whose.
        pack: Its id.
        rows: How many rows came from it.
        bytes: What they take.
        used: Its last use, in seconds since 1970; 0 if that is not known.
    """

    namespace: str
    pack: str
    rows: int
    bytes: int
    used: float


@dataclass(slots=True)
class EvictReport:
    """What an eviction did, or would do.

    Attributes:
        evicted: The packs that went, or would go, the longest unused first.
        before: Bytes that all rows took.
        after: Bytes that those take that stay.
        waiting: Bytes of the rows that stay because they wait to be pushed.
        in_use: Ids of namespaces that were left as they are, because others have them open.
    """

    evicted: list[Candidate] = field(default_factory=list)
    before: int = 0
    after: int = 0
    waiting: int = 0
    in_use: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"EvictReport(evicted={len(self.evicted)} packs, before={self.before}, after={self.after})"

    def _repr_html_(self) -> str:
        rows = [
            ("packs evicted", len(self.evicted)),
            ("before", size(self.before)),
            ("after", size(self.after)),
            ("waits to be pushed, and stays", size(self.waiting)),
        ]
        return html.facts("What was evicted", rows) + html.lines("left as they are, because in use", self.in_use)

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain JSON."""
        return {
            "evicted": [
                {
                    "namespace": candidate.namespace,
                    "pack": candidate.pack,
                    "rows": candidate.rows,
                    "bytes": candidate.bytes,
                    "last_used": candidate.used,
                }
                for candidate in self.evicted
            ],
            "bytes_before": self.before,
            "bytes_after": self.after,
            "bytes_waiting": self.waiting,
            "in_use": self.in_use,
        }


def plan_evict(candidates: Iterable[Candidate], *, total: int, max_bytes: int) -> list[Candidate]:
    """Choose what goes. Pure.

    Args:
        candidates: The packs whose rows can go.
        total: Bytes that all rows take.
        max_bytes: How much may stay.
    """
    chosen = []
    for candidate in sorted(candidates, key=lambda item: (item.used, item.namespace, item.pack)):
        if total <= max_bytes:
            break
        chosen.append(candidate)
        total -= candidate.bytes
    return chosen


def smallest_rewrite_first(chosen: Iterable[Candidate], before: dict[str, int]) -> list[str]:
    """Return the namespaces of what goes, those with the fewest bytes to keep first. Pure.

    The rows that stay are written again. On a full disk, each namespace so makes room for the next.

    Args:
        chosen: The packs that go.
        before: Bytes that each namespace takes.
    """
    remaining: dict[str, int] = {}
    for candidate in chosen:
        remaining[candidate.namespace] = (
            remaining.get(candidate.namespace, before[candidate.namespace]) - candidate.bytes
        )
    return sorted(remaining, key=lambda name: (remaining[name], name))


def evict(mirror: Mirror, max_bytes: int, *, dry_run: bool = False) -> EvictReport:
    """Remove the packs that were used longest ago until the mirror's rows take at most `max_bytes`.

    Args:
        mirror: Which. Namespaces that were taken from it before must be taken anew.
        max_bytes: How much may stay. Rows that wait to be pushed stay in any case.
        dry_run: Change nothing.

    A namespace that keeps rows is written again, which takes as much room as these for a while. Where the disk is too
    full for that, more of the namespace goes: all that is in the repository. A namespace that keeps no row needs no
    room.

    Raises:
        DamagedMirror: If a namespace is damaged. Nothing was changed.
        MirrorWriteError: If the disk refuses, or is too full to write the rows again that are pending. No row was lost.
    """
    report = EvictReport()
    candidates: list[Candidate] = []
    kept: dict[str, int] = {}
    for ns in mirror.iter_namespaces():
        name = ns.spec.namespace
        each = ns.row_bytes + KEY_BYTES + DIGEST_BYTES + INDEX_BYTES
        kept[name] = ns.rows * each
        report.before += kept[name]
        report.waiting += ns.pending_rows * each
        # Not kept until the end: a lock is a descriptor, and there may be thousands of namespaces.
        if not ns.reserve():
            report.in_use.append(name)
            continue
        try:
            candidates += [Candidate(name, pack, rows, rows * each, used) for pack, rows, used in ns.packs_by_use()]
        finally:
            ns.unreserve()
    report.evicted = plan_evict(candidates, total=report.before, max_bytes=max_bytes)
    if not dry_run:
        for name in smallest_rewrite_first(report.evicted, kept):
            _evict_from(mirror, name, candidates, report)
    report.after = report.before - sum(candidate.bytes for candidate in report.evicted)
    return report


def _evict_from(mirror: Mirror, name: str, candidates: list[Candidate], report: EvictReport) -> None:
    """Remove the chosen packs of a namespace, or report that somebody has opened it since they were chosen."""
    ns = mirror.get(name)
    if ns is None or not ns.reserve():
        report.in_use.append(name)
        report.evicted = [candidate for candidate in report.evicted if candidate.namespace != name]
        return
    try:
        mirror.forget(name)
        gone = ns.evict([candidate.pack for candidate in report.evicted if candidate.namespace == name])
    finally:
        ns.unreserve()
    mine = [candidate for candidate in candidates if candidate.namespace == name and candidate.pack in gone]
    report.evicted += [candidate for candidate in mine if candidate not in report.evicted]


def forget_packs(mirror: Mirror, packs: Iterable[str], *, dry_run: bool = False) -> int:
    """Remove the rows that came from packs that were dropped, so that they are encoded again; return how many.

    Args:
        mirror: The mirror. Namespaces that were taken from it before must be taken again.
        packs: Ids of the packs.
        dry_run: Change nothing.

    Raises:
        MirrorError: If another process has such a namespace open. Its rows stay until the same is done again.
        MirrorWriteError: If the disk is full or refuses.
    """
    gone, removed = frozenset(packs), 0
    for ns in mirror.iter_namespaces():
        rows = ns.rows_of(gone)
        if rows and not dry_run:
            if not ns.reserve():
                raise MirrorError(
                    f"{ns.folder} is open in another process and still has {pluralize(rows, 'row')} of the dropped "
                    "pack. Close that process and do the same again."
                )
            try:
                mirror.forget(ns.spec.namespace)
                ns.remote_keys.forget()
                ns.evict(gone)
            finally:
                ns.unreserve()
        removed += rows
    return removed
