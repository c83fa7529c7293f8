"""Compaction: small packs become one, with the same rows in the same order, and nothing is lost or deleted."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cas_cache.errors import AccessDenied, DamagedPack, NotARepository, RemoteUnavailable, UnsupportedFormat
from cas_cache.format import layout
from cas_cache.format.manifest import Manifest, pack_id
from cas_cache.identity import keys_of_texts
from cas_cache.repository import Repository
from cas_cache.repository.checking import check
from cas_cache.repository.compacting import MAX_SOURCES, CompactReport, compact, plan_compact
from cas_cache.repository.pack import most_rows_of_a_pack
from cas_cache.testing import FlakyStorage
from storages import OTHER_SPEC, SPEC, Counting, Machine, Memory, manifest_of, packs, texts, truth

NAMESPACE = "0" * 32


def manifest(rows: int, *, shape: int = 4, dtype: str = "float32", supersedes: tuple[str, ...] = ()) -> Manifest:
    """Return a manifest for planning; its objects are not used."""
    return Manifest(
        namespace=NAMESPACE,
        rows=rows,
        dtype=dtype,
        shape=(shape,),
        chunk_rows={"keys": rows, "vectors": rows, "digests": rows},
        objects={},
        nonce="0" * 32,
        supersedes=supersedes,
    )


def planned(manifests: dict[str, Manifest], at_least: int = 2) -> list[tuple[str, ...]]:
    return [merge.packs for merge in plan_compact(manifests, at_least=at_least)]


def small_packs(tmp_path: Path, memory: Any, count: int, rows: int = 10) -> Machine:
    """Push `count` packs of `rows` rows each."""
    machine = Machine(tmp_path / "writer", memory)
    for i in range(count):
        machine.encode(texts(rows, i * rows))
        assert machine.push().packs == 1
    return machine


def test_neighbours_are_merged_in_the_order_given() -> None:
    """The order of the manifests is the order of time, independent of their names."""
    assert planned({"c": manifest(1), "a": manifest(2), "b": manifest(3)}) == [("c", "a", "b")]


def test_a_merge_waits_for_enough_packs() -> None:
    """Fewer than `at_least` packs stay, unless they fill half a pack."""
    some = {f"p{i}": manifest(1) for i in range(15)}
    assert plan_compact(some) == []
    assert planned(some, 16) == []
    assert planned(some, 15) == [tuple(some)]
    assert planned({"a": manifest(1)}, 2) == []
    width = 1 << 16
    half = most_rows_of_a_pack(4 * width) // 2
    fat = {"a": manifest(half - 1, shape=width), "b": manifest(1, shape=width)}
    assert planned(fat, 16) == [("a", "b")]
    assert planned({**fat, "a": manifest(half - 2, shape=width)}, 16) == []


def test_what_is_no_candidate() -> None:
    """Merges, superseded packs and half-full packs are skipped; the small packs around them count as neighbours."""
    width = 1 << 16
    half = -(-most_rows_of_a_pack(4 * width) // 2)
    manifests = {
        "a": manifest(1, shape=width),
        "full": manifest(half, shape=width),
        "old": manifest(1, shape=width),
        "merge": manifest(1, shape=width, supersedes=("old", "older")),
        "b": manifest(1, shape=width),
    }
    assert planned(manifests) == [("a", "b")]


def test_a_merge_is_no_larger_than_a_pack() -> None:
    """Groups end where the next pack would not fit, and no group is merged with itself or twice."""
    width = 1 << 16
    most = most_rows_of_a_pack(4 * width)
    third = {f"p{i}": manifest(most // 3, shape=width) for i in range(7)}
    groups = planned(third)
    assert groups == [("p0", "p1", "p2"), ("p3", "p4", "p5")], "what is left over alone stays"
    many = {f"p{i}": manifest(1) for i in range(MAX_SOURCES + 2)}
    assert [len(group) for group in planned(many)] == [MAX_SOURCES, 2]


def test_kinds_do_not_mix() -> None:
    """Packs of another dtype or shape are merged among themselves."""
    manifests = {
        "a": manifest(1),
        "b": manifest(1, dtype="float16"),
        "c": manifest(1),
        "d": manifest(1, dtype="float16"),
        "e": manifest(1, shape=5),
    }
    assert planned(manifests) == [("a", "c"), ("b", "d")]


def test_a_merge_has_the_rows_of_its_packs_in_their_order(tmp_path: Path) -> None:
    """Rows are equal bit for bit and in order of time; the sources stay, and check reports only a note."""
    memory = Memory()
    small_packs(tmp_path, memory, 20)
    before = dict(memory.objects)
    report = compact(Repository(memory))
    assert (len(report.merges), len(report.written), report.rows, report.problems) == (1, 1, 200, [])
    assert before.items() <= memory.objects.items(), "nothing is deleted or changed"
    (merge,) = report.written
    made = manifest_of(memory, SPEC.namespace, merge)
    assert sorted(made.supersedes) == sorted(pack for _, pack in packs(memory) if pack != merge)
    repository = Repository(memory)
    keys = repository.keys(merge, made)
    assert np.array_equal(keys, keys_of_texts(texts(200)))
    vectors = np.concatenate([chunk.vectors for chunk in repository.read(merge, made, keys)])
    assert np.array_equal(vectors, truth(texts(200)))
    found = check(repository, read_data=True).findings
    assert [(it.kind, it.what.split()[3]) for it in found] == [("superseded", "20")]


def test_a_second_compaction_finds_nothing_to_do(tmp_path: Path) -> None:
    """A merge is final: no client ever reads it again to merge it."""
    memory = Memory()
    machine = small_packs(tmp_path, memory, 4)
    assert len(compact(Repository(memory), at_least=2).written) == 1
    before = dict(memory.objects)
    counting = Counting(memory)
    report = compact(Repository(counting), at_least=2)
    assert report == CompactReport()
    assert memory.objects == before
    assert counting.by_verb() == {"get": 1 + 5, "list": 1}
    # Later packs are merged among themselves.
    for i in range(2):
        machine.encode(texts(10, 1000 + i * 10))
        machine.push()
    report = compact(Repository(memory), at_least=2)
    assert [len(merge.packs) for merge in report.merges] == [2]


def test_each_key_counts_once(tmp_path: Path) -> None:
    """Rows that several machines pushed are in the merge once, at their first position."""
    memory = Memory()
    for name, start in (("a", 0), ("b", 5), ("c", 0)):
        machine = Machine(tmp_path / name, memory)
        machine.encode(texts(10, start))
        machine.push()
    report = compact(Repository(memory), at_least=2)
    assert (report.merges[0].rows, report.rows) == (30, 15)
    made = manifest_of(memory, SPEC.namespace, report.written[0])
    keys = Repository(memory).keys(report.written[0], made)
    order = {pack: i for i, (_, pack) in enumerate(Repository(memory).packs())}
    assert len({bytes(key) for key in keys}) == 15
    first = manifest_of(memory, SPEC.namespace, min(made.supersedes, key=order.__getitem__))
    assert np.array_equal(keys[:10], Repository(memory).keys(min(made.supersedes, key=order.__getitem__), first))
    machine = Machine(tmp_path / "reader", memory)
    machine.pull()
    assert len(machine.found(texts(15))) == 15


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    """The plan is the same, and the storage sees no PUT and no DELETE."""
    memory = Memory()
    small_packs(tmp_path, memory, 3)
    counting = Counting(memory)
    report = compact(Repository(counting), at_least=2, dry_run=True)
    assert [merge.rows for merge in report.merges] == [30]
    assert (report.written, report.rows) == ([], 0)
    assert set(counting.by_verb()) == {"get", "list"}
    document = report.as_json()
    assert document["merges"][0] == {
        "namespace": SPEC.namespace, "packs": list(report.merges[0].packs), "rows": 30, "bytes": 480,
    }  # fmt: skip


def test_only_the_namespaces_asked_for(tmp_path: Path) -> None:
    """Other namespaces are not read."""
    memory = Memory()
    machine = Machine(tmp_path / "m", memory)
    for i in range(3):
        for spec in (SPEC, OTHER_SPEC):
            machine.encode(texts(5, i * 5), spec)
        machine.push()
    report = compact(Repository(memory), [OTHER_SPEC.namespace], at_least=2)
    assert [merge.namespace for merge in report.merges] == [OTHER_SPEC.namespace]
    assert [merge.namespace for merge in compact(Repository(memory), at_least=2).merges] == [SPEC.namespace]


@pytest.mark.parametrize("object_", ["keys/c/0/0", "digests/c/0", "vectors/c/0/0"])
@pytest.mark.parametrize("damage", ["flip", "gone"])
def test_a_damaged_pack_is_left_out(tmp_path: Path, object_: str, damage: str) -> None:
    """The damaged pack is named, not superseded, and unchanged; the others are merged."""
    memory = Memory()
    small_packs(tmp_path, memory, 5)
    victim = Repository(memory)
    pack = victim.packs()[2][1]
    path = layout.object_path(pack, object_)
    if damage == "gone":
        del memory.objects[path]
    else:
        memory.objects[path] = bytes([memory.objects[path][0] ^ 1]) + memory.objects[path][1:]
    before = dict(memory.objects)
    report = compact(Repository(memory), at_least=2)
    assert [problem.pack for problem in report.problems if isinstance(problem, DamagedPack)] == [pack]
    made = manifest_of(memory, SPEC.namespace, report.written[0])
    assert pack not in made.supersedes
    assert (len(made.supersedes), made.rows) == (4, 40)
    assert before.items() <= memory.objects.items()
    machine = Machine(tmp_path / "reader", memory)
    assert len(machine.pull().problems) == 1
    assert len(machine.found(texts(50))) == 40


def test_damage_in_a_later_chunk_takes_nothing_of_the_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that were spooled before the damage was found are removed: the others keep their own vectors."""
    monkeypatch.setattr("cas_cache.repository.pack.CHUNK_BYTES", 64)
    memory = Memory()
    small_packs(tmp_path, memory, 3)
    monkeypatch.undo()
    path = layout.object_path(Repository(memory).packs()[0][1], "vectors/c/2/0")
    memory.objects[path] = bytes(len(memory.objects[path]))
    report = compact(Repository(memory), at_least=2)
    assert (len(report.problems), report.rows) == (1, 20)
    machine = Machine(tmp_path / "reader", memory)
    machine.pull()
    assert set(machine.found(texts(30))) >= set(texts(20, 10))


