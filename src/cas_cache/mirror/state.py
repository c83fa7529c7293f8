"""``state.json``: the one commit point of a namespace in the mirror. Pure: bytes in, bytes out.

It holds the number of rows, their dtype and shape, and the source of each run of rows: a pack, or an encoder on this
side. Bytes of a column past the committed rows do not count.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.errors import DamagedMirror, UnsupportedFormat, set_aside
from cas_cache.format.rows import DTYPES, row_bytes
from cas_cache.identity import parsed_json, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

VERSION = 1

SHORT = 4
"""Number of values of an extent that has neither a known appearance nor a source; see `Extent.to_list`."""

_WITHOUT_PACK = re.compile(rb"\[\s*\d+\s*,\s*\d+\s*,\s*null")
"""Matches the beginning of the list of an extent whose pack is None; see `Extent.to_list`."""

MAX_DIMENSIONS = 31
"""Maximum number of dimensions of one vector, as in a manifest. NumPy long had 32, one of which counts the rows."""


@dataclass(frozen=True, slots=True)
class Extent:
    """A run of rows from one source.

    Attributes:
        start: First row of the run.
        rows: Number of rows.
        pack: The pack that the rows came from or were published in; None while they are pending.
        nonce: The nonce of the pack that pending rows are planned for; None if they are not planned or not pending.
        appearance: The id of the appearance of the encoder that made the rows in this mirror; None if it is unknown.
        source: If the pack is a merge: the position of the merged pack that the rows came from; None otherwise.
    """

    start: int
    rows: int
    pack: str | None = None
    nonce: str | None = None
    appearance: str | None = None
    source: int | None = None

    @property
    def stop(self) -> int:
        """The row after the last row of the run."""
        return self.start + self.rows

    def continues(self, other: Extent) -> bool:
        """Return True if this extent and the one before it form one run."""
        return other.stop == self.start and other.origin == self.origin

    @property
    def origin(self) -> tuple[str | None, str | None, str | None, int | None]:
        """All attributes except position and length."""
        return self.pack, self.nonce, self.appearance, self.source

    @property
    def unit(self) -> str | None:
        """The name under which the self-check verifies the rows: a pack, or one source of a merge."""
        return self.pack if self.source is None else f"{self.pack}/{self.source}"

    def to_list(self) -> list[Any]:
        """Return the extent as a JSON list; without the last two values if both are None."""
        values = [self.start, self.rows, self.pack, self.nonce, self.appearance, self.source]
        return values if self.appearance is not None or self.source is not None else values[:4]

    @classmethod
    def from_list(cls, values: Sequence[Any]) -> Extent:
        """Parse a list that `to_list` returned.

        Raises:
            ValueError: If the list does not describe an extent.
        """
        start, rows, pack, nonce, appearance, source = (*values, None, None) if len(values) == SHORT else values
        return cls(
            _checked_count(start),
            _checked_count(rows),
            _checked_name(pack),
            _checked_name(nonce),
            _checked_name(appearance),
            None if source is None else _checked_count(source),
        )


@dataclass(frozen=True, slots=True)
class State:
    """The committed state of a namespace.

    Attributes:
        rows: Number of rows.
        dtype: Name of the vectors' dtype; None while there are no rows.
        shape: Shape of one vector.
        extents: Sources of the rows, ascending, without gaps.
        applied: For each pack that was read, how many of its rows were read; for each published pack, all of its rows.
        complete: Packs of `applied` that need not be read again.
        superseded: Packs whose rows are all in another pack of `complete`: they may disappear from the repository.
        planned_at: Time at which each nonce of a planned pack was drawn, in seconds since 1970 by this machine's clock.
        namespace: The id of the namespace that the rows belong to, which reveals swapped folders.
        incarnation: Hex digits that are drawn with the first commit. They distinguish these rows from those of a folder
            that was deleted and created again.
        missing: Known packs that were not in the repository at the last pull: the mirror may have the only copy.
        generation: Number of times that `evict` has moved rows.
        rewriting: True while the columns of this generation may still be in files whose names end in ``.new``.
    """

    rows: int = 0
    dtype: str | None = None
    shape: tuple[int, ...] = ()
    extents: tuple[Extent, ...] = ()
    applied: Mapping[str, int] = field(default_factory=dict)
    complete: frozenset[str] = frozenset()
    superseded: frozenset[str] = frozenset()
    planned_at: Mapping[str, float] = field(default_factory=dict)
    namespace: str = ""
    generation: int = 0
    rewriting: bool = False
    incarnation: str = ""
    missing: frozenset[str] = frozenset()

    @property
    def row_bytes(self) -> int:
        """Size of one vector in bytes; 0 while there are no rows."""
        return 0 if self.dtype is None else row_bytes(np.dtype(self.dtype), self.shape)

    @property
    def waiting(self) -> tuple[Extent, ...]:
        """The extents of pending rows, which are in no pack yet."""
        return tuple(extent for extent in self.extents if extent.pack is None)

    def appended(
        self, runs: Iterable[tuple[int | None, int]], pack: str | None, appearance: str | None = None
    ) -> State:
        """Return the state after more rows were appended.

        Args:
            runs: (source, rows) for each run of rows; the source is None unless the pack is a merge.
            pack: The pack that the rows came from; None if an encoder made them.
            appearance: The id of the encoder's appearance.
        """
        rows, extents = self.rows, list(self.extents)
        for source, count in runs:
            if count:
                extents.append(Extent(rows, count, pack, None, appearance, source))
                rows += count
        return self if rows == self.rows else replace(self, rows=rows, extents=joined(extents))

    def read(self, pack: str, rows: int, *, complete: bool, supersedes: Iterable[str] = ()) -> State:
        """Return the state after `rows` rows of `pack` were applied; it supersedes `supersedes` once it is complete."""
        done = self.complete | {pack} if complete else self.complete
        superseded = self.superseded | frozenset(supersedes) if complete else self.superseded
        # Two processes may read the same pack at the same time; the slower one must not undo the progress of the other.
        rows = max(rows, self.applied.get(pack, 0))
        return replace(self, applied={**self.applied, pack: rows}, complete=done, superseded=superseded)

    def with_packs(self, packs: Sequence[tuple[str, int, int, Iterable[str]]]) -> State:
        """Return the state after complete packs were read, one after the other.

        Args:
            packs: (id, number of new rows, number of rows, superseded packs) of each pack.
        """
        rows, extents = self.rows, list(self.extents)
        for pack, new, _, _ in packs:
            if new:
                extents.append(Extent(rows, new, pack))
                rows += new
        return replace(
            self,
            rows=rows,
            extents=joined(extents),
            applied={**self.applied, **{pack: count for pack, _, count, _ in packs}},
            complete=self.complete.union(pack for pack, _, _, _ in packs),
            superseded=self.superseded.union(*(supersedes for _, _, _, supersedes in packs)),
        )

    def superseding(self, packs: Iterable[str]) -> State:
        """Return the state after other packs were found to hold all rows of these packs."""
        return replace(self, superseded=self.superseded | frozenset(packs))

    def forgotten(self, packs: Iterable[str]) -> State:
        """Return the state without superseded packs that no longer exist. The extents keep the source of their rows."""
        gone = self.superseded.intersection(packs)
        applied = {pack: rows for pack, rows in self.applied.items() if pack not in gone}
        return replace(self, applied=applied, complete=self.complete - gone, superseded=self.superseded - gone)

    def planned(self, most_rows: int, nonces: Iterable[str], *, now: float = 0.0, most_age: float = math.inf) -> State:
        """Return the state with every pending row planned for a pack of at most `most_rows` rows.

        Runs that were planned in the last `most_age` seconds keep their plan, so that a retry publishes the same pack
        under the same name.
        """
        # A plan from the future counts as old, too: this machine's clock was set back, so its age is unknown.
        young = {nonce: at for nonce, at in self.planned_at.items() if 0 <= now - at <= most_age}
        fresh = iter(nonces)
        nonce, room = "", 0
        extents: list[Extent] = []
        for extent in self.extents:
            if extent.pack is not None or extent.nonce in young:
                extents.append(extent)
                continue
            start = extent.start
            while start < extent.stop:
                if room == 0:
                    nonce, room = next(fresh), most_rows
                    young[nonce] = now
                rows = min(room, extent.stop - start)
                extents.append(replace(extent, start=start, rows=rows, nonce=nonce))
                start, room = start + rows, room - rows
        return replace(self, extents=tuple(extents), planned_at=young)

    def published(self, nonce: str, pack: str) -> State:
        """Return the state after the pack planned under `nonce` was published as `pack`."""
        mine = [extent for extent in self.extents if extent.nonce == nonce]
        if not mine:
            return self
        extents = joined(replace(e, pack=pack, nonce=None) if e.nonce == nonce else e for e in self.extents)
        planned_at = {other: at for other, at in self.planned_at.items() if other != nonce}
        state = replace(self, extents=extents, planned_at=planned_at)
        return state.read(pack, sum(extent.rows for extent in mine), complete=True)

    def unpublished(self) -> State:
        """Return the state with every row pending and no pack known."""
        extents = joined(replace(extent, pack=None, nonce=None, source=None) for extent in self.extents)
        return State(
            self.rows,
            self.dtype,
            self.shape,
            extents,
            namespace=self.namespace,
            generation=self.generation,
            incarnation=self.incarnation,
        )

    def to_bytes(self) -> bytes:
        """Return the state as JSON."""
        document = {
            "version": VERSION,
            "namespace": self.namespace,
            "rows": self.rows,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "extents": [extent.to_list() for extent in self.extents],
            "applied": dict(self.applied),
            "complete": sorted(self.complete),
            "superseded": sorted(self.superseded),
            "planned_at": dict(self.planned_at),
            "generation": self.generation,
            "rewriting": self.rewriting,
            "incarnation": self.incarnation,
            "missing": sorted(self.missing),
        }
        return json.dumps(document, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> State:
        """Parse a state that `to_bytes` wrote.

        Raises:
            DamagedMirror: If the bytes are not a valid state.
            UnsupportedFormat: If a newer version of cas_cache wrote the state.
        """
        try:
            document = parsed_json(data)
            version = document["version"]
            if version != VERSION:
                raise UnsupportedFormat(
                    f"{where} has version {quoted(version)}; this cas_cache reads version {VERSION}. Update cas_cache."
                )
            state = cls(
                rows=_checked_count(document["rows"]),
                dtype=document["dtype"],
                shape=tuple(_checked_count(n) for n in document["shape"]),
                extents=tuple(Extent.from_list(values) for values in document["extents"]),
                applied={str(pack): _checked_count(rows) for pack, rows in document["applied"].items()},
                complete=frozenset(str(pack) for pack in document["complete"]),
                superseded=frozenset(str(pack) for pack in document.get("superseded", ())),
                planned_at={str(nonce): float(at) for nonce, at in document.get("planned_at", {}).items()},
                generation=_checked_count(document.get("generation", 0)),
                rewriting=bool(document.get("rewriting", False)),
                incarnation=str(document.get("incarnation", "")),
                missing=frozenset(str(pack) for pack in document.get("missing", ())),
                namespace=str(document["namespace"]),
            )
            state._check()
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as err:
            raise DamagedMirror(
                f"{where} is damaged ({err}). Nothing of it was served. {set_aside('the folder that holds it')}"
            ) from err
        return state

    def _check(self) -> None:
        if self.dtype is None:
            if self.rows:
                msg = "rows without a dtype"
                raise ValueError(msg)
        elif self.dtype not in DTYPES or not 1 <= len(self.shape) <= MAX_DIMENSIONS or 0 in self.shape:
            msg = f"dtype {quoted(self.dtype)} with rows of shape {quoted(self.shape)}"
            raise ValueError(msg)
        if not all(map(math.isfinite, self.planned_at.values())):
            msg = "a plan of no time"
            raise ValueError(msg)
        at = 0
        for extent in self.extents:
            if extent.start != at:
                msg = f"an extent begins at row {extent.start}, not {at}"
                raise ValueError(msg)
            at = extent.stop
        if at != self.rows:
            msg = f"extents end at row {at} of {self.rows}"
            raise ValueError(msg)


def may_have_pending_rows(data: bytes) -> bool:
    """Return False if no extent in the bytes of a state lacks a pack. Faster than parsing the state."""
    return _WITHOUT_PACK.search(data) is not None


def joined(extents: Iterable[Extent]) -> tuple[Extent, ...]:
    """Return extents with adjacent runs from one source joined."""
    joined: list[Extent] = []
    for extent in extents:
        if joined and extent.continues(joined[-1]):
            joined[-1] = replace(joined[-1], rows=joined[-1].rows + extent.rows)
        else:
            joined.append(extent)
    return tuple(joined)


def _checked_count(value: Any) -> int:
    if type(value) is not int or value < 0:
        msg = f"{quoted(value)} is not a count"
        raise ValueError(msg)
    return value


def _checked_name(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        msg = f"{quoted(value)} is not a name"
        raise ValueError(msg)
    return value
