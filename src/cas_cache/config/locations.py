"""Locations of a cache: the mirror's directory, and the repository's URL with its options."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cas_cache.config.settings import expanded
from cas_cache.config.urls import is_url, without_credentials
from cas_cache.errors import ConfigurationError

if TYPE_CHECKING:
    from cas_cache.config.settings import Settings


def options_of(location: object, remote: object, storage_options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the storage options, together with those that a path object such as a `UPath` carries.

    Args:
        location: See `EmbeddingCache`.
        remote: See `EmbeddingCache`.
        storage_options: Options that are passed in addition.

    Raises:
        ConfigurationError: If an option has two values, or an object stands for a URL without giving its options.
    """
    merged = dict(storage_options or {})
    for place in (location, remote):
        own = _own_options(place)
        twice = sorted(name for name in own.keys() & merged.keys() if own[name] != merged[name])
        if twice:
            raise ConfigurationError(
                f"{', '.join(twice)}: {type(place).__name__} and storage_options have different values. Set each "
                "option in one of the two."
            )
        merged |= own
    return merged


def _own_options(place: object) -> dict[str, Any]:
    """Return the storage options that a path object carries; empty for text and local paths."""
    if place is None or isinstance(place, str):
        return {}
    own = getattr(place, "storage_options", None)
    if isinstance(own, Mapping):
        return dict(own)
    if is_url(str(place)):
        raise ConfigurationError(
            f"{type(place).__name__} is a path with a client of its own, which cannot be used here. Pass its URL as "
            "text, and what reaches it as storage_options=."
        )
    return {}


def places(location: str | Path | None, remote: object, settings: Settings) -> tuple[Path | str, str | None]:
    """Return the mirror's directory and the repository's URL.

    Args:
        location: A directory; or the repository's URL, whose mirror is then below `Settings.directory`; None for the
            setting.
        remote: The repository's URL, directory, or name in the settings; None for the setting. ``./name``, or a `Path`,
            is always a directory.
        settings: The settings in force.

    Raises:
        ConfigurationError: If two remotes are named, the location is empty, or a remote is a bare word that is neither
            a name in the settings nor an existing directory.
        InvalidURL: If a value looks like a URL and is not valid.
    """
    if location is not None and not str(location).strip():
        raise ConfigurationError("The location is empty. Name a directory, or a URL such as s3://bucket/prefix.")
    chosen = _as_text(remote)
    if location is not None and is_url(str(location)):
        if chosen is not None:
            raise ConfigurationError(
                f"Two remotes are named: {without_credentials(str(location))} and {without_credentials(chosen)}. "
                "Name a directory and a remote, or one URL."
            )
        location, chosen = None, str(location)
    chosen = settings.remote if chosen is None else chosen
    url = None if chosen is None else _resolve_remote(chosen, settings)
    if location is not None:
        return location, url
    return settings.directory / ("local" if url is None else _slug(url)), url


def _as_text(remote: object) -> str | None:
    """Return a remote as text. A `Path` never stands for a name in the settings, although it drops a leading ``./``."""
    if isinstance(remote, Path) and not is_url(str(remote)):
        return str(remote.absolute())
    return None if remote is None else str(remote)


def _resolve_remote(remote: str, settings: Settings) -> str:
    """Return the URL or directory that a remote stands for.

    Raises:
        ConfigurationError: If it is a bare word that is neither a name in the settings nor an existing directory.
    """
    place = settings.remotes.get(remote, remote)
    if not _is_bare_word(place) or os.path.exists(place):  # noqa: PTH110 - Path.exists raises for names that are too long
        return place
    near = difflib.get_close_matches(remote.lower(), {name.lower(): name for name in settings.remotes}, n=1, cutoff=0.7)
    meant = [name for name in settings.remotes if near and name.lower() == near[0] and name != remote]
    hint = f"Did you mean {meant[0]}?" if meant else "Name a URL such as s3://bucket/prefix, or a name of the settings."
    called = f"{place!r}, which {remote} stands for in the settings" if place != remote else repr(place)
    raise ConfigurationError(
        f"No remote is called {called}, and no directory. {hint} For a new directory write ./{place}."
    )


def _is_bare_word(place: str) -> bool:
    """Return True for one word that is neither a URL nor a path: it would create a folder in the working directory."""
    is_word = bool(place.strip()) and place.isprintable() and not re.search(r"^~|[/\\]", place)
    return is_word and not is_url(place)


def _slug(url: str) -> str:
    """Return a folder name for a remote's mirror: readable, and different from any other remote's."""
    shown = without_credentials(url) if is_url(url) else str(expanded(url).absolute())
    readable = re.sub(r"[^A-Za-z0-9]+", "-", shown).strip("-")[:60]
    return f"{readable}-{hashlib.sha256(shown.rstrip('/').encode(errors='backslashreplace')).hexdigest()[:8]}"
