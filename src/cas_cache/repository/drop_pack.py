"""Delete one pack whose vectors are wrong, and the merges that hold its rows: manifests first, then objects.

This deletion loses rows, and a user requests it by name: wrong weights under the right name pass every hash, and only
the self-check finds them. Other packs of the namespace stay. A merge of the pack is deleted with it, because it holds
the same rows. If packs that the merge replaced no longer exist, their rows would be lost, too; that has to be forced.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cas_cache.display import Displayable, facts, pluralize, size
from cas_cache.errors import ConfigurationError
from cas_cache.format import layout
from cas_cache.format.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Group

    from cas_cache.repository.repository import Repository

logger = logging.getLogger(__name__)

MAX_NAMED = 5


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
        repository.writable()
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
    manifests = {
        other: manifest
        for (_, other), manifest in zip(of_namespace, repository.manifests(of_namespace), strict=True)
        if isinstance(manifest, Manifest)
    }
    report = plan_drop_pack(namespace, name, manifests)
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
