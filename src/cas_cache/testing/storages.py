"""Storages for tests: one in memory, and wrappers that count and that fail.

Policy is a wrapper, so it composes: ``CountingStorage(FlakyStorage(MemoryStorage()))``.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Literal, TypeVar

from cas_cache.errors import ObjectNotFound, RemoteUnavailable
from cas_cache.repository.interface import CREATE_ONLY, Listed, Storage, Traffic

if TYPE_CHECKING:
    from collections.abc import Callable

Verb = Literal["get", "put", "list", "delete"]

_T = TypeVar("_T")


class MemoryStorage:
    """A dict as a storage, for one process.

    Attributes:
        objects: What it holds, to look at and to damage: bytes by path.
    """

    def __init__(self) -> None:
        self.url = "memory"
        self.traffic = Traffic()
        self.capabilities = frozenset({CREATE_ONLY})
        self.objects: dict[str, bytes] = {}
        self._modified: dict[str, float] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"MemoryStorage({len(self.objects)} objects)"

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

    def list(self, prefix: str) -> list[Listed]:
        """See `Storage.list`."""
        inside = f"{prefix}/" if prefix else ""
        with self._lock:
            found = sorted(item for item in self.objects.items() if item[0].startswith(inside))
        self.traffic.add()
        # What a test put into the dict by hand was always there.
        return [Listed(path, len(data), self._modified.get(path, 0.0)) for path, data in found]

    def delete(self, path: str) -> None:
        """See `Storage.delete`."""
        with self._lock:
            self.objects.pop(path, None)
            self._modified.pop(path, None)
        self.traffic.add()


class CountingStorage:
    """Counts the calls that reach another storage.

    Attributes:
        calls: (verb, path) of every call, in order of arrival.
    """

    def __init__(self, inner: Storage) -> None:
        self.inner = inner
        self.url = inner.url
        self.traffic = inner.traffic
        self.capabilities = inner.capabilities
        self.calls: list[tuple[Verb, str]] = []

    def __repr__(self) -> str:
        return f"CountingStorage({self.inner!r})"

    def by_verb(self) -> Counter[str]:
        """Return how many calls there were of each verb; of one that was not called, 0."""
        return Counter(verb for verb, _ in self.calls)

    def taken(self) -> list[tuple[Verb, str]]:
        """Return the calls since the last time, in order of verb and path: concurrent calls have no order."""
        calls, self.calls = self.calls, []
        return sorted(calls)

    def get(self, path: str, start: int, stop: int) -> bytes:
        """See `Storage.get`."""
        self.calls.append(("get", path))
        return self.inner.get(path, start, stop)

    def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
        """See `Storage.put`."""
        self.calls.append(("put", path))
        self.inner.put(path, data, create_only=create_only)

    def list(self, prefix: str) -> list[Listed]:
        """See `Storage.list`."""
        self.calls.append(("list", prefix))
        return self.inner.list(prefix)

    def delete(self, path: str) -> None:
        """See `Storage.delete`."""
        self.calls.append(("delete", path))
        self.inner.delete(path)


class FlakyStorage:
    """Fails at the n-th call, before or after its effect.

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
        self.inner = inner
        self.url = inner.url
        self.traffic = inner.traffic
        self.capabilities = inner.capabilities
        self._verb, self._at, self._times, self._after, self._error = verb, at, times, after, error
        self._mended = False
        self._count = 0
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"FlakyStorage({self.inner!r})"

    def mend(self) -> None:
        """Fail no more."""
        self._mended = True

    def get(self, path: str, start: int, stop: int) -> bytes:
        """See `Storage.get`."""
        return self._call("get", path, lambda: self.inner.get(path, start, stop))

    def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
        """See `Storage.put`."""
        self._call("put", path, lambda: self.inner.put(path, data, create_only=create_only))

    def list(self, prefix: str) -> list[Listed]:
        """See `Storage.list`."""
        return self._call("list", prefix, lambda: self.inner.list(prefix))

    def delete(self, path: str) -> None:
        """See `Storage.delete`."""
        self._call("delete", path, lambda: self.inner.delete(path))

    def _call(self, verb: Verb, path: str, call: Callable[[], _T]) -> _T:
        fails = self._fails(verb)
        if fails and not self._after:
            raise self._error(f"no answer to {verb} {path}: not done")
        result = call()
        if fails:
            raise self._error(f"no answer to {verb} {path}: done")
        return result

    def _fails(self, verb: Verb) -> bool:
        """Whether this call is one that fails."""
        if self._mended or self._verb not in {None, verb}:
            return False
        with self._lock:
            self._count += 1
            return self._count >= self._at and (self._times is None or self._count < self._at + self._times)
