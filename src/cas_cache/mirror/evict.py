"""Free disk space: remove whole packs, the least recently used first, until the mirror is small enough.

Pending rows stay. The repository has the evicted packs, and the next pull that misses some of their rows downloads them
again. Packs that the repository lacked at the last pull stay. A namespace that another process has open is left
unchanged.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cas_cache.display import Displayable, facts, pluralize, size
from cas_cache.errors import MirrorError, MirrorWriteError
from cas_cache.files.disk import is_full
from cas_cache.format.rows import KEY_AND_DIGEST_BYTES
from cas_cache.mirror.rewrite import rewrite
from cas_cache.mirror.state import joined
from cas_cache.mirror.usage import read_usage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Group

    from cas_cache.mirror.mirror import Mirror
    from cas_cache.mirror.namespace import Namespace
    from cas_cache.mirror.state import Extent, State

INDEX_BYTES = 16


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pack whose rows can be evicted.

    Attributes:
        namespace: The id of the namespace.
        pack: The id of the pack.
        rows: Number of rows that came from the pack.
        bytes: Disk space that the rows take.
        used: Last use in seconds since 1970; 0 if it is unknown.
    """

    namespace: str
    pack: str
    rows: int
    bytes: int
    used: float


@dataclass(slots=True)
class EvictReport(Displayable):
    """Result of an eviction, or of a dry run.

    Attributes:
        evicted: Packs that were or would be removed, the least recently used first.
        before: Bytes of all rows before the eviction.
        after: Bytes of the rows that stay.
        waiting: Bytes of pending rows, which stay.
        in_use: Ids of namespaces that are unchanged because other processes have them open.
    """

    evicted: list[Candidate] = field(default_factory=list)
    before: int = 0
    after: int = 0
    waiting: int = 0
    in_use: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"EvictReport(evicted={len(self.evicted)} packs, before={self.before}, after={self.after})"

    def __rich__(self) -> Group:
        values = {
            "packs evicted": len(self.evicted),
            "before": size(self.before),
            "after": size(self.after),
            "pending, and stays": size(self.waiting),
            "left as they are, because in use": self.in_use,
        }
        return facts("What was evicted", values)

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
            "bytes_pending": self.waiting,
            "in_use": self.in_use,
        }


def plan_evict(candidates: Iterable[Candidate], *, total: int, max_bytes: int) -> list[Candidate]:
    """Choose the packs to remove. Pure.

    Args:
        candidates: Packs whose rows can be evicted.
        total: Bytes of all rows.
        max_bytes: Maximum number of bytes that may stay.
    """
    chosen = []
    for candidate in sorted(candidates, key=lambda item: (item.used, item.namespace, item.pack)):
        if total <= max_bytes:
            break
        chosen.append(candidate)
        total -= candidate.bytes
    return chosen


def smallest_rewrite_first(chosen: Iterable[Candidate], before: dict[str, int]) -> list[str]:
    """Return the namespaces of the chosen packs, those with the fewest bytes to keep first. Pure.

    The remaining rows of a namespace are written again. In this order each namespace makes room for the next on a full
    disk.

    Args:
        chosen: Packs to remove.
        before: Bytes of each namespace.
    """
    remaining: dict[str, int] = {}
    for candidate in chosen:
        remaining[candidate.namespace] = (
            remaining.get(candidate.namespace, before[candidate.namespace]) - candidate.bytes
        )
    return sorted(remaining, key=lambda name: (remaining[name], name))


def evict(mirror: Mirror, max_bytes: int, *, dry_run: bool = False) -> EvictReport:
    """Remove the least recently used packs until the mirror's rows take at most `max_bytes`.

    A namespace that keeps rows is written again, which temporarily takes as much space as these rows. If the disk is
    too full for that, all packs of the namespace that the repository has are removed. A namespace that keeps no rows
    needs no space.

    Args:
        mirror: The mirror. Namespaces that were taken from it before must be taken again.
        max_bytes: Maximum number of bytes that may stay. Pending rows stay in any case.
        dry_run: Change nothing.

    Raises:
        DamagedMirror: If a namespace is damaged. Nothing was changed.
        MirrorWriteError: If a write fails, or the disk is too full to write pending rows again. No row was lost.
    """
    report = EvictReport()
    candidates: list[Candidate] = []
    kept: dict[str, int] = {}
    for ns in mirror.iter_namespaces():
        name = ns.spec.namespace
        each = ns.row_bytes + KEY_AND_DIGEST_BYTES + INDEX_BYTES
        kept[name] = ns.rows * each
        report.before += kept[name]
        report.waiting += ns.pending_rows * each
        # Released at once: a lock takes a descriptor, and there may be thousands of namespaces.
        if not ns.reserve():
            report.in_use.append(name)
            continue
        try:
            candidates += [Candidate(name, pack, rows, rows * each, used) for pack, rows, used in packs_by_use(ns)]
        finally:
            ns.unreserve()
    report.evicted = plan_evict(candidates, total=report.before, max_bytes=max_bytes)
    if not dry_run:
        for name in smallest_rewrite_first(report.evicted, kept):
            _evict_from(mirror, name, candidates, report)
    report.after = report.before - sum(candidate.bytes for candidate in report.evicted)
    return report


