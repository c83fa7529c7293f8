"""Bytes by path, on any fsspec file system. Knows nothing of packs.

Adds to fsspec: errors that say what to do, private instances without listing caches (a cached listing reports files of
other writers as absent), one request a read (no HEAD before the GET), and a count of what went over the wire. It never
deletes, and never takes a failed listing for an empty one. The only module that touches fsspec.
"""

from __future__ import annotations

import difflib
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from cas_cache.errors import (
    AccessDenied,
    BucketNotFound,
    InvalidURL,
    MissingDependency,
    ObjectNotFound,
    RemoteUnavailable,
)
from cas_cache.repository.interface import Listed, Storage, Traffic
from cas_cache.repository.local import LocalStorage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

EXTRAS = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "az": "azure",
    "abfs": "azure",
    "abfss": "azure",
}
"""Which extra of ours brings a protocol's file system."""

_PROTOCOL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)(::|://)")


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
    if not is_url(url) or url.startswith(("file://", "local://")):
        return LocalStorage(url.removeprefix("file://").removeprefix("local://"))
    return FsspecStorage(url, storage_options)


class FsspecStorage:
    """Any fsspec file system, through an instance of our own.

    Args:
        url: An fsspec URL.
        storage_options: Handed to the file system.
    """

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None = None) -> None:
        self.url = without_credentials(url)
        self.traffic = Traffic()
        self._protocol = url.partition("://")[0].partition("::")[0].lower()
        self._fs, root = _open_filesystem(url, dict(storage_options or {}))
        self._root = root.rstrip("/")
        if not self._root:
            raise InvalidURL(f"{self.url} names no bucket. Write {self._protocol}://bucket/prefix.")

    def __repr__(self) -> str:
        return f"FsspecStorage({self.url!r})"

    def get(self, path: str, start: int, stop: int) -> bytes:
        """See `Storage.get`."""
        with self._translated(path):
            # With a range it is one GET; without, s3fs asks for the size first.
            data: bytes = self._fs.cat_file(f"{self._root}/{path}", start=start, end=stop)
        self.traffic.add(down=len(data))
        return data

    def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
        """See `Storage.put`."""
        mode = {"mode": "create"} if create_only else {}
        with self._translated(path, writing=True):
            try:
                self._fs.pipe_file(f"{self._root}/{path}", bytes(data), **mode)
            except FileExistsError:
                if not create_only:
                    raise
        self.traffic.add(up=len(data))

    def list(self, prefix: str) -> list[Listed]:
        """See `Storage.list`."""
        with self._translated(prefix, listing=True):
            found = self._fs.find(f"{self._root}/{prefix}".rstrip("/"), detail=True)
        self.traffic.add()
        base = len(self._root) + 1
        return sorted(
            (Listed(str(name)[base:], int(info["size"])) for name, info in found.items() if info["type"] == "file"),
            key=lambda listed: listed.path,
        )

    @contextmanager
    def _translated(self, path: str, *, listing: bool = False, writing: bool = False) -> Iterator[None]:
        """Turn what file systems raise into our errors; anything else is a bug and passes through."""
        try:
            yield
        except Exception as err:
            codes = {type(e).__name__ for e in _causes(err)} | {_service_code(e) for e in _causes(err)}
            if isinstance(err, FileNotFoundError):
                if listing or writing or "NoSuchBucket" in codes:
                    raise BucketNotFound(
                        f"The bucket of {self.url} does not exist. Check its name and region, or create it: "
                        "cas_cache never makes buckets."
                    ) from err
                raise ObjectNotFound(f"{path} is not in {self.url}.") from err
            if isinstance(err, PermissionError) or codes & _CREDENTIAL_ERRORS:
                raise AccessDenied(
                    f"{self.url} refuses {'a write' if writing else 'a read'} ({_first_line(err)}). Check the "
                    "credentials that the file system finds (for s3: AWS_PROFILE, AWS_ACCESS_KEY_ID, "
                    "storage_options=) and that they may read, list and, to push, write."
                ) from err
            if isinstance(err, OSError) or type(err).__module__.partition(".")[0] in _NETWORK_PACKAGES:
                raise RemoteUnavailable(
                    f"{self.url} did not answer as it should ({_first_line(err)}). Check the network and the endpoint "
                    "(for s3: AWS_ENDPOINT_URL, or endpoint_url in storage_options), then try again."
                ) from err
            raise


def is_url(location: str) -> bool:
    """Whether a location is a URL, as opposed to a path.

    Raises:
        InvalidURL: If it looks like a URL that lost a slash; as a path it would make a folder called ``s3:``.
    """
    if _PROTOCOL.match(location):
        return True
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/*", location)
    if scheme:
        rest = location[scheme.end() :]
        raise InvalidURL(f"{location!r} is neither a URL nor a plain path. Did you mean {scheme[1]}://{rest}?")
    return False


def without_credentials(url: str) -> str:
    """Return a URL without user, password and query: what may be printed and kept."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _open_filesystem(url: str, options: dict[str, Any]) -> tuple[Any, str]:
    import fsspec

    shown, protocol = without_credentials(url), url.partition("://")[0].partition("::")[0].lower()
    if protocol not in fsspec.available_protocols():
        near = difflib.get_close_matches(protocol, fsspec.available_protocols(), 1)
        hint = f" Did you mean {near[0]}://?" if near else ""
        raise InvalidURL(f"{shown}: no file system is called {protocol!r}.{hint} Use s3://, gs://, az:// or a path.")
    try:
        # An instance of our own: listings are never cached, and nothing is shared with the caller's instances.
        private = {"use_listings_cache": False, "skip_instance_cache": True}
        filesystem, root = fsspec.url_to_fs(url, **{**private, **options})
    except ImportError as err:
        extra = EXTRAS.get(protocol)
        install = f"pip install 'cas-cache[{extra}]'" if extra else f"install its package ({_first_line(err)})"
        raise MissingDependency(f"{shown} needs a package that is not installed. Do: {install}") from err
    except (TypeError, ValueError) as err:
        raise InvalidURL(f"{shown} could not be opened ({_first_line(err)}). Check URL and storage_options.") from err
    return filesystem, str(root)


def _causes(err: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = err
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _service_code(err: BaseException) -> str:
    response = getattr(err, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _first_line(err: BaseException) -> str:
    return f"{type(err).__name__}: {err}".splitlines()[0][:200]


_CREDENTIAL_ERRORS = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "TokenRetrievalError",
    "UnauthorizedSSOTokenError",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "AccessDenied",
    "403",
}
"""Exceptions of the clouds' SDKs, and error codes of their services, that better credentials would mend."""

_NETWORK_PACKAGES = {"botocore", "aiobotocore", "aiohttp", "gcsfs", "google", "azure", "asyncio", "requests"}
