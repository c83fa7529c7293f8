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

from cas_cache.errors import CasCacheError, DamagedMirror, IncompleteListing, ShapeMismatch, UnsupportedFormat
from cas_cache.format.layout import PackRef
from cas_cache.format.manifest import superseders
from cas_cache.sync.connecting import connect, selected
from cas_cache.sync.report import PACK_PROBLEMS, SyncReport, Transfer, manifests_of, transferring
from cas_cache.sync.small_packs import check_kind, is_grouped, pull_small

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from collections.abc import Set as AbstractSet

    from cas_cache.format.manifest import Manifest
    from cas_cache.mirror import Mirror, Namespace
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
) -> SyncReport:
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
    with transferring(mirror, repository, "pull", progress) as transfer:
        if connect(mirror, repository):
            listed, known = read_listed(transfer, namespaces, lambda ns: ns.ledger.lasting_packs, _pull_namespace)
            _note_gone(transfer, listed, known)
    return transfer.report


def read_listed(
    transfer: Transfer,
    namespaces: Iterable[str] | None,
    known: Callable[[Namespace], frozenset[str]],
    read: Callable[[Transfer, str, list[str]], bool],
) -> tuple[dict[str, list[str]], dict[str, frozenset[str]]]:
    """List the repository and read each namespace; list again if packs have disappeared since.

    Args:
        transfer: The pull.
        namespaces: Ids of the namespaces to read; None for all.
        known: Returns the packs that a namespace expects the repository to have.
        read: Reads those packs of a namespace that the mirror lacks, given the pull, the namespace and its packs;
            returns True if one of them has disappeared since it was listed.

    Returns:
        The packs of the last listing, and those that were known before it, by namespace.

    Raises:
        The same errors as `pull`.
    """
    requested = None if namespaces is None else list(namespaces)
    for _ in range(MAX_LISTINGS):
        # Collected before the listing: packs that another process of this mirror publishes meanwhile are not missing.
        known_packs = {ns.spec.namespace: known(ns) for ns in selected(transfer.mirror, requested, transfer.report)}
        listed = _listed(transfer.repository, requested)
        _check_listing(transfer, listed, known_packs, every=requested is None)
        gone = [read(transfer, namespace, packs) for namespace, packs in listed.items()]
        if not any(gone):
            break
        logger.info("packs have gone since they were listed: listing again")
    return listed, known_packs


def _pull_namespace(transfer: Transfer, namespace: str, packs: list[str]) -> bool:
    """Read the packs of a namespace that the mirror lacks; read merges in place of the packs they supersede.

    Returns:
        True if a pack has disappeared since it was listed, so that other packs may hold its rows.
    """
    mirror = transfer.mirror
    try:
        ns = mirror.get(namespace)
        known = frozenset() if ns is None else ns.packs
    except (DamagedMirror, UnsupportedFormat) as problem:
        transfer.report.skip(f"namespace {namespace}", problem)
        return False
    new = [pack for pack in packs if pack not in known]
    manifests, gone = manifests_of(transfer.repository, namespace, new, transfer.report)
    later = superseders(manifests).keys()
    # The total is set at once, so that the estimated time is that of the namespace and not of a pack.
    transfer.expect(sum(m.total_vector_bytes for pack, m in manifests.items() if pack not in later))
    # Superseded packs come last. If their merge could be read, they are known by then and are not read.
    order = sorted(manifests, key=lambda pack: pack in later)
    ns = mirror.get(namespace)
    alone = later | ({pack for pack in order if ns.ledger.applied_rows(pack)} if ns is not None else set())
    for grouped, group in groupby(order, lambda pack: pack not in alone and is_grouped(manifests[pack])):
        read = pull_small if grouped else _pull_each
        for pack, error in read(transfer, namespace, {pack: manifests[pack] for pack in group}):
            gone |= transfer.is_gone(PackRef(namespace, pack), error)
    return gone


def _pull_each(
    transfer: Transfer, namespace: str, manifests: dict[str, Manifest]
) -> Iterator[tuple[str, CasCacheError]]:
    """Read packs one after the other; yield those that could not be read, with the error."""
    for pack, manifest in manifests.items():
        ns = transfer.mirror.get(namespace)
        if ns is not None and pack in ns.packs:
            continue
        try:
            ns = transfer.namespace(namespace)
            check_kind(ns, manifest, pack)
            with ns.held():
                _pull_pack(transfer, ns, pack, manifest)
        except (*PACK_PROBLEMS, ShapeMismatch) as problem:
            yield pack, problem
        else:
            transfer.report.packs += 1
            logger.info("pulled pack %s: %d rows of %s", pack, manifest.rows, ns.spec.model)


