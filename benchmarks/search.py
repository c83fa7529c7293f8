"""Cost of searching a mirror, compared with plain faiss on an array in memory.

    python benchmarks/search.py [--rows 500000] [--dimensions 384] [--queries 1000] [--k 10]

Exact: `faiss.knn` on the same rows in memory; the rows have unit length, so neither side converts anything. HNSW: a
plain `IndexHNSWFlat` with the same parameters and rows, by its recall@k and queries a second, with all queries in one
call and one at a time. cas_cache verifies rows by their digests before it first serves them; that is measured
separately ("first"), as are building and reopening. Rows lie in clusters, as embeddings do. Best of five. Prints a
table and, as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

from cas_cache.identity import EncoderSpec
from cas_cache.mirror import Mirror
from cas_cache.search import open_search

if TYPE_CHECKING:
    from collections.abc import Callable

SPEC = EncoderSpec(model="bench/search", revision="1")
APPENDED_AT_ONCE = 50_000
ROUNDS = 5
SINGLE_QUERIES = 100
SHAPE = {"M": 32, "efConstruction": 200}
EF_SEARCH = 64


def unit_rows(seed: int, rows: int, dimensions: int) -> Any:
    """Return (rows, dimensions) float32 of unit length, in 1,000 clusters."""
    centers = np.random.default_rng(0).standard_normal((1000, dimensions), dtype=np.float32)
    random = np.random.default_rng(seed)
    made = centers[random.integers(0, len(centers), rows)]
    made += random.standard_normal((rows, dimensions), dtype=np.float32)
    faiss.normalize_L2(made)
    return made


def seconds_of(function: Callable[[], Any]) -> tuple[float, Any]:
    """Return the duration of a call, and its result."""
    started = time.perf_counter()
    answer = function()
    return time.perf_counter() - started, answer


def best_of(*functions: Callable[[], Any]) -> list[float]:
    """Return the minimum duration of each function. Rounds alternate, so that a busy moment affects all of them."""
    times = [[seconds_of(function)[0] for function in functions] for _ in range(ROUNDS)]
    return [min(each) for each in zip(*times, strict=True)]


def one_by_one(search: Callable[[Any], Any], queries: Any) -> Callable[[], None]:
    """Return a function that searches for each of the first queries in a call of its own."""

    def ask() -> None:
        for at in range(min(SINGLE_QUERIES, len(queries))):
            search(queries[at : at + 1])

    return ask


def recall(found: Any, truth: Any) -> float:
    """Return the share of the true neighbours that were found."""
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), truth.tolist(), strict=True)]))


def exact(directory: str, rows: Any, queries: Any, k: int) -> tuple[dict[str, float], Any]:
    """Measure exact search by the inner product and by cosine."""
    result: dict[str, float] = {}

    def plain() -> Any:
        return faiss.knn(queries, rows, k, faiss.METRIC_INNER_PRODUCT)[1]

    truth = plain()
    for metric in ("ip", "cosine"):
        searcher = open_search(Mirror(directory, create=False), SPEC, metric=metric)
        result[f"{metric}_first_seconds"], found = seconds_of(lambda searcher=searcher: searcher.search(queries, k))
        assert recall(found.rows, truth) > 0.999
        theirs, ours = best_of(plain, lambda searcher=searcher: searcher.search(queries, k))
        result |= {f"{metric}_knn_seconds": theirs, f"{metric}_seconds": ours, f"{metric}_ratio": ours / theirs}
    return result, truth


def hnsw(directory: str, rows: Any, queries: Any, k: int, truth: Any) -> dict[str, float]:
    """Measure HNSW by cosine, which for unit rows is the inner product."""
    plain = faiss.IndexHNSWFlat(rows.shape[1], SHAPE["M"], faiss.METRIC_INNER_PRODUCT)
    plain.hnsw.efConstruction, plain.hnsw.efSearch = SHAPE["efConstruction"], EF_SEARCH
    their_build, _ = seconds_of(lambda: plain.add(rows))
    options: Any = {"index": f"HNSW{SHAPE['M']}", "parameters": f"efSearch={EF_SEARCH}", "k_factor": 1}
    our_build, built = seconds_of(lambda: open_search(Mirror(directory, create=False), SPEC, **options))
    del built
    opening, searcher = seconds_of(lambda: open_search(Mirror(directory, create=False), SPEC, **options))
    first, found = seconds_of(lambda: searcher.search(queries, k))
    theirs, ours = best_of(lambda: plain.search(queries, k), lambda: searcher.search(queries, k))
    their_single, our_single = best_of(
        one_by_one(lambda query: plain.search(query, k), queries),
        one_by_one(lambda query: searcher.search(query, k), queries),
    )
    single = min(SINGLE_QUERIES, len(queries))
    return {
        "hnsw_plain_recall": recall(plain.search(queries, k)[1], truth),
        "hnsw_recall": recall(found.rows, truth),
        "hnsw_plain_queries_a_second": len(queries) / theirs,
        "hnsw_queries_a_second": len(queries) / ours,
        "hnsw_plain_single_queries_a_second": single / their_single,
        "hnsw_single_queries_a_second": single / our_single,
        "hnsw_plain_build_seconds": their_build,
        "hnsw_build_and_save_seconds": our_build,
        "hnsw_open_seconds": opening,
        "hnsw_first_seconds": first,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--k", type=int, default=10)
    arguments = parser.parse_args()
    rows = unit_rows(1, arguments.rows, arguments.dimensions)
    queries = unit_rows(2, arguments.queries, arguments.dimensions)
    keys = np.frombuffer(np.random.default_rng(3).bytes(32 * len(rows)), np.uint8).reshape(-1, 32)
    with tempfile.TemporaryDirectory() as directory:
        namespace = Mirror(directory).namespace(SPEC)
        for start in range(0, len(rows), APPENDED_AT_ONCE):
            part = slice(start, start + APPENDED_AT_ONCE)
            namespace.append(keys[part], rows[part])
        del namespace
        exactly, truth = exact(directory, rows, queries, arguments.k)
        nearly = hnsw(directory, rows, queries, arguments.k, truth)
    result: dict[str, float] = {**vars(arguments), **exactly, **nearly}
    for measured, value in result.items():
        print(f"{measured:<40}{value:>14,.4g}" if isinstance(value, float) else f"{measured:<40}{value:>14,}")
    print(json.dumps({name: round(value, 5) for name, value in result.items()}))


if __name__ == "__main__":
    main()
