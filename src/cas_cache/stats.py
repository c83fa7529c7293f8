"""Statistics of a cache, for people and for programs.

The saving is an estimate, made only where something was measured: a hit counts as the mean time per item that this
namespace's encoder took since the cache was opened.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cas_cache.display import Displayable, duration, facts, pluralize, size

if TYPE_CHECKING:
    from rich.console import Group

MIN_ITEMS = 32
"""Minimum number of items for an estimate: fewer measure the start of the first call rather than the encoder."""

_lock = threading.Lock()
"""One lock for all caches: threads that encode and threads that push add to the statistics."""


def _renew_lock() -> None:
    # If another thread held the lock during a fork, the child would wait for that thread forever.
    global _lock  # noqa: PLW0603 - the lock of the parent is the parent's
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


@dataclass(slots=True)
class _Measured:
    """Counts of one namespace, from which the saving is estimated."""

    hits: int = 0
    encoded: int = 0
    seconds: float = 0.0
    latest_seconds_per_item: float | None = None


@dataclass(slots=True)
class Stats(Displayable):
    """Statistics of a cache since it was opened.

    Attributes:
        hits: Number of items answered from the mirror, including items that were pulled first.
        misses: Number of items that were in neither the mirror nor the repository, repeats included.
        encoded: Number of items that the encoder received, each distinct item once.
        checked: Number of additional items that the encoder received for the self-check.
        bytes_pushed: Bytes of content written to the repository.
        bytes_pulled: Bytes of content read from the repository.
        bytes_served: Bytes of the stored vectors that answered the hits. A call that requests a smaller size or
            precision receives vectors derived from them.
        encoder_seconds: Time that the encoder took for `encoded` and `checked`, including its data loading; the sum
            over threads that encode at the same time.
    """

    hits: int = 0
    misses: int = 0
    encoded: int = 0
    checked: int = 0
    bytes_pushed: int = 0
    bytes_pulled: int = 0
    bytes_served: int = field(default=0, repr=False)
    encoder_seconds: float = field(default=0.0, repr=False)
    _measured: dict[str, _Measured] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __rich__(self) -> Group:
        values = {
            "hits": self.hits,
            "misses": self.misses,
            "hit rate": None if self.hit_rate is None else f"{self.hit_rate:.1%}",
            "encoded": self.encoded,
            "compared": self.checked or None,
            "in the encoder": duration(self.encoder_seconds),
            "encoding saved": None if self.seconds_saved is None else f"about {duration(self.seconds_saved)}",
            "vectors served": size(self.bytes_served),
            "pushed": size(self.bytes_pushed),
            "pulled": size(self.bytes_pulled),
        }
        return facts("cas_cache: what the cache did", values)

    @property
    def hit_rate(self) -> float | None:
        """The share of items that were answered from the mirror; None before the first item."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else None

    @property
    def seconds_saved(self) -> float | None:
        """Estimated seconds that the encoder would have taken for the hits: hits times mean seconds per item.

        Hits of a namespace whose encoder received fewer than 32 items since the cache was opened count as nothing. None
        if that is true for all namespaces.
        """
        with _lock:
            measured = [counts for counts in self._measured.values() if counts.hits and counts.encoded >= MIN_ITEMS]
            saved = [counts.hits * counts.seconds / counts.encoded for counts in measured]
        return sum(saved) if saved else None

    def seconds_per_item(self, namespace: str) -> float | None:
        """Return the seconds that a namespace's encoder last took for one item; None before its first item."""
        counts = self._measured.get(namespace)
        return None if counts is None else counts.latest_seconds_per_item

    def add(self, **amounts: float) -> None:
        """Add to statistics, by their names."""
        with _lock:
            for name, amount in amounts.items():
                setattr(self, name, getattr(self, name) + amount)

    def add_look_up(self, namespace: str, hits: int, misses: int, served: int) -> None:
        """Count the items of one look-up.

        Args:
            namespace: The id of the namespace.
            hits: Number of items that stored rows answer.
            misses: Number of the other items.
            served: Bytes of the vectors that answered the hits.
        """
        with _lock:
            self.hits += hits
            self.misses += misses
            self.bytes_served += served
            self._measured.setdefault(namespace, _Measured()).hits += hits

    def add_encoded(self, namespace: str, items: int, seconds: float) -> None:
        """Count items that the encoder received, and the time that they took.

        Args:
            namespace: The id of the namespace.
            items: Number of items.
            seconds: Time that they took.
        """
        with _lock:
            self.encoded += items
            self.encoder_seconds += seconds
            counts = self._measured.setdefault(namespace, _Measured())
            counts.encoded += items
            counts.seconds += seconds
            counts.latest_seconds_per_item = seconds / items

    def as_json(self) -> dict[str, Any]:
        """Return the statistics as plain JSON."""
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
        """Return two lines for people: what the cache did, and what it saved."""
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
