"""`open_search`: nearest neighbours in a namespace of a mirror, with their keys, and with the ids of a view."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cas_cache.errors import ConfigurationError, MirrorError
from cas_cache.identity import EncoderSpec
from cas_cache.mirror import ids_in, keys_in
from cas_cache.mirror.index import ABSENT
from cas_cache.search.faiss_index import Design
from cas_cache.search.finder import Finder, checked_k
from cas_cache.search.rows import NamespaceRows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cas_cache.mirror import Mirror, Namespace, View

FOLDER = "faiss"
"""Folder of index files, beside a namespace's columns. Its contents can be deleted at any time."""

PACKED = ("binary", "ubinary")
"""Precisions whose numbers pack eight bits of a vector each, so that they cannot be compared as numbers."""


class Neighbours(NamedTuple):
    """Result of a search, for q queries and j neighbours: k, or the number of available rows if it is smaller.

    Attributes:
        scores: (q, j) float32, descending: cosine, inner product, or the negative Euclidean distance.
        rows: (q, j) int64, row numbers in the namespace.
        keys: (q, j, 32) uint8, the keys of these rows.
        positions: (q, j) int64, positions in the view; None without a view.
        ids: q lists of the j ids that the task gave these positions; None without a view, or if the task gave none.
    """

    scores: NDArray[np.float32]
    rows: NDArray[np.int64]
    keys: NDArray[np.uint8]
    positions: NDArray[np.int64] | None = None
    ids: list[list[str | None]] | None = None


class _Viewed(NamedTuple):
    """Rows of a view.

    Attributes:
        asked: The number of keys in the view.
        distinct: (u,) int64, its rows that the mirror has, ascending.
        positions: (p,) int64, positions in the view, ordered by row and ascending for each row.
        starts: (u + 1,) int64, the start of each row's positions in `positions`.
        ids: The ids, in the order of the view.
    """

    asked: int
    distinct: NDArray[np.int64]
    positions: NDArray[np.int64]
    starts: NDArray[np.int64]
    ids: list[str | None] | None


def open_search(
    mirror: Mirror,
    namespace: str | EncoderSpec,
    *,
    index: str | None = None,
    metric: str = "cosine",
    parameters: str = "",
    k_factor: int = 4,
) -> Searcher:
    """Open a search over a namespace's rows; build and save the index if it does not exist yet.

    Args:
        mirror: The mirror, for example ``EmbeddingCache(...).mirror``.
        namespace: The encoder spec of the vectors, or the id of their namespace.
        index: A FAISS index as its `index_factory` names it: ``"HNSW32"``, ``"IVF1024,PQ16"``. None is exact search.
        metric: ``"cosine"``, ``"ip"`` (inner product) or ``"l2"``.
        parameters: Parameters of a search in the index, as FAISS's `ParameterSpace` names them: ``"efSearch=128"``,
            ``"nprobe=32"``.
        k_factor: k_factor * k candidates of the index are ranked again by their stored vectors.

    Raises:
        MissingDependency: If faiss is not installed.
        ConfigurationError: If metric, index or a parameter is invalid, or these vectors cannot be searched.
        MirrorError: If the namespace is not in the mirror, or has no rows.
        DamagedMirror: If a row to be indexed does not match its digest.
    """
    design = Design(metric, index, parameters, k_factor)
    name = namespace.namespace if isinstance(namespace, EncoderSpec) else namespace
    ns = mirror.get(name)
    if ns is None:
        raise MirrorError(
            f"The namespace {name} is not in the mirror {mirror.directory}. `cas-cache ls` lists those that are; "
            "`cas-cache pull` fetches the others."
        )
    precision = ns.spec.params.get("precision")
    if precision in PACKED:
        raise ConfigurationError(
            f"The vectors of {name} are of precision {precision!r}: packed bits, not numbers that could be compared. "
            "Search the namespace of the float vectors."
        )
    return Searcher(mirror, ns, design)


