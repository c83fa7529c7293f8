"""Under `signed-by` only what a trusted key signed is there: for pull, lazy reads, compact, prune, and in the mirror.

The forger of these tests may write and delete whatever the storage holds, and has a key of her own.
"""

import base64
import hashlib
import json
import string
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cas_cache import EmbeddingCache, Signing, sync
from cas_cache.errors import (
    ConfigurationError,
    DamagedMirror,
    DamagedPack,
    DataWarning,
    UnsupportedFormat,
    UntrustedMirror,
    UntrustedPack,
)
from cas_cache.format import layout
from cas_cache.format.manifest import Manifest, Signature
from cas_cache.format.signing import Signer, Trust, new_private_key
from cas_cache.identity import canonical_json, keys_of_texts
from cas_cache.mirror import Mirror
from cas_cache.mirror.index import ABSENT
from cas_cache.repository import Repository
from cas_cache.repository.checking import check
from cas_cache.repository.compacting import compact
from cas_cache.repository.pruning import DAY, prune
from cas_cache.testing import MemoryStorage
from fault_injection import World
from forgery import collision
from storages import OTHER_SPEC, SPEC, Flaky, Machine, texts, truth
from tiers import sampled

ALICE, BOB, FORGER = (Signer(new_private_key()) for _ in range(3))
TRUST = Trust({"alice": ALICE.public, "bob": BOB.public})
ALL = texts(12)


@pytest.fixture
def storage(tmp_path: Path) -> MemoryStorage:
    """Return a repository with a pack of Alice, one of Bob, one that is not signed and one of the forger."""
    memory = MemoryStorage()
    for turn, signer in enumerate((ALICE, BOB, None, FORGER)):
        machine = Machine(tmp_path / f"author {turn}", memory, signer=signer)
        machine.encode(ALL[3 * turn : 3 * turn + 3])
        assert machine.push().packs == 1
    return memory


def reader(folder: Path, storage: Any, trust: Trust | None = TRUST) -> Machine:
    return Machine(folder / f"reader of {trust}", storage, trust=trust)


def manifests(storage: MemoryStorage) -> dict[str, Manifest]:
    repository = Repository(storage)
    return {pack: repository.manifest(namespace, pack) for namespace, pack in repository.packs()}


def signed_by(storage: MemoryStorage, signer: Signer | None) -> list[str]:
    key = None if signer is None else signer.public
    return [pack for pack, it in manifests(storage).items() if (it.signature.key if it.signature else None) == key]


def put_manifest(storage: MemoryStorage, data: bytes) -> str:
    pack = hashlib.sha256(data).hexdigest()
    storage.put(layout.manifest_path(SPEC.namespace, pack), data)
    return pack


def test_who_is_trusted_is_read(storage: MemoryStorage, tmp_path: Path) -> None:
    """Two of four packs; the others are no problem, and are told. Who trusts everybody reads all."""
    machine = reader(tmp_path, storage)
    report = machine.pull()
    assert machine.found(ALL) == ALL[:6]
    assert (report.packs, report.problems, report.hints) == (2, [], [])
    assert report.untrusted == {*signed_by(storage, None), *signed_by(storage, FORGER)}
    anybody = reader(tmp_path, storage, None)
    assert anybody.pull().untrusted == set()
    assert anybody.found(ALL) == ALL


def test_a_signature_costs_nothing_to_who_does_not_ask(storage: MemoryStorage) -> None:
    """The bytes of objects are the same; a manifest with a signature is read by any reader of the format."""
    (pack,) = signed_by(storage, ALICE)
    document = json.loads(storage.objects[layout.manifest_path(SPEC.namespace, pack)])
    assert document["features"] == []
    assert document.pop("signature").keys() == {"key", "value"}
    assert Manifest.from_bytes(canonical_json(document)) == replace(manifests(storage)[pack], signature=None)


def other_base64(text: str) -> str:
    """Return another text that decodes to the same bytes: of the last character four bits count for nothing."""
    others = (f"{text[:-3]}{last}==" for last in string.ascii_letters)
    return next(it for it in others if it != text and base64.b64decode(it, validate=True) == base64.b64decode(text))


FORGERIES: dict[str, Callable[[dict[str, Any]], None]] = {
    "no signature": lambda it: it.pop("signature"),
    "null": lambda it: it.update(signature=None),
    "the forger's key": lambda it: it["signature"].update(key=FORGER.public),
    "another trusted key": lambda it: it["signature"].update(key=BOB.public),
    "no value": lambda it: it["signature"].update(value=""),
    "no base64": lambda it: it["signature"].update(value="%%%"),
    "half a value": lambda it: it["signature"].update(value=it["signature"]["value"][:44]),
    "zeros": lambda it: it["signature"].update(value=base64.b64encode(bytes(64)).decode()),
    "another field": lambda it: it.update(extra=1),
    "a superseded pack": lambda it: it.update(supersedes=["0" * 64]),
    "another nonce": lambda it: it.update(nonce="0" * 32),
    "more of the signature": lambda it: it["signature"].update(more=1),
    "other base64 of the same bytes": lambda it: it["signature"].update(value=other_base64(it["signature"]["value"])),
}


@pytest.mark.parametrize("forgery", sampled(FORGERIES.values(), keep=4), ids=FORGERIES)
def test_forged_manifests(storage: MemoryStorage, tmp_path: Path, forgery: Callable[[dict[str, Any]], None]) -> None:
    """Whatever is changed, with a name that fits: it is not trusted."""
    (pack,) = signed_by(storage, ALICE)
    data = storage.objects[layout.manifest_path(SPEC.namespace, pack)]
    document = json.loads(data)
    forgery(document)
    forged = put_manifest(storage, canonical_json(document))
    repository = Repository(storage, trust=TRUST)
    with pytest.raises(UntrustedPack) as caught:
        repository.manifest(SPEC.namespace, forged)
    assert caught.value.pack == forged
    storage.delete(layout.manifest_path(SPEC.namespace, pack))
    machine = reader(tmp_path, storage)
    assert machine.pull().problems == []
    assert machine.found(ALL) == ALL[3:6]


def test_every_field_is_signed(storage: MemoryStorage) -> None:
    """Any byte of a signed manifest that is another makes it another's, or no manifest."""
    (pack,) = signed_by(storage, ALICE)
    data = storage.objects[layout.manifest_path(SPEC.namespace, pack)]
    why = TRUST.why_not

    @settings(max_examples=300, derandomize=True, deadline=None)
    @given(st.integers(0, len(data) - 1), st.integers(1, 255))
    def changed(at: int, by: int) -> None:
        bytes_ = bytearray(data)
        bytes_[at] ^= by
        try:
            manifest = Manifest.from_bytes(bytes(bytes_))
        except (ValueError, UnsupportedFormat):
            return
        assert why(bytes(bytes_), manifest.signature) is not None

    changed()
    assert why(data, Manifest.from_bytes(data).signature) is None


def test_other_bytes_of_the_same_document_are_not_signed(storage: MemoryStorage) -> None:
    """White space, escapes, a field twice: only the canonical form is what was signed."""
    (pack,) = signed_by(storage, ALICE)
    data = storage.objects[layout.manifest_path(SPEC.namespace, pack)]
    others = [
        data + b"\n",
        json.dumps(json.loads(data)).encode(),
        data.replace(b'"rows":3', b'"rows":9,"rows":3'),
        data.replace(b'"version":1', b'"version":1.0'),
        data.replace(b'"format"', b'"\\u0066ormat"'),
    ]
    for other in others:
        assert other != data
        assert TRUST.why_not(other, Manifest.from_bytes(data).signature) == "its signature by alice does not verify"


def test_a_signature_of_something_else_is_none_of_a_manifest(storage: MemoryStorage) -> None:
    """Bytes that were signed without our context, by whatever tool, are not taken for a manifest's."""
    (pack,) = signed_by(storage, ALICE)
    manifest = manifests(storage)[pack]
    value = ALICE._key.sign(replace(manifest, signature=None).to_bytes())
    forged = replace(manifest, signature=Signature(ALICE.public, base64.b64encode(value).decode()))
    assert TRUST.why_not(forged.to_bytes(), forged.signature) == "its signature by alice does not verify"


def test_check_says_why(storage: MemoryStorage, tmp_path: Path) -> None:
    """A finding for each pack that counts as not there, none for the others; without trust there is none."""
    (pack,) = signed_by(storage, BOB)
    document = json.loads(storage.objects[layout.manifest_path(SPEC.namespace, pack)])
    document["nonce"] = "0" * 32
    put_manifest(storage, canonical_json(document))
    report = check(Repository(storage, trust=TRUST), read_data=True)
    assert {it.kind for it in report.findings} == {"untrusted"}
    assert not report.clean
    said = sorted(it.what for it in report.findings)
    assert len(said) == 3
    assert f"it is signed by {FORGER.public}, which is none of the trusted keys" in said[1]
    assert "it is not signed" in said[0]
    assert "its signature by bob does not verify" in said[2]


