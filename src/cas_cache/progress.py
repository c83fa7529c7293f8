"""Progress bars that count items; those of pushes and pulls count bytes, see `cas_cache.sync.report`.

tqdm is imported by the first that is shown: importing it takes longer than most look-ups.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tqdm import tqdm

SLOW_SECONDS = 1.0
"""A look-up that takes longer shows a bar: that of 100,000 texts takes less."""


@contextmanager
def counting(what: str, total: int, progress: bool | None) -> Iterator[Callable[[int], object]]:
    """Show a bar while the block runs, and give it what is told of items that are done.

    Args:
        what: What goes on.
        total: How many items there are; of none there is no bar.
        progress: Whether to show it; None shows it on a terminal only.
    """
    if not (total and _is_shown(progress)):
        yield lambda _: None
        return
    with _bar(what, total) as bar:
        yield bar.update


def counting_if_slow(what: str, total: int, progress: bool | None) -> Callable[[int], None]:
    """Return what is told of items that are done, and shows a bar if that takes long; arguments as above.

    The bar goes when it was told of all items. Where nothing is told there is none.
    """
    bar: tqdm[Any] | None = None

    def tell(items: int) -> None:
        nonlocal bar
        if not _is_shown(progress):
            return
        if bar is None:
            bar = _bar(what, total, SLOW_SECONDS)
        bar.update(items)
        if bar.n >= total:
            bar.close()

    return tell


def _is_shown(progress: bool | None) -> bool:
    if progress is None:
        return sys.stderr is not None and sys.stderr.isatty()
    return progress


def _bar(what: str, total: int, delay: float = 0.0) -> tqdm[Any]:
    from tqdm import tqdm

    return tqdm(desc=what, total=total, unit=" items", leave=False, delay=delay)
