"""The content of a repository by namespace, from one listing, manifests and specs. Nothing is changed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cas_cache.errors import CasCacheError, RepositoryError
from cas_cache.format.manifest import superseders
from cas_cache.identity import names_of

if TYPE_CHECKING:
    from cas_cache.format.manifest import Manifest
    from cas_cache.identity import EncoderSpec
    from cas_cache.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class NamespaceContent:
    """Content of one namespace of a repository. Superseded packs are not counted, although they take space.

    Attributes:
        namespace: The id of the namespace.
        spec: The encoder spec; None if it cannot be read.
        packs: Number of packs.
        rows: Number of rows in these packs; a key that is in two packs counts twice.
        dtype: Dtype of the vectors; None if no manifest can be read.
        shape: Shape of one vector.
        bytes: Bytes of the vectors.
        superseded: Number of packs that a merge has replaced and that still exist.
    """

    namespace: str
    spec: EncoderSpec | None
    packs: int = 0
    rows: int = 0
    dtype: str | None = None
    shape: tuple[int, ...] = ()
    bytes: int = 0
    superseded: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return the content as plain JSON."""
        spec = self.spec
        return {
            "namespace": self.namespace,
            **names_of(spec),
            "packs": self.packs,
            "rows": self.rows,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "bytes": self.bytes,
            "superseded": self.superseded,
            "spec": None if spec is None else spec.public_document(),
        }


def inventory(repository: Repository) -> tuple[list[NamespaceContent], list[CasCacheError]]:
    """Return the content of each namespace, ordered by id, and the problems of packs and specs that cannot be read.

    Needs one listing, and a request for each manifest and each spec.

    Raises:
        NotARepository: If there is no repository.
        RemoteError: If the storage is unreachable or refuses a request.
    """
    repository.must_exist()
    listed = repository.packs()
    read = repository.read_manifests(listed)
    problems: list[CasCacheError] = list(read.problems.values())
    packs: dict[str, list[str]] = {}
    for ref in listed:
        if ref not in read.untrusted and ref not in read.gone:
            packs.setdefault(ref.namespace, []).append(ref.pack)
    return [
        _summarize(repository, namespace, packs[namespace], read.readable, problems) for namespace in sorted(packs)
    ], problems


def _summarize(
    repository: Repository,
    namespace: str,
    packs: list[str],
    manifests: dict[str, Manifest],
    problems: list[CasCacheError],
) -> NamespaceContent:
    mine = {pack: manifests[pack] for pack in packs if pack in manifests and manifests[pack].namespace == namespace}
    replaced = superseders(mine)
    lasting = [manifest for pack, manifest in mine.items() if pack not in replaced]
    kinds = Counter((manifest.dtype, manifest.shape) for manifest in lasting)
    if len(kinds) > 1:
        problems.append(
            RepositoryError(
                f"Packs of the namespace {namespace} differ in what a vector is: {_kinds(kinds)}. One of them was "
                "made by another model or setting under the same name. `cas-cache check --repository` tells more."
            )
        )
    dtype, shape = kinds.most_common(1)[0][0] if kinds else (None, ())
    return NamespaceContent(
        namespace,
        _read_spec(repository, namespace, problems),
        packs=sum(pack not in replaced for pack in packs),
        rows=sum(manifest.rows for manifest in lasting),
        dtype=dtype,
        shape=shape,
        bytes=sum(manifest.rows * manifest.vector_bytes for manifest in lasting),
        superseded=sum(pack in replaced for pack in packs),
    )


def _kinds(kinds: Counter[tuple[str, tuple[int, ...]]]) -> str:
    return ", ".join(f"{dtype}{list(shape)} in {count}" for (dtype, shape), count in kinds.most_common())


def _read_spec(repository: Repository, namespace: str, problems: list[CasCacheError]) -> EncoderSpec | None:
    try:
        return repository.spec(namespace)
    except RepositoryError as problem:
        problems.append(problem)
        return None
