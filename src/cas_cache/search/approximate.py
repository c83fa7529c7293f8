"""Build, extend and query FAISS indexes. They propose rows; `ranking` scores them.

Answers never depend on an index alone, so rounding (PQ, SQ) costs recall but never changes a score.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.search.exact import as_searched, block_rows, require_faiss
from cas_cache.search.ranking import ABSENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from cas_cache.search.design import Design

MIN_ROWS = 1024
"""Minimum rows for an index: with fewer, exact search is as fast and quantizers have too few rows to train on."""

TRAINED_ON_A_CENTROID = 64
"""Number of training rows per centroid of a quantizer; faiss wants 39 to 256."""

MIN_TRAINED_ON = 1 << 15
"""Minimum number of training rows for scalar and product quantizers, if there are as many."""


def build(design: Design, vectors: NDArray[Any]) -> Any:
    """Return a new index of all rows of (n, d) vectors.

    Raises:
        ConfigurationError: If the design does not fit this number of dimensions.
    """
    faiss = require_faiss()
    rows, dimensions = vectors.shape
    metric = faiss.METRIC_L2 if design.metric == "l2" else faiss.METRIC_INNER_PRODUCT
    index = faiss.index_factory(dimensions, design.factory(dimensions, rows), metric)
    lists = getattr(index, "nlist", 1)
    for part in (index, getattr(index, "pq", index)):
        if hasattr(part, "cp"):
            part.cp.min_points_per_centroid = 1  # train on what exists, without a warning on stderr
    if hasattr(index, "do_polysemous_training"):
        index.do_polysemous_training = False  # takes most of the time, and its filter is not used
    if hasattr(index, "hnsw"):
        index.hnsw.efConstruction = int(design.shape["efConstruction"])
    if not index.is_trained:
        count = min(rows, max(MIN_TRAINED_ON, TRAINED_ON_A_CENTROID * lists))
        chosen = np.linspace(0, rows - 1, count).astype(np.int64)
        index.train(as_searched(vectors[chosen], design.metric))
    extend(index, design, vectors)
    return index


def extend(index: Any, design: Design, vectors: NDArray[Any]) -> None:
    """Add the rows of (n, d) vectors that an index does not cover yet: those from ``index.ntotal`` on."""
    step = block_rows(vectors.shape[1])
    for start in range(index.ntotal, len(vectors), step):
        index.add(as_searched(vectors[start : start + step], design.metric))


def propose(
    index: Any, design: Design, queries: NDArray[np.float32], k: int, among: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Return rows that may be nearest to each query.

    Args:
        index: An index from `build`.
        design: The design of the index.
        queries: (q, d), prepared by `as_searched`.
        k: The number of neighbours that will be requested.
        among: Search only these rows, ascending; None searches all.

    Returns:
        (q, c) int64 with c >= k unless there are fewer rows; `ABSENT` where fewer were found.
    """
    faiss = require_faiss()
    count = min(k * design.search["k_factor"], index.ntotal)
    options: dict[str, Any] = {} if among is None else {"sel": _selector(faiss, among, index.ntotal)}
    if "efSearch" in design.search:
        # The graph is also walked through rows that must not be chosen, so the walk has to be longer.
        share = 1 if among is None else index.ntotal / max(1, len(among))
        walked = round(max(design.search["efSearch"], count) * share)
        chosen = faiss.SearchParametersHNSW(efSearch=min(walked, index.ntotal), **options)
    else:
        chosen = faiss.SearchParametersIVF(nprobe=design.probes(index.nlist), **options)
    rows: NDArray[np.int64] = index.search(queries, count, params=chosen)[1]
    rows[(rows < 0) | (rows >= index.ntotal)] = ABSENT
    return rows


def is_sound(index: Any, design: Design, dimensions: int, rows: int) -> bool:
    """Return True if an index that was read has this design and covers this number of rows."""
    faiss = require_faiss()
    metric = faiss.METRIC_L2 if design.metric == "l2" else faiss.METRIC_INNER_PRODUCT
    is_kind: Callable[[Any], bool] = (lambda index: hasattr(index, "hnsw")) if "M" in design.shape else _is_ivf
    return bool(index.d == dimensions and index.ntotal == rows and index.metric_type == metric and is_kind(index))


def _is_ivf(index: Any) -> bool:
    return hasattr(index, "nlist")


def _selector(faiss: Any, among: NDArray[np.int64], rows: int) -> Any:
    chosen = np.zeros(rows, np.bool_)
    chosen[among[among < rows]] = True
    return faiss.IDSelectorBitmap(np.packbits(chosen, bitorder="little"))
