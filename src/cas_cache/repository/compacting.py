"""Merge small packs with their neighbours in time: plan from the manifests, then write. Never deletes a visible object.

A merge holds exactly the rows of the packs that it names in `supersedes`, in their order, each key once. Readers may
use either. `prune` removes the superseded packs when no slow reader can need them any more. A merge is never merged
again, so compaction ends: a second run finds nothing to do.

Any client may run it at any time. Two clients that merge the same packs at once both make a correct merge. The later
one usually sees the other merge and withdraws its own; otherwise some rows are stored twice. A client that is killed
leaves objects that no manifest names.

Rows pass through a temporary file: a merge is as large as a pack, and memory holds one chunk of it and 40 bytes per
row.
"""

from __future__ import annotations

import logging
import secrets
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from cas_cache.display import Displayable, facts
from cas_cache.errors import AccessDenied, CasCacheError, DamagedPack, MirrorWriteError, as_cause
from cas_cache.files.disk import mapped
from cas_cache.format.layout import PackRef
from cas_cache.format.manifest import superseders
from cas_cache.identity import KEY_BYTES, first_of_each
from cas_cache.progress import BYTES, progress_bar
from cas_cache.repository.pack import is_small, most_rows_of_a_pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from numpy.typing import NDArray
    from rich.console import Group

    from cas_cache.format.manifest import Manifest
    from cas_cache.repository.repository import Repository

logger = logging.getLogger(__name__)

AT_LEAST = 16
"""Minimum number of packs in a merge that does not fill half a pack. A merge is final, so small ones are postponed."""

MAX_SOURCES = 1024
"""Maximum number of packs in one merge; each takes 67 bytes of its manifest."""

MAX_ROWS = 1 << 20
"""Maximum number of rows in one merge: 40 MB of keys and digests in memory."""


@dataclass(frozen=True, slots=True)
class Merge:
    """Packs that will be merged into one.

    Attributes:
        namespace: The id of the namespace.
        packs: Ids of the packs, the oldest first.
        rows: Number of rows of all packs.
        bytes: Bytes of their vectors.
    """

    namespace: str
    packs: tuple[str, ...]
    rows: int
    bytes: int


