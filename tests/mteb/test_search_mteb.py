"""`MirrorSearch` in mteb's own retrieval: exact, the scores are those of the plain run."""

import json
import logging
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
from mteb.models.model_meta import ScoringFunction
from mteb.models.search_wrappers import SearchEncoderWrapper

import mteb_tasks as tasks
from cas_cache.errors import ConfigurationError, ShapeMismatch
from cas_cache.mteb import CachedEmbeddingWrapper, MirrorSearch
from cas_cache.search import faiss_index
from mteb_encoders import HashEncoder, TorchEncoder
from search_rows import unit, vectors
from tiers import sampled

RETRIEVAL = [
    tasks.misleading_titles,
    tasks.odd_texts,
    tasks.same_text_two_titles,
    tasks.instructions,
    tasks.conversations,
    tasks.reranking,
]


def large(name: str = "Large") -> Any:
    """1,300 documents, some of them twice, on 130 topics; 60 queries."""
    corpus = [
        {"id": f"d{i}", "title": f"topic{i % 130}", "text": f"topic{i % 130} word{i % 1200} rest{i % 7}"}
        for i in range(1300)
    ]
    queries = [{"id": f"q{i}", "text": f"topic{i} word{i}"} for i in range(60)]
    relevant = {f"q{i}": {f"d{i + 130 * n}": 1 for n in range(3)} for i in range(60)}
    return tasks.retrieval(name, corpus, queries, relevant)


def compared_by(function: Any) -> HashEncoder:
    encoder = HashEncoder()
    encoder.mteb_model_meta = encoder.mteb_model_meta.model_copy(update={"similarity_fn_name": function})
    return encoder


def scores(model: Any, task: Any) -> dict[str, Any]:
    """Every score that mteb reports."""
    return dict(json.loads(tasks.scores(model, task)))


def searched(model: Any, **options: Any) -> Any:
    return SearchEncoderWrapper(model, index_backend=MirrorSearch(model, **options))


@pytest.mark.parametrize(
    ("make", "function"),
    sampled(
        [(make, ScoringFunction.COSINE) for make in [*RETRIEVAL, large]]
        + [
            (make, function)
            for make in (tasks.odd_texts, tasks.reranking)
            for function in (ScoringFunction.DOT_PRODUCT, None)
        ],
        keep=5,
    ),
)
def test_exact_search_gives_the_plain_scores(make: Any, function: Any, tmp_path: Path) -> None:
    """With titles, repeats, instructions, conversations, and when it ranks; cold and warm."""
    encoder = compared_by(function)
    plain = scores(encoder, make())
    for _ in ("cold", "warm"):
        with CachedEmbeddingWrapper(encoder, tmp_path) as cached:
            assert scores(searched(cached), make()) == plain
    assert cached.stats.encoded == 0


@pytest.mark.verify
@pytest.mark.parametrize("encoder", [HashEncoder(dtype="float16"), HashEncoder(dtype="float64"), TorchEncoder()])
def test_other_dtypes_give_the_plain_scores(encoder: Any, tmp_path: Path) -> None:
    """And torch's tensors, of an encoder that is not cached."""
    plain = scores(encoder, large())
    assert scores(searched(encoder), large()) == plain
    with CachedEmbeddingWrapper(encoder, tmp_path) as cached:
        assert scores(searched(cached), large()) == plain


@pytest.mark.verify
def test_mteb_mock_tasks(tmp_path: Path) -> None:
    """Retrieval and reranking tasks by which mteb tests itself."""
    names = ("MockRetrievalTask", "MockRerankingTask", "MockMultilingualRetrievalTask", "MockMultilingualRerankingTask")
    mocks = [task for task in mteb.mocks.MOCK_TASK_TEST_GRID if type(task).__name__ in names]
    assert len(mocks) >= 3
    for task in mocks:
        plain = scores(HashEncoder(), task)
        with CachedEmbeddingWrapper(HashEncoder(), tmp_path) as cached:
            assert scores(searched(cached), task) == plain


@pytest.mark.verify
def test_a_corpus_is_searched_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What faiss is given is the map that the cache answered with, of the mirror's own file."""
    import faiss

    class Unit(HashEncoder):
        def answer(self, found: Any) -> Any:
            return np.tile(unit(found.astype(np.float32)), (1, 8)) / np.float32(np.sqrt(8))

    corpus = [{"id": f"d{i}", "title": "", "text": f"word{i} word{i % 50}"} for i in range(1300)]
    task = tasks.retrieval("InPlace", corpus, [{"id": "q", "text": "word3"}], {"q": {"d3": 1}})
    given = []
    knn = faiss.knn
    monkeypatch.setattr(faiss, "knn", lambda queries, rows, *rest: given.append(rows) or knn(queries, rows, *rest))
    for _ in ("cold", "warm"):
        with CachedEmbeddingWrapper(Unit(), tmp_path) as cached:
            tasks.scores(searched(cached), task)
        (rows,) = given
        given.clear()
        base = rows
        while not isinstance(base, np.memmap):
            base = base.base
        assert Path(base.filename).name == "vectors.npy"
        assert len(rows) == 1300


