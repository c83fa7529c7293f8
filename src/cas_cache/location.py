"""Where a cache is: the mirror's directory, and the repository's URL."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from cas_cache.errors import ConfigurationError
from cas_cache.repository import is_url, without_credentials

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
        ConfigurationError: If two remotes are named, or the location is empty.
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
    remote = remote if remote is None else settings.remotes.get(remote, remote)
    if location is not None:
        return location, remote
    return settings.directory / ("local" if remote is None else _slug(remote)), remote


def _slug(url: str) -> str:
    """A folder name for a remote's mirror: readable, and unlike any other remote's."""
    shown = without_credentials(url) if is_url(url) else str(Path(url).expanduser().absolute())
    readable = re.sub(r"[^A-Za-z0-9]+", "-", shown).strip("-")[:60]
    return f"{readable}-{hashlib.sha256(shown.rstrip('/').encode()).hexdigest()[:8]}"
