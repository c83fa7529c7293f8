"""The report of a push or pull, and how it is collected while the operation runs."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from cas_cache.display import Displayable, facts, size
from cas_cache.progress import bar_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Group

    from cas_cache.errors import CasCacheError, UntrustedPack
    from cas_cache.repository import Repository

__all__ = ["Report", "bar_of", "metered", "note_skipped", "note_untrusted", "without_frames"]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Report(Displayable):
    """Result of a push or pull.

    Attributes:
        packs: Number of packs that were published or read.
        rows: Number of rows in these packs; after a pull, the number of new rows.
        bytes: Bytes of content that were transferred.
        problems: Errors of skipped packs and namespaces: damaged, or written by a newer version. None of their rows was
            used.
        hints: Optional suggestions; nothing is wrong.
        untrusted: Ids of packs that were skipped because no trusted key signed them.
    """

    packs: int = 0
    rows: int = 0
    bytes: int = 0
    problems: list[CasCacheError] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    untrusted: set[str] = field(default_factory=set)

    def __rich__(self) -> Group:
        values = {
            "packs": self.packs,
            "rows": self.rows,
            "bytes": size(self.bytes),
            "skipped": [f"{type(problem).__name__}: {problem}" for problem in self.problems],
            "hints": self.hints,
        }
        return facts("What was pushed or pulled", values)

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
        logger.warning("skipped %s: %s", what, problem)
        report.problems.append(without_frames(problem))


_Problem = TypeVar("_Problem", bound="CasCacheError")


def without_frames(problem: _Problem) -> _Problem:
    """Drop the tracebacks: their frames hold the report itself, and maps and locks that `close` has to release."""
    error: BaseException | None = problem
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
    return problem


def note_untrusted(untrusted: UntrustedPack, report: Report) -> None:
    """Record a pack that was skipped because it is not trusted."""
    if untrusted.pack not in report.untrusted:
        logger.info("%s", untrusted)
        report.untrusted.add(untrusted.pack)


@contextmanager
def metered(repository: Repository, report: Report, *, up: bool = False) -> Iterator[None]:
    """Count the bytes that are read, or those that are written (`up`), while the block runs.

    Not both, because a background push runs at the same time as pulls.
    """
    traffic = repository.storage.traffic
    before = traffic.up if up else traffic.down
    try:
        yield
    finally:
        report.bytes = (traffic.up if up else traffic.down) - before
