"""A private folder below a repository's root, in which a trial writes and cleans up."""

from __future__ import annotations

import functools
import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cas_cache.errors import AccessDenied, ObjectNotFound, RemoteError
from cas_cache.format.layout import SCRATCH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cas_cache.storage.interface import ObjectInfo, Storage

DELETERS = 16
ROUNDS = 3
"""Number of rounds of listing and deleting before the clean-up of a scratch folder is given up."""


class Below:
    """A folder of a storage as a storage of its own.

    Args:
        inner: The storage.
        folder: The path of the folder below the storage's root.
        scratch: The scratch folder that records what is written and refused.
    """

    def __init__(self, inner: Storage, folder: str, scratch: Scratch) -> None:
        self.inner = inner
        self.url = f"{inner.url}/{folder}"
        self.traffic = inner.traffic
        self.capabilities = inner.capabilities
        self._folder = folder
        self._scratch = scratch

    def __repr__(self) -> str:
        return f"Below({self.inner!r}, {self._folder!r})"

    def close(self) -> None:
        """See `Storage.close`."""
        self.inner.close()

    def get(self, path: str, start: int, stop: int) -> bytes:
        """See `Storage.get`."""
        path = f"{self._folder}/{path}"
        with self._record_refusal("get" if path in self._scratch.written else "missing"):
            return self.inner.get(path, start, stop)

    def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
        """See `Storage.put`."""
        path = f"{self._folder}/{path}"
        verb = "overwrite" if path in self._scratch.written else "put"
        self._scratch.written.add(path)
        with self._record_refusal(verb):
            self.inner.put(path, data, create_only=create_only)

    def list(self, prefix: str) -> list[ObjectInfo]:
        """See `Storage.list`."""
        with self._record_refusal("list"):
            listed = self.inner.list(f"{self._folder}/{prefix}".rstrip("/"))
        return [replace(entry, path=entry.path.removeprefix(f"{self._folder}/")) for entry in listed]

    def delete(self, path: str) -> None:
        """See `Storage.delete`."""
        with self._record_refusal("delete"):
            self.inner.delete(f"{self._folder}/{path}")
        self._scratch.written.discard(f"{self._folder}/{path}")

    @contextmanager
    def _record_refusal(self, verb: str) -> Iterator[None]:
        try:
            yield
        except AccessDenied:
            self._scratch.refused.append(verb)
            raise


@dataclass(frozen=True)
class Scratch:
    """Opens a folder of a storage, again at each call; can be sent to other processes if the opener can.

    Attributes:
        opener: Opens the storage.
        folder: The path of the folder below the storage's root.
        written: Objects that this process wrote and did not delete. Only a listing shows those of other processes.
        refused: The requests that were refused: get, missing (of an object that does not exist), put, overwrite, list,
            delete.
    """

    opener: Callable[[], Storage]
    folder: str
    written: set[str] = field(default_factory=set, compare=False)
    refused: list[str] = field(default_factory=list, compare=False)

    @classmethod
    def fresh(cls, opener: Callable[[], Storage]) -> Scratch:
        """Return a folder with a random name, which is used by no other process."""
        return cls(opener, f"{SCRATCH}/{secrets.token_hex(16)}")

    def __call__(self) -> Below:
        """Open the folder."""
        return Below(self.opener(), self.folder, self)

    def below(self, name: str) -> Scratch:
        """Return a folder in this one."""
        return Scratch(self.opener, f"{self.folder}/{name}", self.written, self.refused)

    def clean(self) -> tuple[int, str]:
        """Delete every object that this process wrote, by its name, and then all that a listing shows.

        Returns:
            The number of objects that can still be read, or -1 if that is unknown; and the reason.
        """
        reason, listed = "", []
        storage = self.opener()
        try:
            _delete(storage, sorted(self.written))
            for _ in range(ROUNDS):
                listed = [entry.path for entry in storage.list(self.folder)]
                if not listed:
                    return 0, ""
                _delete(storage, listed)
        except RemoteError as err:
            reason = str(err)
        try:
            # Read by name, because a listing may fail or still show deleted objects.
            with ThreadPoolExecutor(DELETERS) as pool:
                remaining = sum(pool.map(functools.partial(_exists, storage), self.written.union(listed)))
        except RemoteError as err:
            return -1, reason or str(err)
        return remaining, reason or ("DELETE does not delete" if remaining else "it still shows what was deleted")


def _exists(storage: Storage, path: str) -> bool:
    try:
        storage.get(path, 0, 1)
    except ObjectNotFound:
        return False
    return True


def _delete(storage: Storage, paths: list[str]) -> None:
    with ThreadPoolExecutor(DELETERS) as pool:
        list(pool.map(storage.delete, paths))
