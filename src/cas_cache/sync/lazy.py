"""Lazy pulls: first the keys of a namespace, then only the requested vectors.

The catalogue of the mirror holds keys and digests of complete packs, which were verified when they were read. Vectors
come from ranged reads, so there is no complete object to hash: each row is verified by its digest, which covers the
requested key.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from cas_cache.errors import DamagedMirror, RepositoryError, ShapeMismatch, UnsupportedFormat
from cas_cache.format.layout import PackRef
from cas_cache.format.manifest import Manifest, superseders
from cas_cache.format.rows import KEY_AND_DIGEST_BYTES
from cas_cache.identity import first_of_each
from cas_cache.mirror.index import ABSENT
from cas_cache.mirror.remote_keys import RemotePack
from cas_cache.sync.connecting import connect
from cas_cache.sync.pulling import MAX_LISTINGS, read_listed
from cas_cache.sync.report import PACK_PROBLEMS, SyncReport, Transfer, manifests_of, transferring
from cas_cache.sync.small_packs import check_kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from cas_cache.mirror import Mirror, Namespace
    from cas_cache.mirror.remote_keys import Located
    from cas_cache.repository import Repository
    from cas_cache.repository.reading import PackChunk

logger = logging.getLogger(__name__)

COMMIT_BYTES = 32 << 20
"""Bytes of vectors, or of keys, that are read between two commits."""


def pull_keys(
    mirror: Mirror,
    repository: Repository,
    namespaces: Iterable[str] | None = None,
    *,
    progress: bool | None = False,
) -> SyncReport:
    """Download the keys and digests of packs that the mirror does not know.

    Args:
        mirror: The mirror to write to.
        repository: The repository to read.
        namespaces: Ids of the namespaces to pull; None for all.
        progress: Show a progress bar; None shows it on a terminal only.

    Returns:
        A report on the packs that were read; `rows` counts their keys.

    Raises:
        RemoteError: If the remote is unreachable or refuses a request. Keys that were read before are committed.
        RepositoryMismatch: If the mirror belongs to another repository.
        IncompleteListing: If the repository does not list packs that it is known to have.
    """
    with transferring(mirror, repository, "pull keys", progress) as transfer:
        if connect(mirror, repository):
            read_listed(transfer, namespaces, lambda ns: ns.ledger.lasting_packs | ns.remote_keys.packs, _pull_keys_of)
    return transfer.report


def pull_rows(
    mirror: Mirror,
    repository: Repository,
    namespace: str,
    keys: NDArray[np.uint8],
    *,
    progress: bool | None = False,
) -> SyncReport:
    """Download the vectors of keys that are in the namespace's catalogue.

    Args:
        mirror: The mirror to write to.
        repository: The repository to read.
        namespace: The id of the namespace.
        keys: (n, 32) uint8 keys that the mirror does not have. Keys that are not in the catalogue are skipped.
        progress: Show a progress bar; None shows it on a terminal only.

    Raises:
        RemoteError: If the remote is unreachable or refuses a request. Rows that were read before are committed.
        RepositoryMismatch: If the mirror belongs to another repository.
        IncompleteListing: If packs have disappeared and no other packs are listed.
    """
    ns = mirror.get(namespace)
    if ns is None or not ns.remote_keys.rows:
        return SyncReport()
    keys = keys[first_of_each(keys)[0]]
    with ns.held(), transferring(mirror, repository, "pull", progress) as transfer:
        reader = _RowReader(ns, transfer)
        for _ in range(MAX_LISTINGS):
            if not reader.read(keys):
                break
            logger.info("the remote keys of %s do not match the repository: reading them again", namespace)
            transfer.report.problems += pull_keys(mirror, repository, [namespace], progress=progress).problems
            keys = _missing(ns, keys)
    return transfer.report


class _RowReader:
    """Reads rows of one namespace. Rows that one pack cannot provide are read from other packs that have them.

    Args:
        ns: The namespace.
        transfer: The pull.
    """

    def __init__(self, ns: Namespace, transfer: Transfer) -> None:
        self._ns = ns
        self._transfer = transfer
        self._failed: set[str] = set()

    def read(self, keys: NDArray[np.uint8]) -> bool:
        """Read the vectors of keys that are in the catalogue.

        Returns:
            True if the catalogue must be read again before the remaining keys can be found.
        """
        remote_keys = self._ns.remote_keys
        superseded: set[str] = set()
        while located := remote_keys.locate(keys, self._failed):
            manifests = _manifests_of(located, self._ns.spec.namespace)
            known = len(self._failed)
            outdated = [self._is_outdated(part, manifests[part.pack], keys) for part in located if manifests]
            if not manifests or any(outdated):
                remote_keys.forget()
                return True
            superseded.update(*(manifests[pack].supersedes for pack in self._failed & manifests.keys()))
            if len(self._failed) == known:
                return False
            keys = _missing(self._ns, keys)
        # A superseded pack's keys are not read while those of the superseding pack can be, so the catalogue may lack
        # them.
        return bool(len(keys)) and not remote_keys.packs.issuperset(superseded)

    def _is_outdated(self, part: Located, manifest: Manifest, keys: NDArray[np.uint8]) -> bool:
        """Read rows of one pack; return True if the catalogue is wrong about it. A pack that fails is recorded."""
        self._transfer.expect(len(part.rows) * manifest.vector_bytes)
        try:
            self._fetch(part, manifest, keys[part.at])
        except (RepositoryError, ShapeMismatch) as problem:
            repository = self._transfer.repository
            is_gone = repository.has_gone(PackRef(manifest.namespace, part.pack), problem)
            if is_gone or not _agrees(repository, part, manifest):
                return True
            self._transfer.report.skip(f"pack {part.pack}", problem)
            self._failed.add(part.pack)
        return False

    def _fetch(self, located: Located, manifest: Manifest, keys: NDArray[np.uint8]) -> None:
        """Read and store rows of one pack."""
        check_kind(self._ns, manifest, located.pack)
        report, repository = self._transfer.report, self._transfer.repository
        pending: list[PackChunk] = []
        sources = manifest.sources(located.rows)
        try:
            for chunk in repository.read_rows(located.pack, manifest, located.rows, keys, located.digests):
                pending.append(chunk)
                self._transfer.bar.update(len(chunk.keys) * manifest.vector_bytes)
                if sum(chunk.vectors.nbytes for chunk in pending) >= COMMIT_BYTES:
                    report.rows += _commit(self._ns, located.pack, pending, sources)
                    pending = []
        finally:
            # Also after a damaged range or an interrupted request: these rows are verified already.
            if pending:
                report.rows += _commit(self._ns, located.pack, pending, sources)
        report.packs += 1
        logger.info("pulled %d rows of pack %s of %s", len(located.rows), located.pack, self._ns.spec.model)


def _missing(ns: Namespace, keys: NDArray[np.uint8]) -> NDArray[np.uint8]:
    missing: NDArray[np.uint8] = keys[ns.find(keys) == ABSENT]
    return missing


def _manifests_of(located: list[Located], namespace: str) -> dict[str, Manifest]:
    """Return the manifests of packs; empty if one of them is damaged or another namespace's."""
    try:
        manifests = {part.pack: Manifest.from_bytes(part.manifest) for part in located}
    except (ValueError, UnsupportedFormat):
        return {}
    # A row digest covers key and vector but not the namespace, so it cannot tell whose rows these are.
    return manifests if all(manifest.namespace == namespace for manifest in manifests.values()) else {}


