"""Which packs this mirror need not doubt: it made them, or a self-check has compared rows of them.

Kept in ``vouched.json``, which is a note, not a record: without it rows are compared once more.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import numpy as np

from cas_cache.disk import read_plain, write_atomically
from cas_cache.identity import parsed_json

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from cas_cache.mirror.memo import Rows
    from cas_cache.mirror.state import State

logger = logging.getLogger(__name__)

FILE = "vouched.json"


class Vouched:
    """The packs of one namespace that are vouched for."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._packs: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"Vouched({len(self._packs)} packs)"

    def note(self, packs: Iterable[str]) -> None:
        """Vouch for packs."""
        known = self._read()
        self._packs = known | frozenset(packs)
        if self._packs != known:
            try:
                write_atomically(self._path, json.dumps(sorted(self._packs)).encode())
            except OSError as err:
                logger.info("the packs that were compared are not noted, later processes compare again: %s", err)

    def others(self, rows: Rows, state: State) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return which of the rows came from packs that nobody here vouches for.

        Args:
            rows: (n,) int64, -1 for none, or a slice.
            state: Whose rows they are.

        Returns:
            (m,) positions in `rows`, ascending, and (m,) the extent of `state` that each is in.
        """
        doubted = self._doubted(state)
        if not doubted.any():
            return np.empty(0, np.int64), np.empty(0, np.int64)
        at = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        starts = np.array([extent.start for extent in state.extents], np.int64)
        extents = np.searchsorted(starts, at, "right") - 1
        positions = np.flatnonzero((at >= 0) & doubted[extents])
        return positions, extents[positions]

    def _doubted(self, state: State) -> NDArray[np.bool_]:
        """For each extent of a state, whether its pack is not vouched for."""
        packs = {extent.pack for extent in state.extents if extent.pack is not None}
        if packs - self._packs:
            self._packs = self._read()
        unknown = packs - self._packs
        return np.array([extent.pack in unknown for extent in state.extents], np.bool_)

    def _read(self) -> frozenset[str]:
        """What is known here, and what other processes have noted."""
        try:
            return self._packs | {str(pack) for pack in parsed_json(read_plain(self._path))}
        except (OSError, ValueError, TypeError):
            return self._packs
