"""Lazy pulls: first the keys of a namespace, then only the requested vectors.

The catalogue of the mirror holds keys and digests of complete packs, which were verified when they were read. Vectors
come from ranged reads, so there is no complete object to hash: each row is verified by its digest, which covers the
requested key.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from cas_cache.errors import (
    CredentialInSpec,
    DamagedMirror,
    RepositoryError,
    ShapeMismatch,
    UnsupportedFormat,
)
from cas_cache.identity import first_of_each
from cas_cache.mirror.catalogue import Listed
from cas_cache.mirror.index import ABSENT
from cas_cache.repository import Manifest, superseders
from cas_cache.sync.meeting import meet
from cas_cache.sync.pulling import MOST_LISTINGS, is_gone, manifests_of, read_what_is_listed
from cas_cache.sync.report import Report, bar_of, metered, pass_over
from cas_cache.sync.small_packs import check_kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from cas_cache.mirror import Mirror, Namespace
    from cas_cache.mirror.catalogue import Located
    from cas_cache.progress import Bar
    from cas_cache.repository import Repository
    from cas_cache.repository.pack import PackChunk

logger = logging.getLogger(__name__)

COMMIT_BYTES = 32 << 20
"""Bytes of vectors, or of keys, that are read between two commits."""

BYTES_OF_A_KEY = 40
"""Size of a key and a digest."""


def pull_keys(
    mirror: Mirror,
    repository: Repository,
    namespaces: Iterable[str] | None = None,
    *,
    progress: bool | None = False,
) -> Report:
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
        SuspiciousListing: If the repository does not list packs that it is known to have.
    """
    report = Report()
    wanted = None if namespaces is None else list(namespaces)
    with metered(repository, report), bar_of("pull keys", 0, progress) as bar:
        if not meet(mirror, repository):
            return report
        read_what_is_listed(
            mirror,
            repository,
            wanted,
            report,
            known=lambda ns: ns.lasting_packs | ns.catalogue.packs,
            read=lambda of: _pull_keys_of(mirror, repository, of, report, bar),
        )
    return report


def pull_rows(
    mirror: Mirror,
    repository: Repository,
    namespace: str,
    keys: NDArray[np.uint8],
    *,
    progress: bool | None = False,
) -> Report:
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
        SuspiciousListing: If packs have disappeared and no other packs are listed.
    """
    report = Report()
    ns = mirror.get(namespace)
    if ns is None or not ns.catalogue.rows:
        return report
    keys = keys[first_of_each(keys)[0]]
    with ns.held(), metered(repository, report), bar_of("pull", 0, progress) as bar:
        reader = _RowReader(ns, repository, report, bar)
        for _ in range(MOST_LISTINGS):
            if not reader.read(keys):
                break
            logger.info("the remote keys of %s do not match the repository: reading them again", namespace)
            report.problems += pull_keys(mirror, repository, [namespace], progress=progress).problems
            keys = _missing(ns, keys)
    return report


class _RowReader:
    """Reads rows of one namespace. Rows that one pack cannot provide are read from other packs that have them.

    Args:
        ns: The namespace.
        repository: The repository that holds its packs.
        report: Report that collects counts and problems.
        bar: The progress bar.
    """

    def __init__(self, ns: Namespace, repository: Repository, report: Report, bar: Bar) -> None:
        self._ns = ns
        self._repository = repository
        self._report = report
        self._bar = bar
        self._failed: set[str] = set()

    def read(self, keys: NDArray[np.uint8]) -> bool:
        """Read the vectors of keys that are in the catalogue.

        Returns:
            True if the catalogue must be read again before the remaining keys can be found.
        """
        catalogue = self._ns.catalogue
        superseded: set[str] = set()
        while located := catalogue.locate(keys, self._failed):
            manifests = _manifests_of(located, self._ns.spec.namespace)
            known = len(self._failed)
            outdated = [self._is_outdated(part, manifests[part.pack], keys) for part in located if manifests]
            if not manifests or any(outdated):
                catalogue.forget()
                return True
            superseded.update(*(manifests[pack].supersedes for pack in self._failed & manifests.keys()))
            if len(self._failed) == known:
                return False
            keys = _missing(self._ns, keys)
        # A superseded pack's keys are not read while those of the superseding pack can be, so the catalogue may lack
        # them.
        return bool(len(keys)) and not catalogue.packs.issuperset(superseded)

    def _is_outdated(self, part: Located, manifest: Manifest, keys: NDArray[np.uint8]) -> bool:
        """Read rows of one pack; return True if the catalogue is wrong about it. A pack that fails is recorded."""
        self._bar.total = (self._bar.total or 0) + len(part.rows) * manifest.vector_bytes
        wanted = keys[part.at]
        try:
            _fetch_pack(self._ns, self._repository, (part, manifest, wanted), self._report, self._bar)
        except (RepositoryError, ShapeMismatch) as problem:
            if self._repository.has_gone((manifest.namespace, part.pack), problem):
                return True
            if not _agrees(self._repository, part, manifest):
                return True
            pass_over(f"pack {part.pack}", problem, self._report)
        else:
            return False
        self._failed.add(part.pack)
        return False


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


def _agrees(repository: Repository, it: Located, manifest: Manifest) -> bool:
    """Return True if the catalogue and the repository have the same digests of a pack's rows."""
    try:
        return bool((repository.digests(it.pack, manifest)[it.rows] == it.digests).all())
    except RepositoryError:
        return True  # the pack is damaged; that says nothing about the catalogue


