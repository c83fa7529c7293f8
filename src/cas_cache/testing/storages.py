"""Storages for tests: one in memory, and wrappers that count or delay calls.

Each policy is a wrapper, so they can be combined: ``CountingStorage(FlakyStorage(MemoryStorage()))``.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cas_cache.errors import ObjectNotFound
from cas_cache.storage.interface import CREATE_ONLY, ObjectInfo, Storage, TransferStats

if TYPE_CHECKING:
    from collections.abc import Callable

Verb = Literal["get", "put", "list", "delete"]
"""Verbs of a storage."""


@dataclass(frozen=True, slots=True)
class StorageCall:
    """One call of a storage.

    Attributes:
        verb: The verb.
        path: The path of the object, or of the listed folder.
        run: Calls the wrapped storage and returns its result.
        start: The first byte that is read.
        stop: The end of the bytes that are read or written.
        create_only: See `Storage.put`.
    """

    verb: Verb
    path: str
    run: Callable[[], Any]
    start: int = 0
    stop: int = 0
    create_only: bool = False


class WrappedStorage:
    """A storage around another; every call passes through `_call`.

    Attributes:
        inner: The storage that does the work.
    """

    def __init__(self, inner: Storage) -> None:
        self.inner = inner
        self.url = inner.url
        self.traffic = inner.traffic
        self.capabilities = inner.capabilities

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.inner!r})"

    def close(self) -> None:
        """See `Storage.close`."""
        self.inner.close()

    def get(self, path: str, start: int, stop: int) -> bytes:
        """See `Storage.get`."""
        data: bytes = self._call(StorageCall("get", path, lambda: self.inner.get(path, start, stop), start, stop))
        return data

    def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
        """See `Storage.put`."""

        def run() -> None:
            self.inner.put(path, data, create_only=create_only)

        self._call(StorageCall("put", path, run, stop=len(data), create_only=create_only))

    def list(self, prefix: str) -> list[ObjectInfo]:
        """See `Storage.list`."""
        entries: list[ObjectInfo] = self._call(StorageCall("list", prefix, lambda: self.inner.list(prefix)))
        return entries

    def delete(self, path: str) -> None:
        """See `Storage.delete`."""
        self._call(StorageCall("delete", path, lambda: self.inner.delete(path)))

    def _call(self, call: StorageCall) -> Any:
        """Run a call, or do something else in its place; return what the verb returns."""
        return call.run()


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


class CountingStorage(WrappedStorage):
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

    def _call(self, call: StorageCall) -> Any:
        self.calls.append((call.verb, call.path))
        return call.run()


class LatencyStorage(WrappedStorage):
    """Delays every call of another storage. Calls of several threads wait in parallel.

    Args:
        inner: The storage that does the work.
        seconds: The delay of each call.
        seconds_of_a_byte: The additional delay per byte read or written: 1e-7 is 10 MB/s.
        sleep: The function that waits. With a function that moves a clock, no time passes, and `waited` holds the sum.

    Attributes:
        waited: The total delay of all calls so far, in seconds.
    """

    def __init__(
        self,
        inner: Storage,
        seconds: float = 0.0,
        seconds_of_a_byte: float = 0.0,
        *,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        super().__init__(inner)
        self.waited = 0.0
        self._seconds, self._of_a_byte, self._sleep = seconds, seconds_of_a_byte, sleep
        self._lock = threading.Lock()

    def _call(self, call: StorageCall) -> Any:
        self._wait(self._seconds + (call.stop * self._of_a_byte if call.verb == "put" else 0.0))
        answer = call.run()
        if call.verb == "get":
            self._wait(len(answer) * self._of_a_byte)
        return answer

    def _wait(self, seconds: float) -> None:
        if seconds > 0:
            self._sleep(seconds)
            with self._lock:
                self.waited += seconds
