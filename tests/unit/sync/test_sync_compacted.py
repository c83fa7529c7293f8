"""Push and pull over what compaction and prune leave: merges are read once, what they replace may go."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest

from cas_cache.errors import DamagedPack, IncompleteListing, RepositoryError
from cas_cache.format import layout
from cas_cache.mirror import Mirror
from cas_cache.repository import Repository
from cas_cache.repository.compacting import compact
from cas_cache.repository.dropping import drop
from cas_cache.repository.pruning import prune
from cas_cache.sync import pull, push
from cas_cache.sync.pushing import MANY_SMALL_PACKS
from storages import SPEC, Counting, Machine, Memory, manifest_of, packs, texts
from tiers import sampled


def packs_of(memory: Memory, machine: Machine, count: int, first: int = 0) -> None:
    for i in range(first, first + count):
        machine.encode(texts(10, i * 10))
        assert machine.push().packs == 1


def compacted(memory: Memory) -> str:
    (merge,) = compact(Repository(memory), at_least=2).written
    return merge


def pruned(memory: Memory) -> int:
    return len(prune(Repository(memory), grace=0, force=True).deletions)


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def writer(memory: Memory, tmp_path: Path) -> Machine:
    """A machine that has pushed four packs of ten rows."""
    machine = Machine(tmp_path / "writer", memory)
    packs_of(memory, machine, 4)
    return machine


def state_of(machine: Machine) -> dict[str, Any]:
    document = (machine.mirror.directory / "namespaces" / SPEC.namespace / "state.json").read_bytes()
    state: dict[str, Any] = json.loads(document)
    return state


def test_a_new_mirror_reads_the_merge_and_not_its_sources(memory: Memory, writer: Machine, tmp_path: Path) -> None:
    """A manifest GET each, and then only the merge's objects."""
    merge = compacted(memory)
    counting = Counting(memory)
    reader = Machine(tmp_path / "reader", counting)
    report = reader.pull()
    assert (report.packs, report.rows, report.problems) == (1, 40, [])
    read = [path for verb, path in counting.calls if verb == "get" and path.startswith("packs/")]
    assert read
    assert all(path.startswith(f"packs/{merge}/") for path in read)
    assert len(reader.found(texts(40))) == 40
    # And nothing more the next time: not even the manifests.
    counting.taken()
    again = Machine(tmp_path / "reader", counting)
    assert again.pull().packs == 0
    assert counting.taken() == [("get", layout.MARKER), ("list", "manifests")]


def test_a_mirror_that_has_the_sources_reads_nothing_of_the_merge(memory: Memory, writer: Machine) -> None:
    """One GET: the manifest. It says that the rows are those it has."""
    merge = compacted(memory)
    counting = Counting(memory)
    report = pull(writer.mirror, Repository(counting))
    assert (report.packs, report.rows, report.problems) == (1, 0, [])
    assert [call for call in counting.calls if call[0] == "get"][1:] == [
        ("get", layout.manifest_path(SPEC.namespace, merge))
    ]


def test_sources_may_go(memory: Memory, writer: Machine, tmp_path: Path) -> None:
    """Packs that were merged and pruned are no loss, whether the mirror met the merge before or meets it now."""
    early, late = Machine(tmp_path / "early", memory), Machine(tmp_path / "late", memory)
    early.pull()
    late.pull()
    compacted(memory)
    early.pull()
    assert pruned(memory) == 4
    for machine in (early, late, writer, Machine(tmp_path / "new", memory)):
        for _ in range(2):
            report = machine.pull()
            assert report.problems == []
        assert len(machine.found(texts(40))) == 40
        assert len(state_of(machine)["complete"]) == 1, "what has gone is forgotten"
        assert state_of(machine)["superseded"] == []
        assert list(state_of(machine)["applied"]) == state_of(machine)["complete"]


def test_a_source_that_goes_without_its_merge_is_told(memory: Memory, writer: Machine) -> None:
    """Forgetting is for what is superseded only."""
    gone = Repository(memory).packs()[0][1]
    del memory.objects[layout.manifest_path(SPEC.namespace, gone)]
    (problem,) = writer.pull().problems
    assert isinstance(problem, IncompleteListing)
    assert gone in str(problem)


