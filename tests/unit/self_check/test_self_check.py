"""The self-check: rows that others have pushed are compared with what the encoder makes, before they are served."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas_cache import CacheMiss, EmbeddingCache, EncoderSpec
from cas_cache.comparison import distances, max_distance
from cas_cache.errors import ConfigurationError, InvalidEncoderOutput, SelfCheckFailed
from cas_cache.self_check import sample, wrong_rows
from paths import SUPPORT
from storages import OTHER_SPEC, SPEC, Encoder, texts, truth


def filled(tmp_path: Path, count: int = 50, vectors: Any = None, name: str = "mine") -> str:
    """Push texts from one machine; return the remote."""
    remote = str(tmp_path / "remote")
    with EmbeddingCache(tmp_path / name, remote=remote) as cache:
        cache.put(texts(count), truth(texts(count)) if vectors is None else vectors, SPEC)
    return remote


class Noisy(Encoder):
    """As another device would answer: a little off."""

    def __call__(self, batch: list[str]) -> Any:
        vectors = super().__call__(batch)
        return (vectors * (1 + np.random.default_rng(0).uniform(-1e-3, 1e-3, vectors.shape))).astype(vectors.dtype)


def test_some_rows_of_others_are_compared_once(tmp_path: Path) -> None:
    """Eight of them before the first answer, in this process only; what is served is what is stored."""
    remote = filled(tmp_path)
    encoder = Noisy()
    cache = EmbeddingCache(tmp_path / "theirs", remote=remote)
    for _ in range(3):
        np.testing.assert_array_equal(cache.encode(texts(50), SPEC, encoder), truth(texts(50)))
    assert len(encoder.asked) == len(set(encoder.asked)) == 8
    assert (cache.stats.checked, cache.stats.encoded, cache.stats.hits) == (8, 0, 150)
    again = EmbeddingCache(tmp_path / "theirs", remote=remote)
    again.encode(texts(50), SPEC, encoder)
    assert (again.stats.checked, len(encoder.asked)) == (0, 8)


def test_a_remembered_batch_of_others_is_compared(tmp_path: Path) -> None:
    """The memo of a batch leads to its rows, not around the comparison."""
    remote = filled(tmp_path, 2000)
    with EmbeddingCache(tmp_path / "theirs", remote=remote, self_check=0) as trusting:
        trusting.encode(texts(2000), SPEC, Encoder())
    encoder = Encoder()
    cache = EmbeddingCache(tmp_path / "theirs", remote=remote)
    np.testing.assert_array_equal(cache.encode(texts(2000), SPEC, encoder), truth(texts(2000)))
    assert len(encoder.asked) == 8


def test_own_rows_are_not_compared(tmp_path: Path) -> None:
    """What was encoded here is not encoded again, pushed or not, in later processes neither."""
    remote = filled(tmp_path)
    with EmbeddingCache(tmp_path / "mine", remote=remote) as cache:
        cache.encode(texts(60), SPEC, Encoder())
        cache.push()
    code = """
