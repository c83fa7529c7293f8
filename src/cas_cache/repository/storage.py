"""Bytes by path, on any fsspec file system. Knows nothing of packs.

Adds to fsspec: errors that say what to do, private instances without listing caches (a cached listing reports files of
other writers as absent) that are opened anew after a fork, one request a read (no HEAD before the GET), and a count of
what went over the wire. It never takes a failed listing for an empty one. The only module that touches fsspec.
"""

from __future__ import annotations

import difflib
import math
import os
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from cas_cache.errors import (
    AccessDenied,
    BucketNotFound,
    InvalidURL,
    MissingDependency,
    ObjectNotFound,
    RemoteUnavailable,
)
from cas_cache.repository.failures import (
    CREDENTIAL_ERRORS,
    FORBIDDEN,
    NETWORK_PACKAGES,
    NO_BUCKET,
    codes_of,
    first_line,
    secrets_in,
    without_secrets,
)
from cas_cache.repository.interface import CREATE_ONLY, PROCESSES, Listed, Storage, Traffic
from cas_cache.repository.local import LocalStorage
from cas_cache.repository.urls import EXTRAS, LOCAL, PACKAGES, check_url, is_url, without_credentials

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

S3FS_RETRIES = 2
"""s3fs nests its own attempts around botocore's 3: its 5 make 5 * 5 * 3 = 75 for a get, 19 minutes at a server that
takes connections and says nothing. 2 * 2 * 3 are 12, and a body that breaks off is still fetched again."""


def open_storage(url: str, storage_options: Mapping[str, Any] | None = None) -> Storage:
    """Return the storage at a URL or local path. No request is made.

    Args:
        url: ``s3://bucket/prefix``, ``file:///path``, a path, or any other fsspec URL.
        storage_options: Handed to the fsspec file system as they are.

    Raises:
        InvalidURL: If it is no URL of a known file system.
        MissingDependency: If the package of its file system is not installed.
    """
    if not url.strip():
        raise InvalidURL("The remote is empty. Name a URL such as s3://bucket/prefix, or a directory.")
    if is_url(url) and not LOCAL.match(url):
        return FsspecStorage(url, storage_options)
    directory = LOCAL.sub("", url)
    if not directory:
        raise InvalidURL(f"{url} names no directory. Write file:///path, or the path alone.")
    return LocalStorage(directory)


