"""Report of the doctor: one finding per check, with what was tried, what it means and what to do. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from cas_cache.display import Displayable, grid
from cas_cache.doctor.policies import Role, grant, permission
from cas_cache.storage.codes import EXPIRED, NO_CREDENTIALS, UNKNOWN_CREDENTIALS, codes_of, is_clock_wrong

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rich.console import Group

    from cas_cache.errors import AccessDenied, CasCacheError


class Status(StrEnum):
    """Result of a check."""

    OK = "ok"
    NOTE = "note"
    """Nothing to do: an optional feature is missing, or something was not tested."""
    WARN = "warn"
    """cas_cache works, with restrictions."""
    FAIL = "FAIL"
    """cas_cache does not work, or not correctly."""


@dataclass(frozen=True, slots=True)
class DoctorFinding:
    """Result of one check, with advice.

    Attributes:
        name: The stable name of the check.
        status: The result.
        what: What was tried, and what happened.
        means: The consequence for cas_cache; empty if all is well.
        repair: What to do; empty if there is nothing to do.
    """

    name: str
    status: Status
    what: str
    means: str = ""
    repair: str = ""


_REFUSALS = {
    "list": (Status.FAIL, "Nobody can see which packs there are: no pull, no push."),
    "get": (Status.FAIL, "Nothing can be read: no pull, no push."),
    "missing": (
        Status.FAIL,
        "A missing object looks forbidden: no repository can be made, and a pull that meets a pruned pack stops.",
    ),
    "put": (Status.FAIL, "Nothing can be pushed: rows stay pending in the mirror."),
    "overwrite": (
        Status.FAIL,
        "A push writes the spec of a namespace again, and what it could not finish before: such pushes fail.",
    ),
    "delete": (
        Status.WARN,
        "prune and drop cannot run, and compact may leave rows twice; pulls and pushes work without.",
    ),
}
"""Severity and consequence of a refusal, for each verb that can be refused."""

_ASKED = {
    "missing": "GET of a name that does not exist",
    "overwrite": "PUT over an object that exists",
}
"""Descriptions of requests that a verb alone does not describe."""

_WRONG_CREDENTIALS = NO_CREDENTIALS | EXPIRED | UNKNOWN_CREDENTIALS
"""Codes for missing, wrong or expired credentials. Granting a permission does not help."""

_NOT_AUTHENTICATED = "failed to authenticate"
"""Text with which Azure and Azurite, whose codes for it differ, report a wrong key."""


@dataclass(slots=True)
class DoctorReport(Displayable):
    """Findings, in the order of the checks.

    Attributes:
        role: The role whose permissions are requested: a reader's or, unless a refused request needs more, a writer's.
        on_finding: Called with each finding as soon as it is added.
        secrets: Texts that are never printed; each is replaced wherever it occurs.
        findings: The findings so far.
        policy: Permissions that would allow the refused requests; empty if nothing was refused, or if unknown.
    """

    role: Role = Role.WRITER
    on_finding: Callable[[DoctorFinding], None] | None = None
    secrets: Iterable[str] = field(default=(), repr=False)
    findings: list[DoctorFinding] = field(default_factory=list)
    policy: str = ""

    def add(self, name: str, status: Status, what: str, means: str = "", repair: str = "") -> None:
        """Add a finding."""
        finding = DoctorFinding(name, status, *(self._without_secrets(text) for text in (what, means, repair)))
        self.findings.append(finding)
        if self.on_finding is not None:
            self.on_finding(finding)

    def ok(self, name: str, what: str) -> None:
        """Add a check that found nothing wrong."""
        self.add(name, Status.OK, what)

    def note(self, name: str, what: str, means: str = "") -> None:
        """Add a finding that needs no action."""
        self.add(name, Status.NOTE, what, means)

    def error(self, name: str, err: CasCacheError, means: str) -> None:
        """Add a cas_cache error as a failure: what happened and, from the end of its message, what to do."""
        what, separator, repair = str(err).partition(" Check ")
        if not separator:
            what, separator, repair = str(err).rpartition(". ")
        self.add(name, Status.FAIL, f"{what.removesuffix('.')}.", means, f"{separator.lstrip('. ')}{repair}")

    def refused(self, url: str, verb: str, err: AccessDenied) -> None:
        """Add a refusal: of the verb if a permission is missing, of everything if the credentials are unknown.

        Args:
            url: The repository's URL, without credentials.
            verb: list, get, missing, put, overwrite or delete.
            err: The error of the storage.
        """
        reason = str(err).partition(" Check the ")[0].removesuffix(".")
        codes = codes_of(err)
        if is_clock_wrong(err):
            self.add(
                "credentials", Status.FAIL, f"{reason}.", "This machine's clock is wrong.", "Set the clock, then retry."
            )
            return
        if codes & _WRONG_CREDENTIALS or _NOT_AUTHENTICATED in reason:
            self.add(
                "credentials",
                Status.FAIL,
                f"{reason}.",
                "The storage does not know who asks, or does not believe it; no permission changes that.",
                "Check which credentials the file system finds (for s3: AWS_PROFILE, AWS_ACCESS_KEY_ID, an expired "
                "login) and --storage-option.",
            )
            return
        status, means = _REFUSALS[verb]
        self.role = Role.MAINTAINER if verb == "delete" else self.role
        self.policy = grant(url, self.role)
        name = permission(url, verb)
        repair = f"Grant {name}; the least that a {self.role} needs is printed below." if name else (
            "Ask who runs the storage for that permission."
        )  # fmt: skip
        self.add(verb, status, f"{_ASKED.get(verb, verb.upper())} is refused: {reason}.", means, repair)

    def count(self, status: Status) -> int:
        """Return the number of checks with this status."""
        return sum(finding.status == status for finding in self.findings)

    @property
    def fails(self) -> bool:
        """True if a check failed."""
        return self.count(Status.FAIL) > 0

    def __rich__(self) -> Group:
        rows = [(finding.status, finding.name, finding.what, finding.repair or None) for finding in self.findings]
        return grid("What the doctor says", ("status", "check", "what", "what to do"), rows, total=len(rows))

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain JSON."""
        return {
            "ok": not self.fails,
            "counts": {str(status): self.count(status) for status in Status},
            "findings": [asdict(finding) for finding in self.findings],
            "role": str(self.role) if self.policy else None,
            "policy": self.policy or None,
        }

    def _without_secrets(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text
