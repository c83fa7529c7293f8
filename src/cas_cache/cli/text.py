"""Text on streams that are not UTF-8: output never fails, and arguments are read as UTF-8."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import click

from cas_cache.errors import from_locale


class _Text(click.types.StringParamType):
    """A text that is compared with stored UTF-8, so it is read as UTF-8 in every locale."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """See `click.ParamType.convert`."""
        return from_locale(str(super().convert(value, param, ctx)))


TEXT = _Text()
"""Type of arguments and options that name items, models, roles and tasks. Paths are left as the system gave them."""


def escape_unencodable() -> None:
    """Make standard output and standard error write characters that they cannot encode as Python escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def json_text(document: Any, *, only_ascii: bool = False) -> str:
    """Return JSON without characters that a terminal would act on.

    Args:
        document: The document to write.
        only_ascii: Also escape all letters that are not ASCII, so that every stream can carry them.
    """
    text = from_locale(json.dumps(document, indent=2, ensure_ascii=False))
    return "".join(c if _is_plain(c, only_ascii=only_ascii) else _escaped(c) for c in text)


def _is_plain(character: str, *, only_ascii: bool) -> bool:
    return character == "\n" or (character.isprintable() and (character.isascii() or not only_ascii))


def _escaped(character: str) -> str:
    """Return JSON's own escape. Outside of strings, JSON has only printable ASCII and line feeds, so this is safe."""
    return json.dumps(character)[1:-1] if character != "\x7f" else "\\u007f"
