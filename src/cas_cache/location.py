"""Where a cache is: the mirror's directory, and the repository's URL."""

from __future__ import annotations

import difflib
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from cas_cache.errors import ConfigurationError
from cas_cache.repository import is_url, without_credentials
from cas_cache.settings import expanded

if TYPE_CHECKING:
    from cas_cache.settings import Settings


def places(location: str | Path | None, remote: str | None, settings: Settings) -> tuple[Path | str, str | None]:
    """Return the mirror's directory and the repository's URL.

    Args:
        location: A directory, or the repository's URL, whose mirror is then below `Settings.directory`; None for what
            the settings say.
        remote: The repository's URL, directory, or name in the settings (``./name`` is a directory whatever is there);
            None for what the settings say.
        settings: What is in force.

    Raises:
        ConfigurationError: If two remotes are named, the location is empty, or a remote's name is misspelt.
        InvalidURL: If something looks like a URL and is none.
    """
    if location is not None and not str(location).strip():
        raise ConfigurationError("The location is empty. Name a directory, or a URL such as s3://bucket/prefix.")
    if location is not None and is_url(str(location)):
        if remote is not None:
            raise ConfigurationError(
                f"Two remotes are named: {without_credentials(str(location))} and {without_credentials(remote)}. "
                "Name a directory and a remote, or one URL."
            )
        location, remote = None, str(location)
    remote = settings.remote if remote is None else remote
    remote = remote if remote is None else _named(remote, settings)
    if location is not None:
        return location, remote
    return settings.directory / ("local" if remote is None else _slug(remote)), remote


def _named(remote: str, settings: Settings) -> str:
    """The URL or directory that a remote is called by.

    Raises:
        ConfigurationError: If it is nearly one of the names, and neither a path nor a directory that is there.
    """
    if remote in settings.remotes:
        return settings.remotes[remote]
    near = difflib.get_close_matches(remote.lower(), {name.lower(): name for name in settings.remotes}, n=1, cutoff=0.7)
    is_word = not re.search(r"[/\\:.~]", remote)
    if near and is_word and not Path(remote).exists():
        meant = next(name for name in settings.remotes if name.lower() == near[0])
        raise ConfigurationError(
            f"No remote is called {remote!r}, and no directory. Did you mean {meant}? For a new directory write "
            f"./{remote}."
        )
    return remote


def _slug(url: str) -> str:
    """A folder name for a remote's mirror: readable, and unlike any other remote's."""
    shown = without_credentials(url) if is_url(url) else str(expanded(url).absolute())
    readable = re.sub(r"[^A-Za-z0-9]+", "-", shown).strip("-")[:60]
    return f"{readable}-{hashlib.sha256(shown.rstrip('/').encode(errors='backslashreplace')).hexdigest()[:8]}"
