"""What file systems raise, and what it means: the names under which fsspec's implementations tell their troubles.

Pure, and imports none of them: exceptions and codes are known by name, so a package need not be there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CREDENTIAL_ERRORS = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "CredentialRetrievalError",
    "TokenRetrievalError",
    "UnauthorizedSSOTokenError",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "AccessDenied",
    "ClientAuthenticationError",
    "401",
    "403",
}
"""Exceptions of the clouds' SDKs, and error codes of their services, that better credentials would mend."""

FORBIDDEN = re.compile("Forbidden: ")
"""How gcsfs tells a 403: a plain OSError with this text."""

NO_BUCKET = {"NoSuchBucket", "ContainerNotFound"}
"""What S3 and Azure call it. Google answers 404 to reads and deletes, as for a missing object."""

NETWORK_PACKAGES = {"botocore", "aiobotocore", "aiohttp", "gcsfs", "google", "azure", "asyncio", "requests"}

_SECRET_OPTION = re.compile(r"key|secret|token|pass|auth|credential|connection_string|sas", re.IGNORECASE)
SHORTEST_SECRET = 6
"""Shorter values of secret options are placeholders such as "test", found in any text."""


def codes_of(err: BaseException) -> set[str]:
    """The names of an error and its causes, and what services called them."""
    return {type(e).__name__ for e in _causes(err)}.union(*(_service_codes(e) for e in _causes(err)))


def _causes(err: BaseException) -> Iterator[BaseException]:
    """An error and what led to it, each once: causes and contexts can form a ring."""
    seen: list[BaseException] = []
    following: BaseException | None = err
    while following is not None and all(following is not one for one in seen):
        seen.append(following)
        yield following
        following = following.__cause__ or following.__context__


def _service_codes(err: BaseException) -> set[str]:
    response = getattr(err, "response", None)
    if isinstance(response, dict):
        return {str(response.get("Error", {}).get("Code", ""))}
    named = getattr(err, "error_code", "")  # Azure's: an enumeration or a string
    return {str(getattr(named, "value", named)), str(getattr(err, "status_code", None) or getattr(err, "code", ""))}


def first_line(err: BaseException) -> str:
    """Return kind and first line of an error, without user names and passwords in URLs."""
    line = f"{type(err).__name__}: {err}".splitlines()[0][:200]
    return re.sub(r"(?<=://)[^/\s@]*@", "", line)


def secrets_in(options: Mapping[str, Any]) -> Iterator[str]:
    """Values in storage options that must not be printed."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from secrets_in(value)
        elif isinstance(value, str) and len(value) >= SHORTEST_SECRET and _SECRET_OPTION.search(name):
            yield value


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """Return a text without what must not be printed, as it is or as a URL quotes it."""
    for secret in secrets:
        for form in (secret, quote(secret, safe=""), quote_plus(secret)):
            text = text.replace(form, "***")
    return text
