"""Translate errors of file systems: recognise the names under which fsspec's implementations report failures.

Pure, and imports none of these packages: exceptions and codes are known by name, so a package need not be installed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, quote_plus

from cas_cache.errors import AccessDenied, BucketNotFound, CasCacheError, InvalidURL, ObjectNotFound, RemoteUnavailable
from cas_cache.identity.credentials import redact
from cas_cache.storage.codes import (
    ARCHIVED,
    CLOCK,
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
    SERVER_ERRORS,
    SILENT,
    THROTTLED,
    UNKNOWN_CREDENTIALS,
    UNREACHABLE,
)
from cas_cache.storage.diagnosis import TLS, checksum_hint, clock_skew, is_clock_wrong, tls_reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Unanswered(ConnectionError):
    """Raised if no answer came in time. Not a TimeoutError, because fsspec drops the text of those."""


Doing = Literal["read", "list", "write", "delete"]

_CREDENTIALS = {
    "s3": "AWS_PROFILE, AWS_ACCESS_KEY_ID, or key and secret in storage_options",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS, or token in storage_options",
    "azure": "AZURE_STORAGE_ACCOUNT_NAME and its key, or account_name and credential in storage_options",
}
_LOGIN = {"s3": "`aws sso login`", "gcs": "`gcloud auth application-default login`", "azure": "`az login`"}
_ENDPOINT = {"s3": "AWS_ENDPOINT_URL, or endpoint_url in storage_options"}
_PERMISSIONS: dict[str, dict[Doing, str]] = {
    "s3": {
        # Without ListBucket, S3 answers 403 for a missing object.
        "read": "s3:GetObject and s3:ListBucket",
        "list": "s3:ListBucket",
        "write": "s3:PutObject",
        "delete": "s3:DeleteObject",
    },
    "gcs": {
        "read": "storage.objects.get and storage.objects.list",
        "list": "storage.objects.list",
        "write": "storage.objects.create and storage.objects.delete",
        "delete": "storage.objects.delete",
    },
    "azure": {
        "read": "Storage Blob Data Reader",
        "list": "Storage Blob Data Reader",
        "write": "Storage Blob Data Contributor",
        "delete": "Storage Blob Data Contributor",
    },
}


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
        return RemoteUnavailable(_untrusted(tls_reason(causes_of(err)) or reason, url, service))
    if isinstance(err, TypeError | ValueError) or "ParamValidationError" in codes:
        # No request was sent: the SDK found bucket, endpoint or an option malformed.
        return InvalidURL(f"{url} cannot be used ({reason}). Check URL and storage_options.")
    known = (
        service not in CLOUDS
        or type(err).__module__.partition(".")[0] in NETWORK_PACKAGES
        or isinstance(err, OSError | RecursionError)
    )
    hint = checksum_hint(codes, reason, doing, service)
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
    if codes & CLOCK or (is_clock_wrong(causes_of(err)) and codes & (UNKNOWN_CREDENTIALS | REFUSED)):
        return _refused_for_the_time(reason, url, clock_skew(causes_of(err)))
    where = _CREDENTIALS.get(service, "storage_options")
    login = f", for example with {_LOGIN[service]}" if service in _LOGIN else ""
    needs = _PERMISSIONS.get(service, {}).get(doing)
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


def reason_of(err: BaseException, secrets: Iterable[str] = ()) -> str:
    """Return one line without secrets: the service's own text if there is one, else type and first line of the error.

    Empty if a service answered without a text.
    """
    if isinstance(err, Unanswered):
        return str(err)
    for cause in causes_of(err):
        response = getattr(cause, "response", None)
        error = response.get("Error") if isinstance(response, dict) else None
        if isinstance(error, dict):
            parts = (str(error.get(name) or "").strip() for name in ("Code", "Message", "StorageClass"))
            return _one_line(": ".join(part for part in parts if part), secrets).rstrip(". ")
    return first_line(err, secrets).rstrip(". ")


def first_line(err: BaseException, secrets: Iterable[str] = ()) -> str:
    """Return type and first line of an error, without secrets."""
    return _one_line(f"{type(err).__name__}: {err}", secrets)


MAX_CHARACTERS = 200
"""Maximum length of a foreign text in an error message."""


def _one_line(text: str, secrets: Iterable[str]) -> str:
    # Cut last: a part of a secret is not recognised, but reveals nearly as much.
    return without_signatures(without_secrets(next(iter(text.splitlines()), ""), secrets))[:MAX_CHARACTERS]


_NAMED = re.compile(
    r"(?i)\b(sig|signature|x-amz-(?:signature|credential|security-token)|x-goog-(?:signature|credential)|"
    r"access_token|refresh_token|api[_-]?key|token|secret|password|account_?key|shared_?access_?signature|"
    r"aws_secret_access_key|aws_session_token|client_secret)(['\"]?\s*[=:]\s*['\"]?)[^&\s'\",;)]{4,}"
)


def without_signatures(text: str) -> str:
    """Return a text without secrets that have a known form: keys, passwords, and signatures in URLs."""
    return redact(_NAMED.sub(r"\1\2***", redact(text)))


_SECRET_OPTION = re.compile(r"key|secret|token|pass|auth|credential|connection_string|sas", re.IGNORECASE)
MIN_SECRET_LENGTH = 6
"""Minimum length of a secret. Shorter values of secret options are placeholders such as "test", found in any text."""


def secrets_in(options: Mapping[str, Any]) -> Iterator[str]:
    """Yield the values in storage options, or in an environment, that must not be printed."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from secrets_in(value)
        elif isinstance(value, str) and len(value) >= MIN_SECRET_LENGTH and _SECRET_OPTION.search(name):
            yield value


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """Return a text without secrets, in plain or URL-quoted form."""
    for secret in secrets:
        for form in (secret, quote(secret, safe=""), quote_plus(secret)):
            text = text.replace(form, "***")
    return text
