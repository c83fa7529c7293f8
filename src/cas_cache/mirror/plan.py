"""Which waiting rows will be one pack, and packs on their way in. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class WholePack(NamedTuple):
    """A pack that was read to its end and verified.

    Attributes:
        pack: Its id.
        keys: (n, 32) uint8.
        vectors: (n, *shape).
        digests: (n,) uint64.
        supersedes: The packs whose rows it has.
    """

    pack: str
    keys: NDArray[np.uint8]
    vectors: NDArray[Any]
    digests: NDArray[np.uint64]
    supersedes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlannedPack:
    """Waiting rows that will be one pack.

    Attributes:
        nonce: Drawn once, kept until the pack is published: a retry makes the same pack.
        runs: (start, stop) of the rows in the mirror, ascending.
        appearance: The id of the encoder appearance that made all of them; None if there are several, or it is not
            known.
        rows: How many there are.
    """

    nonce: str
    runs: tuple[tuple[int, int], ...]
    appearance: str | None = None

    @property
    def rows(self) -> int:
        """How many rows."""
        return sum(stop - start for start, stop in self.runs)

    def parts(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the runs of rows in the mirror that are rows [start, stop) of the pack."""
        parts, at = [], 0
        for first, last in self.runs:
            begin, end = max(start - at, 0), min(stop - at, last - first)
            if begin < end:
                parts.append((first + begin, first + end))
            at += last - first
        return parts