def test_damage_that_leaves_one_pack_makes_no_merge(tmp_path: Path) -> None:
    """A merge of one pack alone would have no use."""
    memory = Memory()
    small_packs(tmp_path, memory, 2)
    del memory.objects[layout.object_path(Repository(memory).packs()[0][1], "vectors/c/0/0")]
    before = dict(memory.objects)
    report = compact(Repository(memory), at_least=2)
    assert (len(report.problems), report.written) == (1, [])
    assert memory.objects == before


def test_a_manifest_that_does_not_verify_is_a_problem(tmp_path: Path) -> None:
    """It is reported, and its pack is not merged."""
    memory = Memory()
    small_packs(tmp_path, memory, 3)
    namespace, pack = Repository(memory).packs()[0]
    memory.objects[layout.manifest_path(namespace, pack)] += b" "
    report = compact(Repository(memory), at_least=2)
    assert [type(problem) for problem in report.problems] == [DamagedPack]
    assert [len(merge.packs) for merge in report.merges] == [2]


class Behind(Counting):
    """Runs another compaction while the first one writes."""

    done = False

    def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
        if not self.done:
            self.done = True
            assert len(compact(Repository(self.inner), at_least=2).written) == 1
        super().put(path, data, create_only=create_only)


def test_somebody_else_was_faster(tmp_path: Path) -> None:
    """A merge of packs that were merged meanwhile is withdrawn with its objects; the other merge stays."""
    memory = Memory()
    small_packs(tmp_path, memory, 3)

    report = compact(Repository(Behind(memory)), at_least=2)
    assert (report.written, report.taken_back) == ([], 1)
    assert [it.kind for it in check(Repository(memory), read_data=True).findings] == ["superseded"]
    assert len(packs(memory)) == 4


