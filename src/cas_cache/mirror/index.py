"""Key -> row, for batches of keys at a time.

Sorted runs of (first 8 bytes of the key, row) are searched by bisection, and the full 32 bytes are compared with the
key column at the end. So keys that share a prefix are never confused, and nothing in a run can lead to a wrong row: the
worst is a row that is not found.

The first rows are in one file, ``index.bin``, in the byte order of the machine that wrote it; rows that it does not
cover yet are sorted in memory. Runs of similar size in memory are merged, so there are few of them::

    32 bytes    magic, version, number of rows, CRC-32 of the body and of the keys of up to 64 of its rows
    body        the prefixes in ascending order, then the row of each, 8 bytes each

The file is derived. It is verified once, when it is opened, and ignored if it is damaged or another column's: its rows
are then sorted again from the keys, and the next writer replaces it.
"""

from __future__ import annotations

import logging
import os
import struct
import zlib
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from cas_cache.files.disk import TEMP_PREFIX, open_plain
from cas_cache.identity import prefixes_of
from cas_cache.mirror.descriptors import map_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

ABSENT = -1

INDEX_FILE = "index.bin"

TEMP_NAME = f"{TEMP_PREFIX}index"
"""Name of the temporary file. There is one writer at a time, so the next save overwrites what a crash left behind."""

HEAD = struct.Struct("=8sQQQ")
MAGIC = b"casindex"
VERSION = 2
"""Version of the file, in the machine's byte order. Version 1 was several files, ``index.<start>-<stop>``."""

SAVE_ROWS = 1 << 15
"""Minimum number of rows in memory that a writer saves. Sorting fewer takes a process that opens the mirror 1 to 3
ms."""

GROWTH = 8
"""The file is written again once the rows in memory are an eighth of those in the file. So a process that opens the
mirror sorts at most a ninth of the rows, and each row was written 9 times, 16 bytes a time."""

SAMPLES = 64
"""Number of rows whose keys the checksum covers; each costs a page fault."""

SEARCHED_AT_ONCE = 1 << 16
"""Number of keys compared at a time: 64 bytes each, and as much again for their positions, so 8 MB."""

SLICE_ROWS = 1 << 18
"""Approximate number of rows merged at a time: 16 bytes each, and as much again for their order, so 12 MB."""


class Run:
    """Rows [start, stop) in the order of their prefixes.

    Attributes:
        start: The first row.
        stop: The row after the last.
        prefixes: The prefixes of the keys, ascending.
        rows: The row of each prefix.
    """

    def __init__(self, start: int, prefixes: NDArray[np.uint64], rows: NDArray[np.int64]) -> None:
        self.start = start
        self.stop = start + len(rows)
        self.prefixes = prefixes
        self.rows = rows

    def __repr__(self) -> str:
        return f"Run({self.start}, {self.stop})"

    def __len__(self) -> int:
        return self.stop - self.start

    @classmethod
    def from_keys(cls, keys: NDArray[np.uint8], start: int, stop: int) -> Self:
        """Return the sorted run of rows [start, stop) of a key column."""
        prefixes = prefixes_of(keys[start:stop])
        order = np.argsort(prefixes)
        return cls(start, prefixes[order], order + start)