import sys
from cas_cache import EmbeddingCache
from storages import SPEC, Encoder, texts
encoder = Encoder()
cache = EmbeddingCache(sys.argv[1], remote=sys.argv[2])
cache.encode(texts(60), SPEC, encoder)
print(len(encoder.asked), cache.stats.checked)
"""
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT)}
    command = [sys.executable, "-c", code, str(tmp_path / "mine"), remote]
    assert subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout == "0 0\n"


def test_packs_that_come_later_are_compared_too(tmp_path: Path) -> None:
    """A namespace that was fine once can be filled by somebody else afterwards."""
    remote = filled(tmp_path, 20)
    with EmbeddingCache(tmp_path / "theirs", remote=remote, self_check=5) as cache:
        cache.encode(texts(20), SPEC, Encoder())
    filled(tmp_path, 40, np.vstack([truth(texts(20)), -truth(texts(20, start=20))]), name="third")
    with (
        EmbeddingCache(tmp_path / "theirs", remote=remote, self_check=5) as cache,
        pytest.raises(SelfCheckFailed, match="not what the encoder makes"),
    ):
        cache.encode(texts(40), SPEC, Encoder())


def test_another_models_vectors_are_refused(tmp_path: Path) -> None:
    """The error names spec, rows and pack; nothing is served, stored or vouched for, however often it is tried."""
    remote = filled(tmp_path, vectors=np.random.default_rng(0).standard_normal(truth(texts(50)).shape, np.float32))
    cache = EmbeddingCache(tmp_path / "theirs", remote=remote)
    for _ in range(2):
        with pytest.raises(SelfCheckFailed, match="self_check=0 turns the comparison off") as failed:
            cache.encode(texts(60), SPEC, Encoder())
        (pack,) = failed.value.packs
        assert (Path(remote) / "manifests" / SPEC.namespace / f"{pack}.json").exists()
        assert pack in str(failed.value)
        assert SPEC.model in str(failed.value)
        assert SPEC.namespace in str(failed.value)
        assert failed.value.spec == SPEC
        assert len(failed.value.rows) == 8
        assert failed.value.distance > 0.9
    assert cache.mirror.namespace(SPEC).rows == 50
    assert cache.stats.encoded == 0


def test_one_wrong_pack_among_many_is_met(tmp_path: Path) -> None:
    """Rows are taken from as many packs as possible."""
    for number in range(5):
        with EmbeddingCache(tmp_path / f"writer{number}", remote=str(tmp_path / "remote"), push="manual") as cache:
            mine = texts(1 if number == 3 else 200, start=1000 * number)
            cache.put(mine, -truth(mine) if number == 3 else truth(mine), SPEC)
            cache.push()
    asked = [text for number in range(5) for text in texts(1 if number == 3 else 200, start=1000 * number)]
    with pytest.raises(SelfCheckFailed, match="1 of 8 vectors"):
        EmbeddingCache(tmp_path / "theirs", remote=str(tmp_path / "remote")).encode(asked, SPEC, Encoder())


def test_another_dtype_or_shape_is_refused(tmp_path: Path) -> None:
    """The plain run would give this encoder's dtype."""
    remote = filled(tmp_path)
    with pytest.raises(SelfCheckFailed, match="float32 vectors and the encoder returns float16"):
        EmbeddingCache(tmp_path / "a", remote=remote).encode(texts(50), SPEC, lambda b: truth(b).astype(np.float16))
    with pytest.raises(SelfCheckFailed, match="of shape"):
        EmbeddingCache(tmp_path / "b", remote=remote).encode(texts(50), SPEC, lambda b: truth(b)[:, :3])


