"""Indexes: what they propose is scored from the stored rows; their files are trusted only as far as they verify."""

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import faiss
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from cas_cache import EmbeddingCache
from cas_cache.errors import ConfigurationError, DamagedMirror
from cas_cache.identity import keys_of_texts
from cas_cache.mirror import Mirror, descriptors
from cas_cache.mirror.evict import evict
from cas_cache.search import METRICS, faiss_index, open_search
from cas_cache.testing.processes import in_process
from search_rows import INDEXES, SPEC, check_truth, filled, overwrite, recall, texts, vectors
from tiers import sampled

ROWS = 3000
NOBODY = 65534
QUERIES = vectors(20, 10**6)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A mirror of 3,000 rows."""
    filled(tmp_path / "mirror", vectors(ROWS))
    return tmp_path / "mirror"


def opened(directory: Path, **options: Any) -> Any:
    """The search, of a mirror that is opened anew."""
    return open_search(Mirror(directory), SPEC, **options)


def files(directory: Path) -> list[Path]:
    return sorted((directory / "namespaces" / SPEC.namespace / "faiss").glob("[!.]*"))


def index_file(directory: Path) -> Path:
    (path,) = [path for path in files(directory) if path.suffix == ".index"]
    return path


@pytest.mark.parametrize("index", sampled(INDEXES, keep=3))
@pytest.mark.parametrize("metric", METRICS)
def test_finds_nearly_all_and_scores_all_right(directory: Path, index: str, metric: str) -> None:
    """Built, and mapped when it is opened again: the same answers, with true scores and keys of their rows."""
    rows = vectors(ROWS)
    built = opened(directory, index=index, metric=metric).search(QUERIES, 10)
    before = files(directory)
    again = opened(directory, index=index, metric=metric)
    found = again.search(QUERIES, 10)
    assert files(directory) == before
    assert again.covered == ROWS
    assert_array_equal(found.rows, built.rows)
    assert_array_equal(found.scores, built.scores)
    assert_array_equal(found.keys, keys_of_texts(texts(ROWS))[found.rows])
    check_truth(found, QUERIES, rows, metric)
    # PQ keeps 6 of the 96 bytes of a row, and for an inner product of rows of any length that is little.
    assert recall(found, QUERIES, rows, metric) > (0.6 if "PQ" in index else 0.85)


@pytest.mark.parametrize("index", INDEXES)
def test_is_mapped_from_its_file(directory: Path, index: str) -> None:
    """Plain faiss opens the file, too."""
    opened(directory, index=index)
    searcher = opened(directory, index=index)
    path = index_file(directory)
    assert str(path) in Path("/proc/self/maps").read_text()
    assert faiss.read_index(str(path)).ntotal == ROWS
    searcher.search(QUERIES, 3)


@pytest.mark.parametrize("index", ["HNSW32", "IVF64,PQ6"])
@pytest.mark.parametrize("dtype", sampled(["float16", "float64", "int8"], keep=3))
def test_other_dtypes(tmp_path: Path, index: str, dtype: str) -> None:
    """Are converted for the index, and scored as they are stored."""
    rows = vectors(2000, dtype=dtype)
    filled(tmp_path, rows)
    check_truth(opened(tmp_path, index=index).search(QUERIES, 5), QUERIES, rows, "cosine")


def test_one_file_serves_all_parameters_of_a_search(directory: Path) -> None:
    """Parameters that shape an index make another."""
    opened(directory, index="HNSW32", parameters="efSearch=16")
    opened(directory, index="HNSW32", parameters="efSearch=200", k_factor=3)
    assert len(files(directory)) == 2
    opened(directory, index="HNSW8")
    assert len(files(directory)) == 4


def test_few_rows_need_no_index(tmp_path: Path) -> None:
    """They are searched exactly."""
    rows = vectors(faiss_index.MIN_ROWS - 1)
    filled(tmp_path, rows)
    searcher = opened(tmp_path, index="IVF64,PQ6")
    assert (searcher.covered, files(tmp_path)) == (0, [])
    assert recall(searcher.search(QUERIES, 9), QUERIES, rows, "cosine") == 1


@pytest.mark.parametrize("index", sampled(INDEXES, keep=3))
def test_rows_that_come_later(directory: Path, index: str) -> None:
    """A few are searched exactly; many extend the file; the answers are right at any time."""
    first = opened(directory, index=index, metric="l2")
    before = files(directory)
    late = vectors(150, 5000)
    filled(directory, late, first=ROWS)
    rows = np.concatenate([vectors(ROWS), late])
    for searcher in (first, opened(directory, index=index, metric="l2")):
        found = searcher.search(late[:9], 4)
        assert found.rows[:, 0].tolist() == list(range(ROWS, ROWS + 9))
        check_truth(found, late[:9], rows, "l2")
        assert searcher.covered == ROWS
    assert files(directory) == before

    later = vectors(400, 6000)
    filled(directory, later, first=ROWS + 150)
    rows = np.concatenate([rows, later])
    second = opened(directory, index=index, metric="l2")
    assert second.covered == len(rows)
    assert len(files(directory)) == 2
    assert not set(files(directory)) & set(before) - {before[1], before[0]}
    for searcher in (first, second):  # the first still has the file that is gone by now
        found = searcher.search(later[:9], 4)
        assert found.rows[:, 0].tolist() == list(range(ROWS + 150, ROWS + 159))
        check_truth(found, later[:9], rows, "l2")
    first.update()
    assert first.covered == len(rows)


def test_quantizers_are_fitted_anew_when_rows_are_many_more(directory: Path) -> None:
    """To all rows, when there are more than four times as many as they were fitted to."""
    opened(directory, index="IVF64,Flat")
    said = json.loads(next(path for path in files(directory) if path.suffix == ".json").read_text())
    assert (said["rows"], said["trained"]) == (ROWS, ROWS)
    filled(directory, vectors(2000, 5000), first=ROWS)
    opened(directory, index="IVF64,Flat")
    filled(directory, vectors(9000, 9000), first=ROWS + 2000)
    for rows, trained in ((5000, ROWS), (14_000, 14_000)):
        if rows == 14_000:
            opened(directory, index="IVF64,Flat")
        said = json.loads(next(path for path in files(directory) if path.suffix == ".json").read_text())
        assert (said["rows"], said["trained"]) == (rows, trained)


DAMAGES = {
    "a link of the graph": lambda index, said: overwrite(index, 300_000, b"\xff" * 64),
    "one bit": lambda index, said: overwrite(index, -9, b"\x01"),
    "cut short": lambda index, said: index.write_bytes(index.read_bytes()[:-1000]),
    "empty": lambda index, said: index.write_bytes(b""),
    "gone": lambda index, said: index.unlink(),
    "longer": lambda index, said: index.write_bytes(index.read_bytes() + b"more"),
    "no JSON": lambda index, said: said.write_text("{"),
    "another kind of JSON": lambda index, said: said.write_text('{"rows": 3}'),
    "a list": lambda index, said: said.write_text("[]"),
    "another version": lambda index, said: said.write_text(said.read_text().replace('"version": 2', '"version": 3')),
    "another folder": lambda index, said: said.write_text(said.read_text().replace('"file": "', '"file": "../')),
    "no rows": lambda index, said: said.write_text(said.read_text().replace('"rows": 3000', '"rows": 0')),
    "fewer rows": lambda index, said: said.write_text(said.read_text().replace('"rows": 3000', '"rows": 2999')),
    "as text": lambda index, said: said.write_text(said.read_text().replace('"rows": 3000', '"rows": "3000"')),
}


@pytest.mark.parametrize("damage", sampled(DAMAGES, keep=4))
def test_a_damaged_index_is_built_anew(directory: Path, damage: str) -> None:
    """Before faiss reads a byte of it: it would follow a wrong link out of its memory."""
    expected = opened(directory, index="HNSW32").search(QUERIES, 10)
    index, said = index_file(directory), next(path for path in files(directory) if path.suffix == ".json")
    DAMAGES[damage](index, said)
    searcher = opened(directory, index="HNSW32")
    found = searcher.search(QUERIES, 10)
    check_truth(found, QUERIES, vectors(ROWS), "cosine")
    assert np.mean(found.rows == expected.rows) > 0.95
    assert len(files(directory)) == 2, "the damaged one is left"
    assert index_file(directory) != index
    assert faiss.read_index(str(index_file(directory))).ntotal == ROWS


def test_an_index_of_other_rows_is_not_used(directory: Path, tmp_path: Path) -> None:
    """It is whole, of the same design and as many rows, and would propose the wrong ones."""
    filled(tmp_path / "other", vectors(ROWS, seed=1))
    opened(tmp_path / "other", index="HNSW32")
    for path in files(tmp_path / "other"):
        place = directory / "namespaces" / SPEC.namespace / "faiss"
        place.mkdir(exist_ok=True)
        shutil.copy(path, place)
    foreign = index_file(directory)
    found = opened(directory, index="HNSW32").search(QUERIES, 10)
    check_truth(found, QUERIES, vectors(ROWS), "cosine")
    assert recall(found, QUERIES, vectors(ROWS), "cosine") > 0.9
    assert not foreign.exists()


def test_an_index_never_names_a_wrong_row(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it proposes (rows beyond the end, rows twice, random ones) is scored by its own vector, or left out."""
    searcher = opened(directory, index="IVF64,Flat")
    random = np.random.default_rng(0)

    class Wrong:
        ntotal = ROWS
        nlist = 10

        def search(self, queries: Any, count: int) -> Any:
            rows = random.integers(-5, 2 * ROWS, (len(queries), count))
            rows[:, 1] = rows[:, 0]
            return np.zeros(rows.shape, np.float32), rows

    monkeypatch.setattr(searcher._finder, "_index", Wrong())
    found = searcher.search(QUERIES, 6)
    check_truth(found, QUERIES, vectors(ROWS), "cosine")
    assert_array_equal(found.keys, keys_of_texts(texts(ROWS))[found.rows])


