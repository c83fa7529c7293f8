"""Settings from the environment and two files. The only reader of ``os.environ`` and of configuration in this package.

An argument overrides a setting. Among settings, the order is: ``CAS_CACHE_*`` in the environment, ``[tool.cas_cache]``
of the nearest ``pyproject.toml`` above the working directory, ``config.toml`` in the user's configuration directory.
Credentials are not settings: fsspec and the clouds' SDKs find their own.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import platformdirs

from cas_cache.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"", "0", "false", "no", "off"}

KINDS: Mapping[str, type] = {
    "directory": str,
    "remote": str,
    "offline": bool,
    "read_only": bool,
    "only_cached": bool,
    "lazy": bool,
    "self_check": int,
    "max_self_check": int,
    "push_seconds": int,
    "progress": bool,
    "trust": str,
    "signing_key": str,
}
"""Name of each setting, and its type in a file. Its variable is ``CAS_CACHE_`` and its name, except for the first."""

VARIABLES = {name: f"CAS_CACHE_{name.upper()}" for name in KINDS} | {"directory": "CAS_CACHE_DIR"}

TABLES: Mapping[str, str] = {
    "remotes": 'URLs, such as team = "s3://bucket/prefix"',
    "trusted_keys": 'public keys, such as alice = "ed25519:..."',
}
"""Settings that are tables of texts by name, with a description of the texts."""

TRUSTED_KEYS = "CAS_CACHE_TRUSTED_KEYS"
"""Variable for `trusted_keys`: ``alice=ed25519:...,bob=ed25519:...``. It replaces the keys of the files."""

DEFAULT = "default"

MAX_DIGITS = 18
"""Maximum number of digits of a number. No repository has more rows, and Python refuses to parse thousands of
digits."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings in force.

    Attributes:
        directory: Directory of mirrors; by default the user's cache directory.
        remote: URL of the repository, or the name of a URL, or None.
        offline: Never use the network.
        read_only: Never write to the repository.
        only_cached: Never encode.
        lazy: Pull only requested vectors.
        self_check: Minimum number of rows pushed by others to compare; None leaves the default.
        max_self_check: Maximum number of rows that one call may compare; None for no limit.
        push_seconds: Maximum time that a row is pending before a background push starts; None leaves the default.
        progress: Show progress bars; None shows them on a terminal only.
        trust: ``"any"`` or ``"signed-by"``; see `Trust`.
        signing_key: Private key that signs new packs: its name, or its file; None for no signature.
        remotes: URLs by name.
        trusted_keys: Public keys by name.
        sources: Source of each of these settings: a variable, a file, or ``"default"``. The two tables are listed as
            ``remotes.NAME`` and ``trusted_keys.NAME``.
    """

    directory: Path
    remote: str | None = None
    offline: bool = False
    read_only: bool = False
    only_cached: bool = False
    lazy: bool = False
    self_check: int | None = None
    progress: bool | None = None
    max_self_check: int | None = None
    push_seconds: int | None = None
    trust: str = "any"
    signing_key: str | None = None
    remotes: Mapping[str, str] = field(default_factory=dict)
    trusted_keys: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    @classmethod
    def read(cls) -> Settings:
        """Read environment and files now.

        Raises:
            ConfigurationError: If a value is not valid for its setting, or a file has an unknown setting.
        """
        values: dict[str, tuple[Any, str]] = {}
        tables: dict[str, dict[str, str]] = {name: {} for name in TABLES}
        for path, document in _files():
            for name, value in _checked_settings(path, document).items():
                values[name] = value, str(path)
            for table in TABLES:
                for name, text in _table(path, document, table).items():
                    tables[table][name] = text
                    values[f"{table}.{name}"] = text, str(path)
        for name, variable in VARIABLES.items():
            value = _of_environment(name, variable)
            if value is not None:
                values[name] = value, variable
        keys = _keys_of_environment()
        if keys is not None:
            values = {name: source for name, source in values.items() if not name.startswith("trusted_keys.")}
            values |= {f"trusted_keys.{name}": (key, TRUSTED_KEYS) for name, key in keys.items()}
            tables["trusted_keys"] = keys
        chosen: dict[str, Any] = {name: value for name, (value, _) in values.items() if name in KINDS}
        directory = chosen.pop("directory", None)
        return cls(
            directory=expanded(directory) if directory else _user_directory("cache"),
            sources={**dict.fromkeys(KINDS, DEFAULT), **{name: source for name, (_, source) in values.items()}},
            **(chosen | tables),
        )


def expanded(path: str | Path) -> Path:
    """Return a path with ``~`` replaced by the home directory.

    Raises:
        ConfigurationError: If that home directory does not exist, or the path has characters that no path can have.
    """
    try:
        os.fsencode(path)
        if "\0" in str(path):
            msg = "a zero byte"
            raise ValueError(msg)
        return Path(path).expanduser()
    except (RuntimeError, ValueError) as err:
        raise ConfigurationError(f"{str(path)!r} cannot be a path ({err}). Name a directory, such as ./cache.") from err


def user_file() -> Path:
    """Return the path of the user's settings."""
    return _user_directory("config") / "config.toml"


