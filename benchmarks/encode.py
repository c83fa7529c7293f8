"""Cost of the cache itself: the wrapper of cas_cache and those of mteb (NumpyCache, FaissCache), with a free encoder.

    python benchmarks/encode.py [--texts 100000] [--repeat 3] [--cold-memory]

The texts are lines of the standard library's sources. Prints a table and, as its last line, one JSON object with
seconds (the best of each), ratios (mteb's seconds / ours) and the memory of a warm call beyond its result. All results
are compared.

Memory that a virtual machine must first request from its host is ten times as slow to touch, and it goes back to the
host when it is free for a few seconds. That would slow down whichever case comes next. So each case first touches and
frees the memory for its result and its files, and the best of several runs is taken. ``--cold-memory`` skips this.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import sysconfig
import tempfile
import time
import tracemalloc
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
from datasets import Dataset
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.cache_wrappers import CachedEmbeddingWrapper as PeerWrapper
from mteb.models.cache_wrappers.cache_backends.faiss_cache import FaissCache
from mteb.models.model_meta import ModelMeta
from torch.utils.data import DataLoader

from cas_cache.mteb import CachedEmbeddingWrapper

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata

DIMENSIONS = 384


def short_texts(count: int) -> list[str]:
    """Return `count` distinct lines of the standard library; numbers make them distinct when they run out."""
    lines: dict[str, None] = {}
    for file in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" not in file.parts:
            lines.update(dict.fromkeys(s for s in map(str.strip, file.read_text("utf-8", "replace").splitlines()) if s))
        if len(lines) >= count:
            break
    texts = list(lines)
    texts += [f"{texts[i % len(lines)]} #{i}" for i in range(len(lines), count)]
    assert len(set(texts)) == len(texts), "mteb's wrapper asks its encoder for repeats, and this one has none to give"
    return texts[:count]


class FreeEncoder(AbsEncoder):  # type: ignore[misc]
    """Encoder that returns the rows of one matrix in turn, which costs only a slice."""

    mteb_model_meta = ModelMeta.create_empty(
        overwrites={"name": "bench/free", "revision": "1", "embed_dim": DIMENSIONS}
    )

    def __init__(self, rows: int) -> None:
        self.matrix = np.random.default_rng(0).standard_normal((rows, DIMENSIONS), dtype=np.float32)
        self.given = 0

    def encode(self, inputs: Any, **_: Any) -> Any:
        """Return a row for each item."""
        start, self.given = self.given, self.given + len(inputs.dataset)
        return self.matrix[start : self.given]


def metadata() -> Any:
    """Return the metadata of a task that does not exist."""
    from mteb.mocks.mock_tasks import MockSTSTask

    task: TaskMetadata = MockSTSTask.metadata
    return task


def timed(wrapper: Any, texts: list[str], *, touch: bool) -> tuple[float, str]:
    """Return the seconds of one encode call and the hash of its result."""
    loader = DataLoader(Dataset.from_dict({"text": texts}), batch_size=512)
    if touch:
        np.ones((3 * len(texts), DIMENSIONS), np.float32)
    started = time.perf_counter()
    vectors = wrapper.encode(loader, task_metadata=metadata(), hf_split="test", hf_subset="default")
    seconds = time.perf_counter() - started
    return seconds, hashlib.sha256(np.ascontiguousarray(vectors, np.float32).data).hexdigest()


def measure(make: Any, folder: Path, texts: list[str], seed: int, *, touch: bool) -> tuple[dict[str, float], list[str]]:
    """Run the cases with one wrapper class."""
    order = np.random.default_rng(seed).permutation(len(texts))
    shuffled = [texts[i] for i in order]
    seconds, answers = {}, []
    wrapper = make(FreeEncoder(len(texts)), folder)
    cases = (("cold", texts), ("warm, other order", shuffled), ("warm, other order again", shuffled))
    for case, batch in (*cases, ("warm, same batch again", texts)):
        seconds[case], answer = timed(wrapper, batch, touch=touch)
        answers.append(answer)
    wrapper.close()
    started = time.perf_counter()
    wrapper = make(FreeEncoder(1), folder)
    _, answer = timed(wrapper, texts[:1], touch=False)
    seconds["open, first look-up"] = time.perf_counter() - started
    wrapper.close()
    return seconds, [*answers, answer]


def bytes_beyond_the_answer(folder: Path, texts: list[str]) -> float:
    """Return the peak memory of a warm call of cas_cache, in bytes per row without its result, rows shuffled."""
    order = np.random.default_rng(2).permutation(len(texts))
    loader = DataLoader(Dataset.from_dict({"text": [texts[i] for i in order]}), batch_size=512)
    wrapper = CachedEmbeddingWrapper(FreeEncoder(1), folder)
    tracemalloc.start()
    vectors = wrapper.encode(loader, task_metadata=metadata(), hf_split="test", hf_subset="default")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (peak - vectors.nbytes) / len(texts)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--cold-memory", action="store_true", help="do not touch memory before each case")
    asked = parser.parse_args()
    count, touch = asked.texts, not asked.cold_memory
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    texts = short_texts(count)
    makers = {
        "ours": CachedEmbeddingWrapper,
        "NumpyCache": PeerWrapper,
        "FaissCache": partial(PeerWrapper, cache_backend=FaissCache),
    }
    seconds: dict[str, dict[str, float]] = {name: {} for name in makers}
    for seed in range(1, asked.repeat + 1):
        # A fresh folder each time: two mirrors of a million rows beside those of mteb would take 6 GB.
        with tempfile.TemporaryDirectory() as folder:
            measured = {
                name: measure(make, Path(folder, name), texts, seed, touch=touch) for name, make in makers.items()
            }
            beyond = bytes_beyond_the_answer(Path(folder, "ours"), texts)
        if any(answers != measured["ours"][1] for _, answers in measured.values()):
            msg = "the caches gave different vectors"
            raise SystemExit(msg)
        for name, (found, _) in measured.items():
            for case, value in found.items():
                seconds[name][case] = min(value, seconds[name].get(case, value))
    print(f"{count:,} texts x {DIMENSIONS} float32\n{'':<24}" + "".join(f"{name:>21}" for name in makers))
    ratios: dict[str, dict[str, float]] = {name: {} for name in list(makers)[1:]}
    for case, own in seconds["ours"].items():
        line = f"{case:<24}{own:>20.3f}s"
        for name, found in ratios.items():
            found[case] = round(seconds[name][case] / own, 2)
            line += f"{seconds[name][case]:>10.3f}s ({found[case]:>5.1f} x)"
        print(line)
    print(f"memory of a warm call beyond its answer: {beyond:.0f} bytes a row")
    result = {"texts": count, "dimensions": DIMENSIONS, "memory_touched": touch, "seconds": seconds, "ratio": ratios}
    print(json.dumps({**result, "bytes_a_row_beyond_the_answer": round(beyond, 1)}))


if __name__ == "__main__":
    main()
