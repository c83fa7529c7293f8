"""How results are shown to people: sizes, durations, counts, escaped text and tables. Programs read ``as_json``.

Tables are rich's. A class that derives from `Displayable` and defines ``__rich__`` is a table for rich, in a notebook
and in IPython. All text of a table is escaped, because specs, ids and object names come from other users. Tables have
no colours, so they suit light and dark pages.

rich is imported when a table is made, because importing it takes longer than reading a mirror.
"""

from __future__ import annotations

import io
from itertools import islice
from typing import TYPE_CHECKING, Any

from cas_cache.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rich.console import Console, Group, RenderableType
    from rich.table import Table
    from rich.text import Text

MAX_ROWS = 20
"""Maximum number of rows of a table; the number of further rows is shown below it."""

MAX_CHARACTERS = 160
"""Maximum number of characters of a cell; prompts can be pages long."""

ID_CHARACTERS = 12
"""Number of characters of a namespace's or a pack's id that are shown: enough to identify it."""

NOTEBOOK_COLUMNS = 115
"""Width of a table in a notebook, in characters; rich uses the same."""

TEXT_COLUMNS = 80
"""Width of a table as plain text, in characters."""

_PAGE = '<pre style="white-space:pre;overflow-x:auto;line-height:normal;font-family:monospace">{code}</pre>'


def size(count: float) -> str:
    """Return a number of bytes as text: ``"1.2 GB"``."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def duration(seconds: float) -> str:
    """Return a duration as text: ``"0.35 s"``, ``"12 s"``, ``"3 min 5 s"``, ``"2 h 4 min"``."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def pluralize(count: int, noun: str) -> str:
    """Return a count with its noun: ``"1 row"``, ``"1,200 rows"``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def vector_type(dtype: str, shape: Iterable[int]) -> str:
    """Return the dtype and the shape of a vector as text: ``"float32[384]"``."""
    return f"{dtype}[{','.join(map(str, shape))}]"


def visible(text: str) -> str:
    """Return a text on one line, with escapes in place of control characters."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


class Displayable:
    """An object that defines ``__rich__``, and that a notebook shows as what this returns."""

    __slots__ = ()

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"text/plain": _plain(self), "text/html": _html(self)}


def facts(title: str, values: Mapping[str, object]) -> Group:
    """Return a table of names and values.

    Args:
        title: Title of the table.
        values: Value of each name; None and empty lists are skipped. Each element of a list is a line.
    """
    table = _table()
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in values.items():
        lines = value if isinstance(value, list) else [] if value is None else [value]
        for number, line in enumerate(lines[:MAX_ROWS]):
            table.add_row(None if number else _cell(name), _cell(line))
        if len(lines) > MAX_ROWS:
            table.add_row(None, _more(len(lines) - MAX_ROWS))
    return _titled(title, table)


def grid(
    title: str | None, headings: Sequence[str], rows: Iterable[Sequence[object]], *, total: int | None = None
) -> Group:
    """Return a table with columns.

    Args:
        title: Title of the table.
        headings: Heading of each column.
        rows: Cells of each row; None is an empty cell. At most `MAX_ROWS` rows are used.
        total: Total number of rows, if `rows` may be shortened.
    """
    from rich.table import Table

    table = Table()
    shown = list(islice(rows, MAX_ROWS))
    for number, heading in enumerate(headings):
        is_number = any(_is_number(row[number]) for row in shown)
        table.add_column(_cell(heading), justify="right" if is_number else "left", overflow="fold")
    for row in shown:
        table.add_row(*map(_cell, row))
    remaining = (total or 0) - len(shown)
    return _titled(title, table, *([_more(remaining)] if remaining > 0 else []))


def listing(headings: Sequence[str], rows: Iterable[tuple[str, Sequence[str | Sequence[str]]]]) -> Table:
    """Return a table of two columns: a short name, and lines about it. Long lines are folded, never cut.

    Args:
        headings: Headings of the two columns.
        rows: The name, and the lines. A line is a text or a sequence of cells. Cells are aligned over all rows, and are
            folded between cells where there is not enough room.
    """
    from rich.columns import Columns
    from rich.console import Group
    from rich.text import Text

    rows = list(rows)
    cells = [line for _, lines in rows for line in lines if not isinstance(line, str)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]

    def shown(line: str | Sequence[str]) -> RenderableType:
        if isinstance(line, str):
            return Text(visible(line), overflow="fold")
        padded = (Text(f"{visible(cell):<{width}}") for cell, width in zip(line, widths, strict=True))
        return Columns(padded, padding=(0, 2))

    table = _table(show_header=True)
    for heading in headings:
        table.add_column(_cell(heading), overflow="fold")
    for name, lines in rows:
        table.add_row(Text(visible(name)), Group(*map(shown, lines)))
    return table


def together(*parts: RenderableType) -> Group:
    """Return several tables or displayable objects as one, one below the other."""
    from rich.console import Group

    return Group(*parts)


def _table(*, show_header: bool = False) -> Table:
    from rich.table import Table

    return Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=show_header)


def _titled(title: str | None, *parts: RenderableType) -> Group:
    from rich.text import Text

    return together(*([] if title is None else [Text(visible(title), style="bold")]), *parts)


def _more(count: int) -> Text:
    from rich.text import Text

    return Text(f"and {count:,} more")


def _cell(value: object) -> Text:
    from rich.text import Text

    if value is None:
        return Text("")
    if _is_number(value):
        return Text(f"{value:,.2f}" if isinstance(value, float) else f"{value:,}")
    text = visible(str(value))
    return Text(text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}…")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(shown: Any) -> str:
    """Return what rich shows of an object as plain text."""
    return _stripped(_recorded(shown, TEXT_COLUMNS).export_text())


def _html(shown: Any) -> str:
    """Return what rich shows of an object as HTML without scripts, style sheets, links and colours."""
    return _stripped(_recorded(shown, NOTEBOOK_COLUMNS).export_html(inline_styles=True, code_format=_PAGE))


def _stripped(text: str) -> str:
    """Return a text without the spaces that fill its lines to the width of a table."""
    return "\n".join(line.rstrip() for line in text.splitlines())


def _recorded(shown: RenderableType, columns: int) -> Console:
    from rich.console import Console

    console = Console(file=io.StringIO(), record=True, width=columns, force_jupyter=False, legacy_windows=False)
    console.print(shown, highlight=False)
    return console
