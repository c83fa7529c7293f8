"""Write vectors out for other tools: of a namespace, or of what a task asked for.

A target is whole or absent: it is written beside its place and moved there, never over something. Rows are proved by
their digests before they leave, and go a chunk at a time.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.disk import TEMP_PREFIX, flush, move_new
from cas_cache.errors import ConfigurationError, MirrorError, MirrorWriteError
from cas_cache.identity import first_of_each
from cas_cache.interop.arrow_files import write_arrow, write_parquet
from cas_cache.interop.plain_files import write_mteb, write_npy, write_safetensors
from cas_cache.mirror import ids_in, keys_in
from cas_cache.mirror.index import ABSENT
from cas_cache.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from cas_cache.mirror import Mirror, Namespace, View

CHUNK_BYTES = 32 << 20
"""Gathered, proved and written at a time."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Rows of one namespace, in the order in which they are written.

    Attributes:
        namespace: Whose.
        rows: (n,) int64, rows of it.
        ids: n ids that the task has for the rows, None where it gave none; or None, if they are not asked for.
        missing: How many rows a view names that are not here; they are not in `rows`.
        tell: Told how many rows a chunk had, when the next is asked for.
    """

    namespace: Namespace
    rows: NDArray[np.int64]
    ids: tuple[str | None, ...] | None = None
    missing: int = 0
    advance: Callable[[int], object] | None = field(default=None, compare=False, repr=False)

    @property
    def dtype(self) -> np.dtype[Any]:
        """What vectors are made of."""
        return np.dtype(np.float32) if self.namespace.dtype is None else self.namespace.dtype

    def chunks(self) -> Iterator[tuple[NDArray[np.uint8], NDArray[Any], tuple[str | None, ...] | None]]:
        """Yield keys, (k, 32) uint8, vectors, (k, *shape), and ids of a bounded number of rows at a time.

        Raises:
            DamagedMirror: If a row does not agree with its digest.
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
    """What an export wrote.

    Attributes:
        target: Where.
        format: As what, one of `FORMATS`.
        namespace: The id of the namespace.
        rows: How many rows.
        bytes: How many bytes of files.
        missing: How many rows were asked for and are not here.
    """

    target: Path
    format: str
    namespace: str
    rows: int
    bytes: int
    missing: int

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain JSON."""
        return {
            "target": str(self.target),
            "format": self.format,
            "namespace": self.namespace,
            "rows": self.rows,
            "bytes": self.bytes,
            "missing": self.missing,
        }


def select_namespace(namespace: Namespace) -> Selection:
    """Return all rows of a namespace, in the order in which they came."""
    namespace.refresh()
    return Selection(namespace, np.arange(namespace.rows, dtype=np.int64))


def select_views(mirror: Mirror, views: Sequence[View], *, with_ids: bool = False) -> Selection:
    """Return the rows that a task asked for, in its order.

    Args:
        mirror: Where the views are.
        views: Of one namespace, joined in this order.
        with_ids: Take the ids that the task gave its rows; then a row that was asked for twice is there twice, else
            once.

    Raises:
        ConfigurationError: If the views are of several namespaces.
        MirrorError: If the namespace is not here.
        DamagedMirror: If a view's ids are not what was written.
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
    """A view's keys, and, if they are wanted, as many ids."""
    folder = mirror.views.folder(view.task)
    keys, _ = keys_in(folder, view)
    if not with_ids:
        return keys, []
    # Another process may have added to the view since the keys were read: what it added comes last.
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
        target: Must not be there. A directory for ``npy`` and ``mteb``, a file for the others.
        format: ``npy`` (``vectors.npy``, ``keys.npy``, ``spec.json``), ``mteb`` (what its `NumpyCache` opens),
            ``parquet``, ``arrow`` (the IPC file format), or ``safetensors``.
        progress: Show how many rows were written; None where there is a terminal.

    Raises:
        ConfigurationError: If the target is there, the format cannot hold these vectors, or there are none.
        DamagedMirror: If a row does not agree with its digest. No target is made.
        MirrorWriteError: If the disk is full or refuses.
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
    """Return what `export` would write; its `bytes` are those of the vectors. Nothing is written, and no row is proved.

    Raises:
        ConfigurationError: As `export` does.
    """
    place = _checked_target(selection, target, format)
    return _report(selection, place, format, len(selection.rows) * selection.namespace.row_bytes)


def _report(selection: Selection, place: Path, format: str, size: int) -> ExportReport:  # noqa: A002 - as in `export`
    return ExportReport(place, format, selection.namespace.spec.namespace, len(selection.rows), size, selection.missing)


def _checked_target(selection: Selection, target: str | Path, format: str) -> Path:  # noqa: A002 - as in `export`
    """Refuse what cannot be written, before anything is; return where it goes."""
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
    """Refuse what a format cannot hold, before anything is written."""
    shape, spec = selection.namespace.shape, selection.namespace.spec
    if len(shape) != 1 and format not in ("npy", "safetensors"):
        raise ConfigurationError(
            f"A vector of this namespace has the shape {shape}; {format} is written for plain vectors only. Choose "
            "npy or safetensors."
        )
    if selection.ids is not None and format not in FORMATS_WITH_IDS:
        raise ConfigurationError(f"{format} has no place for ids. Choose parquet or arrow, or leave the ids out.")
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
    """Make what was written durable; return how many bytes it is."""
    files = sorted(temp.iterdir()) if temp.is_dir() else [temp]
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    if temp.is_dir():
        flush(temp)
    return sum(file.stat().st_size for file in files)


def _move(temp: Path, place: Path) -> None:
    """Give a file or directory its name; whatever has it by now keeps it."""
    try:
        if temp.is_dir():
            # The one that makes the directory owns the name; a directory may be renamed over an empty one.
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
    "arrow": write_arrow,
    "safetensors": write_safetensors,
}
"""What can be written, and by what."""

FORMATS_WITH_IDS = frozenset({"parquet", "arrow"})