def test_too_few_are_filled_up_exactly(directory: Path) -> None:
    """One list of an inverted file holds fewer than k rows: no place stays empty."""
    found = opened(directory, index="IVF70,Flat", parameters="nprobe=1").search(QUERIES, 500)
    assert found.rows.shape == (20, 500)
    assert recall(found, QUERIES, vectors(ROWS), "cosine") == 1


def test_damaged_rows_are_not_indexed(directory: Path) -> None:
    """Nor scored, if they were damaged later."""
    path = directory / "namespaces" / SPEC.namespace / "vectors.npy"
    copy = shutil.copytree(directory, directory.parent / "copy")
    opened(copy, index="HNSW32")
    for place in (directory, copy):
        overwrite(place / "namespaces" / SPEC.namespace / path.name, -50, b"\x01\x02")
    with pytest.raises(DamagedMirror):
        opened(directory, index="HNSW32")
    assert files(directory) == []
    with pytest.raises(DamagedMirror):
        opened(copy, index="HNSW32").search(vectors(ROWS)[-1:], 5)


def test_after_eviction_it_is_built_anew(tmp_path: Path) -> None:
    """Rows have moved: what is found has its own key."""
    numbers = dict(zip(texts(4000), vectors(4000), strict=True))
    with EmbeddingCache(tmp_path / "mirror", remote=tmp_path / "repo", push="manual") as cache:
        for first in (0, 2000):
            cache.put(texts(2000, first), np.stack([numbers[text] for text in texts(2000, first)]), SPEC)
            cache.push()
        cache.get(texts(1, 2000), SPEC)  # the second pack is used later
    del cache
    opened(tmp_path / "mirror", index="HNSW32")
    with_all = index_file(tmp_path / "mirror")
    report = evict(Mirror(tmp_path / "mirror"), 400_000)
    assert len(report.evicted) == 1
    mirror = Mirror(tmp_path / "mirror")
    searcher = open_search(mirror, SPEC, index="HNSW32")
    assert searcher.namespace.rows == 2000
    assert searcher.covered == 2000
    assert not with_all.exists()
    found = searcher.search(QUERIES, 5)
    by_key = {key.tobytes(): numbers[text] for key, text in zip(keys_of_texts(texts(4000)), texts(4000), strict=True)}
    rows = np.stack([by_key[key.tobytes()] for key in searcher.namespace.keys])
    check_truth(found, QUERIES, rows, "cosine")


