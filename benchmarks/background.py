"""Cost of background pushes in an evaluation: the time inside `encode`, without a remote and with slow remotes.

    python benchmarks/background.py [--texts 60000] [--dimensions 768] [--repeat 3] [--slow 2.0]

Two encoders are used: one that takes a fixed time per chunk and leaves the processor idle (a GPU, a web service), and
one that uses as much of every core as it can get (a CPU). Four cases are measured for each: no remote, pushing at the
end (``push="manual"``), a repository in a local folder, and the same folder behind a storage in which every PUT takes
``--slow`` seconds longer. Each run is a process of its own. Cases alternate, so that a machine that slows down affects
all of them.

Prints, for the best run of each case: seconds inside `encode`, their ratio to the run without a remote, how many of
these seconds the encoder took, seconds in the push at the end, and the share of the vectors that was uploaded by then.
The last line is one JSON object. With the idle encoder, the rest of the ratio is the price of committing beside a push.
With the busy one, hashing and sending also use processor time that the encoder would have had.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from cas_cache import EmbeddingCache, EncoderSpec
from cas_cache.repository import Repository
from cas_cache.storage import open_storage

SPEC = EncoderSpec(model="bench/encoder", revision="1")
CASES = ("no remote", "push at the end", "local folder", "slow remote")
ENCODERS = ("idle", "busy")
CALL = 5_000
"""Number of texts in one call."""


class SlowStorage:
    """A storage in which every PUT takes longer."""

    def __init__(self, inner: Any, seconds: float) -> None:
        self._inner = inner
        self._seconds = seconds
        self.url, self.traffic, self.capabilities = inner.url, inner.traffic, inner.capabilities
        self.get, self.list, self.delete, self.close = inner.get, inner.list, inner.delete, inner.close

    def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
        """Sleep, then write."""
        time.sleep(self._seconds)
        self._inner.put(path, data, create_only=create_only)


class Encoder:
    """Encoder that takes about 50 microseconds per item, either asleep or multiplying matrices on every core."""

    def __init__(self, kind: str, dimensions: int) -> None:
        self._kind = kind
        self._random = np.random.default_rng(0)
        self._dimensions = dimensions
        self._work = self._random.standard_normal((512, 512), dtype=np.float32)
        self.seconds = 0.0

    def __call__(self, texts: list[str]) -> Any:
        """Return a random vector for each text, after the encoder's time has passed."""
        began = time.perf_counter()
        vectors = self._random.standard_normal((len(texts), self._dimensions), dtype=np.float32)
        if self._kind == "idle":
            time.sleep(max(0.0, len(texts) * 50e-6 - (time.perf_counter() - began)))
        else:
            for _ in range(len(texts) // 400):
                np.matmul(self._work, self._work)
        self.seconds += time.perf_counter() - began
        return vectors


def measure(case: str, kind: str, options: argparse.Namespace) -> dict[str, float]:
    """Run one case in this process."""
    with tempfile.TemporaryDirectory() as folder:
        remote = None if case == "no remote" else str(Path(folder, "repository"))
        push: Any = "manual" if case == "push at the end" else "background"
        cache = EmbeddingCache(Path(folder, "mirror"), remote=remote, push=push, progress=False)
        if case == "slow remote":
            cache.repository = Repository(SlowStorage(open_storage(str(remote)), options.slow))
        texts = [f"text {n}" for n in range(options.texts)]
        encoder = Encoder(kind, options.dimensions)
        cache.get(texts[:1], SPEC)  # the first access to the repository pulls, and does not push
        began = time.perf_counter()
        for first in range(0, len(texts), CALL):
            cache.encode(texts[first : first + CALL], SPEC, encoder)
        inside = time.perf_counter() - began
        up = 0 if cache.repository is None else cache.repository.storage.traffic.up
        began = time.perf_counter()
        if push == "manual" and remote is not None:
            cache.push()
        cache.close()
        return {
            "inside": inside,
            "encoder": encoder.seconds,
            "end": time.perf_counter() - began,
            "up": up / (options.texts * options.dimensions * 4),
        }


def in_a_process(case: str, kind: str, arguments: list[str]) -> dict[str, float]:
    """Run one case in a process of its own."""
    command = [sys.executable, __file__, *arguments, "--case", case, "--encoder", kind]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=60_000)
    parser.add_argument("--dimensions", type=int, default=768)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--slow", type=float, default=2.0, help="seconds that a PUT takes more")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--encoder", choices=ENCODERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case, options.encoder, options)))
        return
    runs: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(options.repeat):
        for kind in ENCODERS:
            for case in CASES:
                runs.setdefault((kind, case), []).append(in_a_process(case, kind, sys.argv[1:]))
    best = {of: min(found, key=lambda run: run["inside"]) for of, found in runs.items()}
    table = Table(title=f"{options.texts:,} texts, {options.dimensions} dimensions, best of {options.repeat}")
    for column in ("encoder", "case", "inside encode", "ratio", "encoder alone", "at the end", "up by then"):
        table.add_column(column, justify="left" if column in ("encoder", "case") else "right")
    ratios: dict[str, dict[str, float]] = {}
    for (kind, case), run in best.items():
        ratio = run["inside"] / best[kind, CASES[0]]["inside"]
        ratios.setdefault(kind, {})[case] = round(ratio, 3)
        table.add_row(
            kind, case, f"{run['inside']:.2f} s", f"{ratio:.2f}", f"{run['encoder']:.2f} s", f"{run['end']:.2f} s",
            f"{run['up']:.0%}",
        )  # fmt: skip
    Console().print(table)
    print(json.dumps({"ratios": ratios}))


if __name__ == "__main__":
    main()
