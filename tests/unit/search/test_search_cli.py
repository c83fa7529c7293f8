"""``cas-cache search``: what it prints, and what it says when it cannot."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from cas_cache import EncoderSpec
from cas_cache.identity import keys_of_texts
from cas_cache.mirror import Mirror, View
from search_rows import SPEC, filled, overwrite, texts, true_scores, vectors

QUERY_SPEC = EncoderSpec(model="org/model", revision="a1b2c3d", role="query", prompt="query: ")
OTHER_SPEC = EncoderSpec(model="org/other", revision="a1b2c3d")
QUERIES = vectors(3, 10**6)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A mirror with 60 documents, 3 queries by the same model, and a task that asked for 4 documents."""
    place = tmp_path / "cache"
    filled(place, vectors(60))
    filled(place, QUERIES, QUERY_SPEC)
    view = View("Task", SPEC.namespace, SPEC.model, SPEC.revision, "document", "default", "test")
    Mirror(place).views.record(view, keys_of_texts(texts(4, 7)), None, ["a", "b", "c", "d"])
    return place


def best(query: Any, k: int) -> list[int]:
    order: list[int] = np.argsort(-true_scores(query[None], vectors(60), "cosine")[0])[:k].tolist()
    return order


def test_texts_and_their_neighbours(run: Any, cache: Path) -> None:
    """A text finds itself, with the score 1; texts from another namespace find what their vectors find."""
    ended = run("search", cache, "text 5", "-n", SPEC.namespace[:8], "-k", "3", "--json")
    assert ended.code == 0, ended.err
    document = json.loads(ended.out)
    assert (document["namespace"], document["model"], document["index"]) == (SPEC.namespace, SPEC.model, None)
    (query,) = document["queries"]
    assert query["query"] == "text 5"
    first = query["neighbours"][0]
    assert (first["rank"], first["row"]) == (1, 5)
    assert first["key"] == keys_of_texts(["text 5"])[0].tobytes().hex()
    assert abs(first["score"] - 1) < 1e-6

    ended = run(
        "search", cache, "text 0", "text 2", "-n", SPEC.namespace, "--from", QUERY_SPEC.namespace, "-k", "4", "--json"
    )
    rows = [[it["row"] for it in query["neighbours"]] for query in json.loads(ended.out)["queries"]]
    assert rows == [best(QUERIES[0], 4), best(QUERIES[2], 4)]


def test_what_people_read(run: Any, cache: Path) -> None:
    """The text, then a line a neighbour: rank, score, row, and id or key."""
    ended = run("search", cache, "text 8", "--task", "Task", "-k", "2")
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert lines[0] == "text 8"
    assert lines[1].split() == ["1", "1.00000", "row", "8", "b"]
    assert len(lines) == 3
    ended = run("search", cache, "text 8", "-n", SPEC.namespace, "-k", "1")
    assert ended.out.split()[-1] == keys_of_texts(["text 8"])[0].tobytes().hex()[:16]


def test_a_task(run: Any, cache: Path) -> None:
    """Only what it asked for is found, with its ids."""
    ended = run("search", cache, "text 1", "--task", "Task", "--from", QUERY_SPEC.namespace, "-k", "9", "--json")
    (query,) = json.loads(ended.out)["queries"]
    assert sorted(it["id"] for it in query["neighbours"]) == ["a", "b", "c", "d"]


