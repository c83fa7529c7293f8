"""Many small packs: pulled together, and as safely as one by one."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cas_cache.errors import DamagedPack, RemoteUnavailable
from cas_cache.format.rows import digest_rows
from cas_cache.identity import keys_of_texts
from cas_cache.mirror import WholePack
from cas_cache.mirror.evict import packs_by_use
from cas_cache.mirror.table import Table
from cas_cache.repository import Repository, pack
from cas_cache.sync import small_packs
from storages import SPEC, Counting, Flaky, Machine, Memory, texts, truth
from tiers import sampled

PACKS = 30


@pytest.fixture(autouse=True)
def _few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_packs, "COMMIT_PACKS", 8)


class Rows:
    """Rows for a pack."""

    def __init__(self, names: list[str], vectors: Any) -> None:
        keys = keys_of_texts(names)
        self.columns: dict[str, Any] = {"keys": keys, "vectors": vectors, "digests": digest_rows(keys, vectors)}
        self.rows, self.dtype, self.shape = len(names), vectors.dtype, vectors.shape[1:]

    def column(self, array: str, start: int, stop: int) -> Any:
        return self.columns[array][start:stop]


def published(memory: Memory, names: list[str], vectors: Any, number: int) -> str:
    repository = Repository(memory)
    repository.create()
    repository.publish_spec(SPEC)
    return repository.publish(SPEC.namespace, Rows(names, vectors), f"{number:032x}")


@pytest.fixture
def memory() -> Memory:
    """A repository of 30 packs of 3 rows."""
    memory = Memory()
    for number in range(PACKS):
        names = texts(3, number * 3)
        published(memory, names, truth(names), number)
    return memory


ALL = texts(PACKS * 3)


def commits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the commits of tables, by the rows that they had."""
    counted: list[int] = []

    def count(method: str) -> None:
        original = getattr(Table, method)

        def counting(self: Table, *values: Any) -> None:
            counted.append(values[-1].rows)
            original(self, *values)

        monkeypatch.setattr(Table, method, counting)

    count("append")
    count("commit")
    return counted


