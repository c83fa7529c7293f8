"""The self-check: some rows are encoded again and compared before they are served.

Keys cannot detect two problems: wrong weights under the right name, in a pack that somebody else pushed; and a local
encoder whose appearance differs from that of the encoder that made the rows (another `prefix`, another `max_tokens`).
So at least one row of each pack that was never compared in this mirror is compared, and some rows of each encoder with
another appearance.
"""

from __future__ import annotations

import logging
import shlex
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.comparison import difference_of_kind, distances, max_distance
from cas_cache.errors import SelfCheckFailed, SelfCheckTooLarge
from cas_cache.format.rows import storable
from cas_cache.mirror.verified import UNKNOWN
from cas_cache.progress import progress_bar

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cas_cache.encoding import ObservedEncoder
    from cas_cache.identity import EncoderSpec
    from cas_cache.mirror import Namespace
    from cas_cache.mirror.rows import Rows
    from cas_cache.mirror.verified import RowGroup
    from cas_cache.stats import Stats

logger = logging.getLogger(__name__)

MIN_ROWS = 8
"""Minimum number of rows that are compared if any have to be."""

CHUNK_ROWS = 8192
"""Maximum number of rows that are encoded in one call of the encoder."""

LARGE = 64
"""Number of rows above which a comparison is announced before it is paid for."""

MAX_NAMED = 5
"""Maximum number of attributes or packs named in an error; more would bury the advice."""


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """Settings of the self-check.

    Attributes:
        rows: Minimum number of rows to compare; 0 trusts everybody.
        max_rows: Maximum number of rows that one call may compare; None for no limit.
        chunk_rows: Maximum number of rows to encode in one call of the encoder; None for `CHUNK_ROWS`.
        location: Arguments of a suggested command: the mirror and its remote.
        stats: Counts the compared rows and the encoder's time.
    """

    rows: int
    max_rows: int | None
    chunk_rows: int | None
    location: tuple[str, ...]
    stats: Stats

    def check(self, ns: Namespace, rows: Rows, encoder: ObservedEncoder, progress: bool | None) -> None:
        """Compare some of the rows with the encoder's vectors, if any of them is in doubt.

        Args:
            ns: The namespace that holds the rows.
            rows: (n,) int64, -1 for a missing row, or a slice: the rows of the call's items.
            encoder: Encodes items, given by their positions in the call.
            progress: Show a bar if there is much to compare.

        Raises:
            SelfCheckFailed: If a row differs from the encoder's vector. Packs whose compared rows all match are
                recorded as verified.
            SelfCheckTooLarge: If more than `max_rows` rows would have to be compared.
        """
        if not self.rows:
            return
        appearance = encoder.appearance
        trusted = None if appearance is None else ns.appearances.trusted(appearance)
        doubted = ns.doubted(rows, trusted)
        if not len(doubted.positions):
            return
        if appearance is not None:
            ns.appearances.refresh()  # another process may have compared the same two
            doubted = ns.doubted(rows, ns.appearances.trusted(appearance))
        at = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        # An item that is requested twice is compared once.
        distinct, first = np.unique(at[doubted.positions], return_index=True)
        positions, numbers = doubted.positions[first], doubted.numbers[first]
        minimum = np.array([self.rows if group.unit is None else 1 for group in doubted.groups], np.int64)
        chosen = sample(numbers, self.rows, minimum)
        chosen = chosen[np.argsort(positions[chosen])]
        self._announce(len(chosen), len(at), ns)
        fresh = self._encoded(encoder, positions[chosen], progress)
        groups = [doubted.groups[number] for number in numbers[chosen].tolist()]
        _Comparison(ns, encoder, self.location).run(distinct[chosen], fresh, groups)

    def _announce(self, count: int, requested: int, ns: Namespace) -> None:
        """Log the cost of a comparison, or raise an error if it is too large, before it is paid."""
        if not count:
            return
        if self.max_rows is not None and count > self.max_rows:
            raise SelfCheckTooLarge(
                f"{count} of the {requested} requested rows of {ns.spec.model} (namespace {ns.spec.namespace}) would "
                "have to be encoded again, at least one of each pack that was not compared in this mirror, and "
                f"max_self_check is {self.max_rows}. Nothing was encoded. Raise max_self_check "
                "(CAS_CACHE_MAX_SELF_CHECK), ask for fewer rows at a time, or trust whoever pushed them with "
                "self_check=0.",
                rows=count,
                limit=self.max_rows,
            )
        level = logging.WARNING if count > LARGE else logging.DEBUG
        share = f"{100 * count / max(requested, 1):.2g} %"
        logger.log(
            level,
            "self-check: encoding %d of %d requested rows (%s) of %s again, at least one of each pack that was not "
            "compared in this mirror",
            count,
            requested,
            share,
            ns.spec.model,
        )

    def _encoded(self, encoder: ObservedEncoder, positions: NDArray[np.int64], progress: bool | None) -> NDArray[Any]:
        """Encode items, in one call of the encoder unless there are very many."""
        step = self.chunk_rows or CHUNK_ROWS
        parts = []
        with progress_bar("self-check", len(positions), progress if len(positions) > LARGE else False) as advance:
            for start in range(0, len(positions), step):
                part = positions[start : start + step]
                began = time.perf_counter()
                answer = encoder(part)
                self.stats.add(checked=len(part), encoder_seconds=time.perf_counter() - began)
                parts.append(storable(answer, len(part)))
                advance(len(part))
        return np.concatenate(parts) if len(parts) > 1 else parts[0]


