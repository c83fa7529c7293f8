"""A search in a forked process after a search in its parent: OpenMP's pool of threads is not copied by a fork."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from background_runs import environment
from tiers import sampled

SCRIPT = """
import os, signal, sys
import numpy as np
from cas_cache import EmbeddingCache
from cas_cache.search import open_search
from storages import SPEC
rows = np.random.default_rng(0).standard_normal((20_000, 64)).astype(np.float32)
cache = EmbeddingCache(sys.argv[1])
cache.put([str(n) for n in range(len(rows))], rows, SPEC)
index = sys.argv[2] or None
searcher = open_search(cache.mirror, SPEC, index=index)
expected = searcher.search(rows[:500], k=3).rows

def search(forks):
    for each in (searcher, open_search(cache.mirror, SPEC, index=index)):
        assert (each.search(rows[:500], k=3).rows == expected).all()
    if forks:
        wait_for_child(forks - 1)

def wait_for_child(forks):
    child = os.fork()
    if child == 0:
        code = 1
        signal.alarm(40)
        try:
            search(forks)
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    assert status == 0, f"the child ended with {status}"

wait_for_child(1)
"""


@pytest.mark.verify
@pytest.mark.skipif(sys.platform != "linux", reason="forks a process with threads")
@pytest.mark.parametrize("index", sampled(["", "HNSW32"], keep=[""]))
def test_a_forked_process_finds_what_its_parent_finds(tmp_path: Path, index: str) -> None:
    """A child, and a child of the child, search by the searcher that they were given and by one that they open."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path), index],
        env={**environment(), "OMP_NUM_THREADS": str(max(2, os.cpu_count() or 2))},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
