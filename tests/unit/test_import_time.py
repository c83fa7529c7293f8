"""Importing is cheap: what is heavy is imported by the call that needs it."""

import subprocess
import sys
from pathlib import Path

import pytest

from cas_cache import EmbeddingCache, EncoderSpec

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
    assert "numpy" in loaded or module != "cas_cache.repository"
    assert not loaded & HEAVY


def test_public_names_are_imported_when_asked_for() -> None:
    """`import cas_cache` costs nothing; each public name is there, by attribute, by import and in dir()."""
    assert not loaded_by("import cas_cache") & {*HEAVY, "numpy"}
    assert "numpy" in loaded_by("from cas_cache import EmbeddingCache")
    code = (
        "import cas_cache; assert set(cas_cache.__all__) <= set(dir(cas_cache)); "
        "[getattr(cas_cache, name) for name in cas_cache.__all__]; from cas_cache import *; EncoderSpec, CacheMiss; "
        "assert not hasattr(cas_cache, 'Nonsense')"
    )
    assert "numpy" in loaded_by(code)


COMMAND = (
    "import sys, cas_cache.cli; sys.argv = ['cas-cache', *{words}]\ntry: cas_cache.cli.main()\nexcept SystemExit: pass"
)


def test_help_imports_no_command() -> None:
    """Not even NumPy: it is answered before one could be imported."""
    assert not loaded_by(COMMAND.format(words=["--help"])) & {*HEAVY, "numpy", "asyncio"}


def test_ls_imports_what_a_mirror_needs(tmp_path: Path) -> None:
    """Neither the cache, nor what moves, exchanges or searches; rich only for a table."""
    EmbeddingCache(tmp_path / "mirror").put(["a"], [[1.0]], EncoderSpec(model="m/m", revision="1"))
    script = COMMAND.format(words=["ls", str(tmp_path / "mirror")])
    whole = f"{script}\nprint(*(name for name in sys.modules if name.startswith('cas_cache.')))"
    process = subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, check=True)
    assert "m/m@1" in process.stdout
    *_, ours = process.stdout.splitlines()
    assert not set(ours.split()) & {f"cas_cache.{name}" for name in ("cache", "sync", "interop", "search", "doctor")}
    assert loaded_by(script) & HEAVY == {"rich"}, "which draws the table"
    assert not loaded_by(COMMAND.format(words=["ls", str(tmp_path / "mirror"), "--json"])) & HEAVY


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
