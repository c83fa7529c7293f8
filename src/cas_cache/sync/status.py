"""Compare a mirror with its repository. Nothing is changed.

`pull_of` and `push_of` derive from it what a pull or push would transfer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cas_cache.display import Displayable, facts, size
from cas_cache.errors import RepositoryError
from cas_cache.format.manifest import superseders
from cas_cache.identity import names_of
from cas_cache.repository import most_rows_of_a_pack
from cas_cache.sync.connecting import peek, selected
from cas_cache.sync.pulling import gone_packs, unlisted_namespace, unlisted_packs
from cas_cache.sync.report import SyncReport, manifests_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Group

    from cas_cache.identity import EncoderSpec
    from cas_cache.mirror import Mirror, Namespace
    from cas_cache.repository import Repository


@dataclass(frozen=True, slots=True)
class SyncStatus(Displayable):
    """Status of one namespace in the mirror and in the repository.

    Attributes:
        namespace: The id of the namespace.
        spec: The encoder spec; None if the repository cannot provide it.
        local_rows: Number of rows in the mirror.
        rows_to_push: Number of pending rows.
        packs_to_push: Minimum number of packs for the pending rows; an interrupted push keeps its plans.
        remote_packs: Number of packs in the repository, without superseded ones.
        packs_to_pull: Number of these packs that the mirror has not read.
        rows_to_pull: Number of rows in the packs to pull; the mirror may have some of them already.
        local_bytes: Bytes of the vectors in the mirror.
        bytes_to_push: Bytes of the vectors to push.
        bytes_to_pull: Maximum number of bytes of vectors to pull.
    """

    namespace: str
    spec: EncoderSpec | None
    local_rows: int = 0
    rows_to_push: int = 0
    packs_to_push: int = 0
    remote_packs: int = 0
    packs_to_pull: int = 0
    rows_to_pull: int = 0
    local_bytes: int = 0
    bytes_to_push: int = 0
    bytes_to_pull: int = 0

    @property
    def is_up_to_date(self) -> bool:
        """True if neither a push nor a pull would transfer a row."""
        return not (self.rows_to_push or self.packs_to_pull)

    def __rich__(self) -> Group:
        values = {
            "model": None if self.spec is None else self.spec.model,
            "local rows": self.local_rows,
            "rows to push": self.rows_to_push,
            "remote packs": self.remote_packs,
            "packs to pull": self.packs_to_pull,
            "rows to pull": self.rows_to_pull,
            "local size": size(self.local_bytes),
        }
        return facts(f"Namespace {self.namespace}, local and remote", values)

    def as_json(self) -> dict[str, Any]:
        """Return the status as plain JSON."""
        numbers = {name: getattr(self, name) for name in self.__slots__ if name not in ("namespace", "spec")}
        return {
            "namespace": self.namespace,
            **names_of(self.spec),
            **numbers,
            "up_to_date": self.is_up_to_date,
        }


def pull_of(statuses: Iterable[SyncStatus], problems: SyncReport) -> SyncReport:
    """Return a report on what a pull of these namespaces would transfer at most; `bytes` counts vectors only."""
    report = SyncReport(problems=problems.problems)
    for status in statuses:
        report.packs += status.packs_to_pull
        report.rows += status.rows_to_pull
        report.bytes += status.bytes_to_pull
    return report


def push_of(statuses: Iterable[SyncStatus], problems: SyncReport, *, rebind: bool = False) -> SyncReport:
    """Return a report on what a push of these namespaces would transfer; `bytes` counts vectors only.

    Args:
        statuses: Status of each namespace.
        problems: Report whose problems are passed on.
        rebind: Count every row, whether or not it was pushed before.
    """
    report = SyncReport(problems=problems.problems)
    for status in statuses:
        report.packs += (
            _packs(status.local_rows, status.local_bytes // max(1, status.local_rows))
            if rebind
            else status.packs_to_push
        )
        report.rows += status.local_rows if rebind else status.rows_to_push
        report.bytes += status.local_bytes if rebind else status.bytes_to_push
    return report


def local_status(mirror: Mirror) -> tuple[list[SyncStatus], SyncReport]:
    """Return the status of each namespace of a mirror, as far as the mirror knows it, without a request."""
    report = SyncReport()
    return [_local_status(ns.spec.namespace, ns, ns.spec) for ns in selected(mirror, None, report)], report


def status_of(mirror: Mirror | None, repository: Repository) -> tuple[list[SyncStatus], SyncReport]:
    """Return the status of each namespace on either side, ordered by id, and a report of problems.

    Needs one listing, the manifests of packs that the mirror does not know, and the specs of namespaces that it does
    not have. Packs that the mirror knows and the repository does not list any more are problems of the report.

    Args:
        mirror: The mirror; None if it does not exist yet.
        repository: The repository.

    Raises:
        RemoteError: If the remote is unreachable or refuses a request.
        RepositoryMismatch: If the mirror belongs to another repository.
        IncompleteListing: If the repository that the mirror belongs to does not exist.
    """
    report = SyncReport()
    local = {} if mirror is None else {ns.spec.namespace: ns for ns in selected(mirror, None, report)}
    remote: dict[str, list[str]] = {}
    if peek(mirror, repository):
        for namespace, pack in repository.packs():
            remote.setdefault(namespace, []).append(pack)
    statuses = [
        _compared(repository, name, local.get(name), remote.get(name, []), report) for name in sorted({*local, *remote})
    ]
    return statuses, report


def _compared(
    repository: Repository, namespace: str, ns: Namespace | None, packs: list[str], report: SyncReport
) -> SyncStatus:
    known = frozenset() if ns is None else ns.packs
    manifests, _ = manifests_of(repository, namespace, [pack for pack in packs if pack not in known], report)
    later = set(superseders(manifests))
    if ns is not None:
        _note_gone(repository, ns, packs, later, report)
    merged = known if ns is None else known - ns.ledger.lasting_packs
    # A merge of packs that the mirror has all read contains nothing new: a pull only records it.
    new = {pack: m for pack, m in manifests.items() if pack not in later and not m.is_merge_of(known)}
    return replace(
        _local_status(namespace, ns, ns.spec if ns is not None else _spec(repository, namespace, report)),
        remote_packs=sum(pack not in later and pack not in merged and pack not in report.untrusted for pack in packs),
        packs_to_pull=len(new),
        rows_to_pull=sum(m.rows for m in new.values()),
        bytes_to_pull=sum(m.total_vector_bytes for m in new.values()),
    )


def _note_gone(repository: Repository, ns: Namespace, packs: list[str], later: set[str], report: SyncReport) -> None:
    """Report packs that the mirror knows and the repository does not list any more."""
    unlisted = ns.ledger.lasting_packs.difference(packs, later)
    if unlisted and not packs:
        report.problems.append(unlisted_namespace(repository, ns, len(unlisted)))
    elif gone := gone_packs(repository, ns, unlisted, packs):
        report.problems.append(unlisted_packs(repository, ns, gone))


def _local_status(namespace: str, ns: Namespace | None, spec: EncoderSpec | None) -> SyncStatus:
    """Return the status that the mirror knows."""
    if ns is None:
        return SyncStatus(namespace, spec)
    return SyncStatus(
        namespace,
        spec,
        local_rows=ns.rows,
        rows_to_push=ns.pending_rows,
        packs_to_push=_packs(ns.pending_rows, ns.row_bytes),
        remote_packs=len(ns.ledger.lasting_packs),
        local_bytes=ns.rows * ns.row_bytes,
        bytes_to_push=ns.pending_rows * ns.row_bytes,
    )


def _packs(rows: int, row_bytes: int) -> int:
    """Return the number of packs that rows make."""
    return -(-rows // most_rows_of_a_pack(row_bytes)) if rows else 0


def _spec(repository: Repository, namespace: str, report: SyncReport) -> EncoderSpec | None:
    try:
        return repository.spec(namespace)
    except RepositoryError as problem:
        report.skip(f"namespace {namespace}", problem)
        return None
