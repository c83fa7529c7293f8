"""docs/spec/v1.md: its JSON blocks are what the code reads, its test vectors what the code computes."""

import base64
import hashlib
import re

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from cas_cache.format.manifest import Manifest, pack_id
from cas_cache.format.marker import checked_marker
from cas_cache.format.rows import digest_rows
from cas_cache.format.signing import Signer
from cas_cache.format.zarr_metadata import zarr_documents
from cas_cache.identity import EncoderSpec, canonical_json, keys_of_rows, keys_of_texts
from paths import ROOT

SPEC = (ROOT / "docs" / "spec" / "v1.md").read_text("utf-8")
JSON_BLOCK = re.compile(r"^```json\n(.*?)\n```$", re.DOTALL | re.MULTILINE)
MARKER, ENCODER, MANIFEST = (block.encode() for block in JSON_BLOCK.findall(SPEC))


def test_the_marker_is_one() -> None:
    """The marker of the spec is accepted, and canonical."""
    assert canonical_json(checked_marker(MARKER, "spec")) == MARKER


def test_the_encoder_spec_has_the_id_it_says() -> None:
    """The encoder spec is read back, and its namespace id stands in the text."""
    assert f"`{EncoderSpec.from_canonical(ENCODER).namespace}` for the spec above" in SPEC


def test_the_manifest_has_the_id_it_says() -> None:
    """The manifest is read back unchanged, and the beginning of its pack id stands in the text."""
    assert Manifest.from_bytes(MANIFEST).to_bytes() == MANIFEST
    assert f"(`{pack_id(MANIFEST)[:8]}...` above)" in SPEC


@pytest.mark.parametrize(("number", "name"), [(0, "zarr.json"), (1, "vectors/zarr.json")])
def test_the_metadata_is_what_the_manifest_names(number: int, name: str) -> None:
    """Byte for byte, as it stands in the text, as we write it, and as its hash says."""
    block = re.findall(r"^```text\n(\{.*?)\n```$", SPEC, re.DOTALL | re.MULTILINE)[number].encode()
    manifest = Manifest.from_bytes(MANIFEST)
    assert zarr_documents(manifest)[name] == block
    assert manifest.objects[name].sha256 == hashlib.sha256(block).hexdigest()


def test_the_signature() -> None:
    """The key of RFC 8032, 7.1, test 1, and what it makes of the manifest; the signature verifies."""
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    key = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    signed = Signer(key.private_bytes(*form)).signed(Manifest.from_bytes(MANIFEST))
    assert signed.signature is not None
    assert f"`{signed.signature.key}`" in SPEC
    assert f"`{signed.signature.value}`" in SPEC
    assert f"`{pack_id(signed.to_bytes())[:8]}...` then" in SPEC
    # By the text alone, with nothing of ours.
    content = b"cas-cache-pack signature version 1\n" + MANIFEST
    public = base64.b64decode(signed.signature.key.removeprefix("ed25519:"))
    value = base64.b64decode(signed.signature.value)
    ed25519.Ed25519PublicKey.from_public_bytes(public).verify(value, content)


@pytest.mark.parametrize("text", ["", "apple", "\u00e9", "e\u0301", "\U0001f600"])
def test_keys_of_texts(text: str) -> None:
    """Every key in the table is the SHA-256 of its text, by hashlib and by us."""
    key = keys_of_texts([text]).tobytes().hex()
    assert key == hashlib.sha256(text.encode()).hexdigest()
    assert f"`{key}`" in SPEC


def test_key_of_a_row() -> None:
    """The key of the row with two fields stands in the text."""
    key = keys_of_rows({"text": ["a"], "title": ["b"]}, ("text", "title")).tobytes().hex()
    assert f"`{key}`" in SPEC


def test_row_digests() -> None:
    """The digests of the two example rows stand in the text, and the example pack holds just them."""
    keys = keys_of_texts(["apple", "pear"])
    vectors = np.array([[5, 1], [4, 1]], np.float32)
    digests = digest_rows(keys, vectors)
    assert all(str(digest) in SPEC for digest in digests)
    objects = Manifest.from_bytes(MANIFEST).objects
    for name, array in (("keys/c/0/0", keys), ("vectors/c/0/0", vectors), ("digests/c/0", digests)):
        assert objects[name].sha256 == hashlib.sha256(array.tobytes()).hexdigest()
