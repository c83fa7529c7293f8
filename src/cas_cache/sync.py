"""Push and pull: the only place that sees both sides.

Push plans the mirror's waiting rows into packs and publishes them; what was planned is kept in the mirror until its
pack is published, so an interrupted push makes the same packs again. Pull takes the packs that the mirror does not know
and appends their rows, a chunk at a time, each committed; an interrupted pull goes on at the next chunk.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.errors import (
    CasCacheError,
    DamagedMirror,
    DamagedPack,
    RepositoryError,
    ShapeMismatch,
    SuspiciousListing,
    UnsupportedFormat,
)
from cas_cache.repository import most_rows_of_a_pack

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray
    from tqdm import tqdm

    from cas_cache.mirror import Mirror, Namespace, PlannedPack
    from cas_cache.repository import Manifest, Repository

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Report:
    """What a push or pull did.

    Attributes:
        packs: How many packs were published or read.
        rows: How many rows they held; after a pull, how many of them were new.
        bytes: Bytes of content that went over the wire.
        problems: What was passed over, and why: damaged packs, packs of a newer version. None of their rows was used.
    """

    packs: int = 0
    rows: int = 0
    bytes: int = 0
    problems: list[CasCacheError] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain JSON."""
        return {
            "packs": self.packs,
            "rows": self.rows,
            "bytes": self.bytes,
            "problems": [{"error": type(p).__name__, "message": str(p)} for p in self.problems],
        }


def push(
    mirror: Mirror,
    repository: Repository,
    namespaces: Iterable[str] | None = None,
    *,
    progress: bool | None = False,
) -> Report:
    """Publish the rows that wait in the mirror.

    Args:
        mirror: From where.
        repository: Where to; made if there is none.
        namespaces: Ids of those to push; None for all.
        progress: Show a progress bar; None where there is a terminal.

    Raises:
        RemoteError: If the remote is away or refuses. What was published before is noted, the rest waits.
        RepositoryMismatch: If the mirror belongs to another repository.
        SuspiciousListing: If the repository that the mirror belongs to is not there.
        DamagedMirror: If waiting rows do not agree with their digests.
    """
    report = Report()
    waiting = [ns for ns in _selected(mirror, namespaces, report) if ns.waiting_rows]
    if not waiting:
        return report
    if not meet(mirror, repository):
        repository.create()
        mirror.bind(repository.id, repository.url)
    total = sum(ns.waiting_rows * ns.row_bytes for ns in waiting)
    with _metered(repository, report), _bar("push", total, progress) as bar:
        for ns in waiting:
            repository.publish_spec(ns.spec)
            for plan in ns.plan(most_rows_of_a_pack(ns.row_bytes)):
                pack = repository.publish(ns.spec.namespace, _Planned(ns, plan), plan.nonce)
                ns.published(plan, pack)
                report.packs += 1
                report.rows += plan.rows
                bar.update(plan.rows * ns.row_bytes)
                logger.info("pushed pack %s: %d rows of %s", pack, plan.rows, ns.spec.model)
    return report


def pull(
    mirror: Mirror,
    repository: Repository,
    namespaces: Iterable[str] | None = None,
    *,
    progress: bool | None = False,
) -> Report:
    """Take the packs that the mirror does not know.

    A pack that does not verify is passed over, with all that it would have given from the damage on: its rows are
    misses. It is tried again at the next pull, until its rows have come from elsewhere.

    Args:
        mirror: Where to.
        repository: From where.
        namespaces: Ids of those to pull; None for all.
        progress: Show a progress bar; None where there is a terminal.

    Raises:
        RemoteError: If the remote is away or refuses. What was taken before is committed.
        RepositoryMismatch: If the mirror belongs to another repository.
        SuspiciousListing: If packs that are known to be there are not listed.
    """
    report = Report()
    wanted = None if namespaces is None else list(namespaces)
    with _metered(repository, report):
        if not meet(mirror, repository):
            return report
        listed = _listed(repository, wanted)
        _check_listing(mirror, repository, listed, wanted, report)
        missing = []
        for namespace, packs in listed.items():
            ns = mirror.get(namespace)
            missing += [(namespace, pack) for pack in packs if ns is None or pack not in ns.packs]
        with _bar("pull", 0, progress) as bar:
            for namespace, pack in missing:
                _pull_pack(mirror, repository, (namespace, pack), report, bar)
    return report


def meet(mirror: Mirror, repository: Repository) -> bool:
    """Open the repository and let the mirror belong to it: one request the first time.

    Returns:
        False where there is no repository yet and the mirror belongs to none.

    Raises:
        RepositoryMismatch: If the mirror belongs to another repository.
        SuspiciousListing: If the repository that the mirror belongs to is not there.
        NotARepository: If something else is there.
        RemoteError: If the remote is away or refuses.
    """
    if repository.open():
        mirror.bind(repository.id, repository.url)
        return True
    if mirror.repository is not None:
        raise SuspiciousListing(
            f"{repository.url} is empty, but the mirror {mirror.directory} belongs to the repository that was at "
            f"{mirror.repository_url}. Nothing was changed. Check the URL. If that repository is gone for good, "
            "push(rebind=True) (`cas-cache push --rebind`) sends every row to this one."
        )
    return False


