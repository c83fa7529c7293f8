"""`cas-cache keys`, the settings, and the files of signing keys: nothing of a private key is ever shown."""

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cas_cache import EmbeddingCache, Signing
from cas_cache.config.keyring import new_signing_key, signing_keys, trust_of
from cas_cache.config.settings import Settings, keys_folder
from cas_cache.errors import ConfigurationError, MissingDependency
from cas_cache.format.signing import Signer, Trust, new_private_key
from storages import SPEC, texts, truth

TEXTS = texts(4)


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))


def test_new_and_list(run: Any) -> None:
    """A key is made, listed, and, once the settings trust it, shown as trusted; another user's is told from it."""
    made = run("keys", "new", "alice")
    assert made.code == 0
    public = made.out.strip()
    assert Trust({"alice": public}).keys == {public}
    assert f'trusted_keys.alice = "{public}"' in made.err
    assert run("keys", "list").out.splitlines()[2:] == [f"alice        {public}  signing"]
    other = Signer(new_private_key()).public
    file = keys_folder().parent / "config.toml"
    file.write_text(f'trust = "signed-by"\n[trusted_keys]\nzoe = "{other}"\nme = "{public}"\n')
    document = json.loads(run("keys", "list", "--json").out)
    assert document == {
        "trust": "signed-by",
        "signing_key": None,
        "keys": [
            {"name": "me", "public": public, "signing": True, "trusted": True},
            {"name": "zoe", "public": other, "signing": False, "trusted": True},
        ],
    }
    shown = run("info", "--settings").out
    assert f"trusted_keys.me   {public}" in shown


