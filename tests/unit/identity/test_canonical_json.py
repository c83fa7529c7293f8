"""Canonical JSON: one value, one byte string; what is not plain JSON is an error."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas_cache.errors import IdentityError
from cas_cache.identity import canonical_json
from naming import named

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(1 - 2**63, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)
PLAIN = st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(TEXTS, v, max_size=3), max_leaves=8)


class Texty(str):
    """A string that is not plain."""

    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"b": 1, "a": [True, None, "x"]}, b'{"a":[true,null,"x"],"b":1}'),
        ("é\U0001f9ea", '"é\U0001f9ea"'.encode()),
        ('"\\\n\x00', b'"\\"\\\\\\n\\u0000"'),
        (1.0, b"1"),
        (-0.0, b"0"),
        (0.1, b"0.1"),
        (1e300, b"1e+300"),
        ((1, 2), b"[1,2]"),
        ({}, b"{}"),
    ],
)
def test_bytes_are_fixed(value: Any, expected: bytes) -> None:
    """The bytes are part of the format: whoever changes them renames every namespace."""
    assert canonical_json(value) == expected


@given(PLAIN)
def test_reads_back_as_the_same_value(value: Any) -> None:
    """JSON gives back what went in, and writing that again gives the same bytes."""
    data = canonical_json(value)
    assert json.loads(data) == value
    assert canonical_json(json.loads(data)) == data


@given(st.dictionaries(TEXTS, SCALARS, min_size=2, max_size=6), st.randoms())
def test_order_of_insertion_does_not_matter(value: dict[str, Any], random: Any) -> None:
    """Two mappings with the same entries have the same bytes."""
    items = list(value.items())
    random.shuffle(items)
    assert canonical_json(dict(items)) == canonical_json(value)


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        b"bytes",
        {1, 2},
        object(),
        1j,
        np.float32(1),
        np.int64(1),
        np.bool_(1),
        np.array([1]),
        Texty("a"),
        "\ud800",
        {"a": "\udfff"},
        {"\ud800": 1},
        {1: "a"},
        {None: "a"},
        {Texty("a"): 1},
        [[[math.nan]]],
    ],
    ids=named,
)
def test_what_is_not_plain_json_is_refused(value: object) -> None:
    """Nothing is coerced, rounded or turned into a string."""
    with pytest.raises(IdentityError):
        canonical_json(value)


def test_error_names_the_place() -> None:
    """The message leads to the value that is wrong."""
    with pytest.raises(IdentityError, match=r"value\['a'\]\[1\]"):
        canonical_json({"a": [1, object()]})


@pytest.mark.parametrize("number", [2**63, -(2**63), 10**5000], ids=["2**63", "-2**63", "10**5000"])
def test_huge_numbers_are_refused(number: int) -> None:
    """Beyond 63 bits other readers round, and beyond 4,300 digits Python itself refuses."""
    with pytest.raises(IdentityError, match="63 bits"):
        canonical_json({"a": number})
