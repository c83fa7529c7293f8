"""Manifests and specs: read and verified, and the packs sorted out that cannot be used."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cas_cache.errors import (
    AccessDenied,
    DamagedPack,
    IdentityError,
    ObjectNotFound,
    RepositoryError,
    UnsupportedFormat,
    UntrustedPack,
)
from cas_cache.format import layout
from cas_cache.format.manifest import MAX_MANIFEST_BYTES, Manifest, pack_id
from cas_cache.format.marker import MAX_DOCUMENT_BYTES
from cas_cache.identity import EncoderSpec
from cas_cache.repository.reading import get_of_pack, may_read

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cas_cache.format.signing import Trust
    from cas_cache.repository.repository import Repository
    from cas_cache.storage.interface import Storage

ManifestProblem = DamagedPack | UntrustedPack | UnsupportedFormat
"""Reasons why a pack cannot be used although the storage answers."""


@dataclass(slots=True)
class PackManifests:
    """The manifests of listed packs. Each pack is in exactly one of the four.

    Attributes:
        readable: Manifests that pass verification, by pack, in the order of the listing.
        untrusted: Errors of the packs that no trusted key signed.
        problems: Errors of the packs that are damaged, or that a newer version wrote.
        gone: Packs that were deleted since they were listed, which is not damage.
    """

    readable: dict[str, Manifest] = field(default_factory=dict)
    untrusted: dict[layout.PackRef, UntrustedPack] = field(default_factory=dict)
    problems: dict[layout.PackRef, DamagedPack | UnsupportedFormat] = field(default_factory=dict)
    gone: set[layout.PackRef] = field(default_factory=set)


def read_manifests(
    repository: Repository, packs: Sequence[layout.PackRef], advance: Callable[[int], object]
) -> PackManifests:
    """See `Repository.read_manifests`."""
    manifests = PackManifests()
    for ref, answer in zip(packs, repository.manifests(packs), strict=True):
        if isinstance(answer, Manifest):
            manifests.readable[ref.pack] = answer
        elif isinstance(answer, UntrustedPack):
            manifests.untrusted[ref] = answer
        else:
            manifests.problems[ref] = answer
        advance(1)
    missing = {ref for ref, problem in manifests.problems.items() if is_missing(problem)}
    listed = {ref for namespace in {ref.namespace for ref in missing} for ref in repository.packs(namespace)}
    manifests.gone = missing - listed
    for ref in manifests.gone:
        del manifests.problems[ref]
    return manifests


def manifest_or_problem(repository: Repository, ref: layout.PackRef) -> Manifest | ManifestProblem:
    """Return the manifest of a pack, or the error if the pack cannot be used."""
    try:
        return repository.manifest(*ref)
    except (DamagedPack, UntrustedPack, UnsupportedFormat) as problem:
        return problem


def is_missing(problem: Exception) -> bool:
    """Return True if an error means that an object of a pack does not exist."""
    return isinstance(problem.__cause__, ObjectNotFound)


def read_manifest(storage: Storage, ref: layout.PackRef, trust: Trust | None) -> Manifest:
    """Return the manifest of a pack, verified against the pack's id.

    Raises:
        DamagedPack: If the manifest is missing, fails verification, or belongs to another namespace.
        UntrustedPack: If it is not signed by a trusted key.
        UnsupportedFormat: If a newer version wrote it.
    """
    path = layout.manifest_path(*ref)
    data = get_of_pack(storage, path, 0, MAX_MANIFEST_BYTES, pack=ref.pack)
    try:
        if pack_id(data) != ref.pack:
            msg = "its SHA-256 is not its name"
            raise ValueError(msg)
        manifest = Manifest.from_bytes(data)
        if manifest.namespace != ref.namespace:
            msg = f"it belongs to namespace {manifest.namespace}"
            raise ValueError(msg)
    except (ValueError, KeyError, TypeError) as err:
        raise DamagedPack(f"{path} in {storage.url} is damaged ({err}). The pack is skipped.", pack=ref.pack) from err
    reason = None if trust is None else trust.why_not(data, manifest.signature)
    if reason is not None:
        raise UntrustedPack(
            f"The pack {ref.pack} of {storage.url} is not trusted: {reason}. It counts as missing.",
            pack=ref.pack,
            reason=reason,
        )
    return manifest


def read_spec(storage: Storage, namespace: str) -> EncoderSpec:
    """Return the spec of a namespace, verified against its id.

    Raises:
        RepositoryError: If the spec is missing or fails verification.
    """
    path = layout.spec_path(namespace)
    try:
        spec = EncoderSpec.from_canonical(storage.get(path, 0, MAX_DOCUMENT_BYTES))
        if spec.namespace != namespace:
            msg = "its SHA-256 is not its name"
            raise IdentityError(msg)
    except (ObjectNotFound, IdentityError, AccessDenied) as err:
        is_refused = isinstance(err, AccessDenied)
        if is_refused and not may_read(storage):
            raise
        state = "may not be read" if is_refused else "is missing or damaged"
        raise RepositoryError(
            f"{path} in {storage.url} {state} ({err}). The namespace is skipped by a pull of all. A run with its "
            "encoder spec still takes its packs, because it brings the spec."
        ) from err
    return spec
