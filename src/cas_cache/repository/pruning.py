"""Delete objects that are no longer needed: plan from one listing, then delete.

Two kinds of packs are deleted. The first is a superseded pack, once the superseding pack is complete and has been
visible for the grace period: a reader with an older listing may still be reading the superseded one. The second is an
orphan, objects that no manifest names, once the youngest of its objects is as old as the grace period: a writer may
still be about to write the manifest. Foreign objects stay.

Ages are differences of the storage's own times; the clock of a client never counts. An object without a time is young.
An incomplete listing would make live packs look like orphans, so before a pack is treated as one, its manifest is
requested by name.

A manifest is deleted before the objects that it names. A prune that is killed in between leaves an orphan, which the
next prune deletes. After the objects of an orphan are deleted, its manifest is requested again: one that was written
too late is deleted, too.
"""

from __future__ import annotations

import logging
import math
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from cas_cache.display import Displayable, facts, size
from cas_cache.errors import ConfigurationError, IncompleteListing, ObjectNotFound, RepositoryError
from cas_cache.format import layout
from cas_cache.format.manifest import superseders
from cas_cache.format.marker import MAX_DOCUMENT_BYTES
from cas_cache.identity import parsed_json
from cas_cache.progress import progress_bar
from cas_cache.repository.listing import RepositoryListing
from cas_cache.repository.publishing import MAX_SECONDS
from cas_cache.storage.threads import ordered_map

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rich.console import Group

    from cas_cache.format.manifest import Manifest
    from cas_cache.repository.repository import Repository
    from cas_cache.storage.interface import ObjectInfo

logger = logging.getLogger(__name__)

DAY = 86_400.0
GRACE = 7 * DAY
"""Default grace period in seconds: longer than any reader or writer needs for one pack."""

MIN_GRACE = 2.0 * MAX_SECONDS
"""Minimum grace period, in seconds: a writer may use a name for this long before it is visible. A shorter one must be
forced."""

MAX_PACKS = 10_000
"""Maximum number of packs that one run deletes."""


@dataclass(frozen=True, slots=True)
class Deletion:
    """A pack, or a probe of the clock, to delete.

    Attributes:
        reason: ``"superseded"``: another pack has its rows. ``"orphan"``: no manifest names it. ``"probe"``: a client
            that read the clock was killed.
        namespace: The id of the namespace; empty for an orphan.
        pack: The id of the pack, or the path of a probe.
        paths: Paths to delete, in this order; the manifest comes first.
        bytes: Total size of the objects.
        age: Seconds since the superseding pack, or the last of the objects, was written.
    """

    reason: Literal["superseded", "orphan", "probe"]
    namespace: str
    pack: str
    paths: tuple[str, ...]
    bytes: int
    age: float


