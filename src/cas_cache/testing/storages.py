"""Storages for tests: one in memory, and wrappers that count calls or fail.

Each policy is a wrapper, so they can be combined: ``CountingStorage(FlakyStorage(MemoryStorage()))``.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from cas_cache.errors import ObjectNotFound, RemoteUnavailable
from cas_cache.storage.interface import CREATE_ONLY, ObjectInfo, Storage, TransferStats
from cas_cache.testing.faults import Fault, FaultyStorage
from cas_cache.testing.wrapper import Verb, Wrapper

if TYPE_CHECKING:
    from collections.abc import Callable

    from cas_cache.testing.wrapper import Call


class MemoryStorage:
    """A storage in a dict, for one process.

    Attributes:
        objects: The stored objects, bytes by path. Tests may read and damage them.
    """

    def __init__(self) -> None:
        self.url = "memory"
        self.traffic = TransferStats()
        self.capabilities = frozenset({CREATE_ONLY})
        self.objects: dict[str, bytes] = {}
        self._modified: dict[str, float] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"MemoryStorage({len(self.objects)} objects)"

    def close(self) -> None:
        """See `Storage.close`."""

    def get(self, path: str, start: int, stop: int) -> bytes:
        """See `Storage.get`."""
        try:
            data = self.objects[path][start:stop]
        except KeyError as err:
            raise ObjectNotFound(f"{path} is not in {self.url}.") from err
        self.traffic.add(down=len(data))
        return data

    def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
        """See `Storage.put`."""
        with self._lock:
            if not (create_only and path in self.objects):
                self.objects[path] = bytes(data)
                self._modified[path] = time.time()
        self.traffic.add(up=len(data))

    def list(self, prefix: str) -> list[ObjectInfo]:
        """See `Storage.list`."""
        inside = f"{prefix}/" if prefix else ""
        with self._lock:
            items = sorted(item for item in self.objects.items() if item[0].startswith(inside))
        self.traffic.add()
        # An object that a test put into the dict by hand has the time 0: it is older than every other.
        return [ObjectInfo(path, len(data), self._modified.get(path, 0.0)) for path, data in items]

    def delete(self, path: str) -> None:
        """See `Storage.delete`."""
        with self._lock:
            self.objects.pop(path, None)
            self._modified.pop(path, None)
        self.traffic.add()


class CountingStorage(Wrapper):
    """Counts the calls that reach another storage.

    Attributes:
        calls: (verb, path) of every call, in order of arrival.
    """

    def __init__(self, inner: Storage) -> None:
        super().__init__(inner)
        self.calls: list[tuple[Verb, str]] = []

    def by_verb(self) -> Counter[str]:
        """Return the number of calls of each verb; 0 for a verb that was not called."""
        return Counter(verb for verb, _ in self.calls)

    def taken(self) -> list[tuple[Verb, str]]:
        """Return and clear the calls, sorted by verb and path, because concurrent calls have no order."""
        calls, self.calls = self.calls, []
        return sorted(calls)

    def _call(self, call: Call) -> Any:
        self.calls.append((call.verb, call.path))
        return call.run()


class FlakyStorage(FaultyStorage):
    """Fails at the n-th call, before or after its effect: a `FaultyStorage` with one fault.

    Args:
        inner: The storage that does the work.
        verb: The verb whose calls count; None counts all.
        at: The first call that fails, counted from 1.
        times: The number of calls that fail from then on; None for all until `mend`.
        after: Let the call take effect and lose its answer.
        error: Makes the exception from a message.
    """

    def __init__(
        self,
        inner: Storage,
        verb: Verb | None = None,
        *,
        at: int = 1,
        times: int | None = 1,
        after: bool = False,
        error: Callable[[str], Exception] = RemoteUnavailable,
    ) -> None:
        super().__init__(inner, [Fault("error-after" if after else "error", verb, at, times, error=error)])
