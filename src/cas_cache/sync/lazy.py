"""Lazy pulls: the keys of a namespace first, and of the vectors only those that are asked for.

The catalogue of the mirror holds keys and digests of whole packs, verified when they were read. Vectors come by ranged
reads, so no object is there whole to be hashed: each row is proved by its digest, over the key that was asked for.
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
from cas_cache.mirror.index import ABSENT
from cas_cache.mirror.remote_keys import RemotePack
from cas_cache.repository import Manifest, superseders
from cas_cache.repository.layout import PackRef
from cas_cache.sync.connecting import connect
from cas_cache.sync.pulling import MAX_LISTINGS, is_gone, manifests_of, read_listed
from cas_cache.sync.report import Report, bar_of, metered, note_skipped
from cas_cache.sync.small_packs import check_kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from cas_cache.mirror import Mirror, Namespace
    from cas_cache.mirror.remote_keys import Located
    from cas_cache.progress import Bar
    from cas_cache.repository import Repository
    from cas_cache.repository.pack import PackChunk

logger = logging.getLogger(__name__)

COMMIT_BYTES = 32 << 20
"""Vectors, or keys, that are read between two commits."""

BYTES_OF_A_KEY = 40
"""A key and a digest."""


def pull_keys(
    mirror: Mirror,
    repository: Repository,
    namespaces: Iterable[str] | None = None,
    *,
    progress: bool | None = False,
) -> Report:
    """Take the keys and digests of the packs that the mirror does not know.

    Args:
        mirror: Where to.
        repository: From where.
        namespaces: Ids of those to look at; None for all.
        progress: Show a progress bar; None where there is a terminal.

    Returns:
        Of the packs that were read; `rows` counts their keys.

    Raises:
        RemoteError: If the remote is away or refuses. What was taken before is committed.
        RepositoryMismatch: If the mirror belongs to another repository.
        IncompleteListing: If packs that are known to be there are not listed.
    """
    report = Report()
    requested = None if namespaces is None else list(namespaces)
    with metered(repository, report), bar_of("pull keys", 0, progress) as bar:
        if not connect(mirror, repository):
            return report
        read_listed(
            mirror,
            repository,
            requested,
            report,
            known=lambda ns: ns.lasting_packs | ns.remote_keys.packs,
            read=lambda namespace, packs: _pull_keys_of(mirror, repository, namespace, packs, report, bar),
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
    """Take the vectors of keys that are in the namespace's catalogue.

    Args:
        mirror: Where to.
        repository: From where.
        namespace: Whose.
        keys: (n, 32) uint8, not in the mirror yet; those that are not in the catalogue are left out.
        progress: Show a progress bar; None where there is a terminal.

    Raises:
        RemoteError: If the remote is away or refuses. What was taken before is committed.
        RepositoryMismatch: If the mirror belongs to another repository.
        IncompleteListing: If packs have gone and the others are not listed.
    """
    report = Report()
    ns = mirror.get(namespace)
    if ns is None or not ns.remote_keys.rows:
        return report
    keys = keys[first_of_each(keys)[0]]
    with ns.held(), metered(repository, report), bar_of("pull", 0, progress) as bar:
        reader = _RowReader(ns, repository, report, bar)
        for _ in range(MAX_LISTINGS):
            if not reader.read(keys):
                break
            logger.info("the catalogue of %s does not agree with the repository: reading it again", namespace)
            report.problems += pull_keys(mirror, repository, [namespace], progress=progress).problems
            keys = _missing(ns, keys)
    return report


class _RowReader:
    """Reads rows of one namespace. What one pack cannot give is read from the other packs that hold it.

    Args:
        ns: The namespace.
        repository: Where its packs are.
        report: Receives the counts and the problems.
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
            True if the catalogue has to be read again before the remaining keys can be found.
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
        # The keys of a superseded pack are not read as long as those of the pack that supersedes it can be.
        return bool(len(keys)) and not remote_keys.packs.issuperset(superseded)

    def _is_outdated(self, part: Located, manifest: Manifest, keys: NDArray[np.uint8]) -> bool:
        """Read rows of one pack; return True if the catalogue is wrong about it. A pack that fails is noted."""
        self._bar.total = (self._bar.total or 0) + len(part.rows) * manifest.vector_bytes
        part_keys = keys[part.at]
        try:
            _fetch_pack(self._ns, self._repository, (part, manifest, part_keys), self._report, self._bar)
        except (RepositoryError, ShapeMismatch) as problem:
            if self._repository.has_gone(PackRef(manifest.namespace, part.pack), problem):
                return True
            if not _agrees(self._repository, part, manifest):
                return True
            note_skipped(f"pack {part.pack}", problem, self._report)
        else:
            return False
        self._failed.add(part.pack)
        return False


