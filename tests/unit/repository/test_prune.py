"""Prune deletes superseded packs and orphans that are old by the storage's clock, and never anything else."""

import math
import time
from pathlib import Path
from typing import Any

import pytest

from cas_cache.errors import (
    AccessDenied,
    ConfigurationError,
    IncompleteListing,
    NotARepository,
    RemoteUnavailable,
    RepositoryError,
    UnsupportedFormat,
)
from cas_cache.format import layout
from cas_cache.format.manifest import Manifest, ObjectRecord
from cas_cache.repository import Repository
from cas_cache.repository.checking import check
from cas_cache.repository.compacting import compact
from cas_cache.repository.pruning import DAY, GRACE, Deletion, PruneReport, plan_prune, prune
from cas_cache.storage.interface import ObjectInfo
from cas_cache.testing import FlakyStorage
from storages import OTHER_SPEC, SPEC, Counting, Machine, Memory, packs, texts
from tiers import sampled

NAMESPACE, OTHER = "0" * 32, "1" * 32
NOW = 1_000_000_000.0
A, B, C, D = (letter * 64 for letter in "abcd")


class Aging(Memory):
    """A storage whose clock can be moved, which makes its objects older."""

    def age(self, days: float, under: str = "") -> None:
        for path in self._modified:
            if path.startswith(under):
                self._modified[path] -= days * DAY


def manifest(*supersedes: str, namespace: str = NAMESPACE) -> Manifest:
    return Manifest(
        namespace=namespace,
        rows=1,
        dtype="float32",
        shape=(1,),
        chunk_rows={"keys": 1, "vectors": 1, "digests": 1},
        objects={"zarr.json": ObjectRecord(9, "0" * 64), "vectors/c/0/0": ObjectRecord(4, "0" * 64)},
        nonce="0" * 32,
        supersedes=supersedes,
    )


def listing(pack: str, days: float, *, namespace: str = NAMESPACE, named: bool = True) -> list[ObjectInfo]:
    """Return the objects of a complete pack of this age."""
    at = NOW - days * DAY
    found = [ObjectInfo(f"packs/{pack}/vectors/c/0/0", 4, at), ObjectInfo(f"packs/{pack}/zarr.json", 9, at)]
    return [ObjectInfo(f"manifests/{namespace}/{pack}.json", 100, at), *found] if named else found


def gone(report: PruneReport) -> list[tuple[str, str]]:
    return [(deletion.reason, deletion.pack[0]) for deletion in report.deletions]


def test_nothing_goes_that_is_named() -> None:
    """Packs with a manifest stay at any age, even if they do not verify."""
    listed = [*listing(A, 1000), *listing(B, 1000)]
    assert plan_prune(listed, {A: manifest()}, now=NOW, grace=0) == PruneReport()


def test_superseded_packs_go_when_the_merge_is_old() -> None:
    """The age of the merge's manifest counts; a source's manifest is deleted first."""
    listed = [*listing(A, 100), *listing(B, 100), *listing(C, 7)]
    manifests = {A: manifest(), B: manifest(), C: manifest(A, B)}
    report = plan_prune(listed, manifests, now=NOW)
    assert gone(report) == [("superseded", "a"), ("superseded", "b")]
    assert report.deletions[0].paths[0] == f"manifests/{NAMESPACE}/{A}.json"
    assert (report.deletions[0].bytes, report.bytes, report.deletions[0].age) == (113, 226, GRACE)
    young = [*listing(A, 100), *listing(B, 100), *listing(C, 6.99)]
    assert plan_prune(young, manifests, now=NOW) == PruneReport(young=2)


