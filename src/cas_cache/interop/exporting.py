"""Export vectors for other tools: those of a namespace, or those that a task requested.

A target is complete or absent: it is written beside its final path, then moved to it, and never overwrites a file. Rows
are verified by their digests before they are written, one chunk at a time.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.errors import ConfigurationError, MirrorError, MirrorWriteError
from cas_cache.files.disk import TEMP_PREFIX, flush, move_new
from cas_cache.identity import first_of_each
from cas_cache.interop.formats import write_mteb, write_npy, write_parquet
from cas_cache.mirror import ids_in, keys_in
from cas_cache.mirror.index import ABSENT
from cas_cache.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from cas_cache.mirror import Mirror, Namespace, View

CHUNK_BYTES = 32 << 20
"""Bytes of vectors that are read, verified and written at a time."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Rows of one namespace, in the order in which they are written.

    Attributes:
        namespace: The namespace that the rows belong to.
        rows: (n,) int64, row numbers in the namespace.
        ids: The n ids that the task gave to the rows, None for rows without one; or None if ids were not requested.
        missing: The number of rows that a view names but the mirror does not have; they are not in `rows`.
        advance: Callback that gets the number of rows of a chunk when the next chunk is requested.
    """

    namespace: Namespace
    rows: NDArray[np.int64]
    ids: tuple[str | None, ...] | None = None
    missing: int = 0
    advance: Callable[[int], object] | None = field(default=None, compare=False, repr=False)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the vectors."""
        return np.dtype(np.float32) if self.namespace.dtype is None else self.namespace.dtype

    def chunks(self) -> Iterator[tuple[NDArray[np.uint8], NDArray[Any], tuple[str | None, ...] | None]]:
        """Yield keys, (k, 32) uint8, vectors, (k, *shape), and ids of a limited number of rows at a time.

        Raises:
            DamagedMirror: If a row does not match its digest.
        """
        step = max(1, CHUNK_BYTES // max(1, self.namespace.row_bytes))
        for start in range(0, len(self.rows), step):
            rows = self.rows[start : start + step]
            vectors = self.namespace.take(rows)
            yield self.namespace.keys[rows], vectors, None if self.ids is None else self.ids[start : start + step]
            if self.advance is not None:
                self.advance(len(rows))


@dataclass(frozen=True, slots=True)
class ExportReport:
    """Report on an export.

    Attributes:
        target: The path of the new file or directory.
        format: The format, one of `FORMATS`.
        namespace: The id of the namespace.
        rows: The number of rows written.
        bytes: The size of the written files in bytes.
        missing: The number of requested rows that the mirror does not have.
    """

    target: Path
    format: str
    namespace: str
    rows: int
    bytes: int
    missing: int

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain JSON."""
        return {**asdict(self), "target": str(self.target)}


def select_namespace(namespace: Namespace) -> Selection:
    """Return all rows of a namespace, in the order in which they were stored."""
    namespace.refresh()
    return Selection(namespace, np.arange(namespace.rows, dtype=np.int64))


def select_views(mirror: Mirror, views: Sequence[View], *, with_ids: bool = False) -> Selection:
    """Return the rows that a task requested, in the task's order.

    Args:
        mirror: The mirror that has the views.
        views: Views of one namespace, joined in this order.
        with_ids: Include the ids that the task gave its rows. Then a row that was requested twice appears twice,
            otherwise once.

    Raises:
        ConfigurationError: If the views belong to several namespaces.
        MirrorError: If the mirror does not have the namespace.
        DamagedMirror: If a view's ids are not those that were written.
    """
    namespaces = sorted({view.namespace for view in views})
    if len(namespaces) != 1:
        raise ConfigurationError(
            f"The views are of {len(namespaces)} namespaces ({', '.join(namespaces)}); a file holds the vectors of one "
            "encoder spec. Choose by role, model, subset or split."
        )
    namespace = mirror.get(namespaces[0])
    if namespace is None:
        raise MirrorError(
            f"The namespace {namespaces[0]} is not in {mirror.directory} any more. Pull, or evaluate again."
        )
    parts = [_rows_of_view(mirror, view, with_ids=with_ids) for view in views]
    keys = np.concatenate([part for part, _ in parts])
    rows = namespace.find(keys)
    present = rows != ABSENT
    chosen = Selection(namespace, rows[present], missing=int((~present).sum()))
    if with_ids:
        ids = [id_ for _, part in parts for id_ in part]
        return replace(chosen, ids=tuple(id_ for id_, is_present in zip(ids, present, strict=True) if is_present))
    distinct, _ = first_of_each(keys[present])
    return replace(chosen, rows=chosen.rows[distinct])


def _rows_of_view(mirror: Mirror, view: View, *, with_ids: bool) -> tuple[NDArray[np.uint8], list[str | None]]:
    """Return a view's keys and, if requested, as many ids."""
    folder = mirror.views.folder(view.task)
    keys, _ = keys_in(folder, view)
    if not with_ids:
        return keys, []
    # Another process may have extended the view since the keys were read. It appends, so the extra ids are the last.
    ids = (ids_in(folder, view) or [])[: len(keys)]
    return keys, ids + [None] * (len(keys) - len(ids))


def export(
    selection: Selection,
    target: str | Path,
    format: str,  # noqa: A002 - the option's name
    *,
    progress: bool | None = False,
) -> ExportReport:
    """Write rows to a new file or directory.

    Args:
        selection: From `select_namespace` or `select_views`.
        target: A path that does not exist yet. A directory for ``npy`` and ``mteb``, a file for ``parquet``.
        format: ``npy`` (``vectors.npy``, ``keys.npy``, ``spec.json``), ``mteb`` (a folder that mteb's `NumpyCache`
            opens), or ``parquet``.
        progress: Show the number of rows written; None shows it on a terminal only.

    Raises:
        ConfigurationError: If the target exists, the format cannot hold these vectors, or there are no rows.
        DamagedMirror: If a row does not match its digest. No target is made.
        MirrorWriteError: If the disk is full or refuses to write.
        MissingDependency: If the format's package is not installed.
    """
    place = _checked_target(selection, target, format)
    temp = place.parent / f"{TEMP_PREFIX}{uuid.uuid4().hex}"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            with progress_bar("export", len(selection.rows), progress, "rows") as advance:
                FORMATS[format](replace(selection, advance=advance), temp)
            size = _settle(temp)
            _move(temp, place)
        finally:
            if temp.is_dir():
                shutil.rmtree(temp, ignore_errors=True)
            else:
                temp.unlink(missing_ok=True)
    except MirrorError:
        raise
    except OSError as err:
        raise MirrorWriteError(f"Writing {place} failed ({err}). Make room, or name another target.") from err
    return _report(selection, place, format, size)


def plan_export(selection: Selection, target: str | Path, format: str) -> ExportReport:  # noqa: A002 - as in `export`
    """Return the report of an `export` without writing or verifying; `bytes` is the size of the vectors alone.

    Raises:
        ConfigurationError: Like `export`.
    """
    place = _checked_target(selection, target, format)
    return _report(selection, place, format, len(selection.rows) * selection.namespace.row_bytes)


def _report(selection: Selection, place: Path, format: str, size: int) -> ExportReport:  # noqa: A002 - as in `export`
    return ExportReport(place, format, selection.namespace.spec.namespace, len(selection.rows), size, selection.missing)


def _checked_target(selection: Selection, target: str | Path, format: str) -> Path:  # noqa: A002 - as in `export`
    """Check format, target and rows before anything is written; return the absolute path of the target."""
    place = Path(target).expanduser().absolute()
    if format not in FORMATS:
        raise ConfigurationError(f"{format!r} is not a format. Choose one of {', '.join(FORMATS)}.")
    if place.exists() or place.is_symlink():
        raise ConfigurationError(f"{place} exists already, and nothing is overwritten. Name another target.")
    if not len(selection.rows):
        raise ConfigurationError(
            f"There is nothing to export: no row of {selection.namespace.spec.namespace} is here. Pull, or evaluate "
            "again."
        )
    _check_format(selection, format)
    return place


def _check_format(selection: Selection, format: str) -> None:  # noqa: A002 - as in `export`
    """Reject vectors or ids that the format cannot hold."""
    shape, spec = selection.namespace.shape, selection.namespace.spec
    if len(shape) != 1 and format != "npy":
        raise ConfigurationError(
            f"A vector of this namespace has the shape {shape}; {format} is written for plain vectors only. Choose npy."
        )
    if selection.ids is not None and format not in FORMATS_WITH_IDS:
        raise ConfigurationError(f"{format} has no place for ids. Choose parquet, or leave the ids out.")
    if format != "mteb":
        return
    if spec.fields != ("text",):
        raise ConfigurationError(
            f"mteb's NumpyCache finds vectors by their texts alone; these are of {', '.join(spec.fields)}. Choose "
            "another format."
        )
    if not np.can_cast(selection.dtype, np.float32, "safe"):
        raise ConfigurationError(
            f"mteb's NumpyCache holds float32, and these vectors are {selection.dtype}: they would be rounded. Choose "
            "another format."
        )


def _settle(temp: Path) -> int:
    """Make the written files durable; return their size in bytes."""
    files = sorted(temp.iterdir()) if temp.is_dir() else [temp]
    for path in (*files, temp):
        flush(path)
    return sum(file.stat().st_size for file in files)


def _move(temp: Path, place: Path) -> None:
    """Move a file or directory to its final name, without replacing one that exists by now."""
    try:
        if temp.is_dir():
            # mkdir decides which process owns the name; then a directory may be renamed over the empty one.
            place.mkdir()
            temp.replace(place)
        elif not move_new(temp, place):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(place))
    except FileExistsError as err:
        raise ConfigurationError(
            f"{place} was made meanwhile, and nothing is written over. Name another target."
        ) from err
    flush(place.parent)


FORMATS: dict[str, Callable[[Selection, Path], None]] = {
    "npy": write_npy,
    "mteb": write_mteb,
    "parquet": write_parquet,
}
"""Supported formats, with the functions that write them."""

FORMATS_WITH_IDS = frozenset({"parquet"})
