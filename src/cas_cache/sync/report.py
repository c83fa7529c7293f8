"""What a push or pull did, and how that is shown while it runs."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tqdm import tqdm

    from cas_cache.errors import CasCacheError
    from cas_cache.repository import Repository

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
    """

    packs: int = 0
    rows: int = 0
    bytes: int = 0
    problems: list[CasCacheError] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain JSON."""
        return {
            "packs": self.packs,
            "rows": self.rows,
            "bytes": self.bytes,
            "problems": [{"error": type(p).__name__, "message": str(p)} for p in self.problems],
            "hints": self.hints,
        }


def pass_over(what: str, problem: CasCacheError, report: Report) -> None:
    """Report a problem, once."""
    if str(problem) not in map(str, report.problems):
        logger.warning("passed over %s: %s", what, problem)
        report.problems.append(problem)


@contextmanager
def metered(repository: Repository, report: Report) -> Iterator[None]:
    """Count the bytes that pass while the block runs."""
    traffic = repository.storage.traffic
    before = traffic.up + traffic.down
    try:
        yield
    finally:
        report.bytes = traffic.up + traffic.down - before


def bar_of(what: str, total: int, progress: bool | None) -> tqdm[Any]:
    """Return a progress bar that counts bytes; None shows it on a terminal only."""
    from tqdm import tqdm

    disable = None if progress is None else not progress
    return tqdm(desc=what, total=total, unit="B", unit_scale=True, disable=disable, leave=False)
