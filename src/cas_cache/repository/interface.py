"""What a storage is: four verbs, and how to use it for many objects at a time.

Whoever implements `Storage` can hold a repository. Policy (faults in tests, counting) is a wrapper, not a flag.
"""

from __future__ import annotations

import math
import threading
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from cas_cache import threads
from cas_cache.repository.body_limits import put_object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_T = TypeVar("_T")
_R = TypeVar("_R")

CREATE_ONLY = "create_only"
"""Capability: of any number of writers that create one name, exactly one wins, and its bytes stay."""

PROCESSES = "processes"
"""Capability: other processes see the same objects. Only a storage in memory lacks it."""

IN_FLIGHT = 3
"""Objects on their way at once. s3fs holds what it sends twice: 3 chunks of 48 MiB are 300 MB."""


@dataclass(slots=True)
class Traffic:
    """What went over the wire, in bytes of content and in requests."""

    up: int = 0
    down: int = 0
    requests: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, *, up: int = 0, down: int = 0) -> None:
        """Count one request."""
        with self._lock:
            self.up += up
            self.down += down
            self.requests += 1


@dataclass(frozen=True, slots=True)
class Listed:
    """An object in a listing.

    Attributes:
        path: Its path below the root.
        size: In bytes.
        modified: When it was last written, in seconds since 1970, by the clock of the storage: only to be compared with
            times of the same storage. NaN where the storage does not say, so that every comparison is false and nothing
            of unknown age counts as old.
    """

    path: str
    size: int
    modified: float = field(default=math.nan, compare=False)


class Storage(Protocol):
    """Bytes by path below one root. Paths have forward slashes and no dots of their own.

    What one caller wrote or deleted, every caller sees at once, in reads and in listings. All methods may be called
    from many threads and, after a fork, from the child. `cas_cache.testing.StorageContract` is this text as tests.

    Attributes:
        url: Where it is, without credentials.
        traffic: What went over the wire so far.
        capabilities: What it can do beyond that: names such as `CREATE_ONLY`. Declared, never faked.
    """

    url: str
    traffic: Traffic
    capabilities: frozenset[str]

    def close(self) -> None:
        """Close this process's connections. A later request opens new ones."""
        ...

    def get(self, path: str, start: int, stop: int) -> bytes:
        """Return bytes [start, stop) of an object, fewer if it ends before.

        Raises:
            ObjectNotFound: If there is no such object.
            RemoteError: If the storage is away or refuses.
        """
        ...

    def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
        """Write an object whole, over any that is there.

        With `create_only` an object that is there stays, where the storage has the capability `CREATE_ONLY`; elsewhere
        the last writer may win, and while several write one name there may be a moment in which nobody finds it, so
        callers read back what they need to be sure of.

        Raises:
            RemoteError: If the storage is away or refuses.
        """
        ...

    def list(self, prefix: str) -> list[Listed]:
        """Return every object below a folder, in order of paths; an empty list if there is none.

        Raises:
            RemoteError: If the storage is away or refuses, and always when a listing is not complete.
        """
        ...

    def delete(self, path: str) -> None:
        """Delete an object; that it is not there is fine, so a delete whose answer was lost can be repeated.

        Raises:
            RemoteError: If the storage is away or refuses.
        """
        ...


def put_all(storage: Storage, objects: Iterable[tuple[str, Callable[[], bytes | memoryview]]]) -> None:
    """Write objects, a few at a time, in no order; each is made only when its turn comes, none after one has failed.

    Args:
        storage: Where to.
        objects: (path, how to make the content).

    Raises:
        RemoteError: If one fails; others may have been written.
    """

    def put(path: str, make: Callable[[], bytes | memoryview]) -> None:
        put_object(storage, path, make())

    pool = threads.pool(IN_FLIGHT)
    running: set[Future[None]] = set()
    join = True
    try:
        for path, make in objects:
            if len(running) == IN_FLIGHT:
                _finish_some(running)
            running.add(pool.submit(put, path, make))
        while running:
            _finish_some(running)
    except KeyboardInterrupt:
        # Whoever stops does not wait for what is on its way: an upload can take minutes, and half of one is no object.
        join = False
        raise
    finally:
        pool.shutdown(wait=join, cancel_futures=not join)


def _finish_some(running: set[Future[None]]) -> None:
    """Wait for at least one of the futures, remove those that are done, and raise the first error among them."""
    done = wait(running, return_when=FIRST_COMPLETED).done
    running -= done
    while done:
        done.pop().result()  # held by a variable, a failed future would be a cycle: future, error, traceback, frame


def in_order(function: Callable[[_T], _R], items: Sequence[_T], *, in_flight: int = IN_FLIGHT) -> Iterator[_R]:
    """Yield function(item) for each item, in order, with a few computed ahead in threads."""
    if len(items) == 1:
        yield function(items[0])
        return
    pool = threads.pool(in_flight)
    join = True
    try:
        ahead = [pool.submit(function, item) for item in items[:in_flight]]
        for position in range(len(items)):
            result = ahead.pop(0).result()
            following = position + in_flight
            if following < len(items):
                ahead.append(pool.submit(function, items[following]))
            yield result
    except GeneratorExit:
        # Left before its end, perhaps by the garbage collector, which may run in any thread and under any lock: to
        # wait for other threads there is to wait for ever.
        join = False
        raise
    except KeyboardInterrupt:
        join = False
        raise
    finally:
        pool.shutdown(wait=join, cancel_futures=True)