class Searcher:
    """Finds nearest neighbours among a namespace's rows. Made by `open_search`.

    The next search also finds rows that other processes have committed. While a searcher is open, nothing is evicted
    from the namespace.

    Attributes:
        namespace: The namespace that is searched.
        design: Metric, index and parameters.
    """

    def __init__(self, mirror: Mirror, namespace: Namespace, design: Design) -> None:
        self.namespace = namespace
        self.design = design
        self._mirror = mirror
        self._viewed: dict[View, tuple[int, _Viewed]] = {}
        self._finder = Finder(NamespaceRows(namespace), design, namespace.folder / FOLDER)

    def __repr__(self) -> str:
        return f"Searcher({self.design!r}, {self.namespace!r})"

    @property
    def covered(self) -> int:
        """The number of first rows in the index, 0 without one. All other rows are searched exactly."""
        return self._finder.covered

    def update(self) -> None:
        """Extend the index over rows added since it was opened, if they are more than a sixteenth of all."""
        self._finder.update()

    def search(self, queries: Any, k: int = 10, *, view: View | None = None) -> Neighbours:
        """Return the nearest rows of each query, the best first; of equal rows the lower number comes first.

        Args:
            queries: (q, d), from the encoder that made the rows. A zero vector has the cosine 0 with every row.
            k: The number of neighbours; all rows, if there are fewer.
            view: Search only the rows that a task requested. An item that it requested twice has two positions with one
                row; both are found, each with its own id.

        Raises:
            ConfigurationError: If k is not a whole number of at least 1, a query is not finite, or the view belongs to
                another namespace.
            ShapeMismatch: If queries are not (q, d).
            DamagedMirror: If a row does not match its digest. Nothing is returned.
        """
        k = checked_k(k)
        if view is None:
            scores, rows = self._finder.find(queries, k)
            return Neighbours(scores, rows, self._keys(rows))
        viewed = self._rows_of(view)
        scores, rows = self._finder.find(queries, k, viewed.distinct)
        places = len(viewed.positions)
        scores, rows, positions = _placed(scores, rows, min(k, places), viewed)
        known = viewed.ids
        ids = None if known is None else [[known[place] for place in line] for line in positions.tolist()]
        return Neighbours(scores, rows, self._keys(rows), positions, ids)

    def _keys(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        keys: NDArray[np.uint8] = np.asarray(self.namespace.keys)[rows]
        return keys

    def _rows_of(self, view: View) -> _Viewed:
        """Return the rows of a view; read them again if the view or the namespace has grown."""
        if view.namespace != self.namespace.spec.namespace:
            raise ConfigurationError(
                f"The view of {view.task} is of the namespace {view.namespace}; this searches "
                f"{self.namespace.spec.namespace}. Open the search of that one."
            )
        folder = self._mirror.views.folder(view.task)
        keys, _ = keys_in(folder, view)
        self.namespace.refresh()
        known = self._viewed.get(view)
        if known is not None and known[0] == self.namespace.rows and known[1].asked == len(keys):
            return known[1]
        ids = ids_in(folder, view)
        count = self.namespace.rows
        rows = self.namespace.find(keys)
        places = np.flatnonzero(rows != ABSENT)
        if not len(places):
            raise MirrorError(
                f"No row of the view of {view.task} is in the mirror {self._mirror.directory}. Pull, or evaluate again."
            )
        order = np.argsort(rows[places], kind="stable")
        distinct, starts = np.unique(rows[places][order], return_index=True)
        viewed = _Viewed(len(keys), distinct, places[order], np.append(starts, len(places)), ids)
        self._viewed[view] = (count, viewed)
        return viewed


def _placed(
    scores: NDArray[np.float32], rows: NDArray[np.int64], k: int, viewed: _Viewed
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Give rows their positions in a view: a row with several positions is repeated for each, up to k results."""
    at = np.searchsorted(viewed.distinct, rows)
    if len(viewed.positions) == len(viewed.distinct):
        return scores, rows, viewed.positions[at]
    counts = viewed.starts[at + 1] - viewed.starts[at]
    chosen = np.empty((len(rows), k), np.int64)
    positions = np.empty((len(rows), k), np.int64)
    for line, each in enumerate(counts):
        column = np.repeat(np.arange(len(each)), each)[:k]
        within = (np.arange(each.sum()) - np.repeat(np.cumsum(each) - each, each))[:k]
        chosen[line] = column
        positions[line] = viewed.positions[viewed.starts[at[line, column]] + within]
    return np.take_along_axis(scores, chosen, axis=1), np.take_along_axis(rows, chosen, axis=1), positions
