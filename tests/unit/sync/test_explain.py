"""`EmbeddingCache.explain` and `cas-cache info --why`: a status that is reported holds, and nothing is guessed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cas_cache import EmbeddingCache, EncoderSpec
from cas_cache.errors import AlreadyClosed
from cas_cache.format.signing import Signer, Trust, new_private_key
from cas_cache.mirror import Mirror
from cas_cache.repository import Repository
from cas_cache.storage import open_storage
from cas_cache.sync.explaining import MESSAGES
from paths import ROOT
from storages import SPEC, Flaky, texts, truth

DOCUMENT = replace(SPEC, role="document", prompt="passage: ")
PAGE = ROOT / "docs" / "explanation" / "misses.md"


@pytest.fixture
def remote(tmp_path: Path) -> str:
    """Return a repository with three rows of `SPEC` that a colleague has pushed."""
    remote = str(tmp_path / "repository")
    with EmbeddingCache(tmp_path / "colleague", remote=remote) as cache:
        cache.put(texts(3), truth(texts(3)), SPEC)
    return remote


def opened(tmp_path: Path, remote: str | None, **options: Any) -> EmbeddingCache:
    """Open a cache that pushes nothing by itself."""
    return EmbeddingCache(tmp_path / "mirror", remote=remote, push="manual", **options)


def status(cache: EmbeddingCache, text: str = texts(1)[0], spec: EncoderSpec = SPEC) -> str:
    """Return the status of a text, after checks that hold for every explanation."""
    found = cache.explain(text, spec)
    assert found.status in MESSAGES
    assert found.namespace == spec.namespace
    assert found.as_json()["message"] == found.message
    assert found.is_hit is (found.status in ("served", "pending", "not_compared"))
    return found.status


def test_rows_of_the_mirror(tmp_path: Path, remote: str) -> None:
    """Not pulled, pulled and not compared, compared, pending, and pushed from here."""
    with opened(tmp_path, remote, self_check=1) as cache:
        assert status(cache) == "not_pulled"
        assert cache.mirror.ids() == [], "nothing was pulled or made"
        cache.pull()
        assert status(cache) == "not_compared"
        cache.encode(texts(1), SPEC, truth)
        assert status(cache) == "served"
        cache.put(["mine"], truth(["mine"]), SPEC)
        assert status(cache, "mine") == "pending"
        cache.push()
        found = cache.explain("mine", SPEC)
        assert found.status == "served"
        assert found.pack in cache.mirror.namespace(SPEC).packs
        assert status(cache, "never encoded") == "absent"


def test_a_local_cache(tmp_path: Path) -> None:
    """Without a repository the mirror is all there is."""
    with opened(tmp_path, None) as cache:
        assert status(cache) == "absent"
        cache.put(texts(1), truth(texts(1)), SPEC)
        assert status(cache) == "pending"
    with pytest.raises(AlreadyClosed):
        cache.explain("a", SPEC)


def test_a_damaged_row_of_the_mirror(tmp_path: Path) -> None:
    """It is there and is not served."""
    with opened(tmp_path, None) as cache:
        cache.put(texts(1), truth(texts(1)), SPEC)
    vectors = tmp_path / "mirror" / "namespaces" / SPEC.namespace / "vectors.npy"
    data = bytearray(vectors.read_bytes())
    data[-1] ^= 1
    vectors.write_bytes(data)
    with opened(tmp_path, None) as cache:
        assert status(cache) == "damaged_here"


def test_another_namespace_of_the_model(tmp_path: Path, remote: str) -> None:
    """What differs is named, whether the mirror or only the repository has it. Other models do not count."""
    with opened(tmp_path, remote) as cache:
        for in_mirror in (False, True):
            found = cache.explain(texts(1)[0], DOCUMENT)
            assert (found.status, [other.namespace for other in found.others]) == ("other_namespace", [SPEC.namespace])
            assert found.others[0].in_mirror is in_mirror
            fields = {d.field: (d.asked, d.other) for d in found.others[0].differences}
            assert fields == {"role": ("document", SPEC.role), "prompt": ("passage: ", SPEC.prompt)}
            cache.pull()
        assert status(cache, spec=replace(SPEC, model="org/another")) == "absent"


@pytest.mark.parametrize("part", ["vectors", "digests"])
def test_a_pack_whose_row_is_damaged(tmp_path: Path, remote: str, part: str) -> None:
    """The keys say that the pack has the row, and the row does not verify."""
    for chunk in Path(remote).glob(f"packs/*/{part}/c/**/*"):
        if chunk.is_file():
            chunk.write_bytes(bytes(chunk.stat().st_size))
    with opened(tmp_path, remote) as cache:
        assert status(cache) == "unreadable"
        assert status(cache, "never encoded") == "absent"


@pytest.mark.parametrize("part", ["packs/*/keys/c/**/*", "manifests/*/*"])
def test_a_pack_that_does_not_say_what_it_has(tmp_path: Path, remote: str, part: str) -> None:
    """Neither the row that it has nor one that it does not have is claimed to be absent."""
    for file in Path(remote).glob(part):
        if file.is_file():
            file.write_bytes(bytes(file.stat().st_size))
    with opened(tmp_path, remote) as cache:
        for text in (texts(1)[0], "never encoded"):
            found = cache.explain(text, SPEC)
            assert (found.status, len(found.problems)) == ("unknown", 1)


def test_a_second_pack_has_what_the_first_cannot_give(tmp_path: Path, remote: str) -> None:
    """One pack that can be read is enough."""
    for chunk in Path(remote).glob("packs/*/vectors/c/*/*"):
        chunk.write_bytes(bytes(chunk.stat().st_size))
    with EmbeddingCache(tmp_path / "second", remote=remote) as cache:
        cache.put(texts(1), truth(texts(1)), SPEC)
    with opened(tmp_path, remote) as cache:
        assert status(cache) == "not_pulled"


def test_an_untrusted_pack(tmp_path: Path, remote: str) -> None:
    """It is named with the reason, and not read."""
    with opened(tmp_path, remote) as cache:
        trust = Trust({"alice": Signer(new_private_key()).public})
        cache.repository = Repository(open_storage(remote), trust=trust)
        found = cache.explain(texts(1)[0], SPEC)
        assert found.status == "untrusted"
        assert "not signed" in found.message
        assert status(cache, "never encoded") == "absent"


def test_a_repository_that_was_not_asked_or_is_away(tmp_path: Path, remote: str) -> None:
    """The text may be there, and that is what is said."""
    with opened(tmp_path, remote, offline=True) as cache:
        found = cache.explain(texts(1)[0], SPEC)
        assert (found.status, len(found.problems)) == ("unknown", 1)
        assert "offline" in found.problems[0]
    for verb in ("get", "list"):
        with opened(tmp_path, remote) as cache:
            cache.repository = Repository(Flaky(open_storage(remote), verb, 1))
            assert status(cache) == "unknown"


def test_a_listing_that_lacks_known_packs(tmp_path: Path, remote: str) -> None:
    """An empty listing where the mirror knows packs is not taken for an empty namespace."""
    with opened(tmp_path, remote) as cache:
        cache.pull()
        for manifest in Path(remote).glob("manifests/*/*"):
            manifest.unlink()
        assert status(cache, "never encoded") == "unknown"


def test_a_damaged_namespace_of_the_mirror(tmp_path: Path, remote: str) -> None:
    """What the mirror has is not known, so nothing is claimed; the repository still answers."""
    with opened(tmp_path, remote) as cache:
        cache.pull()
    (tmp_path / "mirror" / "namespaces" / SPEC.namespace / "state.json").write_text("{")
    with opened(tmp_path, None) as cache:
        assert status(cache) == "unknown"


def test_another_namespace_that_cannot_be_read(tmp_path: Path, remote: str) -> None:
    """It may be of the same model and have the text, so the text is not called absent."""
    for spec in Path(remote).glob("specs/*"):
        spec.write_bytes(b"{}")
    with opened(tmp_path, remote) as cache:
        found = cache.explain(texts(1)[0], DOCUMENT)
        assert (found.status, found.others, len(found.problems)) == ("unknown", (), 1)


def test_a_damaged_spec_of_the_mirror_hides_no_other_namespace(tmp_path: Path) -> None:
    """It is named, and namespaces whose specs can be read are still searched."""
    other = replace(SPEC, prompt="other: ")
    with opened(tmp_path, None) as cache:
        for spec in (SPEC, other):
            cache.put(["a"], truth(["a"]), spec)
    (tmp_path / "mirror" / "namespaces" / other.namespace / "spec.json").write_text("{")
    with opened(tmp_path, None) as cache:
        found = cache.explain("a", DOCUMENT)
    assert [hit.namespace for hit in found.others] == [SPEC.namespace]
    assert (found.status, len(found.problems)) == ("other_namespace", 1)
    assert f"Namespace {other.namespace} of the mirror" in found.problems[0]


def test_vectors_that_are_not_stored_are_absent(tmp_path: Path) -> None:
    """NaN is given back and not stored; the message says so."""
    with opened(tmp_path, None) as cache:
        with pytest.warns(UserWarning, match="NaN"):
            cache.put(["a"], np.array([[np.nan, 1]], np.float32), SPEC)
        assert "NaN" in cache.explain("a", SPEC).message


def test_the_command(run: Any, tmp_path: Path, remote: str) -> None:
    """By the beginning of a namespace's id, here or in the repository only, or by a spec in a file."""
    with opened(tmp_path, remote):
        pass
    place = [tmp_path / "mirror", "--remote", remote]
    result = run("info", *place, "-n", SPEC.namespace[:8], "--why", texts(1)[0])
    assert (result.code, result.out.startswith("miss  The repository has the vector, in pack ")) == (0, True)
    (tmp_path / "spec.json").write_bytes(DOCUMENT.canonical())
    result = run("info", *place, "--spec", tmp_path / "spec.json", "--why", texts(1)[0])
    assert f'namespace {SPEC.namespace} of the repository has it: prompt is "", not "passage: "' in result.out
    run("pull", *place)
    result = run("info", *place, "-n", SPEC.namespace[:8], "--why", texts(1)[0])
    assert (result.code, result.out.startswith("hit  ")) == (0, True)
    for chunk in Path(remote).glob("manifests/*/*"):
        chunk.unlink()
    result = run("info", *place, "-n", SPEC.namespace[:8], "--why", "never encoded")
    assert (result.code, "not read: " in result.err) == (1, True)
    assert Mirror(tmp_path / "mirror").ids() == [SPEC.namespace]


@pytest.mark.parametrize("words", [["--spec", "spec.json"], ["--storage-option", "a=b"]])
def test_options_of_why_need_it(run: Any, tmp_path: Path, words: list[str]) -> None:
    """They are not skipped."""
    result = run("info", tmp_path, *words)
    assert (result.code, "--why" in result.err) == (2, True)


def test_the_page_names_every_status() -> None:
    """Each status of the code is on the page, and no other."""
    page = PAGE.read_text("utf-8")
    named = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `")}
    assert named == set(MESSAGES)
