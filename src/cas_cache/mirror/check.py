"""Check a mirror: every namespace opens, every row matches its digest, and no key is stored twice. Never writes.

Goes further than a process that serves rows: it verifies all rows, and reports every damaged namespace, not only the
first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.display import Displayable, facts, grid, pluralize, together
from cas_cache.errors import DamagedMirror, UnsupportedFormat, set_aside
from cas_cache.format.rows import digest_rows
from cas_cache.identity import first_of_each

if TYPE_CHECKING:
    from rich.console import Group

    from cas_cache.mirror.mirror import Mirror
    from cas_cache.mirror.namespace import Namespace

ROWS_AT_ONCE = 1 << 14


@dataclass(frozen=True, slots=True)
class MirrorFinding:
    """Something that is not as it was committed.

    Attributes:
        namespace: The id of the namespace.
        kind: ``"damaged"``: the namespace does not open. ``"rows"``: rows do not match their digests. ``"repeats"``:
            keys are stored twice. ``"newer"``: a newer version wrote it. ``"credential"``: the spec holds a credential.
        rows: Number of rows concerned, where it is known.
        what: The problem, and what to do about it.
    """

    namespace: str
    kind: str
    rows: int
    what: str


@dataclass(slots=True)
class MirrorCheckReport(Displayable):
    """Result of a check.

    Attributes:
        namespaces: Number of namespaces.
        rows: Number of rows that were verified.
        findings: Problems that were found.
        unverified: By namespace, the packs that were never compared with an encoder in this mirror, with their rows in
            the mirror. This is not a problem: the self-check compares them before they are first served.
    """

    namespaces: int = 0
    rows: int = 0
    findings: list[MirrorFinding] = field(default_factory=list)
    unverified: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """True if no problem was found."""
        return not self.findings

    def __rich__(self) -> Group:
        values = {"namespaces": self.namespaces, "rows proved": self.rows, "findings": len(self.findings)}
        rows = [(finding.namespace[:12], finding.kind, finding.rows, finding.what) for finding in self.findings]
        found = [grid("Findings", ("namespace", "kind", "rows", "what"), rows, total=len(rows))] if rows else []
        return together(facts("Check of a mirror", values), *found)

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain JSON."""
        return {
            "clean": self.clean,
            "namespaces": self.namespaces,
            "rows": self.rows,
            "findings": [
                {"namespace": finding.namespace, "kind": finding.kind, "rows": finding.rows, "what": finding.what}
                for finding in self.findings
            ],
            "unverified": [
                {"namespace": namespace, "pack": pack, "rows": rows}
                for namespace, packs in self.unverified.items()
                for pack, rows in packs.items()
            ],
        }


def check_mirror(mirror: Mirror) -> MirrorCheckReport:
    """Verify all rows of a mirror in one pass over its files, 16,384 rows at a time.

    Args:
        mirror: The mirror to check.
    """
    report = MirrorCheckReport()
    for name in mirror.ids():
        report.namespaces += 1
        try:
            ns = mirror.get(name)
            if ns is not None:
                with ns.held():
                    _check(ns, report)
        except DamagedMirror as err:
            report.findings.append(MirrorFinding(name, "damaged", 0, str(err)))
        except UnsupportedFormat as err:
            report.findings.append(MirrorFinding(name, "newer", 0, str(err)))
    return report


def _check(ns: Namespace, report: MirrorCheckReport) -> None:
    if places := ns.spec.credentials():
        what = (
            f"The spec has what is or may be a credential at {', '.join(places)}. Revoke it, and move "
            f"{ns.folder} out of the mirror: {pluralize(ns.pending_rows, 'row')} of it were not pushed and may be "
            "nowhere else. If rows were pushed, `cas-cache check --repository` and `cas-cache drop` find and delete "
            "the namespace in the repository."
        )
        report.findings.append(MirrorFinding(ns.spec.namespace, "credential", 0, what))
    packs = ns.unverified_packs()
    if packs:
        report.unverified[ns.spec.namespace] = packs
    wrong: list[int] = []
    for first, keys, vectors, digests in ns.columns(ROWS_AT_ONCE):
        wrong += (first + np.flatnonzero(digest_rows(keys, vectors) != digests)).tolist()
    report.rows += ns.rows
    if wrong:
        what = (
            f"{len(wrong)} of {ns.rows} rows do not agree with their digests, the first is row {wrong[0]}. None of "
            f"them is served. {set_aside(ns.folder)}"
        )
        report.findings.append(MirrorFinding(ns.spec.namespace, "rows", len(wrong), what))
    repeats = ns.rows - len(first_of_each(ns.keys)[0])
    if repeats:
        what = f"{repeats} rows have a key that another row has. The first is served; the rest is space."
        report.findings.append(MirrorFinding(ns.spec.namespace, "repeats", repeats, what))
