"""What is a text, and what only looks like texts: refused with words that say what to pass."""

from __future__ import annotations

import collections
import types
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from cas_cache import EmbeddingCache, EncoderSpec
from cas_cache.errors import InvalidItem
from cas_cache.identity import batch_of_texts, keys_of_texts, texts
from cas_cache.identity import keys as batch_module
from tiers import sampled

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SPEC = EncoderSpec(model="org/m", revision="v1")
WORDS = ["pear", "apple", "pear", "", "\N{GRINNING FACE}", "a b\n"]


def embed(missing: list[str]) -> np.ndarray:
    assert all(type(text) is str for text in missing)
    return np.array([[len(text), sum(map(ord, text))] for text in missing], np.float32)


class Custom(collections.UserList[str]):
    """A sequence of one's own."""


COLUMNS: dict[str, Callable[[list[str]], Any]] = {
    "list": list,
    "tuple": tuple,
    "generator": lambda words: (word for word in words),
    "map": lambda words: map(str, words),
    "deque": collections.deque,
    "UserList": Custom,
    "dict_values": lambda words: dict(enumerate(words)).values(),
    "numpy U": np.array,
    "numpy object": lambda words: np.array(words, object),
    "numpy column of a matrix": lambda words: np.array([words, words]).T[:, 0],
    "numpy StringDType": lambda words: np.array(words, np.dtypes.StringDType()),
    "numpy str_": lambda words: [np.str_(word) for word in words],
    "pandas Series": pd.Series,
    "pandas object": lambda words: pd.Series(words, dtype=object),
    "pandas string": lambda words: pd.Series(words, dtype="string"),
    "pandas category": lambda words: pd.Series(words, dtype="category"),
    "pandas labels": lambda words: pd.Series(words, index=range(len(words), 0, -1)),
    "pandas labels that are names": lambda words: pd.Series(words, index=["columns", "text", "keys", "ndim", "x", "x"]),
    "pandas filtered": lambda words: pd.DataFrame({"text": [*words, "no"]}).query("text != 'no'")["text"],
    "pandas Index": pd.Index,
    "pandas array": pd.array,
    "polars": pl.Series,
    "polars categorical": lambda words: pl.Series(words, dtype=pl.Categorical),
    "arrow": pa.array,
    "arrow large": lambda words: pa.array(words, pa.large_string()),
    "arrow view": lambda words: pa.array(words, pa.string_view()),
    "arrow dictionary": lambda words: pa.array(words).dictionary_encode(),
    "arrow chunks": lambda words: pa.chunked_array([words[:2], words[2:2], words[2:]]),
    "datasets": lambda words: datasets.Dataset.from_dict({"text": words})["text"],
    "datasets selected": lambda words: datasets.Dataset.from_dict({"text": words[::-1]}).select([5, 4, 3, 2, 1, 0])[
        "text"
    ],
}


@pytest.mark.parametrize("kind", sampled(COLUMNS, keep=3))
def test_a_sequence_of_texts_has_the_vectors_of_its_list(kind, tmp_path, monkeypatch):
    """Cold and warm, with blocks that are smaller than the column, and by digest."""
    monkeypatch.setattr(texts, "BLOCK_ITEMS", 2)
    monkeypatch.setattr(batch_module, "MIN_ITEMS", 0)
    make = COLUMNS[kind]
    assert batch_of_texts(make(WORDS)).digest == batch_of_texts(WORDS).digest
    expected = embed(WORDS)
    for encoded in (5, 0):
        with EmbeddingCache(tmp_path, chunk_items=2) as cache:
            assert np.array_equal(cache.encode(make(WORDS), SPEC, embed), expected)
            assert cache.stats.encoded == encoded
    with EmbeddingCache(tmp_path / "put") as cache:
        assert cache.put(make(WORDS), expected, SPEC) == 5
        vectors, found = cache.get(make(WORDS), SPEC)
        assert found.all()
        assert np.array_equal(vectors, expected)


@pytest.mark.parametrize("kind", COLUMNS)
def test_an_empty_one_is_an_empty_one(kind):
    """No rows, and no error."""
    if kind != "pandas labels that are names":
        assert keys_of_texts(COLUMNS[kind]([]) if "selected" not in kind else []).shape == (0, 32)


