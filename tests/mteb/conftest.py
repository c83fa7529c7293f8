"""Tests of the mteb integration: offline, on one thread."""

import os
from collections.abc import Iterator

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: it reads this once


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Keep scikit-learn's and torch's pools from spinning against other processes: 50 s became 150 s by that."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield
