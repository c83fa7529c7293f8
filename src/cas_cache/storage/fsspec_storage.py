"""Bytes by path, on fsspec file systems that can list, write and delete. Knows nothing of packs.

Adds to fsspec: errors with advice; private instances without listing caches (a cached listing reports files of other
writers as absent), which are opened again after a fork; one request per read (no HEAD before the GET); and a count of
transferred bytes. A failed listing is never taken for an empty one. Only this module, `filesystems` and `listings` use
fsspec.
"""

from __future__ import annotations

import os
import threading
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from cas_cache.config.urls import EXTRAS, LOCAL, check_url, is_url, without_credentials
from cas_cache.errors import CasCacheError, ConfigurationError, InvalidURL, RemoteUnavailable, as_cause
from cas_cache.storage.codes import (
    EXISTS_ALREADY,
    NO_BUCKET,
    NO_CONDITIONS,
    NO_FOLDER,
    Doing,
    causes_of,
    codes_of,
)
from cas_cache.storage.failures import WHEN_REQUIRED, Unanswered, error_of
from cas_cache.storage.filesystems import all_secrets, check_options, open_filesystem
from cas_cache.storage.interface import CREATE_ONLY, PROCESSES, ObjectInfo, Storage, TransferStats
from cas_cache.storage.listings import TEMPORARY, files_below, modified
from cas_cache.storage.local import LocalStorage
from cas_cache.storage.redaction import first_line, without_secrets, without_signatures
from cas_cache.storage.threads import in_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


_T = TypeVar("_T")

CONCURRENT = {"memory", "webdav", "dav"}
"""File systems without asyncio that several threads may use. Over one connection of paramiko, a thread takes the answer
that another thread waits for."""

RENAMING = {"sftp", "ssh"}
"""File systems that replace a file by renaming another: readers see the old bytes or the new ones, never a mixture."""


PATIENCE = 20.0
"""Time limit in seconds of the first small read, with all its attempts. A server that accepts connections and never
answers blocks s3fs for 3 minutes, and gcsfs for longer."""

SMALL_BYTES = 1 << 20
"""Maximum size of a small read, such as the marker or a spec, which any connection can transfer within `PATIENCE`."""

REQUEST_SECONDS = 60.0
"""Time limit in seconds of any later request, with all its attempts, in addition to the time that its bytes take."""

SLOW_BYTES_PER_SECOND = 1 << 15
"""Minimum speed that is expected for each of the three objects that share a connection: about 1 Mbit/s together. 48 MiB
get 27 minutes."""

MAX_SECONDS = 3600.0
"""Time limit of any single request, and of a complete listing: ten million objects are 10,000 pages. SDKs limit the
wait for each page."""


def open_storage(url: str, storage_options: Mapping[str, Any] | None = None, *, later: bool = False) -> Storage:
    """Return the storage at a URL or local path. No request is made.

    Args:
        url: ``s3://bucket/prefix``, ``file:///path``, a path, or the URL of another fsspec file system.
        storage_options: Options passed to the fsspec file system unchanged.
        later: Open the file system at the first request, if there is one. Its package then need not be installed, and
            it does not log in yet, as some file systems do when they are created.

    Raises:
        InvalidURL: If it is not a URL of a known file system.
        ConfigurationError: If an option cannot work, or would be ignored.
        MissingDependency: If the package of its file system is not installed.
    """
    if not url.strip():
        raise InvalidURL("The remote is empty. Name a URL such as s3://bucket/prefix, or a directory.")
    if is_url(url) and not LOCAL.match(url):
        return FsspecStorage(url, storage_options, later=later)
    directory = LOCAL.sub("", url)
    if not directory:
        raise InvalidURL(f"{url} names no directory. Write file:///path, or the path alone.")
    if storage_options:
        names = ", ".join(map(repr, storage_options))
        raise ConfigurationError(
            f"{url} is a directory, which takes no storage_options: {names} would be ignored. Remove them, or name the "
            "URL that they are for."
        )
    return LocalStorage(directory)


def with_fewer_checksums(storage: Storage) -> Storage | None:
    """Return the same storage with checksums only where S3 requires them; None if the service is not S3."""
    if not isinstance(storage, FsspecStorage):
        return None
    return storage.with_config(WHEN_REQUIRED) if EXTRAS.get(storage.protocol) == "s3" else None