@pytest.mark.verify
@pytest.mark.parametrize("index", ["HNSW32", "HNSW32,SQ8", "IVF32,Flat", "IVF32,PQ4"])
def test_an_index_is_saved_for_its_corpus_alone(index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found again by a second run; another corpus, also one more document, gets its own."""
    built: list[int] = []
    build = faiss_index.build
    monkeypatch.setattr(faiss_index, "build", lambda design, rows: built.append(len(rows)) or build(design, rows))
    plain = scores(HashEncoder(), large())["test"][0]["ndcg_at_10"]
    for _ in range(2):
        with CachedEmbeddingWrapper(HashEncoder(), tmp_path) as cached:
            found = scores(searched(cached, index=index), large())["test"][0]["ndcg_at_10"]
        assert abs(found - plain) < 0.1
    assert built == [1300]
    with CachedEmbeddingWrapper(HashEncoder(revision="r2"), tmp_path) as cached:
        scores(searched(cached, index=index), large())
    assert built == [1300, 1300]
    assert sorted(p.suffix for p in (tmp_path / ".faiss").glob("*/[!.]*")) == [".index", ".index", ".json", ".json"]


def backend(**options: Any) -> MirrorSearch:
    return MirrorSearch(HashEncoder(), **options)


def cosine(a: Any, b: Any) -> Any:
    return unit(a) @ unit(b).T


def test_the_protocol() -> None:
    """Documents are added in parts, places count over all of them, and clear forgets them."""
    rows, search = vectors(30), backend()
    search.add_documents(rows[:10], [f"d{i}" for i in range(10)])
    search.add_documents(rows[10:], [f"d{i}" for i in range(10, 30)])
    found, places = search.search(rows[12:14], 5, cosine)
    assert [line[0] for line in places] == [12, 13]
    assert all(isinstance(score, float) for line in found for score in line)
    ranked = {"q0": ["d20", "d12", "d3", "d12"], "q1": []}
    found, places = search.search(rows[12:14], 9, cosine, ranked, {0: "q0", 1: "q1"})
    assert places[0][0] == 1
    assert sorted(places[0]) == [0, 1, 2]
    assert (found[1], places[1]) == ([], [])
    with pytest.raises(ConfigurationError, match="'d99' is to be ranked and was not added"):
        search.search(rows[:1], 9, cosine, {"q": ["d99"]}, {0: "q"})
    with pytest.raises(ConfigurationError, match="pass query_idx_to_id"):
        search.search(rows[:1], 9, cosine, ranked)
    with pytest.raises(ShapeMismatch):
        search.search(rows[:, :3], 9, cosine)
    with pytest.raises(ConfigurationError, match="1 documents came with 2 ids"):
        search.add_documents(rows[:1], ["a", "b"])
    search.clear()
    with pytest.raises(ConfigurationError, match="Call add_documents first"):
        search.search(rows[:1], 5, cosine)


def test_another_similarity_is_refused() -> None:
    """What the model itself says of a few pairs is compared: a wrong metric would give wrong scores."""
    rows, search = vectors(40), backend(metric="ip")
    search.add_documents(rows, [str(i) for i in range(40)])
    with pytest.raises(ConfigurationError, match="The model's similarity is not 'ip'"):
        search.search(rows[:3], 5, cosine)
    with pytest.raises(ConfigurationError, match="not 'ip'"):
        search.search(rows[:1], 5, cosine, {"q": ["3", "4"]}, {0: "q"})
    search.search(rows[:3], 5, lambda a, b: a @ b.T)


def test_similarities_that_cannot_be_searched() -> None:
    """The model's metadata says so before anything is encoded."""
    with pytest.raises(ConfigurationError, match="'MaxSim', which cannot be searched"):
        MirrorSearch(compared_by(ScoringFunction.MAX_SIM))
    assert MirrorSearch(compared_by(ScoringFunction.EUCLIDEAN)).design.metric == "l2"


@pytest.mark.verify
def test_a_damaged_index_of_a_corpus(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Is built anew, like a namespace's."""
    with CachedEmbeddingWrapper(HashEncoder(), tmp_path) as cached:
        before = scores(searched(cached, index="HNSW32"), large())
        (path,) = (tmp_path / ".faiss").glob("*/*.index")
        path.write_bytes(path.read_bytes()[:-5] + b"wrong")
        with caplog.at_level(logging.WARNING, "cas_cache"):
            after = scores(searched(cached, index="HNSW32"), large())
    assert "is damaged, and is rebuilt" in caplog.text
    assert abs(after["test"][0]["ndcg_at_10"] - before["test"][0]["ndcg_at_10"]) < 0.05
