"""Counts of what a cache did, for people and for programs.

What it saved is an estimate, and only made where something was measured: a hit is worth the mean time that this
namespace's encoder took for an item, over the items that it was given with this mirror, in this run or earlier ones.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cas_cache import html
from cas_cache.formatting import duration, pluralize, size

if TYPE_CHECKING:
    from cas_cache.mirror.pace import Pace

MIN_ITEMS = 32
"""Items from which on a pace is believed: fewer tell more about the first call's start than about the encoder."""

_lock = threading.Lock()
"""One for all: counts come from threads that encode, and from the one that pushes."""


def _renew_lock() -> None:
    # A process that is forked while another thread counts would wait for that thread for ever.
    global _lock  # noqa: PLW0603 - the lock of the parent is the parent's
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


@dataclass(slots=True)
class Stats:
    """What a cache did since it was opened.

    Attributes:
        hits: Items answered from the mirror, pulled ones included.
        misses: Items that were in neither mirror nor repository, repeats included.
        encoded: Items that the encoder was given, each distinct one once.
        checked: Items besides these that it was given to compare with what others have pushed.
        bytes_pushed: Bytes of content written to the repository.
        bytes_pulled: Bytes of content read from the repository.
        bytes_served: Bytes of the stored vectors that answered the hits. Where a call asks for a smaller size or
            precision, what it got is derived of them.
        encoder_seconds: How long the encoder took for `encoded` and `checked`, its data loading included; of threads
            that encode at the same time, the sum.
    """

    hits: int = 0
    misses: int = 0
    encoded: int = 0
    checked: int = 0
    bytes_pushed: int = 0
    bytes_pulled: int = 0
    bytes_served: int = field(default=0, repr=False)
    encoder_seconds: float = field(default=0.0, repr=False)
    _hits: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)
    _paces: dict[str, Pace] = field(default_factory=dict, init=False, repr=False, compare=False)

    def _repr_html_(self) -> str:
        rows: list[tuple[str, object]] = [
            ("hits", self.hits),
            ("misses", self.misses),
            ("hit rate", None if self.hit_rate is None else f"{self.hit_rate:.1%}"),
            ("encoded", self.encoded),
            ("compared", self.checked or None),
            ("in the encoder", duration(self.encoder_seconds)),
            ("encoding saved", None if self.seconds_saved is None else f"about {duration(self.seconds_saved)}"),
            ("vectors served", size(self.bytes_served)),
            ("pushed", size(self.bytes_pushed)),
            ("pulled", size(self.bytes_pulled)),
        ]
        return html.facts("cas_cache: what the cache did", rows)

    @property
    def hit_rate(self) -> float | None:
        """The share of items that were answered from the mirror; None before the first."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else None

    @property
    def seconds_saved(self) -> float | None:
        """About how long the encoder would have taken for the hits: hits times mean seconds an item, by namespace.

        Hits of a namespace whose encoder was never given 32 items with this mirror count as nothing. None if that is so
        of all.
        """
        with _lock:
            rated = [(self._hits[name], pace) for name, pace in self._paces.items() if pace.items >= MIN_ITEMS]
        known = [hits * pace.seconds / pace.items for hits, pace in rated if hits]
        return sum(known) if known else None

    def add(self, **amounts: float) -> None:
        """Add to counts, by their names."""
        with _lock:
            for name, amount in amounts.items():
                setattr(self, name, getattr(self, name) + amount)

    def note_hits(self, namespace: str, hits: int, row_bytes: int, pace: Pace) -> None:
        """Count items that were answered from what is kept.

        Args:
            namespace: Whose.
            hits: How many.
            row_bytes: Of the stored vector of each.
            pace: The encoder's, so far as it is known.
        """
        if not hits:
            return
        self.add(hits=hits, bytes_served=hits * row_bytes)
        with _lock:
            self._hits[namespace] = self._hits.get(namespace, 0) + hits
            self._paces[namespace] = pace

    def note_encoded(self, namespace: str, measured: Pace, pace: Pace) -> None:
        """Count items that the encoder was given.

        Args:
            namespace: Whose.
            measured: How many, and how long it took.
            pace: The encoder's, with these.
        """
        self.add(encoded=measured.items, encoder_seconds=measured.seconds)
        with _lock:
            self._hits.setdefault(namespace, 0)
            self._paces[namespace] = pace

    def as_json(self) -> dict[str, Any]:
        """Return the counts as plain JSON."""
        return {
            "hits": self.hits,
            "misses": self.misses,
            "encoded": self.encoded,
            "checked": self.checked,
            "bytes_pushed": self.bytes_pushed,
            "bytes_pulled": self.bytes_pulled,
            "bytes_served": self.bytes_served,
            "encoder_seconds": self.encoder_seconds,
            "hit_rate": self.hit_rate,
            "seconds_saved": self.seconds_saved,
        }

    def summary(self) -> str:
        """Return what the cache did, and saved: two lines for people."""
        asked, saved = self.hits + self.misses, self.seconds_saved
        rate = "" if self.hit_rate is None else f" ({self.hit_rate:.1%})"
        encoded = f"{self.encoded:,} encoded"
        if self.encoder_seconds:
            encoded += f" in {duration(self.encoder_seconds)}"
        if self.checked:
            encoded += f" (with {self.checked:,} more to compare)"
        first = f"{self.hits:,} of {pluralize(asked, 'item')} from the cache{rate}, {encoded}"
        second = [
            *([] if saved is None else [f"about {duration(saved)} of encoding saved"]),
            f"{size(self.bytes_served)} of vectors served",
            f"{size(self.bytes_pushed)} pushed",
            f"{size(self.bytes_pulled)} pulled",
        ]
        return f"{first}\n{', '.join(second)}"
