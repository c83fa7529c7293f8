"""Delete what nothing refers to, when nobody can want it any more: plan from one listing, then delete.

Two things go. A pack that another supersedes, when the other is whole and has been visible for the grace period: a
reader with an older listing may still be reading the first. And objects that no manifest names, when the youngest of a
pack has been there for the grace period: a writer may still be writing the manifest. Foreign objects stay.

Ages are differences of the storage's own times; no clock of a client counts. What has no time is young. A listing that
lacks what is there would make live packs look like orphans, so before a pack is taken for one, its manifest is asked
for by name.

A manifest is deleted before the objects that it names. Who is killed between leaves objects that nothing names, and
the next prune goes on there. An orphan is asked for again when its objects have gone: a manifest that came too late
goes after them.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from cas_cache import html
from cas_cache.errors import ConfigurationError, IncompleteListing, ObjectNotFound
from cas_cache.formatting import size
from cas_cache.identity import parsed_json
from cas_cache.progress import progress_bar
from cas_cache.repository import layout
from cas_cache.repository.interface import ordered_map
from cas_cache.repository.manifest import Manifest, superseders
from cas_cache.repository.marker import MAX_DOCUMENT_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cas_cache.repository.interface import ObjectInfo
    from cas_cache.repository.repository import Repository

logger = logging.getLogger(__name__)

DAY = 86_400.0
GRACE = 7 * DAY
"""Seconds before what nothing refers to is deleted: longer than any reader or writer of one pack takes."""

MIN_GRACE = DAY
"""A writer may use a name for this long before it is visible (see `repository.MAX_SECONDS`); less must be forced."""

MAX_PACKS = 10_000
"""Packs that one run deletes."""


@dataclass(frozen=True, slots=True)
class Deletion:
    """A pack, or a probe of the clock, that goes.

    Attributes:
        reason: ``"superseded"``: another pack has its rows. ``"orphan"``: no manifest names it. ``"probe"``: somebody
            who read the clock was killed.
        namespace: Whose; empty for an orphan.
        pack: Its id, or the path of a probe.
        paths: What is deleted, in this order; the manifest first.
        bytes: How much that is.
        age: Seconds since the superseding pack, or the last of the objects, was written.
    """

    reason: Literal["superseded", "orphan", "probe"]
    namespace: str
    pack: str
    paths: tuple[str, ...]
    bytes: int
    age: float


@dataclass(slots=True)
class PruneReport:
    """What a prune did, or would do.

    Attributes:
        deletions: What went, or would go.
        young: Packs that nothing refers to and that are not old enough.
        postponed: Packs beyond the most that one run deletes.
    """

    deletions: list[Deletion] = field(default_factory=list)
    young: int = 0
    postponed: int = 0

    @property
    def bytes(self) -> int:
        """Bytes of all deletions."""
        return sum(deletion.bytes for deletion in self.deletions)

    def __repr__(self) -> str:
        return (
            f"PruneReport(deletions={len(self.deletions)} packs, bytes={self.bytes}, young={self.young}, "
            f"postponed={self.postponed})"
        )

    def _repr_html_(self) -> str:
        rows = [
            ("packs deleted", len(self.deletions)),
            ("bytes", size(self.bytes)),
            ("too young", self.young),
            ("postponed", self.postponed),
        ]
        return html.facts("What was pruned", rows)

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
    """Choose what goes. Pure.

    Args:
        listed: Every object below the root.
        manifests: By pack, those of the listing that verify. What does not verify supersedes nothing, and goes not.
        now: By the storage's clock.
        grace: In seconds.
        most_packs: How many packs go at most; the oldest do.
    """
    objects_of: dict[str, dict[str, ObjectInfo]] = {}
    manifest_entries: dict[str, ObjectInfo] = {}
    candidates: list[Deletion] = []
    for entry in listed:
        if object_ref := layout.parse_object_path(entry.path):
            objects_of.setdefault(object_ref.pack, {})[object_ref.name] = entry
        elif manifest_ref := layout.parse_manifest_path(entry.path):
            manifest_entries[manifest_ref.pack] = entry
        elif layout.is_probe_path(entry.path):
            candidates.append(Deletion("probe", "", entry.path, (entry.path,), entry.size, now - entry.modified))
    for pack, others in superseders(manifests).items():
        if pack in manifests:
            whole = [
                now - manifest_entries[other].modified
                for other in others
                if manifests[other].namespace == manifests[pack].namespace
                and _is_whole(manifests[other], objects_of.get(other, {}))
            ]
            # Of several that are whole the oldest counts; without one, or a time of one, the age is unknown.
            age = max((age for age in whole if not math.isnan(age)), default=math.nan)
            objects = [manifest_entries[pack], *objects_of.get(pack, {}).values()]
            candidates.append(_deletion("superseded", manifests[pack].namespace, pack, objects, age))
    for pack in objects_of.keys() - manifest_entries.keys():
        objects = list(objects_of[pack].values())
        ages = [now - entry.modified for entry in objects]
        age = math.nan if any(map(math.isnan, ages)) else min(ages)
        candidates.append(_deletion("orphan", "", pack, objects, age))
    # NaN is not more than anything.
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
    """Whether all objects of a pack are listed with their sizes."""
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

    Where only signed packs are trusted, only such supersede others and are superseded; where everybody is, only such
    as are not signed.

    Args:
        repository: Which.
        grace: In seconds, by the storage's clock.
        most_packs: How many packs go at most.
        known: Packs that must be in the listing, such as those of a mirror, each with its namespace. What the listing
            shows nothing of, neither manifest nor spec, was dropped, and is not missed.
        force: Allow a grace period below `MIN_GRACE`, and a repository of orphans alone. Nobody may be writing.
        dry_run: Write and delete nothing: ages are by this machine's clock, because to read the storage's a probe is
            written.
        progress: Show how many packs were deleted; None where there is a terminal.

    Raises:
        NotARepository: If there is none.
        UnsupportedFormat: If this version may not write it.
        ConfigurationError: If the grace period is too short and not forced.
        IncompleteListing: If the listing lacks what is there. Nothing was deleted.
        RepositoryError: If the storage does not tell times.
        RemoteError: If the storage is away or refuses. The same call goes on where it stopped.
    """
    if not grace >= 0 or (grace < MIN_GRACE and not force):
        raise ConfigurationError(
            f"A grace period of {grace / DAY:.2f} days could delete what a writer is about to name: at least "
            f"{MIN_GRACE / DAY:.0f} day. If nobody writes or reads, use force=True (--force)."
        )
    repository.must_exist()
    repository.writable()
    now = time.time() if dry_run else repository.now()
    listed = repository.storage.list("")
    _check_listing(repository, listed, now, force=force)
    packs = [ref for ref in (layout.parse_manifest_path(entry.path) for entry in listed) if ref]
    manifests = {
        pack: manifest
        for (_, pack), manifest in zip(packs, repository.manifests(packs), strict=True)
        if isinstance(manifest, Manifest)
    }
    # A pack that was merged and pruned before is missed by nobody.
    shown = _namespaces(listed)
    expected = {pack for pack, namespace in (known or {}).items() if namespace in shown}
    if lost := expected.difference((pack for _, pack in packs), superseders(manifests)):
        raise IncompleteListing(
            f"{repository.url} does not list {len(lost)} packs that are known to be there, the first is {min(lost)}. "
            "Nothing was deleted. Check the storage; a pull with the mirror that knows them tells more."
        )
    if repository.trust is None:
        # Whoever does not verify signatures deletes nothing that is signed: the merge may be a forger's.
        manifests = {pack: manifest for pack, manifest in manifests.items() if manifest.signature is None}
    report = plan_prune(listed, manifests, now=now, grace=grace, most_packs=most_packs)
    namespaces = sorted(shown)
    names = list(ordered_map(lambda deletion: _names(repository, deletion, namespaces), report.deletions))
    checked = ordered_map(lambda paths: _is_named(repository, paths), names)
    kept = [deletion.pack for deletion, is_named in zip(report.deletions, checked, strict=True) if is_named]
    if kept:
        raise IncompleteListing(
            f"{repository.url} does not list the manifests of {len(kept)} packs that have one, the first is {kept[0]}. "
            "Nothing was deleted. Check the storage and the permission to list."
        )
    if not dry_run:
        with progress_bar("prune", len(report.deletions), progress, "packs") as advance:
            for deletion, late in zip(report.deletions, names, strict=True):
                repository.delete(deletion.paths[:1])
                repository.delete(deletion.paths[1:])
                # A PUT that was on its way for days may have named an orphan since it was asked for. Its writer takes
                # the name back if it finds objects gone; if it looked before they went, that is done here.
                repository.delete([path for path in late if repository.exists(path)])
                logger.info("deleted %s %s: %d objects", deletion.reason, deletion.pack, len(deletion.paths))
                advance(1)
    return report


