"""Tables for notebooks, from which every ``_repr_html_`` is built.

They are small and contain only text. All of it is escaped; there is no style sheet, script, picture or colour, so a
table adapts to its page, dark or light, and loads nothing. Pure: callers pass everything that is shown.
"""

from __future__ import annotations

from html import escape
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_ROWS = 20
"""Maximum number of rows of a table; the number of further rows is shown below it."""

MAX_CHARACTERS = 160
"""Maximum number of characters of a cell; prompts can be pages long."""

_TABLE = "border-collapse:collapse;margin:.3em 0;font-size:90%"
_CELL = "padding:.15em .8em .15em 0;text-align:{};vertical-align:top;border-bottom:1px solid rgba(128,128,128,.35)"


def facts(title: str, rows: Iterable[tuple[str, object]]) -> str:
    """Return a table of names and values.

    Args:
        title: Title of the table.
        rows: (name, value) pairs; a value of None is skipped. Whole numbers get separators.
    """
    body = "".join(
        f'<tr><th scope="row" style="{_CELL.format("left")};font-weight:normal;opacity:.75">{_text(name)}</th>'
        f"{_cell(value, 'left')}</tr>"
        for name, value in rows
        if value is not None
    )
    return _table(title, "", body)


def grid(title: str, headings: Sequence[str], rows: Iterable[Sequence[object]], *, total: int | None = None) -> str:
    """Return a table with columns.

    Args:
        title: Title of the table.
        headings: Heading of each column.
        rows: Cells of each row; None is an empty cell. At most `MAX_ROWS` rows are used.
        total: Total number of rows, if `rows` may be shortened.
    """
    shown = list(islice(rows, MAX_ROWS))
    numbers = [any(_is_number(row[at]) for row in shown) for at in range(len(headings))]
    aligned = ["right" if number else "left" for number in numbers]
    head = "".join(
        f'<th scope="col" style="{_CELL.format(align)}">{_text(heading)}</th>'
        for heading, align in zip(headings, aligned, strict=True)
    )
    body = "".join(
        f"<tr>{''.join(_cell(value, align) for value, align in zip(row, aligned, strict=True))}</tr>" for row in shown
    )
    remaining = (total or 0) - len(shown)
    note = f'<div style="opacity:.75">and {remaining:,} more</div>' if remaining > 0 else ""
    return _table(title, f"<thead><tr>{head}</tr></thead>", body) + note


def lines(title: str, texts: Sequence[str]) -> str:
    """Return a list with a title; empty if there is nothing to list."""
    if not texts:
        return ""
    shown = "".join(f"<li>{_text(text, MAX_CHARACTERS * 4)}</li>" for text in texts[:MAX_ROWS])
    more = f"<li>and {len(texts) - MAX_ROWS:,} more</li>" if len(texts) > MAX_ROWS else ""
    return f'<div>{_text(title)}</div><ul style="margin:.2em 0">{shown}{more}</ul>'


def _table(title: str, head: str, body: str) -> str:
    caption = (
        f'<caption style="text-align:left;caption-side:top;font-weight:bold;color:inherit">{_text(title)}</caption>'
    )
    return f'<table style="{_TABLE}">{caption}{head}<tbody>{body}</tbody></table>'


def _cell(value: object, align: str) -> str:
    return f'<td style="{_CELL.format(align)}">{_text(value)}</td>'


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: object, most: int = MAX_CHARACTERS) -> str:
    """Return a value as HTML: cut, escaped, and with characters that do not print (or reverse the line) as codes."""
    if value is None:
        return ""
    text = f"{value:,}" if _is_number(value) else str(value)
    if len(text) > most:
        text = f"{text[:most]}…"
    return escape("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text), quote=True)