@pytest.mark.parametrize("lacking", [f"packs/{C}/zarr.json", f"packs/{C}/vectors/c/0/0"])
def test_a_merge_that_is_not_whole_supersedes_nothing(lacking: str) -> None:
    """If an object is not listed, or has another size, the sources stay."""
    whole = [*listing(A, 100), *listing(C, 100)]
    manifests = {A: manifest(), C: manifest(A)}
    assert gone(plan_prune(whole, manifests, now=NOW)) == [("superseded", "a")]
    assert plan_prune([it for it in whole if it.path != lacking], manifests, now=NOW) == PruneReport(young=1)
    cut = [ObjectInfo(it.path, it.size - (it.path == lacking), it.modified) for it in whole]
    assert plan_prune(cut, manifests, now=NOW) == PruneReport(young=1)


def test_a_merge_that_does_not_verify_supersedes_nothing() -> None:
    """Such a merge is listed, but is not among the verified manifests."""
    listed = [*listing(A, 100), *listing(C, 100)]
    assert plan_prune(listed, {A: manifest()}, now=NOW) == PruneReport()


def test_a_merge_of_another_namespace_supersedes_nothing() -> None:
    """A merge does not supersede packs of another encoder."""
    listed = [*listing(A, 100), *listing(C, 100, namespace=OTHER)]
    manifests = {A: manifest(), C: manifest(A, namespace=OTHER)}
    assert plan_prune(listed, manifests, now=NOW) == PruneReport(young=1)


def test_the_older_of_two_merges_counts() -> None:
    """A pack in two merges is deleted when one of them is complete and old, whatever the other is."""
    listed = [*listing(A, 100), *listing(C, 1), *listing(D, 8)]
    manifests = {A: manifest(), C: manifest(A), D: manifest(A)}
    assert gone(plan_prune(listed, manifests, now=NOW)) == [("superseded", "a")]
    unknown = [ObjectInfo(it.path, it.size) if C in it.path else it for it in listed]
    assert gone(plan_prune(unknown, manifests, now=NOW)) == [("superseded", "a")]


def test_orphans_go_when_their_youngest_object_is_old() -> None:
    """A writer that began long ago and still writes keeps all its objects."""
    listed = listing(A, 8, named=False)
    report = plan_prune(listed, {}, now=NOW)
    assert gone(report) == [("orphan", "a")]
    assert report.deletions[0].paths == tuple(it.path for it in listed)
    still = [listed[0], ObjectInfo(listed[1].path, 9, NOW - 6 * DAY)]
    assert plan_prune(still, {}, now=NOW) == PruneReport(young=1)


@pytest.mark.parametrize("position", [0, 1])
def test_what_has_no_time_is_young(position: int) -> None:
    """NaN is not greater than any grace period, not even zero."""
    listed = listing(A, 1000, named=False)
    listed[position] = ObjectInfo(listed[position].path, listed[position].size, math.nan)
    assert plan_prune(listed, {}, now=NOW, grace=0) == PruneReport(young=1)
    merged = [*listing(A, 1000), *(ObjectInfo(it.path, it.size) for it in listing(C, 0))]
    assert plan_prune(merged, {A: manifest(), C: manifest(A)}, now=NOW, grace=0) == PruneReport(young=1)


def test_a_clock_that_went_back_makes_young() -> None:
    """Objects from the future are not old."""
    assert plan_prune(listing(A, -30, named=False), {}, now=NOW, grace=0) == PruneReport(young=1)


def test_what_is_not_ours_stays() -> None:
    """Foreign names are never chosen, anywhere."""
    names = ["README", "packs/x/y", f"packs/{A}/evil/../x", f"packs/{A[:-1]}/zarr.json", "probes/x", f"probes/{A}"]
    assert plan_prune([ObjectInfo(name, 1, 0.0) for name in names], {}, now=NOW, grace=0) == PruneReport()


def test_probes_of_the_dead_go() -> None:
    """A probe that its client could not delete is deleted when it is old."""
    probe = f"probes/{'0' * 32}"
    report = plan_prune([ObjectInfo(probe, 0, NOW - 8 * DAY), ObjectInfo(f"probes/{'1' * 32}", 0, NOW)], {}, now=NOW)
    assert report.deletions == [Deletion("probe", "", probe, (probe,), 0, 8 * DAY)]
    assert report.young == 1


