"""A local directory as a storage: files are complete or absent, and the file system decides create-only.

fsspec's local file system guarantees neither, so it is not used. Somebody else who may write to the directory could
place symbolic links there: no link below it is followed, neither to read nor to write.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cas_cache.config.settings import expanded
from cas_cache.errors import AccessDenied, ConfigurationError, ObjectNotFound, RemoteUnavailable, as_cause
from cas_cache.files.disk import TEMP_PREFIX, advice, flush, links_below, make_folder, write_atomically
from cas_cache.files.file_system import missing_ability
from cas_cache.storage.interface import CREATE_ONLY, PROCESSES, ObjectInfo, TransferStats

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ATTEMPTS = 10
"""Maximum number of attempts of a write whose folder is removed by a concurrent delete before the file is in it. Each
attempt needs a delete in that very moment."""


class LocalStorage:
    """A local directory: files are complete or absent, and the file system decides create-only."""

    def __init__(self, directory: str) -> None:
        self._root = expanded(directory).absolute()
        self.url = str(self._root)
        self.traffic = TransferStats()
        self._durable: set[Path] = set()
        self._checked = False
        self.capabilities = frozenset({CREATE_ONLY, PROCESSES})

    def __repr__(self) -> str:
        return f"LocalStorage({self.url!r})"

    def close(self) -> None:
        """See `Storage.close`: no file stays open between calls."""

    def check_file_system(self) -> None:
        """Raise an error for a directory to which nothing can be published; checked once.

        Raises:
            ConfigurationError: If the file system lacks an ability that a repository needs.
        """
        if self._checked:
            return
        folder = next(path for path in (self._root, *self._root.parents) if path.is_dir())
        # A push reports a full disk or a missing permission; rows are pending until then.
        with suppress(OSError):
            missing = missing_ability(folder, in_place=False)
            if missing:
                raise ConfigurationError(
                    f"{self.url} cannot hold a repository: its file system {missing}. Name another directory."
                )
        self._checked = True

    def get(self, path: str, start: int, stop: int) -> bytes:
        """See `Storage.get`."""
        self._refuse_links(path)
        with self._translated(path), (self._root / path).open("rb") as file:
            # At most the size of the file: Python allocates the requested size, and a manifest can name any size.
            size = os.fstat(file.fileno()).st_size
            file.seek(start)
            data = file.read(max(0, min(stop, size) - start))
        self.traffic.add(down=len(data))
        return data

    def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
        """See `Storage.put`."""
        self._refuse_links(path)
        if create_only:  # only the first object of a repository is written so
            self.check_file_system()
        with self._translated(path):
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    self._make_folder((self._root / path).parent)
                    write_atomically(self._root / path, data, create_only=create_only)
                    break
                except FileNotFoundError as err:
                    self._durable.clear()
                    if attempt == ATTEMPTS:
                        raise RemoteUnavailable(
                            f"{self.url} could not be created ({err}). Name another directory."
                        ) from as_cause(err)
        self.traffic.add(up=len(data))

    def list(self, prefix: str) -> list[ObjectInfo]:
        """See `Storage.list`."""
        entries: list[ObjectInfo] = []
        self._refuse_links(prefix)
        with self._translated(prefix):
            if prefix and (self._root / prefix).is_file():
                return []  # an object is not a folder
            # Without `onerror`, os.walk skips folders that it cannot read.
            for folder, _, names in os.walk(self._root / prefix, onerror=_raise_unless_missing):
                for name in names:
                    if not name.startswith(TEMP_PREFIX):
                        entries.extend(self._entry_of(Path(folder, name)))
        self.traffic.add()
        return sorted(entries, key=lambda listed: listed.path)

    def delete(self, path: str) -> None:
        """See `Storage.delete`. Also removes folders that become empty, because objects have no folders."""
        file = self._root / path
        self._refuse_links(path, itself=False)
        with self._translated(path), suppress(FileNotFoundError):
            file.unlink()
            flush(file.parent)
            # A `put` whose folder is removed here creates it again.
            for folder in file.parents:
                if folder == self._root or not _removed(folder):
                    break
        self.traffic.add()

    def _make_folder(self, folder: Path) -> None:
        """Create a folder durably, once: the name of an object is lost if the name of its folder is."""
        if folder not in self._durable:
            make_folder(folder, below=self._root)
            self._durable.add(folder)

    def _entry_of(self, file: Path) -> Iterable[ObjectInfo]:
        try:
            status = file.lstat()
            return (ObjectInfo(file.relative_to(self._root).as_posix(), status.st_size, status.st_mtime),)
        except FileNotFoundError:
            return ()  # deleted since the folder was read

    def _refuse_links(self, path: str, *, itself: bool = True) -> None:
        """Raise an error for a path that leads elsewhere. With `itself` False, the path itself may be a link."""
        if path and {"", ".", ".."} & set(path.split("/")):
            # `layout` builds no such path, so this finds a programming error.
            msg = f"{path!r} is not a path below {self.url}"
            raise ValueError(msg)
        checked = path if itself else path.rpartition("/")[0]
        with self._translated(path):
            link = links_below(self._root, checked) if checked else None
        if link is not None:
            raise AccessDenied(
                f"{link} is a symbolic link. Links in a repository are not followed: nothing was read or written "
                "there. cas_cache makes none: find out who did, and delete it. To have a repository elsewhere, name "
                "that directory, or a link to the whole of it."
            )

    @contextmanager
    def _translated(self, path: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as err:
            raise ObjectNotFound(f"{path} is not in {self.url}.") from as_cause(err)
        except PermissionError as err:
            raise AccessDenied(f"{self.url}: no permission for {path}. Check who owns the directory.") from as_cause(
                err
            )
        except OSError as err:
            if err.errno == errno.EROFS:
                raise AccessDenied(
                    f"{self.url} is on a file system that may only be read ({err}). Name another directory, or read "
                    "it with read_only=True (CAS_CACHE_READ_ONLY=1)."
                ) from as_cause(err)
            raise RemoteUnavailable(f"{self.url}: {_error_text(err, path)}") from as_cause(err)


def _error_text(err: OSError, path: str) -> str:
    """Return what happened, and what to do."""
    if err.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({err}). Make room and do the same again: it goes on."
    if err.errno in (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP):
        return f"the file system cannot do what a repository needs ({err}). Name another directory."
    if isinstance(err, NotADirectoryError | FileExistsError):
        return f"a file is where a directory should be ({err}). Name a directory for the repository."
    return f"{path} could not be read or written ({err}). {advice(err)}, then do the same again: it goes on."


def _removed(folder: Path) -> bool:
    """Return True if a folder was empty and is removed."""
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


def _raise_unless_missing(err: OSError) -> None:
    if not isinstance(err, FileNotFoundError):
        raise err