def _pull_pack(transfer: Transfer, ns: Namespace, pack: str, manifest: Manifest) -> None:
    """Store the new rows of a pack. Its vectors are not read if the mirror has every key already."""
    keys = None if manifest.is_merge_of(ns.packs) else transfer.repository.keys(pack, manifest)
    if keys is None or ns.holds(keys):
        ns.ledger.skip(pack, manifest.rows, manifest.supersedes)
        transfer.expect(-manifest.total_vector_bytes)
        return
    done = ns.ledger.applied_rows(pack)
    transfer.expect(-done * manifest.vector_bytes)
    for chunk in transfer.repository.read(pack, manifest, keys, done):
        transfer.report.rows += ns.append(
            chunk.keys,
            chunk.vectors,
            digests=chunk.digests,
            pack=pack,
            upto=(chunk.stop, manifest.rows),
            supersedes=manifest.supersedes,
            sources=manifest.sources(np.arange(chunk.stop - len(chunk.keys), chunk.stop)),
        )
        transfer.bar.update(len(chunk.keys) * manifest.vector_bytes)


def _listed(repository: Repository, namespaces: list[str] | None) -> dict[str, list[str]]:
    """Return the visible packs by namespace, from one listing for all, or one per requested namespace."""
    listed: dict[str, list[str]] = {}
    for namespace_or_all in [None] if namespaces is None else namespaces:
        for namespace, pack in repository.packs(namespace_or_all):
            listed.setdefault(namespace, []).append(pack)
    return listed


def _check_listing(
    transfer: Transfer, listed: dict[str, list[str]], known: dict[str, frozenset[str]], *, every: bool
) -> None:
    """Raise an error if a listing shows nothing although packs are known to exist.

    If it shows other namespaces, one that is missing was dropped or has a problem of its own: report it, go on with
    others.
    """
    for namespace, packs in known.items():
        ns = transfer.mirror.get(namespace)
        if ns is None or not packs or listed.get(namespace):
            continue
        problem = unlisted_namespace(transfer.repository, ns, len(packs))
        if not every or not listed:
            raise problem
        ns.ledger.note_gone((), packs)
        transfer.report.skip(f"namespace {namespace}", problem)


def _note_gone(transfer: Transfer, listed: dict[str, list[str]], known: dict[str, frozenset[str]]) -> None:
    """Forget superseded packs that are not listed any more; report other packs that are not."""
    for namespace, packs in known.items():
        ns, remote_packs = transfer.mirror.get(namespace), listed.get(namespace, [])
        if ns is None or not remote_packs:
            continue  # `_check_listing` has reported this
        ns.refresh()
        unlisted = (packs & ns.ledger.lasting_packs).difference(remote_packs)
        gone = gone_packs(transfer.repository, ns, unlisted, remote_packs)
        ns.ledger.supersede(unlisted - gone)
        ns.ledger.note_gone((ns.packs - ns.ledger.lasting_packs).difference(remote_packs), gone)
        if gone:
            transfer.report.problems.append(unlisted_packs(transfer.repository, ns, gone))


def gone_packs(
    repository: Repository, ns: Namespace, unlisted: frozenset[str], listed: Iterable[str]
) -> frozenset[str]:
    """Return those of a mirror's unlisted packs that no listed pack supersedes.

    The merge may have been read by a process that was killed, or before an eviction. Its manifest says what it
    supersedes.

    Args:
        repository: The repository.
        ns: The namespace.
        unlisted: Packs that the mirror knows and a listing does not show.
        listed: Packs of the namespace that the listing shows.
    """
    if not unlisted:
        return unlisted
    refs = [PackRef(ns.spec.namespace, pack) for pack in listed if pack in ns.packs]
    return unlisted - superseders(repository.read_manifests(refs).readable).keys()


def unlisted_namespace(repository: Repository, ns: Namespace, packs: int) -> IncompleteListing:
    """Return the error for a namespace of which a repository lists no pack, although the mirror knows some."""
    way_out = (
        "If it should be there, check the bucket and try again. push(rebind=True) (`cas-cache push --rebind`) sends "
        f"every row again. If the namespace was dropped on purpose, move {ns.folder} out of the mirror: its rows may "
        "be nowhere else."
    )
    if ns.pending_rows:
        way_out = f"{ns.pending_rows} rows of it wait here to be pushed. Check the bucket and try again."
    return IncompleteListing(
        f"{repository.url} lists no pack of namespace {ns.spec.namespace} ({ns.spec.model}), but this mirror knows "
        f"{packs}. Nothing of it was changed. {way_out}"
    )


def unlisted_packs(repository: Repository, ns: Namespace, packs: AbstractSet[str]) -> IncompleteListing:
    """Return the error for packs that a mirror knows and its repository does not list any more."""
    return IncompleteListing(
        f"{len(packs)} packs of namespace {ns.spec.namespace} ({ns.spec.model}) that this mirror knows are not in "
        f"{repository.url} any more, the first is {min(packs)}. Their rows are still in the mirror. push(rebind=True) "
        f"(`cas-cache push --rebind`) sends every row again. If they were deleted on purpose, move {ns.folder} out of "
        "the mirror and pull again: its rows may be nowhere else."
    )