def test_no_run_deletes_more_than_it_may() -> None:
    """The oldest are deleted first, the rest at the next run."""
    listed = [*listing(A, 10, named=False), *listing(B, 12, named=False), *listing(C, 11, named=False)]
    report = plan_prune(listed, {}, now=NOW, most_packs=2)
    assert gone(report) == [("orphan", "b"), ("orphan", "c")]
    assert report.postponed == 1


@pytest.fixture
def memory(tmp_path: Path) -> Aging:
    """Return a repository with two namespaces, one of six merged packs and one of one pack, and an orphan."""
    memory = Aging()
    machine = Machine(tmp_path / "writer", memory)
    for i in range(6):
        machine.encode(texts(10, i * 10))
        machine.push()
    machine.encode(texts(7), OTHER_SPEC)
    machine.push()
    assert len(compact(Repository(memory), at_least=2).written) == 1
    memory.put(layout.object_path(D, "zarr.json"), b"{}")
    memory.put("notes.txt", b"ours")
    return memory


def is_intact(memory: Aging, tmp_path: Path) -> None:
    """Check that a new mirror finds every row, and that check reports only notes."""
    reader = Machine(tmp_path / "reader", memory)
    report = reader.pull()
    assert report.problems == []
    assert len(reader.found(texts(60))) == 60
    assert len(reader.found(texts(7), OTHER_SPEC)) == 7
    assert check(Repository(memory), read_data=True).clean


def test_prune(memory: Aging, tmp_path: Path) -> None:
    """Old, unreferenced packs are deleted with all their objects; the rows stay."""
    memory.age(7.01)
    report = prune(Repository(memory))
    assert sorted(deletion.reason for deletion in report.deletions) == ["orphan", *["superseded"] * 6]
    assert (report.young, report.postponed) == (0, 0)
    assert len(packs(memory)) == 2
    visible = {pack for _, pack in packs(memory)}
    assert {path.split("/")[1] for path in memory.objects if path.startswith("packs/")} == visible
    assert memory.objects["notes.txt"] == b"ours"
    assert not any(path.startswith("probes") for path in memory.objects)
    is_intact(memory, tmp_path)
    before = dict(memory.objects)
    assert prune(Repository(memory)) == PruneReport()
    assert memory.objects == before


def test_nothing_young_goes(memory: Aging) -> None:
    """One minute before the grace period ends, everything still exists."""
    memory.age(7 - 60 / DAY)
    before = dict(memory.objects)
    report = prune(Repository(memory))
    assert (report.deletions, report.young) == ([], 7)
    assert memory.objects == before


def test_dry_run_writes_nothing(memory: Aging) -> None:
    """No deletion and no probe of the clock, so a read-only client sees the plan; it equals that of the run."""
    memory.age(8)
    before, counting = dict(memory.objects), Counting(memory)
    dry = prune(Repository(counting), dry_run=True)
    assert {verb for verb, _ in counting.calls} == {"get", "list"}
    assert memory.objects == before
    wet = prune(Repository(memory))
    assert {it.pack for it in wet.deletions} == {it.pack for it in dry.deletions}
    assert dry.as_json()["deletions"][0].keys() == {"reason", "namespace", "pack", "objects", "bytes", "age_seconds"}


def test_requests(memory: Aging) -> None:
    """1 marker, 3 for the clock, 2 listings, a GET per manifest, a DELETE per object; at most 5 GETs for the orphan.

    These are its zarr.json and, before and after its objects are deleted, one for each namespace it may belong to.
    """
    memory.age(8)
    visible = len(packs(memory))
    counting = Counting(memory)
    report = prune(Repository(counting))
    deleted = sum(len(deletion.paths) for deletion in report.deletions)
    orphan_gets = 1 + 2 * 2
    assert counting.by_verb() == {"get": 1 + visible + orphan_gets, "put": 1, "list": 3, "delete": 1 + deleted}