@pytest.mark.parametrize("damage", ["manifest", "keys/c/0/0", "digests/c/0", "vectors/c/0/0"])
def test_a_damaged_merge_is_replaced_by_its_sources(
    memory: Memory, writer: Machine, tmp_path: Path, damage: str
) -> None:
    """While they are there, all rows are found; the damage is told."""
    merge = compacted(memory)
    manifest = layout.manifest_path(SPEC.namespace, merge)
    path = manifest if damage == "manifest" else layout.object_path(merge, damage)
    memory.objects[path] = memory.objects[path][:-1] + b"\x00\x01"
    reader = Machine(tmp_path / "reader", memory)
    report = reader.pull()
    assert [type(problem) for problem in report.problems] == [DamagedPack]
    assert len(reader.found(texts(40))) == 40
    assert state_of(reader)["superseded"] == []
    assert pruned(memory) == 0, "a merge that is not whole replaces nothing"


def test_a_merge_of_what_is_half_known(memory: Memory, writer: Machine, tmp_path: Path) -> None:
    """A mirror with some of the sources takes the rest from the merge."""
    reader = Machine(tmp_path / "reader", memory)
    reader.pull()
    packs_of(memory, writer, 2, first=4)
    compacted(memory)
    report = reader.pull()
    assert (report.packs, report.rows, report.problems) == (1, 20, [])
    assert len(reader.found(texts(60))) == 60


def test_a_pull_cut_off_in_a_source_goes_on_with_the_merge(memory: Memory, writer: Machine, tmp_path: Path) -> None:
    """Rows of a pack that was half read stay, and no row is there twice."""
    reader = Machine(tmp_path / "reader", memory)
    ns = reader.mirror.namespace(SPEC)
    pack = Repository(memory).packs()[0][1]
    manifest = manifest_of(memory, SPEC.namespace, pack)
    repository = Repository(memory)
    keys = repository.keys(pack, manifest)
    (chunk,) = repository.read(pack, manifest, keys)
    ns.append(chunk.keys[:4], chunk.vectors[:4], pack=pack, upto=(4, 10))
    compacted(memory)
    report = reader.pull()
    assert (report.rows, report.problems) == (36, [])
    assert (ns.rows, len(reader.found(texts(40)))) == (40, 40)


class Meanwhile(Counting):
    """Something happens right before the n-th call of a verb."""

    def __init__(self, inner: Any, verb: str, at: int, happens: Any) -> None:
        super().__init__(inner)
        self.verb, self.at, self.happens = verb, at, happens

    def get(self, path: str, start: int, stop: int) -> bytes:
        if self.verb == "get":
            self.at -= 1
            if self.at == 0:
                self.happens()
        return super().get(path, start, stop)


@pytest.mark.parametrize("at", sampled(range(2, 18), keep=5))
def test_packs_that_go_while_they_are_read(memory: Memory, writer: Machine, tmp_path: Path, at: int) -> None:
    """A pull whose listing is overtaken by compaction and prune lists again: every row is found, nothing is damage."""

    def happens() -> None:
        compacted(memory)
        assert pruned(memory) == 4

    reader = Machine(tmp_path / "reader", Meanwhile(memory, "get", at, happens))
    report = reader.pull()
    assert report.problems == []
    assert len(reader.found(texts(40))) == 40


@pytest.mark.parametrize("at", sampled(range(2, 18), keep=5))
def test_a_namespace_that_goes_while_it_is_read(memory: Memory, writer: Machine, tmp_path: Path, at: int) -> None:
    """After a drop the rest are misses; a mirror that knows a pack of it is told."""
    reader = Machine(
        tmp_path / "reader", Meanwhile(memory, "get", at, lambda: drop(Repository(memory), SPEC.namespace, force=True))
    )
    try:
        problems = reader.pull().problems
    except IncompleteListing:
        problems = []
    assert [it for it in problems if isinstance(it, DamagedPack)] == []
    assert len(reader.found(texts(40))) in (0, 10, 20, 30, 40)


