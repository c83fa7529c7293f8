"""The interface of a storage: four verbs.

Anything that implements `Storage` can hold a repository. Policy (faults in tests, counting) is a wrapper, not a flag.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from typing import Protocol

CREATE_ONLY = "create_only"
"""Capability: if several writers create the same name, exactly one wins, and its bytes stay."""

PROCESSES = "processes"
"""Capability: other processes see the same objects. Only a storage in memory lacks it."""


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
