"""What an import takes of which folder, what it leaves and why: a plan that prints itself and can be run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.errors import ConfigurationError
from cas_cache.formatting import pluralize
from cas_cache.identity import KEY_BYTES, EncoderSpec
from cas_cache.interop.folders import MtebCacheFolder, OldRows, stamp_of
from cas_cache.progress import progress_bar
from cas_cache.rows import storable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from cas_cache.mirror import Namespace

CHUNK_BYTES = 32 << 20
"""Read, judged and committed at a time."""

SKIP_REASONS = {
    "not_a_text": "keys of no text (images, audio, video)",
    "beyond_file": "rows beyond the end of the file",
    "shared_row": "keys that name one row",
    "zero": "zero rows, which were never stored",
    "not_finite": "rows with NaN or infinity",
    "other_dtype": "rows that the namespace's dtype cannot hold",
    "here": "here already",
    "other_folder": "taken from another folder",
    "differs": "that differ from those here or in another folder",
    "broken": "in a folder that is broken",
    "refused": "in a folder that is refused",
}
"""Why a key's vector was not taken, for people."""


@dataclass(slots=True)
class FolderPlan:
    """What is taken of one folder, and why the rest is not.

    Attributes:
        folder: Which one.
        total: How many keys its index has.
        passed_over: Why it is not meant: it is another encoder's, role's or task's. None if it is meant.
        broken: Why nothing of it may ever be taken, or None.
        refused: What it cannot prove; nothing of it is taken unless the caller accepts that.
        left: How many keys are not taken, by reason, a key of `SKIP_REASONS`.
        keys: (n, 32) uint8 of what is taken if the folder is.
        at: (n,) int64, their rows, ascending.
        rows: What the folder's files say; None if they cannot be read.
        stored: How many of them were new when the plan ran.
    """

    folder: MtebCacheFolder
    total: int = 0
    passed_over: str | None = None
    broken: str | None = None
    refused: list[str] = field(default_factory=list)
    left: dict[str, int] = field(default_factory=dict)
    keys: NDArray[np.uint8] = field(default_factory=lambda: np.empty((0, KEY_BYTES), np.uint8))
    at: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    rows: OldRows | None = None
    stored: int = 0

    def skip(self, reason: str, which: NDArray[np.bool_]) -> None:
        """Take no longer those of which `which` is true."""
        count = int(which.sum())
        if count:
            self.left[reason] = self.left.get(reason, 0) + count
            self.keys, self.at = self.keys[~which], self.at[~which]

    def skip_all(self, reason: str) -> None:
        """Take nothing."""
        self.skip(reason, np.ones(len(self.at), np.bool_))

    def as_json(self) -> dict[str, Any]:
        """Return the plan as plain JSON."""
        return {
            "path": str(self.folder.path),
            "backend": self.folder.backend,
            "task": self.folder.task,
            "role": self.folder.role,
            "experiment": self.folder.experiment,
            "keys": self.total,
            "taken": len(self.at),
            "left": dict(self.left),
            "passed_over": self.passed_over,
            "broken": self.broken,
            "refused": list(self.refused),
        }


@dataclass(slots=True)
class ImportPlan:
    """What an import takes and leaves.

    Attributes:
        spec: Whose vectors they are, by the caller's word.
        dtype: What they will be stored as.
        folders: What is taken of each.
        accept_unsafe: Whether folders that cannot prove what they hold are taken.
    """

    spec: EncoderSpec
    dtype: np.dtype[Any]
    folders: list[FolderPlan]
    accept_unsafe: bool

    @property
    def taken(self) -> int:
        """How many vectors are taken."""
        return sum(len(plan.at) for plan in self.folders)

    @property
    def clean(self) -> bool:
        """Whether a folder is meant, none is broken or refused, and no vector differs from another of its text."""
        any_rows = any(plan.rows is not None for plan in self.folders)
        return any_rows and not any(plan.broken or plan.left.keys() & {"refused", "differs"} for plan in self.folders)

    def run(self, namespace: Namespace, *, progress: bool | None = False) -> ImportReport:
        """Store what is taken, a chunk at a time, each committed before the next.

        Args:
            namespace: Where to.
            progress: Show how many vectors were stored; None where there is a terminal.

        Raises:
            ConfigurationError: If a folder has changed since it was read. What was stored before stays.
            MirrorWriteError: If the disk is full or refuses.
        """
        with progress_bar("import", self.taken, progress, "vectors") as advance:
            for plan, part in [(folder, part) for folder in self.folders for part in chunks_of(folder)]:
                if plan.rows is None or stamp_of(plan.folder.path) != plan.rows.stamp:
                    raise ConfigurationError(
                        f"{plan.folder.path} has changed since it was read, and nothing more of it was taken. Stop "
                        "what writes there and run again."
                    )
                vectors = storable(plan.rows.take(plan.at[part]).astype(self.dtype), part.stop - part.start)
                plan.stored += namespace.append(plan.keys[part], vectors)
                advance(part.stop - part.start)
        return ImportReport(self, sum(plan.stored for plan in self.folders))

    def lines(self) -> Iterator[str]:
        """Yield the plan for people: what is taken of each folder, what is left, and why."""
        for plan in self.folders:
            if plan.passed_over:
                yield f"{plan.folder.path}: skipped, {plan.passed_over}"
                continue
            yield f"{plan.folder.path}: {len(plan.at):,} of {pluralize(plan.total, 'vector')}"
            for reason, count in plan.left.items():
                yield f"  left: {count:,} {SKIP_REASONS[reason]}"
            if plan.broken:
                yield f"  broken: {plan.broken}"
            for why in plan.refused if self.accept_unsafe or "refused" in plan.left else ():
                yield f"  {'accepted' if self.accept_unsafe else 'refused'}: {why}"


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did.

    Attributes:
        plan: What it took and left.
        stored: How many vectors were new; 0 of a dry run.
    """

    plan: ImportPlan
    stored: int = 0

    @property
    def taken(self) -> int:
        """How many vectors were taken, or, in a dry run, would be."""
        return self.plan.taken

    def left(self) -> dict[str, int]:
        """Return how many keys were left in all folders, by reason."""
        totals: dict[str, int] = {}
        for plan in self.plan.folders:
            for reason, count in plan.left.items():
                totals[reason] = totals.get(reason, 0) + count
        return totals

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain JSON."""
        return {
            "namespace": self.plan.spec.namespace,
            "spec": self.plan.spec.document(),
            "dtype": self.plan.dtype.name,
            "taken": self.taken,
            "stored": self.stored,
            "left": self.left(),
            "folders": [plan.as_json() for plan in self.plan.folders],
        }


def chunks_of(plan: FolderPlan) -> Iterator[slice]:
    """Cut a plan's rows into chunks of bounded size."""
    step = max(1, CHUNK_BYTES // (4 * plan.rows.dimension)) if plan.rows is not None else 1
    for start in range(0, len(plan.at), step):
        yield slice(start, min(start + step, len(plan.at)))
