"""Pull: download the packs that the mirror does not have.

Rows are appended and committed one chunk at a time; an interrupted pull continues at the next chunk. Small packs are
read concurrently and committed together. A merge is read in place of the packs that it supersedes; these are read only
if the merge cannot be.
"""

from __future__ import annotations

import logging
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from cas_cache.errors import (
    CasCacheError,
    CredentialInSpec,
    DamagedMirror,
    IncompleteListing,
    RepositoryError,
    ShapeMismatch,
    UnsupportedFormat,
    UntrustedPack,
)
from cas_cache.format.layout import PackRef
from cas_cache.format.manifest import Manifest, superseders
from cas_cache.sync.connecting import connect, selected
from cas_cache.sync.report import Report, bar_of, metered, note_skipped, note_untrusted
from cas_cache.sync.small_packs import check_kind, is_small, pull_small

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from cas_cache.mirror import Mirror, Namespace
    from cas_cache.progress import Bar
    from cas_cache.repository import Repository

logger = logging.getLogger(__name__)

MAX_LISTINGS = 3
"""Maximum number of listings of one pull. It lists again if another process merged and pruned packs since the last
listing."""


def pull(
    mirror: Mirror,
    repository: Repository,
    namespaces: Iterable[str] | None = None,
    *,
    progress: bool | None = False,
) -> Report:
    """Download packs that the mirror does not have.

    A pack that fails verification is skipped from the damage on: its remaining rows are misses. The next pull tries it
    again, until its rows have come from elsewhere.

    Args:
        mirror: The mirror to write to.
        repository: The repository to read.
        namespaces: Ids of the namespaces to pull; None for all.
        progress: Show a progress bar; None shows it on a terminal only.

    Raises:
        RemoteError: If the remote is unreachable or refuses a request. Rows that were read before are committed.
        RepositoryMismatch: If the mirror belongs to another repository.
        IncompleteListing: If the repository does not list packs that it is known to have.
    """
    report = Report()
    requested = None if namespaces is None else list(namespaces)
    with metered(repository, report), bar_of("pull", 0, progress) as bar:
        if not connect(mirror, repository):
            return report
        listed, known = read_listed(
            mirror,
            repository,
            requested,
            report,
            known=lambda ns: ns.ledger.lasting_packs,
            read=lambda namespace, packs: _pull_namespace(mirror, repository, namespace, packs, report, bar),
        )
        _note_gone(mirror, repository, listed, known, report)
    return report


def read_listed(
    mirror: Mirror,
    repository: Repository,
    requested: list[str] | None,
    report: Report,
    *,
    known: Callable[[Namespace], frozenset[str]],
    read: Callable[[str, list[str]], bool],
) -> tuple[dict[str, list[str]], dict[str, frozenset[str]]]:
    """List the repository and read each namespace; list again if packs have disappeared since.

    Args:
        mirror: The mirror to write to.
        repository: The repository to read.
        requested: Ids of the namespaces to read; None for all.
        report: Report that collects skipped packs and namespaces.
        known: Returns the packs that a namespace expects the repository to have.
        read: Reads those packs of a namespace that the mirror lacks, given the namespace and its packs; returns True
            if one of them has disappeared since it was listed.

    Returns:
        The packs of the last listing, and those that were known before it, by namespace.

    Raises:
        The same errors as `pull`.
    """
    for _ in range(MAX_LISTINGS):
        # Collected before the listing: packs that another process of this mirror publishes meanwhile are not missing.
        known_packs = {ns.spec.namespace: known(ns) for ns in selected(mirror, requested, report)}
        listed = _listed(repository, requested)
        _check_listing(mirror, repository, listed, known_packs, report, every=requested is None)
        gone = [read(namespace, packs) for namespace, packs in listed.items()]
        if not any(gone):
            break
        logger.info("packs have gone since they were listed: listing again")
    return listed, known_packs


