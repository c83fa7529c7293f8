"""Find nearest neighbours among rows: exactly, or by an index that is built once, saved, and extended.

Exact search fills the gaps of an index: rows that were added after it was saved, a small number or a small share of the
rows, and queries for which the index finds too few.
"""

from __future__ import annotations

import hashlib
import logging
import operator
import weakref
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cas_cache.errors import ConfigurationError, MirrorError, ShapeMismatch
from cas_cache.format.rows import as_array
from cas_cache.search import approximate
from cas_cache.search.exact import are_unit, as_searched, nearest, require_faiss
from cas_cache.search.ranking import ABSENT, rank
from cas_cache.search.saved import IndexFiles

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from cas_cache.mirror import Namespace
    from cas_cache.search.design import Design

logger = logging.getLogger(__name__)

SEARCHED_DTYPES = ("float16", "float32", "float64", "int8", "uint8")
"""Dtypes of vectors that can be compared as numbers."""

TAIL_SHARE = 1 / 16
"""An index that lacks more than this share of the rows is extended at opening; fewer rows are searched exactly."""

TRAINED_SHARE = 1 / 4
"""An index is trained again if it was trained on fewer rows than this share of all."""

SMALL_SHARE = 1 / 10
"""A smaller share of the rows is searched exactly, which costs at most a tenth of an exact search of all."""


class Rows(Protocol):
    """Rows that can be searched."""

    @property
    def vectors(self) -> NDArray[Any]:
        """The current vectors, (n, d); may be a memory map."""

    def verify(self, rows: NDArray[np.int64] | slice) -> None:
        """Verify rows; raise `DamagedMirror` if one differs from what was stored."""

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return the verified vectors of rows."""

    def fingerprint(self, count: int) -> str | None:
        """Return a string that identifies the first `count` rows; None if there are fewer."""


class NamespaceRows:
    """Rows of a namespace of the mirror. They keep their row numbers while this object lives."""

    def __init__(self, namespace: Namespace) -> None:
        namespace.hold()
        weakref.finalize(self, namespace.release).atexit = False
        self._namespace = namespace
        self.verify = namespace.verify
        self.take = namespace.take

    def __repr__(self) -> str:
        return f"NamespaceRows({self._namespace!r})"

    @property
    def vectors(self) -> NDArray[Any]:
        """Mapped vectors, (n, d), including rows that other processes have committed."""
        ns = self._namespace
        ns.refresh()
        if not ns.rows:
            raise MirrorError(
                f"The namespace {ns.spec.namespace} ({ns.spec.model}) holds no rows to search. Pull, or encode first."
            )
        return next(ns.columns(ns.rows))[2]

    def fingerprint(self, count: int) -> str | None:
        """Return a hash of the rows' digests, which cover keys and vectors; None if there are fewer rows."""
        if not 0 < count <= self._namespace.rows:
            return None
        digests = next(self._namespace.columns(count))[3]
        return hashlib.sha256(np.ascontiguousarray(digests).data).hexdigest()


class ArrayRows:
    """Rows of an array, which must not change."""

    def __init__(self, vectors: NDArray[Any]) -> None:
        self.vectors = vectors
        self._fingerprints: dict[int, str] = {}

    def __repr__(self) -> str:
        return f"ArrayRows({self.vectors.dtype}, {self.vectors.shape})"

    def verify(self, rows: NDArray[np.int64] | slice) -> None:
        """Do nothing: an array in memory has no digests to verify."""

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return the (n, d) vectors of (n,) rows."""
        taken: NDArray[Any] = self.vectors[rows]
        return taken

    def fingerprint(self, count: int) -> str | None:
        """Return a hash of the first rows' bytes; None if there are fewer rows."""
        if not 0 < count <= len(self.vectors):
            return None
        if count not in self._fingerprints:
            first = np.ascontiguousarray(self.vectors[:count])
            header = f"{first.dtype.str} {first.shape} ".encode()
            self._fingerprints[count] = hashlib.sha256(header + hashlib.sha256(first.data).digest()).hexdigest()
        return self._fingerprints[count]


