"""Trusted keys and the signing key, from arguments and settings, and the files of signing keys.

A signing key is a PEM file that only its owner may read, in the user's configuration directory or at a given path. Its
content is never printed or transferred.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cas_cache.config.settings import keys_folder
from cas_cache.errors import ConfigurationError
from cas_cache.files.disk import flush
from cas_cache.format.signing import Signer, Trust, new_private_key

if TYPE_CHECKING:
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


@dataclass(frozen=True, slots=True)
class Signing:
    """Which packs a cache reads, and how it signs the packs that it pushes.

    Attributes:
        trust: ``"any"`` reads all packs, ``"signed-by"`` only those signed by `trusted_keys`. None takes
            ``CAS_CACHE_TRUST``, or ``"any"``.
        trusted_keys: Public keys by name, as ``cas-cache keys new`` prints them. None takes those of the settings.
        signing_key: Private key that signs pushed packs: its name in ``cas-cache keys list``, or its file. None takes
            ``CAS_CACHE_SIGNING_KEY``; if that is not set, packs are not signed.
    """

    trust: Literal["any", "signed-by"] | None = None
    trusted_keys: Mapping[str, str] | None = None
    signing_key: str | Path | None = None

    def with_settings(self, settings: Settings) -> Signing:
        """Return a copy that has the settings where this one has None."""
        given = {name: getattr(self, name) for name in ("trust", "trusted_keys", "signing_key")}
        return Signing(**{name: getattr(settings, name) if value is None else value for name, value in given.items()})


def trust_of(settings: Settings, signing: Signing | None = None) -> tuple[Trust | None, Signer | None]:
    """Return the keys to trust, None for everybody, and the key to sign with, None for no signatures.

    Args:
        settings: The settings that apply where `signing` has None.
        signing: What to trust and how to sign; None for the settings.

    Raises:
        ConfigurationError: If a value is not valid.
        MissingDependency: If cryptography is needed and not installed.
    """
    if not isinstance(signing, Signing | None):
        raise ConfigurationError(
            f"signing is a {type(signing).__name__}. Pass cas_cache.Signing(trust=, trusted_keys=, signing_key=)."
        )
    signing = (signing or Signing()).with_settings(settings)
    if not isinstance(signing.trusted_keys, Mapping | None):
        raise ConfigurationError(
            f"trusted_keys is a {type(signing.trusted_keys).__name__}. Pass public keys by name: "
            '{"alice": "ed25519:..."}.'
        )
    if signing.trust not in CHOICES:
        raise ConfigurationError(f"trust={signing.trust!r} is not one of {', '.join(map(repr, CHOICES))}.")
    trust = Trust(signing.trusted_keys or {}) if signing.trust == "signed-by" else None
    return trust, None if signing.signing_key is None else _signer(signing.signing_key)


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
            f"There is no signing key {str(key)!r}: neither in {keys_folder()} nor as a file that can be read "
            f"({err.strerror}). `cas-cache keys new` makes one, `cas-cache keys list` lists them."
        ) from err
    try:
        return Signer(pem)
    except ConfigurationError as err:
        raise ConfigurationError(f"{file} is not a signing key. {err} `cas-cache keys new` makes one.") from err
