"""Find nearest neighbours among rows: exactly, or by an index that is built once, saved, and extended.

Exact search fills the gaps of an index: rows that were added after it was saved, a small number or a small share of the
rows, and queries for which the index finds too few.
"""

from __future__ import annotations

import logging
import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.errors import ConfigurationError, MirrorError, ShapeMismatch
from cas_cache.format.rows import as_array
from cas_cache.mirror.index import ABSENT
from cas_cache.search import faiss_index
from cas_cache.search.exact import are_unit, as_searched, nearest, rank, require_faiss
from cas_cache.search.rows import check_searchable
from cas_cache.search.saved import IndexFiles

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from cas_cache.search.faiss_index import Design
    from cas_cache.search.rows import Rows

logger = logging.getLogger(__name__)

TAIL_SHARE = 1 / 16
"""An index that lacks more than this share of the rows is extended at opening; fewer rows are searched exactly."""

TRAINED_SHARE = 1 / 4
"""An index is trained again if it was trained on fewer rows than this share of all."""

SMALL_SHARE = 1 / 10
"""A smaller share of the rows is searched exactly, which costs at most a tenth of an exact search of all."""

MORE_OF_A_VIEW = 2
"""Times as many rows are proposed for a view as would be enough if it were spread evenly over all rows."""


