"""Opening fsspec file systems: private instances, with options that a repository can work with.

Adds to fsspec: the options of its own configuration and those of the caller are merged, and an option that would be
dropped, or cannot work, is an error that names it. fsspec lets one ``config_kwargs`` replace the other, and drops
options that it does not know.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cas_cache.config.settings import cloud_secrets
from cas_cache.config.urls import EXTRAS, PACKAGES, check_url, without_credentials
from cas_cache.errors import AccessDenied, ConfigurationError, InvalidURL, MissingDependency, RemoteUnavailable
from cas_cache.storage.answers import check_answers
from cas_cache.storage.codes import UNKNOWN_CREDENTIALS, codes_of
from cas_cache.storage.redaction import first_line, secrets_in

if TYPE_CHECKING:
    from collections.abc import Iterable

S3FS_RETRIES = 2
"""Number of attempts of s3fs, which nests them around botocore's 3. Its default of 5 makes 5 * 5 * 3 = 75 for a get, 19
minutes at a server that accepts connections and never answers. 2 * 2 * 3 are 12, and a body that breaks off is still
fetched again."""

PRIVATE: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
"""Listings are never cached, and no instance is shared with the caller: both would hide changes by other writers."""

_LISTINGS = "a cached listing hides the objects of other writers"
_ASYNCHRONOUS = "cas_cache is synchronous and runs the event loop of the file system itself"
_OF_OPEN = "it belongs to fsspec.open, not to a file system, and would be ignored"

REFUSED_OPTIONS: Mapping[str, str] = {
    "asynchronous": _ASYNCHRONOUS,
    "loop": _ASYNCHRONOUS,
    "use_listings_cache": _LISTINGS,
    "listings_expiry_time": _LISTINGS,
    "max_paths": _LISTINGS,
    "skip_instance_cache": "the file system of a repository is never shared",
    **dict.fromkeys(
        ("compression", "encoding", "errors", "expand", "mode", "name_function", "newline", "num"), _OF_OPEN
    ),
}
"""Options that cannot work, with the reason. `PRIVATE` and values such as ``asynchronous=False`` are accepted."""

_S3_OPERATIONS = ("PutObject", "GetObject", "HeadObject", "ListObjectsV2", "DeleteObject")


def open_filesystem(url: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """Return a private file system, and the path of the URL in it. No request is made, except to log in.

    Args:
        url: An fsspec URL.
        options: Options for the file system; they override those of fsspec's configuration.

    Raises:
        InvalidURL: If no file system has this name, or it refuses its options.
        ConfigurationError: If an option cannot work.
        MissingDependency: If the package of the file system is not installed.
        RemoteUnavailable: If the file system logs in when it is created, and fails.
    """
    import fsspec

    scheme, slashes, rest = url.partition("://")
    protocol = scheme.lower()
    url = protocol + slashes + rest
    shown, secrets = without_credentials(url), all_secrets(protocol, options)
    check_url(url, shown, protocol)
    _check_protocol(protocol, shown)
    try:
        cls = fsspec.get_filesystem_class(protocol)
        _check_able(cls, protocol, shown)
        given = _merged_options(cls, protocol, options, shown)
        filesystem, root = fsspec.url_to_fs(url, **given)
        if hasattr(getattr(filesystem, "dircache", None), "use_listings_cache"):
            filesystem.dircache.use_listings_cache = False
        if EXTRAS.get(protocol) == "s3":
            filesystem.retries = S3FS_RETRIES
            _prepare_session(filesystem)
            _check_additional(filesystem, shown)
            _check_authorities(filesystem, shown)
    except ImportError as err:
        package = PACKAGES.get(EXTRAS.get(protocol, ""))
        if package:
            raise MissingDependency.of_package(shown, package) from err
        reason = first_line(err)
        raise MissingDependency(f"{shown} needs a package that is not installed. Install it: {reason}") from err
    except ConfigurationError:
        raise
    except (TypeError, ValueError, KeyError, AttributeError) as err:
        reason = first_line(err, secrets)
        raise InvalidURL(f"{shown} could not be opened ({reason}). Check URL and storage_options.") from err
    except Exception as err:
        if not isinstance(err, OSError) and protocol in EXTRAS:
            raise
        if codes_of(err) & UNKNOWN_CREDENTIALS:
            raise AccessDenied(
                f"{shown} does not accept the credentials ({first_line(err, secrets)}). Check storage_options."
            ) from None
        # gcsfs logs in when it is created. The cause is dropped, because its text and frames can hold the token.
        reason = first_line(err, secrets)
        raise RemoteUnavailable(
            f"{shown} could not be opened ({reason}). Check the network, the credentials and storage_options."
        ) from None
    return filesystem, str(root).rstrip("/")


def all_secrets(protocol: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return texts that must not be printed: secrets in the options, in fsspec's configuration, and of the clouds."""
    from fsspec.config import conf

    names = [name for name, extra in EXTRAS.items() if extra == EXTRAS.get(protocol)] or [protocol]
    configured = [value for name in names if isinstance(value := conf.get(name), Mapping)]
    return (*secrets_in(options), *(secret for value in configured for secret in secrets_in(value)), *cloud_secrets())