def forge_row(storage: MemoryStorage, pack: str, row: int) -> np.ndarray:
    """Change a vector of a pack so that its digest stays; return what it is now."""
    path = layout.object_path(pack, "vectors/c/0/0")
    words = np.frombuffer(storage.objects[path], np.uint32).reshape(-1, 4).astype(np.int64)
    change = np.array(collision(4))
    forged = next(words[row] + k * change for k in (1, -1) if ((words[row] + k * change) >> 32 == 0).all())
    words[row] = forged
    storage.put(path, words.astype(np.uint32).tobytes())
    return words[row].astype(np.uint32).view(np.float32)


def test_a_forged_row_that_its_digest_does_not_show(storage: MemoryStorage, tmp_path: Path) -> None:
    """A digest stops no forger: who trusts signatures reads whole chunks, lazily too, and their SHA-256 stops her.

    That the other reader takes the row is what the threat model says of digests; a pull of all takes it from nobody.
    """
    (pack,) = signed_by(storage, ALICE)
    forged = forge_row(storage, pack, 1)
    keys = keys_of_texts(ALL)
    for trust in (None, TRUST):
        lazy = Machine(tmp_path / f"lazy {trust}", storage, trust=trust)
        sync.pull_keys(lazy.mirror, lazy.repository)
        report = sync.pull_rows(lazy.mirror, lazy.repository, SPEC.namespace, keys[:3])
        ns = lazy.mirror.get(SPEC.namespace)
        assert ns is not None
        if trust is None:
            np.testing.assert_array_equal(ns.take(ns.find(keys[1:2]))[0], forged)
        else:
            assert [type(it) for it in report.problems] == [DamagedPack]
            assert (ns.find(keys[:3]) == ABSENT).all()
        full = reader(tmp_path, storage, trust)
        assert [it.pack for it in full.pull().problems] == [pack]
        assert full.found(ALL) == (ALL[3:] if trust is None else ALL[3:6])


