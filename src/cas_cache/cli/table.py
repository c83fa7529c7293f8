"""A table of two columns for people: an id, and lines that say more. Long lines are folded, never cut.

Plain text: importing rich takes longer than reading a mirror.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from cas_cache.identity import EncoderSpec

ID_CHARACTERS = 12
"""Of a namespace's id: enough to name it by."""

GAP = "  "


def print_namespaces(rows: Iterable[tuple[str, Sequence[str]]], title: str = "model@revision, role") -> None:
    """Print (namespace, lines) each, under a head, as wide as the terminal is."""
    room = max(20, shutil.get_terminal_size().columns - ID_CHARACTERS - len(GAP))
    click.secho(f"{'namespace':<{ID_CHARACTERS}}{GAP}{title}", bold=True)
    for namespace, lines in rows:
        first = namespace[:ID_CHARACTERS]
        for line in lines:
            for part in _folded(visible(line), room):
                click.echo(f"{first:<{ID_CHARACTERS}}{GAP}{part}".rstrip())
                first = ""


def name_of(spec: EncoderSpec | None) -> str:
    """Return whose vectors these are, on one line."""
    if spec is None:
        return "(its spec cannot be read)"
    return f"{spec.model}@{spec.revision[:12]}" + (f", {spec.role}" if spec.role else "")


def visible(text: str) -> str:
    """Return a text that a terminal can only print: others wrote the specs of a repository."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _folded(line: str, room: int) -> Iterator[str]:
    for start in range(0, max(1, len(line)), room):
        yield line[start : start + room]
