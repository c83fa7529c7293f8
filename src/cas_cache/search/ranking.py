"""Compute the scores of candidates from the stored rows. Every search returns these scores, however rows were found.

Scores are computed in float64, one pair at a time, so that a score depends on the two vectors only: not on the index,
the number of threads, or other queries of the call. Larger is nearer, for every metric.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

ABSENT = -1
"""Row number that marks a place without a candidate."""

PAIRS_BYTES = 32 << 20
"""Bytes of float64 vectors that are scored at a time."""


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
    across = max(1, min(candidates.shape[1], PAIRS_BYTES // (8 * max(1, queries.shape[1]))))
    down = max(1, PAIRS_BYTES // (8 * max(1, queries.shape[1]) * across))
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
