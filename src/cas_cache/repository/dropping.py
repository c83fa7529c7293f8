"""Delete a namespace, or one pack whose vectors are wrong: manifests first, then the spec, then objects.

Both lose rows, and a user requests them by name: wrong weights under the right name pass every hash, and only the
self-check finds them. Packs that appear while a namespace is dropped stay, and then its spec stays, too. A merge that
holds the rows of a dropped pack is dropped with it; if packs that the merge replaced no longer exist, their rows would
be lost, too, and that has to be forced. Mirrors keep their rows; their next pull reports what no longer exists.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cas_cache.display import Displayable, facts, pluralize, size
from cas_cache.errors import ConfigurationError, IncompleteListing
from cas_cache.format import layout
from cas_cache.repository.listing import RepositoryListing
from cas_cache.repository.pruning import storage_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rich.console import Group

    from cas_cache.format.manifest import Manifest
    from cas_cache.repository.repository import Repository
    from cas_cache.storage.interface import ObjectInfo

logger = logging.getLogger(__name__)

QUIET_SECONDS = 86_400.0
"""Seconds after the last added pack for which a namespace counts as in use."""


MAX_NAMED = 5
"""Maximum number of packs named in an error."""


@dataclass(slots=True)
class DropReport(Displayable):
    """Result of a drop, or of a dry run.

    Attributes:
        namespace: The id of the namespace.
        packs: Ids of its packs.
        manifests: Paths of their manifests.
        spec: Path of its spec, if it has one.
        objects: Paths of the packs' objects.
        bytes: Total size of all of them.
        idle: Seconds since the last pack was added, by the storage's clock; NaN if its listings have no times.
    """

    namespace: str
    packs: list[str] = field(default_factory=list)
    manifests: list[str] = field(default_factory=list)
    spec: str | None = None
    objects: list[str] = field(default_factory=list)
    bytes: int = 0
    idle: float = math.inf

    @property
    def is_idle(self) -> bool:
        """True if no pack was added in the last day."""
        return self.idle >= QUIET_SECONDS

    def __repr__(self) -> str:
        return f"DropReport({self.namespace}, packs={len(self.packs)}, objects={len(self.objects)}, bytes={self.bytes})"

    def __rich__(self) -> Group:
        values = {"packs": len(self.packs), "objects": len(self.objects), "bytes": size(self.bytes)}
        return facts(f"What is dropped of namespace {self.namespace}", values)

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain JSON."""
        return {
            "namespace": self.namespace,
            "packs": self.packs,
            "objects": len(self.objects),
            "bytes": self.bytes,
        }