def test_only_the_owner_may_read_a_private_key(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the umask is; and nothing that is printed has a line of it."""
    import os

    old = os.umask(0)
    try:
        made = run("keys", "new", "alice", "--json")
    finally:
        os.umask(old)
    file = Path(json.loads(made.out)["file"])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    private = file.read_text().splitlines()[1]
    told = subprocess.run([sys.executable, "-m", "cas_cache", "keys", "list", "-vv"], capture_output=True, check=True)
    assert b"alice" in told.stdout
    said = [
        told.stdout.decode(),
        told.stderr.decode(),
        made.out,
        made.err,
        *run("keys", "list"),
        repr(Signer(file.read_bytes())),
        repr(signing_keys()),
    ]
    assert not any(private in str(it) for it in said)


@pytest.mark.parametrize("name", ["", "..", "a/b", "/tmp/x", "-x", "a b", "x" * 65, "a\n"])
def test_names_that_are_none(name: str) -> None:
    """No name leads out of the folder of keys."""
    with pytest.raises(ConfigurationError, match="is not a name of a key"):
        new_signing_key(name)
    assert not keys_folder().exists()


def test_a_key_is_not_written_over(run: Any) -> None:
    key = new_signing_key("alice")
    before = key.file.read_bytes()
    refused = run("keys", "new", "alice")
    assert refused.code == 1
    assert "There is a key called alice" in refused.err
    assert key.file.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no private key in PEM"),
        (b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n", "no private key in PEM"),
        (b"\xff\xfe\x00", "no private key in PEM"),
    ],
)
def test_files_that_are_no_key(tmp_path: Path, content: bytes, why: str) -> None:
    """The error names the file and says what to do, and nothing of what is in it."""
    file = tmp_path / "key.pem"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=why) as caught:
        EmbeddingCache(tmp_path / "cache", signing=Signing(signing_key=file))
    assert str(file) in str(caught.value)
    assert "cas-cache keys new" in str(caught.value)
    assert "c2VjcmV0" not in str(caught.value)


@pytest.mark.parametrize("signing", ["alice", {"signing_key": "alice"}, ("any",)])
def test_signing_is_a_signing(tmp_path: Path, signing: Any) -> None:
    """Anything else is an error that shows how to pass it, before a mirror is made."""
    with pytest.raises(ConfigurationError, match=r"Pass cas_cache\.Signing\("):
        EmbeddingCache(tmp_path / "cache", signing=signing)
    assert not (tmp_path / "cache").exists()


def test_keys_of_other_kinds(tmp_path: Path) -> None:
    """An RSA or an encrypted key is refused with a reason."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    encodings = (form.Encoding.PEM, form.PrivateFormat.PKCS8)
    with pytest.raises(ConfigurationError, match="another kind than Ed25519"):
        Signer(ec.generate_private_key(ec.SECP256R1()).private_bytes(*encodings, form.NoEncryption()))
    encrypted = ed25519.Ed25519PrivateKey.generate().private_bytes(*encodings, form.BestAvailableEncryption(b"word"))
    with pytest.raises(ConfigurationError, match="without a password"):
        Signer(encrypted)


@pytest.mark.parametrize(
    "public", ["", "alice", "ed25519:", "ed25519:AAAA", "ssh-ed25519 AAAA", "ed25519:" + "A" * 42 + "B="]
)
def test_public_keys_that_are_none(public: str) -> None:
    with pytest.raises(ConfigurationError, match="not a public key"):
        Trust({"alice": public})


def test_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The variables win over the files; what is none is an error."""
    one, other = (Signer(new_private_key()).public for _ in range(2))
    keys_folder().parent.mkdir(parents=True)
    (keys_folder().parent / "config.toml").write_text(f'trust = "signed-by"\n[trusted_keys]\nalice = "{one}"\n')
    trust, signer = trust_of(Settings.read())
    assert trust is not None
    assert (trust.names, signer) == ({one: "alice"}, None)
    monkeypatch.setenv("CAS_CACHE_TRUSTED_KEYS", f"bob={other}, ")
    settings = Settings.read()
    assert settings.trusted_keys == {"bob": other}
    assert settings.sources["trusted_keys.bob"] == "CAS_CACHE_TRUSTED_KEYS"
    assert "trusted_keys.alice" not in settings.sources
    key = new_signing_key("ci")
    for how in ("ci", str(key.file)):
        monkeypatch.setenv("CAS_CACHE_SIGNING_KEY", how)
        signer = trust_of(Settings.read())[1]
        assert signer is not None
        assert signer.public == key.public
    monkeypatch.setenv("CAS_CACHE_TRUST", "any")
    assert trust_of(Settings.read())[0] is None
    for variable, value, match in (
        ("CAS_CACHE_TRUST", "nobody", "is not one of 'any', 'signed-by'"),
        ("CAS_CACHE_SIGNING_KEY", "carol", "There is no signing key 'carol'"),
        ("CAS_CACHE_TRUSTED_KEYS", "alice", "is not of the form"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            with pytest.raises(ConfigurationError, match=match):
                trust_of(Settings.read())
    monkeypatch.setenv("CAS_CACHE_TRUST", "signed-by")
    monkeypatch.setenv("CAS_CACHE_TRUSTED_KEYS", "")
    with pytest.raises(ConfigurationError, match="no key is trusted"):
        trust_of(Settings.read())


def test_commands(run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Push, pull, check, compact and search as the settings say."""
    remote = str(tmp_path / "repository")
    for name in ("alice", "forger"):
        key = new_signing_key(name)
        monkeypatch.setenv("CAS_CACHE_SIGNING_KEY", name)
        with EmbeddingCache(tmp_path / name, remote=remote) as cache:
            cache.put(TEXTS[:2] if name == "alice" else TEXTS[2:], truth(TEXTS[:2]), SPEC)
        if name == "alice":
            monkeypatch.setenv("CAS_CACHE_TRUSTED_KEYS", f"alice={key.public}")
    monkeypatch.delenv("CAS_CACHE_SIGNING_KEY")
    monkeypatch.setenv("CAS_CACHE_TRUST", "signed-by")
    mirror = tmp_path / "mirror"
    pulled = run("pull", mirror, "--remote", remote)
    assert (pulled.code, pulled.out.split(",")[0]) == (0, "pulled 1 pack")
    assert "left out: 1 pack that no trusted key has signed" in pulled.err
    assert json.loads(run("pull", mirror, "--remote", remote, "--json").out)["untrusted"] == 1
    checked = run("check", "--remote", remote)
    assert checked.code == 1
    assert "untrusted" in checked.out
    assert "none of the trusted keys" in checked.out
    refused = run("compact", "--remote", remote)
    assert (refused.code, "signing_key" in refused.err) == (1, True)
    listed = json.loads(run("ls", "--remote", remote, "--repository", "--json").out)
    assert [(it["packs"], it["rows"]) for it in listed["namespaces"]] == [(1, 2)]
    refused = run("export", tmp_path / "forger", tmp_path / "out.npy", "--namespace", SPEC.namespace, "--format", "npy")
    assert refused.code == 1
    assert "packs of anybody" in refused.err
    assert not (tmp_path / "out.npy").exists()


def test_without_cryptography(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is named; who neither signs nor asks for signatures needs none."""
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric", None)
    with pytest.raises(MissingDependency, match=r"pip install cryptography$"):
        new_private_key()


def test_cryptography_is_imported_only_where_it_is_used(tmp_path: Path) -> None:
    code = (
        "import sys; from cas_cache import EmbeddingCache; EmbeddingCache(sys.argv[1]).close();"
        "assert not any(it.startswith('cryptography') for it in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "cache"], check=True)


def test_trusted_keys_without_names_are_refused() -> None:
    """A list of keys is not a mapping of names to keys: the error shows the form."""
    with pytest.raises(ConfigurationError, match=r"trusted_keys is a list\. Pass public keys by name"):
        trust_of(Settings.read(), Signing(trust="signed-by", trusted_keys=["ed25519:AAAA"]))  # type: ignore[arg-type]
