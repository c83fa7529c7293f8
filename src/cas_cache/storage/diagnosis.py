"""Failures that look like others: a wrong clock, an untrusted certificate, checksums that a server refuses.

Pure except for the time of this machine: each function receives an error with its causes, or codes derived from them.
"""

from __future__ import annotations

import re
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_SKEW_SECONDS = 300
"""Difference of clocks above which signatures are refused. The limits of services are between 5 and 15 minutes."""

TLS = {
    "SSLError",
    "SSLCertVerificationError",
    "CertificateError",
    "ClientSSLError",
    "ClientConnectorSSLError",
    "ClientConnectorCertificateError",
}

REQUEST_CHECKSUMS = "AWS_REQUEST_CHECKSUM_CALCULATION"
RESPONSE_CHECKSUMS = "AWS_RESPONSE_CHECKSUM_VALIDATION"
WHEN_REQUIRED = {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
"""The same two settings as ``config_kwargs`` of botocore."""

_REFUSED_TRAILERS = {
    "BadDigest",
    "IncompleteBody",
    "InvalidDigest",
    "MalformedTrailerError",
    "MissingContentLength",
    "NotImplemented",
    "XAmzContentSHA256Mismatch",
    "411",
    "501",
}
"""Answers to a PUT whose checksum follows the body: rclone sends `MissingContentLength`, Cloudflare
`NotImplemented`."""

_CHECKSUM_WORDS = re.compile(r"checksum|trailer|aws-chunked|content-sha256|STREAMING-UNSIGNED", re.IGNORECASE)


def clock_skew(causes: Iterable[BaseException]) -> float:
    """Return how many seconds this machine's clock is ahead of the service's; 0 if no answer has a time."""
    for cause in causes:
        response = getattr(cause, "response", None)
        metadata = response.get("ResponseMetadata") if isinstance(response, dict) else None
        date = (metadata or {}).get("HTTPHeaders", {}).get("date")
        if date:
            try:
                return time.time() - parsedate_to_datetime(date).timestamp()
            except (TypeError, ValueError, OverflowError):
                return 0.0
    return 0.0


def is_clock_wrong(causes: Iterable[BaseException]) -> bool:
    """Return True if this machine's clock differs so much from the service's that signatures are refused."""
    return abs(clock_skew(causes)) > MAX_SKEW_SECONDS


def tls_reason(causes: Iterable[BaseException]) -> str:
    """Return the reason of a failed TLS connection in the words of the TLS library; empty if it gives none."""
    for cause in causes:
        if type(cause).__module__ == "ssl":
            return str(getattr(cause, "verify_message", "") or getattr(cause, "reason", "") or cause)
    return ""


def checksum_hint(codes: set[str], reason: str, doing: str, service: str) -> str:
    """Return the setting for a server that refuses or breaks the checksums of the AWS SDK; empty for other failures."""
    if service != "s3":
        return ""
    if "FlexibleChecksumError" in codes:
        return (
            f"If the server sends checksums of whole objects with parts of them, set {RESPONSE_CHECKSUMS}=when_required"
        )
    if doing == "write" and (codes & _REFUSED_TRAILERS or _CHECKSUM_WORDS.search(reason)):
        return f"Servers that do not take the checksums of the SDK answer so: set {REQUEST_CHECKSUMS}=when_required"
    return ""
