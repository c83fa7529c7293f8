"""Cost of finding rows by their keys: among many keys, in large batches, and just after opening.

    python benchmarks/lookup.py [--rows 10000000] [--batch 1000000] [--opened 1000000]

The batch is in random order, and half of it is present. Each measurement runs in a process of its own, with the files
in the page cache. It is compared with mteb's NumpyCache, which loads ``index.json``, a dict of hex digest -> row.
Prints a table and, as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np

from cas_cache.identity import EncoderSpec, keys_of_texts
from cas_cache.mirror import Mirror, Namespace

SPEC = EncoderSpec(model="bench/lookup", revision="1")
APPENDED_AT_ONCE = 1_000_000
SMALL_BATCH = 8192


def random_keys(seed: int, count: int) -> Any:
    """Return random keys, (count, 32) uint8."""
    return np.frombuffer(np.random.default_rng(seed).bytes(32 * count), np.uint8).reshape(-1, 32)


def opened(directory: str) -> Namespace:
    """Return the namespace of an existing mirror."""
    namespace = Mirror(directory, create=False).get(SPEC.namespace)
    assert namespace is not None
    return namespace


def build(directory: Path, keys: Any, at_once: int) -> float:
    """Append keys with one-byte vectors; return the seconds."""
    namespace = Mirror(directory).namespace(SPEC)
    started = time.perf_counter()
    for start in range(0, len(keys), at_once):
        part = keys[start : start + at_once]
        namespace.append(part, np.ones((len(part), 1), np.uint8))
    return time.perf_counter() - started


def memory() -> dict[str, int]:
    """Return the bytes of this process by kind, as Linux counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: int(fields[name].split()[0]) * 1024 for name in ("VmHWM", "VmRSS", "RssAnon", "RssFile")}


def look_up(directory: str, queries: str) -> dict[str, float]:
    """Measure, in a new process, the first look-up, warm ones, and their memory beyond the result."""
    wanted, truth = np.load(f"{queries}-keys.npy"), np.load(f"{queries}-rows.npy")
    started = time.perf_counter()
    namespace = opened(directory)
    found = namespace.find(wanted)
    first = time.perf_counter() - started
    assert np.array_equal(found, truth), "a wrong row"
    warm = small = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        namespace.find(wanted)
        warm = min(warm, time.perf_counter() - started)
        started = time.perf_counter()
        namespace.find(wanted[:SMALL_BATCH])
        small = min(small, time.perf_counter() - started)
    tracemalloc.start()
    found = namespace.find(wanted)
    allocated = tracemalloc.get_traced_memory()[1] - found.nbytes
    tracemalloc.stop()
    del found
    before = memory()
    Path("/proc/self/clear_refs").write_text("5")
    found = namespace.find(wanted)
    after = memory()
    rows = len(wanted)
    return {
        "first_us_a_key": first / rows * 1e6,
        "warm_us_a_key": warm / rows * 1e6,
        "warm_small_batch_us_a_key": small / min(rows, SMALL_BATCH) * 1e6,
        "allocated_bytes_a_key": allocated / rows,
        "rss_peak_growth_bytes_a_key": (after["VmHWM"] - before["VmRSS"] - found.nbytes) / rows,
        "mapped_bytes_a_row": after["RssFile"] / namespace.rows,
    }


def open_ours(directory: str, text: str) -> dict[str, float]:
    """Measure, in a new process, opening a mirror and reading the first row."""
    key = keys_of_texts([text])
    started = time.perf_counter()
    namespace = opened(directory)
    vector = namespace.take(namespace.find(key))
    seconds = time.perf_counter() - started
    assert vector.shape == (1, 1)
    return {"seconds": seconds}


def open_peer(directory: str, text: str) -> dict[str, float]:
    """Measure the same with mteb's cache, and the time of its dict for a batch of digests that are in memory."""
    from mteb.models.cache_wrappers.cache_backends.numpy_cache import NumpyCache

    logging.disable(logging.WARNING)
    started = time.perf_counter()
    cache = NumpyCache(directory)
    cache.load()
    vector = cache.get_vector({"text": text})
    seconds = time.perf_counter() - started
    assert vector is not None
    digests = list(cache.hash_to_index)
    digests = [digests[i] for i in np.random.default_rng(3).permutation(len(digests))]
    started = time.perf_counter()
    found = [cache.hash_to_index.get(digest) for digest in digests]
    return {"seconds": seconds, "us_a_key": (time.perf_counter() - started) / len(found) * 1e6}


def in_new_process(task: str, *arguments: str) -> dict[str, float]:
    """Run one of the three functions above three times and return the best of each number."""
    command = [sys.executable, __file__, "--task", task, *arguments]
    outputs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(3)]
    results = [json.loads(output.splitlines()[-1]) for output in outputs]
    return {name: min(result[name] for result in results) for name in results[0]}


def measure_look_ups(folder: Path, rows: int, batch: int) -> dict[str, float]:
    """Measure look-ups of a batch, half of it present, among many keys."""
    keys = random_keys(0, rows)
    seconds = build(folder / "many", keys, APPENDED_AT_ONCE)
    random = np.random.default_rng(1)
    present = random.choice(rows, batch // 2, replace=False)
    wanted = np.concatenate([keys[present], random_keys(2, batch - len(present))])
    truth = np.concatenate([present, np.full(batch - len(present), -1)])
    order = random.permutation(batch)
    np.save(folder / "wanted-keys.npy", wanted[order])
    np.save(folder / "wanted-rows.npy", truth[order])
    del keys, wanted
    return {"append_us_a_row": seconds / rows * 1e6, **in_new_process("look_up", f"{folder}/many", f"{folder}/wanted")}


def measure_opening(folder: Path, rows: int) -> dict[str, float]:
    """Measure the opening of a mirror and of a NumpyCache of the same texts."""
    texts = [f"text {i}" for i in range(rows)]
    append = build(folder / "ours", keys_of_texts(texts), SMALL_BATCH)
    peer = folder / "peer"
    peer.mkdir()
    index = {hashlib.sha256(text.encode()).hexdigest(): row for row, text in enumerate(texts)}
    (peer / "index.json").write_text(json.dumps(index, indent=2))
    (peer / "dimension").write_text("1")
    np.ones(rows, np.float32).tofile(peer / "vectors.npy")
    del index
    theirs = in_new_process("open_peer", str(peer), texts[rows // 2])
    ours = in_new_process("open_ours", str(folder / "ours"), texts[rows // 2])["seconds"]
    return {
        "append_8192_us_a_row": append / rows * 1e6,
        "open_seconds": ours,
        "peer_open_seconds": theirs["seconds"],
        "open_ratio": theirs["seconds"] / ours,
        "peer_dict_us_a_key": theirs["us_a_key"],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--batch", type=int, default=1_000_000)
    parser.add_argument("--opened", type=int, default=1_000_000)
    parser.add_argument("--task", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        task, *rest = arguments.task
        print(json.dumps({"look_up": look_up, "open_ours": open_ours, "open_peer": open_peer}[task](*rest)))
        return
    with tempfile.TemporaryDirectory() as name:
        many = measure_look_ups(Path(name), arguments.rows, arguments.batch)
    with tempfile.TemporaryDirectory() as name:
        opening = measure_opening(Path(name), arguments.opened)
    result: dict[str, float] = {**vars(arguments), **many, **opening}
    del result["task"]
    for measured, value in result.items():
        print(f"{measured:<32}{value:>14,.4g}" if isinstance(value, float) else f"{measured:<32}{value:>14,}")
    print(json.dumps({k: round(v, 5) for k, v in result.items()}))


if __name__ == "__main__":
    main()
