"""Decide what counts as texts, and read them without copying a whole column. Pure.

Every function that takes texts passes them through `as_texts`. It accepts a sequence of strings: a list, a tuple, a
column of pandas, polars, Arrow, datasets or NumPy. It also accepts an iterator of strings, which is read once. It
refuses a mapping, a table, a set, one string and bytes, because iterating over them yields items that nobody meant to
encode.

Columns are recognised by what they offer; nothing is imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MappingView, Sequence
from collections.abc import Set as AbstractSet
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.errors import InvalidItem

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK_ITEMS = 1 << 14
"""Maximum number of a column's texts that are Python strings at one time."""

FIRST_BLOCK_ITEMS = 1 << 10
"""Number of texts in the first block of a column, because their length is unknown."""

BLOCK_CHARACTERS = 1 << 22
"""Target number of characters in a block of a column; each takes up to 4 bytes."""

PIECE_CHARACTERS = 1 << 20
"""Maximum number of characters that are joined or encoded at one time: 8 MB if one of them is an emoji."""

_LISTS = ("to_pylist", "to_list", "tolist")
"""Methods that convert a part of a column to a list: of Arrow; of polars and pandas; of NumPy."""


class TextColumn:
    """A column of texts that is read in blocks.

    Args:
        column: A sized object with positional slices; ``column.iloc`` is used where it exists.
    """

    def __init__(self, column: Any) -> None:
        self._column = column
        self._rows = getattr(column, "iloc", column)

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, part: slice) -> list[Any]:
        values = self._rows[part]
        name = next((name for name in _LISTS if hasattr(values, name)), None)
        return list(values) if name is None else list(getattr(values, name)())


Texts = list[str] | tuple[str, ...] | TextColumn


def as_texts(texts: object) -> Texts:
    """Return texts as an object with a length and slices; the elements are checked when their keys are computed.

    Raises:
        InvalidItem: If `texts` is neither a sequence nor an iterator, with advice on what to pass instead.
    """
    if isinstance(texts, list | tuple | TextColumn):
        return texts
    _check_kind(texts)
    if _has_slices(texts):
        return TextColumn(texts)
    if isinstance(texts, Iterable):
        return list(texts)
    raise InvalidItem(f"The texts are {_type_text(texts)}. Pass a list of strings.")


def blocks_of(texts: Texts) -> Iterator[Sequence[Any]]:
    """Yield the texts in order, one block at a time. Blocks of a column are smaller where its texts are long."""
    start, items = 0, _next_items(()) if isinstance(texts, TextColumn) else BLOCK_ITEMS
    while start < len(texts):
        block = texts[start : start + items]
        yield block
        start += len(block)
        if isinstance(texts, TextColumn):
            items = _next_items(block)


def utf8_of(texts: Sequence[str]) -> Iterator[bytes]:
    """Yield the UTF-8 bytes of all texts, one after another, in pieces of limited size.

    Raises:
        TypeError: If an item is not a string.
        UnicodeEncodeError: If a text holds a lone surrogate.
    """
    # Methods of str itself, because a subclass could return another length or other parts.
    ends = np.cumsum(np.fromiter(map(str.__len__, texts), np.int64, len(texts)))
    first = 0
    while first < len(texts):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + PIECE_CHARACTERS, side="right")))
        if ends[last - 1] - before <= PIECE_CHARACTERS:
            yield str.encode("".join(texts[first:last]))
        else:  # one long text
            for start in range(0, int(ends[first]) - before, PIECE_CHARACTERS):
                yield str.encode(str.__getitem__(texts[first], slice(start, start + PIECE_CHARACTERS)))
        first = last


def texts_at(texts: Texts, positions: NDArray[np.int64]) -> list[str]:
    """Return some of the texts as plain strings, with exactly the characters from which their keys were computed.

    Args:
        texts: The texts, whose keys were computed.
        positions: Ascending positions.
    """
    chosen: list[str] = []
    block: Sequence[Any] = ()
    first, last = 0, 0
    for position in positions.tolist():
        if isinstance(texts, TextColumn):
            if not first <= position < last:
                first, last = position, min(position + _next_items(block), int(positions[-1]) + 1)
                block = texts[first:last]
            text = block[position - first]
        else:
            text = texts[position]
        # A subclass of str may return another text each time that it is converted or joined to a prompt.
        chosen.append(text if type(text) is str else str.__str__(text))
    return chosen


def _next_items(block: Sequence[Any]) -> int:
    """Return the number of items in the next block of a column; after an empty block, that of the first block."""
    if not block:
        return min(FIRST_BLOCK_ITEMS, BLOCK_ITEMS)
    characters = sum(len(text) for text in block if isinstance(text, str))
    return max(1, min(BLOCK_ITEMS, BLOCK_CHARACTERS * len(block) // max(1, characters)))


def described_item(item: object) -> str:
    """Return a description of an item that is not a text, with advice."""
    is_nan = isinstance(item, Real) and item != item  # noqa: PLR0124
    if item is None or is_nan or type(item).__name__ in ("NAType", "NaTType"):
        return f"is missing ({item!r}). Leave missing texts out, or pass an empty string for them"
    hint = ". Decode it: item.decode()" if isinstance(item, bytes | bytearray) else ""
    if isinstance(item, list | tuple):
        hint = ". Pass one flat list of strings"
    return f"is {_type_text(item)}, not a string{hint}"


def _check_kind(texts: object) -> None:
    """Raise an error for an iterable that does not yield texts, or yields them without an order."""
    what = f"The texts are {_type_text(texts)}"
    if isinstance(texts, str):
        raise InvalidItem("One string was given where a list of texts is expected. Pass [text].")
    if isinstance(texts, bytes | bytearray | memoryview):
        raise InvalidItem(f"{what}. Pass a list of strings, for example [data.decode()].")
    is_column = isinstance(texts, Sequence) or hasattr(type(texts), "iloc")
    if isinstance(texts, Mapping) or (hasattr(type(texts), "keys") and not is_column):
        raise InvalidItem(
            f"{what}; its keys would be encoded. Pass list(texts.values()), or one column: texts['text']."
        )
    # Checked on the class, because a Series may have a label of that name.
    if any(hasattr(type(texts), name) for name in ("columns", "column_names")) and not isinstance(texts, Sequence):
        raise InvalidItem(f"{what}; its column names would be encoded. Pass one column, such as df['text'].tolist().")
    if isinstance(texts, AbstractSet) and not isinstance(texts, MappingView):
        raise InvalidItem(f"{what}, which has no order. Pass a list, such as sorted(texts).")
    if getattr(texts, "ndim", 1) != 1:
        raise InvalidItem(f"{what} with {getattr(texts, 'ndim', 0)} dimensions. Pass one column, such as array[:, 0].")


def _has_slices(texts: Any) -> bool:
    """Return True for a sized object whose slices are columns again, as far as an empty slice shows."""
    if not (hasattr(type(texts), "__len__") and hasattr(type(texts), "__getitem__")):
        return False
    try:
        return len(getattr(texts, "iloc", texts)[0:0]) == 0
    except (TypeError, KeyError, ValueError):
        return False  # a deque, for example


def _type_text(value: object) -> str:
    cls = type(value)
    return f"a {cls.__qualname__}" if cls.__module__ == "builtins" else f"a {cls.__module__}.{cls.__qualname__}"