class KeyIndex:
    """Index that finds the rows of keys in a key column that only grows.

    Args:
        folder: The folder of the file; None for an index in memory only.

    Attributes:
        rows: Number of indexed rows.
        saved_rows: Number of rows in the file that this object has mapped.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.rows = 0
        self.saved_rows = 0
        self._folder = folder
        self._runs: list[Run] = []

    def __repr__(self) -> str:
        return f"KeyIndex({self.rows} rows, of which {self.saved_rows} are in a file)"

    def close(self) -> None:
        """Drop the runs, and with them the map of the file."""
        self._runs, self.rows, self.saved_rows = [], 0, 0

    def extend(self, keys: NDArray[np.uint8]) -> None:
        """Index the rows of `keys`, the whole key column, that are not indexed yet."""
        if len(keys) <= self.rows:
            return
        keys = np.asarray(keys)
        if self._is_due(len(keys)):
            self._load(keys)
        if len(keys) > self.rows:
            run = Run.from_keys(keys, self.rows, len(keys))
            while self._runs and self._runs[-1].start >= self.saved_rows and len(self._runs[-1]) <= 2 * len(run):
                run = _merged([self._runs.pop(), run])
            self._runs.append(run)
            self.rows = len(keys)

    def find(self, requested: NDArray[np.uint8], keys: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the row of each key, or -1 if it has none.

        Args:
            requested: (m, 32) uint8 keys.
            keys: The key column that was indexed, (n, 32) uint8.

        Returns:
            (m,) int64.
        """
        keys = np.asarray(keys)
        result = np.full(len(requested), ABSENT, np.int64)
        prefixes = prefixes_of(requested)
        # In the order of the runs, a batch reads each page of a file once: 1.15 us a key become 0.1 at 10 million rows.
        order = np.argsort(prefixes)
        prefixes = prefixes[order]
        for run in self._runs:
            _search(run, requested, keys, order, prefixes, result)
        return result

    def prune(self, rows: int) -> None:
        """Remove a file that covers more than the column's `rows` rows: a restored column may grow differently.

        The caller is the only writer of the namespace.
        """
        if self._folder is None:
            return
        path = self._folder / INDEX_FILE
        try:
            with os.fdopen(open_plain(path), "rb") as file:
                head = file.read(HEAD.size)
            if len(head) < HEAD.size or HEAD.unpack(head)[2] > rows:
                path.unlink()
        except OSError:
            return

    def save(self, keys: NDArray[np.uint8]) -> None:
        """Save the index if many rows are in memory only.

        The caller is the only writer of the namespace and has extended the index to `keys`, the whole key column. If
        a write fails, the index stays in memory and the next commit tries again: the rows are safe without it.
        """
        if self._folder is None or not self._is_due(self.rows):
            return
        try:
            self._runs = [_write_run(self._folder, self._runs, np.asarray(keys))]
            self.saved_rows = self.rows
            for old in self._folder.glob("index.*-*"):
                old.unlink(missing_ok=True)
        except OSError as err:
            logger.info("the index of %s is kept in memory only: %s", self._folder, err)

    def _is_due(self, rows: int) -> bool:
        """Return True if so many of `rows` rows are in memory only that a writer saves them."""
        return rows - self.saved_rows >= max(SAVE_ROWS, self.saved_rows // GROWTH)

    def _load(self, keys: NDArray[np.uint8]) -> None:
        """Map the file if it covers more rows than the one that is mapped now."""
        if self._folder is None:
            return
        try:
            run = _read_run(self._folder / INDEX_FILE, keys, self.saved_rows)
        except OSError as err:
            logger.info("the index of %s is sorted again: %s", self._folder, err)
            return
        if run is not None:
            self._runs, self.rows, self.saved_rows = [run], run.stop, run.stop


def _read_run(path: Path, keys: NDArray[np.uint8], known: int) -> Run | None:
    """Return the run in a file; None if it is damaged or another column's, or has no more than `known` rows.

    Raises:
        OSError: If the file does not exist or cannot be read.
    """
    with os.fdopen(open_plain(path), "rb") as file:
        head = file.read(HEAD.size)
        if len(head) < HEAD.size:
            return None
        rows = HEAD.unpack(head)[2]
        if not known < rows <= len(keys) or file.seek(0, os.SEEK_END) != HEAD.size + 16 * rows:
            return None
        body = _mapped_body(file, rows)
    if head != _head(body, keys):
        logger.info("%s is damaged or not of these rows: skipped", path)
        return None
    return _run_of(body)


def _write_run(folder: Path, runs: Sequence[Run], keys: NDArray[np.uint8]) -> Run:
    """Write adjacent runs as one file, which gets its name only when it is complete; return it as one run.

    Raises:
        OSError: If the file system raises it; nothing is left behind.
    """
    count = runs[-1].stop
    temp = folder / TEMP_NAME
    try:
        with os.fdopen(open_plain(temp, os.O_RDWR | os.O_CREAT | os.O_TRUNC), "w+b") as file:
            done = 0
            for prefixes, rows in _slices(runs):
                _write_at(file, HEAD.size + 8 * done, prefixes)
                _write_at(file, HEAD.size + 8 * (count + done), rows)
                done += len(rows)
            file.flush()
            body = _mapped_body(file, count)
            _write_at(file, 0, np.frombuffer(_head(body, keys), np.uint8))
            file.flush()
            os.fsync(file.fileno())
        temp.replace(folder / INDEX_FILE)
    finally:
        temp.unlink(missing_ok=True)
    return _run_of(body)


def _mapped_body(file: Any, rows: int) -> NDArray[np.uint64]:
    return map_file(file, np.uint64, HEAD.size, (2 * rows,)).view(np.ndarray)


def _run_of(body: NDArray[np.uint64]) -> Run:
    count = len(body) // 2
    return Run(0, body[:count], body[count:].view(np.int64))


def _head(body: NDArray[np.uint64], keys: NDArray[np.uint8]) -> bytes:
    """Return the head of a file with this body, for a column with these keys."""
    rows = len(body) // 2
    sample = np.unique(np.linspace(0, rows - 1, SAMPLES).astype(np.int64))
    return HEAD.pack(MAGIC, VERSION, rows, zlib.crc32(keys[sample].tobytes(), zlib.crc32(body.data)))


def _merged(runs: Sequence[Run]) -> Run:
    """Return adjacent runs merged into one, in memory."""
    prefixes, rows = zip(*_slices(runs), strict=True)
    return Run(runs[0].start, np.concatenate(prefixes), np.concatenate(rows))


def _slices(runs: Sequence[Run]) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64]]]:
    """Yield the prefixes and rows of several runs in order, a slice at a time."""
    bounds = max(runs, key=len).prefixes[SLICE_ROWS::SLICE_ROWS]
    cuts = [[0, *np.searchsorted(run.prefixes, bounds).tolist(), len(run)] for run in runs]
    for i in range(len(bounds) + 1):
        parts = [slice(cut[i], cut[i + 1]) for cut in cuts]
        prefixes = np.concatenate([run.prefixes[part] for run, part in zip(runs, parts, strict=True)])
        rows = np.concatenate([run.rows[part] for run, part in zip(runs, parts, strict=True)])
        # The stable sort detects sorted parts and merges them, which is faster than sorting again.
        order = np.argsort(prefixes, kind="stable")
        yield prefixes[order], rows[order]


