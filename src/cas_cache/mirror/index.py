"""Key -> row, for batches of keys at a time.

Sorted runs of (first 8 bytes of the key, row), searched by bisection; the full 32 bytes are compared at the end, so
keys that share a prefix never meet. A commit adds a run; runs of like size are merged, so there are about log2(n) of
them and each row is sorted about log2(n) times in its life. 16 bytes a row in memory: 10 million rows are 160 MB.

The index is derived: it holds nothing that the key column does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cas_cache.identity import prefixes_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

ABSENT = -1


class KeyIndex:
    """Finds the rows of keys in a key column that only grows."""

    def __init__(self) -> None:
        self.rows = 0
        self._runs: list[tuple[NDArray[np.uint64], NDArray[np.int64]]] = []

    def __repr__(self) -> str:
        return f"KeyIndex({self.rows} rows in {len(self._runs)} runs)"

    def extend(self, keys: NDArray[np.uint8]) -> None:
        """Index the rows of `keys`, the whole key column, that are not indexed yet."""
        if len(keys) <= self.rows:
            return
        rows = np.arange(self.rows, len(keys), dtype=np.int64)
        prefixes = prefixes_of(keys[self.rows :])
        self.rows = len(keys)
        while self._runs and len(self._runs[-1][0]) <= 2 * len(prefixes):
            older_prefixes, older_rows = self._runs.pop()
            prefixes, rows = np.concatenate([older_prefixes, prefixes]), np.concatenate([older_rows, rows])
        order = np.argsort(prefixes, kind="stable")
        self._runs.append((prefixes[order], rows[order]))

    def find(self, wanted: NDArray[np.uint8], keys: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the row of each key, or -1.

        Args:
            wanted: (m, 32) uint8.
            keys: The key column that was indexed, (n, 32) uint8.

        Returns:
            (m,) int64.
        """
        found = np.full(len(wanted), ABSENT, np.int64)
        wanted_prefixes = prefixes_of(wanted)
        for prefixes, rows in self._runs:
            open_ = np.flatnonzero(found == ABSENT)
            if not len(open_):
                break
            at = np.searchsorted(prefixes, wanted_prefixes[open_])
            while len(open_):
                same = at < len(prefixes)
                same[same] = prefixes[at[same]] == wanted_prefixes[open_[same]]
                open_, at = open_[same], at[same]
                candidates = rows[at]
                equal = (keys[candidates] == wanted[open_]).all(axis=1)
                found[open_[equal]] = candidates[equal]
                # Whoever met another key with its prefix looks at the next entry.
                open_, at = open_[~equal], at[~equal] + 1
        return found
