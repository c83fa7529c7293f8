"""The findings of a check: how severe each is, what it costs, and how it is repaired. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from cas_cache.display import Displayable, facts, grid, size, together
from cas_cache.format import layout

if TYPE_CHECKING:
    from rich.console import Group


class Severity(StrEnum):
    """Severity of a finding."""

    LOSS = "loss"
    """Rows are lost until they are encoded again."""
    REPAIR = "repair"
    """Costs no row, but should be repaired."""
    NOTE = "note"
    """Nothing needs to be done."""


_RESTORE_MARKER = f"Restore {layout.MARKER}, with the id that `cas-cache info --json` shows for a mirror of it."
_NO_SPEC = "Mirrors that do not know the namespace pass it over, unless a run brings the spec."
_RESTORE_SPEC = (
    "The next push of new rows of the namespace writes it; or copy namespaces/<namespace>/spec.json of a mirror to it."
)
_ROWS_OF_OBJECT = "These rows, and with a chunk of vectors those after them, where no mirror has them"
_KEEP = (
    "move the pack's manifest and objects out of the repository and keep them: rows that are missed are encoded again."
)
_RESTORE_OBJECT = f"Restore the object from a copy. Without one, {_KEEP}"

KINDS: dict[str, tuple[Severity, str, str]] = {
    "nothing-there": (
        Severity.REPAIR,
        "If a repository was here, all of it.",
        "Check the URL and who deleted what; a push makes a new repository.",
    ),
    "marker-missing": (Severity.REPAIR, "No client reads or writes this repository; no row is lost.", _RESTORE_MARKER),
    "marker-damaged": (Severity.REPAIR, "No client reads or writes this repository; no row is lost.", _RESTORE_MARKER),
    "marker-newer": (
        Severity.REPAIR,
        "Nothing was checked: this cas_cache may not read the repository.",
        "Update cas_cache, then check again.",
    ),
    "writer-features": (Severity.NOTE, "This cas_cache reads, and may not write.", "Update cas_cache to push."),
    "listing-incomplete": (
        Severity.REPAIR,
        "What is not listed is not found, and was not checked.",
        "Check the permission to list, and the storage; then check again.",
    ),
    "spec-missing": (Severity.REPAIR, _NO_SPEC, _RESTORE_SPEC),
    "spec-damaged": (Severity.REPAIR, _NO_SPEC, _RESTORE_SPEC),
    "spec-credential": (
        Severity.REPAIR,
        "Everybody who can read the repository can read it. This cas_cache neither pulls nor pushes the namespace.",
        "Revoke the credential, delete the namespace with `cas-cache drop`, and evaluate again without it in the spec.",
    ),
    "manifest-damaged": (Severity.LOSS, "The rows of the pack, where no mirror has them.", _RESTORE_OBJECT),
    "pack-newer": (Severity.NOTE, "This cas_cache passes the pack over.", "Update cas_cache to read it."),
    "untrusted": (
        Severity.REPAIR,
        "Nobody who trusts the same keys reads the pack; compact and prune leave it alone.",
        f"Trust its writer's key, or find who could write it. Without that, {_KEEP}",
    ),
    "unreadable": (
        Severity.LOSS,
        "The rows of the pack, or with a chunk of vectors those after them, where no mirror has them.",
        "Restore the object from its archive, enable its key, or grant the right to read it; then pull again.",
    ),
    "object-missing": (Severity.LOSS, f"{_ROWS_OF_OBJECT}.", _RESTORE_OBJECT),
    "object-size": (Severity.LOSS, f"{_ROWS_OF_OBJECT}; bytes after the right ones cost nothing.", _RESTORE_OBJECT),
    "object-content": (Severity.LOSS, f"{_ROWS_OF_OBJECT}.", _RESTORE_OBJECT),
    "row-digest": (
        Severity.LOSS,
        "These rows and those after them, where no mirror has them; the writer's memory or disk is suspect.",
        f"Restore the pack from a copy. Without one, {_KEEP}",
    ),
    "kind-conflict": (
        Severity.LOSS,
        "A mirror keeps the kind that it met first and passes over the packs of the other.",
        "Find who encoded with another model or setting under this name, and drop the wrong packs: `drop --pack`.",
    ),
    "metadata": (
        Severity.REPAIR,
        "Zarr readers cannot open the pack, or not rightly; cas_cache does not read this object.",
        "Restore the object from a copy.",
    ),
    "padding": (
        Severity.REPAIR,
        "Nothing: no reader takes the bytes after the last row for rows.",
        "Report the writer: the format wants zeros there.",
    ),
    "orphan": (
        Severity.REPAIR,
        "Space; and its rows, if it had a manifest that was lost.",
        "Wait, if a writer is at work, for it looks the same; else prune removes it after the grace period.",
    ),
    "superseded": (Severity.NOTE, "Space.", "`cas-cache prune` removes them after the grace period."),
    "foreign": (Severity.NOTE, "Nothing: readers pass it over.", "Delete it if nobody knows what it is."),
    "duplicate-keys": (Severity.NOTE, "Space: any of the vectors of a key is right.", "Nothing needs to be done."),
}
"""Severity, cost and repair of each kind of finding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckFinding:
    """One problem that a check found.

    Attributes:
        kind: A name in `KINDS`, which never changes.
        severity: Severity of the finding.
        path: The object, or the folder of a pack or of a namespace's manifests, below the root.
        namespace: Id of the namespace concerned, if it is known.
        pack: Id of the pack concerned, if there is one.
        rows: Number of rows that a pull skips because of it, if it is known; else 0.
        what: Description of the problem.
        cost: Consequence of the problem.
        repair: How to repair it.
    """

    kind: str
    severity: Severity
    path: str
    namespace: str | None
    pack: str | None
    rows: int
    what: str
    cost: str
    repair: str


