"""Exact search and exact scores.

`nearest` compares every row with every query, by `faiss.knn`, with bounded memory. `rank` computes the scores that
every search returns, however rows were found: in float64, one pair at a time, so that a score depends on the two
vectors only: not on the index, the number of threads, or other queries of the call. Larger is nearer, for every metric.

float32 rows are read in place, without a copy, for the inner product and L2, and for cosine if all of them have unit
length, as with most encoders. Other rows are converted, and normalised for cosine, a block at a time.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.errors import MissingDependency
from cas_cache.mirror.index import ABSENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

METRICS = ("cosine", "ip", "l2")
"""Cosine similarity, inner product, Euclidean distance."""

BLOCK_BYTES = 32 << 20
"""Bytes of a block of vectors: small beside any matrix that is slow to search, large enough for matrix products."""

UNIT_TOLERANCE = 1e-6
"""Maximum deviation from 1 of a unit vector's squared length: 8 ulp of float32, because products are rounded."""


def require_faiss() -> Any:
    """Return the faiss package.

    Raises:
        MissingDependency: If faiss is not installed.
    """
    try:
        import faiss
    except ImportError as err:
        raise MissingDependency.of_package("Searching", "faiss-cpu") from err
    return faiss


def _use_one_thread() -> None:
    """Use one thread in a forked process, because the threads of its parent's OpenMP pool do not exist in it.

    A parallel region would wait for them forever. Rows and scores do not depend on the number of threads.
    """
    faiss = sys.modules.get("faiss")
    if faiss is not None:
        faiss.omp_set_num_threads(1)


os.register_at_fork(after_in_child=_use_one_thread)


def faiss_metric(metric: str) -> Any:
    """Return faiss's metric for one of `METRICS`."""
    faiss = require_faiss()
    return faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT


def block_rows(dimensions: int) -> int:
    """Return the number of rows in a block."""
    return max(1, BLOCK_BYTES // (4 * dimensions))


def as_searched(vectors: NDArray[Any], metric: str) -> NDArray[np.float32]:
    """Return vectors in the form that faiss needs: float32, C-contiguous, for cosine of unit length (zeros stay zeros).

    Args:
        vectors: (n, d).
        metric: One of `METRICS`.

    Returns:
        (n, d). For cosine always a copy.
    """
    if metric != "cosine":
        return np.ascontiguousarray(vectors, np.float32)
    # In float64, the square of a float16 or float32 number neither underflows nor overflows.
    wide = vectors.astype(np.float64)
    lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    wide /= np.where(lengths > 0, lengths, 1)[:, None]
    return wide.astype(np.float32)


def are_unit(vectors: NDArray[Any]) -> bool:
    """Return True if all of (n, d) vectors have unit length, within the precision of float32."""
    step = block_rows(vectors.shape[1])
    for start in range(0, len(vectors), step):
        block = vectors[start : start + step].astype(np.float64)
        if (np.abs(np.einsum("ij,ij->i", block, block) - 1) > UNIT_TOLERANCE).any():
            return False
    return True


def nearest(
    queries: NDArray[np.float32],
    vectors: NDArray[Any],
    k: int,
    metric: str,
    *,
    rows: NDArray[np.int64] | slice | None = None,
    in_place: bool = False,
) -> NDArray[np.int64]:
    """Return the nearest rows of each query, the best first.

    Args:
        queries: (q, d), prepared by `as_searched`.
        vectors: (n, d), of any numeric dtype; a memory map is not loaded.
        k: The number of neighbours; at most the number of rows that are searched.
        metric: One of `METRICS`.
        rows: Search only these rows, ascending; None searches all.
        in_place: True if `as_searched` would not change `vectors`.

    Returns:
        (q, k) int64. Ranked in float32: rows whose scores differ by less than its rounding may be in either order.
    """
    faiss = require_faiss()
    first = rows.start if isinstance(rows, slice) else 0
    if isinstance(rows, slice) or rows is None:
        vectors = vectors if rows is None else vectors[rows]
        if in_place:
            positions: NDArray[np.int64] = faiss.knn(queries, vectors, k, faiss_metric(metric))[1]
            return positions + first
        chosen = None
    else:
        chosen = rows
    count, step = len(vectors) if chosen is None else len(chosen), block_rows(vectors.shape[1])
    best, at = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    for start in range(0, count, step):
        part: Any = slice(start, min(start + step, count))
        block = as_searched(vectors[part if chosen is None else chosen[part]], metric)
        scores, where = faiss.knn(queries, block, min(k, len(block)), faiss_metric(metric))
        best, at = _merge(best, at, scores if metric == "l2" else -scores, where + start, k)
    return at + first if chosen is None else chosen[at]


def _merge(
    best: NDArray[np.float32], at: NDArray[np.int64], scores: NDArray[np.float32], where: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the k smallest entries of two lists per query, in order."""
    best, at = np.concatenate([best, scores], axis=1), np.concatenate([at, where], axis=1)
    order = np.argsort(best, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(best, order, axis=1), np.take_along_axis(at, order, axis=1)


def rank(
    queries: NDArray[Any],
    candidates: NDArray[np.int64],
    k: int,
    metric: str,
    take: Callable[[NDArray[np.int64]], NDArray[Any]],
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the best k candidates of each query, the best first; of equal candidates the lower row comes first.

    Args:
        queries: (q, d), as the caller gave them.
        candidates: (q, c) int64, rows or `ABSENT`. A repeated row counts once.
        k: The number of candidates to return.
        metric: One of `METRICS`.
        take: Returns the (n, d) vectors of (n,) int64 rows, or raises if one cannot be trusted.

    Returns:
        (q, k) float32 scores and (q, k) int64 rows; -inf and `ABSENT` where there are too few candidates.
    """
    scores = np.full(candidates.shape, -np.inf)
    wide = queries.astype(np.float64)
    lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    across = max(1, min(candidates.shape[1], BLOCK_BYTES // (8 * max(1, queries.shape[1]))))
    down = max(1, BLOCK_BYTES // (8 * max(1, queries.shape[1]) * across))
    for top in range(0, len(queries), down):
        query_part = slice(top, top + down)
        for offset in range(0, candidates.shape[1], across):
            candidate_part = slice(offset, offset + across)
            block = candidates[query_part, candidate_part]
            known = block != ABSENT
            if known.all():
                vectors = take(block.ravel())
            elif known.any():
                # A place without a candidate borrows another row's vector; its score is then replaced by -inf.
                vectors = take(np.where(known, block, block[known][0]).ravel())
            else:
                continue
            part_scores = _scores(
                wide[query_part], lengths[query_part], vectors.reshape(*block.shape, -1).astype(np.float64), metric
            )
            scores[query_part, candidate_part] = np.where(known, part_scores, -np.inf)
    return _best(scores, candidates, k)


def _scores(
    queries: NDArray[np.float64], lengths: NDArray[np.float64], vectors: NDArray[np.float64], metric: str
) -> NDArray[np.float64]:
    """Return the (q, c) scores of (q, d) queries and (q, c, d) vectors."""
    if metric == "l2":
        vectors -= queries[:, None, :]
        squares: NDArray[np.float64] = np.einsum("qcd,qcd->qc", vectors, vectors)
        return -np.sqrt(squares)
    # einsum adds the same terms in the same order for every pair, so scores are reproducible; a BLAS product does not.
    products: NDArray[np.float64] = np.einsum("qcd,qd->qc", vectors, queries)
    if metric == "cosine":
        both = lengths[:, None] * np.sqrt(np.einsum("qcd,qcd->qc", vectors, vectors))
        products /= np.where(both > 0, both, 1)
    return products


def _best(
    scores: NDArray[np.float64], rows: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    order = np.lexsort((rows, -scores), axis=-1)
    scores, rows = np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)
    # Equal rows have equal scores, so sorting puts repeats side by side.
    repeated = np.zeros(rows.shape, np.bool_)
    repeated[:, 1:] = (rows[:, 1:] == rows[:, :-1]) & (rows[:, 1:] != ABSENT)
    if repeated.any():
        return _best(np.where(repeated, -np.inf, scores), np.where(repeated, ABSENT, rows), k)
    short = max(0, k - rows.shape[1])
    scores = np.pad(scores, ((0, 0), (0, short)), constant_values=-np.inf)
    rows = np.pad(rows, ((0, 0), (0, short)), constant_values=ABSENT)
    return scores[:, :k].astype(np.float32), rows[:, :k]