@dataclass(slots=True)
class CompactReport(Displayable):
    """Result of a compaction, or of a dry run.

    Attributes:
        merges: Planned merges.
        written: Ids of the packs that were written, in order.
        rows: Number of rows in these packs.
        taken_back: Number of merges that were withdrawn because another client had merged or dropped a pack meanwhile.
        problems: Errors of packs that were left unchanged.
    """

    merges: list[Merge] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    rows: int = 0
    taken_back: int = 0
    problems: list[CasCacheError] = field(default_factory=list)

    def __rich__(self) -> Group:
        values = {
            "merges planned": len(self.merges),
            "packs merged": sum(len(merge.packs) for merge in self.merges),
            "packs written": len(self.written),
            "rows": self.rows,
            "taken back": self.taken_back or None,
            "left as they are": [f"{type(problem).__name__}: {problem}" for problem in self.problems],
        }
        return facts("What was compacted", values)

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain JSON."""
        return {
            "merges": [
                {"namespace": m.namespace, "packs": list(m.packs), "rows": m.rows, "bytes": m.bytes}
                for m in self.merges
            ],
            "written": self.written,
            "rows": self.rows,
            "taken_back": self.taken_back,
            "problems": [{"error": type(p).__name__, "message": str(p)} for p in self.problems],
        }


def plan_compact(manifests: Mapping[str, Manifest], *, at_least: int = AT_LEAST, signs: bool = False) -> list[Merge]:
    """Group small packs with their neighbours in time. Pure.

    Args:
        manifests: Manifests of one namespace, by pack, the oldest first.
        at_least: Minimum number of packs, 2 or more, in a merge that does not fill half a pack.
        signs: True if the packs were verified to be signed by trusted keys and the merge will be signed. Otherwise
            signed packs are not merged: an unsigned merge would hide them from clients that trust only signatures, and
            a signed one would vouch for packs that nobody verified.
    """
    merges: list[Merge] = []
    open_: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    superseded = superseders(manifests)

    def close(packs: list[str]) -> None:
        sample = manifests[packs[0]]
        rows = sum(manifests[pack].rows for pack in packs)
        full = 2 * rows >= min(most_rows_of_a_pack(sample.vector_bytes), MAX_ROWS)
        if len(packs) >= (2 if full else max(2, at_least)):
            merges.append(Merge(sample.namespace, tuple(packs), rows, rows * sample.vector_bytes))

    for pack, manifest in manifests.items():
        if pack in superseded or not is_small(manifest) or (manifest.signature is not None) != signs:
            continue
        group = open_.setdefault((manifest.dtype, manifest.shape), [])
        most = min(most_rows_of_a_pack(manifest.vector_bytes), MAX_ROWS)
        if group and (sum(manifests[p].rows for p in group) + manifest.rows > most or len(group) == MAX_SOURCES):
            close(group)
            group.clear()
        group.append(pack)
    for group in open_.values():
        close(group)
    return merges


def compact(
    repository: Repository,
    namespaces: Iterable[str] | None = None,
    *,
    at_least: int = AT_LEAST,
    dry_run: bool = False,
    progress: bool | None = False,
) -> CompactReport:
    """Merge small packs. Deletes only objects that this call wrote and withdrew.

    A pack that fails verification is not merged and stays.

    Args:
        repository: The repository.
        namespaces: Ids of the namespaces to compact; None for all.
        at_least: See `plan_compact`.
        dry_run: Only plan; nothing is written.
        progress: Show the number of bytes read and written; None shows it on a terminal only.

    Raises:
        NotARepository: If there is no repository.
        UnsupportedFormat: If this version may not write the repository.
        ConfigurationError: If only signed packs are trusted, and there is no key to sign the merges.
        RemoteError: If the storage is unreachable or refuses a request. Packs written so far are correct; repeat the
            call to continue.
    """
    report = CompactReport()
    repository.must_exist()
    if not dry_run:
        repository.require_signer()
        repository.require_writable()
    requested = None if namespaces is None else set(namespaces)
    read = repository.read_manifests(
        [ref for ref in repository.packs() if requested is None or ref.namespace in requested]
    )
    report.problems += read.problems.values()
    by_namespace: dict[str, dict[str, Manifest]] = {}
    for pack, manifest in read.readable.items():
        by_namespace.setdefault(manifest.namespace, {})[pack] = manifest
    plans = [
        (merge, manifests)
        for manifests in by_namespace.values()
        for merge in plan_compact(manifests, at_least=at_least, signs=repository.trust is not None)
    ]
    report.merges += [merge for merge, _ in plans]
    if not dry_run:
        # Twice the bytes: every row is read and written.
        with progress_bar("compact", 2 * sum(merge.bytes for merge in report.merges), progress, BYTES) as advance:
            for merge, manifests in plans:
                _run_merge(repository, merge, manifests, report, advance)
    return report


def _run_merge(
    repository: Repository,
    merge: Merge,
    manifests: Mapping[str, Manifest],
    report: CompactReport,
    advance: Callable[[int], object],
) -> None:
    """Write one merge."""
    with _Spool(manifests[merge.packs[0]]) as spool:
        for pack in merge.packs:
            try:
                spool.add(repository, pack, manifests[pack])
                advance(manifests[pack].rows * manifests[pack].vector_bytes)
            except DamagedPack as problem:
                logger.warning("left pack %s as it is: %s", pack, problem)
                if not repository.has_gone(PackRef(merge.namespace, pack), problem):
                    report.problems.append(problem)
        if len(spool.packs) < 2:
            return
        spool.seal()
        appearances = {manifests[pack].appearance for pack in spool.packs}
        staged = repository.stage(
            merge.namespace,
            spool,
            secrets.token_hex(16),
            tuple(spool.packs),
            source_rows=spool.source_rows,
            appearance=appearances.pop() if len(appearances) == 1 else None,
        )
        advance(merge.bytes)
        # Checked after the slow write and just before the fast manifest, which keeps the window for two merges small.
        if _merged_or_gone(repository, merge.namespace, spool.packs, manifests):
            report.taken_back += 1
            try:
                # Safe to delete: this call drew the nonce, so no other client can know or use the name.
                repository.delete(staged.paths)
            except AccessDenied as err:
                logger.info("left the objects of pack %s to prune: %s", staged.pack, err)
            return
        repository.commit(staged)
        report.written.append(staged.pack)
        report.rows += spool.rows
        logger.info("merged %d packs of %s: %s", len(spool.packs), merge.namespace, staged.pack)


def _merged_or_gone(
    repository: Repository, namespace: str, packs: Iterable[str], known: Mapping[str, Manifest]
) -> bool:
    """Return True if another client has merged or dropped one of the packs since the manifests were read."""
    listed = repository.packs(namespace)
    if not {pack for _, pack in listed}.issuperset(packs):
        return True
    new = repository.read_manifests([ref for ref in listed if ref.pack not in known])
    return not superseders(new.readable).keys().isdisjoint(packs)


@contextmanager
def _spool_errors() -> Iterator[None]:
    """Turn an error of the temporary file into one that says where space is missing."""
    try:
        yield
    except OSError as err:
        raise MirrorWriteError(
            f"The temporary file of a merge could not be written in {tempfile.gettempdir()} ({err}). Nothing was "
            "changed. A merge needs room for one pack, at most 768 MiB: make some, or name another folder by TMPDIR."
        ) from as_cause(err)


class _Spool:
    """The rows of several packs in a temporary file, presented as the rows of one pack.

    Attributes:
        packs: Ids of the packs that were added completely.
        rows: Number of distinct keys; known after `seal`.
        source_rows: Number of rows from each of `packs`; known after `seal`.
    """

    def __init__(self, like: Manifest) -> None:
        self.dtype, self.shape = like.element_shape("vectors")
        self.packs: list[str] = []
        self.rows = 0
        self.source_rows: tuple[int, ...] = ()
        self._keys = np.empty((0, KEY_BYTES), np.uint8)
        self._digests = np.empty(0, np.uint64)
        self._parts: list[tuple[NDArray[np.uint8], NDArray[np.uint64]]] = []
        self._chosen: NDArray[np.int64] | None = None
        self._vectors: NDArray[Any] | None = None
        # The file has no name, so it disappears with this process, however that ends.
        with _spool_errors():
            self._file = tempfile.TemporaryFile(prefix="cas-cache-")  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._vectors = None
        self._file.close()

    def add(self, repository: Repository, pack: str, manifest: Manifest) -> None:
        """Add the rows of a pack, verified.

        Raises:
            DamagedPack: If the pack fails verification. None of its rows is added.
        """
        before = self._file.tell()
        keys = repository.keys(pack, manifest)
        digests = []
        try:
            for chunk in repository.read(pack, manifest, keys):
                with _spool_errors():
                    self._file.write(np.ascontiguousarray(chunk.vectors).data)
                digests.append(chunk.digests)
        except DamagedPack:
            self._file.seek(before)
            self._file.truncate()
            raise
        self._parts.append((keys, np.concatenate(digests)))
        self.packs.append(pack)

    def seal(self) -> None:
        """Close the spool for additions. Of each key the first row counts, as in a pull of the separate packs."""
        with _spool_errors():
            self._file.flush()
        self._keys = np.concatenate([keys for keys, _ in self._parts])
        self._digests = np.concatenate([digests for _, digests in self._parts])
        ends = np.cumsum([len(keys) for keys, _ in self._parts])
        self._parts.clear()
        distinct, _ = first_of_each(self._keys)
        self.rows = len(distinct)
        self.source_rows = tuple(np.diff(np.searchsorted(distinct, ends), prepend=0).tolist())
        self._chosen = None if self.rows == len(self._keys) else distinct
        self._vectors = mapped(self._file, self.dtype, "r", 0, (len(self._keys), *self.shape))

    def column(self, array: str, start: int, stop: int) -> NDArray[Any]:
        """See `PackRows.column`."""
        columns: dict[str, Any] = {"keys": self._keys, "vectors": self._vectors, "digests": self._digests}
        column: NDArray[Any] = columns[array]
        return column[start:stop] if self._chosen is None else column[self._chosen[start:stop]]