def manifests_of(
    repository: Repository, namespace: str, packs: list[str], report: Report
) -> tuple[dict[str, Manifest], bool]:
    """Return the manifests of packs, in their order, and True if a pack has disappeared since it was listed.

    Manifests that cannot be read for another reason are reported as problems.
    """
    asked = [PackRef(namespace, pack) for pack in packs]
    manifests: dict[str, Manifest] = {}
    gone = False
    for ref, manifest in zip(asked, repository.manifests(asked), strict=True):
        if isinstance(manifest, Manifest):
            manifests[ref.pack] = manifest
        elif isinstance(manifest, UntrustedPack):
            note_untrusted(manifest, report)
        else:
            gone |= is_gone(repository, ref, manifest, report)
    return manifests, gone


def _pull_namespace(
    mirror: Mirror, repository: Repository, namespace: str, packs: list[str], report: Report, bar: Bar
) -> bool:
    """Read the packs of a namespace that the mirror lacks; read merges in place of the packs they supersede.

    Returns:
        True if a pack has disappeared since it was listed, so that other packs may hold its rows.
    """
    try:
        ns = mirror.get(namespace)
        known = frozenset() if ns is None else ns.packs
    except (DamagedMirror, UnsupportedFormat) as problem:
        note_skipped(f"namespace {namespace}", problem, report)
        return False
    manifests, gone = manifests_of(repository, namespace, [pack for pack in packs if pack not in known], report)
    later = superseders(manifests).keys()
    # The total is set at once, so that the estimated time is that of the namespace and not of a pack.
    bar.total = (bar.total or 0) + sum(m.rows * m.vector_bytes for pack, m in manifests.items() if pack not in later)
    # Superseded packs come last. If their merge could be read, they are known by then and are not read.
    order = sorted(manifests, key=lambda pack: pack in later)
    ns = mirror.get(namespace)
    alone = later | ({pack for pack in order if ns.ledger.applied_rows(pack)} if ns is not None else set())
    for small, group in groupby(order, lambda pack: pack not in alone and is_small(manifests[pack])):
        read = pull_small if small else _pull_each
        chosen = {pack: manifests[pack] for pack in group}
        for pack, wrong in read(mirror, repository, namespace, chosen, report, bar):
            gone |= is_gone(repository, PackRef(namespace, pack), wrong, report)
    return gone


def _pull_each(
    mirror: Mirror, repository: Repository, namespace: str, manifests: dict[str, Manifest], report: Report, bar: Bar
) -> Iterator[tuple[str, CasCacheError]]:
    """Read packs one after the other; yield those that could not be read, with the error."""
    for pack, manifest in manifests.items():
        ns = mirror.get(namespace)
        if ns is not None and pack in ns.packs:
            continue
        problem = _pull_pack(mirror, repository, pack, manifest, report, bar)
        if problem is not None:
            yield pack, problem


def is_gone(repository: Repository, ref: PackRef, problem: CasCacheError, report: Report) -> bool:
    """Return True if a pack could not be read because it was deleted; report any other problem."""
    if repository.has_gone(ref, problem):
        return True
    note_skipped(f"pack {ref.pack}", problem, report)
    return False


def _pull_pack(
    mirror: Mirror, repository: Repository, pack: str, manifest: Manifest, report: Report, bar: Bar
) -> CasCacheError | None:
    """Read one pack into the mirror; return the error if it cannot be read."""
    namespace = manifest.namespace
    try:
        ns = mirror.get(namespace) or mirror.namespace(repository.spec(namespace))
        check_kind(ns, manifest, pack)
        with ns.held():
            if manifest.supersedes and ns.packs.issuperset(manifest.supersedes):
                ns.ledger.skip(pack, manifest.rows, manifest.supersedes)
                bar.total -= manifest.rows * manifest.vector_bytes
            else:
                _pull_rows(ns, repository, pack, manifest, report, bar)
    except (RepositoryError, UnsupportedFormat, ShapeMismatch, CredentialInSpec) as problem:
        return problem
    report.packs += 1
    logger.info("pulled pack %s: %d rows of %s", pack, manifest.rows, ns.spec.model)
    return None


