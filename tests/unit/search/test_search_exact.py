"""Exact search finds what numpy finds, from any dtype, and refuses what has no neighbours."""

import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from cas_cache.errors import (
    ConfigurationError,
    DamagedMirror,
    InvalidEncoderOutput,
    MirrorError,
    MissingDependency,
    ShapeMismatch,
)
from cas_cache.identity import EncoderSpec, keys_of_texts
from cas_cache.mirror import Mirror
from cas_cache.search import METRICS, exact, open_search
from cas_cache.search.exact import rank
from search_rows import (
    DIMENSIONS,
    SPEC,
    check_truth,
    filled,
    overwrite,
    recall,
    texts,
    true_scores,
    unit,
    vectors,
)

QUERIES = vectors(7, 10**6)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int8", "uint8"])
@pytest.mark.parametrize("metric", METRICS)
def test_finds_what_numpy_finds(tmp_path: Path, metric: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rows in the same order, with their keys, one block or many."""
    rows = vectors(700, dtype=dtype)
    filled(tmp_path, rows)
    for block in (exact.BLOCK_BYTES, 4 * DIMENSIONS * 64):
        monkeypatch.setattr(exact, "BLOCK_BYTES", block)
        found = open_search(Mirror(tmp_path), SPEC, metric=metric).search(QUERIES, 12)
        assert found.scores.shape == found.rows.shape == (7, 12)
        assert (found.scores.dtype, found.rows.dtype) == (np.float32, np.int64)
        check_truth(found, QUERIES, rows, metric)
        assert recall(found, QUERIES, rows, metric) == 1
        assert_array_equal(found.keys, keys_of_texts(texts(700))[found.rows])


def test_unit_rows_are_searched_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By cosine too: no row is converted or copied; with one longer row all are, and what is found is right."""
    rows = unit(vectors(900))
    ns = filled(tmp_path, rows)
    searcher = open_search(Mirror(tmp_path), SPEC)
    converted: list[int] = []
    convert = exact.as_searched
    monkeypatch.setattr(
        exact, "as_searched", lambda block, metric: converted.append(len(block)) or convert(block, metric)
    )
    check_truth(searcher.search(QUERIES, 5), QUERIES, rows, "cosine")
    assert converted == []
    ns.append(keys_of_texts(texts(1, 900)), 3 * QUERIES[:1])
    found = searcher.search(QUERIES, 5)
    assert converted == [901]
    assert found.rows[0, 0] == 900
    check_truth(found, QUERIES, np.concatenate([rows, 3 * QUERIES[:1]]), "cosine")


@pytest.mark.verify
def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows in place cost nothing, converted ones a few blocks, however many there are."""
    count, wide = 40_000, 512
    rows = np.random.default_rng(0).standard_normal((count, wide)).astype(np.float32)
    filled(tmp_path, rows)
    del rows
    queries = np.ones((2, wide), np.float32)
    monkeypatch.setattr(exact, "BLOCK_BYTES", 1 << 20)
    for metric, most in (("ip", 1 << 20), ("cosine", 8 << 20)):
        searcher = open_search(Mirror(tmp_path), SPEC, metric=metric)
        searcher.namespace.verify(slice(0, count))
        searcher.search(queries, 3)
        tracemalloc.start()
        searcher.search(queries, 3)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < most, metric


def test_scores_do_not_depend_on_the_company(tmp_path: Path) -> None:
    """One query alone, among many, or with more neighbours: the same bits."""
    filled(tmp_path, vectors(500))
    searcher = open_search(Mirror(tmp_path), SPEC)
    many = vectors(60, 77)
    together = searcher.search(many, 20)
    for at in (0, 31, 59):
        alone = searcher.search(many[at : at + 1], 5)
        assert_array_equal(alone.scores[0], together.scores[at, :5])
        assert_array_equal(alone.rows[0], together.rows[at, :5])


def test_equal_rows_come_in_their_order(tmp_path: Path) -> None:
    """Of rows with one score the lower is first, whatever faiss makes of them."""
    rows = np.tile(vectors(3), (40, 1))
    filled(tmp_path, rows)
    found = open_search(Mirror(tmp_path), SPEC).search(rows[:1], 40)
    assert found.rows[0].tolist() == list(range(0, 120, 3))
    assert len(set(found.scores[0].tolist())) == 1


def test_zeros_have_the_cosine_zero(tmp_path: Path) -> None:
    """With every query, and as a query with every row: as in mteb and sentence-transformers."""
    rows = vectors(5)
    rows[2] = 0
    filled(tmp_path, rows)
    found = open_search(Mirror(tmp_path), SPEC).search(np.concatenate([QUERIES[:1], np.zeros((1, DIMENSIONS))]), 5)
    assert found.scores[0][found.rows[0] == 2].tolist() == [0]
    assert found.scores[1].tolist() == [0] * 5


def test_rows_that_others_commit_are_found(tmp_path: Path) -> None:
    """By the next search, without opening anything again."""
    filled(tmp_path, vectors(300))
    searcher = open_search(Mirror(tmp_path), SPEC, metric="l2")
    searcher.search(QUERIES, 1)
    filled(tmp_path, QUERIES, first=300)
    found = searcher.search(QUERIES, 1)
    assert found.rows[:, 0].tolist() == list(range(300, 307))
    assert found.scores[:, 0].tolist() == [0] * 7


@pytest.mark.parametrize("metric", METRICS)
def test_damage_is_an_error_not_a_neighbour(tmp_path: Path, metric: str) -> None:
    """Also where it would make a row farther, so that another was shown in its place."""
    rows = vectors(400)
    ns = filled(tmp_path, rows)
    nearest = int(np.argmax(true_scores(QUERIES[:1], rows, metric)))
    header = (ns.folder / "vectors.npy").stat().st_size - rows.nbytes
    overwrite(ns.folder / "vectors.npy", header + nearest * rows[0].nbytes, bytes(rows[0].nbytes))
    with pytest.raises(DamagedMirror, match=f"row {nearest}:"):
        open_search(Mirror(tmp_path), SPEC, metric=metric).search(QUERIES[:1], 3)


def test_k_beyond_the_rows_gives_all(tmp_path: Path) -> None:
    """Rather than places that nothing fills."""
    filled(tmp_path, vectors(6))
    searcher = open_search(Mirror(tmp_path), SPEC)
    assert sorted(searcher.search(QUERIES, 100).rows[0].tolist()) == list(range(6))
    assert searcher.search(QUERIES[:0], 4).rows.shape == (0, 4)
    assert searcher.search(QUERIES[:0], 4).keys.shape == (0, 4, 32)


def with_nan(value: float) -> Any:
    queries = QUERIES.astype(np.float64)
    queries[3, 5] = value
    return queries


@pytest.mark.parametrize(
    ("queries", "k", "error", "says"),
    [
        (QUERIES[:, :5], 3, ShapeMismatch, r"of shape \(7, 5\) .* 24 dimensions"),
        (QUERIES[0], 3, ShapeMismatch, r"shape \(n, 24\)"),
        (QUERIES, 0, ConfigurationError, "at least 1"),
        (QUERIES, -2, ConfigurationError, "at least 1"),
        (QUERIES, 2.5, ConfigurationError, "as a whole number"),
        (QUERIES, 2.0, ConfigurationError, "as a whole number"),
        (QUERIES, np.float32(3), ConfigurationError, "as a whole number"),
        (QUERIES, "3", ConfigurationError, "as a whole number"),
        (QUERIES, True, ConfigurationError, "as a whole number"),
        (QUERIES, None, ConfigurationError, "as a whole number"),
        (with_nan(np.nan), 3, ConfigurationError, "Query 3 holds NaN"),
        (with_nan(-np.inf), 3, ConfigurationError, "Query 3 holds NaN or infinity"),
        (with_nan(1e300), 3, ConfigurationError, "in float32"),
        (np.full((2, DIMENSIONS), "a"), 3, ConfigurationError, "not vectors of numbers"),
        ({"a": "text"}, 3, InvalidEncoderOutput, "Return a NumPy array"),
    ],
)
def test_bad_queries(tmp_path: Path, queries: Any, k: Any, error: type[Exception], says: str) -> None:
    """A typed error says what is wrong with them."""
    filled(tmp_path, vectors(10))
    with pytest.raises(error, match=says):
        open_search(Mirror(tmp_path), SPEC).search(queries, k)


@pytest.mark.parametrize(
    ("rows", "params", "says"),
    [
        (np.ones((3, 4), np.bool_), {}, "Vectors of bool cannot be searched"),
        (np.ones((3, 4), np.int64), {}, "Vectors of int64 cannot be searched"),
        (np.ones((3, 4, 2), np.float32), {}, r"shape \(4, 2\)"),
        (np.ones((3, 4), np.uint8), {"precision": "ubinary"}, "packed bits"),
    ],
)
def test_rows_without_a_distance(tmp_path: Path, rows: Any, params: dict[str, Any], says: str) -> None:
    """Are refused when the search is opened."""
    spec = EncoderSpec(model="org/model", revision="a1b2c3d", params=params)
    filled(tmp_path, rows, spec)
    with pytest.raises(ConfigurationError, match=says):
        open_search(Mirror(tmp_path), spec)


def test_nothing_to_search(tmp_path: Path) -> None:
    """A namespace without rows, and one that is not there."""
    mirror = Mirror(tmp_path)
    with pytest.raises(MirrorError, match="is not in the mirror"):
        open_search(mirror, SPEC)
    mirror.namespace(SPEC)
    with pytest.raises(MirrorError, match="holds no rows"):
        open_search(mirror, SPEC.namespace)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"metric": "manhattan"}, "one of cosine, ip, l2"),
        ({"index": "nonsense"}, "could not parse index string nonsense"),
        ({"index": ""}, "not a string for FAISS's index_factory"),
        ({"index": "HNSW32\n"}, "not a string for FAISS's index_factory"),
        ({"index": 32}, "not a string for FAISS's index_factory"),
        ({"index": "HNSW0"}, "HNSW needs 2 to 512 links"),
        ({"index": "IVF9_HNSW1,Flat"}, "HNSW needs 2 to 512 links"),
        ({"index": "HNSW100000000000"}, "HNSW needs 2 to 512 links"),
        ({"index": "IVF99999999999999,Flat"}, "FAISS cannot use the index"),
        ({"index": "PQ7"}, "should be a multiple of the number of subquantizers"),
        ({"parameters": "nprobe=3"}, "Pass index= as well"),
        ({"index": "HNSW32", "parameters": "nprobe=3"}, "could not set parameter nprobe"),
        ({"index": "HNSW32", "parameters": "efSearch=0"}, "whole numbers from 1"),
        ({"index": "HNSW32", "parameters": "efSearch=9999999"}, "whole numbers from 1"),
        ({"index": "HNSW32", "parameters": "efSearch=9,"}, "whole numbers from 1"),
        ({"index": "HNSW32", "parameters": 9}, "whole numbers from 1"),
        ({"index": "HNSW32", "k_factor": 0}, "k_factor=0 must be a whole number from 1"),
    ],
)
def test_bad_parameters(tmp_path: Path, arguments: dict[str, Any], says: str) -> None:
    """Are named, with what can be said instead."""
    filled(tmp_path, vectors(3))
    with pytest.raises(ConfigurationError, match=says):
        open_search(Mirror(tmp_path), SPEC, **arguments)


def test_faiss_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    filled(tmp_path, vectors(3))
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingDependency, match=r"Searching needs faiss-cpu.* pip install faiss-cpu$"):
        open_search(Mirror(tmp_path), SPEC)


def test_places_without_a_candidate_come_last() -> None:
    """They have no score and no row, even where every candidate is far; and a candidate counts once."""
    rows = vectors(6)
    candidates = np.array([[-1, 4, 2, -1, 4], [-1, -1, -1, -1, -1]])
    scores, found = rank(QUERIES[:2], candidates, 7, "l2", lambda chosen: rows[chosen])
    assert sorted(found[0, :2].tolist()) == [2, 4]
    assert found[0, 2:].tolist() == [-1] * 5
    assert found[1].tolist() == [-1] * 7
    assert (scores[found == -1] == -np.inf).all()
    assert_allclose(scores[0, :2], true_scores(QUERIES[:1], rows, "l2")[0, found[0, :2]], rtol=1e-6)
