"""How long an encoder takes for an item, remembered beside its vectors: what a hit is worth.

``pace.json`` in the namespace's folder holds items and seconds, summed over runs with this mirror. It is no part of
what is committed: whoever finds none, a damaged one or one that cannot be written has no estimate, and nothing else.
"""

from __future__ import annotations

import json
import logging
import math
from typing import TYPE_CHECKING, NamedTuple

from cas_cache.disk import read_plain, write_atomically
from cas_cache.identity import parsed_json

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

PACE_FILE = "pace.json"

MAX_ITEMS = 100_000
"""What is remembered weighs no more than that, so that another machine, or batch size, shows after a while."""


class Pace(NamedTuple):
    """What was measured.

    Attributes:
        items: How many the encoder was given.
        seconds: How long that took.
    """

    items: int = 0
    seconds: float = 0.0

    def plus(self, other: Pace) -> Pace:
        """Return both measurements together."""
        return Pace(self.items + other.items, self.seconds + other.seconds)


class PaceFile:
    """The pace of one namespace: of earlier runs, and of this one.

    Args:
        folder: The namespace's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._before = read_pace(folder)
        self._run = Pace()
        self.last: Pace | None = None
        """The last measurement of this process."""
        self._written = 0

    def __repr__(self) -> str:
        return f"PaceFile({str(self._folder)!r}, items={self.pace.items})"

    @property
    def pace(self) -> Pace:
        """All that was measured."""
        return self._before.plus(self._run)

    def add(self, measured: Pace) -> None:
        """Take a measurement; it is written whenever the run has twice as many items as at the last time."""
        self.last = measured
        self._run = self._run.plus(measured)
        if self._run.items >= 2 * self._written:
            self._written = self._run.items
            self._write(self.pace)

    def _write(self, pace: Pace) -> None:
        share = min(1.0, MAX_ITEMS / max(1, pace.items))
        document = {"items": round(pace.items * share), "seconds": pace.seconds * share}
        try:
            write_atomically(self._folder / PACE_FILE, json.dumps(document).encode())
        except OSError as err:
            logger.info("the encoder's pace is not noted: %s", err)


def read_pace(folder: Path) -> Pace:
    """Return what a namespace's folder remembers; nothing measured if it remembers nothing."""
    try:
        document = parsed_json(read_plain(folder / PACE_FILE))
        items, seconds = document["items"], float(document["seconds"])
        good = type(items) is int and items > 0 and math.isfinite(seconds) and seconds >= 0
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return Pace()
    return Pace(items, seconds) if good else Pace()