def _agrees(repository: Repository, located: Located, manifest: Manifest) -> bool:
    """Return True if the catalogue and the repository have the same digests of a pack's rows."""
    try:
        return bool((repository.digests(located.pack, manifest)[located.rows] == located.digests).all())
    except RepositoryError:
        return True  # the pack is damaged; that says nothing about the catalogue


def _commit(ns: Namespace, pack: str, parts: list[PackChunk], sources: NDArray[np.int64] | None) -> int:
    """Store rows that were read of a pack. `sources` covers all requested rows of the pack, not only these."""
    keys, vectors, digests = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("keys", "vectors", "digests")
    )
    if sources is not None:
        sources = sources[parts[-1].stop - len(keys) : parts[-1].stop]
    return ns.append(keys, vectors, digests=digests, pack=pack, sources=sources)


def _pull_keys_of(transfer: Transfer, namespace: str, packs: list[str]) -> bool:
    """Download the keys of a namespace's packs; return True if one has disappeared since it was listed."""
    repository, report = transfer.repository, transfer.report
    try:
        ns = transfer.namespace(namespace)
    except (*PACK_PROBLEMS, DamagedMirror) as problem:
        report.skip(f"namespace {namespace}", problem)
        return False
    if ns.remote_keys.packs.difference(packs):
        # Packs were merged and pruned, or dropped. Read the remaining ones again.
        ns.remote_keys.forget()
    known = set(ns.packs | ns.remote_keys.packs)
    manifests, gone = manifests_of(repository, namespace, [pack for pack in packs if pack not in known], report)
    later = superseders(manifests)
    pending: list[RemotePack] = []
    # A superseded pack is read only if the superseding pack could not be read.
    for pack in sorted(manifests, key=lambda pack: pack in later):
        manifest = manifests[pack]
        if known.intersection(later.get(pack, ())) or manifest.is_merge_of(known):
            continue
        transfer.expect(manifest.rows * KEY_AND_DIGEST_BYTES)
        try:
            check_kind(ns, manifest, pack)
            keys, digests = repository.keys(pack, manifest), repository.digests(pack, manifest)
        except RepositoryError as problem:
            gone |= transfer.is_gone(PackRef(namespace, pack), problem)
            continue
        known.add(pack)
        pending.append(RemotePack(pack, manifest.to_bytes(), keys, digests))
        report.packs += 1
        report.rows += manifest.rows
        transfer.bar.update(manifest.rows * KEY_AND_DIGEST_BYTES)
        if sum(len(pack_keys.keys) for pack_keys in pending) * KEY_AND_DIGEST_BYTES >= COMMIT_BYTES:
            ns.remote_keys.add(pending)
            pending = []
    ns.remote_keys.add(pending)
    return gone
