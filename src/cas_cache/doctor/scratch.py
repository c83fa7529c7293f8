"""A folder of one's own below a repository's root, in which a trial writes, and which it leaves as it was."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cas_cache.errors import AccessDenied, RemoteError
from cas_cache.repository.layout import SCRATCH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from cas_cache.repository.interface import Listed, Storage

DELETERS = 16
ROUNDS = 3
"""Listings and deletes before a scratch folder is given up."""


class Below:
    """A folder of a storage as a storage of its own.

    Attributes:
        refused: The last verb that was refused; empty if none was.
    """

    def __init__(self, inner: Storage, folder: str) -> None:
        self.inner = inner
        self.url = f"{inner.url}/{folder}"
        self.traffic = inner.traffic
        self.capabilities = inner.capabilities
        self.refused = ""
        self._folder = folder

    def __repr__(self) -> str:
        return f"Below({self.inner!r}, {self._folder!r})"

    def close(self) -> None:
        """See `Storage.close`."""
        self.inner.close()

    def get(self, path: str, start: int, stop: int) -> bytes:
        """See `Storage.get`."""
        with self._noted("get"):
            return self.inner.get(f"{self._folder}/{path}", start, stop)

    def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
        """See `Storage.put`."""
        with self._noted("put"):
            self.inner.put(f"{self._folder}/{path}", data, create_only=create_only)

    def list(self, prefix: str) -> list[Listed]:
        """See `Storage.list`."""
        with self._noted("list"):
            listed = self.inner.list(f"{self._folder}/{prefix}".rstrip("/"))
        return [replace(entry, path=entry.path.removeprefix(f"{self._folder}/")) for entry in listed]

    def delete(self, path: str) -> None:
        """See `Storage.delete`."""
        with self._noted("delete"):
            self.inner.delete(f"{self._folder}/{path}")

    @contextmanager
    def _noted(self, verb: str) -> Iterator[None]:
        try:
            yield
        except AccessDenied:
            self.refused = verb
            raise


@dataclass(frozen=True)
class Scratch:
    """Opens a folder of a storage, anew at each call; can be sent to other processes if the opener can.

    Attributes:
        opener: Opens the storage.
        folder: Below its root.
    """

    opener: Callable[[], Storage]
    folder: str

    @classmethod
    def fresh(cls, opener: Callable[[], Storage]) -> Scratch:
        """Return a folder that nobody else has."""
        return cls(opener, f"{SCRATCH}/{secrets.token_hex(16)}")

    def __call__(self) -> Below:
        """Open it."""
        return Below(self.opener(), self.folder)

    def below(self, name: str) -> Scratch:
        """Return a folder in this one."""
        return Scratch(self.opener, f"{self.folder}/{name}")

    def clean(self, known: Iterable[str]) -> tuple[int, str]:
        """Delete every object in the folder.

        Args:
            known: Paths that may have been written, to be deleted whether they are listed or not.

        Returns:
            How many objects are left, -1 if that cannot be seen; and why.
        """
        reason = ""
        try:
            storage = self()
            _delete(storage, list(known))
            for _ in range(ROUNDS):
                listed = [entry.path for entry in storage.list("")]
                if not listed:
                    return 0, ""
                _delete(storage, listed)
        except RemoteError as err:
            reason = str(err)
        try:
            return len(self().list("")), reason or "DELETE does not delete"
        except RemoteError as err:
            return -1, reason or str(err)


def _delete(storage: Storage, paths: list[str]) -> None:
    with ThreadPoolExecutor(DELETERS) as pool:
        list(pool.map(storage.delete, paths))