def test_an_object_that_is_missing_for_good_is_damage(memory: Memory, writer: Machine, tmp_path: Path) -> None:
    """A manifest that is there and an object that is not: told once, and not asked for for ever."""
    pack = Repository(memory).packs()[1][1]
    del memory.objects[layout.object_path(pack, "vectors/c/0/0")]
    counting = Counting(memory)
    reader = Machine(tmp_path / "reader", counting)
    (problem,) = reader.pull().problems
    assert isinstance(problem, DamagedPack)
    assert len(reader.found(texts(40))) == 30
    assert counting.by_verb()["list"] == 2, "one to pull by, one to see whether the pack has gone"


def test_packs_are_read_in_order_of_time(memory: Memory, tmp_path: Path) -> None:
    """Not of their names, which are hashes: the mirror's rows lie as they were encoded."""
    writer = Machine(tmp_path / "writer", memory)
    for i in range(12):
        packs_of(memory, writer, 1, first=i)
        for path in memory._modified:
            memory._modified[path] -= 10
    reader = Machine(tmp_path / "reader", memory)
    reader.pull()
    ns, mine = reader.mirror.namespace(SPEC), writer.mirror.namespace(SPEC)
    assert (ns.keys == mine.keys).all()


@pytest.mark.verify
def test_a_push_offers_compaction(memory: Memory, tmp_path: Path) -> None:
    """When more than 64 small packs are known, and not when they are merged."""
    writer = Machine(tmp_path / "writer", memory)
    for i in range(MANY_SMALL_PACKS):
        writer.encode(texts(1, i))
        assert writer.push().hints == []
    writer.encode(texts(1, 1000))
    (hint,) = writer.push().hints
    assert "65 small packs" in hint
    assert "cas-cache compact" in hint
    compacted(memory)
    writer.pull()
    writer.encode(texts(1, 1001))
    assert writer.push().hints == []