def test_as_long_as_it_is_open_nothing_is_evicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows may not move under a search, however many other namespaces are used meanwhile."""
    monkeypatch.setattr(descriptors, "MAX_OPEN", 8)
    with EmbeddingCache(tmp_path / "mirror", remote=tmp_path / "repo", push="manual") as cache:
        cache.put(texts(1500), vectors(1500), SPEC)
        cache.push()
    searcher = opened(tmp_path / "mirror", index="HNSW32")
    others = [filled(tmp_path / "mirror", vectors(5), replace(SPEC, revision=f"r{n:07d}")) for n in range(10)]
    del others
    assert evict(Mirror(tmp_path / "mirror"), 0).in_use == [SPEC.namespace]
    check_truth(searcher.search(QUERIES, 5), QUERIES, vectors(1500), "cosine")


def _search_in_process(directory: str) -> tuple[Any, int]:
    """What is found, and how many indexes were built for it."""
    built: list[None] = []
    build = faiss_index.build
    with mock.patch.object(faiss_index, "build", lambda *given: built.append(None) or build(*given)):
        searcher = opened(Path(directory), index="HNSW32")
    return searcher.search(QUERIES, 10).rows.tolist(), len(built)


@pytest.mark.verify
def test_processes_build_one_index(directory: Path) -> None:
    """Three at once: one builds, the others wait and map what it built."""
    script = (
        "import json, sys; sys.path[:0] = sys.argv[2:]\n"
        "from test_search_indexes import _search_in_process\n"
        "sys.stdin.read()\n"
        "print(json.dumps(_search_in_process(sys.argv[1])))"
    )
    command = [sys.executable, "-c", script, str(directory), str(Path(__file__).parent), *sys.path]
    pipe = subprocess.PIPE
    running = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(3)]
    for process in running:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    answers = [json.loads(process.communicate(timeout=120)[0]) for process in running]
    assert sum(built for _, built in answers) == 1
    assert answers[0][0] == answers[1][0] == answers[2][0]
    assert len(files(directory)) == 2
    assert in_process("spawn", _search_in_process, str(directory)) == (answers[0][0], 0)


@pytest.mark.parametrize(
    "options",
    sampled([{"index": "HNSW32", "metric": "l2"}, {"index": "HNSW32", "metric": "ip"}, {"index": "HNSW8"}], keep=3),
)
def test_an_index_of_another_design_is_not_used(directory: Path, options: dict[str, str]) -> None:
    """Of the same rows, whole, and under a name that is not its own."""
    by_distance = opened(directory, **options).design.name
    by_cosine = opened(directory, index="HNSW32", metric="cosine").design.name
    place = directory / "namespaces" / SPEC.namespace / "faiss"
    said = (place / f"{by_distance}.json").read_text()
    file = json.loads(said)["file"]
    own = json.loads((place / f"{by_cosine}.json").read_text())["file"]
    foreign = file.replace(by_distance, by_cosine)
    (place / file).rename(place / foreign)
    (place / f"{by_cosine}.json").write_text(said.replace(file, foreign))
    found = opened(directory, index="HNSW32").search(QUERIES, 10)
    assert not (place / foreign).exists()
    assert not (place / own).exists()
    assert recall(found, QUERIES, vectors(ROWS), "cosine") > 0.9


def test_what_a_crash_left_is_cleared_away(directory: Path) -> None:
    """A temporary file, and an index that no JSON came to name."""
    searcher = opened(directory, index="HNSW32")
    place = directory / "namespaces" / SPEC.namespace / "faiss"
    name = searcher.design.name
    left = [place / f".tmp-{name}.00.index", place / f"{name}.11.index"]
    for path in left:
        path.write_bytes(b"half")
    other = place / "notes.index"
    other.write_bytes(b"not ours")
    index_file_of = json.loads((place / f"{name}.json").read_text())["file"]
    (place / index_file_of).unlink()
    opened(directory, index="HNSW32")
    assert not any(path.exists() for path in left)
    assert other.exists()


def _search_as_nobody(directory: str) -> tuple[Any, list[str]]:
    """What is found by a process that is not root, and what it logs."""
    opened(Path(directory)).search(QUERIES, 1)  # imports all that nobody might not be allowed to read
    if os.geteuid() == 0:
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("cas_cache.search").addHandler(handler)
    return opened(Path(directory), index="HNSW32").search(QUERIES, 5).rows, records


@pytest.mark.verify
def test_a_mirror_that_may_not_be_written() -> None:
    """The index is built in memory, with a warning in the log; one that is there is mapped."""
    # Not in pytest's own folder, which no other user may enter.
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "mirror"
        filled(directory, vectors(ROWS))
        Path(name).chmod(0o755)

        def let_write(allowed: bool) -> None:
            for path in [directory, *directory.rglob("*")]:
                path.chmod((0o755 if allowed else 0o555) if path.is_dir() else 0o644 if allowed else 0o444)

        let_write(False)
        try:
            in_memory, says = in_process("spawn", _search_as_nobody, str(directory))
            assert len(says) == 1
            assert "kept in memory" in says[0]
            assert files(directory) == []
            let_write(True)
            opened(directory, index="HNSW32")
            let_write(False)
            mapped, says = in_process("spawn", _search_as_nobody, str(directory))
        finally:
            let_write(True)
        assert says == []
        assert np.mean(in_memory == mapped) > 0.95


def test_a_full_disk_keeps_the_index_in_memory(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was built is searched, and nothing of it is left on the disk."""

    def full(index: Any, path: str) -> None:
        Path(path).write_bytes(b"half of it")
        raise RuntimeError("Error: 'ret == (size)' failed: No space left on device")

    monkeypatch.setattr(faiss, "write_index", full)
    searcher = opened(directory, index="HNSW32")
    assert searcher.covered == ROWS
    check_truth(searcher.search(QUERIES, 5), QUERIES, vectors(ROWS), "cosine")
    assert not any(path.suffix == ".index" for path in (directory / "namespaces" / SPEC.namespace / "faiss").iterdir())


