"""Check a repository: plan from one listing, then read and compare. Never writes, never deletes.

A pull stops at the first damage of a pack. A check reports all damage, with its cost and its repair, and also examines
objects that a pull never reads: ``zarr.json``, and objects that no manifest names.

Requests: 1 for the marker, 1 listing, 1 per manifest, 1 per spec, and 1 per object to read the data. A suspected
problem is examined a second time before it is reported, because writers and prunes may be active. They write data
before the manifest and delete the manifest before the data, so a pack whose manifest has disappeared is not damaged.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from cas_cache.errors import (
    AccessDenied,
    NotARepository,
    ObjectNotFound,
    RepositoryError,
    UnreadablePack,
    UnsupportedFormat,
)
from cas_cache.format import layout
from cas_cache.format.manifest import superseders
from cas_cache.format.marker import MAX_DOCUMENT_BYTES, checked_marker
from cas_cache.progress import BYTES, progress_bar
from cas_cache.repository.check_pack import KeyCount, PackCheck
from cas_cache.repository.check_report import CheckReport, Severity, finding
from cas_cache.repository.listing import RepositoryListing
from cas_cache.repository.pruning import MIN_GRACE
from cas_cache.storage.threads import ordered_map

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cas_cache.errors import DamagedPack
    from cas_cache.format.manifest import Manifest
    from cas_cache.repository.repository import Repository
    from cas_cache.storage.interface import ObjectInfo


def packs_to_read(packs: Iterable[layout.PackRef], sample: float) -> set[str]:
    """Return the ids of the packs whose data is read. Pure.

    Args:
        packs: The visible packs.
        sample: Fraction of them, 0 to 1. A pack is in the sample if its id, which is a hash, lies in that fraction of
            all ids. The sample is therefore the same each time, and a larger one contains a smaller one. At least one
            pack is read, unless the fraction is 0.
    """
    ids = sorted({ref.pack for ref in packs})
    return {pack for pack in ids if int(pack, 16) < sample * 16 ** len(pack)} or set(ids[: sample > 0])


def check(
    repository: Repository, *, read_data: bool = False, sample: float = 1.0, progress: bool | None = False
) -> CheckReport:
    """Compare the objects of a repository with its manifests; nothing is written.

    Args:
        repository: The repository; it need not be open.
        read_data: Also read the objects, and check hashes, row digests, ``zarr.json``, padding and duplicate keys. Only
            a few chunks are in memory at a time.
        sample: With `read_data`, the fraction of the packs that is read, 0 to 1: at least one pack,
            and the same ones each time.
        progress: Show the number of packs, or bytes, that were checked; None shows it on a terminal only.

    Raises:
        RemoteError: If the storage is unreachable or refuses a request; nothing is known then.
    """
    run = _Check(repository, progress)
    before = repository.storage.traffic.down
    if run.marker():
        run.check_objects(sample if read_data else 0.0)
    run.report.bytes = repository.storage.traffic.down - before
    order = list(Severity)
    run.report.findings.sort(key=lambda item: (order.index(item.severity), item.kind, item.path))
    return run.report


class _Check:
    """One run of a check: collects the report, and examines suspected problems a second time."""

    def __init__(self, repository: Repository, progress: bool | None = False) -> None:
        self.repository = repository
        self.progress = progress
        self.storage = repository.storage
        self.report = CheckReport()
        self.marked = False

    def find(self, kind: str, path: str, what: str, *, ref: tuple[str, str] = ("", ""), rows: int = 0) -> None:
        self.report.findings.append(finding(kind, path, what, ref=ref, rows=rows))

    def marker(self) -> bool:
        """Check the marker; return True if the rest can be checked."""
        for last in (False, True):
            try:
                marker = checked_marker(self.storage.get(layout.MARKER, 0, MAX_DOCUMENT_BYTES), self.storage.url)
            except ObjectNotFound:
                return True  # `whole` reports it, because only the listing shows whether anything exists
            except UnsupportedFormat as err:
                self.find("marker-newer", layout.MARKER, str(err))
                return False
            except NotARepository as err:
                if last:
                    self.find("marker-damaged", layout.MARKER, f"It is not a repository's ({err.__cause__!r}).")
                continue
            if marker["writer_features"]:
                self.find("writer-features", layout.MARKER, f"It asks writers for {marker['writer_features']}.")
            break
        self.marked = True
        return True

    def check_objects(self, sample: float) -> None:
        """Check everything except the marker."""
        listing = RepositoryListing.of(self.storage.list(""))
        if not (self.marked and listing.has_marker):
            listing = RepositoryListing.of(self._recheck_marker())
        for path in listing.foreign:
            self.find("foreign", path, "No object of a repository has this name.")
        for _ in ordered_map(self._spec, sorted(listing.namespaces)):
            pass
        self._packs(listing, packs_to_read(listing.manifests, sample))
        self._orphans(listing.orphans)

    def _recheck_marker(self) -> list[ObjectInfo]:
        """Resolve a conflict of marker and listing: a repository that was just created, or an unreliable listing."""
        exists, listed = self.repository.exists(layout.MARKER), self.storage.list("")
        if exists and all(entry.path != layout.MARKER for entry in listed):
            self.find("listing-incomplete", "", f"{layout.MARKER} is there and not listed ({len(listed)} objects are).")
        elif not exists and listed:
            below = layout.repositories_below(entry.path for entry in listed)
            more = f" There is a repository at {self.repository.url}/{below[0]}." if below else ""
            self.find("marker-missing", layout.MARKER, f"It is missing; {len(listed)} other objects are there.{more}")
        elif not exists:
            self.find("nothing-there", "", "There is no object at all.")
        return listed

    def _spec(self, namespace: str) -> None:
        path = layout.spec_path(namespace)
        for last in (False, True):
            try:
                spec = self.repository.spec(namespace)
            except RepositoryError as err:
                missing = isinstance(err.__cause__, ObjectNotFound)
                if isinstance(err.__cause__, AccessDenied):
                    self.find("unreadable", path, str(err.__cause__), ref=(namespace, ""))
                    return
                if last and not (missing and not self.storage.list(layout.manifests_prefix(namespace))):
                    kind = "spec-missing" if missing else "spec-damaged"
                    self.find(kind, path, f"It does not verify ({err.__cause__}).", ref=(namespace, ""))
            else:
                if places := spec.credentials():
                    what = f"It has what is or may be a credential at {', '.join(places)}."
                    self.find("spec-credential", path, what, ref=(namespace, ""))
                return

    def _packs(self, listing: RepositoryListing, to_read: set[str]) -> None:
        manifests = self._manifests(list(listing.manifests))
        superseded = superseders(manifests)
        seen = _Namespace("")
        sizes_of = {
            pack: {name: entry.size for name, entry in objects.items()} for pack, objects in listing.objects.items()
        }
        total = sum(sum(sizes_of.get(pack, {}).values()) for pack in to_read)
        with progress_bar("read", total, self.progress, BYTES) as advance:
            for ref in listing.manifests:
                manifest = manifests.get(ref.pack)
                if ref.namespace != seen.id:
                    self._finish_namespace(seen)
                    seen = _Namespace(ref.namespace)
                sizes = sizes_of.get(ref.pack, {})
                if manifest is not None and manifest.namespace == ref.namespace:
                    self.report.packs += 1
                    self.report.rows += manifest.rows
                    seen.kinds.setdefault((manifest.dtype, manifest.shape), []).append((ref.pack, manifest.rows))
                    seen.superseded += ref.pack in superseded
                    # The keys of a superseded pack are expected to be in another pack, so they are not counted as
                    # duplicates.
                    count = KeyCount() if ref.pack in superseded else seen.keys
                    keys = count if ref.pack in to_read else None
                    self.report.packs_read += keys is not None
                    self.report.findings += PackCheck(self.storage, ref, manifest).findings(sizes, keys)
                advance(sum(sizes.values()) if ref.pack in to_read else 0)
        self._finish_namespace(seen)

    def _manifests(self, packs: list[layout.PackRef]) -> dict[str, Manifest]:
        """Return the manifests of the usable packs. A manifest that fails verification is read a second time."""
        with progress_bar("check", len(packs), self.progress, "packs") as advance:
            first = self.repository.read_manifests(packs, advance)
        second = self.repository.read_manifests(list(first.problems))
        for ref, untrusted in {**first.untrusted, **second.untrusted}.items():
            what = f"It counts as missing: {untrusted.reason}."
            self.find("untrusted", layout.manifest_path(*ref), what, ref=ref)
        for ref, problem in second.problems.items():
            self.find(*_manifest_finding(ref, problem), ref=ref)
        return first.readable | second.readable

    def _finish_namespace(self, seen: _Namespace) -> None:
        """Report problems that show only when all packs of a namespace are known."""
        path, ref = layout.manifests_prefix(seen.id or None), (seen.id, "")
        if len(seen.kinds) > 1:
            rows = [sum(count for _, count in packs) for packs in seen.kinds.values()]
            shown = "; ".join(
                f"{len(packs)} packs of {dtype}{list(shape)}, such as {packs[0][0]}"
                for (dtype, shape), packs in seen.kinds.items()
            )
            what = f"Its packs differ in dtype or shape: {shown}."
            self.find("kind-conflict", path, what, ref=ref, rows=sum(rows) - max(rows))
        if seen.superseded:
            what = f"The rows of {seen.superseded} packs are in others as well, by a compaction."
            self.find("superseded", path, what, ref=ref)
        if repeats := seen.keys.repeats:
            self.find("duplicate-keys", path, f"{repeats} rows of the packs read have a key seen before.", ref=ref)

    def _orphans(self, packs: list[str]) -> None:
        if not packs:
            return
        visible = {pack for _, pack in self.repository.packs()}
        unnamed = [pack for pack in packs if pack not in visible]
        for pack, listed in zip(
            unnamed, ordered_map(lambda pack: self.storage.list(f"packs/{pack}"), unnamed), strict=True
        ):
            if listed:
                what = f"No manifest names its {len(listed)} objects, {sum(entry.size for entry in listed)} bytes."
                # Measured by this machine's clock: nothing is deleted because of it, and a probe of the storage's clock
                # is a write.
                young = time.time() - max(entry.modified for entry in listed) < MIN_GRACE
                if young:
                    what = f"{what} The last was written less than a day ago: a writer may be at work."
                orphan = finding("orphan", f"packs/{pack}", what, ref=("", pack))
                self.report.findings.append(replace(orphan, severity=Severity.NOTE) if young else orphan)


def _manifest_finding(ref: layout.PackRef, problem: DamagedPack | UnsupportedFormat) -> tuple[str, str, str]:
    """Return kind, path and description of the finding about a manifest."""
    path = layout.manifest_path(*ref)
    if isinstance(problem, UnsupportedFormat):
        return "pack-newer", path, str(problem)
    if isinstance(problem, UnreadablePack):
        return "unreadable", path, str(problem)
    return "manifest-damaged", path, f"It does not verify ({problem.__cause__})."


class _Namespace:
    """The packs of one namespace: ids and rows by dtype and shape, keys, and the number of superseded packs."""

    def __init__(self, namespace: str) -> None:
        self.id = namespace
        self.kinds: dict[tuple[str, tuple[int, ...]], list[tuple[str, int]]] = {}
        self.keys = KeyCount()
        self.superseded = 0
