"""Tests of search: on one thread."""

import os
from collections.abc import Iterator

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: it reads this once


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Keep faiss' and torch's threads from spinning against other processes."""
    import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)