class Finder:
    """Finds nearest neighbours among rows.

    Args:
        rows: The rows to search.
        design: Metric, kind and parameters.
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
        self._files = None if folder is None else IndexFiles(folder, design, vectors.shape[1])
        self.update()

    def __repr__(self) -> str:
        return f"Finder({self._design.metric}, {self._design.kind}, {self._rows!r})"

    @property
    def covered(self) -> int:
        """The number of first rows that the index covers; later rows are searched exactly."""
        return self._covered

    def update(self) -> None:
        """Open, build or extend the index, as the current number of rows requires."""
        vectors = self._rows.vectors
        if self._design.kind == "exact" or len(vectors) < approximate.MIN_ROWS:
            return
        if self._index is not None and self._covers(len(vectors), self._covered):
            return
        loaded = None if self._files is None else self._files.read(self._rows.fingerprint)
        if loaded is not None and self._covers(len(vectors), loaded[1].rows):
            self._index, self._covered = loaded[0], loaded[1].rows
            return
        if self._files is None:
            self._build(vectors)
            return
        try:
            with self._files.locked():
                self._build(vectors)
        except OSError as err:
            if isinstance(err, MirrorError):
                raise
            logger.warning("The index of %r cannot be saved (%s); it is kept in memory", self._rows, err)
            if self._index is None or not self._covers(len(vectors), self._covered):
                self._build(vectors, save=False)

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
        small = among is not None and len(among) < SMALL_SHARE * len(vectors)
        if self._index is None or small:
            candidates = self._exactly(prepared, vectors, k, among)
            return rank(asked, candidates, k, self._design.metric, self._rows.take)
        scores, rows = rank(
            asked, self._search_index(prepared, vectors, k, among), k, self._design.metric, self._rows.take
        )
        short = np.flatnonzero((rows == ABSENT).any(axis=1))
        if len(short):
            candidates = self._exactly(prepared[short], vectors, k, among)
            scores[short], rows[short] = rank(asked[short], candidates, k, self._design.metric, self._rows.take)
        return scores, rows

    def _covers(self, rows: int, covered: int) -> bool:
        """Return True if an index of the first `covered` rows covers enough of all rows."""
        return 0 <= rows - covered <= TAIL_SHARE * rows

    def _build(self, vectors: NDArray[Any], *, save: bool = True) -> None:
        """Build an index of all rows, by extending the saved one if possible."""
        rows = len(vectors)
        loaded = self._files.read(self._rows.fingerprint, mapped=False) if self._files is not None else None
        trained = rows
        if loaded is not None and (not self._design.is_trained or loaded[1].trained >= TRAINED_SHARE * rows):
            index, saved = loaded
            if self._covers(rows, saved.rows):  # another process was faster
                self._index, self._covered = index, saved.rows
                return
            trained = saved.trained
            self._rows.verify(slice(saved.rows, rows))
            approximate.extend(index, self._design, vectors)
        else:
            self._rows.verify(slice(0, rows))
            index = approximate.build(self._design, vectors)
        self._index, self._covered = index, rows
        if self._files is None or not save:
            return
        fingerprint = self._rows.fingerprint(rows)
        if fingerprint is not None:
            self._files.write(index, trained=trained, fingerprint=fingerprint)
            mapped = self._files.read(self._rows.fingerprint)
            self._index = index if mapped is None else mapped[0]

    def _search_index(
        self, queries: NDArray[np.float32], vectors: NDArray[Any], k: int, among: NDArray[np.int64] | None
    ) -> NDArray[np.int64]:
        """Return candidates from the index and from the rows that it does not cover."""
        early = approximate.propose(self._index, self._design, queries, k, among)
        rows = len(vectors)
        tail: NDArray[np.int64] | slice = slice(self._covered, rows)
        count = rows - self._covered
        if among is not None:
            tail = among[among >= self._covered]
            count = len(tail)
        if not count:
            return early
        self._rows.verify(tail)
        late = nearest(queries, vectors, min(k, count), self._design.metric, rows=tail)
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


def check_searchable(vectors: NDArray[Any]) -> None:
    """Reject rows that have no distance to a query.

    Raises:
        ConfigurationError: If they are not (n, d), or their dtype is not in `SEARCHED_DTYPES`.
    """
    if vectors.ndim != 2:
        raise ConfigurationError(
            f"A vector of this namespace has the shape {vectors.shape[1:]}; only plain vectors of one dimension can "
            "be searched."
        )
    if vectors.dtype.name not in SEARCHED_DTYPES:
        raise ConfigurationError(
            f"Vectors of {vectors.dtype} cannot be searched; of {', '.join(SEARCHED_DTYPES)} they can. Search the "
            "namespace of the float vectors."
        )


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
