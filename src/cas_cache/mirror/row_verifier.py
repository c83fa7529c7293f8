"""Verify rows against their digests before a process first serves them, each row once.

Files are mapped, not read as a whole, so this is the one place where damage to the mirror is noticed before it reaches
an answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cas_cache.errors import DamagedMirror, set_aside
from cas_cache.format.rows import digest_rows
from cas_cache.mirror.memo import as_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cas_cache.mirror.memo import Rows
    from cas_cache.mirror.table import Table

GATHER_ROWS = 8192
"""Number of rows gathered at a time for verification: 12 MB at 384 float32, small against any answer."""


class RowVerifier:
    """The rows of a table that this process has verified against their digests: one byte per row."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._verified = np.zeros(0, np.bool_)

    def __repr__(self) -> str:
        return f"RowVerifier({int(self._verified.sum())} of {self._table.state.rows} rows)"

    def note(self, first: int) -> None:
        """Mark the rows from `first` on as verified: this process has just written them from memory."""
        self._so_far()[first:] = True

    def verify(self, rows: Rows) -> None:
        """Verify rows that were not verified before.

        Args:
            rows: Row numbers, each in [0, rows of the table).

        Raises:
            IndexError: If a row number is out of range.
            DamagedMirror: If a row does not match its digest.
        """
        verified = self._so_far()
        if isinstance(rows, slice):
            low, high = rows.start, rows.stop - 1
        else:
            low, high = int(rows.min(initial=0)), int(rows.max(initial=-1))
        if not (low >= 0 and high < len(verified)):
            msg = f"rows must be in [0, {len(verified)})"
            raise IndexError(msg)
        if isinstance(rows, slice):
            unverified = rows.start + np.flatnonzero(~verified[rows])
        else:
            unverified = np.unique(rows[~verified[rows]])
        for start in range(0, len(unverified), GATHER_ROWS):
            block = unverified[start : start + GATHER_ROWS]
            # Adjacent rows, which is how a pack stores them, become a slice and need not be gathered.
            at = as_rows(block)
            digests = digest_rows(self._table.keys[at], self._table.vectors[at])
            wrong = block[digests != self._table.digests[at]]
            if len(wrong):
                raise DamagedMirror(
                    f"{len(wrong)} rows of {self._table.folder} do not agree with their digests, the first is row "
                    f"{wrong[0]}: the files were changed after they were committed. Nothing of them was served. "
                    f"{set_aside(self._table.folder)}"
                )
            verified[at] = True

    def _so_far(self) -> NDArray[np.bool_]:
        """Return the flags, extended to the current number of rows."""
        rows = self._table.state.rows
        if len(self._verified) < rows:
            verified = np.zeros(rows, np.bool_)
            verified[: len(self._verified)] = self._verified
            self._verified = verified
        return self._verified