def keys_folder() -> Path:
    """Return the folder in which the user's signing keys are stored by name.

    Raises:
        ConfigurationError: If the user has no home directory.
    """
    return expanded(user_file().parent / "keys")


def _user_directory(purpose: Literal["cache", "config"]) -> Path:
    """Return the user's directory for a purpose; below ``~``, which `expanded` refuses, if the user has no home.

    A container often runs as a user id without an entry, and without HOME; a directory must then be named.
    """
    find = platformdirs.user_cache_dir if purpose == "cache" else platformdirs.user_config_dir
    try:
        return Path(find("cas_cache"))
    except RuntimeError as err:
        logger.info("there is no home directory: %s", err)
        return Path(f"~/.{purpose}/cas_cache")


def _files() -> list[tuple[Path, dict[str, Any]]]:
    """Return the existing files, the strongest last."""
    documents = []
    path = user_file()
    if path.is_absolute() and _exists(path):
        documents.append((path, _parse_toml(path)))
    try:
        working = Path.cwd()
    except FileNotFoundError:
        return documents  # the working directory was deleted
    folders = (working, *working.parents)
    project = next((f for folder in folders if _exists(f := folder / "pyproject.toml")), None)
    if project is not None:
        tool = _parse_toml(project).get("tool", {})
        table = tool.get("cas_cache") if isinstance(tool, dict) else None
        if table is not None and not isinstance(table, dict):
            raise ConfigurationError(f"{project}: tool.cas_cache must be a table, [tool.cas_cache].")
        if table is not None:
            documents.append((project, table))
    return documents


def _exists(path: Path) -> bool:
    """Return True if a file exists and this user may look: a service often has the home directory of another user."""
    try:
        return path.is_file()
    except OSError as err:
        logger.info("no settings are taken from %s: %s", path, err)
        return False


def _parse_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (ValueError, OSError, RecursionError) as err:
        raise ConfigurationError(f"{path} cannot be read as TOML ({err}). Mend it, or move it away.") from err


def _checked_settings(path: Path, document: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of one file, after checking their names and types."""
    settings = {name: value for name, value in document.items() if name not in TABLES}
    for name, value in settings.items():
        if name not in KINDS:
            near = difflib.get_close_matches(name, [*KINDS, *TABLES], n=1)
            known = f" There are {', '.join(KINDS)}, and the tables {' and '.join(TABLES)}."
            meant = f" Did you mean {near[0]}?" if near else known
            raise ConfigurationError(f"{path} has an unknown setting {name!r}.{meant}")
        if type(value) is not KINDS[name] or (isinstance(value, int) and value < 0):
            raise ConfigurationError(f"{path}: {name} must be {_WHAT[KINDS[name]]}.")
    return settings


def _table(path: Path, document: dict[str, Any], name: str) -> dict[str, str]:
    table = document.get(name, {})
    if not isinstance(table, dict) or not all(isinstance(text, str) and text for text in table.values()):
        raise ConfigurationError(f"{path}: {name} must be a table of {TABLES[name]}.")
    return table


def _keys_of_environment() -> dict[str, str] | None:
    """Return the public keys of the variable by name; None if it is not set."""
    text = os.environ.get(TRUSTED_KEYS)
    if text is None:
        return None
    pairs = [part.strip().partition("=") for part in text.split(",") if part.strip()]
    if not all(name and key for name, _, key in pairs):
        raise ConfigurationError(f"{TRUSTED_KEYS} is not of the form alice=ed25519:...,bob=ed25519:... Mend it.")
    return {name.strip(): key.strip() for name, _, key in pairs}


def _of_environment(name: str, variable: str) -> Any:
    """Return the value of a variable; None if it is not set."""
    text = os.environ.get(variable)
    if text is None:
        return None
    if KINDS[name] is str:
        return text or None
    text = text.strip()
    if KINDS[name] is bool:
        if text.lower() in _TRUE | _FALSE:
            return text.lower() in _TRUE
        raise ConfigurationError(f"{variable}={os.environ[variable]!r} is neither on nor off. Set it to 1 or 0.")
    if not text:
        return None
    if text.isdecimal() and len(text) <= MAX_DIGITS:
        return int(text)
    raise ConfigurationError(f"{variable}={os.environ[variable]!r} is not a whole number. Set it to 0 or more.")


_WHAT = {str: "a text in quotes", bool: "true or false", int: "a number, 0 or more"}

_CLOUD_SECRET = re.compile(
    r"AWS_(ACCESS_KEY_ID|SECRET_ACCESS_KEY|SESSION_TOKEN)|AZURE_.*(KEY|TOKEN|SECRET|PASSWORD|CONNECTION_STRING)"
    r"|FSSPEC_.*(KEY|SECRET|TOKEN|PASS|CREDENTIAL|CONNECTION_STRING).*"
)
_MIN_SECRET_LENGTH = 6
"""Minimum length of a secret. Shorter values are placeholders such as "test", found in any text."""


def cloud_secrets() -> tuple[str, ...]:
    """Return the values of the clouds' variables that must not be printed. They are read for no other purpose."""
    values = (value for name, value in os.environ.items() if _CLOUD_SECRET.fullmatch(name))
    return tuple(value for value in values if len(value) >= _MIN_SECRET_LENGTH)
