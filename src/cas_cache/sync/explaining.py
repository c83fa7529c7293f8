"""Explain where the vector of one item is, or why there is none.

The mirror is read first, then the packs that it does not know, then other namespaces of the same model. Nothing is
changed. Data that cannot be read is reported, and nothing is concluded from it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.display import ID_CHARACTERS
from cas_cache.errors import (
    AccessDenied,
    CasCacheError,
    DamagedMirror,
    IncompleteListing,
    RepositoryError,
    UnsupportedFormat,
    UntrustedPack,
)
from cas_cache.format.manifest import Manifest
from cas_cache.identity import canonical_json
from cas_cache.mirror.index import ABSENT
from cas_cache.mirror.overview import lines_of
from cas_cache.repository import Repository
from cas_cache.sync.connecting import peek
from cas_cache.sync.report import without_frames

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cas_cache.format.layout import PackRef
    from cas_cache.identity import EncoderSpec
    from cas_cache.mirror import Mirror

MESSAGES = {
    "served": "The mirror has the vector, of pack {pack}, and serves it.",
    "pending": "The mirror has the vector and serves it. It is not pushed yet, so other mirrors do not have it. "
    "`cas-cache push` publishes it.",
    "not_compared": "The mirror has the vector, of pack {pack}, but no encoder was compared with that pack in this "
    "mirror yet. The next call compares some of its rows before it serves them, unless self_check is 0.",
    "damaged_here": "The mirror has the vector, but it does not agree with its digest, so it is not served: {detail}",
    "not_pulled": "The repository has the vector, in pack {pack}, and the mirror does not. A miss pulls it, once for "
    "each namespace and cache; `cas-cache pull` does so now.",
    "untrusted": "Pack {pack} of the repository has the vector, but is not trusted, so it is not read: {detail}.",
    "unreadable": "Pack {pack} of the repository has the vector, but its row cannot be read: {detail}",
    "unknown": "What could be read does not have the vector. Something could not be read and may have it.",
    "other_namespace": "This namespace does not have the vector, but another namespace of the same model does. Its "
    "encoder spec differs.",
    "absent": "No namespace of this model has the vector. It was not encoded, it was deleted, or it held NaN or "
    "infinity and was not stored.",
}
"""Message of each status. Exactly one status holds for an item and a spec."""

SERVED = frozenset({"served", "pending", "not_compared"})


@dataclass(frozen=True, slots=True)
class Difference:
    """One field in which two encoder specs differ.

    Attributes:
        field: The name of the field.
        asked: The value in the requested spec.
        other: The value in the other spec.
    """

    field: str
    asked: Any
    other: Any

    def as_json(self) -> dict[str, str]:
        """Return the difference as plain JSON; the values are JSON texts."""
        return {"field": self.field, **{name: _text(getattr(self, name)) for name in ("asked", "other")}}

    def __str__(self) -> str:
        return f"{self.field} is {_text(self.other)}, not {_text(self.asked)}"


@dataclass(frozen=True, slots=True)
class OtherNamespace:
    """Another namespace of the same model that has the item.

    Attributes:
        namespace: The id of the namespace.
        in_mirror: True if the mirror has the row, False if only the repository has it.
        differences: Fields in which its encoder spec differs from the requested one.
    """

    namespace: str
    in_mirror: bool
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where the vector of an item is, or why there is none.

    Attributes:
        status: One of the keys of `MESSAGES`.
        message: Meaning of the status, and advice.
        namespace: The id of the requested namespace.
        pack: The pack that has the row; None if there is none, or if the row is not pushed yet.
        others: Other namespaces of the same model that have the item. Empty if this namespace has it: then they are not
            searched.
        problems: Reasons why something could not be read or was not requested.
    """

    status: str
    message: str
    namespace: str
    pack: str | None = None
    others: tuple[OtherNamespace, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def is_hit(self) -> bool:
        """True if a call would be answered from the mirror as it is."""
        return self.status in SERVED

    def as_json(self) -> dict[str, Any]:
        """Return the explanation as plain JSON."""
        others = [
            {
                "namespace": other.namespace,
                "in_mirror": other.in_mirror,
                "differences": [difference.as_json() for difference in other.differences],
            }
            for other in self.others
        ]
        return {
            "namespace": self.namespace,
            "status": self.status,
            "hit": self.is_hit,
            "message": self.message,
            "pack": self.pack,
            "others": others,
            "problems": list(self.problems),
        }


@dataclass(frozen=True, slots=True)
class _Location:
    status: str
    pack: str | None = None
    detail: str = ""


def explain(
    mirror: Mirror,
    repository: Repository | None,
    spec: EncoderSpec,
    key: NDArray[np.uint8],
    *,
    not_asked: str | None = None,
) -> Explanation:
    """Explain where the vector of an item is, or why there is none.

    Reads the keys of all packs that the mirror does not know: of this namespace and, if no pack has the item, of the
    other namespaces of the model.

    Args:
        mirror: The mirror.
        repository: The mirror's repository; None if there is none, or if it must not be accessed.
        spec: The encoder's identity.
        key: (1, 32) uint8, the item's key.
        not_asked: Reason why an existing repository is not accessed; None if it is, or if there is none.
    """
    search = _Search(mirror, repository, key)
    location = search.in_mirror(spec.namespace) or search.in_repository(spec.namespace)
    others: tuple[OtherNamespace, ...] = ()
    if location is None:
        if not_asked is not None:
            search.problems.append(not_asked)
        is_certain = not search.problems
        others = search.others(spec)
        absent = "unknown" if search.problems else "absent"
        location = _Location("other_namespace" if others and is_certain else absent)
    message = MESSAGES[location.status].format(pack=(location.pack or "")[:ID_CHARACTERS], detail=location.detail)
    return Explanation(location.status, message, spec.namespace, location.pack, others, tuple(search.problems))


class _Search:
    """Search for one key. Problems are collected; none of them ends the search."""

    def __init__(self, mirror: Mirror, repository: Repository | None, key: NDArray[np.uint8]) -> None:
        self._mirror = mirror
        self._repository = repository
        self._key = key
        self.problems: list[str] = []

    def in_mirror(self, namespace: str) -> _Location | None:
        """Return where the mirror has the key in a namespace; None if it does not have it or cannot be read."""
        try:
            ns = self._mirror.get(namespace)
            row = ABSENT if ns is None else int(ns.find(self._key)[0])
            if ns is None or row == ABSENT:
                return None
            pack = ns.run_of(row).pack
            try:
                ns.verify(slice(row, row + 1))
            except DamagedMirror as problem:
                return _Location("damaged_here", pack, str(problem))
            if pack is None:
                return _Location("pending")
            is_doubted = len(ns.doubted(np.array([row])).positions) > 0
            return _Location("not_compared" if is_doubted else "served", pack)
        except (DamagedMirror, UnsupportedFormat) as problem:
            self._note(problem)
            return None

    def in_repository(self, namespace: str) -> _Location | None:
        """Return the best of the repository's packs that have the key; None if none has it, or a listing fails."""
        try:
            if self._repository is None or not peek(self._mirror, self._repository):
                return None
            packs = self._unknown_packs(self._repository, namespace)
            best: _Location | None = None
            for ref, manifest in zip(packs, self._repository.manifests(packs), strict=True):
                location = self._in_pack(self._repository, ref, manifest)
                if location is not None and location.status == "not_pulled":
                    return location
                best = best or location
        except CasCacheError as problem:
            self._note(problem)
            return None
        return best

    def others(self, spec: EncoderSpec) -> tuple[OtherNamespace, ...]:
        """Return the other namespaces of the model that have the key in a readable row."""
        others = []
        for namespace, other in sorted(self._specs(but=spec.namespace).items()):
            if other.model != spec.model:
                continue
            local = self.in_mirror(namespace)
            location = local or self.in_repository(namespace)
            if location is not None and location.status in (*SERVED, "not_pulled"):
                others.append(OtherNamespace(namespace, local is not None, _differences(spec, other)))
        return tuple(others)

    def _unknown_packs(self, repository: Repository, namespace: str) -> list[PackRef]:
        """Return the packs of a namespace whose rows may not be in the mirror.

        Raises:
            IncompleteListing: If the listing is empty although the mirror knows packs of the namespace.
        """
        ns = self._mirror.get(namespace)
        listed = repository.packs(namespace)
        if ns is not None and ns.ledger.lasting_packs and not listed:
            raise IncompleteListing(
                f"{repository.url} lists no pack of namespace {namespace}, but this mirror knows "
                f"{len(ns.ledger.lasting_packs)}. Check the bucket and try again."
            )
        known = frozenset() if ns is None else ns.packs
        return [ref for ref in listed if ref.pack not in known]

    def _in_pack(self, repository: Repository, ref: PackRef, manifest: Manifest | CasCacheError) -> _Location | None:
        reason = manifest.reason if isinstance(manifest, UntrustedPack) else None
        try:
            if reason is not None:
                # Rows of an untrusted pack are never served, but the keys that it claims to have may be reported.
                manifest = Repository(repository.storage).manifest(*ref)
            if not isinstance(manifest, Manifest):
                raise manifest
            rows = np.flatnonzero((repository.keys(ref.pack, manifest) == self._key).all(axis=1))[:1]
        except (RepositoryError, UnsupportedFormat, AccessDenied) as problem:
            self._note(problem)
            return None
        if not len(rows):
            return None
        if reason is not None:
            return _Location("untrusted", ref.pack, reason)
        try:
            digests = repository.digests(ref.pack, manifest)[rows]
            for _ in repository.read_rows(ref.pack, manifest, rows, self._key, digests):
                pass
        except (RepositoryError, AccessDenied) as problem:
            return _Location("unreadable", ref.pack, str(problem))
        return _Location("not_pulled", ref.pack)

    def _specs(self, but: str) -> dict[str, EncoderSpec]:
        """Return the specs of all namespaces on either side, except one."""
        lines = list(lines_of(self._mirror, sys.maxsize))
        specs = {line.namespace: line.spec for line in lines if line.spec is not None}
        self.problems += [
            f"Namespace {line.namespace} of the mirror {self._mirror.directory} is damaged."
            for line in lines
            if line.spec is None and line.namespace != but
        ]
        try:
            if self._repository is not None and peek(self._mirror, self._repository):
                for namespace in sorted({namespace for namespace, _ in self._repository.packs()} - specs.keys()):
                    try:
                        specs[namespace] = self._repository.spec(namespace)
                    except RepositoryError as problem:
                        self._note(problem)
        except CasCacheError as problem:
            self._note(problem)
        specs.pop(but, None)
        return specs

    def _note(self, problem: CasCacheError) -> None:
        if (text := str(without_frames(problem))) not in self.problems:
            self.problems.append(text)


def _text(value: Any) -> str:
    return canonical_json(value).decode()


def _differences(asked: EncoderSpec, other: EncoderSpec) -> tuple[Difference, ...]:
    fields = other.public_document()
    return tuple(
        Difference(name, value, fields[name])
        for name, value in asked.public_document().items()
        if value != fields[name]
    )
