"""Time limits for requests: a server that accepts a request and never answers must not block a program forever.

SDKs limit the wait for each answer and retry several times. None of them limits the time to send a body that the server
does not read, and some file systems have no limit at all.
"""

from __future__ import annotations

from concurrent.futures import wait
from typing import TYPE_CHECKING, TypeVar

from cas_cache.storage import threads
from cas_cache.storage.failures import Unanswered

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")

PATIENCE = 20.0
"""Time limit in seconds of the first small read, with all its attempts. A server that accepts connections and never
answers blocks s3fs for 3 minutes, and gcsfs for longer."""

SMALL_BYTES = 1 << 20
"""Maximum size of a small read, such as the marker or a spec, which any connection can transfer within `PATIENCE`."""

REQUEST_SECONDS = 60.0
"""Time limit in seconds of any later request, with all its attempts, in addition to the time that its bytes take."""

SLOW_BYTES_PER_SECOND = 1 << 15
"""Minimum speed that is expected for each of the three objects that share a connection: about 1 Mbit/s together. 48 MiB
get 27 minutes."""

MAX_SECONDS = 3600.0
"""Time limit of any single request, and of a complete listing: ten million objects are 10,000 pages. SDKs limit the
wait for each page."""


def seconds_for(size: int, *, answered: bool) -> float:
    """Return the time limit of a request.

    Args:
        size: Maximum number of bytes to send or receive.
        answered: True if the storage has answered before.
    """
    if size <= SMALL_BYTES and not answered:
        return PATIENCE
    return min(REQUEST_SECONDS + size / SLOW_BYTES_PER_SECOND, MAX_SECONDS)


def in_time(call: Callable[[], _T], seconds: float) -> _T:
    """Run a function with a time limit; return its result, or raise its error.

    Raises:
        Unanswered: If it takes longer. It continues in its thread, which does not keep the process alive.
    """
    future = threads.pool().submit(call)
    if not wait([future], timeout=seconds).done:
        raise unanswered(seconds)
    try:
        return future.result()
    finally:
        del future  # the error's traceback holds this frame, and the future holds the error


def unanswered(seconds: float) -> Unanswered:
    """Return the error for a request that took too long."""
    return Unanswered(f"no answer within {seconds:,.0f} seconds")
