"""KeyIndex and first_of_each against a dict, with keys made to share their first 8 bytes."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cas_cache.identity import first_of_each
from cas_cache.mirror.index import ABSENT, KeyIndex

SMALL = st.builds(lambda head, tail: bytes([head] * 8 + [tail] * 24), st.integers(0, 3), st.integers(0, 3))
"""16 keys with 4 prefixes: nearly every pair of a batch collides in its first 8 bytes."""

LISTS = st.lists(SMALL | st.binary(min_size=32, max_size=32), max_size=25)


def column(keys: list[bytes]) -> Any:
    """Return keys as (n, 32) uint8."""
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 32)


@pytest.mark.verify
@settings(max_examples=200)
@given(LISTS, LISTS, st.lists(st.integers(1, 6), max_size=12))
def test_finds_what_a_dict_finds(stored: list[bytes], asked: list[bytes], steps: list[int]) -> None:
    """However the column grew, each distinct key finds its one row, and every other key finds none."""
    stored = list(dict.fromkeys(stored))
    index, at = KeyIndex(), 0
    for step in [*steps, len(stored)]:
        at = min(at + step, len(stored))
        index.extend(column(stored[:at]))
        expected = {key: row for row, key in enumerate(stored[:at])}
        wanted = asked + stored
        assert index.find(column(wanted), column(stored[:at])).tolist() == [expected.get(k, ABSENT) for k in wanted]
    assert index.rows == len(stored)


@settings(max_examples=200)
@given(LISTS)
def test_first_of_each_is_what_a_dict_says(keys: list[bytes]) -> None:
    """Distinct keys are in order of first appearance, and each key has the position of its distinct one."""
    seen: dict[bytes, int] = {}
    which = [seen.setdefault(key, len(seen)) for key in keys]
    first, inverse = first_of_each(column(keys))
    assert first.tolist() == [keys.index(key) for key in seen]
    assert inverse.tolist() == which


def test_many_keys_with_one_prefix() -> None:
    """A thousand keys with the same first 8 bytes are told apart, in any division into runs."""
    tails = np.random.default_rng(0).permutation(1000).astype(">u4")
    keys = np.zeros((1000, 32), np.uint8)
    keys[:, 28:] = tails.view(np.uint8).reshape(-1, 4)
    index = KeyIndex()
    for upto in (1, 2, 3, 500, 501, 900, 1000):
        index.extend(keys[:upto])
    assert np.array_equal(index.find(keys, keys), np.arange(1000))
    stranger = keys[:5].copy()
    stranger[:, 9] = 1
    assert (index.find(stranger, keys) == ABSENT).all()
    twice = np.concatenate([keys, keys[::-1]])
    first, inverse = first_of_each(twice)
    assert np.array_equal(first, np.arange(1000))
    assert np.array_equal(inverse, np.concatenate([np.arange(1000), np.arange(1000)[::-1]]))


def test_extreme_prefixes() -> None:
    """The smallest and the largest prefix sit at the ends of a run."""
    keys = column([b"\xff" * 32, b"\x00" * 32, b"\xff" * 8 + b"\x00" * 24, b"\x00" * 31 + b"\x01"])
    index = KeyIndex()
    index.extend(keys)
    assert np.array_equal(index.find(keys, keys), np.arange(4))
    assert index.find(column([b"\xff" * 31 + b"\xfe", b"\x00" * 30 + b"\x01\x00"]), keys).tolist() == [ABSENT, ABSENT]


def test_empty() -> None:
    """An empty index finds nothing, and an empty batch returns nothing."""
    index = KeyIndex()
    none = column([])
    index.extend(none)
    assert index.find(column([b"a" * 32]), none).tolist() == [ABSENT]
    index.extend(column([b"a" * 32]))
    assert index.find(none, column([b"a" * 32])).shape == (0,)


def test_number_of_runs_stays_small() -> None:
    """Many small commits leave about log2(n) runs to search, and hold each row once."""
    keys = np.random.default_rng(0).integers(0, 256, (3000, 32), dtype=np.uint8)
    index = KeyIndex()
    for upto in range(3, 3001, 3):
        index.extend(keys[:upto])
        assert len(index._runs) <= 12
    assert sorted(np.concatenate([run.rows for run in index._runs]).tolist()) == list(range(3000))
    assert np.array_equal(index.find(keys, keys), np.arange(3000))
