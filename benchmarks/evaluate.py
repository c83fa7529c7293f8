"""Cost of the cache in a complete evaluation: `mteb.evaluate` of one retrieval task with a free encoder.

    python benchmarks/evaluate.py [--documents 50000] [--repeat 3] [--profile]

Documents are consecutive lines of the standard library's sources with a title each; queries are some of these lines.
The encoder looks its result up in a matrix, so only the work of mteb and of the cache remains. Four cases, each in a
process of its own that has touched and freed the memory that it will use (see encode.py):

- plain: no cache;
- NumpyCache: mteb's wrapper, warm. It prepares rows with a title twice, which is not measured here;
- ours: warm;
- second machine: ours with an empty mirror and the repository in a local folder; the pull is included.

Before the clock starts, the data set is built and mteb is warmed up with a run of ten documents. Prints a table and, as
its last line, one JSON object with seconds (the best of each), ratios (seconds / plain) and seconds of CPU, which other
work on the machine disturbs less. All digits of the scores are compared. ``--profile`` also shows where the time of
ours is spent.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import logging
import os
import pstats
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import mteb
import numpy as np
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from encode import DIMENSIONS, short_texts
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.cache_wrappers import CachedEmbeddingWrapper as PeerWrapper
from mteb.models.model_meta import ModelMeta, ScoringFunction

from cas_cache.mteb import CachedEmbeddingWrapper

QUERIES = 500
CASES = ("plain", "NumpyCache", "ours", "second machine")


class LookUpEncoder(AbsEncoder):  # type: ignore[misc]
    """Encoder that returns one row of a matrix per item, chosen by a hash of the text's length and first characters.

    `hash` of a str has a different salt in each process, so the row is chosen by a cheap and stable function of the
    text.
    """

    mteb_model_meta = ModelMeta.create_empty(
        overwrites={
            "name": "bench/look-up",
            "revision": "1",
            "embed_dim": DIMENSIONS,
            "similarity_fn_name": ScoringFunction.COSINE,
        }
    )

    def __init__(self) -> None:
        self.matrix = np.random.default_rng(0).standard_normal((1 << 16, DIMENSIONS), dtype=np.float32)
        self.rows: dict[str, int] = {}

    def encode(self, inputs: Any, **_: Any) -> Any:
        """Return a row for each item."""
        texts = inputs.dataset["text"][:]
        return self.matrix[[self.row(text) for text in texts]]

    def row(self, text: str) -> int:
        """Return the row of a text."""
        return (len(text) * 7919 + int.from_bytes(text[:12].encode()) + int.from_bytes(text[-4:].encode())) & 0xFFFF


def task_of(documents: int) -> Any:
    """Return a retrieval task over distinct documents, loaded."""
    lines = short_texts(2 * documents + QUERIES)
    corpus = Dataset.from_dict(
        {
            "id": [f"d{i}" for i in range(documents)],
            "title": [""] * documents,
            "text": [f"{lines[2 * i]}\n{lines[2 * i + 1]}" for i in range(documents)],
        }
    )
    queries = Dataset.from_dict({"id": [f"q{i}" for i in range(QUERIES)], "text": lines[-QUERIES:]})
    relevant = {f"q{i}": {f"d{i * documents // QUERIES}": 1} for i in range(QUERIES)}
    split = {"corpus": corpus, "queries": queries, "relevant_docs": relevant, "top_ranked": None}

    class StandardLibrary(AbsTaskRetrieval):  # type: ignore[misc]
        metadata = TaskMetadata(
            name="StandardLibrary",
            type="Retrieval",
            main_score="ndcg_at_10",
            description="Lines of the standard library.",
            reference="https://docs.python.org",
            dataset={"path": "NA", "revision": "NA"},
            category="t2t",
            eval_langs=["eng-Latn"],
            eval_splits=["test"],
            date=("2022-12-22", "2022-12-22"),
            dialect=["Written"],
            domains=[],
            task_subtypes=[],
            license="cc-by-4.0",
            annotations_creators="derived",
            modalities=["text"],
            sample_creation="found",
            bibtex_citation="",
        )

        def load_data(self, **_: Any) -> None:
            """Do nothing: the data is built already."""

    task = StandardLibrary()
    task.dataset, task.data_loaded = {"default": {"test": split}}, True
    return task


def evaluate(model: Any, task: Any) -> str:
    """Evaluate a model and return all scores."""
    results = mteb.evaluate(
        model,
        tasks=[task],
        cache=None,
        co2_tracker=False,
        show_progress_bar=False,
        encode_kwargs={"show_progress_bar": False},
    )
    return json.dumps(results.task_results[0].scores, sort_keys=True, default=float)


def model_of(case: str, place: Path, encoder: Any) -> Any:
    """Return the model that a case evaluates."""
    if case == "plain":
        return encoder
    if case == "NumpyCache":
        return PeerWrapper(encoder, place / "peer")
    mirror = "mirror" if case == "ours" else f"mirror {os.getpid()}"
    return CachedEmbeddingWrapper(encoder, place / mirror, remote=place / "remote", progress=False)


def run(case: str, documents: int, place: Path, *, profile: bool) -> dict[str, Any]:
    """Run one case in this process."""
    task, encoder = task_of(documents), LookUpEncoder()
    evaluate(encoder, task_of(10))  # imports what mteb imports at first use
    np.ones((4 * documents, DIMENSIONS), np.float32)  # touched and freed
    profiler = cProfile.Profile()
    started, busy = time.perf_counter(), time.process_time()
    if profile:
        profiler.enable()
    model = model_of(case, place, encoder)
    scores = evaluate(model, task)
    if hasattr(model, "close"):
        model.close()
    profiler.disable()
    seconds, cpu = time.perf_counter() - started, time.process_time() - busy
    told = ""
    if profile:
        text = io.StringIO()
        pstats.Stats(profiler, stream=text).sort_stats("cumulative").print_stats(45)
        told = text.getvalue()
    return {"seconds": seconds, "cpu": cpu, "scores": scores, "profile": told}


def in_process(case: str, documents: int, place: Path, *, profile: bool = False) -> dict[str, Any]:
    """Run one case in a process of its own."""
    command = [sys.executable, __file__, "--documents", str(documents), "--case", case, "--place", str(place)]
    done = subprocess.run(
        [*command, *(["--profile"] if profile else [])], stdout=subprocess.PIPE, text=True, check=True
    )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=50_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="print where plain and ours spend their time")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    disable_progress_bar()
    if asked.case:
        print(json.dumps(run(asked.case, asked.documents, asked.place, profile=asked.profile)))
        return
    seconds: dict[str, float] = {}
    cpu: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        place, scores = Path(folder), set()
        for case in ("NumpyCache", "ours"):  # cold and not measured: these runs fill the caches
            scores.add(in_process(case, asked.documents, place)["scores"])
        for _ in range(asked.repeat):
            for case in CASES:
                found = in_process(case, asked.documents, place)
                scores.add(found["scores"])
                for best, unit in ((seconds, "seconds"), (cpu, "cpu")):
                    best[case] = min(found[unit], best.get(case, found[unit]))
        if asked.profile:
            for case in ("plain", "ours"):
                print(f"{case}:\n{in_process(case, asked.documents, place, profile=True)['profile']}")
    if len(scores) != 1:
        msg = "the runs gave different scores"
        raise SystemExit(msg)
    print(f"{asked.documents:,} documents, {QUERIES} queries x {DIMENSIONS} float32, whole mteb.evaluate")
    ratio = {case: round(value / seconds["plain"], 3) for case, value in seconds.items()}
    for case, value in seconds.items():
        print(f"{case:<16}{value:>9.3f}s{ratio[case]:>9.2f} x plain{cpu[case]:>9.3f}s of CPU")
    result = {"documents": asked.documents, "queries": QUERIES, "seconds": seconds, "ratio": ratio, "cpu_seconds": cpu}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
