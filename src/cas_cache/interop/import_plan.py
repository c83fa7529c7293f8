"""Plan of an import: what is taken from each folder, what is skipped, and why. It prints itself and can be run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.display import pluralize
from cas_cache.errors import ConfigurationError
from cas_cache.format.rows import storable
from cas_cache.identity import KEY_BYTES, EncoderSpec
from cas_cache.interop.folders import MtebCacheFolder, OldRows, stamp_of
from cas_cache.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from cas_cache.mirror import Namespace

CHUNK_BYTES = 32 << 20
"""Bytes of vectors that are read, checked and committed at a time."""

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
"""Reasons why a key's vector was not taken, as text for people."""


@dataclass(slots=True)
class FolderPlan:
    """Part of an import plan: what is taken from one folder, and why the rest is not.

    Attributes:
        folder: The folder.
        total: The number of keys in its index.
        passed_over: Reason why the folder is skipped because it belongs to another encoder, role or task; None if it is
            not.
        broken: Reason why nothing from it can ever be taken, or None.
        refused: Guarantees that the folder cannot prove. Nothing from it is taken unless the caller accepts that.
        left: The number of keys that are not taken, by reason, a key of `SKIP_REASONS`.
        keys: (n, 32) uint8, the keys that are taken.
        at: (n,) int64, their rows, ascending.
        rows: The folder's rows; None if they cannot be read.
        stored: The number of vectors that were new when the plan ran.
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
        """Remove the keys for which `which` is true, and count them under a reason."""
        count = int(which.sum())
        if count:
            self.left[reason] = self.left.get(reason, 0) + count
            self.keys, self.at = self.keys[~which], self.at[~which]

    def skip_all(self, reason: str) -> None:
        """Remove all keys, and count them under a reason."""
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
    """Plan of an import.

    Attributes:
        spec: The encoder spec of the vectors, as the caller declares it.
        dtype: The dtype in which they will be stored.
        folders: The plan of each folder.
        accept_unsafe: True if vectors are also taken from folders that cannot prove what they hold.
    """

    spec: EncoderSpec
    dtype: np.dtype[Any]
    folders: list[FolderPlan]
    accept_unsafe: bool

    @property
    def taken(self) -> int:
        """The number of vectors that are taken."""
        return sum(len(plan.at) for plan in self.folders)

    @property
    def clean(self) -> bool:
        """True if a folder could be read, none is broken or refused, and no vector differs from another of its text."""
        any_rows = any(plan.rows is not None for plan in self.folders)
        return any_rows and not any(plan.broken or plan.left.keys() & {"refused", "differs"} for plan in self.folders)

    def run(self, namespace: Namespace, *, progress: bool | None = False) -> ImportReport:
        """Store the vectors that are taken, a chunk at a time, each committed before the next.

        Args:
            namespace: The namespace to write to.
            progress: Show the number of vectors stored; None shows it on a terminal only.

        Raises:
            ConfigurationError: If a folder has changed since it was read. Vectors that were stored before stay.
            MirrorWriteError: If the disk is full or refuses to write.
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
        """Yield the plan as lines for people: what is taken from each folder, what is skipped, and why."""
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
    """Report on an import.

    Attributes:
        plan: The plan that was run.
        stored: The number of vectors that were new; 0 for a dry run.
    """

    plan: ImportPlan
    stored: int = 0

    @property
    def taken(self) -> int:
        """The number of vectors that were taken, or that a run would take."""
        return self.plan.taken

    def left(self) -> dict[str, int]:
        """Return the number of skipped keys in all folders, by reason."""
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
    """Yield slices of limited size that cover a plan's rows."""
    step = max(1, CHUNK_BYTES // (4 * plan.rows.dimension)) if plan.rows is not None else 1
    for start in range(0, len(plan.at), step):
        yield slice(start, min(start + step, len(plan.at)))
