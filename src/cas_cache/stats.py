"""Counts of what a cache did, for people and for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass


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
    """

    hits: int = 0
    misses: int = 0
    encoded: int = 0
    checked: int = 0
    bytes_pushed: int = 0
    bytes_pulled: int = 0

    def as_json(self) -> dict[str, int]:
        """Return the counts as plain JSON."""
        return asdict(self)
