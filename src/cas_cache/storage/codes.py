"""What an error is: codes of services, exceptions of the packages behind fsspec, and failures that look like others.

Exceptions and codes are known by name, so no package need be installed. Pure except for the time of this machine.
"""

from __future__ import annotations

import re
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

Doing = Literal["read", "list", "write", "delete"]

NO_CREDENTIALS = {
    "NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "CredentialRetrievalError", "NoAuthInformation",
}  # fmt: skip
"""Errors before a request is sent, because no credentials are known."""

EXPIRED = {
    "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "TokenRetrievalError", "UnauthorizedSSOTokenError",
    "SSOTokenLoadError", "RefreshError",
}  # fmt: skip

UNKNOWN_CREDENTIALS = {
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidClientTokenId",
    "UnrecognizedClientException", "ClientAuthenticationError", "AuthenticationFailed", "AuthenticationException",
    "BadHostKeyException", "LogonFailure", "PermissionDenied", "401",
}  # fmt: skip

CLOCK = {"RequestTimeTooSkewed", "RequestExpired"}

ARCHIVED = {"InvalidObjectState", "BlobArchived", "BlobBeingRehydrated"}
"""Error codes of S3 and Azure for an object in an archive storage class."""

ENCRYPTED = {"BlobUsesCustomerSpecifiedEncryption", "KMS"}
"""Error codes for an object whose encryption key cannot be used. AWS has a dozen codes that begin with ``KMS.``."""

REFUSED = {"AccessDenied", "AllAccessDisabled", "AccountProblem", "AuthorizationFailure", "403"}

CREDENTIAL_ERRORS = NO_CREDENTIALS | EXPIRED | UNKNOWN_CREDENTIALS | CLOCK | REFUSED | ARCHIVED | ENCRYPTED
"""Exceptions of the clouds' SDKs, and error codes of their services, that better credentials would fix."""

FORBIDDEN = re.compile("Forbidden: ")
"""Text with which gcsfs reports a 403, in a plain OSError."""

NO_BUCKET = {"NoSuchBucket", "ContainerNotFound"}
"""Error codes of S3 and Azure for a missing bucket. Google answers 404 to reads and deletes, as for a missing
object."""

NETWORK_PACKAGES = {"botocore", "aiobotocore", "aiohttp", "gcsfs", "google", "azure", "asyncio", "requests"}

EXISTS_ALREADY = {"PreconditionFailed", "412", "ConditionalRequestConflict", "OperationAborted", "409"}
"""Answers to a write that may only create. s3fs knows the first of these only with a detail that AWS sends. The others
occur while another writer creates the same name: that object stays, or none is created."""

NO_CONDITIONS = {"NotImplemented", "501"}
"""Answers to a write that may only create, from a service that does not support it."""

NO_FOLDER = {
    "FileNotFoundError", "NoSuchFile", "ResourceConflict", "ResourceNotFound", "SMBOSError", "ObjectPathNotFound",
}  # fmt: skip
"""Exceptions of paramiko, asyncssh, webdav4 and smbprotocol for a write to a folder that does not exist."""

CLOUDS = {"s3", "gcs", "azure"}

