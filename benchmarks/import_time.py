"""How long ``import cas_cache`` takes in a new process, beside ``import numpy`` and ``import zarr``.

    python benchmarks/import_time.py [--runs 15]

Prints medians and, as its last line, one JSON object with milliseconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

MODULES = ("numpy", "cas_cache", "zarr")


def milliseconds(module: str) -> float:
    """Return the time of one import in a new interpreter, its start not counted."""
    code = f"import time; t = time.perf_counter(); import {module}; print((time.perf_counter() - t) * 1000)"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    times: dict[str, list[float]] = {module: [] for module in MODULES}
    for _ in range(runs):  # in turn, so that a busy moment hits all of them
        for module in MODULES:
            times[module].append(milliseconds(module))
    medians = {module: round(statistics.median(values), 1) for module, values in times.items()}
    for module, value in medians.items():
        print(f"import {module:<12}{value:>8.1f} ms")
    print(json.dumps({"runs": runs, "milliseconds": medians}))


if __name__ == "__main__":
    main()