def _check_listing(repository: Repository, listed: list[ObjectInfo], now: float, *, force: bool) -> None:
    """Refuse a listing that lacks what is there.

    Raises:
        IncompleteListing: If it does.
    """
    paths = {entry.path for entry in listed}
    packs = {ref.pack for ref in map(layout.parse_manifest_path, paths) if ref}
    # What a second listing shows and the first does not is new, or the first was not complete.
    again = repository.storage.list(layout.MANIFESTS)
    lacking = [entry.path for entry in again if entry.path not in paths and entry.modified < now]
    problem = ""
    if layout.MARKER not in paths:
        problem = f"does not list {layout.MARKER}, which is there"
    elif lacking:
        problem = f"lists {len(lacking)} old manifests at one time and not at another, the first is {lacking[0]}"
    elif not packs and not force and any(map(layout.parse_object_path, paths)):
        problem = "lists objects of packs and not one manifest; if that is how it should be, use force=True (--force)"
    if problem:
        raise IncompleteListing(
            f"{repository.url} {problem}. Nothing was deleted. Check the storage and the permission to list."
        )


def _namespaces(listed: Iterable[ObjectInfo]) -> set[str]:
    """Ids of the namespaces that a listing shows, by manifests or specs."""
    paths = [entry.path for entry in listed]
    namespaces = {ref.namespace for ref in map(layout.parse_manifest_path, paths) if ref}
    return namespaces | {namespace for namespace in map(layout.parse_spec_path, paths) if namespace}


def _names(repository: Repository, deletion: Deletion, namespaces: list[str]) -> list[str]:
    """Paths of the manifests that a pack may have that no listed manifest names; none of any other deletion."""
    if deletion.reason != "orphan":
        return []
    try:
        data = repository.storage.get(layout.object_path(deletion.pack, "zarr.json"), 0, MAX_DOCUMENT_BYTES)
        return [layout.manifest_path(parsed_json(data)["attributes"]["namespace"], deletion.pack)]
    except (ObjectNotFound, ValueError, KeyError, TypeError):
        return [layout.manifest_path(namespace, deletion.pack) for namespace in namespaces]


def _is_named(repository: Repository, paths: list[str]) -> bool:
    """Whether one of the manifests is there after all, asked for by name."""
    return any(map(repository.exists, paths))
