"""Rows of a table: their numbers, their verification against digests, and their vectors in one array.

Files are mapped, not read as a whole, so `RowVerifier` is the one place where damage to the mirror is noticed before it
reaches an answer.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.errors import DamagedMirror, set_aside
from cas_cache.format.rows import digest_rows, row_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cas_cache.mirror.table import Table

    Rows = NDArray[np.int64] | slice

VERIFIED_AT_ONCE = 8192
"""Number of rows gathered at a time for verification: 12 MB at 384 float32, small against any answer."""

GATHER_BYTES = 1 << 24
"""Bytes that a thread gathers at a time; the caller gathers smaller answers itself."""

GATHER_THREADS = 4
"""Maximum number of threads of a gather. Most of a large gather is the first touch of the answer's memory, which two
cores do twice as fast as one."""


def as_rows(rows: NDArray[np.int64]) -> Rows:
    """Return rows as a slice if they form one ascending run."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and bool((np.diff(rows) == 1).all()):
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def count_of(rows: Rows) -> int:
    """Return the number of rows."""
    return rows.stop - rows.start if isinstance(rows, slice) else len(rows)


class RowVerifier:
    """The rows of a table that this process has verified against their digests: one byte per row."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._verified = np.zeros(0, np.bool_)

    def __repr__(self) -> str:
        return f"RowVerifier({int(self._verified.sum())} of {self._table.state.rows} rows)"

    def note(self, first: int) -> None:
        """Mark the rows from `first` on as verified: this process has just written them from memory."""
        self._flags()[first:] = True

    def verify(self, rows: Rows) -> None:
        """Verify rows that were not verified before.

        Args:
            rows: Row numbers, each in [0, rows of the table).

        Raises:
            IndexError: If a row number is out of range.
            DamagedMirror: If a row does not match its digest.
        """
        verified = self._flags()
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
        for start in range(0, len(unverified), VERIFIED_AT_ONCE):
            block = unverified[start : start + VERIFIED_AT_ONCE]
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

    def _flags(self) -> NDArray[np.bool_]:
        """Return the flags, extended to the current number of rows."""
        rows = self._table.state.rows
        if len(self._verified) < rows:
            verified = np.zeros(rows, np.bool_)
            verified[: len(self._verified)] = self._verified
            self._verified = verified
        return self._verified


def gather_rows(vectors: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
    """Return the vectors of rows, which `RowVerifier.verify` found in range, in memory that the caller owns."""
    out = np.empty((len(rows), *vectors.shape[1:]), vectors.dtype)
    if out.nbytes <= GATHER_BYTES:
        # mode="clip" avoids a buffer; the rows are known to be in range.
        np.take(vectors, rows, axis=0, out=out, mode="clip")
        return out
    step = max(1, GATHER_BYTES // row_bytes(vectors.dtype, vectors.shape[1:]))

    def gather(start: int) -> None:
        part = slice(start, start + step)
        np.take(vectors, rows[part], axis=0, out=out[part], mode="clip")

    with ThreadPoolExecutor(min(GATHER_THREADS, os.cpu_count() or 1), "cas_cache-gather") as threads:
        for _ in threads.map(gather, range(0, len(rows), step)):
            pass
    return out