class FsspecStorage:
    """An fsspec file system, through a private instance.

    Args:
        url: An fsspec URL.
        storage_options: Options passed to the file system.
        later: Open the file system at the first request.
    """

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None = None, *, later: bool = False) -> None:
        self.url = without_credentials(url)
        self.traffic = TransferStats()
        self.protocol = url.partition("://")[0].lower()
        self.capabilities = _capabilities(self.protocol)
        self._asked = (url, dict(storage_options or {}))
        self._secrets: tuple[str, ...] = ()
        self._opened: dict[int, tuple[Any, str]] = {}
        self._answered = False
        self._making, self._turn = threading.Lock(), threading.Lock()
        check_url(url, self.url, self.protocol)
        check_options(storage_options or {}, self.url)
        if not later:
            self._open()

    def __repr__(self) -> str:
        return f"FsspecStorage({self.url!r})"

    def with_config(self, config_kwargs: Mapping[str, Any]) -> FsspecStorage:
        """Return a storage at the same URL, with other settings for botocore."""
        url, options = self._asked
        given = {**(options.get("config_kwargs") or {}), **config_kwargs}
        return FsspecStorage(url, {**options, "config_kwargs": given})

    @property
    def _fs(self) -> Any:
        """The file system of this process. The parent's is kept: its clean-up would wait for the parent's threads."""
        return self._open()[0]

    @property
    def _root(self) -> str:
        """The path of the URL in the file system."""
        return self._open()[1]

    def _open(self) -> tuple[Any, str]:
        process = os.getpid()
        if process not in self._opened:
            self._secrets = all_secrets(self.protocol, self._asked[1])
            self._opened[process] = open_filesystem(*self._asked)
        return self._opened[process]

    def close(self) -> None:
        """See `Storage.close`. A file system closes its connections when the last reference to it is dropped."""
        self._opened.pop(os.getpid(), None)

    def get(self, path: str, start: int, stop: int) -> bytes:
        """See `Storage.get`."""
        if stop <= start:
            # Services disagree about empty ranges. Reading the first byte shows whether the object exists.
            self.get(path, start, start + 1)
            return b""
        with self._translated(path, "read"):
            try:
                # With a range this is one GET; without one, s3fs requests the size first.
                data: bytes = self._call("cat_file", f"{self._root}/{path}", start=start, end=stop, size=stop - start)
            except Exception as err:
                # Services answer 416 to any range of an empty object.
                if not codes_of(err) & {"InvalidRange", "416"}:
                    raise
                data = b""
        self.traffic.add(down=len(data))
        # Servers and proxies may answer with the whole object: HTTP lets them ignore ranges.
        return data if len(data) <= stop - start else data[start:stop]

    def _call(self, name: str, *args: Any, size: int = 0, **options: Any) -> Any:
        """Call a method of the file system, with a time limit that depends on the number of bytes."""
        import asyncio  # takes longer to import than `cas-cache ls` has to answer

        from fsspec.asyn import AsyncFileSystem, sync

        fs, seconds = self._fs, seconds_for(size, answered=self._answered)
        if not isinstance(fs, AsyncFileSystem):
            return self._in_turn(lambda: getattr(fs, name)(*args, **options), seconds)

        async def bounded() -> Any:
            try:
                async with asyncio.timeout(seconds):
                    return await getattr(fs, f"_{name}")(*args, **options)
            except TimeoutError as err:
                if err.args:
                    raise  # the file system's own
                raise Unanswered(seconds) from err

        return sync(fs.loop, bounded)

    def _in_turn(self, call: Callable[[], _T], seconds: float) -> _T:
        """Call a function with a time limit; one call at a time if the file system does not support several threads."""
        if self.protocol in EXTRAS or self.protocol in CONCURRENT:
            return in_time(call, seconds)

        def alone() -> _T:
            with self._turn:
                return call()

        return in_time(alone, seconds)

    def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
        """See `Storage.put`."""
        with self._translated(path, "write"):
            if not (create_only and self._created(path, data)):
                self._write(f"{self._root}/{path}", bytes(data))
        self.traffic.add(up=len(data))

    def _write(self, path: str, data: bytes, **options: Any) -> None:
        """Write a file; create its folder first where the file system requires one."""
        renames = self.protocol in RENAMING and not options
        folder = path.rpartition("/")[0]
        written = f"{folder}/{TEMPORARY}{uuid.uuid4().hex}" if renames else path
        try:
            self._call("pipe_file", written, data, size=len(data), **options)
        except Exception as err:
            if self.protocol in EXTRAS or not codes_of(err) & NO_FOLDER:
                raise
            self._make_folder(folder)
            self._call("pipe_file", written, data, size=len(data), **options)
        if renames:
            self._call("mv", written, path)

    def _make_folder(self, folder: str) -> None:
        with self._making:
            try:
                self._call("makedirs", folder, exist_ok=True)
            except Exception:  # noqa: BLE001 - another process may have created a part of it at the same time
                self._call("makedirs", folder, exist_ok=True)

    def _created(self, path: str, data: bytes | memoryview) -> bool:
        """Write an object unless it exists; return False if the service cannot decide that."""
        try:
            if self.protocol in EXTRAS or self.protocol == "memory":
                self._write(f"{self._root}/{path}", bytes(data), mode="create")
            elif not self._call("exists", f"{self._root}/{path}"):
                return False
        except FileExistsError:
            # An existing object stays, so there is nothing left to write.
            pass
        except Exception as err:
            codes = codes_of(err)
            if codes & NO_CONDITIONS:
                return False
            if not codes & EXISTS_ALREADY:
                raise
        return True

    def list(self, prefix: str) -> list[ObjectInfo]:
        """See `Storage.list`."""
        folder = f"{self._root}/{prefix}".rstrip("/") + "/"
        with self._translated(prefix, "list"):
            fs = self._fs
            infos = self._in_turn(lambda: files_below(fs, self.protocol, folder[:-1]), MAX_SECONDS)
        self.traffic.add()
        base = len(self._root) + 1
        try:
            files = [
                ObjectInfo(str(name)[base:], int(info["size"]), modified(info))
                for name, info in infos.items()
                # A console creates a "folder" as an empty object whose name ends with a slash.
                if info["type"] == "file" and str(name).startswith(folder) and not str(name).endswith("/")
            ]
        except (KeyError, TypeError, ValueError, OverflowError) as err:
            raise RemoteUnavailable(
                f"The listing of {self.url} is not a listing ({first_line(err, self._secrets)}). Check the endpoint."
            ) from err
        return sorted(files, key=lambda listed: listed.path)

    def delete(self, path: str) -> None:
        """See `Storage.delete`."""
        with self._translated(path, "delete"):
            try:
                self._call("rm_file", f"{self._root}/{path}")
            except FileNotFoundError as err:
                if codes_of(err) & NO_BUCKET:
                    raise
        self.traffic.add()

    @contextmanager
    def _translated(self, path: str, doing: Doing) -> Iterator[None]:
        """Turn errors of file systems into errors of this package; any other error is a bug and passes through."""
        try:
            yield
        except CasCacheError:
            raise  # already ours: the file system was opened in this block
        except Exception as err:
            service = EXTRAS.get(self.protocol, self.protocol)
            ours = error_of(err, self._secrets, url=self.url, path=path, doing=doing, service=service)
            if ours is None:
                raise
            as_cause(err)
            self._answered = self._answered and not isinstance(ours, RemoteUnavailable)
            # A cause whose text holds a secret would show it in a traceback.
            raise ours from None if self._shows_secrets(err) else err
        self._answered = True

    def _shows_secrets(self, err: BaseException) -> bool:
        """Return True if an error, or one of its causes, would reveal a secret."""
        shown = "\n".join(map(str, causes_of(err)))
        return without_secrets(without_signatures(shown), self._secrets) != shown


def _capabilities(protocol: str) -> frozenset[str]:
    """Return what the services behind a protocol guarantee; some compatible servers (rclone, emulators) give less."""
    if protocol == "memory":
        return frozenset()
    return frozenset({CREATE_ONLY, PROCESSES}) if protocol in EXTRAS else frozenset({PROCESSES})


def seconds_for(size: int, *, answered: bool) -> float:
    """Return the time limit of a request.

    Args:
        size: Maximum number of bytes to send or receive.
        answered: True if the storage has answered before.
    """
    if size <= SMALL_BYTES and not answered:
        return PATIENCE
    return min(REQUEST_SECONDS + size / SLOW_BYTES_PER_SECOND, MAX_SECONDS)
