"""Key -> row, for batches of keys at a time.

Sorted runs of (first 8 bytes of the key, row) are searched by bisection. The full 32 bytes are compared at the end, so
keys that share a prefix are never confused. The runs cover all rows without gaps: first files that the writer left (see
`index_file`), then runs in memory for rows that no file covers yet. A commit adds a run in memory; runs of similar size
are merged, so there are few of them.

The index is derived: everything in it can be computed from the key column. A run that is missing, damaged or another
column's is sorted again from the column, which costs time but never a row.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from cas_cache.identity import prefixes_of
from cas_cache.mirror.index_file import Run, RunFile, UnverifiedError, files_in, merged, write_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

ABSENT = -1

SAVE_ROWS = 1 << 15
"""A writer saves the index once this many rows are in no file. A process that opens the mirror sorts fewer: 1 to 3
ms."""

GROWTH = 4
"""Each file has at least 4 times the rows of the next. 10 million rows are in at most 4 files, all of which a look-up
of an unknown key searches, and each row was written 8 times, 16 bytes a time (1 million: 3 files, 4 times)."""

SEARCHED_AT_ONCE = 1 << 16
"""Number of keys compared at a time: 64 bytes each, and as much again for their positions, so 8 MB."""

LISTINGS = 5
"""Maximum number of listings. A writer that merges runs may delete a file between its listing and its opening."""


class KeyIndex:
    """Index that finds the rows of keys in a key column that only grows.

    Args:
        folder: The folder of the files; None for an index in memory only.

    Attributes:
        rows: Number of indexed rows.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.rows = 0
        self._folder = folder
        self._runs: list[Run] = []

    def __repr__(self) -> str:
        return f"KeyIndex({self.rows} rows in {len(self._runs)} runs)"

    def close(self) -> None:
        """Drop the runs, and with them the maps of their files."""
        self._runs, self.rows = [], 0

    def extend(self, keys: NDArray[np.uint8]) -> None:
        """Index the rows of `keys`, the whole key column, that are not indexed yet."""
        if len(keys) <= self.rows:
            return
        keys = np.asarray(keys)
        if self._unsaved_rows() + len(keys) - self.rows >= SAVE_ROWS:
            self._runs = self._chain(keys)
            self.rows = self._runs[-1].stop if self._runs else 0
        if len(keys) > self.rows:
            run = Run.from_keys(keys, self.rows, len(keys))
            while self._runs and not self._runs[-1].saved and len(self._runs[-1]) <= 2 * len(run):
                run = merged([self._runs.pop(), run])
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
        for place, run in enumerate(self._runs):
            try:
                _search(run, requested, keys, order, prefixes, result)
            except UnverifiedError:
                logger.info("the index %r of %s is damaged: its rows are sorted again", run, self._folder)
                anew = self._runs[place] = Run.from_keys(keys, run.start, run.stop)
                _search(anew, requested, keys, order, prefixes, result)
        return result

    def prune(self, rows: int) -> None:
        """Remove files that cover more than the column's `rows` rows: a restored column may grow differently.

        The caller is the only writer of the namespace.
        """
        self._remove(lambda _, stop: stop > rows)

    def save(self, keys: NDArray[np.uint8]) -> None:
        """Save the runs in memory if they have many rows.

        The caller is the only writer of the namespace and has extended the index to `keys`, the whole key column. If
        a write fails, the index stays in memory and the next commit tries again: the rows are safe without it.
        """
        if self._folder is None or self._unsaved_rows() < SAVE_ROWS:
            return
        keys = np.asarray(keys)
        try:
            self._runs = [_saved(self._folder, group, keys) for group in _groups(self._runs)]
        except OSError as err:
            logger.info("the index of %s is kept in memory only: %s", self._folder, err)
            return
        # New files first, then remove the old ones: a reader that lists in between finds rows twice, never not at all.
        kept = {(run.start, run.stop) for run in self._runs if run.saved}
        self._remove(lambda start, stop: (start, stop) not in kept)

    def _chain(self, keys: NDArray[np.uint8]) -> list[Run]:
        """Return adjacent runs from row 0 on, each the longest that exists: from files, or from this object."""
        for _ in range(LISTINGS):
            chain: list[Run] = []
            try:
                files = {} if self._folder is None else files_in(self._folder)
                while (run := self._longest(chain[-1].stop if chain else 0, files, keys)) is not None:
                    chain.append(run)
            # A writer that merges runs deletes the old files: list again.
            except OSError:
                continue
            return chain
        return self._runs

    def _longest(self, start: int, files: dict[tuple[int, int], Path], keys: NDArray[np.uint8]) -> Run | None:
        """Return the longest run that begins at row `start`; None if there is none.

        Raises:
            FileNotFoundError: If a listed file does not exist any more.
        """
        loaded = {run.stop: run for run in self._runs if run.start == start}
        stops = loaded.keys() | {stop for first, stop in files if first == start and stop <= len(keys)}
        for stop in sorted(stops, reverse=True):
            if stop in loaded:
                return loaded[stop]
            try:
                return RunFile(files[start, stop], start, stop, keys)
            except FileNotFoundError:
                raise
            except (UnverifiedError, OSError):
                logger.info("%s is not an index of these rows: skipped", files[start, stop])
        return None

    def _remove(self, unwanted: Callable[[int, int], bool]) -> None:
        """Remove files by the rows that they cover. One that stays does no harm: it is verified before it is used."""
        if self._folder is None:
            return
        try:
            for (start, stop), path in files_in(self._folder).items():
                if unwanted(start, stop):
                    path.unlink(missing_ok=True)
        except OSError:
            return

    def _unsaved_rows(self) -> int:
        return sum(len(run) for run in self._runs if not run.saved)


