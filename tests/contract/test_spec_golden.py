"""The golden repository is read by the package and by the reference reader, with the same answer."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

import reference_reader
from cas_cache import EmbeddingCache
from cas_cache.mirror import Mirror
from paths import SUPPORT, TESTS

GOLDEN = TESTS / "golden" / "v1"
EXPECTED: dict[str, dict[str, list[str]]] = json.loads((GOLDEN / "expected.json").read_text("utf-8"))


def check(namespace: str, rows: dict[str, str]) -> None:
    """Every key is there, each with one of the vectors it may have."""
    assert rows.keys() == EXPECTED[namespace].keys()
    for key, vector in rows.items():
        assert vector in EXPECTED[namespace][key]


def test_the_reference_reader_reads_it() -> None:
    """A reader written from the spec finds every row."""
    found = reference_reader.read(GOLDEN / "repository")
    assert found.keys() == EXPECTED.keys()
    for namespace, (_, rows) in found.items():
        check(namespace, {key.hex(): vector.tobytes().hex() for key, vector in rows.items()})


def test_the_reference_reader_imports_neither_of_us() -> None:
    """It imports neither cas_cache nor zarr, and is short."""
    source = (SUPPORT / "reference_reader.py").read_text("utf-8")
    imported = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert imported == {"hashlib", "json", "re", "pathlib", "typing", "numpy"}
    assert len(source.splitlines()) <= 120


def test_the_package_reads_it(tmp_path: Path) -> None:
    """A pull finds every row, and a new handle still has them."""
    with EmbeddingCache(tmp_path / "mirror", remote=str(GOLDEN / "repository"), read_only=True) as cache:
        assert cache.pull().problems == []
    found = Mirror(tmp_path / "mirror").namespaces()
    assert {ns.spec.namespace for ns in found} == EXPECTED.keys()
    for ns in found:
        vectors = ns.take(np.arange(ns.rows))
        check(ns.spec.namespace, {k.tobytes().hex(): v.tobytes().hex() for k, v in zip(ns.keys, vectors, strict=True)})


def test_zarr_reads_it() -> None:
    """Every pack opens in plain zarr, with the numbers that are expected."""
    for manifest in (GOLDEN / "repository" / "manifests").glob("*/*.json"):
        group = zarr.open_group(GOLDEN / "repository" / "packs" / manifest.stem, mode="r")
        for key, vector in zip(np.asarray(group["keys"]), np.asarray(group["vectors"]), strict=True):
            assert vector.tobytes().hex() in EXPECTED[manifest.parent.name][key.tobytes().hex()]


@pytest.mark.parametrize("kind", ["keys", "vectors", "digests", "manifest", "spec"])
def test_the_reference_reader_refuses_damage(tmp_path: Path, kind: str) -> None:
    """The spec's checks are enough to notice a flipped bit anywhere that is read."""
    root = shutil.copytree(GOLDEN / "repository", tmp_path / "repository")
    manifest = min(root.glob("manifests/*/*.json"))
    path = {
        "manifest": manifest,
        "spec": root / "specs" / f"{manifest.parent.name}.json",
    }.get(kind) or min((root / "packs" / manifest.stem / kind).glob("c/0*"))
    path = next(path.rglob("*")) if path.is_dir() else path
    path.write_bytes(path.read_bytes()[:-2] + bytes([path.read_bytes()[-2] ^ 1]) + path.read_bytes()[-1:])
    with pytest.raises((reference_reader.Refused, ValueError, KeyError)):
        reference_reader.read(root)


def test_the_golden_repository_is_made_the_same_today(tmp_path: Path) -> None:
    """Today's writer still makes the very same objects under the very same names, whatever zarr is installed."""
    subprocess.run([sys.executable, str(TESTS / "golden" / "make.py"), str(tmp_path)], check=True)
    assert json.loads((tmp_path / "expected.json").read_text("utf-8")) == EXPECTED

    def objects(root: Path) -> dict[str, bytes]:
        return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}

    assert objects(tmp_path / "repository") == objects(GOLDEN / "repository")
