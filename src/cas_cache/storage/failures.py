"""Translate errors of file systems: recognise the names under which fsspec's implementations report failures.

Pure, and imports none of these packages: exceptions and codes are known by name, so a package need not be installed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cas_cache.errors import AccessDenied, BucketNotFound, CasCacheError, InvalidURL, ObjectNotFound, RemoteUnavailable
from cas_cache.storage.codes import (
    ARCHIVED,
    CLOCK,
    CLOSED,
    CLOUDS,
    CREDENTIAL_ERRORS,
    ELSEWHERE,
    ENCRYPTED,
    ENDLESS,
    EXPIRED,
    FORBIDDEN,
    NETWORK_PACKAGES,
    NO_BUCKET,
    NO_CREDENTIALS,
    NOT_THE_SERVICE,
    REFUSED,
    REFUSED_TRAILERS,
    SERVER_ERRORS,
    SILENT,
    THROTTLED,
    TLS,
    TOO_LARGE,
    UNKNOWN_CREDENTIALS,
    UNREACHABLE,
    Doing,
    answers_of,
    causes_of,
    clock_skew,
    codes_of,
    is_clock_wrong,
    permissions_for,
    tls_reason,
)
from cas_cache.storage.redaction import first_line, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cas_cache.storage.interface import Storage


class Unanswered(ConnectionError):
    """Raised if no answer came in time. Not a TimeoutError, because fsspec drops the text of those.

    Args:
        seconds: Time limit of the request.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no answer within {seconds:,.0f} seconds")


_CREDENTIALS = {
    "s3": "AWS_PROFILE, AWS_ACCESS_KEY_ID, or key and secret in storage_options",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS, or token in storage_options",
    "azure": "AZURE_STORAGE_ACCOUNT_NAME and its key, or account_name and credential in storage_options",
}
_LOGIN = {"s3": "`aws sso login`", "gcs": "`gcloud auth application-default login`", "azure": "`az login`"}
_ENDPOINT = {"s3": "AWS_ENDPOINT_URL, or endpoint_url in storage_options"}

SUSPECT_BYTES = 1 << 20
"""Minimum size of an object for which a closed connection suggests a limit. Proxies limit bodies to 1 MB (the default
of nginx) or more, so smaller objects fail for other reasons."""

MAX_DIGITS = 18
"""Maximum number of digits of a size that a service names; Python refuses to parse thousands."""