FRAME = {"text": ["a", "b"], "id": ["1", "2"]}
NOT_TEXTS: dict[str, Callable[[], Any]] = {
    "str": lambda: "text",
    "str_": lambda: np.str_("text"),
    "bytes": lambda: b"text",
    "bytearray": lambda: bytearray(b"text"),
    "memoryview": lambda: memoryview(b"text"),
    "None": lambda: None,
    "int": lambda: 3,
    "float": lambda: float("nan"),
    "dict": lambda: FRAME,
    "UserDict": lambda: collections.UserDict(FRAME),
    "mapping proxy": lambda: types.MappingProxyType(FRAME),
    "Counter": lambda: collections.Counter("ab"),
    "set": lambda: {"a", "b"},
    "frozenset": lambda: frozenset({"a", "b"}),
    "pandas DataFrame": lambda: pd.DataFrame(FRAME),
    "polars DataFrame": lambda: pl.DataFrame(FRAME),
    "polars LazyFrame": lambda: pl.LazyFrame(FRAME),
    "arrow Table": lambda: pa.table(FRAME),
    "arrow RecordBatch": lambda: pa.record_batch(FRAME),
    "Dataset": lambda: datasets.Dataset.from_dict(FRAME),
    "DatasetDict": lambda: datasets.DatasetDict(test=datasets.Dataset.from_dict(FRAME)),
    "IterableDataset": lambda: datasets.Dataset.from_dict(FRAME).to_iterable_dataset(),
    "groupby": lambda: pd.DataFrame(FRAME).groupby("text"),
    "2-D array": lambda: np.array([["a", "b"], ["c", "d"]]),
    "0-D array": lambda: np.array("a"),
    "array of numbers": lambda: np.arange(3),
    "array of bytes": lambda: np.array([b"a", b"b"]),
    "range": lambda: range(3),
    "list of lists": lambda: [["a", "b"], ["c"]],
    "list of bytes": lambda: [b"a"],
    "list of dicts": lambda: [{"text": "a"}],
    "enumerate": lambda: enumerate(["a"]),
    "dict items": {"a": "b"}.items,
    "None inside": lambda: ["a", None],
    "NaN inside": lambda: ["a", float("nan")],
    "NA inside": lambda: ["a", pd.NA],
    "NaT inside": lambda: ["a", pd.NaT],
    "float32 NaN inside": lambda: ["a", np.float32("nan")],
    "array inside": lambda: ["a", np.array(["b", "c"])],
    "pandas missing": lambda: pd.Series(["a", None]),
    "pandas string missing": lambda: pd.Series(["a", None], dtype="string"),
    "pandas numbers": lambda: pd.Series([1, 2]),
    "pandas of lists": lambda: pd.Series([["a"], ["b"]]),
    "polars missing": lambda: pl.Series(["a", None]),
    "polars numbers": lambda: pl.Series([1, 2]),
    "arrow missing": lambda: pa.array(["a", None]),
    "arrow lists": lambda: pa.array([["a"], ["b"]]),
    "arrow structs": lambda: pa.array([{"text": "a"}]),
    "datasets missing": lambda: datasets.Dataset.from_dict({"text": ["a", None]})["text"],
}


@pytest.mark.parametrize("kind", NOT_TEXTS)
@pytest.mark.parametrize("call", sampled(["encode", "get", "put"], keep=5))
def test_anything_else_is_refused_and_nothing_is_stored(kind, call, tmp_path):
    """A typed error, before the encoder is called."""
    made = NOT_TEXTS[kind]()
    with EmbeddingCache(tmp_path) as cache:
        calls: dict[str, Callable[[], object]] = {
            "encode": lambda: cache.encode(made, SPEC, lambda _: pytest.fail("the encoder was called")),
            "get": lambda: cache.get(made, SPEC),
            "put": lambda: cache.put(made, np.zeros((2, 2), np.float32), SPEC),
        }
        with pytest.raises(InvalidItem) as caught:
            calls[call]()
        assert cache.mirror.namespaces() == [] or cache.mirror.namespace(SPEC).rows == 0
    assert "Pass" in str(caught.value) or "item " in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("pandas DataFrame", "df['text'].tolist()"),
        ("dict", "texts.values()"),
        ("str", "Pass [text]"),
        ("bytes", "data.decode()"),
        ("set", "sorted(texts)"),
        ("2-D array", "array[:, 0]"),
        ("pandas missing", "item 1 is missing (nan)"),
        ("None inside", "item 1 is missing (None)"),
        ("NA inside", "item 1 is missing (<NA>)"),
        ("list of lists", "item 0 is a list, not a string. Pass one flat list"),
        ("list of bytes", "item 0 is a bytes, not a string. Decode it"),
    ],
)
def test_the_error_says_what_to_pass(kind, words):
    """The next thing to type."""
    with pytest.raises(InvalidItem) as caught:
        keys_of_texts(NOT_TEXTS[kind]())
    assert words in str(caught.value)


