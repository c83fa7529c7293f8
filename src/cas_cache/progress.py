"""How far long work is: bars on a terminal, lines in a log, nothing where nobody looks.

A library shows bars on a terminal only. A command also writes to logs: inside `plain_lines`, what would show a bar on a
terminal writes a line about every ten seconds elsewhere, and none if it takes less.

tqdm is imported by the first bar that is shown: importing it takes longer than most look-ups.
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
"""A look-up that takes longer shows a bar: that of 100,000 texts takes less."""

LINE_SECONDS = 10.0
"""Between two lines of a log."""

BYTES = "B"
ITEMS = "items"


class Bar(Protocol):
    """What is told how far the work is; a bar of tqdm's is one.

    Attributes:
        total: How much there is to do, as far as is known; may be set.
        n: How much is done.
        disable: Whether this is no bar.
    """

    total: Any
    n: Any
    disable: Any

    def update(self, done: Any, /) -> object:
        """Say that so much more is done."""
        ...

    def refresh(self) -> object:
        """Show what has changed."""
        ...

    def clear(self) -> object:
        """Make room for a line."""
        ...

    def close(self) -> object:
        """Show nothing any more."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, exc_type: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class _Nothing:
    """Shows nothing."""

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
    """Lines for a log: one when `LINE_SECONDS` have passed, and a last one if there was any.

    Args:
        what: What goes on.
        total: How much there is; 0 for not known.
        unit: ``"B"``, or what is counted.
        clock: Gives seconds.
        write: Takes a line.
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
        """Say how it ended, if anything was said before."""
        if self._any:
            now, self._any = self._clock(), False
            took = _seconds(now - self._began)
            self._write(f"{self._what}: {_amount(self.n, self._unit)} in {took}, {self._rate(now)}")

    def _rate(self, now: float) -> str:
        return f"{_amount(self.n / max(now - self._began, 1e-9), self._unit)}/s"


_lines: ContextVar[bool] = ContextVar("cas_cache_lines", default=False)


@contextmanager
def plain_lines() -> Iterator[None]:
    """Write lines, while the block runs, where a terminal would show a bar and there is none."""
    token = _lines.set(True)
    try:
        yield
    finally:
        _lines.reset(token)


def bar_of(what: str, total: int, progress: bool | None, unit: str = BYTES) -> Bar:
    """Return what is told of work that is done; it is a context manager.

    Args:
        what: What goes on.
        total: How much there is; 0 for not known yet.
        progress: Whether to show a bar; None shows it on a terminal only, or lines inside `plain_lines`.
        unit: ``"B"`` for bytes, or what is counted.
    """
    if is_shown(progress):
        return _bar(what, total, unit)
    return Lines(what, total, unit) if _is_lines(progress) else _Nothing(total)


@contextmanager
def progress_bar(what: str, total: int, progress: bool | None, unit: str = ITEMS) -> Iterator[Callable[[int], object]]:
    """Show a bar while the block runs, and give it what is told of items that are done.

    Args:
        what: What goes on.
        total: How many items there are; of none there is no bar.
        progress: As `bar_of` takes it.
        unit: As `bar_of` takes it.
    """
    if not total:
        yield lambda _: None
        return
    with bar_of(what, total, progress, unit) as bar:
        yield bar.update


def progress_bar_if_slow(what: str, total: int, progress: bool | None) -> Callable[[int], None]:
    """Return what is told of items that are done, and shows a bar if that takes long; arguments as above.

    The bar goes when it was told of all items. Where nothing is told there is none.
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
    """Whether bars are shown: as `progress` says; None shows them on a terminal only."""
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
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - asked for by `plain_lines`


def _amount(count: float, unit: str, total: int = 0) -> str:
    """A count, or "1.2 of 4.0 GB"."""
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
    """A time as people read it."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    minutes = round(whole / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