REQUEST_CHECKSUMS = "AWS_REQUEST_CHECKSUM_CALCULATION"
RESPONSE_CHECKSUMS = "AWS_RESPONSE_CHECKSUM_VALIDATION"
WHEN_REQUIRED = {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
"""The same two settings as ``config_kwargs`` of botocore."""

_CHECKSUM_WORDS = re.compile(r"checksum|trailer|aws-chunked|content-sha256|STREAMING-UNSIGNED", re.IGNORECASE)


def error_of(
    err: Exception, secrets: tuple[str, ...], *, url: str, path: str, doing: Doing, service: str
) -> CasCacheError | None:
    """Return the package's error for an error of a file system; None if the error is a bug.

    Args:
        err: The error of the file system.
        secrets: Texts that must not be printed.
        url: The URL of the storage, in a form that may be shown.
        path: The path of the object or folder.
        doing: The requested operation.
        service: ``"s3"``, ``"gcs"``, ``"azure"``, or another protocol.
    """
    codes, reason = codes_of(err), reason_of(err, secrets)
    if isinstance(err, FileNotFoundError) or codes & NO_BUCKET:
        return _missing(err, reason, url=url, path=path, doing=doing, service=service)
    if isinstance(err, PermissionError) or codes & CREDENTIAL_ERRORS or FORBIDDEN.match(str(err)):
        return AccessDenied(_refusal_text(err, reason, url, doing, service))
    if codes & TLS:  # those of aiohttp are ValueErrors, too
        return RemoteUnavailable(_untrusted(tls_reason(err) or reason, url, service))
    if isinstance(err, TypeError | ValueError) or "ParamValidationError" in codes:
        # No request was sent: the SDK found bucket, endpoint or an option malformed.
        return InvalidURL(f"{url} cannot be used ({reason}). Check URL and storage_options.")
    known = (
        service not in CLOUDS
        or type(err).__module__.partition(".")[0] in NETWORK_PACKAGES
        or isinstance(err, OSError | RecursionError)
    )
    hint = _checksum_hint(codes, reason, doing, service)
    text = f"{url} did not take a {doing} ({reason}). {hint}, then do the same again." if hint else ""
    return (
        RemoteUnavailable(text or _unavailable_text(codes, reason, url, service))
        if known or service not in CLOUDS
        else None
    )


def _missing(err: Exception, reason: str, *, url: str, path: str, doing: Doing, service: str) -> CasCacheError:
    codes = codes_of(err)
    if service == "s3" and getattr(err, "errno", None) and not _is_answer(err):
        return RemoteUnavailable(f"{url} was not asked: a file of this machine is missing ({reason}). Restore it.")
    if doing == "read" and not codes & NO_BUCKET:
        return ObjectNotFound(f"{path} is not in {url}.")
    if service not in CLOUDS:
        return BucketNotFound(f"There is no folder for {path or 'the repository'} in {url} ({reason}). Create it.")
    return BucketNotFound(
        f"The bucket of {url} does not exist. Check its name and region, or create it: cas_cache never makes buckets."
    )


def _is_answer(err: BaseException) -> bool:
    """Return True if a service answered with an error."""
    return any(isinstance(getattr(cause, "response", None), dict) for cause in causes_of(err))


def _refused_for_the_time(reason: str, url: str, skew: float) -> str:
    is_worth_telling = abs(skew) >= 60  # a smaller difference is the time that the answer took
    differs = (
        f": it is {abs(skew):,.0f} s {'ahead of' if skew > 0 else 'behind'} that of the service"
        if is_worth_telling
        else ""
    )
    return f"{url} refuses the credentials because of the time ({reason}). Set this machine's clock{differs}."


def _untrusted(reason: str, url: str, service: str) -> str:
    variable = "AWS_CA_BUNDLE" if service == "s3" else "SSL_CERT_FILE"
    return (
        f"There is no trusted connection to {url} ({reason.rstrip('. ')}). If an authority of your own signs its "
        f"certificate, set {variable} to that authority's file; otherwise check the endpoint and this machine's clock."
    )


def _refusal_text(err: Exception, reason: str, url: str, doing: Doing, service: str) -> str:
    codes = codes_of(err)
    if is_clock_wrong(err) and codes & (CLOCK | UNKNOWN_CREDENTIALS | REFUSED):
        return _refused_for_the_time(reason, url, clock_skew(err))
    where = _CREDENTIALS.get(service, "storage_options")
    login = f", for example with {_LOGIN[service]}" if service in _LOGIN else ""
    needs = permissions_for(service, doing)
    permission = f"that they have {needs}" if needs else f"that they may {doing}"
    texts = (
        (NO_CREDENTIALS, f"No credentials were found for {url} ({reason}). Set {where}."),
        (EXPIRED, f"The credentials for {url} have expired ({reason}). Get new ones{login}, and do the same again."),
        (ARCHIVED, f"{url} does not give out an object in an archive storage class ({reason}). Restore it first."),
        (
            ENCRYPTED,
            f"{url} cannot use the key of an object ({reason}). Enable the key, or ask for its use.",
        ),
        (
            UNKNOWN_CREDENTIALS,
            f"{url} does not accept the credentials ({reason}). Check {where}, and the endpoint they are for.",
        ),
        (
            codes,
            f"{url} refuses a {doing} ({reason}). Check the credentials that are found ({where}), and {permission}.",
        ),
    )
    return next(text for text_codes, text in texts if codes & text_codes)


def _unavailable_text(codes: set[str], reason: str, url: str, service: str) -> str:
    setting = f" ({_ENDPOINT[service]})" if service in _ENDPOINT else ""
    check = f"Check the network and the endpoint{setting}"
    if ENDLESS in codes:
        reason = "it is redirected without end"
    if not reason:
        codes, reason = codes | NOT_THE_SERVICE, "an answer without an error code"
    texts = (
        (THROTTLED, "{url} asks for fewer requests ({reason}). Wait a little, then do the same again: it goes on."),
        (
            ELSEWHERE,
            (
                "The bucket of {url} is in another region or at another endpoint ({reason}). Set AWS_REGION to the "
                "bucket's region, or the endpoint{setting}."
            ),
        ),
        (UNREACHABLE, "{url} cannot be reached ({reason}). {check}."),
        (SILENT, "{url} does not answer ({reason}). {check}, then do the same again: what was done is kept."),
        (SERVER_ERRORS, "The service of {url} failed ({reason}). Do the same again later: what was done is kept."),
        (
            NOT_THE_SERVICE,
            "What answers for {url} is not the service, but perhaps a proxy or a login page ({reason}). {check}.",
        ),
        (codes, "{url} did not answer as it should ({reason}). {check}, then try again."),
    )
    text = next(text for text_codes, text in texts if codes & text_codes)
    return text.format(url=url, reason=reason, check=check, setting=setting)


def reason_of(err: BaseException, secrets: Iterable[str] = ()) -> str:
    """Return one line without secrets: the service's own text if there is one, else type and first line of the error.

    Empty if a service answered without a text.
    """
    if isinstance(err, Unanswered):
        return str(err)
    for error in answers_of(err, "Error"):
        parts = (str(error.get(name) or "").strip() for name in ("Code", "Message", "StorageClass"))
        return one_line(": ".join(part for part in parts if part), secrets).rstrip(". ")
    return first_line(err, secrets).rstrip(". ")


def _checksum_hint(codes: set[str], reason: str, doing: str, service: str) -> str:
    """Return the setting for a server that refuses or breaks the checksums of the AWS SDK; empty for other failures."""
    if service != "s3":
        return ""
    if "FlexibleChecksumError" in codes:
        return (
            f"If the server sends checksums of whole objects with parts of them, set {RESPONSE_CHECKSUMS}=when_required"
        )
    if doing == "write" and (codes & REFUSED_TRAILERS or _CHECKSUM_WORDS.search(reason)):
        return f"Servers that do not take the checksums of the SDK answer so: set {REQUEST_CHECKSUMS}=when_required"
    return ""


def put_object(storage: Storage, path: str, data: bytes | memoryview) -> None:
    """Write an object of a pack.

    Raises:
        RemoteError: If the storage is unreachable or refuses the write. If the size may be the reason, the error names
            it.
    """
    try:
        storage.put(path, data)
    except (RemoteUnavailable, AccessDenied) as err:
        hint = _size_hint(err, len(data))
        if not hint:
            raise
        raise RemoteUnavailable(f"{storage.url} did not take {path}. {hint} Otherwise: {err}") from err


def _size_hint(err: BaseException, count: int) -> str:
    """Return a hint about the size of an object; empty if the size is not the reason."""
    codes = codes_of(err)
    if codes & TOO_LARGE or 413 in {answer.get("HTTPStatusCode") for answer in answers_of(err, "ResponseMetadata")}:
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


def _limit(err: BaseException) -> str:
    """Return the maximum size that the service names; empty if it names none."""
    for answer in answers_of(err, "Error"):
        digits = str(answer.get("MaxSizeAllowed") or "")
        if digits.isdecimal() and digits.isascii() and len(digits) <= MAX_DIGITS:
            return _size_of(int(digits))
    return ""


def _size_of(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"
