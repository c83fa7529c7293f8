"""What the cache itself costs: our wrapper and mteb's (NumpyCache) in one run, with an encoder that costs nothing.

    python benchmarks/encode.py [--texts 100000]

The texts are lines of the standard library's sources. Prints a table and, as its last line, one JSON object with
seconds and ratios (mteb's seconds / ours).
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
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
from datasets import Dataset
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.cache_wrappers import CachedEmbeddingWrapper as PeerWrapper
from mteb.models.model_meta import ModelMeta
from torch.utils.data import DataLoader

from cas_cache.mteb import CachedEmbeddingWrapper

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata

DIMENSIONS = 384


def short_texts(count: int) -> list[str]:
    """Return `count` distinct lines of the standard library, numbered on when they run out."""
    lines: dict[str, None] = {}
    for file in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" not in file.parts:
            lines.update(dict.fromkeys(s for s in map(str.strip, file.read_text("utf-8", "replace").splitlines()) if s))
        if len(lines) >= count:
            break
    texts = list(lines)
    texts += [f"{texts[i % len(lines)]} ({i // len(lines)})" for i in range(len(lines), count)]
    return texts[:count]


class FreeEncoder(AbsEncoder):  # type: ignore[misc]
    """Hands out the rows of one matrix in turn: costs a slice."""

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


def timed(wrapper: Any, texts: list[str]) -> tuple[float, str]:
    """Return the seconds of one encode call and the hash of its answer."""
    loader = DataLoader(Dataset.from_dict({"text": texts}), batch_size=512)
    started = time.perf_counter()
    vectors = wrapper.encode(loader, task_metadata=metadata(), hf_split="test", hf_subset="default")
    seconds = time.perf_counter() - started
    return seconds, hashlib.sha256(np.ascontiguousarray(vectors, np.float32).data).hexdigest()


def measure(make: Any, folder: Path, texts: list[str]) -> tuple[dict[str, float], list[str]]:
    """Run the four cases with one wrapper class."""
    order = np.random.default_rng(1).permutation(len(texts))
    shuffled = [texts[i] for i in order]
    seconds, answers = {}, []
    wrapper = make(FreeEncoder(len(texts)), folder)
    for case, batch in (("cold", texts), ("warm, other order", shuffled), ("warm, same batch again", shuffled)):
        seconds[case], answer = timed(wrapper, batch)
        answers.append(answer)
    wrapper.close()
    started = time.perf_counter()
    wrapper = make(FreeEncoder(1), folder)
    _, answer = timed(wrapper, texts[:1])
    seconds["open, first look-up"] = time.perf_counter() - started
    wrapper.close()
    return seconds, [*answers, answer]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=100_000)
    count = parser.parse_args().texts
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    texts = short_texts(count)
    with tempfile.TemporaryDirectory() as folder:
        ours, our_answers = measure(CachedEmbeddingWrapper, Path(folder, "ours"), texts)
        peer, peer_answers = measure(PeerWrapper, Path(folder, "peer"), texts)
    if our_answers != peer_answers:
        msg = "the two caches gave different vectors"
        raise SystemExit(msg)
    print(f"{count:,} texts x {DIMENSIONS} float32\n{'':<24}{'ours':>10}{'mteb':>10}{'ratio':>8}")
    for case in ours:
        print(f"{case:<24}{ours[case]:>9.3f}s{peer[case]:>9.3f}s{peer[case] / ours[case]:>7.1f}x")
    ratios = {case: round(peer[case] / ours[case], 2) for case in ours}
    print(json.dumps({"texts": count, "dimensions": DIMENSIONS, "ours": ours, "peer": peer, "ratio": ratios}))


if __name__ == "__main__":
    main()