def check_options(options: Mapping[str, Any], shown: str, where: str = "storage_options") -> None:
    """Raise an error for options that cannot work.

    Args:
        options: Options for a file system.
        shown: The URL, in a form that may be printed.
        where: Where the options come from.

    Raises:
        ConfigurationError: If an option cannot work; it names the option and the reason.
    """
    for name, value in options.items():
        if name in REFUSED_OPTIONS and value and value is not PRIVATE.get(name):
            raise ConfigurationError(
                f"{name!r} cannot be set for {shown}: {REFUSED_OPTIONS[name]}. Remove it from {where}."
            )
        if name == "skip_instance_cache" and not value:
            raise ConfigurationError(
                f"{name!r} cannot be off for {shown}: {REFUSED_OPTIONS[name]}. Remove it from {where}."
            )
        if name.endswith("_kwargs") and value is not None and not isinstance(value, Mapping):
            raise ConfigurationError(
                f"{name!r} of {shown} must be a mapping, and is a {type(value).__name__}. Correct it in {where}."
            )


def _merged_options(cls: type, protocol: str, options: Mapping[str, Any], shown: str) -> dict[str, Any]:
    """Return the options of fsspec's configuration and of the caller together; the caller's win, name by name."""
    from fsspec.config import apply_config

    configured: dict[str, Any] = apply_config(cls, {})
    # The user configures the listing cache for all programs. This package turns it off for itself.
    configured = {name: value for name, value in configured.items() if REFUSED_OPTIONS.get(name) is not _LISTINGS}
    configured.pop("skip_instance_cache", None)
    check_options(configured, shown, "fsspec's configuration (FSSPEC_* variables, or the files in ~/.config/fsspec)")
    check_options(options, shown)
    _check_known(cls, protocol, options, shown)
    merged = {**configured, **options, **PRIVATE}
    if protocol not in EXTRAS:
        del merged["use_listings_cache"]  # some pass unknown options on to a client, which refuses them
    for name in configured.keys() & options.keys():
        if name.endswith("_kwargs"):
            merged[name] = {**(configured[name] or {}), **(options[name] or {})}
    if EXTRAS.get(protocol) == "s3":
        # A closed endpoint fails after 3 attempts and at most 3 s of waits; botocore's own default is 5 and 15 s.
        merged["config_kwargs"] = {"retries": {"mode": "standard"}, **(merged.get("config_kwargs") or {})}
    return merged


def _check_protocol(protocol: str, shown: str) -> None:
    """Raise an error for a protocol without a file system, with a suggestion, or with one that cannot be used."""
    import fsspec

    if protocol in REFUSED_PROTOCOLS:
        raise InvalidURL(_refusal(shown, protocol, REFUSED_PROTOCOLS[protocol]))
    if protocol in fsspec.available_protocols() or protocol in fsspec.registry:
        return
    near = difflib.get_close_matches(protocol, EXTRAS, 1, 0.5)
    near = near or difflib.get_close_matches(protocol, fsspec.available_protocols(), 1)
    hint = f" Did you mean {near[0]}://?" if near else ""
    raise InvalidURL(f"{shown}: no file system is called {protocol!r}.{hint} Use s3://, gs://, az:// or a path.")