@dataclass(slots=True)
class CheckReport(Displayable):
    """Result of a check.

    Attributes:
        packs: Number of packs whose manifests pass verification.
        rows: Number of rows in these packs.
        packs_read: Number of packs whose data was read.
        bytes: Bytes of content that were read.
        findings: Problems that were found, the most severe first.
    """

    packs: int = 0
    rows: int = 0
    packs_read: int = 0
    bytes: int = 0
    findings: list[CheckFinding] = field(default_factory=list)

    def count(self, severity: Severity) -> int:
        """Return the number of findings of a severity."""
        return sum(finding.severity == severity for finding in self.findings)

    @property
    def clean(self) -> bool:
        """True if there are only notes."""
        return self.count(Severity.NOTE) == len(self.findings)

    def __rich__(self) -> Group:
        values = {
            "packs": self.packs,
            "rows": self.rows,
            "packs read": self.packs_read,
            "read": size(self.bytes),
            "findings": len(self.findings),
        }
        rows = [(item.severity, item.kind, item.path, item.rows or None, item.what) for item in self.findings]
        headings = ("severity", "kind", "object", "rows", "what")
        found = [grid("Findings", headings, rows, total=len(rows))] if rows else []
        return together(facts("Check of a repository", values), *found)

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain JSON."""
        return {
            "clean": self.clean,
            "packs": self.packs,
            "rows": self.rows,
            "packs_read": self.packs_read,
            "bytes": self.bytes,
            "counts": {str(severity): self.count(severity) for severity in Severity},
            "findings": [asdict(finding) for finding in self.findings],
        }


def finding(kind: str, path: str, what: str, *, ref: tuple[str, str] = ("", ""), rows: int = 0) -> CheckFinding:
    """Return a finding of a kind.

    Args:
        kind: A name in `KINDS`.
        path: A path below the root.
        what: Description of the problem, one sentence.
        ref: Namespace and pack concerned; empty if there is none.
        rows: Number of rows that a pull skips because of it.
    """
    severity, cost, repair = KINDS[kind]
    namespace, pack = ref
    return CheckFinding(
        kind=kind,
        severity=severity,
        path=path,
        namespace=namespace or None,
        pack=pack or None,
        rows=rows,
        what=what,
        cost=cost,
        repair=repair,
    )
