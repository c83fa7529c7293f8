"""The interface of a storage, four verbs, and functions that use it for many objects concurrently.

Anything that implements `Storage` can hold a repository. Policy (faults in tests, counting) is a wrapper, not a flag.
"""

from __future__ import annotations

import math
import threading
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from cas_cache.storage import threads
from cas_cache.storage.body_limits import put_object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_T = TypeVar("_T")
_R = TypeVar("_R")

CREATE_ONLY = "create_only"
"""Capability: if several writers create the same name, exactly one wins, and its bytes stay."""

PROCESSES = "processes"
"""Capability: other processes see the same objects. Only a storage in memory lacks it."""

IN_FLIGHT = 3
"""Number of objects transferred concurrently. s3fs holds sent data twice: 3 chunks of 48 MiB take 300 MB."""


@dataclass(slots=True)
class TransferStats:
    """Transferred content in bytes, and the number of requests."""

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
class ObjectInfo:
    """An object in a listing.

    Attributes:
        path: Path of the object below the root.
        size: Size in bytes.
        modified: Time of the last write in seconds since 1970, by the storage's clock; compare it only with times of
            the same storage. NaN if the storage does not say, so that every comparison is false and nothing of unknown
            age counts as old.
    """

    path: str
    size: int
    modified: float = field(default=math.nan, compare=False)


class Storage(Protocol):
    """Bytes by path below one root. Paths use forward slashes and have no ``.`` or ``..`` parts.

    A write or delete of one caller is visible to every caller at once, in reads and in listings. All methods may be
    called from many threads and, after a fork, from the child. `cas_cache.testing.StorageContract` expresses this text
    as tests.

    Attributes:
        url: URL of the root, without credentials.
        traffic: Bytes and requests transferred so far.
        capabilities: Additional guarantees, by names such as `CREATE_ONLY`. They are declared, never faked.
    """

    url: str
    traffic: TransferStats
    capabilities: frozenset[str]

    def close(self) -> None:
        """Close this process's connections. A later request opens new ones."""
        ...

    def get(self, path: str, start: int, stop: int) -> bytes:
        """Return bytes [start, stop) of an object, fewer if it ends before.

        Raises:
            ObjectNotFound: If the object does not exist.
            RemoteError: If the storage is unreachable or refuses a request.
        """
        ...

    def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
        """Write a complete object; replace an existing one.

        With `create_only`, an existing object stays if the storage has the capability `CREATE_ONLY`. Without the
        capability, the last writer may win, and while several write one name there may be a moment in which no reader
        finds it, so callers read back anything that they depend on.

        Raises:
            RemoteError: If the storage is unreachable or refuses a request.
        """
        ...

    def list(self, prefix: str) -> list[ObjectInfo]:
        """Return every object below a folder, ordered by path; an empty list if there is none.

        Raises:
            RemoteError: If the storage is unreachable or refuses a request, and always if a listing is not complete.
        """
        ...

    def delete(self, path: str) -> None:
        """Delete an object; a missing object is fine, so that a delete whose answer was lost can be repeated.

        Raises:
            RemoteError: If the storage is unreachable or refuses a request.
        """
        ...


def put_all(storage: Storage, objects: Iterable[tuple[str, Callable[[], bytes | memoryview]]]) -> None:
    """Write objects, a few concurrently, in any order. Each is built only when it is sent; none after a failure.

    Args:
        storage: The storage to write to.
        objects: (path, function that builds the content) of each object.

    Raises:
        RemoteError: If a write fails; other objects may have been written.
    """

    def put(path: str, make: Callable[[], bytes | memoryview]) -> None:
        put_object(storage, path, make())

    pool = threads.pool()
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
        # Do not wait for uploads: one can take minutes, and an unfinished upload is not an object.
        join = False
        raise
    finally:
        pool.shutdown(wait=join)


def _finish_some(running: set[Future[None]]) -> None:
    """Wait for at least one of the futures, remove those that are done, and raise the first error among them."""
    done = wait(running, return_when=FIRST_COMPLETED).done
    running -= done
    while done:
        done.pop().result()  # no variable: with its error, traceback and frame, a failed future would form a cycle


def ordered_map(function: Callable[[_T], _R], items: Sequence[_T], *, in_flight: int = IN_FLIGHT) -> Iterator[_R]:
    """Yield function(item) for each item, in order; a few are computed ahead in threads."""
    if len(items) == 1:
        yield function(items[0])
        return
    pool = threads.pool()
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
        # The generator was abandoned, perhaps by the garbage collector, which may run in any thread and under any lock:
        # waiting for other threads could then wait forever.
        join = False
        raise
    except KeyboardInterrupt:
        join = False
        raise
    finally:
        pool.shutdown(wait=join)
