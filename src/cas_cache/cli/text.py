"""Text on streams that are not UTF-8: what is printed never fails, and arguments are read as UTF-8."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import click

from cas_cache.errors import from_locale


class _Text(click.types.StringParamType):
    """A text that is compared with what was stored, which is UTF-8 whatever the locale says."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """See `click.ParamType.convert`."""
        return from_locale(str(super().convert(value, param, ctx)))


TEXT = _Text()
"""The type of arguments and options that name items, models, roles and tasks. Paths stay as the system gave them."""


def escape_unencodable() -> None:
    """Let standard output and standard error write what their encoding lacks as Python escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def json_text(document: Any, *, only_ascii: bool = False) -> str:
    """Return JSON without characters that a terminal would act on.

    Args:
        document: What to write.
        only_ascii: Escape all other letters too, so that every stream can carry them.
    """
    text = from_locale(json.dumps(document, indent=2, ensure_ascii=False))
    return "".join(c if _is_plain(c, only_ascii=only_ascii) else _escaped(c) for c in text)


def _is_plain(character: str, *, only_ascii: bool) -> bool:
    return character == "\n" or (character.isprintable() and (character.isascii() or not only_ascii))


def _escaped(character: str) -> str:
    """Return JSON's own escape: outside of strings there is nothing but printable ASCII and line feeds."""
    return json.dumps(character)[1:-1] if character != "\x7f" else "\\u007f"