def _write_at(file: BinaryIO, offset: int, values: NDArray[Any]) -> None:
    file.seek(offset)
    file.write(np.ascontiguousarray(values).view(np.uint8).data)


def _search(
    run: Run,
    requested: NDArray[np.uint8],
    keys: NDArray[np.uint8],
    order: NDArray[np.int64],
    prefixes: NDArray[np.uint64],
    result: NDArray[np.int64],
) -> None:
    """Write to `result` the rows of keys that this run has and that were not found before.

    Args:
        run: The run to search.
        requested: (m, 32) requested keys.
        keys: The key column.
        order: Positions of the requested keys, ordered by prefix.
        prefixes: Their prefixes in that order.
        result: (m,) rows found so far.
    """
    for start in range(0, len(order), SEARCHED_AT_ONCE):
        asked, sought = order[start : start + SEARCHED_AT_ONCE], prefixes[start : start + SEARCHED_AT_ONCE]
        missing = result[asked] == ABSENT
        asked, sought = asked[missing], sought[missing]
        if not len(asked):
            continue
        # A batch of a million keys is a few entries apart: between its first and last key, the search stays in CPU
        # caches.
        first, last = np.searchsorted(run.prefixes, sought[[0, -1]]).tolist()
        at = np.searchsorted(run.prefixes[first:last], sought) + first
        while len(asked):
            same = at < len(run)
            same[same] = run.prefixes[at[same]] == sought[same]
            asked, sought, at = asked[same], sought[same], at[same]
            # A row number that was damaged after the file was opened leads to another key, not outside of the column.
            rows = np.clip(run.rows[at], 0, len(keys) - 1)
            words = _words(keys, rows) == _words(requested, asked)
            equal = words[:, 0] & words[:, 1] & words[:, 2] & words[:, 3]
            result[asked[equal]] = rows[equal]
            # A key that met another key with the same prefix continues at the next entry.
            asked, sought, at = asked[~equal], sought[~equal], at[~equal] + 1


def _words(keys: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return keys as an (n, 4) array of numbers; the first number is the prefix."""
    return np.take(keys, rows, axis=0).view(np.uint64)