def test_rows_that_are_too_few_to_train_on(directory: Path) -> None:
    """FAISS's own reason is in the error, and nothing is saved."""
    with pytest.raises(ConfigurationError, match=r"index 'IVF5000,Flat'.*should be at least as large as number of"):
        opened(directory, index="IVF5000,Flat")
    assert not any(path.suffix == ".index" for path in files(directory))


@pytest.mark.verify
def test_an_index_that_takes_no_more_rows_is_built_again(directory: Path) -> None:
    """A graph of the kind NSG is built once; many new rows make another."""
    opened(directory, index="NSG16")
    filled(directory, vectors(400, 5000), first=ROWS)
    searcher = opened(directory, index="NSG16")
    assert searcher.covered == ROWS + 400
    check_truth(searcher.search(QUERIES, 5), QUERIES, np.concatenate([vectors(ROWS), vectors(400, 5000)]), "cosine")


def test_files_of_the_earlier_kinds_are_not_used(directory: Path) -> None:
    """Version 1 named indexes by kinds of its own; its description is not taken for a new one's."""
    opened(directory, index="HNSW32")
    index, described = index_file(directory), next(path for path in files(directory) if path.suffix == ".json")
    document = json.loads(described.read_text())
    for added in ("index", "metric"):
        del document[added]
    described.write_text(
        json.dumps({**document, "version": 1, "parameters": {"M": 32}, "sha256": [document["sha256"]]})
    )
    searcher = opened(directory, index="HNSW32")
    assert searcher.covered == ROWS
    assert not index.exists()