def test_they_are_committed_together(memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row is there and every pack is known, with a commit for eight of them; in a new object too."""
    counted = commits(monkeypatch)
    counting = Counting(memory)
    reader = Machine(tmp_path / "reader", counting)
    report = reader.pull()
    assert (report.packs, report.rows, report.problems) == (PACKS, 90, [])
    assert counted == [24, 48, 72, 90]
    # 1 marker, and for each pack a manifest, keys, digests, vectors.
    assert counting.by_verb() == {"get": 2 + 1 + 4 * PACKS, "list": 1}
    counting.calls.clear()
    again = Machine(tmp_path / "reader", counting)
    assert again.found(ALL) == ALL
    assert again.pull().packs == 0
    assert counting.by_verb() == {"get": 1, "list": 1}
    assert len(again.mirror.namespace(SPEC).packs) == PACKS


def test_what_is_here_is_not_read_again(memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of packs whose keys are all here, vectors are not read; they are noted with one commit."""
    counting = Counting(memory)
    reader = Machine(tmp_path / "reader", counting)
    reader.encode(ALL[:24])
    counted = commits(monkeypatch)
    report = reader.pull()
    assert (report.packs, report.rows) == (PACKS, 90 - 24)
    assert sum("/vectors/" in path for _, path in counting.calls) == PACKS - 8
    assert len(counted) == 4
    assert reader.found(ALL) == ALL


def test_a_damaged_one_is_passed_over_and_no_other(memory: Memory, tmp_path: Path) -> None:
    """At each place of a group; nothing of it is taken."""
    damaged = {}
    for number, part in ((3, "keys/c/0/0"), (7, "vectors/c/0/0"), (8, "digests/c/0"), (29, "vectors/c/0/0")):
        text = f"text {number * 3}"
        name = next(p.split("/")[1] for p, d in memory.objects.items() if keys_of_texts([text]).tobytes() in d)
        damaged[name] = number
        path = f"packs/{name}/{part}"
        memory.objects[path] = bytes([memory.objects[path][0] ^ 1]) + memory.objects[path][1:]
    reader = Machine(tmp_path / "reader", memory)
    report = reader.pull()
    assert {problem.pack for problem in report.problems if isinstance(problem, DamagedPack)} == set(damaged)
    missing = {f"text {number * 3 + i}" for number in damaged.values() for i in range(3)}
    assert reader.found(ALL) == [text for text in ALL if text not in missing]
    assert len(reader.mirror.namespace(SPEC).packs) == PACKS - 4


@pytest.mark.parametrize("at", sampled([2, 20, 40, 41, 42, 60, 100, 121], keep=4))
def test_what_was_read_before_the_remote_went_away_stays(memory: Memory, tmp_path: Path, at: int) -> None:
    """And is not read again."""
    reader = Machine(tmp_path / "reader", Flaky(memory, "get", at))
    with pytest.raises(RemoteUnavailable):
        reader.pull()
    known = reader.mirror.get(SPEC.namespace)
    before = 0 if known is None else len(known.packs)
    counting = Counting(memory)
    again = Machine(tmp_path / "reader", counting)
    assert again.pull().packs == PACKS - before
    assert sum("/vectors/" in path for _, path in counting.calls) == PACKS - before
    assert again.found(ALL) == ALL
    if at > 60:
        assert before > 0


@pytest.mark.parametrize("first", [True, False])
def test_another_kind_of_vectors_is_passed_over(tmp_path: Path, *, first: bool) -> None:
    """Whichever was first says what the namespace holds, in one group too."""
    memory = Memory()
    names = texts(3)
    published(memory, names, truth(names), 0)
    other = published(
        memory, texts(2, 50), truth(texts(2, 50), width=5) if first else truth(texts(2, 50), "float64"), 1
    )
    published(memory, texts(2, 70), truth(texts(2, 70)), 2)
    reader = Machine(tmp_path / "reader", memory)
    report = reader.pull()
    assert [getattr(problem, "pack", None) for problem in report.problems] == [other]
    assert reader.found([*names, *texts(2, 50), *texts(2, 70)]) == [*names, *texts(2, 70)]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)])
def test_the_first_vector_of_a_key_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: tuple[int, ...]
) -> None:
    """Of packs, small or of several chunks, in the order in which they were written; within one commit too."""
    memory = Memory()
    names = texts(4)
    contents = [(names[:2], 1), (names, 2), (names[1:], 3)]
    expected: dict[str, int] = {}
    for number in order:
        some, factor = contents[number]
        monkeypatch.setattr(pack, "CHUNK_BYTES", 16 if number == 1 else 1 << 20)
        published(memory, some, factor * truth(some), number)
        expected = {**dict.fromkeys(some, factor), **expected}
        time.sleep(0.01)
    reader = Machine(tmp_path / "reader", memory)
    assert reader.pull().rows == 4
    ns = reader.mirror.namespace(SPEC)
    served = ns.take(ns.find(keys_of_texts(names)))
    np.testing.assert_array_equal(served, truth(names) * np.array([[expected[name]] for name in names]))


def test_append_packs(tmp_path: Path) -> None:
    """Rows that several packs have are stored once, for the first; none at all is fine."""
    ns = Machine(tmp_path / "m", Memory()).mirror.namespace(SPEC)
    assert ns.append_packs([]) == 0

    def whole(name: str, names: list[str]) -> WholePack:
        keys, vectors = keys_of_texts(names), truth(names)
        return WholePack(name, keys, vectors, digest_rows(keys, vectors))

    assert ns.append_packs([whole("a", ["x", "y"]), whole("b", ["y", "z", "z"]), whole("c", ["x"])]) == 3
    assert ns.packs == {"a", "b", "c"}
    assert sorted((pack, rows) for pack, rows, _ in packs_by_use(ns)) == [("a", 2), ("b", 1)]
    assert [ns.ledger.applied_rows(name) for name in "abc"] == [2, 3, 1]
    names = ["x", "y", "z"]
    np.testing.assert_array_equal(ns.take(ns.find(keys_of_texts(names))), truth(names))
