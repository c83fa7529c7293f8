"""Trusted keys and the signing key, from arguments and settings, and the files of signing keys.

A signing key is a PEM file that only its owner may read, in the user's configuration directory or at a given path. Its
content is never printed or transferred.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cas_cache.config.settings import keys_folder
from cas_cache.errors import ConfigurationError
from cas_cache.files.disk import flush
from cas_cache.format.signing import Signer, Trust, new_private_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cas_cache.config.settings import Settings

CHOICES = ("any", "signed-by")

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
SUFFIX = ".pem"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key that is stored on this machine.

    Attributes:
        name: Name of the key.
        file: Path of the file.
        public: The public key, ``ed25519:`` and base64.
    """

    name: str
    file: Path
    public: str


def trust_of(
    settings: Settings,
    trust: str | None = None,
    trusted_keys: Mapping[str, str] | None = None,
    signing_key: str | Path | None = None,
) -> tuple[Trust | None, Signer | None]:
    """Return the keys to trust, None for everybody, and the key to sign with, None for no signatures.

    Args:
        settings: The settings that apply where an argument is None.
        trust: ``"any"`` or ``"signed-by"``.
        trusted_keys: Public keys by name.
        signing_key: A name of `signing_keys`, or a file.

    Raises:
        ConfigurationError: If one of them is not valid.
        MissingDependency: If cryptography is needed and not installed.
    """
    choice = settings.trust if trust is None else trust
    if choice not in CHOICES:
        raise ConfigurationError(f"trust={choice!r} is not one of {', '.join(map(repr, CHOICES))}.")
    key = settings.signing_key if signing_key is None else signing_key
    keys = settings.trusted_keys if trusted_keys is None else trusted_keys
    return Trust(keys) if choice == "signed-by" else None, None if key is None else _signer(key)


def new_signing_key(name: str) -> SigningKey:
    """Generate a signing key and store it in a file that only its owner may read.

    Raises:
        ConfigurationError: If the name is not valid, or is taken.
        MissingDependency: If cryptography is not installed.
    """
    if not NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} is not a name of a key: letters, digits, '.', '_' and '-', at most 64, the first a letter or "
            "digit."
        )
    pem = new_private_key()
    file = keys_folder() / f"{name}{SUFFIX}"
    try:
        file.parent.mkdir(0o700, parents=True, exist_ok=True)
        # Created with its mode, so that no other user can read it, not even for a moment.
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(pem)
            opened.flush()
            os.fsync(opened.fileno())
        flush(file.parent)
    except FileExistsError as err:
        raise ConfigurationError(f"There is a key called {name} at {file}. Choose another name.") from err
    except OSError as err:
        raise ConfigurationError(f"The key could not be kept at {file} ({err}).") from err
    return SigningKey(name, file, Signer(pem).public)


def signing_keys() -> list[SigningKey]:
    """Return the signing keys of this user, by name.

    Raises:
        ConfigurationError: If a file is not a signing key.
        MissingDependency: If a key exists and cryptography is not installed.
    """
    folder = keys_folder()
    if not folder.is_dir():
        return []
    return [
        SigningKey(file.stem, file, _signer(file).public) for file in sorted(folder.iterdir()) if file.suffix == SUFFIX
    ]


def _signer(key: str | Path) -> Signer:
    """Return the signing key with a name or in a file."""
    is_name = isinstance(key, str) and NAME.fullmatch(key) and (keys_folder() / f"{key}{SUFFIX}").exists()
    file = keys_folder() / f"{key}{SUFFIX}" if is_name else Path(key).expanduser()
    try:
        pem = file.read_bytes()
    except OSError as err:
        raise ConfigurationError(
            f"There is not a signing key {str(key)!r}: neither in {keys_folder()} nor as a file that can be read "
            f"({err.strerror}). `cas-cache keys new` makes one, `cas-cache keys list` lists them."
        ) from err
    try:
        return Signer(pem)
    except ConfigurationError as err:
        raise ConfigurationError(f"{file} is not a signing key. {err} `cas-cache keys new` makes one.") from err
