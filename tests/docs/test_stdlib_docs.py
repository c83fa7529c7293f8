"""The example's retrieval task: the same everywhere, well formed, and evaluated by mteb itself."""

import os
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import mteb
import pytest

import stdlib_docs

FINGERPRINT = """
import hashlib, json, stdlib_docs
task = stdlib_docs.StdlibDocsRetrieval()
task.load_data()
split = task.dataset["default"]["test"]
data = [split["corpus"].to_list(), split["queries"].to_list(), split["relevant_docs"]]
print(hashlib.sha256(json.dumps(data).encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def docs():
    return stdlib_docs.build()


@pytest.mark.verify
def test_every_run_gives_the_same_data(tmp_path):
    # A module of the working directory that hides one of the library's must change nothing.
    (tmp_path / "colorsys.py").write_text('"""Not the library.\n\nAt all.\n"""\n')
    examples = str(Path(stdlib_docs.__file__).parent)
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", FINGERPRINT],
            cwd=cwd,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": examples, "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed, cwd in (("1", tmp_path), ("2", Path.cwd()))
    ]
    printed = [run.communicate(timeout=120)[0].strip() for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert len(printed[0]) == 64
    assert printed[0] == printed[1]


def test_sizes_and_ids(docs):
    assert len(docs.corpus) == 2000
    assert len(docs.queries) == 300
    assert len({row["id"] for row in docs.corpus}) == 2000
    assert docs.relevant_docs.keys() == {row["id"] for row in docs.queries}


def test_texts_are_usable(docs):
    for row in (*docs.corpus, *docs.queries):
        assert row["text"].strip() == row["text"] != ""
        assert stdlib_docs._ADDRESS.search(row["text"]) is None
    assert all(row["title"] for row in docs.corpus)
    assert max(len(row["text"]) for row in docs.corpus) <= stdlib_docs.MAX_CHARACTERS


def test_a_document_does_not_hold_its_own_query():
    documents = stdlib_docs.read_documents()
    assert [doc.title for doc in documents if doc.first_line in doc.text] == []


def test_relevant_documents_are_all_that_begin_with_the_query(docs):
    titles = {row["id"]: row["title"] for row in docs.corpus}
    begins = defaultdict(set)
    for doc in stdlib_docs.read_documents():
        begins[doc.first_line].add((doc.title, doc.text))
    for query in docs.queries:
        relevant = docs.relevant_docs[query["id"]]
        assert set(relevant.values()) == {1}
        expected = {row["id"] for row in docs.corpus if (row["title"], row["text"]) in begins[query["text"]]}
        assert relevant.keys() == expected, [titles[i] for i in relevant]


def test_duplicates_are_present(docs):
    documents = Counter((row["title"], row["text"]) for row in docs.corpus)
    queries = Counter(row["text"] for row in docs.queries)
    assert sum(documents.values()) - len(documents) >= stdlib_docs.N_COPIED_DOCUMENTS
    assert sum(queries.values()) - len(queries) == stdlib_docs.N_COPIED_QUERIES


def test_too_small_a_library_is_an_error():
    with pytest.raises(ValueError, match="3 items are wanted and this Python's standard library gives 2"):
        stdlib_docs._spread(["a", "b"], 3)


def test_a_missing_module_is_an_error():
    with pytest.raises(FileNotFoundError, match="no source of 'no_such_module'"):
        list(stdlib_docs._sources("no_such_module"))


def test_mteb_evaluates_it(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = mteb.get_model("mteb/baseline-random-encoder")
    result = mteb.evaluate(model, tasks=[stdlib_docs.StdlibDocsRetrieval()], cache=None, co2_tracker=False)
    (scores,) = result.task_results[0].scores["test"]
    assert 0 <= scores["main_score"] < 0.1
    assert scores["main_score"] == scores["ndcg_at_10"]
