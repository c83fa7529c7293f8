"""Settings from the environment. The only reader of ``os.environ`` in this package.

An argument always wins over a setting. Credentials are not ours: fsspec and the clouds' SDKs find their own.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from cas_cache.errors import ConfigurationError

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"", "0", "false", "no", "off"}


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment says.

    Attributes:
        directory: ``CAS_CACHE_DIR``, where mirrors are; by default the user's cache directory.
        remote: ``CAS_CACHE_REMOTE``, the repository's URL, or None.
        offline: ``CAS_CACHE_OFFLINE``: never touch the network.
        read_only: ``CAS_CACHE_READ_ONLY``: never write to the repository.
        self_check: ``CAS_CACHE_SELF_CHECK``: how many rows that others pushed are compared; None leaves the default.
        progress: ``CAS_CACHE_PROGRESS``: show progress bars; None leaves it to the terminal.
    """

    directory: Path
    remote: str | None
    offline: bool
    read_only: bool
    self_check: int | None
    progress: bool | None

    @classmethod
    def read(cls) -> Settings:
        """Read the environment now.

        Raises:
            ConfigurationError: If a switch is neither on nor off, or a number is none.
        """
        directory = os.environ.get("CAS_CACHE_DIR")
        return cls(
            directory=Path(directory).expanduser() if directory else Path(platformdirs.user_cache_dir("cas_cache")),
            remote=os.environ.get("CAS_CACHE_REMOTE") or None,
            offline=bool(_switch("CAS_CACHE_OFFLINE")),
            read_only=bool(_switch("CAS_CACHE_READ_ONLY")),
            self_check=_count("CAS_CACHE_SELF_CHECK"),
            progress=_switch("CAS_CACHE_PROGRESS"),
        )


def _count(name: str) -> int | None:
    value = os.environ.get(name)
    if value is None or not value.strip():
        return None
    if value.strip().isdecimal():
        return int(value)
    raise ConfigurationError(f"{name}={value!r} is no number of rows. Set it to 0 or more.")


def _switch(name: str) -> bool | None:
    value = os.environ.get(name)
    if value is None:
        return None
    if value.strip().lower() in _TRUE:
        return True
    if value.strip().lower() in _FALSE:
        return False
    raise ConfigurationError(f"{name}={value!r} is neither on nor off. Set it to 1 or 0.")