def test_lazy_reads_of_what_is_signed(storage: MemoryStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of several chunks, in any order, are those of a pull of all."""
    monkeypatch.setattr("cas_cache.repository.pack.CHUNK_BYTES", 64)
    author = Machine(tmp_path / "many", storage, signer=ALICE)
    many = texts(40)
    author.encode(many)
    author.push()
    lazy = Machine(tmp_path / "lazy", storage, trust=TRUST)
    sync.pull_keys(lazy.mirror, lazy.repository)
    wanted = [many[i] for i in (39, 3, 17, 18, 0)]
    assert sync.pull_rows(lazy.mirror, lazy.repository, SPEC.namespace, keys_of_texts(wanted)).problems == []
    assert lazy.found(many) == [text for text in many if text in wanted]


def test_compaction_merges_what_is_trusted_and_signs(storage: MemoryStorage, tmp_path: Path) -> None:
    """The merge holds the rows of two packs, is signed, and readers who trust its signer take it; the rest stays."""
    before = manifests(storage)
    with pytest.raises(ConfigurationError, match="there is no signing_key"):
        compact(Repository(storage, trust=TRUST), at_least=2)
    with pytest.raises(ConfigurationError, match="is none of them"):
        compact(Repository(storage, trust=TRUST, signer=FORGER), at_least=2)
    assert manifests(storage) == before
    assert len(compact(Repository(storage, trust=TRUST), at_least=2, dry_run=True).merges) == 1
    report = compact(Repository(storage, trust=TRUST, signer=BOB), at_least=2)
    assert (len(report.written), report.rows, report.problems) == (1, 6, [])
    merge = manifests(storage)[report.written[0]]
    assert set(merge.supersedes) == {*signed_by_before(before, ALICE), *signed_by_before(before, BOB)}
    machine = reader(tmp_path, storage)
    assert machine.pull().packs == 1
    assert machine.found(ALL) == ALL[:6]


def signed_by_before(known: dict[str, Manifest], signer: Signer) -> list[str]:
    return [pack for pack, it in known.items() if it.signature is not None and it.signature.key == signer.public]


@pytest.mark.parametrize("signer", [None, ALICE], ids=["no key", "with a key"])
def test_who_verifies_nothing_merges_nothing_signed(storage: MemoryStorage, tmp_path: Path, signer: Any) -> None:
    """Under `any` unsigned packs are merged, the merge is not signed: a key would vouch for what nobody verified."""
    another = Machine(tmp_path / "another", storage)
    another.encode(texts(16)[12:])
    another.push()
    signed = {pack for pack, it in manifests(storage).items() if it.signature is not None}
    (merge,) = compact(Repository(storage, signer=signer), at_least=2).written
    assert manifests(storage)[merge].signature is None
    assert signed.isdisjoint(manifests(storage)[merge].supersedes)
    machine = reader(tmp_path, storage)
    machine.pull()
    assert machine.found(ALL) == ALL[:6]


@pytest.mark.parametrize("who", ["verifies", "trusts everybody"])
def test_prune_believes_no_forged_merge(
    storage: MemoryStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """A merge of the forger "supersedes" Alice's pack: it is not deleted, neither by who verifies nor by who does not.

    Of packs that nobody signed she can have any deleted by who trusts everybody, as the threat model says.
    """
    world = World(monkeypatch)
    (of_alice,), (unsigned,) = signed_by(storage, ALICE), signed_by(storage, None)
    (mine,) = signed_by(storage, FORGER)
    forged = FORGER.signed(replace(manifests(storage)[mine], supersedes=(of_alice, unsigned), nonce="0" * 32))
    for manifest in (forged, replace(forged, signature=None)):
        pack = put_manifest(storage, manifest.to_bytes())
        for name in manifest.objects:
            storage.put(layout.object_path(pack, name), storage.objects[layout.object_path(mine, name)])
    world.wait(8 * DAY)
    verifies = who == "verifies"
    report = prune(Repository(storage, trust=TRUST if verifies else None))
    assert [it.pack for it in report.deletions] == ([] if verifies else [unsigned])
    machine = reader(tmp_path, storage)
    machine.pull()
    assert machine.found(ALL) == ALL[:6]


def test_prune_goes_on_with_what_is_signed(
    storage: MemoryStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a trusted merge supersedes goes after the grace period."""
    world = World(monkeypatch)
    compact(Repository(storage, trust=TRUST, signer=BOB), at_least=2)
    world.wait(8 * DAY)
    assert len(prune(Repository(storage, trust=TRUST)).deletions) == 2
    machine = reader(tmp_path, storage)
    machine.pull()
    assert machine.found(ALL) == ALL[:6]


def test_a_push_that_nobody_would_see_is_refused(storage: MemoryStorage, tmp_path: Path) -> None:
    """Before anything is written, and before anything is encoded; the rows wait."""
    before = dict(storage.objects)
    machine = Machine(tmp_path / "author", storage, trust=TRUST)
    machine.encode(texts(20)[15:], OTHER_SPEC)
    with pytest.raises(ConfigurationError, match="signing_key"):
        machine.push()
    assert storage.objects == before, "not a spec either"
    ns = machine.mirror.get(OTHER_SPEC.namespace)
    assert ns is not None
    assert ns.pending_rows == 5


def test_a_push_that_goes_on_with_another_key(storage: MemoryStorage, tmp_path: Path) -> None:
    """Interrupted before its manifest; the next one signs with another key, and all is there, once."""
    flaky = Flaky(storage, "put", at=9)
    author = Machine(tmp_path / "author", flaky, signer=ALICE, trust=TRUST)
    more = texts(16)[12:]
    author.encode(more)
    with pytest.raises(ConnectionError):
        author.push()
    other = Machine(tmp_path / "author", storage, signer=BOB, trust=TRUST)
    assert other.push().packs == 1
    assert other.push().packs == 0
    machine = reader(tmp_path, storage)
    assert machine.pull().rows == 6 + len(more)
    assert machine.found(more) == more


def test_a_mirror_is_filled_under_one_trust(storage: MemoryStorage, tmp_path: Path) -> None:
    """Not with anybody's packs before, or by others after; keys may be added, none taken away."""
    only_alice = Trust({"alice": ALICE.public})
    anybody = reader(tmp_path, storage, None)
    anybody.pull()
    directory = anybody.mirror.directory
    for trust in (TRUST, only_alice):
        with pytest.raises(UntrustedMirror, match="packs of anybody"):
            Machine(directory, storage, trust=trust).pull()
        with pytest.raises(UntrustedMirror):
            Mirror(directory).check_trust(trust.keys)
    machine = Machine(tmp_path / "mine", storage, trust=only_alice)
    machine.pull()
    mine = machine.mirror.directory
    assert Mirror(mine).trusted == only_alice.keys
    with pytest.raises(UntrustedMirror, match="mixed in"):
        Machine(mine, storage).pull()
    wider = Machine(mine, storage, trust=TRUST)
    wider.mirror.check_trust(TRUST.keys)
    wider.pull()
    assert wider.found(ALL) == ALL[:6]
    assert Mirror(mine).trusted == TRUST.keys
    with pytest.raises(UntrustedMirror, match=BOB.public.replace("+", r"\+")):
        Mirror(mine).check_trust(only_alice.keys)
    with pytest.raises(UntrustedMirror):
        machine.pull()
    assert Mirror(mine).trusted == TRUST.keys


@pytest.mark.parametrize("trusted", ["[1]", "{}", "5", '"any"', "[[]]"])
def test_a_mirror_that_does_not_say_whom_it_trusted(tmp_path: Path, trusted: str) -> None:
    """What is no list of keys is damage, and not "anybody"."""
    marker = Mirror(tmp_path / "mine").directory / "cas-cache-mirror.json"
    marker.write_text(f'{marker.read_text()[:-1]}, "trusted": {trusted}}}')
    with pytest.raises(DamagedMirror, match="trusted is"):
        Mirror(tmp_path / "mine")


def test_a_new_mirror_with_rows_of_its_own_may_be_trusted(storage: MemoryStorage, tmp_path: Path) -> None:
    """It has met no repository, so what it holds was encoded here."""
    machine = Machine(tmp_path / "mine", storage, trust=TRUST, signer=ALICE)
    mine = texts(20)[14:]
    machine.encode(mine)
    machine.mirror.check_trust(TRUST.keys)
    machine.push()
    machine.pull()
    assert machine.found([*ALL, *mine]) == [*ALL[:6], *mine]


def test_the_cache(storage: MemoryStorage, tmp_path: Path) -> None:
    """From Python, to a directory and back; an encoder is not asked for what a trusted key signed."""
    remote, pem = str(tmp_path / "repository"), tmp_path / "alice.pem"
    pem.write_bytes(new_private_key())
    public = Signer(pem.read_bytes()).public
    reading = Signing(trust="signed-by", trusted_keys={"alice": public})
    signing = replace(reading, signing_key=pem)
    with EmbeddingCache(tmp_path / "one", remote=remote, signing=signing) as cache:
        cache.encode(ALL[:4], SPEC, truth)
    with EmbeddingCache(tmp_path / "forger", remote=remote, signing=Signing(trust="any"), self_check=0) as cache:
        cache.put(ALL[4:8], truth(ALL[4:8]) + 1, SPEC)
    asked: list[str] = []

    def encode(missing: list[str]) -> Any:
        asked.extend(missing)
        return truth(missing)

    cache = EmbeddingCache(tmp_path / "two", remote=remote, read_only=True, signing=reading)
    with cache, pytest.warns(DataWarning, match="Skipped 1 pack that no trusted key has signed"):
        np.testing.assert_array_equal(cache.encode(ALL[:8], SPEC, encode), truth(ALL[:8]))
    assert asked == ALL[4:8]
    private = pem.read_bytes().splitlines()[1]
    files = [it for it in tmp_path.rglob("*") if it.is_file() and it != pem]
    assert len(files) > 20
    assert not any(private in it.read_bytes() or base64.b64decode(private)[-32:] in it.read_bytes() for it in files)
    with pytest.raises(ConfigurationError, match="read_only=True"):
        EmbeddingCache(tmp_path / "three", remote=remote, signing=reading)
    with pytest.raises(UntrustedMirror):
        EmbeddingCache(tmp_path / "forger", remote=remote, signing=signing)
    with pytest.raises(UntrustedMirror):
        EmbeddingCache(tmp_path / "forger", offline=True, signing=signing)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("on_remote_error", ["warn", "raise"])
def test_a_run_says_once_that_packs_are_not_trusted(
    storage: MemoryStorage, tmp_path: Path, lazy: bool, on_remote_error: Any
) -> None:
    """Their rows are misses, which would have no reason otherwise. It is not an error: the rest is read."""
    machine = Machine(tmp_path / "other namespace", storage)
    machine.encode(ALL, OTHER_SPEC)
    machine.push()
    options: dict[str, Any] = {"read_only": True, "lazy": lazy, "on_remote_error": on_remote_error}
    with EmbeddingCache(tmp_path / "run", remote=str(tmp_path / "unused"), **options) as cache:
        cache.repository = Repository(storage, trust=TRUST)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert cache.get(ALL, SPEC)[1].tolist() == [True] * 6 + [False] * 6
            assert not cache.get(ALL, OTHER_SPEC)[1].any()
            assert not cache.get(ALL[6:], SPEC)[1].any()
    (warning,) = caught
    assert warning.category is DataWarning
    assert "Skipped 2 packs that no trusted key has signed" in str(warning.message)
    assert warning.filename == __file__