class Finder:
    """Finds nearest neighbours among rows.

    Args:
        rows: The rows to search.
        design: Metric, index and parameters.
        folder: The folder that an index is saved in; None keeps it in memory.

    Raises:
        MissingDependency: If faiss is not installed.
        ConfigurationError: If rows of this dtype or shape cannot be searched, or not with this design.
        MirrorError: If there are no rows.
        DamagedMirror: If a row to be indexed does not match its digest.
    """

    def __init__(self, rows: Rows, design: Design, folder: Path | None = None) -> None:
        require_faiss()
        self._rows = rows
        self._design = design
        self._index: Any = None
        self._covered = 0
        self._unit = True
        self._unit_rows = 0
        vectors = rows.vectors
        check_searchable(vectors)
        if design.index is not None:
            faiss_index.new_index(design, vectors.shape[1])  # rejects what faiss cannot make, also for a few rows
        self._files = None if folder is None else IndexFiles(folder, design, vectors.shape[1])
        self.update()

    def __repr__(self) -> str:
        return f"Finder({self._design!r}, {self._rows!r})"

    @property
    def covered(self) -> int:
        """The number of first rows that the index covers; later rows are searched exactly."""
        return self._covered

    def update(self) -> None:
        """Open, build or extend the index, as the current number of rows requires."""
        vectors = self._rows.vectors
        rows = len(vectors)
        if self._design.index is None or rows < faiss_index.MIN_ROWS or _covers(rows, self._covered):
            return
        if self._files is None:
            self._build(vectors)
            return
        try:
            if self._open(rows):
                return
            with self._files.locked():
                if not self._open(rows):  # another process may have been faster
                    self._build_and_save(vectors, self._files)
        except OSError as err:
            if isinstance(err, MirrorError):
                raise
            logger.warning("The index of %r cannot be saved (%s); it is kept in memory", self._rows, err)
            if not _covers(rows, self._covered):
                self._build(vectors)

    def find(
        self, queries: Any, k: int | np.integer[Any], among: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the nearest rows of each query, the best first; of equal rows the lower number comes first.

        Args:
            queries: (q, d).
            k: The number of neighbours, at least 1.
            among: Search only these rows, ascending, each once; None searches all.

        Returns:
            (q, j) float32 scores, where larger is nearer (L2: the negative distance), and (q, j) int64 rows. j is k, or
            the number of rows if there are fewer.

        Raises:
            ConfigurationError: If k is not a whole number of at least 1, or a query is not finite.
            ShapeMismatch: If queries are not (q, d).
            DamagedMirror: If a row does not match its digest. Nothing is returned.
        """
        vectors = self._rows.vectors
        asked = checked_queries(queries, vectors.shape[1])
        k = min(checked_k(k), len(vectors) if among is None else len(among))
        if not k or not len(asked):
            return np.empty((len(asked), k), np.float32), np.empty((len(asked), k), np.int64)
        prepared = as_searched(asked, self._design.metric)
        if self._index is None or (among is not None and len(among) < SMALL_SHARE * len(vectors)):
            return self._rank(asked, self._exactly(prepared, vectors, k, among), k)
        scores, rows = self._rank(asked, self._search_index(prepared, vectors, k, among), k)
        short = np.flatnonzero((rows == ABSENT).any(axis=1))
        if len(short):
            candidates = self._exactly(prepared[short], vectors, k, among)
            scores[short], rows[short] = self._rank(asked[short], candidates, k)
        return scores, rows

    def _rank(
        self, queries: NDArray[Any], candidates: NDArray[np.int64], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        return rank(queries, candidates, k, self._design.metric, self._rows.take)

    def _open(self, rows: int) -> bool:
        """Use the saved index if it covers enough of all rows; return True if it does."""
        loaded = None if self._files is None else self._files.read(self._rows.fingerprint)
        if loaded is None or not _covers(rows, loaded[1].rows):
            return False
        self._index, self._covered = loaded[0], loaded[1].rows
        return True

    def _build(self, vectors: NDArray[Any]) -> None:
        """Build an index of all rows."""
        self._rows.verify(slice(0, len(vectors)))
        self._index, self._covered = faiss_index.build(self._design, vectors), len(vectors)

    def _build_and_save(self, vectors: NDArray[Any], files: IndexFiles) -> None:
        """Extend the saved index if possible, else build one; save it."""
        trained = self._extend_saved(vectors, files)
        if trained is None:
            self._build(vectors)
        fingerprint = self._rows.fingerprint(len(vectors))
        if fingerprint is not None:
            files.write(self._index, trained=trained or len(vectors), fingerprint=fingerprint)
            self._open(len(vectors))

    def _extend_saved(self, vectors: NDArray[Any], files: IndexFiles) -> int | None:
        """Add new rows to the saved index; return the number of rows it was trained on, None if it must be built."""
        loaded = files.read(self._rows.fingerprint, mapped=False)
        if loaded is None:
            return None
        index, saved = loaded
        needs_training = not faiss_index.new_index(self._design, vectors.shape[1]).is_trained
        if needs_training and saved.trained < TRAINED_SHARE * len(vectors):
            return None
        self._rows.verify(slice(saved.rows, len(vectors)))
        try:
            faiss_index.extend(index, self._design, vectors)
        except ConfigurationError as err:
            logger.info("The index of %r is built again (%s)", self._rows, err)
            return None
        self._index, self._covered = index, len(vectors)
        return saved.trained

    def _search_index(
        self, queries: NDArray[np.float32], vectors: NDArray[Any], k: int, among: NDArray[np.int64] | None
    ) -> NDArray[np.int64]:
        """Return candidates from the index and from the rows that it does not cover."""
        rows, count = len(vectors), k * self._design.k_factor
        if among is None:
            early = faiss_index.propose(self._index, queries, count)
            tail: NDArray[np.int64] | slice = slice(self._covered, rows)
            late_rows = rows - self._covered
        else:
            # faiss cannot restrict every kind of index, so more rows are proposed and the others removed.
            early = faiss_index.propose(self._index, queries, MORE_OF_A_VIEW * count * rows // len(among))
            early = _only(early, among, rows)[:, :count]
            tail = among[among >= self._covered]
            late_rows = len(tail)
        if not late_rows:
            return early
        self._rows.verify(tail)
        late = nearest(queries, vectors, min(k, late_rows), self._design.metric, rows=tail)
        return np.concatenate([early, late], axis=1)

    def _exactly(
        self, queries: NDArray[np.float32], vectors: NDArray[Any], k: int, among: NDArray[np.int64] | None
    ) -> NDArray[np.int64]:
        """Return the k nearest rows by comparing every row."""
        rows: NDArray[np.int64] | slice = slice(0, len(vectors))
        if among is not None:
            run = int(among[-1]) - int(among[0]) == len(among) - 1
            rows = slice(int(among[0]), int(among[-1]) + 1) if run else among
        self._rows.verify(rows)
        in_place = self._in_place(vectors)
        return nearest(queries, vectors, k, self._design.metric, rows=rows, in_place=in_place)

    def _in_place(self, vectors: NDArray[Any]) -> bool:
        """Return True if faiss can compare the rows as they are stored."""
        if vectors.dtype != np.float32 or not vectors.flags.c_contiguous:
            return False
        if self._design.metric != "cosine":
            return True
        if self._unit and self._unit_rows < len(vectors):
            self._unit = are_unit(vectors[self._unit_rows :])
            self._unit_rows = len(vectors)
        return self._unit


def _covers(rows: int, covered: int) -> bool:
    """Return True if an index of the first `covered` rows covers enough of all rows."""
    return 0 <= rows - covered <= TAIL_SHARE * rows


def _only(proposed: NDArray[np.int64], among: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """Return proposed rows that are in `among`, in their order, and then `ABSENT`."""
    wanted = np.zeros(rows + 1, np.bool_)  # the last place is that of ABSENT
    wanted[among] = True
    order = np.argsort(~wanted[proposed], axis=1, kind="stable")
    proposed = np.take_along_axis(proposed, order, axis=1)
    return np.where(wanted[proposed], proposed, ABSENT)


def checked_k(k: object) -> int:
    """Return a number of neighbours as an int.

    Raises:
        ConfigurationError: If it is not a whole number of at least 1.
    """
    try:
        count = 0 if isinstance(k, bool) else operator.index(k)  # type: ignore[arg-type]
    except TypeError:
        count = 0
    if count < 1:
        raise ConfigurationError(f"k is {k!r}; ask for at least 1 neighbour, as a whole number.")
    return count


def checked_queries(queries: Any, dimensions: int) -> NDArray[Any]:
    """Return queries as an array.

    Raises:
        InvalidEncoderOutput: If they are not an array.
        ShapeMismatch: If they are not (q, d).
        ConfigurationError: If they are not numbers, or one of them is NaN or infinite.
    """
    asked = as_array(queries)
    if asked.ndim != 2 or asked.shape[1] != dimensions:
        raise ShapeMismatch(
            f"Queries of shape {asked.shape} cannot be compared with vectors of {dimensions} dimensions. Pass an array "
            f"of shape (n, {dimensions}), by the encoder that made the vectors."
        )
    if asked.dtype.kind not in "fiu":
        raise ConfigurationError(f"Queries of {asked.dtype} are not vectors of numbers.")
    with np.errstate(over="ignore"):
        finite = np.isfinite(asked.astype(np.float32)).all(axis=1)
    if not finite.all():
        raise ConfigurationError(
            f"Query {int(np.flatnonzero(~finite)[0])} holds NaN or infinity, or what is that in float32: it has no "
            "neighbours. Leave it out."
        )
    return asked
