"""Progress of long operations, shown by tqdm: bars on a terminal, lines in a log, nothing elsewhere.

A library shows bars on a terminal only. A command also writes to logs: inside `plain_lines`, an operation that would
show a bar on a terminal writes a line about every ten seconds instead, and none if it takes less.

tqdm is imported by the first bar that is shown, because importing it takes longer than most look-ups. A disabled tqdm
bar would also start tqdm's monitor thread.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Self, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tqdm import tqdm

    Bar: TypeAlias = "tqdm[Any] | NoBar"

SLOW_SECONDS = 1.0
"""Seconds after which a look-up shows a bar; one of 100,000 texts takes less."""

LINE_SECONDS = 10.0
"""Seconds between two lines of a log."""

BYTES = "B"
ITEMS = "items"

_lines: ContextVar[bool] = ContextVar("cas_cache_lines", default=False)


class NoBar:
    """Takes the place of a tqdm bar that is not shown.

    Attributes:
        total: Amount of work, as far as it is known.
        n: Amount of finished work.
    """

    def __init__(self, total: int) -> None:
        self.total: float | None = total
        self.n: float = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, done: float) -> None:
        """Add to the finished work."""
        self.n += done

    def clear(self) -> None:
        """Do nothing, because nothing is shown; `close` neither."""

    close = clear


class _LineWriter:
    """A stream that writes each state of a tqdm bar to stderr as a line of its own."""

    def write(self, text: str) -> None:
        if (line := text.strip()) and sys.stderr is not None:
            sys.stderr.write(f"{line}\n")

    def flush(self) -> None:
        if sys.stderr is not None:
            sys.stderr.flush()


@contextmanager
def plain_lines() -> Iterator[None]:
    """Write lines, while the block runs, in place of bars where there is not a terminal."""
    token = _lines.set(True)
    try:
        yield
    finally:
        _lines.reset(token)


def bar_of(what: str, total: int, progress: bool | None, unit: str = BYTES, *, delay: float = 0.0) -> Bar:
    """Return a bar for an operation; it is a context manager.

    Args:
        what: Name of the operation.
        total: Amount of work; 0 if it is not known yet.
        progress: True shows a bar, False none; None shows it on a terminal only, or lines inside `plain_lines`.
        unit: ``"B"`` for bytes, or the name of the counted things.
        delay: Seconds after which the bar appears.
    """
    shown = is_shown(progress)
    if not shown and not (progress is None and _lines.get()):
        return NoBar(total)
    from tqdm import tqdm

    is_bytes = unit == BYTES
    options: dict[str, Any] = {"desc": what, "total": total, "unit": unit if is_bytes else f" {unit}"}
    if shown:
        options.update(leave=False, delay=delay)
    else:
        options.update(file=_LineWriter(), ncols=0, position=0, smoothing=0)
        options.update(delay=LINE_SECONDS, mininterval=LINE_SECONDS, miniters=1)
    return tqdm(unit_scale=is_bytes, **options)


@contextmanager
def progress_bar(what: str, total: int, progress: bool | None, unit: str = ITEMS) -> Iterator[Callable[[int], object]]:
    """Show a bar while the block runs; yield the function to call with the number of finished items.

    Args:
        what: Name of the operation.
        total: Number of items; without items there is no bar.
        progress: See `bar_of`.
        unit: See `bar_of`.
    """
    with bar_of(what, total, progress if total else False, unit) as bar:
        yield bar.update


def progress_bar_if_slow(what: str, total: int, progress: bool | None) -> Callable[[int], None]:
    """Return a function to call with numbers of finished items, which shows a bar if the work takes long.

    The bar disappears when all items are finished. See `bar_of` for the arguments.
    """
    bar = bar_of(what, total, progress, ITEMS, delay=SLOW_SECONDS)

    def advance(items: int) -> None:
        bar.update(items)
        if bar.n >= total:
            bar.close()

    return advance


def is_shown(progress: bool | None) -> bool:
    """Return True if bars are shown: as `progress` says; None shows them on a terminal only."""
    if sys.stderr is None:
        return False
    return sys.stderr.isatty() if progress is None else progress