def test_a_short_grace_must_be_forced(memory: Aging) -> None:
    """Less than a day could affect an active writer; the storage gets no request before that is decided."""
    counting = Counting(memory)
    for grace in (0.0, DAY - 1, -1.0, math.nan):
        with pytest.raises(ConfigurationError, match="grace period"):
            prune(Repository(counting), grace=grace)
    for grace in (-1.0, math.nan):
        with pytest.raises(ConfigurationError):
            prune(Repository(counting), grace=grace, force=True)
    assert counting.calls == []
    assert len(prune(Repository(memory), grace=0, force=True).deletions) == 7


class Lacking(Counting):
    """Omits given entries from listings, from the n-th listing of a prefix on."""

    def __init__(self, inner: Any, hide: str, *, always: bool = True) -> None:
        super().__init__(inner)
        self.hide, self.always, self.listings = hide, always, 0

    def list(self, prefix: str) -> list[ObjectInfo]:
        found = super().list(prefix)
        self.listings += prefix != layout.PROBES
        if prefix != layout.PROBES and (self.always or self.listings == 1):
            found = [entry for entry in found if not entry.path.startswith(self.hide)]
        return found


@pytest.mark.parametrize("always", [True, False])
@pytest.mark.parametrize(
    "hide", sampled(["", "cas-cache.json", "manifests", "manifests/{ns}", "manifests/{ns}/{merge}"], keep=4)
)
def test_a_listing_that_lacks_what_is_there_deletes_nothing(memory: Aging, hide: str, *, always: bool) -> None:
    """Empty, without the marker, or without all, a namespace's or one manifest: refused, and nothing is deleted."""
    memory.age(100)
    merge = Repository(memory).packs(SPEC.namespace)[-1][1]
    storage = Lacking(memory, hide.format(ns=SPEC.namespace, merge=merge), always=always)
    before = dict(memory.objects)
    with pytest.raises(IncompleteListing, match="Nothing was deleted"):
        prune(Repository(storage))
    assert memory.objects == before
    if hide not in ("", "cas-cache.json"):
        with pytest.raises(IncompleteListing):
            prune(Repository(Lacking(memory, storage.hide, always=always)), grace=0, force=True)
    assert memory.objects == before


def test_two_listings_that_differ_delete_nothing(memory: Aging) -> None:
    """A lost page hides a pack's manifest and its objects: that listing alone looks right."""
    memory.age(100)
    merge = Repository(memory).packs(SPEC.namespace)[-1][1]

    class LostPage(Lacking):
        def list(self, prefix: str) -> list[ObjectInfo]:
            found = super().list(prefix)
            return [entry for entry in found if merge not in entry.path] if not prefix else found

    before = dict(memory.objects)
    with pytest.raises(IncompleteListing, match="at one time and not at another"):
        prune(Repository(LostPage(memory, "nothing")))
    assert memory.objects == before


def test_packs_that_a_mirror_knows_must_be_listed(memory: Aging) -> None:
    """A listing is incomplete if it lacks packs that the caller knows."""
    memory.age(100)
    before = dict(memory.objects)
    with pytest.raises(IncompleteListing, match="1 packs that are known"):
        prune(Repository(memory), known={A: SPEC.namespace})
    assert memory.objects == before
    known = {pack: namespace for namespace, pack in packs(memory)}
    assert prune(Repository(memory), known={**known, B: "0" * 32}).deletions, "a dropped namespace is not missed"


def test_an_orphan_whose_zarr_json_is_unreadable_is_asked_for_in_every_namespace(memory: Aging) -> None:
    """The manifest of a pack is looked up by name even if its metadata does not name the namespace."""
    memory.age(100)
    merge = Repository(memory).packs(SPEC.namespace)[-1][1]
    memory.objects[layout.object_path(merge, "zarr.json")] = b"\xff"
    storage = Lacking(memory, f"manifests/{SPEC.namespace}/{merge}")
    with pytest.raises(IncompleteListing, match=merge):
        prune(Repository(storage))


