"""mteb tasks that need no hub: data made here, evaluated by mteb's own code."""

import json
from typing import Any

import mteb
import numpy as np
from datasets import Dataset, DatasetDict
from mteb.abstasks.classification import AbsTaskClassification
from mteb.abstasks.clustering_legacy import AbsTaskClusteringLegacy
from mteb.abstasks.pair_classification import AbsTaskPairClassification
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.abstasks.text.bitext_mining import AbsTaskBitextMining
from mteb.abstasks.text.summarization import AbsTaskSummarization

TOPICS = 24
ODD_TEXTS = [
    "", " ", "\u00a0", "e\u0301 or \u00e9", "\u00e9 or e\u0301", "\U0001f600 non-BMP \U00020000", "a\nb\tc\0d",
    "trailing", "trailing ", "Trailing", "\ufb01 fi \u0130", "\ufefftopic1 word1", "\U0010ffff\u202e", "a\r\nb", "a\nb",
    " ".join(f"topic{i % 97}" for i in range(4000)), " ".join(f"topic{i % 97}" for i in range(4001)),
]  # fmt: skip


def metadata(name: str, kind: str = "Retrieval", main_score: str = "ndcg_at_10", **fields: Any) -> TaskMetadata:
    """Return a task's metadata; what the test does not name is filler."""
    return TaskMetadata(
        name=name,
        type=kind,
        main_score=main_score,
        description="A task of cas_cache's tests.",
        reference="https://example.org",
        dataset={"path": "NA", "revision": "NA"},
        category="t2t",
        date=("2022-12-22", "2022-12-22"),
        dialect=["Written"],
        domains=[],
        task_subtypes=[],
        license="cc-by-4.0",
        annotations_creators="derived",
        modalities=["text"],
        sample_creation="found",
        bibtex_citation="",
        **{"eval_splits": ["test"], "eval_langs": ["eng-Latn"], **fields},
    )


def task_of(base: type, data: Any, task_metadata: TaskMetadata) -> Any:
    """Return a task of a class of its own; `data` gives its dataset."""

    def load_data(self: Any, **_: Any) -> None:
        self.dataset = data()
        self.data_loaded = True

    return type(task_metadata.name, (base,), {"metadata": task_metadata, "load_data": load_data})()


def retrieval(
    name: str,
    corpus: list[dict[str, Any]],
    queries: list[dict[str, Any]],
    relevant: dict[str, dict[str, int]],
    top_ranked: dict[str, list[str]] | None = None,
    **fields: Any,
) -> Any:
    """Return a retrieval task; with `top_ranked` a reranking task."""

    def data() -> Any:
        split = {
            "corpus": Dataset.from_list(corpus),
            "queries": Dataset.from_list(queries),
            "relevant_docs": relevant,
            "top_ranked": top_ranked,
        }
        return {"default": dict.fromkeys(fields.get("eval_splits", ["test"]), split)}

    kind = "Retrieval" if top_ranked is None else "Reranking"
    return task_of(AbsTaskRetrieval, data, metadata(name, kind, **fields))


def misleading_titles(name: str = "MisleadingTitles") -> Any:
    """A body of three words on its topic, a title of two on the next: a title that counts twice wins."""
    corpus = [
        {"id": f"d{i}", "title": f"topic{(i + 1) % TOPICS} " * 2, "text": f"topic{i} " * 3} for i in range(TOPICS)
    ]
    queries = [{"id": f"q{i}", "text": f"topic{i}"} for i in range(TOPICS)]
    return retrieval(name, corpus, queries, {f"q{i}": {f"d{i}": 1} for i in range(TOPICS)})


def odd_texts(name: str = "OddTexts") -> Any:
    """Duplicates in corpus and queries, texts that are in both, empty-ish, decomposed and non-BMP texts."""
    texts = [f"topic{i % 8} word{i % 16}" for i in range(32)] + ODD_TEXTS * 2
    corpus = [{"id": f"d{i}", "title": "Title" if i % 3 else "", "text": text} for i, text in enumerate(texts)]
    queries = [{"id": f"q{i}", "text": text} for i, text in enumerate([*texts[:12], *texts[:4], *ODD_TEXTS])]
    return retrieval(name, corpus, queries, {row["id"]: {f"d{i}": 1} for i, row in enumerate(queries)})


