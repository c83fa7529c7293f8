"""Where mirror and repository stand: what is only here, what is only there. Nothing is changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cas_cache.errors import RepositoryError
from cas_cache.repository import Manifest, superseders
from cas_cache.sync.meeting import meet, selected
from cas_cache.sync.report import Report, pass_over

if TYPE_CHECKING:
    from cas_cache.identity import EncoderSpec
    from cas_cache.mirror import Mirror, Namespace
    from cas_cache.repository import Repository


@dataclass(frozen=True, slots=True)
class Standing:
    """One namespace on both sides.

    Attributes:
        namespace: Its id.
        spec: Whose vectors these are; None if the repository cannot say.
        rows_here: Rows in the mirror.
        rows_to_push: Those of them that are in no pack yet.
        packs_there: Packs in the repository, superseded ones aside.
        packs_to_pull: Those of them that the mirror has not read.
        rows_to_pull: The rows of these; some of them may be here already.
        bytes_here: Bytes of the vectors here.
        bytes_to_push: Bytes of the vectors to push.
        bytes_to_pull: Bytes of the vectors to pull, at most.
    """

    namespace: str
    spec: EncoderSpec | None
    rows_here: int
    rows_to_push: int
    packs_there: int
    packs_to_pull: int
    rows_to_pull: int
    bytes_here: int
    bytes_to_push: int
    bytes_to_pull: int

    @property
    def in_step(self) -> bool:
        """Whether neither a push nor a pull would move a row."""
        return not (self.rows_to_push or self.packs_to_pull)

    def as_json(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        numbers = {name: getattr(self, name) for name in self.__slots__ if name not in ("namespace", "spec")}
        spec = self.spec
        return {
            "namespace": self.namespace,
            "model": None if spec is None else spec.model,
            "revision": None if spec is None else spec.revision,
            "role": None if spec is None else spec.role,
            "prompt": None if spec is None else spec.prompt,
            **numbers,
            "in_step": self.in_step,
        }


def standing(mirror: Mirror, repository: Repository) -> tuple[list[Standing], Report]:
    """Return where each namespace of either side stands, by id, and what could not be read.

    Costs one listing, the manifests of packs that the mirror does not know, and the specs of such namespaces.

    Raises:
        RemoteError: If the remote is away or refuses.
        RepositoryMismatch: If the mirror belongs to another repository.
        SuspiciousListing: If the repository that the mirror belongs to is not there.
    """
    report = Report()
    here = {ns.spec.namespace: ns for ns in selected(mirror, None, report)}
    there: dict[str, list[str]] = {}
    # A mirror that has met no repository does not belong to this one for having been looked at.
    if repository.open() if mirror.repository is None else meet(mirror, repository):
        for namespace, pack in repository.packs():
            there.setdefault(namespace, []).append(pack)
    found = [_of(repository, name, here.get(name), there.get(name, []), report) for name in sorted({*here, *there})]
    return found, report


def _of(repository: Repository, namespace: str, ns: Namespace | None, packs: list[str], report: Report) -> Standing:
    known = frozenset() if ns is None else ns.packs
    unknown = [(namespace, pack) for pack in packs if pack not in known]
    manifests: dict[str, Manifest] = {}
    for (_, pack), manifest in zip(unknown, repository.manifests(unknown), strict=True):
        if isinstance(manifest, Manifest):
            manifests[pack] = manifest
        else:
            pass_over(f"pack {pack}", manifest, report)
    later = set(superseders(manifests))
    merged = known if ns is None else known - ns.lasting_packs
    # A merge of packs that are all read here gives nothing new: a pull only notes it.
    new = {
        pack: m
        for pack, m in manifests.items()
        if pack not in later and not (m.supersedes and known.issuperset(m.supersedes))
    }
    return Standing(
        namespace=namespace,
        spec=ns.spec if ns is not None else _spec(repository, namespace, report),
        rows_here=0 if ns is None else ns.rows,
        rows_to_push=0 if ns is None else ns.waiting_rows,
        packs_there=sum(pack not in later and pack not in merged for pack in packs),
        packs_to_pull=len(new),
        rows_to_pull=sum(m.rows for m in new.values()),
        bytes_here=0 if ns is None else ns.rows * ns.row_bytes,
        bytes_to_push=0 if ns is None else ns.waiting_rows * ns.row_bytes,
        bytes_to_pull=sum(m.rows * m.vector_bytes for m in new.values()),
    )


def _spec(repository: Repository, namespace: str, report: Report) -> EncoderSpec | None:
    try:
        return repository.spec(namespace)
    except RepositoryError as problem:
        pass_over(f"namespace {namespace}", problem, report)
        return None
