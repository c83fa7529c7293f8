"""Base class of storages that wrap another one to change its behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from cas_cache.storage.interface import ObjectInfo, Storage

Verb = Literal["get", "put", "list", "delete"]
"""Verbs of a storage."""


@dataclass(frozen=True, slots=True)
class Call:
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


class Wrapper:
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
        data: bytes = self._call(Call("get", path, lambda: self.inner.get(path, start, stop), start, stop))
        return data

    def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
        """See `Storage.put`."""

        def run() -> None:
            self.inner.put(path, data, create_only=create_only)

        self._call(Call("put", path, run, stop=len(data), create_only=create_only))

    def list(self, prefix: str) -> list[ObjectInfo]:
        """See `Storage.list`."""
        entries: list[ObjectInfo] = self._call(Call("list", prefix, lambda: self.inner.list(prefix)))
        return entries

    def delete(self, path: str) -> None:
        """See `Storage.delete`."""
        self._call(Call("delete", path, lambda: self.inner.delete(path)))

    def _call(self, call: Call) -> Any:
        """Run a call, or do something else in its place; return what the verb returns."""
        return call.run()
