"""Bytes per row, in a mirror and in a repository, beyond the vector.

    python benchmarks/size.py [--rows 100000] [--dimensions 384]

Sizes are those of files, not of disk blocks; vectors are float32. Rows are stored by one call and pushed by one. A
mirror's index is made when rows are looked up, so all of them are. Prints a table and, as its last line, one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from cas_cache import EmbeddingCache, EncoderSpec


def size(folder: Path) -> int:
    """Return the total size in bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=384)
    options = parser.parse_args()
    spec = EncoderSpec(model="benchmark/size", revision="1")
    texts = [f"text {number}" for number in range(options.rows)]
    vectors = np.random.default_rng(0).random((options.rows, options.dimensions), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        mirror, remote = Path(folder, "mirror"), Path(folder, "remote")
        with EmbeddingCache(mirror, remote=remote, push="manual", progress=False) as cache:
            cache.put(texts, vectors, spec)
            cache.push()
        with EmbeddingCache(mirror, progress=False) as cache:
            cache.get(texts, spec)
        found = {
            "rows": options.rows,
            "vector": vectors[0].nbytes,
            "mirror": round(size(mirror) / options.rows, 1),
            "repository": round(size(remote) / options.rows, 1),
            "objects": sum(path.is_file() for path in remote.rglob("*")),
        }
    for name, value in found.items():
        print(f"{name:<12}{value:>10,}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