def _pull_rows(ns: Namespace, repository: Repository, pack: str, manifest: Manifest, report: Report, bar: Bar) -> None:
    """Store the new rows of a pack. Its vectors are not read if the mirror has every key already."""
    keys = repository.keys(pack, manifest)
    if ns.holds(keys):
        ns.ledger.skip(pack, manifest.rows, manifest.supersedes)
        bar.total -= manifest.rows * manifest.vector_bytes
        return
    done = ns.ledger.applied_rows(pack)
    bar.total -= done * manifest.vector_bytes
    bar.refresh()
    for chunk in repository.read(pack, manifest, keys, done):
        upto = (chunk.stop, manifest.rows)
        report.rows += ns.append(
            chunk.keys,
            chunk.vectors,
            digests=chunk.digests,
            pack=pack,
            upto=upto,
            supersedes=manifest.supersedes,
            sources=manifest.sources(np.arange(chunk.stop - len(chunk.keys), chunk.stop)),
        )
        bar.update(len(chunk.keys) * manifest.vector_bytes)


def _listed(repository: Repository, requested: list[str] | None) -> dict[str, list[str]]:
    """Return the visible packs by namespace, from one listing for all, or one per requested namespace."""
    listed: dict[str, list[str]] = {}
    for namespace_or_all in [None] if requested is None else requested:
        for namespace, pack in repository.packs(namespace_or_all):
            listed.setdefault(namespace, []).append(pack)
    return listed


def _check_listing(
    mirror: Mirror,
    repository: Repository,
    listed: dict[str, list[str]],
    known: dict[str, frozenset[str]],
    report: Report,
    *,
    every: bool,
) -> None:
    """Raise an error if a listing shows nothing although packs are known to exist.

    If it shows other namespaces, one that is missing was dropped or has a problem of its own: report it, go on with
    others.
    """
    for namespace, packs in known.items():
        ns = mirror.get(namespace)
        if ns is None or not packs or listed.get(namespace):
            continue
        way_out = (
            "If it should be there, check the bucket and try again. push(rebind=True) (`cas-cache push --rebind`) "
            f"sends every row again. If the namespace was dropped on purpose, move {ns.folder} out of the mirror: its "
            "rows may be nowhere else."
        )
        if ns.pending_rows:
            way_out = f"{ns.pending_rows} rows of it wait here to be pushed. Check the bucket and try again."
        problem = IncompleteListing(
            f"{repository.url} lists no pack of namespace {namespace} ({ns.spec.model}), but this mirror knows "
            f"{len(packs)}. Nothing of it was changed. {way_out}"
        )
        if not every or not listed:
            raise problem
        ns.ledger.note_gone((), packs)
        note_skipped(f"namespace {namespace}", problem, report)


def _note_gone(
    mirror: Mirror,
    repository: Repository,
    listed: dict[str, list[str]],
    known: dict[str, frozenset[str]],
    report: Report,
) -> None:
    """Forget superseded packs that are not listed any more; report other packs that are not."""
    for namespace, packs in known.items():
        ns, remote_packs = mirror.get(namespace), listed.get(namespace, [])
        if ns is None or not remote_packs:
            continue  # `_check_listing` has reported this
        ns.refresh()
        gone = (packs & ns.ledger.lasting_packs).difference(remote_packs)
        if gone:
            # The merge may have been read by a process that was killed, or before an eviction. Its manifest says what
            # it supersedes.
            asked = [PackRef(namespace, pack) for pack in remote_packs if pack in ns.packs]
            manifests = [answer for answer in repository.manifests(asked) if isinstance(answer, Manifest)]
            merged = {source for manifest in manifests for source in manifest.supersedes}
            ns.ledger.supersede(merged & gone)
            gone -= merged
        ns.ledger.note_gone((ns.packs - ns.ledger.lasting_packs).difference(remote_packs), gone)
        if gone:
            report.problems.append(
                IncompleteListing(
                    f"{len(gone)} packs of namespace {namespace} ({ns.spec.model}) that this mirror knows are not in "
                    f"{repository.url} any more, the first is {min(gone)}. Their rows are still in the mirror "
                    f"{mirror.directory}. push(rebind=True) (`cas-cache push --rebind`) sends every row again. If they "
                    f"were deleted on purpose, move {ns.folder} out of the mirror and pull again: its rows may be "
                    "nowhere else."
                )
            )