@dataclass(slots=True)
class PruneReport(Displayable):
    """Result of a prune, or of a dry run.

    Attributes:
        deletions: Deletions that were or would be made.
        young: Number of packs that could be deleted but are not old enough.
        postponed: Number of packs beyond the maximum of one run.
    """

    deletions: list[Deletion] = field(default_factory=list)
    young: int = 0
    postponed: int = 0

    @property
    def bytes(self) -> int:
        """Total size of all deletions in bytes."""
        return sum(deletion.bytes for deletion in self.deletions)

    def __repr__(self) -> str:
        return (
            f"PruneReport(deletions={len(self.deletions)} packs, bytes={self.bytes}, young={self.young}, "
            f"postponed={self.postponed})"
        )

    def __rich__(self) -> Group:
        values = {
            "packs deleted": len(self.deletions),
            "bytes": size(self.bytes),
            "too young": self.young,
            "postponed": self.postponed,
        }
        return facts("What was pruned", values)

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain JSON."""
        return {
            "deletions": [
                {"reason": d.reason, "namespace": d.namespace or None, "pack": d.pack, "objects": len(d.paths)}
                | {"bytes": d.bytes, "age_seconds": d.age}
                for d in self.deletions
            ],
            "bytes": self.bytes,
            "young": self.young,
            "postponed": self.postponed,
        }


def plan_prune(
    listed: Iterable[ObjectInfo],
    manifests: Mapping[str, Manifest],
    *,
    now: float,
    grace: float = GRACE,
    most_packs: int = MAX_PACKS,
) -> PruneReport:
    """Choose the packs to delete. Pure.

    Args:
        listed: Every object below the root.
        manifests: The listed manifests that pass verification, by pack. Packs that fail verification supersede nothing
            and are never pruned.
        now: Time of the storage's clock.
        grace: Grace period in seconds.
        most_packs: Maximum number of packs to delete; the oldest come first.
    """
    listing = RepositoryListing.of(listed)
    objects_of = listing.objects
    manifest_entries = {ref.pack: entry for ref, entry in listing.manifests.items()}
    candidates = [
        Deletion("probe", "", probe.path, (probe.path,), probe.size, now - probe.modified) for probe in listing.probes
    ]
    for pack, others in superseders(manifests).items():
        if pack in manifests:
            whole = [
                now - manifest_entries[other].modified
                for other in others
                if manifests[other].namespace == manifests[pack].namespace
                and _is_whole(manifests[other], objects_of.get(other, {}))
            ]
            # With several complete superseding packs the oldest counts. Without one, or without its time, the age is
            # unknown (NaN).
            age = max((age for age in whole if not math.isnan(age)), default=math.nan)
            objects = [manifest_entries[pack], *objects_of.get(pack, {}).values()]
            candidates.append(_deletion("superseded", manifests[pack].namespace, pack, objects, age))
    for pack in listing.orphans:
        objects = list(objects_of[pack].values())
        ages = [now - entry.modified for entry in objects]
        age = math.nan if any(map(math.isnan, ages)) else min(ages)
        candidates.append(_deletion("orphan", "", pack, objects, age))
    # A NaN fails the comparison, so a pack of unknown age is never deleted.
    old = sorted(
        (deletion for deletion in candidates if deletion.age >= grace),
        key=lambda deletion: (-deletion.age, deletion.pack),
    )
    return PruneReport(old[:most_packs], young=len(candidates) - len(old), postponed=len(old[most_packs:]))


def _deletion(
    reason: Literal["superseded", "orphan"], namespace: str, pack: str, objects: list[ObjectInfo], age: float
) -> Deletion:
    paths = tuple(entry.path for entry in objects)
    return Deletion(reason, namespace, pack, paths, sum(entry.size for entry in objects), age)


def _is_whole(manifest: Manifest, objects: Mapping[str, ObjectInfo]) -> bool:
    """Return True if all objects of a pack are listed with their sizes."""
    return all(name in objects and objects[name].size == record.size for name, record in manifest.objects.items())


def prune(  # noqa: PLR0913 - independent switches, all by name
    repository: Repository,
    *,
    grace: float = GRACE,
    most_packs: int = MAX_PACKS,
    known: Mapping[str, str] | None = None,
    force: bool = False,
    dry_run: bool = False,
    progress: bool | None = False,
) -> PruneReport:
    """Delete superseded packs and orphans that are older than the grace period.

    If only signed packs are trusted, only packs with a trusted signature supersede others or are deleted as superseded.
    If everybody is trusted, only unsigned packs do and are.

    Args:
        repository: The repository.
        grace: Grace period in seconds, by the storage's clock.
        most_packs: Maximum number of packs to delete.
        known: Packs that must be listed, such as those of a mirror, each with its namespace. Packs of a namespace of
            which the listing shows neither a manifest nor the spec were dropped, and are not expected.
        force: Allow a grace period below `MIN_GRACE`, and a repository that has only orphans. No client may be
            writing.
        dry_run: Write and delete nothing. Ages are by this machine's clock, because reading the storage's clock writes
            a probe.
        progress: Show the number of deleted packs; None shows it on a terminal only.

    Raises:
        NotARepository: If there is no repository.
        UnsupportedFormat: If this version may not write the repository.
        ConfigurationError: If the grace period is too short and not forced.
        IncompleteListing: If the listing lacks objects that exist. Nothing was deleted.
        RepositoryError: If the listings of the storage have no times.
        RemoteError: If the storage is unreachable or refuses a request. Repeat the call to continue.
    """
    if not grace >= 0 or (grace < MIN_GRACE and not force):
        raise ConfigurationError(
            f"A grace period of {grace / DAY:.2f} days could delete what a writer is about to name: at least "
            f"{MIN_GRACE / DAY:.0f} day. If nobody writes or reads, use force=True (--force)."
        )
    repository.must_exist()
    repository.require_writable()
    now = time.time() if dry_run else storage_time(repository)
    listed = repository.storage.list("")
    listing = RepositoryListing.of(listed)
    _check_listing(repository, listing, now, force=force)
    manifests = repository.read_manifests(list(listing.manifests)).readable
    # A known pack that is superseded by a listed one was merged and pruned before, so it is not lost.
    expected = {pack for pack, namespace in (known or {}).items() if namespace in listing.namespaces}
    if lost := expected.difference((ref.pack for ref in listing.manifests), superseders(manifests)):
        raise IncompleteListing(
            f"{repository.url} does not list {len(lost)} packs that are known to be there, the first is {min(lost)}. "
            "Nothing was deleted. Check the storage; a pull with the mirror that knows them tells more."
        )
    if repository.trust is None:
        # A client that does not verify signatures deletes nothing that is signed: the merge may be forged.
        manifests = {pack: manifest for pack, manifest in manifests.items() if manifest.signature is None}
    report = plan_prune(listed, manifests, now=now, grace=grace, most_packs=most_packs)
    namespaces = sorted(listing.namespaces)
    possible = list(
        ordered_map(lambda deletion: _possible_manifests(repository, deletion, namespaces), report.deletions)
    )
    checked = ordered_map(lambda paths: _is_named(repository, paths), possible)
    kept = [deletion.pack for deletion, is_named in zip(report.deletions, checked, strict=True) if is_named]
    if kept:
        raise IncompleteListing(
            f"{repository.url} does not list the manifests of {len(kept)} packs that have one, the first is {kept[0]}. "
            "Nothing was deleted. Check the storage and the permission to list."
        )
    if not dry_run:
        with progress_bar("prune", len(report.deletions), progress, "packs") as advance:
            for deletion, late in zip(report.deletions, possible, strict=True):
                # The manifest goes first: after it no reader starts, and a crash in between leaves only an orphan.
                repository.delete(deletion.paths[:1])
                repository.delete(deletion.paths[1:])
                # A PUT that was on its way for days may have written an orphan's manifest since it was requested. Its
                # writer withdraws the manifest if it finds objects missing. If it looked before they were deleted, this
                # does it.
                repository.delete([path for path in late if repository.exists(path)])
                logger.info("deleted %s %s: %d objects", deletion.reason, deletion.pack, len(deletion.paths))
                advance(1)
    return report


def storage_time(repository: Repository) -> float:
    """Return the time of the storage's clock, the only clock with which times of its objects may be compared.

    A probe is written, listed and deleted: 3 requests.

    Raises:
        RemoteError: If the storage is unreachable or refuses a request.
        RepositoryError: If its listings have no times.
    """
    storage, probe = repository.storage, layout.probe_path(secrets.token_hex(16))
    storage.put(probe, b"")
    try:
        now = next((entry.modified for entry in storage.list(layout.PROBES) if entry.path == probe), math.nan)
    finally:
        storage.delete(probe)
    if not math.isfinite(now):
        raise RepositoryError(
            f"{repository.url} does not tell when its objects were written, so none can be known to be old. Nothing "
            "was deleted. Delete by the means of the storage, or not at all."
        )
    return now


def _check_listing(repository: Repository, listing: RepositoryListing, now: float, *, force: bool) -> None:
    """Raise an error for a listing that lacks existing objects.

    Raises:
        IncompleteListing: If it does.
    """
    # A manifest that only the second listing shows is new, or the first listing was incomplete.
    again = RepositoryListing.of(repository.storage.list(layout.MANIFESTS)).manifests
    lacking = [entry.path for ref, entry in again.items() if ref not in listing.manifests and entry.modified < now]
    problem = ""
    if not listing.has_marker:
        problem = f"does not list {layout.MARKER}, which is there"
    elif lacking:
        problem = f"lists {len(lacking)} old manifests at one time and not at another, the first is {lacking[0]}"
    elif listing.objects and not listing.manifests and not force:
        problem = "lists objects of packs and not one manifest; if that is how it should be, use force=True (--force)"
    if problem:
        raise IncompleteListing(
            f"{repository.url} {problem}. Nothing was deleted. Check the storage and the permission to list."
        )


def _possible_manifests(repository: Repository, deletion: Deletion, namespaces: list[str]) -> list[str]:
    """Return the paths of manifests that an orphan may have although none is listed; empty for other deletions."""
    if deletion.reason != "orphan":
        return []
    try:
        data = repository.storage.get(layout.object_path(deletion.pack, "zarr.json"), 0, MAX_DOCUMENT_BYTES)
        return [layout.manifest_path(parsed_json(data)["attributes"]["namespace"], deletion.pack)]
    except (ObjectNotFound, ValueError, KeyError, TypeError):
        return [layout.manifest_path(namespace, deletion.pack) for namespace in namespaces]


def _is_named(repository: Repository, paths: list[str]) -> bool:
    """Return True if one of the manifests exists although it is not listed."""
    return any(map(repository.exists, paths))
