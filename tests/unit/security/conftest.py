"""A mirror with every kind of file, and the repository it belongs to, made once."""

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: it reads this once


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `mirror` and `remote`; tests copy them."""
    import hostile_mirrors as mirrors

    made = tmp_path_factory.mktemp("security")
    mirrors.make(made)
    return made
