"""mteb's loaders and their datasets: the keys of their rows, and loaders over some of the rows.

Read in mteb 2.26.24, datasets and torch; parts that are not their published interface are named here and in `compat`.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.identity import KEY_BYTES, MIN_ITEMS, Batch, digest_of_batch, keys_of_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

LAZY_FIELDS = frozenset({"image", "audio", "video"})
"""Columns that are decoded row by row, because a whole corpus of them may not fit in memory."""

ROWS_AT_ONCE = 1 << 14
"""Rows that are Python strings at a time: about 200 B each."""


def column_names(dataset: Any) -> list[str]:
    """Return the columns of a loader's dataset of any class."""
    if hasattr(dataset, "column_names"):
        return list(dataset.column_names)
    return list(dataset[0]) if len(dataset) else []


def batch_of_dataset(dataset: Any, fields: tuple[str, ...], advance: Callable[[int], None] | None = None) -> Batch:
    """Return a loader's dataset as a batch of items, from whole columns if it has columns.

    Args:
        dataset: n rows.
        fields: The fields that reach the encoder.
        advance: Called with the number of rows whose keys were made.
    """
    report = advance or (lambda _: None)
    return Batch(len(dataset), lambda: _keys_of_dataset(dataset, fields, report), _digest_of_dataset(dataset, fields))


def ids_of_dataset(dataset: Any) -> list[str] | None:
    """Return the task's ids of a dataset's rows; None if it has none."""
    if not hasattr(dataset, "column_names") or "id" not in dataset.column_names:
        return None
    return [str(row_id) for row_id in dataset["id"][:]]


def _digest_of_dataset(dataset: Any, fields: tuple[str, ...]) -> bytes | None:
    """Return a hash over the Arrow buffers of the columns, if all of them are plain strings; None if not.

    The lengths of the strings are hashed beside their bytes and determine where each ends, so the hash does not depend
    on the chunks of a column.
    """
    from datasets import Dataset

    if not isinstance(dataset, Dataset) or len(dataset) < MIN_ITEMS:
        return None
    if dataset._indices is not None or dataset._format_type is not None:  # noqa: SLF001 - rows differ from the table
        return None
    parts = []
    for field in [field for field in fields if field in dataset.column_names]:
        lengths, characters = hashlib.sha256(), hashlib.sha256()
        for chunk in dataset.data.column(field).chunks:
            width = {"string": 4, "large_string": 8}.get(str(chunk.type))
            if width is None or chunk.null_count:
                return None
            _, offsets, data = chunk.buffers()
            ends = np.frombuffer(offsets, f"<i{width}", len(chunk) + 1, chunk.offset * width)
            lengths.update(np.diff(ends).astype("<i8").data)
            if data is not None:
                characters.update(memoryview(data)[ends[0] : ends[-1]])
        parts += [hashlib.sha256(field.encode()).digest(), lengths.digest(), characters.digest()]
    return digest_of_batch("columns", parts) if parts else None


class _CountedColumn:
    """A column that reports each of its rows that was read."""

    def __init__(self, column: Any, advance: Callable[[int], None]) -> None:
        self._column = column
        self._advance = advance

    def __len__(self) -> int:
        return len(self._column)

    def __iter__(self) -> Iterator[Any]:
        for value in self._column:
            yield value
            self._advance(1)


def _keys_of_dataset(dataset: Any, fields: tuple[str, ...], advance: Callable[[int], None]) -> NDArray[np.uint8]:
    present = [field for field in fields if field in column_names(dataset)]
    if hasattr(dataset, "column_names"):
        if not present or LAZY_FIELDS & set(present):
            columns: dict[str, Any] = {f: dataset[f] if f in LAZY_FIELDS else dataset[f][:] for f in present}
            counted = next((field for field in present if field in LAZY_FIELDS), None)
            if counted is not None:
                columns[counted] = _CountedColumn(columns[counted], advance)
            return keys_of_rows(columns, fields)
        keys = np.empty((len(dataset), KEY_BYTES), np.uint8)
        for first in range(0, len(dataset), ROWS_AT_ONCE):
            columns = {f: dataset[f][first : first + ROWS_AT_ONCE] for f in present}
            keys[first : first + ROWS_AT_ONCE] = keys_of_rows(columns, fields, first)
            advance(min(ROWS_AT_ONCE, len(dataset) - first))
        return keys
    rows = [dataset[i] for i in range(len(dataset))]
    return keys_of_rows({f: [row[f] for row in rows] for f in present}, fields)


def rows_of_loader(loader: Any, positions: NDArray[np.int64]) -> Any:
    """Return a loader like `loader` over some rows of its dataset, unchanged from how mteb prepared them."""
    from torch.utils.data import DataLoader, Subset

    class Rows(Subset):  # type: ignore[misc]
        """Some rows of a dataset; every other attribute, such as ``features``, is the dataset's."""

        def __getattr__(self, name: str) -> Any:
            if name == "dataset" or name.startswith("__"):
                raise AttributeError(name)
            return getattr(self.dataset, name)

    dataset = loader.dataset
    return DataLoader(
        _selected(dataset, positions) if hasattr(dataset, "select") else Rows(dataset, positions.tolist()),
        batch_size=loader.batch_size,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
    )


def _selected(dataset: Any, positions: NDArray[np.int64]) -> Any:
    """Select rows of a dataset; a `datasets.Dataset` would hash all positions for its fingerprint, 9 us each."""
    from datasets import Dataset

    if not isinstance(dataset, Dataset):
        return dataset.select(positions.tolist())
    first, last = (int(positions[0]), int(positions[-1])) if len(positions) else (0, -1)
    is_run = last - first == len(positions) - 1  # positions ascend
    chosen = range(first, last + 1) if is_run else positions.tolist()
    return dataset.select(chosen, new_fingerprint=secrets.token_hex(8))
