"""Keys of texts and of rows of texts."""

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas_cache.errors import InvalidItem
from cas_cache.identity import KEY_BYTES, keys_of_rows, keys_of_texts

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


def one(columns: dict[str, list[Any]], fields: tuple[str, ...]) -> str:
    """The key of the only row, in hex."""
    keys = keys_of_rows(columns, fields)
    assert keys.shape == (1, KEY_BYTES)
    return keys.tobytes().hex()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        ("\U0001f9ea", "0db66ddb1ed9d843f2aff1fc93ea43218fe5b7f96c4ae1cead77be0ba315c0c1"),
    ],
)
def test_sha256_vectors(text: str, expected: str) -> None:
    """Keys are plain SHA-256, also of nothing and of what lies beyond the basic plane."""
    assert keys_of_texts([text]).tobytes().hex() == expected


@given(st.lists(TEXTS, max_size=20))
def test_equal_to_hashlib(texts: list[str]) -> None:
    """Each key is the SHA-256 of the text's UTF-8 bytes, in order."""
    keys = keys_of_texts(texts)
    assert keys.dtype == np.uint8
    assert keys.shape == (len(texts), KEY_BYTES)
    assert [key.tobytes() for key in keys] == [hashlib.sha256(text.encode("utf-8")).digest() for text in texts]
    assert np.array_equal(keys_of_rows({"text": texts}), keys)
    assert np.array_equal(keys_of_texts(iter(texts)), keys)


def test_equal_to_mteb() -> None:
    """A text has the key that mteb's own cache gives it."""
    mteb = importlib.util.find_spec("mteb")
    assert mteb is not None
    assert mteb.origin is not None
    # Only this file of mteb: importing the whole takes seconds.
    place = Path(mteb.origin).parent / "_content_hashes.py"
    spec = importlib.util.spec_from_file_location("mteb_content_hashes", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for text in ("", "abc", " a ", "é", "e\u0301", "\U0001f9ea\0\r\n"):
        assert keys_of_texts([text]).tobytes().hex() == module.hash_item({"text": text})


def test_texts_that_look_alike_are_different() -> None:
    """Nothing is normalised, stripped or folded."""
    texts = ["é", "e\u0301", "É", " é", "é ", "é\n", "é\r\n", "\ufeffé", "é\0", "\u00a0é", "ﬁ", "fi", "", " "]
    assert len({key.tobytes() for key in keys_of_texts(texts)}) == len(texts)


@pytest.mark.parametrize("bad", ["\ud800", "a\udfffb", None, 1, b"abc", ["a"], np.float32(1)], ids=repr)
@pytest.mark.parametrize("kind", ["texts", "rows"])
def test_what_has_no_key_is_named_with_its_position(bad: object, kind: str) -> None:
    """The error says which item of the call is wrong."""
    texts: list[Any] = ["fine", "fine", bad, "fine"]
    with pytest.raises(InvalidItem, match=r"[iI]tem 2"):
        keys_of_texts(texts) if kind == "texts" else keys_of_rows({"text": texts, "title": texts}, ("text", "title"))


def test_only_strings_are_texts() -> None:
    """What has an `encode` of its own is not taken at its word."""

    class Deceiver:
        def encode(self) -> bytes:
            return b"abc"

    class Shouting(str):
        __slots__ = ()

        def encode(self, *_: Any) -> bytes:  # type: ignore[override]
            return b"ABC"

    with pytest.raises(InvalidItem, match=r"item 0 is a .*Deceiver"):
        keys_of_texts([Deceiver()])  # type: ignore[list-item]
    assert np.array_equal(keys_of_texts([Shouting("abc")]), keys_of_texts(["abc"]))
    assert np.array_equal(keys_of_texts([np.str_("abc")]), keys_of_texts(["abc"]))


def test_one_string_is_not_a_list_of_texts() -> None:
    """A text given without its list is not taken for its letters."""
    with pytest.raises(InvalidItem, match=r"Pass \[text\]"):
        keys_of_texts("abc")


def test_row_key_is_defined_by_names_and_digests() -> None:
    """A row's key is the hash over each field's name, a zero byte and its content's digest, in the fields' order."""
    title, text = (hashlib.sha256(part.encode()).digest() for part in ("t", "a"))
    expected = hashlib.sha256(b"title\0" + title + b"text\0" + text).hexdigest()
    assert expected == "fea81249ff929e53dd242316accfae628db1cc240908e406aeeff6986e7ff433"
    assert one({"text": ["a"], "title": ["t"], "id": [7]}, ("title", "text")) == expected


def test_where_a_text_stands_matters() -> None:
    """Text that moves between fields, or is spread over them otherwise, is another item."""
    rows = [("a", "b"), ("b", "a"), ("ab", ""), ("", "ab"), (None, "ab"), ("ab", None), ("a", " b"), ("a\0text", "b")]
    keys = keys_of_rows({"title": [r[0] for r in rows], "text": [r[1] for r in rows]}, ("title", "text"))
    assert len({key.tobytes() for key in keys}) == len(rows)
    assert one({"title": ["a"], "text": ["b"]}, ("title", "text")) != one(
        {"title": ["a"], "text": ["b"]}, ("text", "title")
    )


def test_absent_and_none_are_the_same() -> None:
    """A column that is not there and a value of None both say that the row lacks the field; empty text does not."""
    fields = ("title", "text", "body")
    without = one({"text": ["a"]}, fields)
    assert without == one({"text": ["a"], "title": [None]}, fields)
    assert without == one({"text": ["a"], "title": [None], "body": [None], "other": ["x"]}, fields)
    assert without != one({"text": ["a"], "title": [""]}, fields)


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"body": ["a"]}, "none of"),
        ({}, "none of"),
        ({"text": ["a", None], "title": ["t", None]}, "Item 1 has none"),
        ({"text": ["a", "b"], "title": ["t"]}, "length"),
        ({"title": [1]}, "item 0 is a int"),
    ],
)
def test_rows_without_a_key_are_refused(columns: dict[str, list[Any]], match: str) -> None:
    """No row gets a key by accident."""
    with pytest.raises(InvalidItem, match=match):
        keys_of_rows(columns, ("title", "text"))


def test_none_text_alone_is_refused() -> None:
    """Where text is all there is, None is no text."""
    with pytest.raises(InvalidItem, match="item 0 is missing"):
        keys_of_rows({"text": [None]})


def test_nothing_has_no_keys() -> None:
    """No items, no keys, the right shape."""
    assert keys_of_texts([]).shape == (0, KEY_BYTES)
    assert keys_of_rows({"text": [], "title": []}, ("text", "title")).shape == (0, KEY_BYTES)


def test_conversations_are_canonical_json() -> None:
    """A conversation's key does not depend on the order of its mappings, and does on everything else."""
    first = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    same = [{"content": "hi", "role": "user"}, {"content": "yes", "role": "assistant"}]
    swapped = first[::-1]
    keys = keys_of_rows({"conversation": [first, same, swapped, first[:1], "hi"]}, ("conversation",))
    assert np.array_equal(keys[0], keys[1])
    assert len({key.tobytes() for key in keys}) == 4
    with pytest.raises(InvalidItem, match="item 0 has no key"):
        keys_of_rows({"conversation": [[object()]]}, ("conversation",))
