"""Signed manifests: restrict whose packs are read, where write permission alone is not enough.

A signature is a field of the manifest and covers the rest of it: the namespace, the superseded packs, and size and
SHA-256 of every object. The pack's id is the hash of the manifest with its signature. Signing therefore needs no
additional request, a pack is never visible without its signature, and a retry makes the same bytes, because Ed25519
(RFC 8032) is deterministic.

A signature does not prove that a vector comes from the encoder. The self-check tests that, and the signer is
responsible for it.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cas_cache.errors import ConfigurationError, IdentityError, MissingDependency
from cas_cache.format.manifest import Manifest, Signature
from cas_cache.identity import canonical_json, parsed_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

PREFIX = "ed25519:"
"""Prefix of a public key; the base64 of its 32 bytes follows."""

KEY_BYTES, SIGNATURE_BYTES = 32, 64

CONTEXT = b"cas-cache-pack signature version 1\n"
"""Beginning of the signed bytes, so that a signature of anything else is never the signature of a manifest."""


class Trust:
    """The public keys whose packs are read.

    Args:
        keys: Public keys by name, each ``ed25519:`` and base64.

    Attributes:
        names: The names by key.

    Raises:
        ConfigurationError: If there is no key, or one is not a public key.
        MissingDependency: If cryptography is not installed.
    """

    def __init__(self, keys: Mapping[str, str]) -> None:
        if not keys:
            raise ConfigurationError(
                'trust is "signed-by" and no key is trusted, so no pack could be read. Name some as trusted_keys: '
                '`cas-cache keys new` makes one, {"alice": "ed25519:..."} is the form.'
            )
        self.names = {public: name for name, public in keys.items()}
        self._keys = {public: _verifier(_decode_public_key(public, name)) for name, public in keys.items()}

    def __repr__(self) -> str:
        return f"Trust({', '.join(sorted(self.names.values()))})"

    @property
    def keys(self) -> frozenset[str]:
        """The trusted public keys."""
        return frozenset(self.names)

    def why_not(self, data: bytes, signature: Signature | None) -> str | None:
        """Return the reason why a manifest is not trusted; None if it is.

        Args:
            data: The bytes of the manifest, as stored.
            signature: The signature in the manifest; None if it has none.
        """
        if signature is None:
            return "it is not signed"
        if signature.key not in self._keys:
            return f"it is signed by {signature.key}, which is none of the trusted keys"
        from cryptography.exceptions import InvalidSignature

        try:
            value = base64.b64decode(signature.value, validate=True)
            self._keys[signature.key].verify(value, _signed_bytes(data, signature.key, value))
        except (InvalidSignature, ValueError, IdentityError):
            return f"its signature by {self.names[signature.key]} does not verify"
        return None


class Signer:
    """A private key that signs manifests.

    Args:
        pem: The key as unencrypted PKCS #8, which `openssl genpkey -algorithm ed25519` also writes.

    Attributes:
        public: The public key, ``ed25519:`` and base64.

    Raises:
        ConfigurationError: If it is not such a key.
        MissingDependency: If cryptography is not installed.
    """

    def __init__(self, pem: bytes) -> None:
        serialization, ed25519 = _serialization(), _ed25519()
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, _unsupported()) as err:
            # The text of `err` is not shown: it may quote the file.
            raise ConfigurationError("It holds no private key in PEM that can be read without a password.") from err
        if not isinstance(key, ed25519.Ed25519PrivateKey):
            raise ConfigurationError("It holds a key of another kind than Ed25519.")
        self._key = key
        self.public = public_text(key.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"Signer({self.public})"

    def signed(self, manifest: Manifest) -> Manifest:
        """Return a manifest with a signature."""
        value = self._key.sign(CONTEXT + replace(manifest, signature=None).to_bytes())
        return replace(manifest, signature=Signature(self.public, base64.b64encode(value).decode()))


def new_private_key() -> bytes:
    """Generate a private key; return it as PEM (PKCS #8).

    Raises:
        MissingDependency: If cryptography is not installed.
    """
    serialization = _serialization()
    pem: bytes = (
        _ed25519()
        .Ed25519PrivateKey.generate()
        .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pem


def public_text(raw: bytes) -> str:
    """Return a public key of 32 bytes as text."""
    return PREFIX + base64.b64encode(raw).decode()


def _signed_bytes(data: bytes, key: str, value: bytes) -> bytes:
    """Return the bytes that the signature of a stored manifest covers.

    Raises:
        ValueError: If the manifest, signature included, is not in canonical form. Otherwise the hashed bytes and the
            parsed content could differ, and one signed content could have several names.
    """
    document = parsed_json(data)
    signature = document.pop("signature")
    canonical = {"key": key, "value": base64.b64encode(value).decode()}
    if signature != canonical or canonical_json({**document, "signature": canonical}) != data:
        msg = "not canonical"
        raise ValueError(msg)
    return CONTEXT + canonical_json(document)


def _decode_public_key(public: str, name: str) -> bytes:
    try:
        raw = base64.b64decode(public.removeprefix(PREFIX), validate=True) if public.startswith(PREFIX) else b""
    except (binascii.Error, ValueError):
        raw = b""
    # Accept one spelling per key only: base64 has several for the same bytes.
    if len(raw) != KEY_BYTES or public_text(raw) != public:
        raise ConfigurationError(
            f"The trusted key {name} is {public!r}, which is not a public key. It is {PREFIX} and 44 characters, as "
            "`cas-cache keys list` prints it."
        )
    return raw


def _verifier(raw: bytes) -> Any:
    return _ed25519().Ed25519PublicKey.from_public_bytes(raw)


def _ed25519() -> ModuleType:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as err:
        raise MissingDependency.of_package("Signing packs", "cryptography") from err
    return ed25519


def _serialization() -> ModuleType:
    _ed25519()
    from cryptography.hazmat.primitives import serialization

    return serialization


def _unsupported() -> type[Exception]:
    from cryptography.exceptions import UnsupportedAlgorithm

    return UnsupportedAlgorithm