def test_texts_from_a_file(run: Any, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One a line, or from stdin."""
    path = tmp_path / "texts"
    path.write_text("text 3\ntext 4\n")
    ended = run("search", cache, "-n", SPEC.namespace, "--input", path, "--json")
    assert [query["query"] for query in json.loads(ended.out)["queries"]] == ["text 3", "text 4"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"text 3\ntext 4")))
    assert run("search", cache, "-n", SPEC.namespace, "--input", "-", "--json").out == ended.out
    path.write_bytes(b"\xff\xfe")
    ended = run("search", cache, "-n", SPEC.namespace, "--input", path)
    assert (ended.code, "is not UTF-8" in ended.err) == (1, True)
    path.write_bytes(b"")
    assert run("search", cache, "-n", SPEC.namespace, "--input", path).code == 2


def test_vectors_from_a_file(run: Any, cache: Path, tmp_path: Path) -> None:
    """And any index, with parameters of its search."""
    path = tmp_path / "queries.npy"
    np.save(path, QUERIES)
    options = ("--index", "HNSW32", "--parameters", "efSearch=40", "--metric", "cosine")
    ended = run("search", cache, "-n", SPEC.namespace, "--vectors", path, *options, "--json")
    assert ended.code == 0, ended.err
    queries = json.loads(ended.out)["queries"]
    assert [query["query"] for query in queries] == [0, 1, 2]
    assert_array_equal([[it["row"] for it in query["neighbours"]] for query in queries], [best(q, 10) for q in QUERIES])
    assert run("search", cache, "-n", SPEC.namespace, "--vectors", path).out.startswith("query 0\n")
    path.write_bytes(b"no array")
    ended = run("search", cache, "-n", SPEC.namespace, "--vectors", path)
    assert (ended.code, "numpy.save" in ended.err) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("text 70", "-n", SPEC.namespace), 1, "no vector for 1 of 1 text in the namespace"),
        (("text 5",), 2, f"{SPEC.namespace[:12]} (org/model@a1b2c3d"),
        (("text 5", "-n", "zz"), 2, "begin with 'zz'. Choose one by its id, with --namespace: "),
        (("-n", SPEC.namespace), 2, "Say what to look for"),
        (("text 5", "--vectors", __file__), 2, "Say what to look for"),
        (("--vectors", __file__, "--from", "a"), 2, "are vectors already"),
        (("text 5", "-n", SPEC.namespace, "--task", "Task"), 2, "name the --task, or the --namespace"),
        (("text 5", "-n", SPEC.namespace, "--role", "query"), 2, "name a --task"),
        (("text 5", "--task", "Task", "--role", "query"), 2, "the task Task asked for matches. It has org/model"),
        (("text 5", "--task", "Tusk"), 2, "The tasks are: Task"),
        (("text 5", "-n", SPEC.namespace, "-k", "0"), 2, "x>=1"),
        (("text 5", "-n", SPEC.namespace, "--index", "HNSW32", "--parameters", "nprobe"), 1, "NAME=NUMBER"),
        (("text 5", "-n", SPEC.namespace, "--parameters", "nprobe=2"), 1, "Pass index= as well"),
        (("text 5", "-n", SPEC.namespace, "--index", "nonsense"), 1, "could not parse index string nonsense"),
    ],
)
def test_bad_arguments(run: Any, cache: Path, arguments: tuple[str, ...], code: int, says: str) -> None:
    """One line says what to do instead."""
    ended = run("search", cache, *arguments)
    assert ended.code == code
    assert says in ended.err
    assert "Traceback" not in ended.err


def test_vectors_of_another_model_are_not_compared(run: Any, cache: Path) -> None:
    """Their numbers mean something else."""
    filled(cache, vectors(3), OTHER_SPEC)
    ended = run("search", cache, "text 1", "-n", SPEC.namespace, "--from", OTHER_SPEC.namespace)
    assert (ended.code, "they cannot be compared" in ended.err) == (1, True)


def test_vectors_that_texts_do_not_find(run: Any, cache: Path) -> None:
    """Of items that are more than a text."""
    spec = EncoderSpec(model="org/model", revision="a1b2c3d", fields=("text", "image"))
    filled(cache, vectors(3), spec)
    ended = run("search", cache, "text 1", "-n", SPEC.namespace, "--from", spec.namespace)
    assert (ended.code, "are found by" in ended.err) == (1, True)


def test_damage(run: Any, cache: Path) -> None:
    """Is an error, and nothing is printed."""
    overwrite(cache / "namespaces" / SPEC.namespace / "vectors.npy", -5, b"xx")
    ended = run("search", cache, "text 1", "-n", SPEC.namespace)
    assert (ended.code, ended.out) == (1, "")
    assert "do not agree with their digests" in ended.err