def _missing(ns: Namespace, keys: NDArray[np.uint8]) -> NDArray[np.uint8]:
    missing: NDArray[np.uint8] = keys[ns.find(keys) == ABSENT]
    return missing


def _manifests_of(located: list[Located], namespace: str) -> dict[str, Manifest]:
    """Return the manifests of packs; none at all if one of them is damaged or another namespace's."""
    try:
        manifests = {part.pack: Manifest.from_bytes(part.manifest) for part in located}
    except (ValueError, UnsupportedFormat):
        return {}
    # A digest covers key and vector and not whose it is.
    return manifests if all(manifest.namespace == namespace for manifest in manifests.values()) else {}


def _agrees(repository: Repository, located: Located, manifest: Manifest) -> bool:
    """Whether what the catalogue says of a pack's rows is what the repository says."""
    try:
        return bool((repository.digests(located.pack, manifest)[located.rows] == located.digests).all())
    except RepositoryError:
        return True  # the pack is damaged, whatever the catalogue is


def _fetch_pack(
    ns: Namespace,
    repository: Repository,
    part: tuple[Located, Manifest, NDArray[np.uint8]],
    report: Report,
    bar: Bar,
) -> None:
    located, manifest, keys = part
    check_kind(ns, manifest, located.pack)
    pending: list[PackChunk] = []
    sources = manifest.sources(located.rows)
    try:
        for chunk in repository.read_rows(located.pack, manifest, located.rows, keys, located.digests):
            pending.append(chunk)
            bar.update(len(chunk.keys) * manifest.vector_bytes)
            if sum(chunk.vectors.nbytes for chunk in pending) >= COMMIT_BYTES:
                report.rows += _commit(ns, located.pack, pending, sources)
                pending = []
    finally:
        # Also after a damaged range or an interrupted request: these rows are verified.
        if pending:
            report.rows += _commit(ns, located.pack, pending, sources)
    report.packs += 1
    logger.info("pulled %d rows of pack %s of %s", len(located.rows), located.pack, ns.spec.model)


def _commit(ns: Namespace, pack: str, parts: list[PackChunk], sources: NDArray[np.int64] | None) -> int:
    """Store parts of what was read of a pack; `sources` is for all of its rows that were asked for."""
    keys, vectors, digests = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("keys", "vectors", "digests")
    )
    if sources is not None:
        sources = sources[parts[-1].stop - len(keys) : parts[-1].stop]
    return ns.append(keys, vectors, digests=digests, pack=pack, sources=sources)


def _pull_keys_of(
    mirror: Mirror, repository: Repository, namespace: str, packs: list[str], report: Report, bar: Bar
) -> bool:
    """Take the keys of a namespace's packs; whether one of them has gone since it was listed."""
    try:
        ns = mirror.get(namespace) or mirror.namespace(repository.spec(namespace))
    except (RepositoryError, DamagedMirror, UnsupportedFormat, CredentialInSpec) as problem:
        note_skipped(f"namespace {namespace}", problem, report)
        return False
    if ns.remote_keys.packs.difference(packs):
        # Merged and pruned, or dropped: what is there now is read anew.
        ns.remote_keys.forget()
    known = set(ns.packs | ns.remote_keys.packs)
    manifests, gone = manifests_of(repository, namespace, [pack for pack in packs if pack not in known], report)
    later = superseders(manifests)
    pending: list[RemotePack] = []
    # What is superseded is read only if what supersedes it could not be.
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
            gone |= is_gone(repository, PackRef(namespace, pack), problem, report)
            continue
        known.add(pack)
        pending.append(RemotePack(pack, manifest.to_bytes(), keys, digests))
        report.packs += 1
        report.rows += manifest.rows
        bar.update(manifest.rows * BYTES_OF_A_KEY)
        if sum(len(pack_keys.keys) for pack_keys in pending) * BYTES_OF_A_KEY >= COMMIT_BYTES:
            ns.remote_keys.add(pending)
            pending = []
    ns.remote_keys.add(pending)
    return gone