class FsspecStorage:
    """Any fsspec file system, through an instance of our own.

    Args:
        url: An fsspec URL.
        storage_options: Handed to the file system.
    """

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None = None) -> None:
        self.url = without_credentials(url)
        self.traffic = Traffic()
        self._protocol = url.partition("://")[0].lower()
        self.capabilities = _capabilities(self._protocol)
        self._asked = (url, dict(storage_options or {}))
        self._secrets = tuple(secrets_in(storage_options or {}))
        filesystem, root = _open_filesystem(*self._asked)
        self._opened = {os.getpid(): filesystem}
        self._root = root.rstrip("/")

    def __repr__(self) -> str:
        return f"FsspecStorage({self.url!r})"

    @property
    def _fs(self) -> Any:
        """The file system of this process. The parent's is kept: its clean-up would wait for the parent's threads."""
        process = os.getpid()
        if process not in self._opened:
            self._opened[process] = _open_filesystem(*self._asked)[0]
        return self._opened[process]

    def get(self, path: str, start: int, stop: int) -> bytes:
        """See `Storage.get`."""
        if stop <= start:
            # Services disagree about empty ranges; the first byte tells whether there is an object at all.
            self.get(path, start, start + 1)
            return b""
        with self._translated(path, "read"):
            try:
                # With a range it is one GET; without, s3fs asks for the size first.
                data: bytes = self._fs.cat_file(f"{self._root}/{path}", start=start, end=stop)
            except Exception as err:
                # Services answer 416 to any range of an empty object.
                if not codes_of(err) & {"InvalidRange", "416"}:
                    raise
                data = b""
        self.traffic.add(down=len(data))
        return data

    def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
        """See `Storage.put`."""
        with self._translated(path, "write"):
            if not (create_only and self._created(path, data)):
                self._fs.pipe_file(f"{self._root}/{path}", bytes(data))
        self.traffic.add(up=len(data))

    def _created(self, path: str, data: bytes | memoryview) -> bool:
        """Write an object unless it is there; False if the service cannot do that."""
        try:
            self._fs.pipe_file(f"{self._root}/{path}", bytes(data), mode="create")
        except FileExistsError:
            pass
        except Exception as err:
            codes = codes_of(err)
            if "NotImplemented" in codes:
                return False
            # S3's answer while another writer creates the same name: that one stays, or nothing does.
            if "ConditionalRequestConflict" not in codes:
                raise
        return True

    def list(self, prefix: str) -> list[Listed]:
        """See `Storage.list`."""
        folder = f"{self._root}/{prefix}".rstrip("/") + "/"
        with self._translated(prefix, "list"):
            if EXTRAS.get(self._protocol) == "azure":
                found = _azure_files(self._fs, folder)
            else:
                found = _found(self._fs, folder.rstrip("/"))
        self.traffic.add()
        base = len(self._root) + 1
        files = [
            Listed(str(name)[base:], int(info["size"]), _modified(info))
            for name, info in found.items()
            # What consoles make when asked for a folder is an empty object with a slash at its end.
            if info["type"] == "file" and str(name).startswith(folder) and not str(name).endswith("/")
        ]
        return sorted(files, key=lambda listed: listed.path)

    def delete(self, path: str) -> None:
        """See `Storage.delete`."""
        with self._translated(path, "delete"):
            try:
                self._fs.rm_file(f"{self._root}/{path}")
            except FileNotFoundError as err:
                if codes_of(err) & NO_BUCKET:
                    raise
        self.traffic.add()

    @contextmanager
    def _translated(self, path: str, doing: Literal["read", "list", "write", "delete"]) -> Iterator[None]:
        """Turn what file systems raise into our errors; anything else is a bug and passes through."""
        try:
            yield
        except Exception as err:
            codes, reason = codes_of(err), self._shown(err)
            if isinstance(err, FileNotFoundError) or codes & NO_BUCKET:
                if doing != "read" or codes & NO_BUCKET:
                    raise BucketNotFound(
                        f"The bucket of {self.url} does not exist. Check its name and region, or create it: "
                        "cas_cache never makes buckets."
                    ) from err
                raise ObjectNotFound(f"{path} is not in {self.url}.") from err
            if isinstance(err, PermissionError) or codes & CREDENTIAL_ERRORS or FORBIDDEN.match(str(err)):
                raise AccessDenied(
                    f"{self.url} refuses a {doing} ({reason}). Check the "
                    "credentials that the file system finds (for s3: AWS_PROFILE, AWS_ACCESS_KEY_ID, "
                    "storage_options=) and that they may read, list and, to push, write."
                ) from err
            if isinstance(err, TypeError | ValueError) or "ParamValidationError" in codes:
                # Nothing was asked of the service: the SDK found bucket, endpoint or an option malformed.
                raise InvalidURL(f"{self.url} cannot be used ({reason}). Check URL and storage_options.") from err
            if isinstance(err, OSError) or type(err).__module__.partition(".")[0] in NETWORK_PACKAGES:
                raise RemoteUnavailable(
                    f"{self.url} did not answer as it should ({reason}). Check the network and the endpoint "
                    "(for s3: AWS_ENDPOINT_URL, or endpoint_url in storage_options), then try again."
                ) from err
            raise

    def _shown(self, err: BaseException) -> str:
        """One line about an error, without what must not be printed."""
        return without_secrets(first_line(err), self._secrets)


