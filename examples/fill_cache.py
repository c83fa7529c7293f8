"""Encode a file of texts on several processes, each its share, into one cache.

    torchrun --standalone --nproc-per-node 8 examples/fill_cache.py texts.txt --remote s3://team/emb
    srun --ntasks 8 python examples/fill_cache.py texts.txt --remote s3://team/emb
    python examples/fill_cache.py texts.txt --remote s3://team/emb --only-cached

torchrun (RANK, WORLD_SIZE) or SLURM (SLURM_PROCID, SLURM_NTASKS) tells each process its share; without them, one
process takes everything. No process waits for another: each commits to its mirror and pushes on its own. The last line
above is the evaluation afterwards: it encodes nothing, and fails if a share is missing.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache import EmbeddingCache, EncoderSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPEC = EncoderSpec(model="acme/letters", revision="v1", role="document")


def embed(texts: list[str]) -> NDArray[Any]:
    """Replace this with your model: load it here, on the device of LOCAL_RANK or SLURM_LOCALID."""
    return np.array([[text.count(letter) for letter in "aeiou"] for text in texts], dtype=np.float32)


def place() -> tuple[int, int]:
    """Return the number of this process, and the number of processes."""
    for rank, size in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
        if rank in os.environ and size in os.environ:
            return int(os.environ[rank]), int(os.environ[size])
    return 0, 1


def share(texts: list[str], rank: int, size: int) -> list[str]:
    """Return a process's share. Neighbours stay together, so that a task's rows are adjacent in the packs."""
    return texts[len(texts) * rank // size : len(texts) * (rank + 1) // size]


def main() -> int:
    """Encode this process's share; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, help="a text a line")
    parser.add_argument("--remote", help="the repository; by default CAS_CACHE_REMOTE")
    parser.add_argument("--mirror", type=Path, help="the mirror; {rank} in it stands for the rank")
    parser.add_argument("--only-cached", action="store_true", help="look everything up, encode nothing")
    arguments = parser.parse_args()
    rank, size = place()
    # A text that occurs in two shares would be encoded twice.
    texts = list(dict.fromkeys(arguments.texts.read_text("utf-8").splitlines()))
    mine = texts if arguments.only_cached else share(texts, rank, size)
    mirror = arguments.mirror and str(arguments.mirror).replace("{rank}", str(rank))
    with EmbeddingCache(
        mirror, remote=arguments.remote, only_cached=arguments.only_cached, on_remote_error="raise"
    ) as cache:
        vectors = cache.encode(mine, SPEC, encoder=embed)
    print(f"rank {rank} of {size}: {len(vectors)} vectors, {cache.stats.encoded} encoded", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
