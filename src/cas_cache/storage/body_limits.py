"""Objects that are too large for a server, or for a proxy in front of it: the error names both sizes.

A limit shows as a refusal (413, EntityTooLarge) or, with many proxies, as a connection closed in the middle of a body.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cas_cache.errors import AccessDenied, RemoteUnavailable
from cas_cache.storage.failures import causes_of, codes_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cas_cache.storage.interface import Storage

TOO_LARGE = {"EntityTooLarge", "RequestEntityTooLarge", "PayloadTooLarge", "RequestBodyTooLarge", "413"}
"""Error codes of S3-compatible servers, Azure and proxies for a body that is too large."""

HTTP_TOO_LARGE = 413

CLOSED = {
    "BrokenPipeError",
    "ConnectionResetError",
    "ConnectionClosedError",
    "ClientOSError",
    "ServerDisconnectedError",
}
"""Errors of a connection that was closed while a body was being sent."""

SUSPECT_BYTES = 1 << 20
"""Minimum size of an object for which a closed connection suggests a limit. Proxies limit bodies to 1 MB (the default
of nginx) or more, so smaller objects fail for other reasons."""


MAX_DIGITS = 18
"""Maximum number of digits of a size that a service names; Python refuses to parse thousands."""


def put_object(storage: Storage, path: str, data: bytes | memoryview) -> None:
    """Write an object of a pack.

    Raises:
        RemoteError: If the storage is unreachable or refuses the write. If the size may be the reason, the error names
            it.
    """
    try:
        storage.put(path, data)
    except (RemoteUnavailable, AccessDenied) as err:
        hint = _hint(err, len(data))
        if not hint:
            raise
        raise RemoteUnavailable(f"{storage.url} did not take {path}. {hint} Otherwise: {err}") from err


def _hint(err: BaseException, count: int) -> str:
    """Return a hint about the size of an object; empty if the size is not the reason."""
    codes = codes_of(err)
    if codes & TOO_LARGE or HTTP_TOO_LARGE in _statuses(err):
        limit = _limit(err)
        limit_text = f"the limit is {limit}" if limit else "it does not tell its limit"
        what = f"The object has {_size_of(count)}, more than the server or a proxy before it takes; {limit_text}."
    elif codes & CLOSED and count >= SUSPECT_BYTES:
        sent = _size_of(count)
        what = f"The connection was closed while {sent} were sent; it may be a limit of the server or a proxy."
    else:
        return ""
    return (
        f"{what} Raise that limit to 48 MiB or more (nginx: client_max_body_size 64m) and push again: what was done is "
        "kept. `cas-cache doctor --test-remote` finds the largest size that is taken."
    )


def _answers(err: BaseException, part: str) -> Iterator[dict[str, Any]]:
    """Yield a part of each answer that led to an error, as botocore stores it."""
    for cause in causes_of(err):
        response = getattr(cause, "response", None)
        answer = response.get(part) if isinstance(response, dict) else None
        if isinstance(answer, dict):
            yield answer


def _statuses(err: BaseException) -> set[object]:
    """Return the HTTP statuses, because a proxy's page has no error code."""
    return {answer.get("HTTPStatusCode") for answer in _answers(err, "ResponseMetadata")}


def _limit(err: BaseException) -> str:
    """Return the maximum size that the service names; empty if it names none."""
    for answer in _answers(err, "Error"):
        digits = str(answer.get("MaxSizeAllowed") or "")
        if digits.isdecimal() and digits.isascii() and len(digits) <= MAX_DIGITS:
            return _size_of(int(digits))
    return ""


def _size_of(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"
