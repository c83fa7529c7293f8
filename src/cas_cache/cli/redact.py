"""What a command must not print: secrets of its arguments and of the environment, wherever they turn up.

The library's own messages have none. Tracebacks, log lines and click's remarks on the arguments show what others wrote.
"""

from __future__ import annotations

import logging
import sys

from cas_cache import errors
from cas_cache.errors import InvalidURL
from cas_cache.repository import is_url, without_credentials
from cas_cache.repository.failures import secrets_in, without_secrets, without_signatures
from cas_cache.settings import cloud_secrets


def printable(text: str) -> str:
    """Return a text without secrets, that a terminal can only show."""
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
    """The arguments that may be storage options, ``KEY=VALUE``."""
    pairs = (argument.removeprefix("--storage-option=").partition("=") for argument in sys.argv[1:])
    return {name: value for name, equals, value in pairs if equals}


def _without_secrets(argument: str) -> str:
    """A URL without credentials; another argument as it is."""
    try:
        return without_credentials(argument) if is_url(argument) else argument
    except InvalidURL:
        return argument.partition(":")[0] + ":***" if "@" in argument else argument