def _open_filesystem(url: str, options: dict[str, Any]) -> tuple[Any, str]:
    import fsspec

    scheme, slashes, rest = url.partition("://")
    protocol = scheme.lower()
    url = protocol + slashes + rest
    shown, secrets = without_credentials(url), tuple(secrets_in(options))
    check_url(url, shown, protocol)
    if protocol not in fsspec.available_protocols() and protocol not in fsspec.registry:
        near = difflib.get_close_matches(protocol, fsspec.available_protocols(), 1)
        hint = f" Did you mean {near[0]}://?" if near else ""
        raise InvalidURL(f"{shown}: no file system is called {protocol!r}.{hint} Use s3://, gs://, az:// or a path.")
    try:
        # An instance of our own: listings are never cached, and nothing is shared with the caller's instances.
        private: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
        if EXTRAS.get(protocol) == "s3":
            # A closed endpoint fails after 3 attempts and at most 3 s of waits; botocore's own default is 5 and 15 s.
            private["config_kwargs"] = {"retries": {"mode": "standard"}, **options.pop("config_kwargs", {})}
        filesystem, root = fsspec.url_to_fs(url, **{**private, **options})
        if EXTRAS.get(protocol) == "s3":
            filesystem.retries = S3FS_RETRIES
    except ImportError as err:
        package = PACKAGES.get(EXTRAS.get(protocol, ""))
        install = f"pip install {package}" if package else f"install its package ({first_line(err)})"
        raise MissingDependency(f"{shown} needs a package that is not installed. Do: {install}") from err
    except (TypeError, ValueError) as err:
        reason = without_secrets(first_line(err), secrets)
        raise InvalidURL(f"{shown} could not be opened ({reason}). Check URL and storage_options.") from err
    except OSError as err:
        # gcsfs logs in when it is made. The cause is left out: its text and frames can hold the token.
        reason = without_secrets(first_line(err), secrets)
        raise RemoteUnavailable(
            f"{shown} could not be opened ({reason}). Check the network, the credentials and storage_options."
        ) from None
    return filesystem, str(root)


def _capabilities(protocol: str) -> frozenset[str]:
    """What the services behind a protocol promise; some servers that merely speak it (rclone, emulators) do less."""
    if protocol == "memory":
        return frozenset()
    return frozenset({CREATE_ONLY, PROCESSES}) if protocol in EXTRAS else frozenset({PROCESSES})


def _found(filesystem: Any, folder: str) -> dict[str, dict[str, Any]]:
    """What `find` gives; where it is fsspec's own, which passes over folders that it cannot list, told to raise."""
    from fsspec import AbstractFileSystem
    from fsspec.asyn import AsyncFileSystem

    kind = type(filesystem)
    own = getattr(kind, "_find" if issubclass(kind, AsyncFileSystem) else "find", None)
    generic = own in (AbstractFileSystem.find, AsyncFileSystem._find)  # noqa: SLF001
    strict = {"on_error": "raise"} if generic and filesystem.exists(folder) else {}
    found: dict[str, dict[str, Any]] = filesystem.find(folder, detail=True, **strict)
    return found


def _azure_files(filesystem: Any, folder: str) -> dict[str, dict[str, Any]]:
    """What `find` gives, in one request a page. adlfs's own takes a container that is not there for an empty one."""
    from fsspec.asyn import sync

    container, _, below = folder.partition("/")

    async def blobs() -> list[Any]:
        async with filesystem.service_client.get_container_client(container=container) as client:
            return [blob async for blob in client.list_blobs(name_starts_with=below, include=["metadata"])]

    return {
        f"{container}/{blob.name}": {
            "size": blob.size,
            # Accounts with hierarchical namespaces list their folders as well.
            "type": "directory" if (blob.metadata or {}).get("hdi_isfolder") == "true" else "file",
            "last_modified": blob.last_modified,
        }
        for blob in sync(filesystem.loop, blobs)
    }


def _modified(info: Mapping[str, Any]) -> float:
    """When an object was written by the storage's clock; NaN where the listing does not say."""
    for name in _MODIFIED:
        value = info.get(name)
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            return value.timestamp() if value.tzinfo else math.nan
        if isinstance(value, int | float):
            return float(value)
    return math.nan


_MODIFIED = ("LastModified", "last_modified", "updated", "mtime", "modified", "created")
"""What file systems call the time in a listing: s3fs, adlfs, gcsfs, most others, sftp and memory. The service's own
comes before `mtime`, which gcsfs lets uploaders set."""
