"""Tests of search: left out where faiss, and for those of mteb where mteb, is not installed; on one thread."""

import importlib.util
import os
from collections.abc import Iterator

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: it reads this once

collect_ignore_glob = [] if importlib.util.find_spec("faiss") else ["test_*.py"]
if not importlib.util.find_spec("mteb"):
    collect_ignore_glob.append("test_search_mteb.py")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Keep faiss' and torch's threads from spinning against other processes."""
    import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)
