"""Encode on all ranks of torchrun, wait for each other, then evaluate on rank 0, which encodes nothing.

    torchrun --standalone --nproc-per-node 2 examples/evaluate_ranks.py texts.txt --remote s3://team/emb --mirror DIR

`{rank}` in the mirror gives each rank a mirror of its own, and rank 0 pulls the rows that the others pushed. Without
it, the ranks of one machine share one mirror, and no remote is needed.
"""

from __future__ import annotations

import argparse
import sys
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from cas_cache import EmbeddingCache
from fill_cache import SPEC, embed, share

LONGEST = timedelta(hours=24)
"""Maximum time that rank 0 waits for the slowest rank; torch's own 30 minutes are too short for a large share."""


def main() -> int:
    """Encode, wait, evaluate; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, help="a text a line")
    parser.add_argument("--remote", help="the repository; by default CAS_CACHE_REMOTE")
    parser.add_argument("--mirror", required=True, help="the mirror; {rank} in it stands for the rank")
    arguments = parser.parse_args()
    dist.init_process_group("gloo", timeout=LONGEST)  # only to wait for each other; your model may have another
    try:
        rank, size = dist.get_rank(), dist.get_world_size()
        texts = list(dict.fromkeys(arguments.texts.read_text("utf-8").splitlines()))
        mirror = arguments.mirror.replace("{rank}", str(rank))
        with EmbeddingCache(mirror, remote=arguments.remote, on_remote_error="raise") as cache:
            cache.encode(share(texts, rank, size), SPEC, encoder=embed)
        # The cache is closed, so the vectors of this rank are in its mirror and, if there is one, in the repository.
        dist.barrier()
        if rank == 0:
            # A new cache contacts the repository again, so it sees what the other ranks pushed.
            with EmbeddingCache(mirror, remote=arguments.remote, only_cached=True, on_remote_error="raise") as cache:
                vectors = cache.encode(texts, SPEC, encoder=embed)
            print(f"{size} ranks: {len(vectors)} vectors, {cache.stats.encoded} encoded by rank 0 afterwards")
    finally:
        dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
