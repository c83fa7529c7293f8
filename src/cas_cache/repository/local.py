"""A local directory as a storage: files are whole or absent, and create-only is decided by the file system.

fsspec's local file system promises neither, which is why this one does not use it.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cas_cache.disk import TEMP_PREFIX, write_atomically
from cas_cache.errors import AccessDenied, ObjectNotFound, RemoteUnavailable
from cas_cache.repository.interface import Listed, Traffic

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class LocalStorage:
    """A local directory: files are whole or absent, and create-only is decided by the file system."""

    def __init__(self, directory: str) -> None:
        self._root = Path(directory).expanduser().absolute()
        self.url = str(self._root)
        self.traffic = Traffic()

    def __repr__(self) -> str:
        return f"LocalStorage({self.url!r})"

    def get(self, path: str, start: int, stop: int) -> bytes:
        """See `Storage.get`."""
        with self._translated(path), (self._root / path).open("rb") as file:
            # Never more than there is: a buffer is made for what is asked for, and a manifest can name any size.
            size = os.fstat(file.fileno()).st_size
            file.seek(start)
            data = file.read(max(0, min(stop, size) - start))
        self.traffic.add(down=len(data))
        return data

    def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
        """See `Storage.put`."""
        with self._translated(path):
            (self._root / path).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._root / path, data, create_only=create_only)
        self.traffic.add(up=len(data))

    def list(self, prefix: str) -> list[Listed]:
        """See `Storage.list`."""
        found: list[Listed] = []
        with self._translated(prefix):
            # os.walk passes over folders it cannot read unless told otherwise.
            for folder, _, names in os.walk(self._root / prefix, onerror=_raise_unless_missing):
                for name in names:
                    if not name.startswith(TEMP_PREFIX):
                        found.extend(self._listed(Path(folder, name)))
        self.traffic.add()
        return sorted(found, key=lambda listed: listed.path)

    def _listed(self, file: Path) -> Iterable[Listed]:
        try:
            return (Listed(file.relative_to(self._root).as_posix(), file.stat().st_size),)
        except FileNotFoundError:
            return ()  # deleted since the folder was read

    @contextmanager
    def _translated(self, path: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as err:
            raise ObjectNotFound(f"{path} is not in {self.url}.") from err
        except PermissionError as err:
            raise AccessDenied(f"{self.url}: no permission for {path}. Check who owns the directory.") from err
        except OSError as err:
            raise RemoteUnavailable(f"{self.url}: {path} could not be read or written ({err}).") from err


def _raise_unless_missing(err: OSError) -> None:
    if not isinstance(err, FileNotFoundError):
        raise err
