"""Importing is cheap: what is heavy is imported by the call that needs it."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "mteb", "zarr", "datasets", "fsspec", "s3fs", "aiobotocore", "rich", "tqdm", "sentence_transformers"}


def loaded_by(statement: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has after a statement."""
    code = f"import sys\n{statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(process.stdout.split())


@pytest.mark.parametrize("module", ["cas_cache", "cas_cache.repository", "cas_cache.cli"])
def test_import_loads_nothing_heavy(module: str) -> None:
    """`import cas_cache` stays fast."""
    loaded = loaded_by(f"import {module}")
    assert "numpy" in loaded
    assert not loaded & HEAVY


def test_the_mteb_package_loads_neither_mteb_nor_torch() -> None:
    """The wrapper can be imported where mteb is not installed."""
    assert not loaded_by("import cas_cache.mteb") & {"mteb", "torch", "datasets", "sentence_transformers"}


def test_a_local_cache_needs_no_file_system_package() -> None:
    """A run without a remote loads neither fsspec nor zarr."""
    code = (
        "import tempfile, numpy, cas_cache\n"
        "spec = cas_cache.EncoderSpec(model='m/m', revision='1')\n"
        "with tempfile.TemporaryDirectory() as d, cas_cache.EmbeddingCache(d) as cache:\n"
        "    cache.encode(['a'], spec, lambda batch: numpy.ones((1, 2), 'float32'))\n"
    )
    assert not loaded_by(code) & HEAVY