def test_a_plan_of_yesterday_gets_a_new_name(memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was planned and not published for half a day may have been pruned in part: its name is not used again."""
    machine = Machine(tmp_path / "writer", memory)
    machine.encode(texts(5))
    ns = machine.mirror.namespace(SPEC)
    now = 1_000_000.0
    monkeypatch.setattr("cas_cache.mirror.ledger.time.time", lambda: now)
    (plan,) = ns.ledger.plan(100, most_age=43_200)
    now += 43_000
    assert ns.ledger.plan(100, most_age=43_200) == [plan]
    again = Mirror(machine.mirror.directory).namespace(SPEC)
    assert again.ledger.plan(100, most_age=43_200) == [plan]
    now += 300
    (other,) = again.ledger.plan(100, most_age=43_200)
    assert (other.nonce != plan.nonce, other.runs) == (True, plan.runs)
    now -= 10_000
    (third,) = again.ledger.plan(100, most_age=43_200)
    assert third.nonce not in (plan.nonce, other.nonce), "a clock that went back tells no age"
    assert list(state_of(machine)["planned_at"]) == [third.nonce]
    monkeypatch.undo()
    assert push(machine.mirror, machine.repository).packs == 1
    assert state_of(machine)["planned_at"] == {}


@pytest.mark.parametrize("hours", [12.1, -1.0])
def test_a_push_that_was_asleep_is_not_revealed(
    memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: float
) -> None:
    """A laptop that slept between the objects and the manifest: a prune may have been there, so it pushes anew."""
    machine = Machine(tmp_path / "writer", memory)
    machine.encode(texts(5))
    real, slept = time.time, 0.0
    monkeypatch.setattr(time, "time", lambda: real() + slept)

    class Sleeping(Counting):
        def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
            nonlocal slept
            super().put(path, data, create_only=create_only)
            if path.endswith("digests/c/0"):
                slept = hours * 3600

    with pytest.raises(RepositoryError, match="Nothing is lost"):
        push(machine.mirror, Repository(Sleeping(memory)))
    assert packs(memory) == []
    assert {path.split("/")[0] for path in memory.objects} == {"cas-cache.json", "specs", "packs"}
    first = {path.split("/")[1] for path in memory.objects if path.startswith("packs/")}
    assert push(machine.mirror, Repository(memory)).packs == 1
    ((_, pack),) = packs(memory)
    assert pack not in first
    reader = Machine(tmp_path / "reader", memory)
    reader.pull()
    assert len(reader.found(texts(5))) == 5


def test_a_push_of_several_packs_uses_no_old_name(
    memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the first pack took hours, the next gets a new nonce before its first object is written."""
    monkeypatch.setattr("cas_cache.sync.pushing.most_rows_of_a_pack", lambda _: 4)
    machine = Machine(tmp_path / "writer", memory)
    machine.encode(texts(12))
    ns = machine.mirror.namespace(SPEC)
    first = [plan.nonce for plan in ns.ledger.plan(4)]
    real, later = time.time, 0.0
    monkeypatch.setattr(time, "time", lambda: real() + later)

    class Slow(Counting):
        def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
            nonlocal later
            super().put(path, data, create_only=create_only)
            if path.startswith("manifests/"):
                later += 7 * 3600

    assert push(machine.mirror, Repository(Slow(memory))).packs == 3
    used = {manifest_of(memory, *of).nonce for of in packs(memory)}
    assert used & set(first) == set(first[:2])
    reader = Machine(tmp_path / "reader", memory)
    reader.pull()
    assert len(reader.found(texts(12))) == 12


def test_a_late_manifest_of_a_pack_that_another_process_published_stays(
    memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes of one mirror make the same pack: who was asleep does not take away what the other was told."""
    machine = Machine(tmp_path / "mirror", memory)
    machine.encode(texts(5))
    other = Machine(tmp_path / "mirror", memory)
    real, slept = time.time, 0.0
    monkeypatch.setattr(time, "time", lambda: real() + slept)

    class Asleep(Counting):
        def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
            nonlocal slept
            if path.startswith("manifests/"):
                assert other.push().packs == 1
                slept = 13 * 3600
            super().put(path, data, create_only=create_only)

    with pytest.raises(RepositoryError, match="Nothing is lost"):
        push(machine.mirror, Repository(Asleep(memory)))
    reader = Machine(tmp_path / "reader", memory)
    assert reader.pull().rows == 5
    assert push(machine.mirror, Repository(memory)).packs == 0


def test_a_mirror_whose_process_was_killed_after_a_merge(memory: Memory, writer: Machine, tmp_path: Path) -> None:
    """That a merge was read and what it supersedes is one commit; and what a mirror forgot it asks for again."""
    reader = Machine(tmp_path / "reader", memory)
    reader.pull()
    merge = compacted(memory)
    reader.pull()
    ns = reader.mirror.namespace(SPEC)
    state = ns.table.state
    assert state.superseded == {pack for _, pack in packs(memory)} - {merge}
    # As a version, an eviction or a restored backup may have left it: the merge known, its sources as well.
    with ns.locked():
        ns.table.commit(dataclasses.replace(state, superseded=frozenset()))
    pruned(memory)
    again = Machine(tmp_path / "reader", memory)
    for _ in range(2):
        assert again.pull().problems == []


def test_a_pack_that_is_published_during_a_pull_is_not_missing(memory: Memory, writer: Machine, tmp_path: Path) -> None:
    """Two processes on one mirror: what the other publishes after the listing is no loss."""
    reader = Machine(tmp_path / "reader", memory)
    reader.encode(texts(3, 500))
    pusher = Machine(tmp_path / "reader", memory)

    class Pushing(Counting):
        def list(self, prefix: str) -> Any:
            found = super().list(prefix)
            if prefix == "manifests":
                pusher.push()
            return found

    assert pull(reader.mirror, Repository(Pushing(memory))).problems == []
    assert reader.pull().problems == []
    alone = Memory()
    first = Machine(tmp_path / "first", alone)
    Repository(alone).create()
    first.encode(texts(3))
    pusher = Machine(tmp_path / "first", alone)
    assert pull(first.mirror, Repository(Pushing(alone))).problems == []
