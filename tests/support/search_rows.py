"""Rows in clusters, as embeddings lie, and what is nearest to what, by numpy in float64."""

from pathlib import Path
from typing import Any

import numpy as np

from cas_cache.identity import EncoderSpec, keys_of_texts
from cas_cache.mirror import Mirror, Namespace

SPEC = EncoderSpec(model="org/model", revision="a1b2c3d", role="document")
DIMENSIONS = 24
INDEXES = ["HNSW32", "HNSW16,SQ8", "IVF64,Flat", "IVF64,SQ4", "IVF64,PQ6", "PCA16,IVF32,SQ8"]
"""FAISS indexes, as its `index_factory` names them: graphs, inverted files, quantizers, and a transform before one."""


def texts(count: int, first: int = 0) -> list[str]:
    return [f"text {i}" for i in range(first, first + count)]


def vectors(count: int, first: int = 0, *, dtype: str = "float32", seed: int = 0) -> Any:
    """Rows `first` and on of an endless list of (count, 24) vectors; their lengths differ."""
    random = np.random.default_rng([seed, first])
    centers = np.random.default_rng([seed, 10**9]).standard_normal((40, DIMENSIONS))
    rows = centers[random.integers(0, len(centers), count)] + 0.6 * random.standard_normal((count, DIMENSIONS))
    rows *= random.uniform(0.5, 2, (count, 1))
    return (
        np.clip(rows * 20, 0 if dtype == "uint8" else -120, 120).astype(dtype) if "int" in dtype else rows.astype(dtype)
    )


def unit(rows: Any) -> Any:
    return rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True).astype(rows.dtype)


def filled(directory: Path, rows: Any, spec: EncoderSpec = SPEC, first: int = 0) -> Namespace:
    """Return the namespace of a mirror, with these rows more in it."""
    ns = Mirror(directory).namespace(spec)
    ns.append(keys_of_texts(texts(len(rows), first)), rows)
    return ns


def true_scores(queries: Any, rows: Any, metric: str) -> Any:
    """(q, n) float64, larger is nearer."""
    queries, rows = queries.astype(np.float64), rows.astype(np.float64)
    if metric == "l2":
        return -np.sqrt(((queries[:, None, :] - rows[None]) ** 2).sum(axis=2))
    products = queries @ rows.T
    if metric == "cosine":
        products = products / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(rows, axis=1)
    return products


def check_truth(found: Any, queries: Any, rows: Any, metric: str) -> None:
    """Assert that every row that was found has its own key, its true score, and comes once, in order."""
    truth = true_scores(queries, rows, metric)
    np.testing.assert_allclose(found.scores, np.take_along_axis(truth, found.rows, axis=1), rtol=2e-6, atol=2e-6)
    assert (np.diff(found.scores, axis=1) <= 0).all()
    assert all(len(set(line)) == len(line) for line in found.rows.tolist())


def recall(found: Any, queries: Any, rows: Any, metric: str) -> float:
    """The share of the true neighbours that were found."""
    best = np.argsort(-true_scores(queries, rows, metric), axis=1)[:, : found.rows.shape[1]]
    return float(
        np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(found.rows.tolist(), best.tolist(), strict=True)])
    )


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Damage a file; a negative offset counts from its end."""
    with path.open("r+b") as file:
        file.seek(offset, 2 if offset < 0 else 0)
        file.write(data)
