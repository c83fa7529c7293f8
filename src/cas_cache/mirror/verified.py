"""The packs that were compared with an encoder in this mirror, and the rows that the self-check must compare next.

The unit of trust is a pack or, in a merge, the rows of each merged pack: a merge inherits no trust. Packs that this
mirror pushed count as compared. The record is ``vouched.json``. It is a hint: if it is lost, rows are compared again.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.files.disk import read_plain, write_atomically
from cas_cache.identity import parsed_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from cas_cache.mirror.rows import Rows
    from cas_cache.mirror.state import Extent, State

logger = logging.getLogger(__name__)

FILE = "vouched.json"

UNKNOWN = ""
"""The appearance of an encoder that has no description."""


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Rows that are trusted together once some of them were compared.

    Attributes:
        pack: The pack that the rows came from; None for rows that were encoded on this side and are not pushed yet.
        unit: The name to verify, if the pack was never compared in this mirror; None if the rows are in doubt only
            because another encoder made them.
        appearance: The id of the appearance of the encoder that made or verified the rows; `UNKNOWN` if there is none.
    """

    pack: str | None
    unit: str | None
    appearance: str = UNKNOWN


@dataclass(frozen=True, slots=True)
class DoubtedRows:
    """The rows of a call that must be compared before they are served.

    Attributes:
        positions: (m,) positions in the call, ascending.
        numbers: (m,) number of each row's group.
        groups: The groups by number.
    """

    positions: NDArray[np.int64]
    numbers: NDArray[np.int64]
    groups: list[RowGroup]


class VerifiedPacks:
    """The compared packs of one namespace, each with the appearance of the encoder that it was compared with.

    Args:
        folder: The folder of the namespace.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._units: dict[str, str] = {}
        self._grouped: _Grouped | None = None
        self.complete: State | None = None
        """The last state of which every pack was compared; None before there is one."""

    def __repr__(self) -> str:
        return f"VerifiedPacks({len(self._units)})"

    def note(self, units: Mapping[str, str]) -> None:
        """Record packs, or sources of merges, as verified under an appearance."""
        known = self._read_units()
        self._units = {**known, **units}
        self._grouped = None
        if self._units != known:
            try:
                write_atomically(self._path, json.dumps({"units": self._units}, sort_keys=True).encode())
            except OSError as err:
                logger.info("the verified packs were not recorded, later processes compare again: %s", err)

    def doubted(self, rows: Rows, state: State, trusted: frozenset[str] | None) -> DoubtedRows:
        """Return the rows that must be compared.

        Args:
            rows: (n,) int64, -1 for a missing row, or a slice.
            state: The state that the rows belong to.
            trusted: The appearances whose rows need no comparison. None if the encoder has no appearance; then only
                rows of packs that were never compared are in doubt.
        """
        doubted = self._groups_of(state, trusted).doubted(rows)
        if len(doubted.positions) and (units := self._read_units()) != self._units:
            # Another process may have verified some of the packs since.
            self._units, self._grouped = units, None
            doubted = self._groups_of(state, trusted).doubted(rows)
        return doubted

    def unverified(self, state: State) -> dict[str, int]:
        """Return the packs, with their rows in the mirror, that were not compared or have a source that was not."""
        unverified: dict[str, int] = {}
        units = self._read_units()
        for extent in state.extents:
            if extent.pack is not None and extent.unit not in units:
                unverified[extent.pack] = unverified.get(extent.pack, 0) + extent.rows
        return unverified

    def _groups_of(self, state: State, trusted: frozenset[str] | None) -> _Grouped:
        known = self._grouped
        if known is not None and known.state is state and known.trusted == trusted:
            return known
        groups: dict[RowGroup, int] = {}
        numbers = [-1] * len(state.extents)
        for i, extent in enumerate(state.extents):
            group = self._group(extent, trusted)
            if group is not None:
                numbers[i] = groups.setdefault(group, len(groups))
        starts = np.array([extent.start for extent in state.extents], np.int64)
        self._grouped = _Grouped(state, trusted, starts, np.array(numbers, np.int64), list(groups))
        if trusted is None and not groups:
            self.complete = state
        return self._grouped

    def _group(self, extent: Extent, trusted: frozenset[str] | None) -> RowGroup | None:
        """Return the group of an extent; None if it needs no comparison."""
        if extent.pack is not None and extent.unit not in self._units:
            return RowGroup(extent.pack, extent.unit)
        appearance = extent.appearance or self._units.get(extent.unit or "", UNKNOWN)
        if trusted is None or appearance in trusted:
            return None
        return RowGroup(extent.pack, None, appearance)

    def _read_units(self) -> dict[str, str]:
        """Return the units that this object or another process has recorded."""
        try:
            document: Any = parsed_json(read_plain(self._path))
            units = {str(unit): str(appearance) for unit, appearance in document["units"].items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return self._units
        return {**units, **self._units}


@dataclass(frozen=True, slots=True)
class _Grouped:
    """The groups of a state's extents, kept because every call needs them."""

    state: State
    trusted: frozenset[str] | None
    starts: NDArray[np.int64]
    numbers: NDArray[np.int64]
    groups: list[RowGroup]

    def doubted(self, rows: Rows) -> DoubtedRows:
        """Return the rows that belong to a group."""
        if not self.groups:
            return DoubtedRows(np.empty(0, np.int64), np.empty(0, np.int64), [])
        at = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        numbers = self.numbers[np.searchsorted(self.starts, at, "right") - 1]
        positions = np.flatnonzero((at >= 0) & (numbers >= 0))
        return DoubtedRows(positions, numbers[positions], self.groups)
