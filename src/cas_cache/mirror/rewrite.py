"""Move the rows of a table: write the rows that stay to new files, which then replace the old ones.

The caller holds the lock, and no other process has the table open. The kept rows are written to files whose names end
in ``.new``. Then a state is committed with a flag that says so, and the new files are renamed over the old ones. A
crash before the commit leaves the old rows; `finish_rewrite` completes a rewrite that was interrupted after it.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cas_cache.display import size
from cas_cache.errors import DamagedMirror, MirrorWriteError
from cas_cache.files.disk import flush, is_full, read_plain
from cas_cache.mirror.state import State
from cas_cache.mirror.table import STATE_FILE, failure, write_error

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from cas_cache.mirror.column import Column
    from cas_cache.mirror.table import Table

logger = logging.getLogger(__name__)

NEW = ".new"
"""Suffix of the files of a rewrite, until they replace the old files."""

ROWS_AT_ONCE = 1 << 14
"""Number of rows that are copied and made durable at a time: 25 MB at 384 float32."""


def rewrite(table: Table, runs: Sequence[tuple[int, int]], state: State) -> None:
    """Keep only some rows.

    Args:
        table: The table.
        runs: (start, stop) of the rows that stay, ascending.
        state: The state after the rewrite.

    Raises:
        MirrorWriteError: If the disk is full or a write fails; the table is unchanged.
    """
    columns = table.columns(state, NEW)
    try:
        _write_kept(table, columns, runs)
        _commit_rewrite(table, state)
    except OSError as err:
        if not _is_rewriting(table):
            for column in columns:
                column.path.unlink(missing_ok=True)
        raise _rewrite_error(table.folder, err, table.state, state) from err
    table.replaced(state)
    if table.state.rewriting:
        finish_rewrite(table)


def finish_rewrite(table: Table) -> None:
    """Rename the new files of a rewrite over the old ones."""
    try:
        for column, new in zip(table.columns(table.state), table.columns(table.state, NEW), strict=True):
            if new.path.exists():
                new.path.replace(column.path)
            elif not table.state.rows:
                column.path.unlink(missing_ok=True)
        # All renames are durable before the flag is cleared: a crash in between only repeats this function.
        flush(table.folder)
    except OSError as err:
        raise write_error(table.folder, err, table.state.rows) from err
    table.commit(replace(table.state, rewriting=False))


def _write_kept(table: Table, columns: Sequence[Column], runs: Sequence[tuple[int, int]]) -> None:
    """Write the rows of some runs to the files of a rewrite."""
    old: tuple[NDArray[Any], ...] = table.keys, table.vectors, table.digests
    for column, values in zip(columns, old, strict=True):
        column.path.unlink(missing_ok=True)
        at = 0
        for start, stop in runs:
            for first in range(start, stop, ROWS_AT_ONCE):
                part = values[first : min(first + ROWS_AT_ONCE, stop)]
                column.write(at, part)
                at += len(part)
        if at:
            column.set_rows(at)
    # The names of the files must be durable before the state that needs them is.
    flush(table.folder)


def _commit_rewrite(table: Table, state: State) -> None:
    try:
        table.write_state(replace(state, rewriting=True))
    except OSError as err:
        if state.rows or not is_full(err) or _is_rewriting(table):
            raise
        _commit_nothing(table, state)


def _commit_nothing(table: Table, state: State) -> None:
    """Commit a state without rows on a full disk. A folder without a state file has no rows, and needs no space."""
    (table.folder / STATE_FILE).unlink()
    # Only when that is durable may the columns be deleted.
    flush(table.folder)
    for column in table.columns(table.state):
        column.path.unlink(missing_ok=True)
    try:
        table.write_state(state)
    except OSError as err:
        logger.info("%s has no rows, and no room for a state that says so: %s", table.folder, err)


def _is_rewriting(table: Table) -> bool:
    """Return True if the committed state may need the files of a rewrite."""
    try:
        return State.from_bytes(read_plain(table.folder / STATE_FILE), str(table.folder)).rewriting
    except (OSError, DamagedMirror):
        return True


def _rewrite_error(folder: Path, err: OSError, before: State, after: State) -> MirrorWriteError:
    if not is_full(err):
        return write_error(folder, err, before.rows)
    return MirrorWriteError(
        f"{failure(err)} at {folder}. None of its {before.rows} rows was lost. {after.rows} have to stay and are "
        f"written again, which needs {size(after.rows * after.row_bytes)} of room for a while. Make that room, or push "
        "pending rows (`cas-cache push`), and evict again."
    )
