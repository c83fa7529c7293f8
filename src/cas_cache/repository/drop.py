"""Delete a namespace: plan from one listing, then delete manifests, spec and objects, in that order.

This deletion loses rows, and a user requests it by name. Packs that appear meanwhile stay, and then the spec stays,
too. Mirrors keep their rows; their next pull reports that the namespace no longer exists.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cas_cache.display import Displayable, facts, size
from cas_cache.errors import ConfigurationError, IncompleteListing
from cas_cache.format import layout

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Group

    from cas_cache.repository.repository import Repository
    from cas_cache.storage.interface import ObjectInfo

logger = logging.getLogger(__name__)

QUIET_SECONDS = 86_400.0
"""Seconds after the last added pack for which a namespace counts as in use."""


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


def plan_drop(listed: Iterable[ObjectInfo], namespace: str, *, now: float) -> DropReport:
    """Choose the objects to delete. Pure.

    Args:
        listed: Every object below the root.
        namespace: The id of the namespace.
        now: Time of the storage's clock.
    """
    report = DropReport(namespace)
    spec, objects, ages = layout.spec_path(namespace), [], []
    for entry in listed:
        manifest_ref = layout.parse_manifest_path(entry.path)
        if manifest_ref and manifest_ref.namespace == namespace:
            report.packs.append(manifest_ref.pack)
            report.manifests.append(entry.path)
            ages.append(now - entry.modified)
        elif entry.path == spec:
            report.spec = spec
        else:
            objects.append(entry)
            continue
        report.bytes += entry.size
    report.idle = math.nan if any(map(math.isnan, ages)) else min(ages, default=math.inf)
    mine = set(report.packs)
    for entry in objects:
        object_ref = layout.parse_object_path(entry.path)
        if object_ref and object_ref.pack in mine:
            report.objects.append(entry.path)
            report.bytes += entry.size
    return report


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
    repository.writable()
    now = time.time() if dry_run else repository.now()
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
