"""Texts of other packages in our messages: one line, without secrets. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

from cas_cache.identity.credentials import redact

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def first_line(err: BaseException, secrets: Iterable[str] = ()) -> str:
    """Return type and first line of an error, without secrets."""
    return one_line(f"{type(err).__name__}: {err}", secrets)


MAX_CHARACTERS = 200
"""Maximum length of a foreign text in an error message."""


def one_line(text: str, secrets: Iterable[str]) -> str:
    """Return the first line of a foreign text, without secrets."""
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
