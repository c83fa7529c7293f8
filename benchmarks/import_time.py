"""Time that a new process takes for imports, and for ``cas-cache --help`` and ``cas-cache ls``.

    python benchmarks/import_time.py [--runs 15] [--namespaces 12]

Imports are timed inside a new interpreter, without its start, beside ``import numpy`` and ``import zarr``. Commands are
timed as whole processes, from start to end, beside an interpreter that does nothing. Prints medians and, as its last
line, one JSON object with milliseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

from cas_cache import EmbeddingCache, EncoderSpec

MODULES = ("numpy", "cas_cache", "cas_cache.cache", "zarr")
ROWS = 1000
"""Number of rows of a namespace that `ls` lists."""


def import_of(module: str) -> float:
    """Return the milliseconds of one import in a new interpreter."""
    code = f"import time; t = time.perf_counter(); import {module}; print((time.perf_counter() - t) * 1000)"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def process_of(words: list[str]) -> float:
    """Return the milliseconds of one process of this interpreter."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    return (time.perf_counter() - started) * 1000


def make_mirror(directory: str, namespaces: int) -> None:
    """Create the mirror that `ls` lists."""
    cache = EmbeddingCache(directory)
    texts, vectors = [f"text {row}" for row in range(ROWS)], np.ones((ROWS, 8), np.float32)
    for number in range(namespaces):
        cache.put(texts, vectors, EncoderSpec(model=f"org/model-{number}", revision="1", prompt="query: "))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--namespaces", type=int, default=12)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        make_mirror(directory, arguments.namespaces)
        commands = {
            "python -c pass": ["-c", "pass"],
            "cas-cache --help": ["-m", "cas_cache", "--help"],
            "cas-cache ls": ["-m", "cas_cache", "ls", directory],
        }
        os.environ["COLUMNS"] = "80"
        times: dict[str, list[float]] = {}
        for _ in range(arguments.runs):  # alternating, so that a busy moment affects all of them
            for module in MODULES:
                times.setdefault(f"import {module}", []).append(import_of(module))
            for name, words in commands.items():
                times.setdefault(name, []).append(process_of(words))
    medians = {name: round(statistics.median(values), 1) for name, values in times.items()}
    for name, value in medians.items():
        print(f"{name:<24}{value:>8.1f} ms")
    print(json.dumps({"runs": arguments.runs, "namespaces": arguments.namespaces, "milliseconds": medians}))


if __name__ == "__main__":
    main()