def test_who_may_not_delete_can_compact(tmp_path: Path) -> None:
    """A merge that cannot be withdrawn is left to prune; it is not visible."""
    memory = Memory()
    small_packs(tmp_path, memory, 3)

    refusing = FlakyStorage(Behind(memory), "delete", times=None, error=AccessDenied)
    assert compact(Repository(refusing), at_least=2).taken_back == 1
    assert [it.kind for it in check(Repository(memory), read_data=True).findings] == ["orphan", "superseded"]


def test_a_dropped_source_is_not_brought_back(tmp_path: Path) -> None:
    """If a source is gone when the merge is written, the merge is withdrawn."""
    memory = Memory()
    small_packs(tmp_path, memory, 3)

    class Dropping(Counting):
        def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
            super().put(path, data, create_only=create_only)
            for gone in [path for path in memory.objects if path.startswith("manifests/")]:
                del memory.objects[gone]

    report = compact(Repository(Dropping(memory)), at_least=2)
    assert (report.written, report.taken_back) == ([], 1)
    assert packs(memory) == []


@pytest.mark.verify
@pytest.mark.parametrize("after", [False, True])
def test_a_compaction_that_broke_off_is_done_by_the_next(tmp_path: Path, *, after: bool) -> None:
    """Whichever request fails, the next run makes the merge; the first leaves at most an orphan."""
    at = 0
    while True:
        at += 1
        memory = Memory()
        small_packs(tmp_path / f"{at}-{after}", memory, 3)
        try:
            compact(Repository(FlakyStorage(memory, at=at, after=after)), at_least=2)
        except RemoteUnavailable:
            pass
        else:
            break
        compact(Repository(memory), at_least=2)
        assert {it.kind for it in check(Repository(memory), read_data=True).findings} <= {"superseded", "orphan"}
        machine = Machine(tmp_path / f"{at}-{after}-reader", memory)
        assert machine.pull().rows == 30
        assert len(machine.found(texts(30))) == 30
    assert at > 20


