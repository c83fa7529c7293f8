"""What a doctor says: one finding a check, with what was tried, what it means and what to do. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from cas_cache import html
from cas_cache.doctor.policies import Role, grant, permission
from cas_cache.repository.diagnosis import is_clock_wrong
from cas_cache.repository.failures import causes_of, codes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cas_cache.errors import AccessDenied, CasCacheError


class Status(StrEnum):
    """How a check ended."""

    OK = "ok"
    NOTE = "note"
    """Nothing to do: something is not there that nobody promised, or was not tried."""
    WARN = "warn"
    """cas_cache works, with less than it should have."""
    FAIL = "FAIL"
    """cas_cache cannot work so, or not rightly."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One check.

    Attributes:
        name: Which check; stable.
        status: How it ended.
        what: What was tried, and what was seen.
        means: What that means for cas_cache; empty if all is well.
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
"""Of each verb that can be refused: how bad that is, and what it means."""

_ASKED = {
    "missing": "GET of a name that does not exist",
    "overwrite": "PUT over an object that exists",
}
"""What was asked, where that is more than the verb."""

_WRONG_CREDENTIALS = {
    "NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "CredentialRetrievalError",
    "TokenRetrievalError", "UnauthorizedSSOTokenError", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken",
    "ClientAuthenticationError", "AuthenticationFailed", "401",
}  # fmt: skip
"""What SDKs and services call credentials that are missing, wrong or expired: no permission changes that."""

_NOT_AUTHENTICATED = "failed to authenticate"
"""How Azure and Azurite, which have different codes for it, say that a key is wrong."""

_CLOCK = "RequestTimeTooSkewed"


@dataclass(slots=True)
class Report:
    """Findings, in the order of the checks.

    Attributes:
        role: What permissions are asked for: a reader's or, unless something is refused that needs more, a writer's.
        on_finding: Called with each finding as soon as there is one.
        secrets: What is never printed: each is replaced where it turns up.
        findings: What was found so far.
        policy: What grants what was refused; empty while nothing was refused, or where nobody knows.
    """

    role: Role = Role.WRITER
    on_finding: Callable[[Finding], None] | None = None
    secrets: Iterable[str] = field(default=(), repr=False)
    findings: list[Finding] = field(default_factory=list)
    policy: str = ""

    def add(self, name: str, status: Status, what: str, means: str = "", repair: str = "") -> None:
        """Add a finding."""
        finding = Finding(name, status, *(self._without_secrets(text) for text in (what, means, repair)))
        self.findings.append(finding)
        if self.on_finding is not None:
            self.on_finding(finding)

    def ok(self, name: str, what: str) -> None:
        """Add a check that found nothing wrong."""
        self.add(name, Status.OK, what)

    def note(self, name: str, what: str, means: str = "") -> None:
        """Add something that asks for nothing."""
        self.add(name, Status.NOTE, what, means)

    def error(self, name: str, err: CasCacheError, means: str) -> None:
        """Add an error of ours as a failure: what happened and, at the end of its message, what to do."""
        what, separator, repair = str(err).partition(" Check ")
        if not separator:
            what, separator, repair = str(err).rpartition(". ")
        self.add(name, Status.FAIL, f"{what.removesuffix('.')}.", means, f"{separator.lstrip('. ')}{repair}")

    def refused(self, url: str, verb: str, err: AccessDenied) -> None:
        """Add a refusal: of the verb if permission lacks, of everything if nobody knows who asks.

        Args:
            url: The repository's, without credentials.
            verb: list, get, missing, put, overwrite or delete.
            err: What the storage raised.
        """
        reason = str(err).partition(" Check the ")[0].removesuffix(".")
        codes = codes_of(err)
        if _CLOCK in codes or is_clock_wrong(causes_of(err)):
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
        """Return how many checks ended so."""
        return sum(finding.status == status for finding in self.findings)

    @property
    def fails(self) -> bool:
        """Whether a check failed."""
        return self.count(Status.FAIL) > 0

    def _repr_html_(self) -> str:
        rows = [(finding.status, finding.name, finding.what, finding.repair or None) for finding in self.findings]
        return html.grid("What the doctor says", ("status", "check", "what", "what to do"), rows, total=len(rows))

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