def _fetch_pack(
    ns: Namespace,
    repository: Repository,
    of: tuple[Located, Manifest, NDArray[np.uint8]],
    report: Report,
    bar: Bar,
) -> None:
    it, manifest, keys = of
    check_kind(ns, manifest, it.pack)
    waiting: list[PackChunk] = []
    sources = manifest.sources(it.rows)
    try:
        for part in repository.read_rows(it.pack, manifest, it.rows, keys, it.digests):
            waiting.append(part)
            bar.update(len(part.keys) * manifest.vector_bytes)
            if sum(one.vectors.nbytes for one in waiting) >= COMMIT_BYTES:
                report.rows += _commit(ns, it.pack, waiting, sources)
                waiting = []
    finally:
        # Also after a damaged range or an interrupted request: these rows are verified already.
        if waiting:
            report.rows += _commit(ns, it.pack, waiting, sources)
    report.packs += 1
    logger.info("pulled %d rows of pack %s of %s", len(it.rows), it.pack, ns.spec.model)


def _commit(ns: Namespace, pack: str, parts: list[PackChunk], sources: NDArray[np.int64] | None) -> int:
    """Store rows that were read of a pack. `sources` covers all requested rows of the pack, not only these."""
    keys, vectors, digests = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("keys", "vectors", "digests")
    )
    if sources is not None:
        sources = sources[parts[-1].stop - len(keys) : parts[-1].stop]
    return ns.append(keys, vectors, digests=digests, pack=pack, sources=sources)


def _pull_keys_of(mirror: Mirror, repository: Repository, of: tuple[str, list[str]], report: Report, bar: Bar) -> bool:
    """Download the keys of a namespace's packs; return True if one has disappeared since it was listed."""
    namespace, packs = of
    try:
        ns = mirror.get(namespace) or mirror.namespace(repository.spec(namespace))
    except (RepositoryError, DamagedMirror, UnsupportedFormat, CredentialInSpec) as problem:
        pass_over(f"namespace {namespace}", problem, report)
        return False
    if ns.catalogue.packs.difference(packs):
        # Packs were merged and pruned, or dropped. Read the remaining ones again.
        ns.catalogue.forget()
    known = set(ns.packs | ns.catalogue.packs)
    manifests, gone = manifests_of(repository, namespace, [pack for pack in packs if pack not in known], report)
    later = superseders(manifests)
    waiting: list[Listed] = []
    # A superseded pack is read only if the superseding pack could not be read.
    for pack in sorted(manifests, key=lambda pack: pack in later):
        manifest = manifests[pack]
        if known.intersection(later.get(pack, ())) or (manifest.supersedes and known.issuperset(manifest.supersedes)):
            continue
        bar.total = (bar.total or 0) + manifest.rows * BYTES_OF_A_KEY
        bar.refresh()
        try:
            check_kind(ns, manifest, pack)
            keys, digests = repository.keys(pack, manifest), repository.digests(pack, manifest)
        except RepositoryError as problem:
            gone |= is_gone(repository, (namespace, pack), problem, report)
            continue
        known.add(pack)
        waiting.append(Listed(pack, manifest.to_bytes(), keys, digests))
        report.packs += 1
        report.rows += manifest.rows
        bar.update(manifest.rows * BYTES_OF_A_KEY)
        if sum(len(it.keys) for it in waiting) * BYTES_OF_A_KEY >= COMMIT_BYTES:
            ns.catalogue.add(waiting)
            waiting = []
    ns.catalogue.add(waiting)
    return gone
