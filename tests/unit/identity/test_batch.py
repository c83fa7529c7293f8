"""Batches: one digest for the same items in the same order, and never for others."""

import hashlib
import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas_cache.errors import InvalidItem
from cas_cache.identity import Batch, batch_of_texts, digest_of_batch, keys_of_texts
from cas_cache.identity import keys as keys_module
from cas_cache.identity import keys as module
from cas_cache.identity import texts as texts_module
from tiers import sampled

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), max_size=6)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_ITEMS", 0)


@given(TEXTS, TEXTS)
def test_a_digest_is_of_the_texts_and_their_order(one: list[str], other: list[str]) -> None:
    """Two batches have one digest exactly if they are equal."""
    assert (batch_of_texts(one).digest == batch_of_texts(other).digest) == (one == other)


def test_where_one_text_ends_matters() -> None:
    """All ways to cut one string are different batches, and so are empty texts anywhere."""
    cuts = [[*filter(None, cut)] for cut in (["abc"], ["a", "bc"], ["ab", "c"], ["a", "b", "c"])]
    cuts += [["", "abc"], ["abc", ""], ["a", "", "bc"], ["\0", "abc"], ["abc\0"], ["é", "x"], ["e\u0301", "x"]]
    digests = [batch_of_texts(cut).digest for cut in cuts]
    assert len(set(digests)) == len(cuts)


def test_kinds_and_parts_do_not_run_into_each_other() -> None:
    """The same bytes of another kind are another batch."""
    assert digest_of_batch("texts", [b"x" * 32]) != digest_of_batch("columns", [b"x" * 32])
    assert len(digest_of_batch("a", [])) == 32


def test_keys_are_made_once_and_only_if_asked_for() -> None:
    """The digest needs none of them."""
    made = []

    def make() -> np.ndarray:
        made.append(1)
        return keys_of_texts(["a"])

    batch = Batch(1, make)
    assert (batch.digest, made) == (None, [])
    assert batch.keys is batch.keys
    assert made == [1]


def test_what_has_no_key_has_no_digest() -> None:
    """The error is that of the keys, and names the item."""
    for texts, message in ((["a", "\ud800"], "item 1"), (["a", 7], "item 1")):
        batch = batch_of_texts(texts)  # type: ignore[arg-type]
        assert batch.digest is None
        with pytest.raises(InvalidItem, match=message):
            _ = batch.keys
    with pytest.raises(InvalidItem, match="One string"):
        _ = batch_of_texts("abc").keys


def test_generators_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any iterable will do; small batches have no digest."""
    batch = batch_of_texts(itertools.chain("ab", "c"))
    assert (batch.size, len(batch.keys)) == (3, 3)
    monkeypatch.setattr(module, "MIN_ITEMS", 4)
    assert batch_of_texts(["a", "b", "c"]).digest is None
    assert batch_of_texts(["a", "b", "c", "d"]).digest is not None


MEMORY = """
import sys
from cas_cache.identity import batch_of_texts

def peak():
    with open("/proc/self/status") as lines:
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) << 10

texts = [f"{n} " + "lorem ipsum " * 166 for n in range(20_000)]
texts[7] += chr(0x1F600)
texts[8] *= 20_000 if "long" in sys.argv else 1
if "column" in sys.argv:
    import pyarrow
    texts = pyarrow.array(texts)
with open("/proc/self/clear_refs", "w") as refs:
    refs.write("5")
before = peak()
batch = batch_of_texts(texts)
assert batch.digest and len(batch.keys) == 20_000
print((peak() - before) >> 20)
"""


@pytest.mark.verify
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("texts", sampled(["list", "long", "column"], keep={"column"}))
def test_hashing_takes_little_memory(texts: str) -> None:
    """Neither a batch, nor a block of it, nor one long text is copied whole, though an emoji takes 4 bytes a letter."""
    done = subprocess.run([sys.executable, "-c", MEMORY, texts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 64


@pytest.mark.parametrize("characters", [1, 3, 10, 1000])
def test_pieces_do_not_show(monkeypatch: pytest.MonkeyPatch, characters: int) -> None:
    """Keys and digest are the same however texts are cut to be hashed."""
    texts = [("a\N{GRINNING FACE}" * n) for n in range(40)] * 40
    expected = batch_of_texts(texts).digest
    monkeypatch.setattr(texts_module, "PIECE_CHARACTERS", characters)
    monkeypatch.setattr(keys_module, "PIECE_CHARACTERS", characters)
    batch = batch_of_texts(texts)
    assert batch.digest == expected
    assert [key.tobytes() for key in batch.keys[:40]] == [hashlib.sha256(t.encode()).digest() for t in texts[:40]]
