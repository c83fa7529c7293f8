"""Many small packs: read concurrently, and committed together.

Waiting for the answers of a small pack, and making it durable, takes longer than reading it: 10,000 packs of one row
took half an hour one by one. Packs are verified as in any pull, and applied in the same order.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from cas_cache.errors import CasCacheError, DamagedPack, RepositoryError, UnsupportedFormat
from cas_cache.mirror import WholePack
from cas_cache.storage import ordered_map
from cas_cache.sync.report import PACK_PROBLEMS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cas_cache.format.manifest import Manifest
    from cas_cache.mirror import Namespace
    from cas_cache.repository import Repository
    from cas_cache.sync.report import SyncReport, Transfer

logger = logging.getLogger(__name__)

MAX_GROUPED_BYTES = 1 << 20
"""Maximum size of the vectors of a pack that is read together with others."""

IN_FLIGHT = 8
"""Number of small packs that are read concurrently."""

COMMIT_BYTES, COMMIT_PACKS = 32 << 20, 256
"""Maximum size of one commit. A commit takes about 30 ms, and more the more packs the mirror knows."""


def is_grouped(manifest: Manifest) -> bool:
    """Return True if a pack is read together with others. Merges are not: they decide which other packs are read."""
    small = manifest.total_vector_bytes <= MAX_GROUPED_BYTES
    # A pack of several chunks is read on its own: chunks before a damaged one are then kept.
    return small and not manifest.supersedes and manifest.chunk_rows["vectors"] >= manifest.rows


def pull_small(
    transfer: Transfer, namespace: str, manifests: dict[str, Manifest]
) -> Iterator[tuple[str, CasCacheError]]:
    """Read small packs of a namespace; yield those that could not be read, with the error.

    Args:
        transfer: The pull.
        namespace: The id of the namespace.
        manifests: Its packs that the mirror does not know, in the order in which they are applied.
    """
    try:
        ns = transfer.namespace(namespace)
    except PACK_PROBLEMS as problem:
        yield next(iter(manifests)), problem  # a problem of the namespace, so it is reported once
        return
    group = _Group(ns, transfer.report)
    with ns.held():
        try:
            items = list(manifests.items())
            read = ordered_map(lambda item: _read_pack(ns, transfer.repository, *item), items, in_flight=IN_FLIGHT)
            for (pack, manifest), whole in zip(items, read, strict=True):
                error = whole if isinstance(whole, CasCacheError) else group.take(pack, manifest, whole)
                if error is not None:
                    yield pack, error
                    continue
                if whole is None:
                    transfer.expect(-manifest.total_vector_bytes)
                else:
                    transfer.bar.update(manifest.total_vector_bytes)
                transfer.report.packs += 1
                logger.info("pulled pack %s: %d rows of %s", pack, manifest.rows, ns.spec.model)
        finally:
            # Whatever ended the loop, rows that were read and verified are kept.
            group.commit()


def check_kind(ns: Namespace, manifest: Manifest, pack: str) -> None:
    """Raise an error if a pack's vectors do not have the dtype and shape of the namespace.

    Raises:
        DamagedPack: If dtype or shape differ.
    """
    if ns.dtype is not None and (ns.dtype.name, ns.shape) != (manifest.dtype, manifest.shape):
        raise DamagedPack(
            f"The pack {pack} holds {manifest.dtype} vectors of shape {manifest.shape}; the namespace "
            f"{ns.spec.namespace} ({ns.spec.model}) has {ns.dtype.name} of shape {ns.shape} here. One of the two was "
            "made by another model or setting under the same name. The pack is skipped.",
            pack=pack,
        )


class _Group:
    """Packs that were read and are not committed yet."""

    def __init__(self, ns: Namespace, report: SyncReport) -> None:
        self._ns = ns
        self._report = report
        self._whole: list[WholePack] = []
        self._skipped: list[tuple[str, int]] = []
        self._bytes = 0

    def take(self, pack: str, manifest: Manifest, whole: WholePack | None) -> DamagedPack | None:
        """Add a pack to the next commit; return the error if it does not fit. None is a pack without new keys."""
        if whole is None:
            self._skipped.append((pack, manifest.rows))
        else:
            if self._whole and not _same_kind(self._whole[0], whole):
                self.commit()  # fixes dtype and shape of a new namespace, which `check_kind` compares
            try:
                check_kind(self._ns, manifest, pack)
            except DamagedPack as problem:
                return problem
            self._whole.append(whole)
            self._bytes += whole.vectors.nbytes
        if len(self._whole) + len(self._skipped) >= COMMIT_PACKS or self._bytes >= COMMIT_BYTES:
            self.commit()
        return None

    def commit(self) -> None:
        new, skipped = self._whole, self._skipped
        self._whole, self._skipped, self._bytes = [], [], 0
        self._report.rows += self._ns.append_packs(new)
        self._ns.ledger.skip_packs(skipped)


def _read_pack(
    ns: Namespace, repository: Repository, pack: str, manifest: Manifest
) -> WholePack | CasCacheError | None:
    """Read a pack; return None, without reading its vectors, if the mirror has all of its keys."""
    try:
        keys = repository.keys(pack, manifest)
        if ns.holds(keys):
            return None
        chunks = list(repository.read(pack, manifest, keys))
    except (RepositoryError, UnsupportedFormat) as problem:
        return problem
    vectors, digests = (np.concatenate([getattr(chunk, name) for chunk in chunks]) for name in ("vectors", "digests"))
    return WholePack(pack, keys, vectors, digests)


def _same_kind(first: WholePack, second: WholePack) -> bool:
    return (first.vectors.dtype, first.vectors.shape[1:]) == (second.vectors.dtype, second.vectors.shape[1:])
