"""Storages for tests: one in memory, and wrappers that count and that fail.

Policy is a wrapper, so it composes: ``CountingStorage(FlakyStorage(MemoryStorage()))``.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from cas_cache.errors import ObjectNotFound, RemoteUnavailable
from cas_cache.repository.interface import CREATE_ONLY, ObjectInfo, Storage, TransferStats
from cas_cache.testing.faults import Fault, FaultyStorage
from cas_cache.testing.wrapper import Verb, Wrapper

if TYPE_CHECKING:
    from collections.abc import Callable

    from cas_cache.testing.wrapper import Call


class MemoryStorage:
    """A dict as a storage, for one process.

    Attributes:
        objects: What it holds, to look at and to damage: bytes by path.
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
        # What a test put into the dict by hand was always there.
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
        """Return how many calls there were of each verb; of one that was not called, 0."""
        return Counter(verb for verb, _ in self.calls)

    def taken(self) -> list[tuple[Verb, str]]:
        """Return the calls since the last time, in order of verb and path: concurrent calls have no order."""
        calls, self.calls = self.calls, []
        return sorted(calls)

    def _call(self, call: Call) -> Any:
        self.calls.append((call.verb, call.path))
        return call.run()


class FlakyStorage(FaultyStorage):
    """Fails at the n-th call, before or after its effect: a `FaultyStorage` with one fault.

    Args:
        inner: The storage that does the work.
        verb: Which calls count; None counts all.
        at: The first call that fails, counted from 1.
        times: How many calls fail from there on; None is until `mend`.
        after: Let the call do its work and lose the answer.
        error: Makes what is raised, from a message.
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
