"""`check_mirror` finds every damaged row of every namespace, and is silent about healthy mirrors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cas_cache.identity import keys_of_texts
from cas_cache.mirror import Mirror
from cas_cache.mirror.check import check_mirror
from cas_cache.mirror.state import Extent, State
from storages import OTHER_SPEC, SPEC, texts, truth


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a mirror with two namespaces of 100 rows."""
    mirror = Mirror(tmp_path / "mirror")
    for spec in (SPEC, OTHER_SPEC):
        mirror.namespace(spec).append(keys_of_texts(texts(100)), truth(texts(100)))
    return mirror.directory


def found(directory: Path) -> list[tuple[str, str, int]]:
    return [(it.namespace, it.kind, it.rows) for it in check_mirror(Mirror(directory)).findings]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


def test_a_healthy_mirror(directory: Path, tmp_path: Path) -> None:
    """Nothing is reported, also for a namespace without rows, and no file changes."""
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    report = check_mirror(Mirror(directory))
    assert (report.clean, report.namespaces, report.rows) == (True, 2, 200)
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before
    empty = Mirror(tmp_path / "empty")
    empty.namespace(SPEC)
    assert check_mirror(empty).as_json() == {
        "clean": True,
        "namespaces": 1,
        "rows": 0,
        "findings": [],
        "unverified": [],
    }


@pytest.mark.parametrize("column", ["keys", "vectors", "digests"])
def test_every_damaged_row_is_counted(directory: Path, column: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage is counted in any column and any block; the other namespace is still checked."""
    monkeypatch.setattr("cas_cache.mirror.check.ROWS_AT_ONCE", 7)
    path = directory / "namespaces" / SPEC.namespace / f"{column}.npy"
    width = np.load(path).nbytes // 100
    for row in (0, 50, 99):
        flip(path, path.stat().st_size - (100 - row) * width)
    assert found(directory) == [(SPEC.namespace, "rows", 3)]


def test_what_does_not_open_is_damaged(directory: Path) -> None:
    """A truncated column, an invalid state, a newer one: each namespace has its own finding."""
    folder = directory / "namespaces"
    (folder / SPEC.namespace / "vectors.npy").write_bytes(b"short")
    (folder / OTHER_SPEC.namespace / "state.json").write_text("{")
    assert sorted(kind for _, kind, _ in found(directory)) == ["damaged", "damaged"]
    (folder / OTHER_SPEC.namespace / "state.json").write_text('{"version": 99}')
    assert sorted(kind for _, kind, _ in found(directory)) == ["damaged", "newer"]


def test_repeated_keys_are_told(directory: Path) -> None:
    """A repeated key wastes space, and is a bug of its writer."""
    ns = Mirror(directory).namespace(SPEC)
    keys, vectors, digests = ns.table.keys[:3], ns.table.vectors[:3], ns.table.digests[:3]
    state = State(
        103, "float32", (4,), (Extent(0, 103),), namespace=SPEC.namespace, incarnation=ns.table.state.incarnation
    )
    ns.table.append(np.array(keys), np.array(vectors), np.array(digests), state)
    assert found(directory) == [(SPEC.namespace, "repeats", 3)]


def test_from_the_command_line(run: Any, directory: Path) -> None:
    """The exit code is 0, or 1 with a line per finding."""
    assert run("check", directory, "--mirror") == (0, "checked 2 namespaces, 200 rows: 0 findings\n", "")
    flip(directory / "namespaces" / SPEC.namespace / "vectors.npy", -5)
    result = run("check", directory, "--mirror")
    assert (result.code, result.out.startswith(f"rows: {SPEC.namespace}: 1 of 100 rows")) == (1, True)
    document = json.loads(run("check", directory, "--mirror", "--json").out)
    assert (document["clean"], document["findings"][0]["kind"]) == (False, "rows")
    assert run("check", directory, "--mirror", "--read-data").code == 2
    assert run("check", directory.parent / "none", "--mirror").code == 1
