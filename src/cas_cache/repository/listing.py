"""A complete listing of a repository, sorted by what its objects are. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cas_cache.format import layout

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cas_cache.storage.interface import ObjectInfo


@dataclass(slots=True)
class RepositoryListing:
    """The objects of a repository.

    Attributes:
        has_marker: True if the marker is listed.
        manifests: Manifests by pack, in the order of the listing.
        objects: Objects of packs, by pack and by name in the pack.
        specs: Specs by namespace.
        probes: Probes of the storage's clock.
        foreign: Paths in the repository's folders that no object of a repository can have.
    """

    has_marker: bool = False
    manifests: dict[layout.PackRef, ObjectInfo] = field(default_factory=dict)
    objects: dict[str, dict[str, ObjectInfo]] = field(default_factory=dict)
    specs: dict[str, ObjectInfo] = field(default_factory=dict)
    probes: list[ObjectInfo] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, entries: Iterable[ObjectInfo]) -> RepositoryListing:
        """Sort every object below the root."""
        listing = cls()
        for entry in entries:
            listing._add(entry)
        return listing

    def _add(self, entry: ObjectInfo) -> None:
        if ref := layout.parse_manifest_path(entry.path):
            self.manifests[ref] = entry
        elif object_ref := layout.parse_object_path(entry.path):
            self.objects.setdefault(object_ref.pack, {})[object_ref.name] = entry
        elif namespace := layout.parse_spec_path(entry.path):
            self.specs[namespace] = entry
        elif layout.is_probe_path(entry.path):
            self.probes.append(entry)
        elif entry.path == layout.MARKER:
            self.has_marker = True
        elif entry.path.partition("/")[0] in (layout.MANIFESTS, layout.PACKS, "specs"):
            self.foreign.append(entry.path)

    @property
    def namespaces(self) -> set[str]:
        """Ids of the namespaces that have a manifest or a spec."""
        return {ref.namespace for ref in self.manifests} | self.specs.keys()

    @property
    def orphans(self) -> list[str]:
        """Ids of the packs that have objects but no manifest."""
        return sorted(self.objects.keys() - {ref.pack for ref in self.manifests})
