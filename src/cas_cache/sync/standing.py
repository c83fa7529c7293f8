"""Compare a mirror with its repository. Nothing is changed.

`pull_of` and `push_of` derive from it what a pull or push would transfer.
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
    """Status of one namespace in the mirror and in the repository.

    Attributes:
        namespace: The id of the namespace.
        spec: The encoder spec; None if the repository cannot provide it.
        rows_here: Number of rows in the mirror.
        rows_to_push: Number of pending rows.
        packs_to_push: Minimum number of packs for the pending rows; an interrupted push keeps its plans.
        packs_there: Number of packs in the repository, without superseded ones.
        packs_to_pull: Number of these packs that the mirror has not read.
        rows_to_pull: Number of rows in the packs to pull; the mirror may have some of them already.
        bytes_here: Bytes of the vectors in the mirror.
        bytes_to_push: Bytes of the vectors to push.
        bytes_to_pull: Maximum number of bytes of vectors to pull.
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
        """True if neither a push nor a pull would transfer a row."""
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
        """Return the status as plain JSON."""
        numbers = {name: getattr(self, name) for name in self.__slots__ if name not in ("namespace", "spec")}
        return {
            "namespace": self.namespace,
            **names_of(self.spec),
            **numbers,
            "in_step": self.in_step,
        }


def pull_of(found: Iterable[Standing], problems: Report) -> Report:
    """Return a report on what a pull of these namespaces would transfer at most; `bytes` counts vectors only."""
    report = Report(problems=problems.problems)
    for one in found:
        report.packs += one.packs_to_pull
        report.rows += one.rows_to_pull
        report.bytes += one.bytes_to_pull
    return report


def push_of(found: Iterable[Standing], problems: Report, *, rebind: bool = False) -> Report:
    """Return a report on what a push of these namespaces would transfer; `bytes` counts vectors only.

    Args:
        found: Status of each namespace.
        problems: Report whose problems are passed on.
        rebind: Count every row, whether or not it was pushed before.
    """
    report = Report(problems=problems.problems)
    for one in found:
        report.packs += _packs(one.rows_here, one.bytes_here // max(1, one.rows_here)) if rebind else one.packs_to_push
        report.rows += one.rows_here if rebind else one.rows_to_push
        report.bytes += one.bytes_here if rebind else one.bytes_to_push
    return report


def standing_here(mirror: Mirror) -> tuple[list[Standing], Report]:
    """Return the status of each namespace of a mirror, as far as the mirror knows it, without a request."""
    report = Report()
    return [_here(ns.spec.namespace, ns, ns.spec) for ns in selected(mirror, None, report)], report


def standing(mirror: Mirror | None, repository: Repository) -> tuple[list[Standing], Report]:
    """Return the status of each namespace on either side, ordered by id, and a report of problems.

    Needs one listing, the manifests of packs that the mirror does not know, and the specs of namespaces that it does
    not have.

    Args:
        mirror: The mirror; None if it does not exist yet.
        repository: The repository.

    Raises:
        RemoteError: If the remote is unreachable or refuses a request.
        RepositoryMismatch: If the mirror belongs to another repository.
        SuspiciousListing: If the repository that the mirror belongs to does not exist.
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
    # A merge of packs that the mirror has all read contains nothing new: a pull only records it.
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
    """Return the status that the mirror knows."""
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
    """Return the number of packs that rows make."""
    return -(-rows // most_rows_of_a_pack(row_bytes)) if rows else 0


def _spec(repository: Repository, namespace: str, report: Report) -> EncoderSpec | None:
    try:
        return repository.spec(namespace)
    except RepositoryError as problem:
        pass_over(f"namespace {namespace}", problem, report)
        return None
