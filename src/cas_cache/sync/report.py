"""The report of a push or pull, and how it is collected while the operation runs."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from cas_cache.display import Displayable, facts, size
from cas_cache.errors import CredentialInSpec, RepositoryError, UnsupportedFormat
from cas_cache.format.layout import PackRef
from cas_cache.progress import bar_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.console import Group

    from cas_cache.errors import CasCacheError, UntrustedPack
    from cas_cache.format.manifest import Manifest
    from cas_cache.mirror import Mirror, Namespace
    from cas_cache.progress import Bar
    from cas_cache.repository import Repository

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class SyncReport(Displayable):
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

    def skip(self, name: str, problem: CasCacheError) -> None:
        """Report the problem of a skipped pack or namespace, once."""
        if str(problem) not in map(str, self.problems):
            logger.warning("skipped %s: %s", name, problem)
            self.problems.append(without_frames(problem))

    def skip_untrusted(self, untrusted: UntrustedPack) -> None:
        """Record a pack that was skipped because it is not trusted."""
        if untrusted.pack not in self.untrusted:
            logger.info("%s", untrusted)
            self.untrusted.add(untrusted.pack)


@dataclass(frozen=True, slots=True)
class Transfer:
    """A running push or pull.

    Attributes:
        mirror: The mirror.
        repository: The repository.
        report: Report that collects counts and problems.
        bar: The progress bar.
    """

    mirror: Mirror
    repository: Repository
    report: SyncReport
    bar: Bar

    def expect(self, size: int) -> None:
        """Add to the work that the bar expects; a negative size is work that turned out not to be needed."""
        self.bar.total = (self.bar.total or 0) + size
        self.bar.update(0)

    def namespace(self, namespace: str) -> Namespace:
        """Return a namespace of the mirror; if it is new, it is created with the repository's encoder spec.

        Raises:
            CasCacheError: One of `PACK_PROBLEMS`, or DamagedMirror.
        """
        return self.mirror.get(namespace) or self.mirror.namespace(self.repository.spec(namespace))

    def is_gone(self, ref: PackRef, problem: CasCacheError) -> bool:
        """Return True if a pack could not be read because it was deleted; report any other problem."""
        if self.repository.has_gone(ref, problem):
            return True
        self.report.skip(f"pack {ref.pack}", problem)
        return False


PACK_PROBLEMS = (RepositoryError, UnsupportedFormat, CredentialInSpec)
"""Errors of what is in the repository, for which a pack or namespace is skipped."""


@contextmanager
def transferring(
    mirror: Mirror,
    repository: Repository,
    name: str,
    progress: bool | None,
    *,
    report: SyncReport | None = None,
    push_bytes: int | None = None,
) -> Iterator[Transfer]:
    """Run a push or pull: show its progress, and count the transferred bytes.

    Only the bytes of one direction are counted, because a background push runs at the same time as pulls.

    Args:
        mirror: The mirror.
        repository: The repository.
        name: Name of the operation.
        progress: Show a progress bar; None shows it on a terminal only.
        report: Report to go on with; None for a new one.
        push_bytes: Bytes of vectors to push; None for a pull.
    """
    report = report or SyncReport()
    traffic = repository.storage.traffic
    direction = "down" if push_bytes is None else "up"
    before = getattr(traffic, direction)
    try:
        with bar_of(name, push_bytes or 0, progress) as bar:
            yield Transfer(mirror, repository, report, bar)
    finally:
        report.bytes = getattr(traffic, direction) - before


def manifests_of(
    repository: Repository, namespace: str, packs: Iterable[str], report: SyncReport
) -> tuple[dict[str, Manifest], bool]:
    """Return the manifests of packs, in their order, and True if a pack has disappeared since it was listed.

    Manifests that cannot be read for another reason are reported as problems.
    """
    manifests = repository.read_manifests([PackRef(namespace, pack) for pack in packs])
    for untrusted in manifests.untrusted.values():
        report.skip_untrusted(untrusted)
    for ref, problem in manifests.problems.items():
        report.skip(f"pack {ref.pack}", problem)
    return manifests.readable, bool(manifests.gone)


_Problem = TypeVar("_Problem", bound="CasCacheError")


def without_frames(problem: _Problem) -> _Problem:
    """Drop the tracebacks: their frames hold the report itself, and maps and locks that `close` has to release."""
    error: BaseException | None = problem
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
    return problem
