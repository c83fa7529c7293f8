"""The pack ledger of a namespace: which packs its rows came from, and which packs its pending rows will become."""

from __future__ import annotations

import math
import secrets
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from cas_cache.mirror.state import State
from cas_cache.mirror.verified import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from cas_cache.mirror.namespace_files import NamespaceFiles
    from cas_cache.mirror.state import Extent
    from cas_cache.mirror.usage import Usage
    from cas_cache.mirror.verified import VerifiedPacks

NONCE_BYTES = 16


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


class PackLedger:
    """The packs of a namespace, as its state records them.

    Args:
        files: The open files of the namespace.
        usage: The record of when packs were used.
        verified: The record of packs that were compared with an encoder.
    """

    def __init__(self, files: NamespaceFiles, usage: Usage, verified: VerifiedPacks) -> None:
        self._files = files
        self._usage = usage
        self._verified = verified

    def __repr__(self) -> str:
        return f"PackLedger({self._files.namespace}, packs={len(self.packs)})"

    @property
    def packs(self) -> frozenset[str]:
        """The packs that need not be pulled: read completely, pushed from this mirror, or superseded by such a pack."""
        return self._state.complete | self._state.superseded

    @property
    def lasting_packs(self) -> frozenset[str]:
        """The known packs that must stay in the repository: no other known pack has all of their rows."""
        return self._state.complete - self._state.superseded

    def applied_rows(self, pack: str) -> int:
        """Return how many rows of a pack were read, which is where reading it continues."""
        return self._state.applied.get(pack, 0)

    def small_packs(self, rows: int) -> int:
        """Return how many known packs that are not superseded have fewer than `rows` rows."""
        return sum(self.applied_rows(pack) < rows for pack in self.lasting_packs)

    def plan(self, most_rows: int, *, most_age: float = math.inf) -> list[PlannedPack]:
        """Plan all pending rows into packs of at most `most_rows` rows and return the plans.

        Rows that were planned before and are not published keep their plan, so that a retry publishes the same pack. If
        that was more than `most_age` seconds ago by this machine's clock, they get a new nonce: a prune may take the
        objects of an old upload for orphans, and no name may be used again after it was deleted.
        """

        def planned(state: State) -> State:
            pending = sum(extent.rows for extent in state.waiting)
            nonces = (secrets.token_hex(NONCE_BYTES) for _ in range(len(state.waiting) + pending // most_rows + 1))
            return state.planned(most_rows, nonces, now=time.time(), most_age=most_age)

        extents: dict[str, list[Extent]] = {}
        for extent in self._update(planned).waiting:
            extents.setdefault(extent.nonce or "", []).append(extent)
        return [_planned_pack(nonce, of_pack) for nonce, of_pack in extents.items()]

    def published(self, plan: PlannedPack, pack: str) -> None:
        """Record that a planned pack was published in the repository."""
        self._update(lambda state: state.published(plan.nonce, pack))
        self._usage.note_packs([pack])
        self._verified.note({pack: plan.appearance or UNKNOWN})

    def forget_packs(self) -> None:
        """Make every row pending again, as if no pack were known."""
        self._update(State.unpublished)

    def skip(self, pack: str, rows: int, supersedes: tuple[str, ...] = ()) -> None:
        """Record a pack that need not be read: the mirror has all of its keys, and those of the packs it supersedes."""
        self._update(lambda state: state.read(pack, rows, complete=True, supersedes=supersedes))

    def skip_packs(self, packs: Sequence[tuple[str, int]]) -> None:
        """Record several packs that need not be read, (id, rows) each, in one commit."""
        if packs:
            self._update(lambda state: state.with_packs([(pack, 0, rows, ()) for pack, rows in packs]))

    def supersede(self, packs: Iterable[str]) -> None:
        """Record packs whose rows are in another known pack: they need not be read, and may be pruned."""
        self._update(lambda state: state.superseding(packs))

    def note_gone(self, superseded: Iterable[str], missing: Iterable[str]) -> None:
        """Record packs that are not in the repository any more.

        Args:
            superseded: Superseded packs. They are forgotten; their rows stay.
            missing: Packs whose only copy may be in this mirror, so that they are not evicted. Replaces the earlier
                list.
        """
        self._update(lambda state: replace(state.forgotten(superseded), missing=frozenset(missing)))

    @property
    def _state(self) -> State:
        return self._files.table.state

    def _update(self, change: Callable[[State], State]) -> State:
        """Commit the state that `change` makes of the current one, if it differs; return it."""
        with self._files.locked():
            state = change(self._state)
            if state != self._state:
                self._files.table.commit(state)
        return state


def _planned_pack(nonce: str, extents: list[Extent]) -> PlannedPack:
    appearances = {extent.appearance for extent in extents}
    return PlannedPack(
        nonce,
        tuple((extent.start, extent.stop) for extent in extents),
        appearances.pop() if len(appearances) == 1 else None,
    )
