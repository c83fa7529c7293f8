"""Packs that are planned from pending rows, and complete packs that are being stored. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class WholePack(NamedTuple):
    """A pack that was read completely and verified.

    Attributes:
        pack: The id of the pack.
        keys: (n, 32) uint8 keys.
        vectors: (n, *shape) vectors.
        digests: (n,) uint64 digests.
        supersedes: The packs whose rows it contains.
    """

    pack: str
    keys: NDArray[np.uint8]
    vectors: NDArray[Any]
    digests: NDArray[np.uint64]
    supersedes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlannedPack:
    """Pending rows that will become one pack.

    Attributes:
        nonce: Drawn once and kept until the pack is published, so that a retry makes the same pack.
        runs: (start, stop) of the rows in the mirror, ascending.
        appearance: The id of the appearance of the encoder that made all rows; None if there are several, or it is
            unknown.
        rows: Number of rows.
    """

    nonce: str
    runs: tuple[tuple[int, int], ...]
    appearance: str | None = None

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(stop - start for start, stop in self.runs)

    def parts(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the runs of mirror rows that make up rows [start, stop) of the pack."""
        parts, at = [], 0
        for first, last in self.runs:
            begin, end = max(start - at, 0), min(stop - at, last - first)
            if begin < end:
                parts.append((first + begin, first + end))
            at += last - first
        return parts