def test_a_repository_of_orphans_alone_must_be_forced(memory: Aging) -> None:
    """It looks the same as a listing that lost every manifest."""
    memory.age(100)
    for path in [path for path in memory.objects if path.startswith("manifests/")]:
        del memory.objects[path]
    with pytest.raises(IncompleteListing, match="not one manifest"):
        prune(Repository(memory))
    assert len(prune(Repository(memory), force=True).deletions) == 9


def test_a_failed_listing_deletes_nothing(memory: Aging) -> None:
    """The same holds for any other request that fails before the deletions; the probe is removed."""
    memory.age(100)
    before = dict(memory.objects)
    for verb, count in (("list", 3), ("get", 1 + 8 + 2)):
        for at in range(1, count + 1):
            with pytest.raises(RemoteUnavailable):
                prune(Repository(FlakyStorage(memory, verb, at=at)))
            assert memory.objects == before, (verb, at)


def test_a_storage_without_times_deletes_nothing(memory: Aging) -> None:
    """Without times, no object has an age, so none is old."""

    class Timeless(Counting):
        def list(self, prefix: str) -> list[ObjectInfo]:
            return [ObjectInfo(entry.path, entry.size) for entry in super().list(prefix)]

    before = dict(memory.objects)
    with pytest.raises(RepositoryError, match="does not tell when"):
        prune(Repository(Timeless(memory)), grace=0, force=True)
    assert memory.objects == before


def test_the_clock_of_this_machine_does_not_count(memory: Aging, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client whose clock is years off deletes nothing too early or too late."""
    real = time.time

    class Elsewhere(Counting):
        """Returns times of the storage's clock, which prune reads."""

        def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
            with monkeypatch.context() as patch:
                patch.setattr(time, "time", real)
                super().put(path, data, create_only=create_only)

    monkeypatch.setattr(time, "time", lambda: real() + 1000 * DAY)
    assert prune(Repository(Elsewhere(memory))).young == 7
    memory.age(8)
    monkeypatch.setattr(time, "time", lambda: real() - 1000 * DAY)
    assert len(prune(Repository(Elsewhere(memory))).deletions) == 7


@pytest.mark.verify
def test_a_prune_that_broke_off_is_done_by_the_next(memory: Aging, tmp_path: Path) -> None:
    """After each of its deletions, no row is lost, and the next run completes the prune."""
    memory.age(8)
    objects, modified = dict(memory.objects), dict(memory._modified)
    total = sum(len(deletion.paths) for deletion in prune(Repository(memory), dry_run=True).deletions)
    for at in range(2, total + 2, 3):
        memory.objects, memory._modified = dict(objects), dict(modified)
        with pytest.raises(RemoteUnavailable):
            prune(Repository(FlakyStorage(memory, "delete", at=at, after=at % 2 == 0)))
        found = check(Repository(memory), read_data=True)
        assert {it.kind for it in found.findings} <= {"superseded", "orphan"}
        prune(Repository(memory))
        is_intact(memory, tmp_path / str(at))
        assert len(packs(memory)) == 2


def test_who_may_not_delete_is_told(memory: Aging) -> None:
    """The storage's error is raised; nothing is lost."""
    memory.age(8)
    with pytest.raises(AccessDenied):
        prune(Repository(FlakyStorage(memory, "delete", times=None, error=AccessDenied)))
    assert len(packs(memory)) == 8


def test_no_repository_and_newer_ones(memory: Aging) -> None:
    """A place without a repository stays empty; a repository with unknown features is not written."""
    empty = Memory()
    with pytest.raises(NotARepository):
        prune(Repository(empty))
    assert empty.objects == {}
    memory.objects[layout.MARKER] = memory.objects[layout.MARKER].replace(
        b'"writer_features":[]', b'"writer_features":["x"]'
    )
    before = dict(memory.objects)
    with pytest.raises(UnsupportedFormat):
        prune(Repository(memory))
    assert memory.objects == before
