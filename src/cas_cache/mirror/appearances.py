"""Appearances of the encoders of one namespace, and which of them make equal vectors.

An appearance maps the path of each plain attribute of an encoder to a short text. Rows name the appearance that made
them (``state.json``). The file ``appearances.json`` describes these appearances:

- which appearances were compared and made equal vectors;
- which attributes change while an encoder works (counters, timers, caches), so that they do not identify it;
- which attributes had several values under which the vectors were equal.

The file is a hint, not a record: if it is lost, rows are compared once more. It never leads to a wrong vector.
"""

from __future__ import annotations

import hashlib
import json
import logging
from typing import TYPE_CHECKING, Any

from cas_cache.files.disk import read_plain, write_atomically
from cas_cache.identity import canonical_json, parsed_json

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from pathlib import Path

logger = logging.getLogger(__name__)

FILE = "appearances.json"

ID_HEX = 32

NONE = "None"
"""The text of an attribute that is not set yet. An attribute that is filled in at first use is not a counter."""

MAX_VALUES = 3
"""Number of other values with equal vectors after which an attribute is ignored."""

MAX_RECORDS = 64
"""Maximum number of appearances that are kept; rows of older ones are compared once more."""

Appearance = dict[str, str]


class Appearances:
    """The appearances of one namespace.

    Args:
        folder: The folder of the namespace.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._records: dict[str, Appearance] = {}
        self._equal: dict[str, str] = {}
        self._volatile: frozenset[str] = frozenset()
        self._values: dict[str, int] = {}
        self._trusted: tuple[Appearance, frozenset[str]] | None = None
        self.refresh()

    def __repr__(self) -> str:
        return f"Appearances({len(self._records)})"

    @property
    def ignored(self) -> frozenset[str]:
        """Paths of attributes that say nothing about the vectors; everything below them is ignored, too."""
        return self._volatile | {path for path, values in self._values.items() if values >= MAX_VALUES}

    def id_of(self, appearance: Mapping[str, str]) -> str:
        """Return the id of an appearance: of a recorded one without a relevant difference, or a new one."""
        for known, record in self._records.items():
            if not self._differing(record, appearance):
                return known
        counted = {path: text for path, text in appearance.items() if not _is_below(path, self.ignored)}
        return hashlib.sha256(canonical_json(counted)).hexdigest()[:ID_HEX]

    def trusted(self, appearance: Mapping[str, str]) -> frozenset[str]:
        """Return the ids of the appearances whose rows may be served to an encoder of this appearance."""
        if self._trusted is not None and self._trusted[0] == appearance:
            return self._trusted[1]
        alike = {known for known, record in self._records.items() if not self._differing(record, appearance)}
        classes = {self._class_of(known) for known in alike}
        equal = {known for known in self._equal if self._class_of(known) in classes}
        trusted = frozenset(alike | equal | {self.id_of(appearance)})
        self._trusted = dict(appearance), trusted
        return trusted

    def differences(self, known: str, appearance: Mapping[str, str]) -> dict[str, tuple[str, str]]:
        """Return (recorded, current) text of each attribute that differs; empty if the appearance is not recorded."""
        record = self._records.get(known)
        if record is None:
            return {}
        return {
            path: (record.get(path, "(not set)"), appearance.get(path, "(not set)"))
            for path in sorted(self._differing(record, appearance))
        }

    def observe(self, before: Appearance, after: Appearance) -> None:
        """Learn from the appearances before and after one call of an encoder: what changes then does not identify it.

        An attribute that was not set before (a model that is loaded at first use) is not ignored for that reason; both
        appearances are recorded as equal instead.
        """
        if before == after:
            return
        changed = self._differing(before, after)
        volatile = {path for path in changed if path in before and before[path] != NONE}
        filled = any(not _is_below(path, volatile) for path in changed)

        def learn() -> None:
            self._volatile |= volatile
            if filled:
                self._join(self._record(before), self._record(after))

        if changed:
            self._update(learn)

    def record(self, appearance: Appearance) -> str:
        """Record an appearance whose rows are about to be stored; return its id."""
        known = self.id_of(appearance)
        if known not in self._records:
            self._update(lambda: self._record(appearance))
        return known

    def note_equal(self, appearance: Appearance, others: Iterable[str]) -> None:
        """Record that vectors of other appearances were compared with this encoder's vectors and are equal."""
        others = list(others)

        def learn() -> None:
            differing = [self.differences(other, appearance) for other in others]
            mine = self._record(appearance)
            for path in {path for paths in differing for path in paths}:
                self._values[path] = self._values.get(path, 0) + 1
            for other in others:
                self._join(mine, other)

        if others:
            self._update(learn)

    def refresh(self) -> None:
        """Read the appearances that other processes have written."""
        self._trusted = None
        try:
            document: Any = parsed_json(read_plain(self._path))
            records = {str(name): _texts(record) for name, record in document["records"].items()}
            equal = _texts(document["equal"])
            volatile = frozenset(str(path) for path in document["volatile"])
            values = {str(path): int(count) for path, count in document["values"].items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return
        self._records = {**records, **self._records}
        for known, name in equal.items():
            self._join(name, known)
        self._volatile |= volatile
        self._values = {p: max(values.get(p, 0), self._values.get(p, 0)) for p in values.keys() | self._values.keys()}

    def _differing(self, first: Mapping[str, str], second: Mapping[str, str]) -> set[str]:
        ignored = self.ignored
        differing = {path for path in first.keys() | second.keys() if first.get(path) != second.get(path)}
        return {path for path in differing if not _is_below(path, ignored)}

    def _record(self, appearance: Appearance) -> str:
        known = self.id_of(appearance)
        if known not in self._records:
            ignored = self.ignored
            self._records[known] = {path: text for path, text in appearance.items() if not _is_below(path, ignored)}
            for oldest in list(self._records)[:-MAX_RECORDS]:
                del self._records[oldest]
        return known

    def _class_of(self, known: str) -> str:
        return self._equal.get(known, known)

    def _join(self, mine: str, other: str) -> None:
        first, second = self._class_of(mine), self._class_of(other)
        members = {known for known, name in self._equal.items() if name == second} | {mine, other, first, second}
        self._equal.update(dict.fromkeys(members, first))

    def _update(self, learn: Callable[[], object]) -> None:
        """Read the file, apply `learn` and write the result, to keep what other processes have written."""
        self.refresh()
        learn()
        self._trusted = None
        document = {
            "records": self._records,
            "equal": self._equal,
            "volatile": sorted(self._volatile),
            "values": self._values,
        }
        try:
            write_atomically(self._path, json.dumps(document).encode())
        except OSError as err:
            logger.info("what the encoder looked like was not recorded, later processes compare again: %s", err)


def _texts(value: Any) -> dict[str, str]:
    return {str(name): str(text) for name, text in value.items()}


def _is_below(path: str, parents: Collection[str]) -> bool:
    """Return True if a path is one of `parents` or below one of them."""
    if not parents:
        return False
    return path in parents or any(path.startswith((f"{parent}.", f"{parent}[")) for parent in parents)
