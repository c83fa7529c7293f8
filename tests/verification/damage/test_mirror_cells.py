"""Every file of a mirror x every damage x every reader: no damage is served, searched, exported or pushed as a vector.

`mirror.test_mirror_damage` states the outcomes; this module counts.
"""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cas_cache import EmbeddingCache, sync
from cas_cache.errors import CasCacheError
from cas_cache.identity import keys_of_texts
from cas_cache.interop import export, select_namespace
from cas_cache.mirror import Mirror, View, index
from cas_cache.mirror.check import check_mirror
from cas_cache.repository import Repository
from cas_cache.search import open_search
from cas_cache.testing import MemoryStorage
from damages import CHANGES
from storages import OTHER_SPEC, SPEC, Machine, texts, truth

ROWS = 40
TEXTS = texts(ROWS)
VIEW = View("task", SPEC.namespace, SPEC.model, SPEC.revision, "query", "default", "test")
BY_KEY = {key.tobytes(): row for row, key in enumerate(keys_of_texts(TEXTS))}

PRECIOUS = ("vectors.npy", "keys.npy", "digests.npy", "state.json", "spec.json")
"""Files without which rows do not exist; the others can be made again, or only record requests."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save indexes from sixteen rows on, and skip fsync."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(index, "SAVE_ROWS", 16)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Return a mirror with everything but a catalogue: two namespaces, an index, a memo, a view, a FAISS index."""
    directory = tmp_path / "whole"
    with opened(directory) as cache:
        for spec in (SPEC, OTHER_SPEC):
            for _ in range(2):  # the second time, the batch is remembered
                cache.encode(TEXTS, spec, truth)
        cache.mirror.views.record(VIEW, keys_of_texts(TEXTS), None, [f"id {n}" for n in range(ROWS)])
        open_search(cache.mirror, SPEC, index="HNSW32", metric="l2")
    return directory


def opened(directory: Path) -> EmbeddingCache:
    return EmbeddingCache(directory, offline=True, self_check=0, progress=False)


def in_its_place(keys: Any, vectors: Any) -> None:
    """Check that each vector belongs to its key, and that each key was encoded."""
    rows = [BY_KEY[np.asarray(key).tobytes()] for key in keys]
    if rows:  # without rows, the shape is not known
        np.testing.assert_array_equal(vectors, truth(TEXTS)[rows])


# Who reads -----------------------------------------------------------------------------------------------------------


def get(directory: Path) -> None:
    vectors, found = opened(directory).get(TEXTS, SPEC)
    in_its_place(keys_of_texts(TEXTS)[found], vectors[found])


def encode(directory: Path) -> None:
    """Encode items, including those of a remembered batch."""
    np.testing.assert_array_equal(opened(directory).encode(TEXTS, SPEC, truth), truth(TEXTS))


def search(directory: Path) -> None:
    """Search all rows and a view's, with and without a saved index: each score belongs to its key."""
    for faiss_index in (None, "HNSW32"):
        searcher = open_search(Mirror(directory), SPEC, index=faiss_index, metric="l2")
        queries = truth(TEXTS[:3])
        for found in (searcher.search(queries, 3), searcher.search(queries, 3, view=VIEW)):
            rows = np.array([[BY_KEY[key.tobytes()] for key in line] for line in found.keys])
            distances = np.linalg.norm(queries[:, None] - truth(TEXTS)[rows], axis=2)
            np.testing.assert_allclose(found.scores, -distances, rtol=1e-5)


def view(directory: Path) -> None:
    rows = Mirror(directory).view("task")
    in_its_place(rows.keys, rows.vectors)


def exported(directory: Path) -> None:
    ns = Mirror(directory).get(SPEC.namespace)
    if ns is not None:
        target = directory.parent / "exported"
        shutil.rmtree(target, ignore_errors=True)
        export(select_namespace(ns), target, format="npy")
        in_its_place(np.load(target / "keys.npy"), np.load(target / "vectors.npy"))


def push(directory: Path) -> None:
    """Rows that reach a repository are right, whatever stays behind."""
    memory = MemoryStorage()
    with suppress(CasCacheError):
        sync.push(Mirror(directory), Repository(memory))
    shutil.rmtree(directory.parent / "reader", ignore_errors=True)
    reader = Machine(directory.parent / "reader", memory)
    assert reader.pull().problems == []
    for spec in (SPEC, OTHER_SPEC):
        assert len(reader.found(TEXTS, spec)) in (0, ROWS)


READERS: tuple[Callable[[Path], None], ...] = (get, encode, search, view, exported, push)


def damages(whole: Path, path: Path) -> dict[str, bytes | None]:
    """Return what a file may become: by a change of its bytes, or by another file of the mirror in its place."""
    data = path.read_bytes()
    found = {name: change(data) for name, change in CHANGES.items()}
    same = [it for it in sorted(whole.rglob(path.name)) if it != path]
    beside = [it for it in sorted(path.parent.iterdir()) if it.is_file() and it != path and it.stat().st_size]
    for name, others in (("the other namespace's", same), ("another file's", beside)):
        if others:
            found[name] = others[0].read_bytes()
    return {name: changed for name, changed in found.items() if changed != data}


def files(directory: Path) -> list[Path]:
    """Return every file of the mirror itself and of one namespace, except empty ones, which are locks."""
    other = directory / "namespaces" / OTHER_SPEC.namespace
    return [it for it in sorted(directory.rglob("*")) if it.is_file() and it.stat().st_size and other not in it.parents]


@pytest.mark.verify
def test_no_damage_is_served(tmp_path: Path, whole: Path, figure: Callable[[str, int], None]) -> None:
    """Each reader gets right rows, a cas_cache error, or a miss; `check --mirror` reports what was lost."""
    cells = harmful = 0
    for path in files(whole):
        for name, changed in damages(whole, path).items():
            directory = tmp_path / "damaged"
            shutil.rmtree(directory, ignore_errors=True)
            shutil.copytree(whole, directory)
            victim = directory / path.relative_to(whole)
            victim.unlink()
            if changed is not None:
                victim.write_bytes(changed)
            told, harm = _told(directory), _misses(directory)
            for reader in READERS:
                with suppress(CasCacheError):
                    reader(directory)
                cells += 1
            harmful += harm
            if harm and path.name in PRECIOUS and changed is not None:
                assert told, f"{path.name} {name}: rows are lost, and check does not say so"
            cells += 1
    figure("damage cells of mirrors", cells)
    figure("damages of mirrors that cost rows", harmful)


def _told(directory: Path) -> bool:
    """Return True if a check of the mirror finds something."""
    try:
        return not check_mirror(Mirror(directory)).clean
    except CasCacheError:
        return True


def _misses(directory: Path) -> bool:
    """Return True if a row is not served."""
    try:
        return not opened(directory).get(TEXTS, SPEC)[1].all()
    except CasCacheError:
        return True


@pytest.mark.parametrize("reader", READERS)
def test_a_mirror_that_holds_a_wrong_vector_is_noticed(
    tmp_path: Path, whole: Path, reader: Callable[[Path], None]
) -> None:
    """The same judgement detects one wrong vector that matches its digest."""
    shutil.copytree(whole, tmp_path / "healthy")
    reader(tmp_path / "healthy")
    vectors = truth(TEXTS)
    vectors[2, 0] += 1
    shutil.rmtree(whole / "namespaces" / SPEC.namespace)
    Mirror(whole).namespace(SPEC).append(keys_of_texts(TEXTS), vectors)
    with pytest.raises(AssertionError):
        reader(whole)
