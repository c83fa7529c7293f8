"""Progress of long operations: bars on a terminal, lines in a log, nothing elsewhere.

A library shows bars on a terminal only. A command also writes to logs: inside `plain_lines`, an operation that would
show a bar on a terminal writes a line about every ten seconds instead, and none if it takes less.

tqdm is imported by the first bar that is shown, because importing it takes longer than most look-ups.
"""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from tqdm import tqdm

SLOW_SECONDS = 1.0
"""Seconds after which a look-up shows a bar; one of 100,000 texts takes less."""

LINE_SECONDS = 10.0
"""Seconds between two lines of a log."""

BYTES = "B"
ITEMS = "items"


class Bar(Protocol):
    """Interface that receives progress; a tqdm bar implements it.

    Attributes:
        total: Amount of work, as far as it is known; may be set.
        n: Amount of finished work.
        disable: True if no bar is shown.
    """

    total: Any
    n: Any
    disable: Any

    def update(self, done: Any, /) -> object:
        """Add to the finished work."""
        ...

    def refresh(self) -> object:
        """Show a changed total."""
        ...

    def clear(self) -> object:
        """Hide the bar, so that a line can be written."""
        ...

    def close(self) -> object:
        """Remove the bar."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, exc_type: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class _Nothing:
    """A bar that shows nothing."""

    disable = True

    def __init__(self, total: int) -> None:
        self.total = total
        self.n = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, done: int) -> None:
        """See `Bar`."""
        self.n += done

    def refresh(self) -> None:
        """See `Bar`."""

    def clear(self) -> None:
        """See `Bar`."""

    def close(self) -> None:
        """See `Bar`."""


class Lines(_Nothing):
    """Progress lines for a log: one every `LINE_SECONDS`, and a last one if there was any.

    Args:
        what: Name of the operation.
        total: Amount of work; 0 if it is unknown.
        unit: ``"B"`` for bytes, or the name of the counted things.
        clock: Returns the time in seconds.
        write: Writes a line.
    """

    def __init__(
        self,
        what: str,
        total: int,
        unit: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        write: Callable[[str], object] | None = None,
    ) -> None:
        super().__init__(total)
        self._what = what
        self._unit = unit
        self._clock = clock
        self._write = write or _to_stderr
        self._began = self._last_line = clock()
        self._any = False

    def update(self, done: int) -> None:
        """See `Bar`."""
        super().update(done)
        now = self._clock()
        if now - self._last_line < LINE_SECONDS:
            return
        self._last_line, self._any = now, True
        each = (now - self._began) / self.n if self.n else 0.0
        remaining = f", {_seconds(each * (self.total - self.n))} left" if self.n < self.total else ""
        amount = _amount(self.n, self._unit, self.total)
        self._write(f"{self._what}: {amount}, {self._rate(now)}{remaining}")

    def close(self) -> None:
        """Write a last line, if one was written before."""
        if self._any:
            now, self._any = self._clock(), False
            took = _seconds(now - self._began)
            self._write(f"{self._what}: {_amount(self.n, self._unit)} in {took}, {self._rate(now)}")

    def _rate(self, now: float) -> str:
        return f"{_amount(self.n / max(now - self._began, 1e-9), self._unit)}/s"


_lines: ContextVar[bool] = ContextVar("cas_cache_lines", default=False)


@contextmanager
def plain_lines() -> Iterator[None]:
    """Write lines, while the block runs, in place of bars where there is not a terminal."""
    token = _lines.set(True)
    try:
        yield
    finally:
        _lines.reset(token)


def bar_of(what: str, total: int, progress: bool | None, unit: str = BYTES) -> Bar:
    """Return a bar for an operation; it is a context manager.

    Args:
        what: Name of the operation.
        total: Amount of work; 0 if it is not known yet.
        progress: True shows a bar, False none; None shows it on a terminal only, or lines inside `plain_lines`.
        unit: ``"B"`` for bytes, or the name of the counted things.
    """
    if is_shown(progress):
        return _bar(what, total, unit)
    return Lines(what, total, unit) if _is_lines(progress) else _Nothing(total)


@contextmanager
def progress_bar(what: str, total: int, progress: bool | None, unit: str = ITEMS) -> Iterator[Callable[[int], object]]:
    """Show a bar while the block runs; yield the function to call with the number of finished items.

    Args:
        what: Name of the operation.
        total: Number of items; without items there is no bar.
        progress: See `bar_of`.
        unit: See `bar_of`.
    """
    if not total:
        yield lambda _: None
        return
    with bar_of(what, total, progress, unit) as bar:
        yield bar.update


def progress_bar_if_slow(what: str, total: int, progress: bool | None) -> Callable[[int], None]:
    """Return a function to call with numbers of finished items, which shows a bar if the work takes long.

    The bar disappears when all items are finished. See `bar_of` for the arguments.
    """
    bar: tqdm[Any] | Lines | None = None
    done = 0

    def advance(items: int) -> None:
        nonlocal bar, done
        if bar is None and is_shown(progress):
            bar = _bar(what, total, ITEMS, SLOW_SECONDS)
        elif bar is None and _is_lines(progress):
            bar = Lines(what, total, ITEMS)
        if bar is not None:
            bar.update(items)
            done += items
            if done >= total:
                bar.close()

    return advance


def is_shown(progress: bool | None) -> bool:
    """Return True if bars are shown: as `progress` says; None shows them on a terminal only."""
    if progress is None:
        return sys.stderr is not None and sys.stderr.isatty()
    return progress


def _is_lines(progress: bool | None) -> bool:
    return progress is None and _lines.get() and sys.stderr is not None


def _bar(what: str, total: int, unit: str, delay: float = 0.0) -> tqdm[Any]:
    from tqdm import tqdm

    is_bytes = unit == BYTES
    shown = unit if is_bytes else f" {unit}"
    return tqdm(desc=what, total=total, unit=shown, unit_scale=is_bytes, leave=False, delay=delay)


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - requested by `plain_lines`


def _amount(count: float, unit: str, total: int = 0) -> str:
    """Return a count as text, or "1.2 of 4.0 GB"."""
    if unit != BYTES:
        return f"{count:,.0f} of {total:,} {unit}" if total >= count and total else f"{count:,.0f} {unit}"
    largest, power = max(count, total), 0
    while largest >= 1000 and power < len(_SIZES) - 1:
        largest, power = largest / 1000, power + 1
    digits = 1 if power else 0
    shown = f"{count / 1000**power:.{digits}f}"
    return (
        f"{shown} of {total / 1000**power:.{digits}f} {_SIZES[power]}"
        if total >= count and total
        else f"{shown} {_SIZES[power]}"
    )


_SIZES = ("B", "kB", "MB", "GB", "TB")


def _seconds(seconds: float) -> str:
    """Return a duration as text for people."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    minutes = round(whole / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
