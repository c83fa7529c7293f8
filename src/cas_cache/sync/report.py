"""What a push or pull did, and how that is shown while it runs."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from cas_cache import html
from cas_cache.formatting import size
from cas_cache.progress import bar_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cas_cache.errors import CasCacheError, UntrustedPack
    from cas_cache.repository import Repository

__all__ = ["Report", "bar_of", "metered", "note_skipped", "note_untrusted", "without_frames"]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Report:
    """What a push or pull did.

    Attributes:
        packs: How many packs were published or read.
        rows: How many rows they held; after a pull, how many of them were new.
        bytes: Bytes of content that went over the wire.
        problems: What was passed over, and why: damaged packs, packs of a newer version. None of their rows was used.
        hints: What could be done about what is in order and could be better.
        untrusted: Ids of packs that count as not there, because no trusted key signed them.
    """

    packs: int = 0
    rows: int = 0
    bytes: int = 0
    problems: list[CasCacheError] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    untrusted: set[str] = field(default_factory=set)

    def _repr_html_(self) -> str:
        rows = [("packs", self.packs), ("rows", self.rows), ("bytes", size(self.bytes))]
        passed_over = [f"{type(problem).__name__}: {problem}" for problem in self.problems]
        below = html.lines("passed over", passed_over) + html.lines("hints", self.hints)
        return html.facts("What was pushed or pulled", rows) + below

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain JSON."""
        return {
            "packs": self.packs,
            "rows": self.rows,
            "bytes": self.bytes,
            "problems": [{"error": type(p).__name__, "message": str(p)} for p in self.problems],
            "hints": self.hints,
            "untrusted": len(self.untrusted),
        }


def note_skipped(what: str, problem: CasCacheError, report: Report) -> None:
    """Report a problem, once."""
    if str(problem) not in map(str, report.problems):
        logger.warning("passed over %s: %s", what, problem)
        report.problems.append(without_frames(problem))


_Problem = TypeVar("_Problem", bound="CasCacheError")


def without_frames(problem: _Problem) -> _Problem:
    """Drop the tracebacks: their frames hold the report itself, and maps and locks that close has to release."""
    error: BaseException | None = problem
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
    return problem


def note_untrusted(untrusted: UntrustedPack, report: Report) -> None:
    """Note a pack that counts as not there."""
    if untrusted.pack not in report.untrusted:
        logger.info("%s", untrusted)
        report.untrusted.add(untrusted.pack)


@contextmanager
def metered(repository: Repository, report: Report, *, up: bool = False) -> Iterator[None]:
    """Count the bytes that are read, or those that are written (`up`), while the block runs.

    Not both: a push in the background runs beside pulls.
    """
    traffic = repository.storage.traffic
    before = traffic.up if up else traffic.down
    try:
        yield
    finally:
        report.bytes = (traffic.up if up else traffic.down) - before