def same_text_two_titles(name: str = "SameText") -> Any:
    """Pairs of documents whose joined text is equal and whose titles are not."""
    corpus = [{"id": f"a{i}", "title": f"topic{i}", "text": f"word{i} rest"} for i in range(TOPICS)]
    corpus += [{"id": f"b{i}", "title": f"topic{i} word{i}", "text": "rest"} for i in range(TOPICS)]
    queries = [{"id": f"q{i}", "text": f"word{i} rest rest"} for i in range(TOPICS)]
    return retrieval(name, corpus, queries, {f"q{i}": {f"a{i}": 1} for i in range(TOPICS)})


def instructions(name: str = "Instructions") -> Any:
    """Queries with an instruction that turns the ranking if it counts twice."""
    corpus = [{"id": f"d{i}", "title": "", "text": f"topic{i}"} for i in range(TOPICS)]
    queries = [
        {"id": f"q{i}", "text": f"topic{i} topic{i} topic{i}", "instruction": f"topic{(i + 1) % TOPICS} " * 2}
        for i in range(TOPICS)
    ]
    return retrieval(name, corpus, queries, {f"q{i}": {f"d{i}": 1} for i in range(TOPICS)})


def conversations(name: str = "Conversations") -> Any:
    """Queries of one to three turns."""
    corpus = [{"id": f"d{i}", "title": f"t{i}", "text": f"topic{i}"} for i in range(TOPICS)]
    turns = ["user", "assistant", "user"]
    queries = [
        {
            "id": f"q{i}",
            "text": [{"role": role, "content": f"topic{i + n}"} for n, role in enumerate(turns[: 1 + i % 3])],
        }
        for i in range(TOPICS)
    ]
    return retrieval(name, corpus, queries, {f"q{i}": {f"d{i}": 1} for i in range(TOPICS)})


def reranking(name: str = "Reranked") -> Any:
    """The misleading titles, each query with eight candidates."""
    task = misleading_titles(name)
    task.load_data()
    split = task.dataset["default"]["test"]
    candidates = {f"q{i}": [f"d{(i + n) % TOPICS}" for n in range(-4, 4)] for i in range(TOPICS)}
    return retrieval(
        name,
        split["corpus"].to_list(),
        split["queries"].to_list(),
        split["relevant_docs"],
        candidates,
        main_score="map_at_1000",
    )


def _pairs() -> tuple[list[str], list[str]]:
    left = [f"topic{i % 10} word{i % 7} word{i}" for i in range(30)] + ODD_TEXTS
    right = [f"topic{i % 10} word{i % 3}" for i in range(30)] + ODD_TEXTS[::-1]
    return left, right


def sts(name: str = "OwnSTS") -> Any:
    """Pairs with scores; the right sides repeat."""
    left, right = _pairs()
    rows = {"sentence1": left, "sentence2": right, "score": [float(i % 6) for i in range(len(left))]}
    task = task_of(AbsTaskSTS, lambda: {"test": Dataset.from_dict(rows)}, metadata(name, "STS", "cosine_spearman"))
    type(task).min_score, type(task).max_score = 0, 5
    return task


def pair_classification(name: str = "OwnPairs") -> Any:
    """Pairs with labels."""
    left, right = _pairs()
    rows = {"sentence1": left, "sentence2": right, "labels": [i % 2 for i in range(len(left))]}
    return task_of(
        AbsTaskPairClassification,
        lambda: {"test": Dataset.from_dict(rows)},
        metadata(name, "PairClassification", "similarity_ap"),
    )


def classification(name: str = "OwnClassification") -> Any:
    """Three classes, with the same texts in train and test."""
    texts = [f"topic{i % 3} word{i % 9}" for i in range(48)] + ODD_TEXTS
    rows = {"text": texts, "label": [i % 3 for i in range(len(texts))]}
    both = lambda: DatasetDict(train=Dataset.from_dict(rows), test=Dataset.from_dict(rows))  # noqa: E731
    return task_of(AbsTaskClassification, both, metadata(name, "Classification", "accuracy"))


