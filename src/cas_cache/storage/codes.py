"""Error codes of storage services, and exceptions of the packages behind fsspec. Pure."""

from __future__ import annotations

import re

NO_CREDENTIALS = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "CredentialRetrievalError",
    "NoAuthInformation",
}
"""Errors before a request is sent, because no credentials are known."""

EXPIRED = {
    "ExpiredToken",
    "ExpiredTokenException",
    "TokenRefreshRequired",
    "TokenRetrievalError",
    "UnauthorizedSSOTokenError",
    "SSOTokenLoadError",
    "RefreshError",
}

UNKNOWN_CREDENTIALS = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
    "ClientAuthenticationError",
    "AuthenticationFailed",
    "AuthenticationException",
    "BadHostKeyException",
    "LogonFailure",
    "PermissionDenied",
    "401",
}

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
    "FileNotFoundError",
    "NoSuchFile",
    "ResourceConflict",
    "ResourceNotFound",
    "SMBOSError",
    "ObjectPathNotFound",
}
"""Exceptions of paramiko, asyncssh, webdav4 and smbprotocol for a write to a folder that does not exist."""

CLOUDS = {"s3", "gcs", "azure"}

THROTTLED = {"SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "ServerBusy", "429"}

ENDLESS = "RecursionError"
ELSEWHERE = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", ENDLESS}
"""`ENDLESS` is the final error of botocore if a service redirects it to another region without naming one."""

UNREACHABLE = {
    "EndpointConnectionError",
    "ConnectTimeoutError",
    "ClientConnectorError",
    "ClientConnectorDNSError",
    "ConnectionRefusedError",
    "gaierror",
    "ServiceRequestError",
    "ProxyConnectionError",
}
SILENT = {
    "Unanswered",
    "TimeoutError",
    "FSTimeoutError",
    "ReadTimeoutError",
    "ServerTimeoutError",
    "ServiceResponseTimeoutError",
}
SERVER_ERRORS = {"InternalError", "ServiceUnavailable", "500", "502", "503", "504"}
NOT_THE_SERVICE = {"ResponseParserError", "ExpatError", "ParseError", "DecodeError", "ContentTypeError"}
"""Errors for answers that do not come from the service: HTML of a proxy or a login page."""