def _groups(runs: list[Run]) -> list[list[Run]]:
    """Group adjacent runs that become one file: runs in memory that touch, and runs of similar size."""
    groups: list[list[Run]] = []
    for run in runs:
        group = [run]
        while groups and ((not groups[-1][-1].saved and not run.saved) or _rows(groups[-1]) < GROWTH * _rows(group)):
            group = groups.pop() + group
        groups.append(group)
    return groups


def _rows(group: list[Run]) -> int:
    return group[-1].stop - group[0].start


def _saved(folder: Path, group: list[Run], keys: NDArray[np.uint8]) -> Run:
    """Return adjacent runs as one run in a file.

    Raises:
        OSError: If the file system raises it.
    """
    if len(group) == 1 and group[0].saved:
        return group[0]
    start, stop = group[0].start, group[-1].stop
    path = write_run(folder, [_verified_run(run, keys) for run in group], keys)
    try:
        return RunFile(path, start, stop, keys)
    except UnverifiedError:
        return Run.from_keys(keys, start, stop)


def _verified_run(run: Run, keys: NDArray[np.uint8]) -> Run:
    """Return a verified run, sorted again if it was damaged, so that damage is never merged."""
    try:
        run.verify()
    except UnverifiedError:
        return Run.from_keys(keys, run.start, run.stop)
    return run


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

    Raises:
        UnverifiedError: If the run is damaged or is not of this key column. Rows found so far are right, some may be
            missing.
    """
    for start in range(0, len(order), SEARCHED_AT_ONCE):
        asked, sought = order[start : start + SEARCHED_AT_ONCE], prefixes[start : start + SEARCHED_AT_ONCE]
        open_ = result[asked] == ABSENT
        asked, sought = asked[open_], sought[open_]
        if not len(asked):
            continue
        at = run.locate(sought)
        while len(asked):
            same = run.has(at, sought)
            asked, sought, at = asked[same], sought[same], at[same]
            rows = run.rows_at(at)
            equal = _words(keys, rows) == _words(requested, asked)
            if run.saved and not equal[:, 0].all():
                raise UnverifiedError
            equal_all = equal[:, 0] & equal[:, 1] & equal[:, 2] & equal[:, 3]
            result[asked[equal_all]] = rows[equal_all]
            # A key that met another key with the same prefix continues at the next entry.
            other = ~equal_all
            asked, sought, at = asked[other], sought[other], at[other] + 1


def _words(keys: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return keys as an (n, 4) array of numbers; the first number is the prefix."""
    return np.take(keys, rows, axis=0).view(np.uint64)