def test_it_can_be_turned_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By argument, by setting; and what may not encode does not."""

    def never(_: list[str]) -> Any:
        pytest.fail("the encoder was called")

    remote = filled(tmp_path)
    EmbeddingCache(tmp_path / "a", remote=remote, self_check=0).encode(texts(50), SPEC, never)
    EmbeddingCache(tmp_path / "b", remote=remote, only_cached=True).encode(texts(50), SPEC, never)
    with pytest.raises(CacheMiss):
        EmbeddingCache(tmp_path / "b", remote=remote, only_cached=True).encode(["new"], SPEC, never)
    monkeypatch.setenv("CAS_CACHE_SELF_CHECK", "0")
    EmbeddingCache(tmp_path / "c", remote=remote).encode(texts(50), SPEC, never)
    monkeypatch.setenv("CAS_CACHE_SELF_CHECK", "3")
    encoder = Encoder()
    EmbeddingCache(tmp_path / "d", remote=remote).encode(texts(50), SPEC, encoder)
    assert len(encoder.asked) == 3
    monkeypatch.setenv("CAS_CACHE_SELF_CHECK", "many")
    with pytest.raises(ConfigurationError, match="not a whole number"):
        EmbeddingCache(tmp_path / "e")
    monkeypatch.delenv("CAS_CACHE_SELF_CHECK")
    with pytest.raises(ConfigurationError, match="self_check is -1"):
        EmbeddingCache(tmp_path / "e", self_check=-1)


def test_repeats_count_once(tmp_path: Path) -> None:
    """A text that fills the whole call is encoded once for the comparison."""
    remote = filled(tmp_path)
    encoder = Encoder()
    EmbeddingCache(tmp_path / "theirs", remote=remote).encode(texts(1) * 30, SPEC, encoder)
    assert encoder.asked == texts(1)


def test_repeats_take_no_place_in_the_sample(tmp_path: Path) -> None:
    """However often an item is asked for, eight distinct ones are compared, in the order that they were asked in."""
    remote = filled(tmp_path, 12)
    asked = [text for text in reversed(texts(12)) for _ in range(1 + 30 * (text == "text 3"))]
    for n in range(5):
        encoder = Encoder()
        cache = EmbeddingCache(tmp_path / f"theirs {n}", remote=remote)
        np.testing.assert_array_equal(cache.encode(asked, SPEC, encoder), truth(asked))
        assert cache.stats.checked == len(set(encoder.asked)) == 8
        assert encoder.asked == sorted(encoder.asked, key=asked.index)


def test_an_answer_of_the_wrong_length_is_an_error(tmp_path: Path) -> None:
    """Also while comparing."""
    remote = filled(tmp_path)
    with pytest.raises(InvalidEncoderOutput):
        EmbeddingCache(tmp_path / "theirs", remote=remote).encode(texts(50), SPEC, lambda batch: truth(batch)[1:])


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(1, 12))
def test_a_sample_is_spread_over_the_packs(extents: list[int], count: int) -> None:
    """At least one row of each pack, and as many rows as asked for, each once."""
    chosen = sample(np.array(extents, np.int64), count)
    assert len(set(chosen.tolist())) == len(chosen) == max(min(count, len(extents)), len(set(extents)))
    assert sorted(chosen.tolist()) == chosen.tolist()
    assert {extents[at] for at in chosen} == set(extents)


@pytest.mark.parametrize(
    ("dtype", "passes", "fails"),
    [("float32", 0.005, 0.03), ("float64", 0.005, 0.03), ("float16", 0.02, 0.09), ("int8", 0.1, 1.0)],
)
def test_tolerance_goes_by_the_dtype(dtype: str, passes: float, fails: float) -> None:
    """What rounding and devices do passes, what another model does fails; weights in bfloat16 are coarser still."""
    rng = np.random.default_rng(0)
    exact = rng.standard_normal((8, 400)) * 30
    noise = rng.standard_normal((8, 400)) * 30

    def wrong(spec: EncoderSpec, amount: float) -> int:
        off = exact * (1 - amount) + noise * amount if amount == 1 else exact + amount * noise
        apart = distances(exact.astype(dtype), off.astype(dtype))
        return len(wrong_rows(apart, max_distance(spec, np.dtype(dtype))))

    assert wrong(SPEC, passes) == 0
    assert wrong(SPEC, fails) == 8
    if dtype == "float32":
        assert wrong(replace(SPEC, params={"dtype": "bfloat16"}), 0.1) == 0
        assert wrong(replace(OTHER_SPEC, params={"dtype": "bfloat16"}), 0.3) == 8


def test_distances_of_odd_vectors() -> None:
    """Zeros are equal, a zero is far from everything else, and so is NaN; packed bits are compared as bits."""
    zero, one = np.zeros((1, 4), np.float32), np.ones((1, 4), np.float32)
    assert distances(zero, zero)[0] == 0
    assert distances(zero, one)[0] == 1
    assert len(wrong_rows(distances(one, one * np.nan), 0.9)) == 1
    small = np.arange(-20, 20, dtype=np.int8).reshape(1, -1)
    assert distances(small, 2 * small)[0] > 0.1  # of the same direction, and twice as long
    assert distances(small * 0, small * 0)[0] == 0
    bits = np.random.default_rng(0).integers(0, 256, (1, 48), np.uint8)
    flipped = bits ^ np.eye(1, 48, dtype=np.uint8)
    assert distances(bits, flipped)[0] < 0.01
    other = np.random.default_rng(1).integers(0, 256, (1, 48), np.uint8)
    assert distances(bits, other)[0] > 0.1
    assert distances(bits > 128, other > 128)[0] > 0.1
