"""FAISS indexes: made, extended, asked. They propose rows; `ranking` decides.

Nothing here is trusted with an answer, so rounding (PQ, SQ) costs recall and never a score.
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
"""With fewer, exact search is as quick, and quantizers have too little to be fitted to."""

TRAINED_ON_A_CENTROID = 64
"""Rows that a quantizer is fitted to, for each of its centroids; faiss wants 39 to 256."""

MIN_TRAINED_ON = 1 << 15
"""What scalar and product quantizers are fitted to, if there are as many."""


def build(design: Design, vectors: NDArray[Any]) -> Any:
    """Return a new index of all rows of (n, d) vectors.

    Raises:
        ConfigurationError: If the design does not suit so many dimensions.
    """
    faiss = require_faiss()
    rows, dimensions = vectors.shape
    metric = faiss.METRIC_L2 if design.metric == "l2" else faiss.METRIC_INNER_PRODUCT
    index = faiss.index_factory(dimensions, design.factory(dimensions, rows), metric)
    lists = getattr(index, "nlist", 1)
    for part in (index, getattr(index, "pq", index)):
        if hasattr(part, "cp"):
            part.cp.min_points_per_centroid = 1  # there are as many as there are: no warning on stderr
    if hasattr(index, "do_polysemous_training"):
        index.do_polysemous_training = False  # orders codes for a filter that is not used here, in most of the time
    if hasattr(index, "hnsw"):
        index.hnsw.efConstruction = int(design.shape["efConstruction"])
    if not index.is_trained:
        count = min(rows, max(MIN_TRAINED_ON, TRAINED_ON_A_CENTROID * lists))
        chosen = np.linspace(0, rows - 1, count).astype(np.int64)
        index.train(as_searched(vectors[chosen], design.metric))
    extend(index, design, vectors)
    return index


def extend(index: Any, design: Design, vectors: NDArray[Any]) -> None:
    """Add to an index the rows of (n, d) vectors that it does not cover yet: those from ``index.ntotal`` on."""
    step = block_rows(vectors.shape[1])
    for start in range(index.ntotal, len(vectors), step):
        index.add(as_searched(vectors[start : start + step], design.metric))


def propose(
    index: Any, design: Design, queries: NDArray[np.float32], k: int, among: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Return rows that may be nearest to each query.

    Args:
        index: From `build`.
        design: Its design.
        queries: (q, d), as `as_searched` makes them.
        k: How many will be asked for.
        among: Only these rows, ascending; None is all.

    Returns:
        (q, c) int64 with c >= k unless there are fewer rows; `ABSENT` where fewer were found.
    """
    faiss = require_faiss()
    count = min(k * design.search["k_factor"], index.ntotal)
    options: dict[str, Any] = {} if among is None else {"sel": _selector(faiss, among, index.ntotal)}
    if "efSearch" in design.search:
        # The graph is walked past rows that may not be chosen, so it has to be walked farther.
        share = 1 if among is None else index.ntotal / max(1, len(among))
        walked = round(max(design.search["efSearch"], count) * share)
        chosen = faiss.SearchParametersHNSW(efSearch=min(walked, index.ntotal), **options)
    else:
        chosen = faiss.SearchParametersIVF(nprobe=design.probes(index.nlist), **options)
    rows: NDArray[np.int64] = index.search(queries, count, params=chosen)[1]
    rows[(rows < 0) | (rows >= index.ntotal)] = ABSENT
    return rows


def is_sound(index: Any, design: Design, dimensions: int, rows: int) -> bool:
    """Whether an index that was read is of this design and covers so many rows."""
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