def _check_able(cls: type, protocol: str, shown: str) -> None:
    """Raise an error for a file system that cannot hold a repository, even if it can be read.

    A plain web server lists the links of its pages, so a page without links would read as an empty repository.
    """
    from fsspec import AbstractFileSystem
    from fsspec.asyn import AsyncFileSystem

    lacking = [
        verb
        for verb, names in _METHODS.items()
        if all(getattr(cls, name, None) in _base_methods(name, AbstractFileSystem, AsyncFileSystem) for name in names)
    ]
    if lacking:
        raise InvalidURL(_refusal(shown, protocol, f"cannot {' or '.join(lacking)} files. {_INSTEAD}"))


def _base_methods(name: str, *classes: type) -> list[Any]:
    return [None, *(getattr(cls, name, None) for cls in classes)]


_METHODS = {
    "list": ("ls", "_ls", "find", "_find"),
    "write": ("pipe_file", "_pipe_file", "open", "_open"),
    "delete": ("rm_file", "_rm_file", "_rm", "rm"),
}
"""Methods of which a file system implements at least one, for each verb that it supports."""

_INSTEAD = "Use s3://, gs://, az://, sftp://, webdav:// or a directory."

_READ_ONLY = ("http", "https", "github", "gist", "git", "zip", "tar", "libarchive", "reference", "data")

REFUSED_PROTOCOLS: Mapping[str, str] = {
    **dict.fromkeys(_READ_ONLY, f"cannot list, write and delete files. {_INSTEAD}"),
    "smb": "cannot tell a missing file from a failure. Mount the share, and name the directory.",
}
"""File systems of fsspec that cannot hold a repository although they have the methods, with the reason."""


def _refusal(shown: str, protocol: str, reason: str) -> str:
    return f"{shown} cannot hold a repository: the file system of {protocol}:// {reason}"


def _check_known(cls: type, protocol: str, options: Mapping[str, Any], shown: str) -> None:
    """Raise an error for options that gcsfs and adlfs would ignore. s3fs refuses unknown names itself."""
    if EXTRAS.get(protocol) in {"gcs", "azure"}:
        known = {name for each in cls.__mro__ for name in inspect.signature(each.__init__).parameters}  # type: ignore[misc]
        _refuse_unknown(options, known | set(PRIVATE), f"storage_options of {shown}")


def _check_additional(filesystem: Any, shown: str) -> None:
    """Raise an error for misspelt names in ``s3_additional_kwargs``: s3fs would ignore them, for example encryption."""
    additional = filesystem.s3_additional_kwargs
    if additional:
        from botocore.loaders import create_loader

        model = create_loader().load_service_model("s3", "service-2")
        inputs = [model["operations"][each]["input"]["shape"] for each in _S3_OPERATIONS]
        known = {name for shape in inputs for name in model["shapes"][shape]["members"]}
        _refuse_unknown(additional, known, f"s3_additional_kwargs of {shown}")


def _check_authorities(filesystem: Any, shown: str) -> None:
    """Raise an error for an unreadable file of certificate authorities; botocore would fail later, and retry."""
    import ssl

    from botocore.exceptions import ProfileNotFound

    file = filesystem.client_kwargs.get("verify")
    if file is None:
        try:
            file = filesystem.session.get_config_variable("ca_bundle")
        except ProfileNotFound:
            return  # the first request reports it
    if isinstance(file, str):
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
        except OSError as err:
            raise ConfigurationError(
                f"{shown}: the file of certificate authorities {file} cannot be used ({first_line(err)}). Correct "
                "AWS_CA_BUNDLE, ca_bundle in the AWS configuration, or verify in client_kwargs."
            ) from err


def _refuse_unknown(options: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    known = set(known)
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigurationError(f"There is no option {name!r} in {where}: it would be ignored.{hint}")


def _prepare_session(filesystem: Any) -> None:
    """Give s3fs the session that it would create, with stricter checks of answers and a faster parser of times.

    botocore's parser accepts any form of time. For a listing of 10,000 names it takes half of the client's time: 0.65
    of 1.3 s.
    """
    if filesystem.session is None:
        from aiobotocore.session import AioSession

        filesystem.session = AioSession(**filesystem.kwargs)
        factory = filesystem.session.get_component("response_parser_factory")
        factory.set_parser_defaults(timestamp_parser=_time_of)
        check_answers(filesystem.session)


def _time_of(value: Any) -> datetime:
    """Parse a time as S3's listings write it; leave any other form to botocore."""
    if isinstance(value, str) and value.endswith("Z"):
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            pass
    from botocore.utils import parse_timestamp

    parsed: datetime = parse_timestamp(value)
    return parsed
