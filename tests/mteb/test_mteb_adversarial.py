"""Runs that differ in what decides a vector never share one; runs that differ in anything else always do."""

import itertools
import logging

import numpy as np
import pytest

from cas_cache.mteb import CachedEmbeddingWrapper
from mteb_fidelity_determinants import (
    DETERMINANTS,
    NEUTRAL_PAIRS,
    NOT_SEEN,
    Run,
    real,
    setting,
)
from tiers import sampled

pytestmark = [
    pytest.mark.filterwarnings("ignore:Prompt type .* not found in task metadata:UserWarning"),
    pytest.mark.filterwarnings("ignore:No prompt found on the abstask class:UserWarning"),
    pytest.mark.filterwarnings("ignore:Task name .* is not valid:UserWarning"),
]

IDENTITY = {"model_id": "test/any", "revision": "r1"}


class Met(AssertionError):
    """Two runs shared a row."""


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.ERROR)


def plain(run):
    encoder = run.make()
    return np.asarray(getattr(encoder, "model", encoder).encode(run.loader(), **run.arguments()))


def cached(run, place):
    """The answer of a run in a cache, and how many items were encoded for it."""
    encoder = run.make()
    model, identity = getattr(encoder, "model", encoder), IDENTITY if hasattr(encoder, "model") else {}
    wrapper = CachedEmbeddingWrapper(model, place, **identity)
    return np.asarray(wrapper.encode(run.loader(), **run.arguments())), wrapper.stats.encoded


def check_never_meet(pair, place):
    """One after the other in one cache, cold and warm, each run gets its own vectors, and encodes all of them once."""
    expected = [plain(pair.one), plain(pair.other)]
    same = np.array_equal(*expected)
    assert same is not pair.seen, "the encoder of this test does not see the difference"
    for temperature in ("cold", "warm"):
        for run, answer in zip((pair.one, pair.other), expected, strict=True):
            found, encoded = cached(run, place)
            if temperature == "cold" and encoded != len(answer):
                raise Met(f"{len(answer) - encoded} of {len(answer)} rows were another's")
            assert temperature == "cold" or encoded == 0
            assert found.dtype == answer.dtype
            np.testing.assert_allclose(found, answer, rtol=0, atol=2e-3 if answer.dtype == np.float16 else 1e-6)


@pytest.mark.parametrize("name", sampled(DETERMINANTS, keep=16))
def test_what_decides_a_vector_keeps_runs_apart(name, tmp_path):
    """Two runs that differ in one determinant never share a row, and each gets the vectors of a plain run."""
    check_never_meet(DETERMINANTS[name], tmp_path)


@pytest.mark.xfail(raises=Met, reason="the identity does not cover it")
@pytest.mark.parametrize("name", NOT_SEEN)
def test_what_is_not_seen_yet(name, tmp_path):
    """Known gaps: runs that should not share rows and do. When a pair passes, move it to the other determinants."""
    check_never_meet(NOT_SEEN[name], tmp_path)


@pytest.mark.parametrize("name", sampled(DETERMINANTS, keep=16))
def test_left_out_of_the_identity_it_is_missed(name, tmp_path, monkeypatch):
    """Without the determinant in spec or key, the first test fails: the two runs share rows."""
    DETERMINANTS[name].blind(monkeypatch)
    with pytest.raises(Met):
        check_never_meet(DETERMINANTS[name], tmp_path)


@pytest.mark.parametrize("name", sampled(NEUTRAL_PAIRS, keep=8))
def test_what_decides_no_vector_keeps_nothing_apart(name, tmp_path):
    """Two runs without a relevant difference share all rows: the second encodes nothing and gets the right vectors."""
    one, other = NEUTRAL_PAIRS[name]
    cached(one, tmp_path)
    found, encoded = cached(other, tmp_path)
    assert encoded == 0
    np.testing.assert_allclose(found, plain(other), rtol=0, atol=1e-6)


DERIVED = {
    "as it is": Run(real()),
    "a size": Run(real(), {"truncate_dim": 32}),
    "another size": Run(real(), {"truncate_dim": 16}),
    "the model's size": Run(real(setting(truncate_dim=64))),
    "the model's and another": Run(real(setting(truncate_dim=64)), {"truncate_dim": 16}),
    "normalized": Run(real(), {"normalize_embeddings": True}),
    "a size, normalized": Run(real(), {"truncate_dim": 32, "normalize_embeddings": True}),
    "bits": Run(real(), {"precision": "binary"}),
    "a size, bits": Run(real(), {"truncate_dim": 32, "precision": "ubinary"}),
}


@pytest.mark.verify
@pytest.mark.parametrize("seed", range(3))
def test_sizes_and_precisions_of_one_model_in_any_order(seed, tmp_path):
    """Each size, normalization and precision gets the vectors of a plain run, whatever was requested before."""
    names = [str(name) for name in np.random.default_rng(seed).permutation(list(DERIVED))]
    for name in names * 2:
        found, _ = cached(DERIVED[name], tmp_path)
        expected = plain(DERIVED[name])
        assert found.dtype == expected.dtype, (name, names)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6, err_msg=f"{name} of {names}")


@pytest.mark.verify
def test_no_two_of_many_runs_ever_meet(tmp_path):
    """All runs of a custom encoder class share one cache, in both orders, and each gets its own vectors."""
    pairs = [pair for pair in DETERMINANTS.values() if pair.one.make.__qualname__.startswith("own.")]
    runs = list(itertools.chain.from_iterable((pair.one, pair.other) for pair in pairs))
    for run in runs:
        found, _ = cached(run, tmp_path)
        np.testing.assert_allclose(found, plain(run), rtol=0, atol=1e-6)
    for run in reversed(runs):
        found, encoded = cached(run, tmp_path)
        assert encoded == 0
        np.testing.assert_allclose(found, plain(run), rtol=0, atol=1e-6)
