"""Bytes by path, on any fsspec file system. Knows nothing of packs.

Adds to fsspec: errors that say what to do, private instances without listing caches (a cached listing reports files of
other writers as absent), one request a read (no HEAD before the GET), and a count of what went over the wire. It never
deletes, and never takes a failed listing for an empty one. The only module that touches fsspec.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

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
    from collections.abc import Iterator

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
_LOCAL = re.compile(r"(file|local)://", re.IGNORECASE)

_PASSWORD = re.compile(r"(?<=://)[^@/?#]*:(?!\d+(?:/|$)).*@")
"""``user:password@``, up to the last @: AWS secrets hold slashes. Digits alone after the colon are a port."""

_SECRET_OPTION = re.compile(r"key|secret|token|password|credential|connection_string|sas", re.IGNORECASE)
S3FS_RETRIES = 2
"""s3fs nests its own attempts around botocore's 3: its 5 make 5 * 5 * 3 = 75 for a get, 19 minutes at a server that
takes connections and says nothing. 2 * 2 * 3 are 12, and a body that breaks off is still fetched again."""

SHORTEST_SECRET = 6
"""Shorter values of secret options are placeholders such as "test", found in any text."""


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
    if is_url(url) and not _LOCAL.match(url):
        return FsspecStorage(url, storage_options)
    directory = _LOCAL.sub("", url)
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
        self._secrets = tuple(_secrets(storage_options or {}))
        self._fs, root = _open_filesystem(url, dict(storage_options or {}))
        self._root = root.rstrip("/")

    def __repr__(self) -> str:
        return f"FsspecStorage({self.url!r})"

    def get(self, path: str, start: int, stop: int) -> bytes:
        """See `Storage.get`."""
        with self._translated(path):
            try:
                # With a range it is one GET; without, s3fs asks for the size first.
                data: bytes = self._fs.cat_file(f"{self._root}/{path}", start=start, end=stop)
            except Exception as err:
                # Services answer 416 to any range of an empty object.
                if not _codes(err) & {"InvalidRange", "416"}:
                    raise
                data = b""
        self.traffic.add(down=len(data))
        return data

    def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
        """See `Storage.put`."""
        with self._translated(path, writing=True):
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
            codes = _codes(err)
            if "NotImplemented" in codes:
                return False
            # S3's answer while another writer creates the same name: that one stays, or nothing does.
            if "ConditionalRequestConflict" not in codes:
                raise
        return True

    def list(self, prefix: str) -> list[Listed]:
        """See `Storage.list`."""
        with self._translated(prefix, listing=True):
            found = self._fs.find(f"{self._root}/{prefix}".rstrip("/"), detail=True)
        self.traffic.add()
        base = len(self._root) + 1
        files = [(str(name)[base:], int(info["size"])) for name, info in found.items() if info["type"] == "file"]
        # What consoles make when asked for a folder is an empty object with a slash at its end.
        return sorted((Listed(*file) for file in files if file[0] and file[0][-1] != "/"), key=lambda it: it.path)

    @contextmanager
    def _translated(self, path: str, *, listing: bool = False, writing: bool = False) -> Iterator[None]:
        """Turn what file systems raise into our errors; anything else is a bug and passes through."""
        try:
            yield
        except Exception as err:
            codes, reason = _codes(err), self._shown(err)
            if isinstance(err, FileNotFoundError):
                if listing or writing or "NoSuchBucket" in codes:
                    raise BucketNotFound(
                        f"The bucket of {self.url} does not exist. Check its name and region, or create it: "
                        "cas_cache never makes buckets."
                    ) from err
                raise ObjectNotFound(f"{path} is not in {self.url}.") from err
            if isinstance(err, PermissionError) or codes & _CREDENTIAL_ERRORS:
                raise AccessDenied(
                    f"{self.url} refuses {'a write' if writing else 'a read'} ({reason}). Check the "
                    "credentials that the file system finds (for s3: AWS_PROFILE, AWS_ACCESS_KEY_ID, "
                    "storage_options=) and that they may read, list and, to push, write."
                ) from err
            if isinstance(err, ValueError) or "ParamValidationError" in codes:
                # Nothing was asked of the service: the SDK found bucket or endpoint malformed.
                raise InvalidURL(f"{self.url} cannot be used ({reason}). Check URL and storage_options.") from err
            if isinstance(err, OSError) or type(err).__module__.partition(".")[0] in _NETWORK_PACKAGES:
                raise RemoteUnavailable(
                    f"{self.url} did not answer as it should ({reason}). Check the network and the endpoint "
                    "(for s3: AWS_ENDPOINT_URL, or endpoint_url in storage_options), then try again."
                ) from err
            raise

    def _shown(self, err: BaseException) -> str:
        """One line about an error, without what must not be printed."""
        line = _first_line(err)
        for secret in self._secrets:
            line = line.replace(secret, "***")
        return line


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
    """Return a URL without user, password and query: what may be printed and kept. A path stays as it is."""
    if "://" not in url:
        return url
    shown = _PASSWORD.sub("", url)
    if EXTRAS.get(shown.partition("://")[0].lower()) != "azure":
        # Azure's user is the container.
        shown = re.sub(r"(?<=://)[^@/?#]*@", "", shown)
    return shown.partition("?")[0]


def _open_filesystem(url: str, options: dict[str, Any]) -> tuple[Any, str]:
    import fsspec

    shown, protocol = without_credentials(url), url.partition("://")[0].lower()
    _check_url(url, shown, protocol)
    if protocol not in fsspec.available_protocols():
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
        extra = EXTRAS.get(protocol)
        install = f"pip install 'cas-cache[{extra}]'" if extra else f"install its package ({_first_line(err)})"
        raise MissingDependency(f"{shown} needs a package that is not installed. Do: {install}") from err
    except (TypeError, ValueError) as err:
        raise InvalidURL(f"{shown} could not be opened ({_first_line(err)}). Check URL and storage_options.") from err
    return filesystem, str(root)


def _check_url(url: str, shown: str, protocol: str) -> None:
    """Refuse what file systems would take for something else."""
    if "::" in url.partition("://")[0]:
        raise InvalidURL(
            "Chained URLs (with ::) are not for repositories: a cache in between would show what is no longer so. "
            f"Name {shown.rpartition('::')[2]} alone."
        )
    if protocol in EXTRAS and _PASSWORD.search(url):
        raise InvalidURL(
            f"There are credentials in the URL of {shown}. Pass them in storage_options=, "
            "or set AWS_ACCESS_KEY_ID and its like."
        )
    if protocol in EXTRAS and not shown.partition("://")[2].partition("/")[0]:
        raise InvalidURL(f"{shown} names no bucket. Write {protocol}://bucket/prefix.")


def _secrets(options: Mapping[str, Any]) -> Iterator[str]:
    """Values in storage options that must not be printed."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _secrets(value)
        elif isinstance(value, str) and len(value) >= SHORTEST_SECRET and _SECRET_OPTION.search(name):
            yield value


def _codes(err: BaseException) -> set[str]:
    """The names of an error and its causes, and what services called them."""
    return {type(e).__name__ for e in _causes(err)} | {_service_code(e) for e in _causes(err)}


def _causes(err: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = err
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _service_code(err: BaseException) -> str:
    response = getattr(err, "response", None)
    if isinstance(response, dict):
        return str(response.get("Error", {}).get("Code", ""))
    return str(getattr(err, "status_code", None) or getattr(err, "code", ""))


def _first_line(err: BaseException) -> str:
    line = f"{type(err).__name__}: {err}".splitlines()[0][:200]
    return re.sub(r"(?<=://)[^/\s@]*@", "", line)


_CREDENTIAL_ERRORS = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
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