def clustering(name: str = "OwnClustering") -> Any:
    """Two sets of texts in four clusters, with repeats."""
    texts = [f"topic{i % 4} word{i % 11}" for i in range(40)] + ODD_TEXTS
    labels = [i % 4 for i in range(len(texts))]
    rows = {"sentences": [texts, texts[::-1]], "labels": [labels, labels[::-1]]}
    return task_of(
        AbsTaskClusteringLegacy, lambda: {"test": Dataset.from_dict(rows)}, metadata(name, "Clustering", "v_measure")
    )


def bitext(name: str = "OwnBitext") -> Any:
    """Pairs that are to be found again; some sides repeat, and one is in both languages."""
    left, right = _pairs()
    rows = {"sentence1": left, "sentence2": [*right[1:], left[0]]}
    return task_of(AbsTaskBitextMining, lambda: {"test": Dataset.from_dict(rows)}, metadata(name, "BitextMining", "f1"))


def summarization(name: str = "OwnSummarization") -> Any:
    """Texts with three summaries by people and three by machines, which repeat from text to text."""
    texts = [f"topic{i} topic{i + 1} topic{i + 2} word{i % 3}" for i in range(10)] + ODD_TEXTS
    human = [[f"topic{i}", f"topic{i + 1}", texts[i]] for i in range(len(texts))]
    machine = [[f"topic{i} word", f"topic{i + 5}", ODD_TEXTS[i % len(ODD_TEXTS)]] for i in range(len(texts))]
    rows = {"text": texts, "human_summaries": human, "machine_summaries": machine}
    rows["relevance"] = [[3.0, 1.0, float(i % 2)] for i in range(len(texts))]
    task = task_of(
        AbsTaskSummarization,
        lambda: {"test": Dataset.from_dict(rows)},
        metadata(name, "Summarization", "cosine_spearman"),
    )
    type(task).min_score, type(task).max_score = 0, 3
    return task


def two_languages(name: str = "TwoLanguages") -> Any:
    """Two subsets of two splits each, the same corpus in all of them and queries of their own."""
    corpus = [{"id": f"d{i}", "title": f"t{i % 3}", "text": f"topic{i} word"} for i in range(10)]

    def split(language: str, name: str) -> Any:
        queries = [{"id": f"q{i}", "text": f"topic{i} {language} {name if i % 2 else ''}"} for i in range(10)]
        relevant = {f"q{i}": {f"d{i}": 1} for i in range(10)}
        rows = {"corpus": Dataset.from_list(corpus), "queries": Dataset.from_list(queries)}
        return {**rows, "relevant_docs": relevant, "top_ranked": None}

    def data() -> Any:
        return {language: {name: split(language, name) for name in ("dev", "test")} for language in ("eng", "fra")}

    languages = {"eng": ["eng-Latn"], "fra": ["fra-Latn"]}
    return task_of(AbsTaskRetrieval, data, metadata(name, eval_langs=languages, eval_splits=["dev", "test"]))


def scores(model: Any, task: Any, **encode_kwargs: Any) -> str:
    """Evaluate, and return every score that mteb reports, to 12 decimals: scikit-learn's k-means wavers at the 16th."""
    results = mteb.evaluate(
        model,
        tasks=[task],
        cache=None,
        co2_tracker=False,
        show_progress_bar=False,
        encode_kwargs={"show_progress_bar": False, **encode_kwargs},
    )
    assert not results.exceptions
    found = results.task_results[0].scores
    assert all(split for split in found.values())
    return json.dumps(_plain(found), sort_keys=True)


def main_score(found: str) -> float:
    """Return the main score of the first split and subset."""
    return float(next(iter(json.loads(found).values()))[0]["main_score"])


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(inner) for inner in value]
    value = value.item() if isinstance(value, np.generic) else value
    return round(value, 12) + 0.0 if isinstance(value, float) else value


def loader(texts: list[str], **columns: Any) -> Any:
    """Return a loader over rows as mteb prepares them, for calls of `encode` by hand."""
    from mteb._create_dataloaders import _custom_collate_fn
    from torch.utils.data import DataLoader

    return DataLoader(Dataset.from_dict({"text": texts, **columns}), batch_size=7, collate_fn=_custom_collate_fn)
