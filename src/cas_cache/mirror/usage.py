"""Times of use of packs, for `evict`: the least recently used go first.

The record is derived and approximate: if it is lost, a pack looks older. A process records a pack the first time
that it serves one of its rows, so the cost is one small file per pack and process, not per call.
"""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING

import numpy as np

from cas_cache.files.disk import read_plain, write_atomically
from cas_cache.identity import parsed_json

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from cas_cache.mirror.state import State

logger = logging.getLogger(__name__)

USAGE_FILE = "used.json"


class Usage:
    """The packs that this process has used."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._noted: set[str] = set()
        self._state: State | None = None
        self._starts: NDArray[np.int64] = np.empty(0, np.int64)
        self.complete: State | None = None
        """The last state of which every pack was recorded, so that nothing is left to record; None before that."""

    def __repr__(self) -> str:
        return f"Usage({len(self._noted)} packs)"

    def note(self, rows: NDArray[np.int64] | slice, state: State) -> None:
        """Record the packs of rows that are served."""
        if self._state is not state:
            self._state = state
            self._starts = np.array([extent.start for extent in state.extents], np.int64)
        if isinstance(rows, slice):
            first, last = np.searchsorted(self._starts, [rows.start, rows.stop - 1], "right") - 1
            used = list(range(int(first), int(last) + 1))
        else:
            # There are few extents, so counting the rows of each is faster than sorting the rows.
            counts = np.bincount(np.searchsorted(self._starts, rows, "right") - 1, minlength=len(self._starts))
            used = np.flatnonzero(counts).tolist()
        self.note_packs(pack for at in used if (pack := state.extents[at].pack) is not None)
        if all(extent.pack is None or extent.pack in self._noted for extent in state.extents):
            self.complete = state

    def note_packs(self, packs: Iterable[str]) -> None:
        """Record packs that were used or are new."""
        new = set(packs) - self._noted
        if new:
            self._noted |= new
            now = time.time()
            self._write({**read_usage(self._folder), **dict.fromkeys(new, now)})

    def _write(self, used: dict[str, float]) -> None:
        try:
            write_atomically(self._folder / USAGE_FILE, json.dumps(used).encode())
        except OSError as err:
            # A process that may not write to the mirror cannot evict from it either.
            logger.info("the use of packs is not noted: %s", err)


def read_usage(folder: Path) -> dict[str, float]:
    """Return the last use of each pack, in seconds since 1970 by this machine's clock, as far as it is known."""
    try:
        document = parsed_json(read_plain(folder / USAGE_FILE))
        return {str(pack): float(at) for pack, at in document.items()}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError):
        return {}