class Lazy(str):
    """A string that looks like another one whenever it is asked."""

    __slots__ = ()

    def __str__(self) -> str:
        return "other"

    def __len__(self) -> int:
        return 1

    def encode(self, *_: Any) -> bytes:
        return b"other"

    def __radd__(self, other: str) -> str:
        return "other"

    def __add__(self, other: str) -> str:
        return "other"


def test_a_subclass_of_str_is_its_characters(tmp_path, monkeypatch):
    """Key, digest and encoder see the same ones."""
    monkeypatch.setattr(batch_module, "MIN_ITEMS", 0)
    lazy = [Lazy("pear"), Lazy("plum!")]
    plain = ["pear", "plum!"]
    assert batch_of_texts(lazy).digest == batch_of_texts(plain).digest
    spec = EncoderSpec(model="org/m", revision="v1", prompt="q: ")
    seen: list[str] = []
    with EmbeddingCache(tmp_path) as cache:
        cache.encode(lazy, spec, lambda missing: (seen.extend(missing), embed(missing))[1])
        assert seen == ["q: pear", "q: plum!"]
        assert cache.get(plain, spec)[1].all()


def test_a_column_is_not_copied_whole(monkeypatch):
    """At no time are there more Python strings of a column than a block of them."""
    monkeypatch.setattr(texts, "BLOCK_ITEMS", 8)
    sizes: list[int] = []

    class Column:
        """Gives parts only."""

        def __len__(self) -> int:
            return 100

        def __getitem__(self, part: slice) -> list[str]:
            assert isinstance(part, slice)
            chosen = [str(i) for i in range(100)[part]]
            sizes.append(len(chosen))
            return chosen

    column = texts.as_texts(Column())
    batch_of_texts(column)
    assert texts.texts_at(column, np.array([3, 4, 50, 99])) == ["3", "4", "50", "99"]
    assert max(sizes) <= 8


def test_a_prompt_reaches_the_encoder_once(tmp_path: Path):
    """The prompt that the identity names is the prompt that the encoder gets; keys are those of the texts."""
    spec = EncoderSpec(model="org/m", revision="v1", prompt="query: ")
    seen: list[str] = []

    def note(missing: list[str]) -> np.ndarray:
        seen.extend(missing)
        return embed(missing)

    with EmbeddingCache(tmp_path / "a", chunk_items=1) as cache:
        cache.encode(["x", "y", "x"], spec, note)
        assert seen == ["query: x", "query: y"]
        assert np.array_equal(cache.get(["x", "y"], spec)[0], embed(["query: x", "query: y"]))
        assert not cache.get(["query: x"], spec)[1].any()
    seen.clear()
    with EmbeddingCache(tmp_path / "b") as cache:
        cache.encode(["x", "y"], spec, note, adds_prompt=True)
        assert seen == ["x", "y"]


def test_the_self_check_gives_the_prompt_as_well(tmp_path: Path):
    """A colleague's rows are compared with what the encoder makes of text and prompt."""
    spec = EncoderSpec(model="org/m", revision="v1", prompt="query: ")
    with EmbeddingCache(tmp_path / "a", remote=tmp_path / "remote") as cache:
        cache.encode(["x", "yy"], spec, embed)
    with EmbeddingCache(tmp_path / "b", remote=tmp_path / "remote", self_check=8) as cache:
        assert np.array_equal(cache.encode(["x", "yy"], spec, embed), embed(["query: x", "query: yy"]))
        assert (cache.stats.encoded, cache.stats.checked) == (0, 2)
