"""Remove secrets, of the arguments and of the environment, from everything that a command prints.

The library's own messages contain none. Tracebacks, log lines and click's messages can quote arguments and other
libraries.
"""

from __future__ import annotations

import logging
import sys

from cas_cache import errors
from cas_cache.config.settings import cloud_secrets
from cas_cache.config.urls import is_url, without_credentials
from cas_cache.errors import InvalidURL
from cas_cache.storage.redaction import secrets_in, without_secrets, without_signatures


def printable(text: str) -> str:
    """Return a text without secrets and without characters that a terminal would act on."""
    for argument in sys.argv[1:]:
        if argument in text and argument != _without_secrets(argument):
            text = text.replace(argument, _without_secrets(argument))
    return errors.printable(without_signatures(without_secrets(text, (*cloud_secrets(), *secrets_in(_options())))))


class PrintableFormatter(logging.Formatter):
    """Formats log lines without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        return printable(super().format(record))


def _options() -> dict[str, str]:
    """Return the arguments that may be storage options, ``KEY=VALUE``."""
    pairs = (argument.removeprefix("--storage-option=").partition("=") for argument in sys.argv[1:])
    return {name: value for name, equals, value in pairs if equals}


def _without_secrets(argument: str) -> str:
    """Return a URL without credentials; other arguments unchanged."""
    try:
        return without_credentials(argument) if is_url(argument) else argument
    except InvalidURL:
        return argument.partition(":")[0] + ":***" if "@" in argument else argument
