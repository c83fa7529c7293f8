"""The measured speed of an encoder, stored beside its vectors to estimate the time that a hit saves.

``pace.json`` in the folder of the namespace holds items and seconds, summed over the runs with this mirror. It is not
part of the committed state: if it is missing, damaged or cannot be written, only the estimate is missing.
"""

from __future__ import annotations

import json
import logging
import math
from typing import TYPE_CHECKING, NamedTuple

from cas_cache.files.disk import read_plain, write_atomically
from cas_cache.identity import parsed_json

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

PACE_FILE = "pace.json"

MAX_ITEMS = 100_000
"""Maximum number of remembered items, so that a different machine or batch size shows after a while."""


class Pace(NamedTuple):
    """A measurement.

    Attributes:
        items: Number of items that the encoder received.
        seconds: Time that they took.
    """

    items: int = 0
    seconds: float = 0.0

    def plus(self, other: Pace) -> Pace:
        """Return the sum of two measurements."""
        return Pace(self.items + other.items, self.seconds + other.seconds)


class PaceFile:
    """The speed of the encoder of one namespace, over earlier runs and this one.

    Args:
        folder: The folder of the namespace.
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
        """All measurements together."""
        return self._before.plus(self._run)

    def add(self, measured: Pace) -> None:
        """Add a measurement. The file is written whenever the items of this run have doubled since the last write."""
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
    """Return the measurements in a namespace's folder; empty if there are none."""
    try:
        document = parsed_json(read_plain(folder / PACE_FILE))
        items, seconds = document["items"], float(document["seconds"])
        good = type(items) is int and items > 0 and math.isfinite(seconds) and seconds >= 0
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return Pace()
    return Pace(items, seconds) if good else Pace()