def _pull_pack(mirror: Mirror, repository: Repository, name: tuple[str, str], report: Report, bar: tqdm[Any]) -> None:
    """Read one pack into the mirror; what is wrong with it goes into the report."""
    namespace, pack = name
    try:
        manifest = repository.manifest(namespace, pack)
        ns = mirror.get(namespace) or mirror.namespace(repository.spec(namespace))
        _check_kind(ns, manifest, pack)
        _pull_rows(ns, repository, (pack, manifest), report, bar)
    except (RepositoryError, UnsupportedFormat, ShapeMismatch) as problem:
        logger.warning("passed over pack %s: %s", pack, problem)
        report.problems.append(problem)
    else:
        report.packs += 1
        logger.info("pulled pack %s: %d rows of %s", pack, manifest.rows, ns.spec.model)


def _pull_rows(
    ns: Namespace, repository: Repository, named: tuple[str, Manifest], report: Report, bar: tqdm[Any]
) -> None:
    """Take what the mirror has not of a pack; its vectors are not read if every key is here already."""
    pack, manifest = named
    keys = repository.keys(pack, manifest)
    if ns.holds(keys):
        ns.skip(pack, manifest.rows)
        return
    done = ns.applied_rows(pack)
    bar.total = (bar.total or 0) + (manifest.rows - done) * manifest.vector_bytes
    bar.refresh()
    for some_keys, vectors, upto in repository.read(pack, manifest, keys, done):
        report.rows += ns.append(some_keys, vectors, pack=pack, upto=(upto, manifest.rows))
        bar.update(len(some_keys) * manifest.vector_bytes)


def _check_kind(ns: Namespace, manifest: Manifest, pack: str) -> None:
    if ns.dtype is not None and (ns.dtype.name, ns.shape) != (manifest.dtype, manifest.shape):
        raise DamagedPack(
            f"The pack {pack} holds {manifest.dtype} vectors of shape {manifest.shape}; the namespace "
            f"{ns.spec.namespace} ({ns.spec.model}) has {ns.dtype.name} of shape {ns.shape} here. One of the two was "
            "made by another model or setting under the same name. The pack is passed over.",
            pack=pack,
        )


def _listed(repository: Repository, wanted: list[str] | None) -> dict[str, list[str]]:
    """The visible packs by namespace: one listing for all, or one for each namespace asked for."""
    listed: dict[str, list[str]] = {}
    for part in [None] if wanted is None else wanted:
        for namespace, pack in repository.packs(part):
            listed.setdefault(namespace, []).append(pack)
    return listed


def _check_listing(
    mirror: Mirror, repository: Repository, listed: dict[str, list[str]], wanted: list[str] | None, report: Report
) -> None:
    """Refuse a listing that shows nothing where packs are known to be, and report packs that have gone."""
    for ns in _selected(mirror, wanted, report):
        there = listed.get(ns.spec.namespace)
        if ns.packs and not there:
            raise SuspiciousListing(
                f"{repository.url} lists no pack of namespace {ns.spec.namespace} ({ns.spec.model}), but this mirror "
                f"knows {len(ns.packs)}. Nothing was changed. If the namespace was dropped on purpose, delete "
                f"{ns.folder}; if not, check the bucket and try again."
            )
        gone = sorted(ns.packs.difference(there or ()))
        if gone:
            report.problems.append(
                SuspiciousListing(
                    f"{len(gone)} packs of namespace {ns.spec.namespace} ({ns.spec.model}) that this mirror knows are "
                    f"not in {repository.url} any more, the first is {gone[0]}. Their rows are still in the mirror "
                    f"{mirror.directory}; push(rebind=True) (`cas-cache push --rebind`) sends them again."
                )
            )


def _selected(mirror: Mirror, namespaces: Iterable[str] | None, report: Report) -> list[Namespace]:
    """The mirror's namespaces, or those asked for; a damaged one is a problem of its own, not of the others."""
    selected = []
    for namespace in mirror.ids() if namespaces is None else namespaces:
        try:
            ns = mirror.get(namespace)
            if ns is not None:
                ns.refresh()
                selected.append(ns)
        except (DamagedMirror, UnsupportedFormat) as problem:
            if str(problem) not in map(str, report.problems):
                logger.warning("passed over namespace %s: %s", namespace, problem)
                report.problems.append(problem)
    return selected


@contextmanager
def _metered(repository: Repository, report: Report) -> Iterator[None]:
    """Count the bytes that pass while the block runs."""
    traffic = repository.storage.traffic
    before = traffic.up + traffic.down
    try:
        yield
    finally:
        report.bytes = traffic.up + traffic.down - before


def _bar(what: str, total: int, progress: bool | None) -> tqdm[Any]:
    from tqdm import tqdm

    # tqdm: disable=None shows the bar on a terminal only.
    disable = None if progress is None else not progress
    return tqdm(desc=what, total=total, unit="B", unit_scale=True, disable=disable, leave=False)


class _Planned:
    """A planned pack of the mirror as the rows of a pack of the repository."""

    def __init__(self, ns: Namespace, plan: PlannedPack) -> None:
        self._ns = ns
        self._plan = plan
        self.rows = plan.rows
        self.dtype: np.dtype[Any] = ns.dtype or np.dtype(np.float32)
        self.shape = ns.shape

    def column(self, array: str, start: int, stop: int) -> NDArray[Any]:
        return self._ns.read(self._plan, array, start, stop)
