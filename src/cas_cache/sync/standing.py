"""Where mirror and repository stand: what is only here, what is only there. Nothing is changed.

What a push would send and a pull would take is read off it: `pull_of` and `push_of`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cas_cache import html
from cas_cache.amounts import size
from cas_cache.errors import RepositoryError, UntrustedPack
from cas_cache.identity import names_of
from cas_cache.repository import Manifest, most_rows_of_a_pack, superseders
from cas_cache.sync.meeting import look, selected
from cas_cache.sync.report import Report, leave_out, pass_over

if TYPE_CHECKING:
    from collections.abc import Iterable

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
        packs_to_push: Packs that they make, at least: what an interrupted push has planned stays as it was planned.
        packs_there: Packs in the repository, superseded ones aside.
        packs_to_pull: Those of them that the mirror has not read.
        rows_to_pull: The rows of these; some of them may be here already.
        bytes_here: Bytes of the vectors here.
        bytes_to_push: Bytes of the vectors to push.
        bytes_to_pull: Bytes of the vectors to pull, at most.
    """

    namespace: str
    spec: EncoderSpec | None
    rows_here: int = 0
    rows_to_push: int = 0
    packs_to_push: int = 0
    packs_there: int = 0
    packs_to_pull: int = 0
    rows_to_pull: int = 0
    bytes_here: int = 0
    bytes_to_push: int = 0
    bytes_to_pull: int = 0

    @property
    def in_step(self) -> bool:
        """Whether neither a push nor a pull would move a row."""
        return not (self.rows_to_push or self.packs_to_pull)

    def _repr_html_(self) -> str:
        rows = [
            ("model", None if self.spec is None else self.spec.model),
            ("rows here", self.rows_here),
            ("rows to push", self.rows_to_push),
            ("packs there", self.packs_there),
            ("packs to pull", self.packs_to_pull),
            ("rows to pull", self.rows_to_pull),
            ("size here", size(self.bytes_here)),
        ]
        return html.facts(f"Namespace {self.namespace}, here and there", rows)

    def as_json(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        numbers = {name: getattr(self, name) for name in self.__slots__ if name not in ("namespace", "spec")}
        return {
            "namespace": self.namespace,
            **names_of(self.spec),
            **numbers,
            "in_step": self.in_step,
        }


def pull_of(found: Iterable[Standing], problems: Report) -> Report:
    """Return what a pull of these namespaces would take, at most; `bytes` are those of the vectors."""
    report = Report(problems=problems.problems)
    for one in found:
        report.packs += one.packs_to_pull
        report.rows += one.rows_to_pull
        report.bytes += one.bytes_to_pull
    return report


def push_of(found: Iterable[Standing], problems: Report, *, rebind: bool = False) -> Report:
    """Return what a push of these namespaces would send; `bytes` are those of the vectors.

    Args:
        found: Which.
        problems: What could not be read.
        rebind: Every row is sent, whatever was pushed before.
    """
    report = Report(problems=problems.problems)
    for one in found:
        report.packs += _packs(one.rows_here, one.bytes_here // max(1, one.rows_here)) if rebind else one.packs_to_push
        report.rows += one.rows_here if rebind else one.rows_to_push
        report.bytes += one.bytes_here if rebind else one.bytes_to_push
    return report


def standing_here(mirror: Mirror) -> tuple[list[Standing], Report]:
    """Return where each namespace of a mirror stands, as far as the mirror knows: no request."""
    report = Report()
    return [_here(ns.spec.namespace, ns, ns.spec) for ns in selected(mirror, None, report)], report


def standing(mirror: Mirror | None, repository: Repository) -> tuple[list[Standing], Report]:
    """Return where each namespace of either side stands, by id, and what could not be read.

    Costs one listing, the manifests of packs that the mirror does not know, and the specs of such namespaces.

    Args:
        mirror: The one; None where there is none yet.
        repository: The other.

    Raises:
        RemoteError: If the remote is away or refuses.
        RepositoryMismatch: If the mirror belongs to another repository.
        IncompleteListing: If the repository that the mirror belongs to is not there.
    """
    report = Report()
    here = {} if mirror is None else {ns.spec.namespace: ns for ns in selected(mirror, None, report)}
    there: dict[str, list[str]] = {}
    if look(mirror, repository):
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
        elif isinstance(manifest, UntrustedPack):
            leave_out(manifest, report)
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
    return replace(
        _here(namespace, ns, ns.spec if ns is not None else _spec(repository, namespace, report)),
        packs_there=sum(pack not in later and pack not in merged and pack not in report.untrusted for pack in packs),
        packs_to_pull=len(new),
        rows_to_pull=sum(m.rows for m in new.values()),
        bytes_to_pull=sum(m.rows * m.vector_bytes for m in new.values()),
    )


def _here(namespace: str, ns: Namespace | None, spec: EncoderSpec | None) -> Standing:
    """What the mirror knows."""
    if ns is None:
        return Standing(namespace, spec)
    return Standing(
        namespace,
        spec,
        rows_here=ns.rows,
        rows_to_push=ns.waiting_rows,
        packs_to_push=_packs(ns.waiting_rows, ns.row_bytes),
        packs_there=len(ns.lasting_packs),
        bytes_here=ns.rows * ns.row_bytes,
        bytes_to_push=ns.waiting_rows * ns.row_bytes,
    )


def _packs(rows: int, row_bytes: int) -> int:
    """How many packs rows make."""
    return -(-rows // most_rows_of_a_pack(row_bytes)) if rows else 0


def _spec(repository: Repository, namespace: str, report: Report) -> EncoderSpec | None:
    try:
        return repository.spec(namespace)
    except RepositoryError as problem:
        pass_over(f"namespace {namespace}", problem, report)
        return None
