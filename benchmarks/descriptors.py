"""Cost of a look-up when its namespace is open, and when its files were closed to stay below the descriptor limit.

    python benchmarks/descriptors.py [--namespaces 300] [--rows 1000] [--limit 256]

Lowers the limit of open files of its own process and queries the namespaces one after the other: first a few, which
stay open, then all. Prints microseconds of CPU for a look-up of ten keys, and the number of open files of the process,
as a table and as one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from cas_cache import EncoderSpec
from cas_cache.identity import keys_of_texts
from cas_cache.mirror import Mirror

FEW = 8
"""Number of namespaces that stay open under any limit."""


def spec_of(number: int) -> EncoderSpec:
    """Return the spec of a namespace."""
    return EncoderSpec(model="org/model", revision=f"r{number:07d}")


def fill(directory: Path, namespaces: int, rows: int) -> None:
    """Create namespaces with the same rows: one is written, the others are copies of its files."""
    keys = keys_of_texts([f"text {i}" for i in range(rows)])
    with Mirror(directory) as mirror:
        mirror.namespace(spec_of(0)).append(keys, np.ones((rows, 384), np.float32))
    first = directory / "namespaces" / spec_of(0).namespace
    state = json.loads((first / "state.json").read_bytes())
    for spec in map(spec_of, range(1, namespaces)):
        folder = shutil.copytree(first, first.parent / spec.namespace)
        (folder / "spec.json").write_bytes(spec.canonical())
        (folder / "state.json").write_text(json.dumps({**state, "namespace": spec.namespace}))


def cost_of(mirror: Mirror, order: list[int]) -> float:
    """Return the microseconds of a look-up of ten keys, averaged over the namespaces in turn."""
    keys = keys_of_texts([f"text {i}" for i in range(10)])
    started = time.process_time()
    for number in order:
        ns = mirror.namespace(spec_of(number))
        ns.take(ns.find(keys))
    return (time.process_time() - started) / len(order) * 1e6


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--namespaces", type=int, default=300)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--limit", type=int, default=256)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        fill(Path(directory), arguments.namespaces, arguments.rows)
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (arguments.limit, hard))
        found: dict[str, float] = {}
        with Mirror(directory) as mirror:
            everything = list(range(arguments.namespaces))
            found["first look-up"] = cost_of(mirror, everything)
            cost_of(mirror, everything[:FEW])
            found["open"] = cost_of(mirror, everything[:FEW] * 40)
            cost_of(mirror, everything)
            found["closed and opened again"] = cost_of(mirror, everything)
            found["open files"] = len(list(Path("/dev/fd").iterdir()))
    for name, value in found.items():
        print(f"{name:<26}{value:>8,.0f}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
