"""Many objects at a time: in order, a few ahead, and left at any moment."""

import subprocess
import sys
import threading

import pytest

from cas_cache.storage.threads import IN_FLIGHT, ordered_map

ABANDONED = """
import contextlib, threading
from cas_cache.storage.threads import ordered_map
left = ordered_map(lambda item: item, list(range(10)))
next(left)
with getattr(threading, "_shutdown_locks_lock", contextlib.nullcontext()):
    left.close()
print("closed")
"""


def test_results_come_in_order_with_a_few_ahead() -> None:
    """However long each takes; never more than a few are begun that nobody has asked for."""
    begun: list[int] = []
    gate = threading.Event()

    def slow_first(item: int) -> int:
        begun.append(item)
        if item == 0:
            gate.wait(10)
        return item

    results = ordered_map(slow_first, list(range(20)))
    threading.Timer(0.05, gate.set).start()
    assert next(results) == 0
    assert len(begun) <= IN_FLIGHT + 1
    assert list(results) == list(range(1, 20))


def test_an_error_is_raised_where_its_item_stands() -> None:
    """What came before it is given out."""
    seen = []
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - what comes before is the point
        for result in ordered_map(lambda item: 1 // (3 - item), list(range(9))):
            seen.append(result)  # noqa: PERF402 - a comprehension would lose what came before
    assert len(seen) == 3


def test_one_that_is_left_never_waits() -> None:
    """The garbage collector ends it in any thread, also in one that holds the lock which ending threads want."""
    done = subprocess.run([sys.executable, "-c", ABANDONED], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "closed\n"
