"""Copies of caches: opened again at the same location with the same options, in this process or in another.

A pickled cache consists of its directory, its remote and its options. It contains no row, lock, file or connection, and
no credential: a cache whose options hold one is not pickled, and the other process has to find its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeVar

from cas_cache.config.settings import Settings
from cas_cache.config.urls import without_credentials
from cas_cache.errors import ConfigurationError
from cas_cache.identity.credentials import find_credentials
from cas_cache.storage.interface import PROCESSES
from cas_cache.storage.redaction import secrets_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cas_cache.storage import Storage

_Cache = TypeVar("_Cache")

OPEN_IN_THE_WORKER = (
    "Open it in the worker: pass directory, remote and options to the function that runs there, and call "
    "EmbeddingCache(...) in it."
)


def check_portable(remote: str | None, options: Mapping[str, Any], storage: Storage | None = None) -> None:
    """Raise an error for a cache that another process could not open, or whose options hold a credential.

    Args:
        remote: The URL as it was passed; None for a local cache.
        options: The storage options.
        storage: The opened remote; None for a local cache, or if it is not opened yet.

    Raises:
        ConfigurationError: If the cache cannot be pickled, with the reason and advice.
    """
    if remote is None:
        return
    shown = without_credentials(remote)
    places = [*(["the URL"] if shown != remote else ()), *sorted(set(_secret_places(options)))]
    if places:
        raise ConfigurationError(
            f"The cache of {shown} is not pickled, because {', '.join(places)} is or may be a credential, which would "
            f"be written in plain text. {OPEN_IN_THE_WORKER} Credentials that are set in the environment or in a "
            "profile are found there again, and such a cache can be pickled."
        )
    objects = sorted(name for name, value in options.items() if not _is_plain(value))
    if objects:
        raise ConfigurationError(
            f"The cache of {shown} is not pickled, because its storage options {', '.join(objects)} are objects of "
            f"this process. {OPEN_IN_THE_WORKER}"
        )
    if storage is not None and PROCESSES not in storage.capabilities:
        raise ConfigurationError(
            f"The cache of {shown} is not pickled, because this storage exists in one process only. Use a storage "
            f"that other processes can reach. {OPEN_IN_THE_WORKER}"
        )


def reopen(cls: type[_Cache], arguments: dict[str, Any]) -> _Cache:
    """Open a cache again, with arguments that another process pickled.

    Raises:
        ConfigurationError: If the cache had no remote, and the settings of this process name one.
    """
    remote = Settings.read().remote
    if arguments["remote"] is None and remote is not None:
        raise ConfigurationError(
            f"A cache without a remote came from another process, but the settings of this process name the remote "
            f"{without_credentials(remote)}, which would receive its rows. Unset CAS_CACHE_REMOTE here, or set it in "
            f"both. {OPEN_IN_THE_WORKER}"
        )
    return cls(**arguments)


def _secret_places(options: Mapping[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        single = {name: value}
        if any(secrets_in(single)) or (_is_plain(value) and any(find_credentials(single))):
            yield f"storage_options[{name!r}]"


def _is_plain(value: object) -> bool:
    """Return True for a value that means the same in every process."""
    if isinstance(value, Mapping):
        return all(isinstance(name, str) and _is_plain(item) for name, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float | PurePath)