@dataclass(slots=True)
class DropPackReport(Displayable):
    """The packs, rows and objects that dropping a pack deleted, or would delete.

    Attributes:
        namespace: The namespace of the pack; None if the repository does not have the pack.
        packs: The pack, and the merges that hold its rows.
        rows: The rows of the pack, as far as its manifest can be read.
        other_rows: Rows of other packs that exist only in these merges.
        objects: Paths of the objects.
        bytes: Bytes of objects and manifests.
    """

    namespace: str | None
    packs: list[str] = field(default_factory=list)
    rows: int = 0
    other_rows: int = 0
    objects: list[str] = field(default_factory=list)
    bytes: int = 0

    def __repr__(self) -> str:
        return f"DropPackReport(packs={len(self.packs)}, rows={self.rows}, other_rows={self.other_rows})"

    def __rich__(self) -> Group:
        values = {"packs": len(self.packs), "rows": self.rows, "rows of other packs": self.other_rows}
        return facts("A dropped pack", values | {"objects": len(self.objects), "bytes": size(self.bytes)})

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain JSON."""
        return {
            "namespace": self.namespace,
            "packs": self.packs,
            "rows": self.rows,
            "other_rows": self.other_rows,
            "objects": len(self.objects),
            "bytes": self.bytes,
        }


def plan_drop(listed: Iterable[ObjectInfo], namespace: str, *, now: float) -> DropReport:
    """Choose the objects to delete. Pure.

    Args:
        listed: Every object below the root.
        namespace: The id of the namespace.
        now: Time of the storage's clock.
    """
    layout.spec_path(namespace)  # raises an error for anything but a namespace id
    listing = RepositoryListing.of(listed)
    manifests = {ref.pack: entry for ref, entry in listing.manifests.items() if ref.namespace == namespace}
    spec = listing.specs.get(namespace)
    objects = [entry for pack in manifests for entry in listing.objects.get(pack, {}).values()]
    ages = [now - entry.modified for entry in manifests.values()]
    return DropReport(
        namespace,
        packs=list(manifests),
        manifests=[entry.path for entry in manifests.values()],
        spec=None if spec is None else spec.path,
        objects=[entry.path for entry in objects],
        bytes=sum(entry.size for entry in (*manifests.values(), *objects, *([] if spec is None else [spec]))),
        idle=math.nan if any(map(math.isnan, ages)) else min(ages, default=math.inf),
    )


def drop(repository: Repository, namespace: str, *, force: bool = False, dry_run: bool = False) -> DropReport:
    """Delete a namespace with all its vectors.

    Args:
        repository: The repository.
        namespace: The id of the namespace.
        force: Delete it even if a pack was added in the last day.
        dry_run: Write and delete nothing. Ages are by this machine's clock, because reading the storage's clock writes
            a probe.

    Raises:
        NotARepository: If there is no repository.
        UnsupportedFormat: If this version may not write the repository.
        ConfigurationError: If the namespace does not exist, or is in use and `force` is not set.
        IncompleteListing: If the listing lacks objects that exist.
        RemoteError: If the storage is unreachable or refuses a request. Repeat the call to continue; `prune` deletes
            the objects whose manifests are already deleted.
    """
    repository.must_exist()
    repository.require_writable()
    now = time.time() if dry_run else storage_time(repository)
    listed = repository.storage.list("")
    if all(entry.path != layout.MARKER for entry in listed):
        raise IncompleteListing(f"{repository.url} does not list {layout.MARKER}, which is there. Nothing was deleted.")
    report = plan_drop(listed, namespace, now=now)
    if not (report.packs or report.spec):
        raise ConfigurationError(
            f"There is no namespace {namespace} in {repository.url}. What a drop that was stopped has left, "
            "`cas-cache prune` removes."
        )
    if not (report.is_idle or force or dry_run):
        raise ConfigurationError(
            f"A pack was added to the namespace {namespace} in {repository.url} in the last day: somebody may be using "
            "it. Nothing was deleted. If not, use force=True (--force)."
        )
    if not dry_run:
        # Manifests first, so that no reader finds a pack that is being deleted. The spec goes only if no new pack needs
        # it.
        repository.delete(report.manifests)
        if report.spec and not repository.packs(namespace):
            repository.delete([report.spec])
        repository.delete(report.objects)
        logger.info("dropped namespace %s: %d packs", namespace, len(report.packs))
    return report


def drop_pack(repository: Repository, pack: str, *, force: bool = False, dry_run: bool = False) -> DropPackReport:
    """Delete one pack and the merges that hold its rows.

    Args:
        repository: The repository.
        pack: Id of the pack, or its first digits if no other pack has the same.
        force: Delete it even if rows of other packs are lost with a merge.
        dry_run: Delete nothing.

    Returns:
        A report of the deletion; `namespace` is None if the repository has no such pack (any more).

    Raises:
        NotARepository: If there is no repository.
        UnsupportedFormat: If this version may not write the repository.
        ConfigurationError: If several packs begin with these digits, or rows of other packs would be lost and `force`
            is not set.
        RemoteError: If the storage is unreachable or refuses a request. Repeat the call to continue; `prune` deletes
            what it left.
    """
    repository.must_exist()
    if not dry_run:
        repository.require_writable()
    listed = repository.packs()
    matches = [ref for ref in listed if ref.pack.startswith(pack)]
    if len(matches) > 1 or not pack:
        names = ", ".join(name for _, name in matches[:MAX_NAMED])
        raise ConfigurationError(
            f"{pluralize(len(matches), 'pack')} of {repository.url} begin with {pack!r}: {names}. Nothing was deleted. "
            "Name one by more of its id."
        )
    if not matches:
        return DropPackReport(None)
    namespace, name = matches[0]
    of_namespace = [ref for ref in listed if ref.namespace == namespace]
    report = plan_drop_pack(namespace, name, repository.read_manifests(of_namespace).readable)
    if report.other_rows and not (force or dry_run):
        raise ConfigurationError(
            f"The pack {name} was merged into {', '.join(report.packs[1:])}, which holds "
            f"{pluralize(report.other_rows, 'row')} of other packs that are not in the repository any more. Nothing "
            "was deleted. With force=True (--force) they are deleted, too, and encoded again "
            "when they are next asked for."
        )
    sizes = {
        entry.path: entry.size for each in report.packs for entry in repository.storage.list(layout.pack_prefix(each))
    }
    report.objects, report.bytes = list(sizes), sum(sizes.values())
    if not dry_run:
        # Manifests first, so that no reader finds a pack that is being deleted.
        repository.delete([layout.manifest_path(namespace, each) for each in report.packs])
        repository.delete(report.objects)
        logger.info("dropped pack %s of namespace %s and %d merges of it", name, namespace, len(report.packs) - 1)
    return report


def plan_drop_pack(namespace: str, pack: str, manifests: Mapping[str, Manifest]) -> DropPackReport:
    """Choose the packs that must be deleted with a pack. Pure.

    Args:
        namespace: The namespace of the pack.
        pack: Id of the pack.
        manifests: The readable manifests of the namespace, by pack.
    """
    merges = [name for name, manifest in manifests.items() if pack in manifest.supersedes]
    report = DropPackReport(namespace, [pack, *merges], manifests[pack].rows if pack in manifests else 0)
    lost: dict[str, int] = {}
    for merge in merges:
        manifest = manifests[merge]
        counts = manifest.source_rows or (-(-manifest.rows // len(manifest.supersedes)),) * len(manifest.supersedes)
        lost.update(zip(manifest.supersedes, counts, strict=True))
    report.other_rows = sum(rows for source, rows in lost.items() if source not in manifests and source != pack)
    return report
