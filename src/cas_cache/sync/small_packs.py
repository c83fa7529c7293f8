"""Many small packs: read side by side, and committed together.

To wait for the answers of a small pack, and to make it durable, takes longer than to read it: 10,000 packs of one row
took half an hour one by one. What is read is verified as in any pull, and is applied in the same order.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from cas_cache.errors import CasCacheError, CredentialInSpec, DamagedPack, RepositoryError, UnsupportedFormat
from cas_cache.mirror import WholePack
from cas_cache.repository import ordered_map

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cas_cache.mirror import Mirror, Namespace
    from cas_cache.progress import Bar
    from cas_cache.repository import Manifest, Repository
    from cas_cache.sync.report import Report

logger = logging.getLogger(__name__)

SMALL_BYTES = 1 << 20
"""Vectors of a pack that is small."""

IN_FLIGHT = 8
"""Small packs that are read side by side."""

COMMIT_BYTES, COMMIT_PACKS = 32 << 20, 256
"""What is committed together at most. A commit takes some 30 ms, and more the more packs the mirror knows."""


def is_small(manifest: Manifest) -> bool:
    """Whether a pack is read with others. Merges are not: they decide what else is read."""
    small = manifest.rows * manifest.vector_bytes <= SMALL_BYTES
    # Of several chunks, those before one that is damaged are worth to be taken.
    return small and not manifest.supersedes and manifest.chunk_rows["vectors"] >= manifest.rows


def pull_small(
    mirror: Mirror, repository: Repository, namespace: str, manifests: dict[str, Manifest], report: Report, bar: Bar
) -> Iterator[tuple[str, CasCacheError]]:
    """Read small packs of a namespace; yield those that could not be read, and what is wrong with them.

    Args:
        mirror: Where to.
        repository: From where.
        namespace: Whose packs these are.
        manifests: Its packs that nothing is known of here, in the order in which they are applied.
        report: What was done is counted there.
        bar: And shown there.
    """
    try:
        ns = mirror.get(namespace) or mirror.namespace(repository.spec(namespace))
    except (RepositoryError, UnsupportedFormat, CredentialInSpec) as problem:
        yield next(iter(manifests)), problem  # that of the namespace, once
        return
    with ns.held():
        yield from _pull_into(ns, repository, manifests, report, bar)


def _pull_into(
    ns: Namespace, repository: Repository, manifests: dict[str, Manifest], report: Report, bar: Bar
) -> Iterator[tuple[str, CasCacheError]]:
    group = _Group(ns, report)
    try:
        read = ordered_map(lambda item: _read_pack(ns, repository, *item), list(manifests.items()), in_flight=IN_FLIGHT)
        for (pack, manifest), pack_or_problem in zip(manifests.items(), read, strict=True):
            wrong = (
                pack_or_problem
                if isinstance(pack_or_problem, CasCacheError)
                else group.take(pack, manifest, pack_or_problem)
            )
            if wrong is not None:
                yield pack, wrong
                continue
            if pack_or_problem is None:
                bar.total -= manifest.rows * manifest.vector_bytes
            else:
                bar.update(manifest.rows * manifest.vector_bytes)
            report.packs += 1
            logger.info("pulled pack %s: %d rows of %s", pack, manifest.rows, ns.spec.model)
    finally:
        # Whatever ended it: what was read and verified stays.
        group.commit()


def check_kind(ns: Namespace, manifest: Manifest, pack: str) -> None:
    """Refuse a pack whose vectors are not made like the namespace's.

    Raises:
        DamagedPack: If dtype or shape differ.
    """
    if ns.dtype is not None and (ns.dtype.name, ns.shape) != (manifest.dtype, manifest.shape):
        raise DamagedPack(
            f"The pack {pack} holds {manifest.dtype} vectors of shape {manifest.shape}; the namespace "
            f"{ns.spec.namespace} ({ns.spec.model}) has {ns.dtype.name} of shape {ns.shape} here. One of the two was "
            "made by another model or setting under the same name. The pack is passed over.",
            pack=pack,
        )


class _Group:
    """Packs that were read and are not committed yet."""

    def __init__(self, ns: Namespace, report: Report) -> None:
        self._ns = ns
        self._report = report
        self._whole: list[WholePack] = []
        self._skipped: list[tuple[str, int]] = []
        self._bytes = 0

    def take(self, pack: str, manifest: Manifest, whole: WholePack | None) -> DamagedPack | None:
        """Commit a pack with the next ones; return what is wrong with it. None stands for one whose keys are here."""
        if whole is None:
            self._skipped.append((pack, manifest.rows))
        else:
            if self._whole and not _same_kind(self._whole[0], whole):
                self.commit()  # then the namespace says what its vectors are
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
        self._ns.skip_packs(skipped)


def _read_pack(
    ns: Namespace, repository: Repository, pack: str, manifest: Manifest
) -> WholePack | CasCacheError | None:
    """Read a pack; None if all of its keys are here, whose vectors are not read then."""
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