def test_no_repository_is_not_made(tmp_path: Path) -> None:
    """A place without a repository has nothing to compact, and stays empty."""
    memory = Memory()
    with pytest.raises(NotARepository, match="no repository"):
        compact(Repository(memory))
    assert memory.objects == {}


def test_a_newer_repository_is_not_written(tmp_path: Path) -> None:
    """An unknown writer feature stops compaction before it reads or writes; planning still works."""
    memory = Memory()
    small_packs(tmp_path, memory, 3)
    memory.objects[layout.MARKER] = memory.objects[layout.MARKER].replace(
        b'"writer_features":[]', b'"writer_features":["x"]'
    )
    before = dict(memory.objects)
    counting = Counting(memory)
    with pytest.raises(UnsupportedFormat):
        compact(Repository(counting), at_least=2)
    assert counting.calls == [("get", layout.MARKER)]
    assert len(compact(Repository(memory), at_least=2, dry_run=True).merges) == 1
    assert memory.objects == before


def test_packs_of_newer_features_are_not_merged(tmp_path: Path) -> None:
    """They are reported and left to newer versions."""
    memory = Memory()
    small_packs(tmp_path, memory, 3)
    namespace, pack = Repository(memory).packs()[0]
    path = layout.manifest_path(namespace, pack)
    data = memory.objects.pop(path).replace(b'"features":[]', b'"features":["ragged"]')
    memory.objects[layout.manifest_path(namespace, pack_id(data))] = data
    report = compact(Repository(memory), at_least=2)
    assert [type(problem) for problem in report.problems] == [UnsupportedFormat]
    assert [len(merge.packs) for merge in report.merges] == [2]


def test_spool_files_are_gone_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Temporary files do not outlive a merge, even a failed one."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    memory = Memory()
    small_packs(tmp_path, memory, 3)
    with pytest.raises(RemoteUnavailable):
        compact(Repository(FlakyStorage(memory, "put", at=2)), at_least=2)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert compact(Repository(memory), at_least=2).rows == 30
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_plan_is_a_value() -> None:
    """Merges can be compared and changed by `replace`."""
    (merge,) = plan_compact({"a": manifest(1), "b": manifest(2)}, at_least=2)
    assert (merge.rows, merge.bytes) == (3, 48)
    assert replace(merge, rows=3) == merge
