"""A table of two columns for people: an id, and lines that describe it. Long lines are folded, never cut.

Plain text: importing rich takes longer than reading a mirror.
"""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

import click

from cas_cache.cli.verbosity import say
from cas_cache.errors import from_locale

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from cas_cache.identity import EncoderSpec

ID_CHARACTERS = 12
"""Number of characters of a namespace's id that are shown: enough to identify it."""

GAP = "  "


def print_namespaces(
    rows: Iterable[tuple[str, Sequence[str | tuple[str, ...]]]], title: str = "model@revision, role"
) -> None:
    """Print namespaces with the lines about each, below a heading, as wide as the terminal.

    A line is a text or a tuple of cells. Cells are aligned, and lines are folded between cells if the terminal is
    narrow.
    """
    rows = list(rows)
    room = max(20, shutil.get_terminal_size().columns - ID_CHARACTERS - len(GAP))
    cells = [line for _, lines in rows for line in lines if isinstance(line, tuple)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    click.secho(f"{'namespace':<{ID_CHARACTERS}}{GAP}{title}", bold=True, file=sys.stdout)
    for namespace, lines in rows:
        first = namespace[:ID_CHARACTERS]
        for line in lines:
            parts = _aligned(line, widths, room) if isinstance(line, tuple) else _folded(visible(line), room)
            for part in parts:
                say(f"{first:<{ID_CHARACTERS}}{GAP}{part}".rstrip())
                first = ""


def name_of(spec: EncoderSpec | None) -> str:
    """Return the model, revision and role of a spec on one line."""
    if spec is None:
        return "(its spec cannot be read)"
    return f"{spec.model}@{spec.revision[:12]}" + (f", {spec.role}" if spec.role else "")


def visible(text: str) -> str:
    """Return a text on one line without control characters: the specs of a repository come from other users."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in from_locale(text))


def _aligned(cells: Sequence[str], widths: Sequence[int], room: int) -> list[str]:
    """Return cells on one line, padded to the widths of their columns; on several lines if that is too long."""
    whole = GAP.join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()
    if len(whole) <= room:
        return [whole]
    lines: list[str] = []
    for cell in cells:
        if lines and len(lines[-1]) + len(GAP) + len(cell) <= room:
            lines[-1] += GAP + cell
        else:
            lines.append(cell)
    return lines


def _folded(line: str, room: int) -> Iterator[str]:
    """Yield the parts of a line, cut after a space if possible. Joined, they are the line again."""
    while len(line) > room:
        at = line.rfind(" ", 1, room) + 1 or room
        yield line[:at]
        line = line[at:]
    yield line