def sample(groups: NDArray[np.int64], count: int, minimum: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Return the rows to compare, drawn at random.

    Args:
        groups: (n,) int64, the group of each row.
        count: Minimum number of rows to choose in all; fewer if there are fewer.
        minimum: Minimum number of rows to choose of each group; None for one each.

    Returns:
        Ascending positions in `groups`. Beyond the minimum, rows are from as many groups as possible.
    """
    shuffled = np.random.default_rng().permutation(len(groups))
    by_group = shuffled[np.argsort(groups[shuffled], kind="stable")]
    starts = np.flatnonzero(np.r_[True, np.diff(groups[by_group]) != 0])
    turn = np.arange(len(by_group)) - np.repeat(starts, np.diff(np.r_[starts, len(by_group)]))
    needed = turn < (1 if minimum is None else minimum[groups[by_group]])
    order = np.lexsort((turn, ~needed))
    return np.sort(by_group[order[: max(count, int(needed.sum()))]])


@dataclass(frozen=True, slots=True)
class _Comparison:
    """One comparison of stored rows with fresh vectors, and its consequences."""

    ns: Namespace
    encoder: ObservedEncoder
    location: tuple[str, ...]

    def run(self, rows: NDArray[np.int64], fresh: NDArray[Any], groups: list[RowGroup]) -> None:
        """Compare rows with fresh vectors; record the groups that match, raise an error if one does not."""
        stored = self.ns.take(rows)
        problem = difference_of_kind(stored, fresh)
        if problem is not None:
            reason = self._reason(groups) if stored.shape != fresh.shape or self._own(groups) else "Nothing was served."
            self._fail(f"{problem} {reason} {_OFF}", rows, groups, 1.0)
        apart, limit = distances(stored, fresh), max_distance(self.ns.spec, stored.dtype)
        wrong = wrong_rows(apart, limit)
        doubtful = {groups[at] for at in wrong.tolist()}
        self._record([group for group in dict.fromkeys(groups) if group not in doubtful], whole=not doubtful)
        if not len(wrong):
            return
        failed = [groups[at] for at in wrong.tolist()]
        worst = float(np.nan_to_num(apart[wrong], nan=np.inf).max())
        what = (
            f"{len(wrong)} of {len(rows)} vectors that were compared are not what the encoder makes for "
            f"{spec_label(self.ns.spec)}: the distance of row {rows[wrong[0]]} is {100 * apart[wrong[0]]:.3g} % of its "
            f"length, and at most {100 * limit:.3g} % is rounding."
        )
        self._fail(f"{what} {self._reason(failed)} {_OFF}", rows[wrong], failed, worst)

    def _record(self, agreed: list[RowGroup], *, whole: bool) -> None:
        units = [group.unit for group in agreed if group.unit is not None]
        if units:
            self.ns.note_verified(units, self.encoder.id or UNKNOWN)
        appearance = self.encoder.appearance
        if appearance is not None and whole:
            self.ns.appearances.note_equal(appearance, {group.appearance for group in agreed if group.unit is None})

    def _reason(self, failed: list[RowGroup]) -> str:
        """Return the likely reason, and advice."""
        own = self._own(failed)
        if own:
            return self._other_encoder(own[0].appearance)
        return self._wrong_pack(sorted({group.pack for group in failed if group.pack is not None}))

    def _own(self, groups: list[RowGroup]) -> list[RowGroup]:
        """Return the groups that are in doubt only because another encoder made or verified them."""
        return [group for group in groups if group.unit is None]

    def _wrong_pack(self, packs: list[str]) -> str:
        more = f" (and {len(packs) - MAX_NAMED} more)" if len(packs) > MAX_NAMED else ""
        names = ", ".join(packs[:MAX_NAMED])
        command = shlex.join(["cas-cache", "drop", *self.location, "--pack", packs[0]])
        return (
            f"They came from {'the pack' if len(packs) == 1 else f'{len(packs)} packs,'} {names}{more}. Nothing was "
            "served. If your weights are not those that name and revision stand for, give yours a name of their own "
            f"(model_id=, revision=). If a pack was pushed with other weights, `{command}` deletes it, here and in "
            "the repository, and its rows are encoded again."
        )

    def _other_encoder(self, made_by: str) -> str:
        differences = self.ns.appearances.differences(made_by, self.encoder.appearance or {})
        shown = "; ".join(f"{path} was {was}, is {now}" for path, (was, now) in list(differences.items())[:MAX_NAMED])
        more = f"; and {len(differences) - MAX_NAMED} more" if len(differences) > MAX_NAMED else ""
        differs = f"does not look like this one: {shown}{more}" if differences else "was not recorded"
        return (
            f"The encoder that made them {differs}. Nothing was served. If both are right, tell the two apart by name: "
            "model_id=, revision=, or params= of the spec. If the rows in the cache are the wrong ones, drop the "
            f"namespace (`cas-cache drop --namespace {self.ns.spec.namespace}`) and move {self.ns.folder} out of the "
            "mirror: its rows may be nowhere else."
        )

    def _fail(self, message: str, rows: NDArray[np.int64], groups: list[RowGroup], distance: float) -> None:
        attributes: set[str] = set()
        for group in self._own(groups):
            attributes |= self.ns.appearances.differences(group.appearance, self.encoder.appearance or {}).keys()
        raise SelfCheckFailed(
            message,
            spec=self.ns.spec,
            rows=tuple(rows.tolist()),
            packs=tuple(sorted({group.pack for group in groups if group.pack is not None})),
            distance=distance,
            attributes=tuple(sorted(attributes)),
        )


def wrong_rows(apart: NDArray[np.float64], limit: float) -> NDArray[np.int64]:
    """Return the positions of the distances that are too large, or not a number."""
    return np.flatnonzero(~(apart <= limit))


def spec_label(spec: EncoderSpec) -> str:
    """Return the description of an encoder for an error."""
    prompt = f", prompt {spec.prompt!r}" if spec.prompt else ""
    role = f", role {spec.role}" if spec.role else ""
    return f"{spec.model} at {spec.revision}{prompt}{role} (namespace {spec.namespace})"


_OFF = "self_check=0 turns the comparison off."