def _evict_from(mirror: Mirror, name: str, candidates: list[Candidate], report: EvictReport) -> None:
    """Remove the chosen packs of a namespace, or report that another process has opened it since they were chosen."""
    ns = mirror.get(name)
    if ns is None or not ns.reserve():
        report.in_use.append(name)
        report.evicted = [candidate for candidate in report.evicted if candidate.namespace != name]
        return
    try:
        mirror.forget(name)
        gone = evict_packs(ns, [candidate.pack for candidate in report.evicted if candidate.namespace == name])
    finally:
        ns.unreserve()
    mine = [candidate for candidate in candidates if candidate.namespace == name and candidate.pack in gone]
    report.evicted += [candidate for candidate in mine if candidate not in report.evicted]


def forget_packs(mirror: Mirror, packs: Iterable[str], *, dry_run: bool = False) -> int:
    """Remove the rows of dropped packs, so that they are encoded again; return how many.

    Args:
        mirror: The mirror. Namespaces that were taken from it before must be taken again.
        packs: Ids of the packs.
        dry_run: Change nothing.

    Raises:
        MirrorError: If another process has such a namespace open. Its rows stay until the command is repeated.
        MirrorWriteError: If the disk is full or a write fails.
    """
    gone, removed = frozenset(packs), 0
    for ns in mirror.iter_namespaces():
        rows = rows_of(ns, gone)
        if rows and not dry_run:
            if not ns.reserve():
                raise MirrorError(
                    f"{ns.folder} is open in another process and still has {pluralize(rows, 'row')} of the dropped "
                    "pack. Close that process and do the same again."
                )
            try:
                mirror.forget(ns.spec.namespace)
                ns.remote_keys.forget()
                evict_packs(ns, gone)
            finally:
                ns.unreserve()
        removed += rows
    return removed


def packs_by_use(ns: Namespace) -> list[tuple[str, int, float]]:
    """Return (pack, rows in the mirror, last use in seconds since 1970) of each pack that can be evicted.

    Packs that the repository lacked at the last pull cannot be: the mirror may have the only copy of their rows.
    """
    used, rows, state = read_usage(ns.folder), Counter[str](), ns.table.state
    for extent in state.extents:
        if extent.pack is not None and extent.pack not in state.missing:
            rows[extent.pack] += extent.rows
    return [(pack, count, used.get(pack, 0.0)) for pack, count in rows.items()]


def rows_of(ns: Namespace, packs: frozenset[str]) -> int:
    """Return how many rows came from these packs, or were published in them."""
    return sum(extent.rows for extent in ns.table.state.extents if extent.pack in packs)


def evict_packs(ns: Namespace, packs: Iterable[str]) -> frozenset[str]:
    """Remove the rows that came from these packs from a reserved namespace, and close it.

    Returns:
        The packs whose rows were removed. If the disk is too full to write the remaining rows again, these are all
        packs that can be evicted.

    Raises:
        MirrorWriteError: If a write fails, or the disk is too full to write the remaining rows again. No row was lost.
    """
    chosen = frozenset(packs)
    try:
        with ns.locked():
            # Index and memo go first: after a crash there is no index, rather than one with the old row numbers.
            ns.index.prune(0)
            ns.memo.clear()
            try:
                _rewrite_without(ns, chosen)
            except MirrorWriteError as err:
                every = chosen.union(pack for pack, _, _ in packs_by_use(ns))
                if every == chosen or not is_full(err):
                    raise
                chosen = every
                _rewrite_without(ns, chosen)
            return chosen
    finally:
        # The next process that opens the namespace finishes a rewrite that failed midway.
        ns.close()


def _rewrite_without(ns: Namespace, packs: frozenset[str]) -> None:
    state, runs = without_packs(ns.table.state, packs)
    rewrite(ns.table, runs, state)


def without_packs(state: State, packs: Iterable[str]) -> tuple[State, list[tuple[int, int]]]:
    """Return a state without the rows of some packs, and the runs of rows that stay, (start, stop) each. Pure.

    Pending rows stay. A pack is forgotten, so that the next pull reads it again, if some of its rows may be missing
    from the mirror now: the evicted packs, packs some of whose rows the mirror already had from another source when
    it read them, and superseded packs.
    """
    gone = frozenset(packs)
    extents: list[Extent] = []
    runs: list[tuple[int, int]] = []
    own: dict[str, int] = {}
    rows = 0
    for extent in state.extents:
        if extent.pack is not None:
            own[extent.pack] = own.get(extent.pack, 0) + extent.rows
        if extent.pack is None or extent.pack not in gone:
            extents.append(replace(extent, start=rows))
            runs.append((extent.start, extent.stop))
            rows += extent.rows
    whole = {pack for pack in state.applied if own.get(pack, 0) == state.applied[pack]} - gone - state.superseded
    left = replace(
        state,
        rows=rows,
        extents=joined(extents),
        applied={pack: count for pack, count in state.applied.items() if pack in whole},
        complete=state.complete & whole,
        superseded=frozenset(),
        generation=state.generation + 1,
    )
    return left, runs
