"""Rows whose vector is a function of their key, and a process that appends them.

A test that knows only a key can compute its vector, bit for bit. So a lost, mixed-up or torn row is detected, whichever
process wrote it. As a script, ``mirror_rows.py DIRECTORY SEED ITEMS ROUNDS`` appends random overlapping batches and
prints a line after each commit; with ROUNDS 0 it reads instead, until its input is closed.
"""

import select
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

from cas_cache.identity import EncoderSpec, keys_of_texts
from cas_cache.mirror import Mirror, Namespace

SPEC = EncoderSpec(model="org/model", revision="a1b2c3d")
OTHER = EncoderSpec(model="org/model", revision="0000000")
MAX_BATCH = 400


def keys_for(items: Iterable[int]) -> Any:
    """Return the keys of items, (n, 32) uint8."""
    return keys_of_texts([f"item {item}" for item in items])


def vectors_for(keys: Any, dtype: str = "float32", shape: tuple[int, ...] = (24,)) -> Any:
    """Return (n, *shape) vectors that depend on the keys alone."""
    count = int(np.prod(shape))
    numbers = np.tile(keys, (1, -(-count // 32)))[:, :count].astype(np.int64) + np.arange(count)
    if dtype == "bool":
        return (numbers % 2).astype(dtype).reshape(-1, *shape)
    return (numbers % 120 if "int" in dtype else numbers / 7).astype(dtype).reshape(-1, *shape)


def check_all(ns: Namespace) -> dict[bytes, int]:
    """Assert that every committed row is right, in every column and found under its key; return key -> row."""
    keys = np.array(ns.keys)
    rows = np.arange(ns.rows)
    assert len(keys) == ns.rows
    assert np.array_equal(ns.find(keys), rows), "a key is stored twice or leads elsewhere"
    if ns.rows:
        assert ns.dtype is not None
        assert np.array_equal(ns.take(rows), vectors_for(keys, ns.dtype.name, ns.shape))
    return {key.tobytes(): row for row, key in enumerate(keys)}


def read(directory: str) -> None:
    """Check all rows repeatedly: they are right, and no known row disappears or moves."""
    ns = Mirror(directory).namespace(SPEC)
    print("ready", flush=True)
    seen: dict[bytes, int] = {}
    while not select.select([sys.stdin], [], [], 0)[0]:
        ns.refresh()
        rows = check_all(ns)
        assert seen.items() <= rows.items(), "a row that was seen is gone, or has moved"
        seen = rows
    print(len(seen), flush=True)


def main(directory: str, seed: int, items: int, rounds: int) -> None:
    """Append `rounds` random batches out of `items` items."""
    random = np.random.default_rng(seed)
    ns = Mirror(directory).namespace(SPEC)
    print("ready", flush=True)
    for _ in range(rounds):
        batch = random.integers(0, items, random.integers(1, MAX_BATCH))
        keys = keys_for(batch)
        ns.append(keys, vectors_for(keys))
        print(*np.unique(batch), flush=True)


if __name__ == "__main__":
    if int(sys.argv[4]):
        main(sys.argv[1], *map(int, sys.argv[2:]))
    else:
        read(sys.argv[1])