THROTTLED = {"SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "ServerBusy", "429"}

ENDLESS = "RecursionError"
ELSEWHERE = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", ENDLESS}
"""`ENDLESS` is the final error of botocore if a service redirects it to another region without naming one."""

UNREACHABLE = {
    "EndpointConnectionError", "ConnectTimeoutError", "ClientConnectorError", "ClientConnectorDNSError",
    "ConnectionRefusedError", "gaierror", "ServiceRequestError", "ProxyConnectionError",
}  # fmt: skip
SILENT = {
    "Unanswered", "TimeoutError", "FSTimeoutError", "ReadTimeoutError", "ServerTimeoutError",
    "ServiceResponseTimeoutError",
}  # fmt: skip
SERVER_ERRORS = {"InternalError", "ServiceUnavailable", "500", "502", "503", "504"}
NOT_THE_SERVICE = {"ResponseParserError", "ExpatError", "ParseError", "DecodeError", "ContentTypeError"}
"""Errors for answers that do not come from the service: HTML of a proxy or a login page."""

_BLOB_READER, _BLOB_WRITER = "Storage Blob Data Reader", "Storage Blob Data Contributor"

PERMISSIONS: dict[str, dict[str, str]] = {
    "s3": {
        "get": "s3:GetObject",
        "list": "s3:ListBucket",
        "put": "s3:PutObject",
        "overwrite": "s3:PutObject",
        "delete": "s3:DeleteObject",
    },
    "gcs": {
        "get": "storage.objects.get",
        "list": "storage.objects.list",
        "put": "storage.objects.create",
        "overwrite": "storage.objects.delete",
        "delete": "storage.objects.delete",
    },
    "azure": {
        "get": _BLOB_READER,
        "list": _BLOB_READER,
        "put": _BLOB_WRITER,
        "overwrite": _BLOB_WRITER,
        "delete": _BLOB_WRITER,
    },
}
"""Permission, or role of Azure, that each request needs. A missing object is reported as such to clients that may list;
others get a refusal."""

_REQUESTS: dict[Doing, tuple[str, ...]] = {
    "read": ("get", "list"),
    "list": ("list",),
    "write": ("put", "overwrite"),
    "delete": ("delete",),
}


def permissions_for(service: str, doing: Doing) -> str:
    """Return the names of the permissions that an operation needs; empty for an unknown service."""
    names = PERMISSIONS.get(service, {})
    return " and ".join(dict.fromkeys(names[request] for request in _REQUESTS[doing] if names))


TOO_LARGE = {"EntityTooLarge", "RequestEntityTooLarge", "PayloadTooLarge", "RequestBodyTooLarge", "413"}
"""Error codes of S3-compatible servers, Azure and proxies for a body that is too large."""

CLOSED = {
    "BrokenPipeError", "ConnectionResetError", "ConnectionClosedError", "ClientOSError", "ServerDisconnectedError",
}  # fmt: skip
"""Errors of a connection that was closed while a body was being sent."""

TLS = {
    "SSLError", "SSLCertVerificationError", "CertificateError", "ClientSSLError", "ClientConnectorSSLError",
    "ClientConnectorCertificateError",
}  # fmt: skip

REFUSED_TRAILERS = {
    "BadDigest", "IncompleteBody", "InvalidDigest", "MalformedTrailerError", "MissingContentLength", "NotImplemented",
    "XAmzContentSHA256Mismatch", "411", "501",
}  # fmt: skip
"""Answers to a PUT whose checksum follows the body: rclone sends `MissingContentLength`, Cloudflare
`NotImplemented`."""

MAX_SKEW_SECONDS = 300
"""Difference of clocks above which signatures are refused. The limits of services are between 5 and 15 minutes."""


def codes_of(err: BaseException) -> set[str]:
    """Return the names of an error and its causes, and the codes that services gave."""
    return {type(e).__name__ for e in causes_of(err)}.union(*(_service_codes(e) for e in causes_of(err)))


def causes_of(err: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes, each once: causes and contexts can form a ring."""
    seen: list[BaseException] = []
    following: BaseException | None = err
    while following is not None and all(following is not earlier for earlier in seen):
        seen.append(following)
        yield following
        following = following.__cause__ or following.__context__


def _service_codes(err: BaseException) -> set[str]:
    response = getattr(err, "response", None)
    if isinstance(response, dict):
        code = str(response.get("Error", {}).get("Code", ""))
        return {code, "KMS"} if code.startswith("KMS.") else {code}
    error_code = getattr(err, "error_code", "")  # Azure: an enumeration or a string
    return {
        str(getattr(error_code, "value", error_code)),
        str(getattr(err, "status_code", None) or getattr(err, "code", "")),
    }


def answers_of(err: BaseException, part: str) -> Iterator[dict[str, Any]]:
    """Yield a part of each answer that led to an error, as botocore stores it."""
    for cause in causes_of(err):
        response = getattr(cause, "response", None)
        answer = response.get(part) if isinstance(response, dict) else None
        if isinstance(answer, dict):
            yield answer


def clock_skew(err: BaseException) -> float:
    """Return how many seconds this machine's clock is ahead of the service's; 0 if no answer has a time."""
    for answer in answers_of(err, "ResponseMetadata"):
        if date := answer.get("HTTPHeaders", {}).get("date"):
            try:
                return time.time() - parsedate_to_datetime(date).timestamp()
            except (TypeError, ValueError, OverflowError):
                return 0.0
    return 0.0


def is_clock_wrong(err: BaseException) -> bool:
    """Return True if this machine's clock is the reason why a service refuses signatures."""
    return bool(codes_of(err) & CLOCK) or abs(clock_skew(err)) > MAX_SKEW_SECONDS


def tls_reason(err: BaseException) -> str:
    """Return the reason of a failed TLS connection in the words of the TLS library; empty if it gives none."""
    for cause in causes_of(err):
        if type(cause).__module__ == "ssl":
            return str(getattr(cause, "verify_message", "") or getattr(cause, "reason", "") or cause)
    return ""
