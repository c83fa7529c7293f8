"""Push and pull: cut short anywhere, damaged anywhere, they lose nothing and take nothing wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cas_cache.errors import (
    DamagedMirror,
    DamagedPack,
    IncompleteListing,
    RemoteUnavailable,
    RepositoryMismatch,
    UnsupportedFormat,
)
from cas_cache.format import layout
from cas_cache.format.manifest import pack_id
from cas_cache.identity import keys_of_texts
from cas_cache.repository import Repository, pack
from cas_cache.storage import open_storage
from storages import (
    OTHER_SPEC,
    SPEC,
    Counting,
    Flaky,
    Machine,
    Memory,
    manifest_of,
    packs,
    repository_of,
    reseal,
    texts,
    truth,
)
from tiers import sampled

FIRST, SECOND = texts(10), texts(10, start=10)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make chunks of 96 bytes, so that a pack of 10 rows has 4 of keys, 2 of vectors, 1 of digests."""
    monkeypatch.setattr(pack, "CHUNK_BYTES", 96)


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    """Return a repository with two packs of one namespace: FIRST and SECOND."""
    return repository_of(tmp_path / "author", FIRST, SECOND)


def pack_with(memory: Memory, text: str) -> str:
    """Return the pack that holds a text, found by its bytes."""
    key = keys_of_texts([text]).tobytes()
    (name,) = {path.split("/")[1] for path, data in memory.objects.items() if "/keys/c/" in path and key in data}
    return name


# Damage ------------------------------------------------------------------------------------------------------------

Damage = Callable[[Memory, str], str | None]


def flip(memory: Memory, name: str) -> None:
    path = f"packs/{name}/vectors/c/1/0"
    data = bytearray(memory.objects[path])
    data[5] ^= 1
    memory.objects[path] = bytes(data)


def flip_a_key(memory: Memory, name: str) -> None:
    path = f"packs/{name}/keys/c/0/0"
    memory.objects[path] = bytes([memory.objects[path][0] ^ 128]) + memory.objects[path][1:]


def flip_a_digest(memory: Memory, name: str) -> None:
    path = f"packs/{name}/digests/c/0"
    memory.objects[path] = bytes([memory.objects[path][0] ^ 1]) + memory.objects[path][1:]


def truncate(memory: Memory, name: str) -> None:
    path = f"packs/{name}/vectors/c/0/0"
    memory.objects[path] = memory.objects[path][:-1]


def empty(memory: Memory, name: str) -> None:
    memory.objects[f"packs/{name}/vectors/c/0/0"] = b""


def delete(memory: Memory, name: str) -> None:
    del memory.objects[f"packs/{name}/vectors/c/1/0"]


def zero_fill(memory: Memory, name: str) -> None:
    path = f"packs/{name}/vectors/c/0/0"
    memory.objects[path] = bytes(len(memory.objects[path]))


def swap_objects(memory: Memory, name: str) -> None:
    one, two = f"packs/{name}/vectors/c/0/0", f"packs/{name}/vectors/c/1/0"
    memory.objects[one], memory.objects[two] = memory.objects[two], memory.objects[one]


def swap_with_another_pack(memory: Memory, name: str) -> None:
    other = pack_with(memory, SECOND[0])
    memory.objects[f"packs/{name}/vectors/c/0/0"] = memory.objects[f"packs/{other}/vectors/c/0/0"]


def swap_rows_and_reseal(memory: Memory, name: str) -> str:
    path = f"packs/{name}/vectors/c/0/0"
    data = memory.objects[path]
    memory.objects[path] = data[16:32] + data[:16] + data[32:]
    return reseal(memory, SPEC.namespace, name)


def zero_rows_and_reseal(memory: Memory, name: str) -> str:
    zero_fill(memory, name)
    return reseal(memory, SPEC.namespace, name)


def edit_manifest(memory: Memory, name: str) -> None:
    path = layout.manifest_path(SPEC.namespace, name)
    memory.objects[path] = memory.objects[path].replace(b'"rows":10', b'"rows":9')


def truncate_manifest(memory: Memory, name: str) -> None:
    path = layout.manifest_path(SPEC.namespace, name)
    memory.objects[path] = memory.objects[path][:-1]


def rename_manifest(memory: Memory, name: str) -> str:
    memory.objects[layout.manifest_path(SPEC.namespace, "f" * 64)] = memory.objects.pop(
        layout.manifest_path(SPEC.namespace, name)
    )
    return "f" * 64


def replace_manifest_by_the_others(memory: Memory, name: str) -> None:
    other = pack_with(memory, SECOND[0])
    memory.objects[layout.manifest_path(SPEC.namespace, name)] = memory.objects[
        layout.manifest_path(SPEC.namespace, other)
    ]


DAMAGES: list[Damage] = [
    flip,
    flip_a_key,
    flip_a_digest,
    truncate,
    empty,
    delete,
    zero_fill,
    swap_objects,
    swap_with_another_pack,
    swap_rows_and_reseal,
    zero_rows_and_reseal,
    edit_manifest,
    truncate_manifest,
    rename_manifest,
    replace_manifest_by_the_others,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_pack_is_named_and_passed_over(tmp_path: Path, memory: Memory, damage: Damage) -> None:
    """Whatever was done to a pack: the problem names it, the other pack is taken, and its lost rows are misses."""
    name = pack_with(memory, FIRST[0])
    name = damage(memory, name) or name
    reader = Machine(tmp_path / "reader", memory)
    report = reader.pull()
    (problem,) = report.problems
    assert isinstance(problem, DamagedPack)
    assert problem.pack == name
    assert name in str(problem)
    assert report.packs == 1
    assert reader.found(SECOND) == SECOND
    misses = [text for text in FIRST if text not in reader.found(FIRST)]
    assert misses
    # The misses are encoded again and published; whoever comes next finds everything, the damage still in place.
    assert reader.encode(misses) == len(misses)
    reader.push()
    assert len(reader.pull().problems) <= 1, "none, unless it cannot even be told what the pack holds"
    third = Machine(tmp_path / "third", memory)
    assert len(third.pull().problems) <= 1, "one, unless the sound packs were read first"
    assert third.found(FIRST + SECOND) == FIRST + SECOND
    assert third.mirror.namespace(SPEC).rows == 20


def test_a_whole_pack_under_another_name_is_noticed(tmp_path: Path) -> None:
    """Keys, vectors and digests that agree, but are another encoder's: the object hashes are what is left."""
    memory = Memory()
    author = Machine(tmp_path / "author", memory)
    author.encode(FIRST)
    other = author.mirror.namespace(OTHER_SPEC)
    other.append(keys_of_texts(FIRST), truth(SECOND))
    author.push()
    mine, others = (name for _, name in sorted(packs(memory), key=lambda found: found[0] != SPEC.namespace))
    for path in [path for path in memory.objects if path.startswith(f"packs/{others}/") and "/c/" in path]:
        memory.objects[path.replace(others, mine)] = memory.objects[path]
    reader = Machine(tmp_path / "reader", memory)
    (problem,) = reader.pull().problems
    assert isinstance(problem, DamagedPack)
    assert problem.pack == mine
    assert reader.found(FIRST) == []


@pytest.mark.parametrize("damage", [flip, delete, swap_rows_and_reseal], ids=lambda damage: damage.__name__)
def test_a_repaired_pack_is_taken_at_the_next_pull(tmp_path: Path, memory: Memory, damage: Damage) -> None:
    """What was skipped is tried again, and taken once it verifies."""
    healthy = dict(memory.objects)
    damage(memory, pack_with(memory, FIRST[0]))
    reader = Machine(tmp_path / "reader", memory)
    assert len(reader.pull().problems) == 1
    assert len(reader.pull().problems) == 1
    memory.objects = healthy
    assert reader.pull().problems == []
    assert reader.found(FIRST + SECOND) == FIRST + SECOND


def test_a_pack_of_a_newer_version_is_a_problem_of_its_own(tmp_path: Path, memory: Memory) -> None:
    """A pack that asks for an unknown feature is skipped; the rest is taken."""
    name = pack_with(memory, FIRST[0])
    data = memory.objects.pop(layout.manifest_path(SPEC.namespace, name))
    data = data.replace(b'"features":[]', b'"features":["ragged"]')
    memory.objects[layout.manifest_path(SPEC.namespace, pack_id(data))] = data
    reader = Machine(tmp_path / "reader", memory)
    (problem,) = reader.pull().problems
    assert isinstance(problem, UnsupportedFormat)
    assert reader.found(FIRST + SECOND) == SECOND


def test_damage_in_the_mirror_is_never_pushed(tmp_path: Path) -> None:
    """A waiting row that no longer agrees with its digest stops the push before anything is visible."""
    memory = Memory()
    Machine(tmp_path / "author", memory).encode(FIRST)
    author = Machine(tmp_path / "author", memory)
    vectors = author.mirror.namespace(SPEC).folder / "vectors.npy"
    vectors.write_bytes(vectors.read_bytes()[:-3] + b"\xff\xff\xff")
    with pytest.raises(DamagedMirror):
        author.push()
    assert packs(memory) == []


# Interruptions -----------------------------------------------------------------------------------------------------


def puts_of_a_first_push(tmp_path: Path) -> int:
    counting = Counting(Memory())
    machine = Machine(tmp_path / "count", counting)
    machine.encode(FIRST)
    machine.push()
    return sum(verb == "put" for verb, _ in counting.calls)


@pytest.mark.parametrize("lost", sampled([False, True], keep=2), ids=["refused", "answer lost"])
def test_a_push_cut_short_anywhere_is_finished_by_the_next(tmp_path: Path, lost: bool) -> None:
    """At every put: nothing half visible, and the retry publishes the same pack id without a second copy."""
    for at in range(1, puts_of_a_first_push(tmp_path) + 1):
        memory = Memory()
        flaky = Flaky(memory, "put", at, lost=lost)
        author = Machine(tmp_path / f"author-{at}", flaky)
        author.encode(FIRST)
        with pytest.raises(RemoteUnavailable):
            author.push()
        seen = packs(memory)
        for namespace, name in seen:
            # Visible means whole.
            for path in manifest_of(memory, namespace, name).objects:
                assert layout.object_path(name, path) in memory.objects
        reader = Machine(tmp_path / f"reader-{at}", memory)
        assert reader.pull().problems == []
        assert reader.found(FIRST) == (FIRST if seen else [])
        assert author.mirror.namespace(SPEC).pending_rows == 10
        begun = {path.split("/")[1] for path in memory.objects if path.startswith("packs/")}
        flaky.mend()
        # As another process, which knows of the plan by the mirror alone.
        again = Machine(tmp_path / f"author-{at}", flaky)
        assert again.push().rows == 10
        ((_, name),) = packs(memory)
        assert begun <= {name}
        assert {path.split("/")[1] for path in memory.objects if path.startswith("packs/")} == {name}
        assert again.mirror.namespace(SPEC).pending_rows == 0
        reader.pull()
        assert reader.found(FIRST) == FIRST


def test_rows_that_come_between_a_failed_push_and_its_retry_get_a_pack_of_their_own(tmp_path: Path) -> None:
    """A plan stays what it was: later rows do not change the name of what was begun."""
    memory = Memory()
    flaky = Flaky(memory, "put", 8)
    author = Machine(tmp_path / "author", flaky)
    author.encode(FIRST)
    with pytest.raises(RemoteUnavailable):
        author.push()
    begun = {path.split("/")[1] for path in memory.objects if path.startswith("packs/")}
    flaky.mend()
    author.encode(SECOND)
    assert author.push().packs == 2
    assert len(begun) == 1
    assert begun < {name for _, name in packs(memory)}


def test_a_pull_cut_short_anywhere_goes_on_where_it_stopped(tmp_path: Path, memory: Memory) -> None:
    """At every get: what was taken is right and stays, and the next pull fetches no vector chunk twice."""
    counting = Counting(memory)
    Machine(tmp_path / "count", counting).pull()
    gets = sum(verb == "get" for verb, _ in counting.calls)
    assert gets == 2 + 1 + 2 * (1 + 4 + 1 + 2)
    for at in range(1, gets + 1):
        flaky = Flaky(memory, "get", at)
        reader = Machine(tmp_path / f"reader-{at}", flaky)
        with pytest.raises(RemoteUnavailable):
            reader.pull()
        taken = reader.found(FIRST + SECOND)
        counting = Counting(memory)
        again = Machine(tmp_path / f"reader-{at}", counting)
        assert again.found(FIRST + SECOND) == taken
        assert again.pull().problems == []
        assert again.found(FIRST + SECOND) == FIRST + SECOND
        assert again.mirror.namespace(SPEC).rows == 20
        chunks = [path for verb, path in counting.calls if verb == "get" and "/vectors/" in path]
        assert len(chunks) == len(set(chunks)) == (20 - len(taken)) // 5


def test_a_pull_whose_listing_fails_takes_nothing_for_empty(tmp_path: Path, memory: Memory) -> None:
    """A failed listing is an error."""
    reader = Machine(tmp_path / "reader", Flaky(memory, "list", 1))
    with pytest.raises(RemoteUnavailable):
        reader.pull()


# Request counts ----------------------------------------------------------------------------------------------------


def test_requests_of_a_push(tmp_path: Path) -> None:
    """A push is one put an object and one for the manifest, last; the first one adds marker and spec."""
    memory = Memory()
    counting = Counting(memory)
    machine = Machine(tmp_path, counting)
    machine.encode(FIRST)
    machine.push()
    ((namespace, name),) = packs(memory)
    objects = [layout.object_path(name, path) for path in manifest_of(memory, namespace, name).objects]
    assert len(objects) == 4 + 4 + 2 + 1
    puts = [path for verb, path in counting.calls if verb == "put"]
    assert puts[:2] == [layout.MARKER, layout.spec_path(namespace)]
    assert sorted(puts[2:-1]) == sorted(objects)
    assert puts[-1] == layout.manifest_path(namespace, name)
    counting.taken()
    machine.encode(SECOND)
    machine.push()
    assert [verb for verb, _ in counting.calls] == ["put"] * (len(objects) + 1)
    assert counting.calls[-1][1].startswith("manifests/")
    counting.taken()
    assert machine.push().packs == 0
    assert counting.taken() == []


def test_requests_of_a_pull(tmp_path: Path, memory: Memory) -> None:
    """A pull is one get to open, two the first time, one listing, and a pack's manifest and chunks; no zarr.json."""
    counting = Counting(memory)
    reader = Machine(tmp_path / "reader", counting)
    reader.pull()
    expected = [("get", layout.MARKER)] * 2 + [("list", "manifests"), ("get", layout.spec_path(SPEC.namespace))]
    for namespace, name in packs(memory):
        expected.append(("get", layout.manifest_path(namespace, name)))
        data = [path for path in manifest_of(memory, namespace, name).objects if not path.endswith("zarr.json")]
        expected += [("get", layout.object_path(name, path)) for path in data]
    assert counting.taken() == sorted(expected)
    reader.pull()
    assert counting.taken() == [("list", "manifests")]
    reader.pull([SPEC.namespace])
    assert counting.taken() == [("list", f"manifests/{SPEC.namespace}")]
    Machine(tmp_path / "reader", counting).pull()
    assert counting.taken() == [("get", layout.MARKER), ("list", "manifests")]


def test_opening_is_one_request(memory: Memory) -> None:
    """A repository that is there is opened with one get, once."""
    counting = Counting(memory)
    repository = Repository(counting)
    assert repository.open()
    assert repository.open()
    repository.create()
    assert counting.calls == [("get", layout.MARKER)]


def test_requests_over_the_wire(tmp_path: Path, s3_remote: Any) -> None:
    """S3 sees one request for each of ours, however large an object."""
    storage = open_storage(s3_remote.url, s3_remote.storage_options)
    author = Machine(tmp_path / "author", storage)
    author.encode(FIRST)
    author.push()
    storage = open_storage(s3_remote.url, s3_remote.storage_options)
    sent: list[str] = []
    call = storage._fs._call_s3

    async def noted(method: str, *args: Any, **kwargs: Any) -> Any:
        sent.append(method)
        return await call(method, *args, **kwargs)

    storage._fs._call_s3 = noted
    reader = Machine(tmp_path / "reader", storage)
    assert reader.pull().rows == 10
    assert reader.found(FIRST) == FIRST
    assert sorted(sent) == ["get_object"] * (2 + 1 + 1 + 7) + ["list_objects_v2"]


# What a mirror and a repository are to each other ------------------------------------------------------------------


def test_two_machines_meet(tmp_path: Path) -> None:
    """Each has, after a pull, what the other pushed; a row that both encoded is stored once."""
    memory = Memory()
    one, two = Machine(tmp_path / "1", memory), Machine(tmp_path / "2", memory)
    one.encode(texts(8))
    two.encode(texts(8, start=4))
    two.encode(texts(2), OTHER_SPEC)
    one.push()
    two.push()
    one.pull()
    assert two.pull().rows == 4
    for machine in (one, two):
        assert machine.found(texts(12)) == texts(12)
        assert machine.found(texts(2), OTHER_SPEC) == texts(2)
        assert machine.mirror.namespace(SPEC).rows == 12
        assert machine.mirror.namespace(SPEC).pending_rows == 0


def test_a_pull_can_be_of_some_namespaces(tmp_path: Path, memory: Memory) -> None:
    """What was not asked for is not fetched."""
    other = Machine(tmp_path / "other", memory)
    other.encode(texts(2), OTHER_SPEC)
    other.push()
    reader = Machine(tmp_path / "reader", memory)
    assert reader.pull([OTHER_SPEC.namespace]).rows == 2
    assert reader.found(FIRST) == []


def test_long_waits_become_several_packs(tmp_path: Path) -> None:
    """A pack ends at 16 chunks of vectors."""
    memory = Memory()
    author = Machine(tmp_path / "author", memory)
    author.encode(texts(200))
    assert author.push().packs == 3
    assert sorted(manifest_of(memory, *name).rows for name in packs(memory)) == [8, 96, 96]
    reader = Machine(tmp_path / "reader", memory)
    reader.pull()
    assert reader.found(texts(200)) == texts(200)


def test_an_empty_listing_is_suspicious(tmp_path: Path, memory: Memory) -> None:
    """Where the mirror knows packs, none in the listing is an error and changes nothing."""
    reader = Machine(tmp_path / "reader", memory)
    reader.pull()
    for path in [path for path in memory.objects if path.startswith("manifests/")]:
        del memory.objects[path]
    for wanted in (None, [SPEC.namespace]):
        with pytest.raises(IncompleteListing, match="knows 2"):
            reader.pull(wanted)
    assert reader.found(FIRST + SECOND) == FIRST + SECOND


def test_an_empty_bucket_is_suspicious(tmp_path: Path, memory: Memory) -> None:
    """Where the mirror knows a repository, nothing at all is an error, for pull and push, and nothing is made."""
    machine = Machine(tmp_path / "reader", memory)
    machine.pull()
    memory.objects.clear()
    machine = Machine(tmp_path / "reader", memory)
    machine.encode(texts(1, start=100))
    for attempt in (machine.pull, machine.push):
        with pytest.raises(IncompleteListing, match="empty"):
            attempt()
    assert memory.objects == {}
    assert machine.mirror.namespace(SPEC).pending_rows == 1


def test_another_repository_is_a_mismatch(tmp_path: Path, memory: Memory) -> None:
    """A mirror serves the repository it met first, and neither takes from another nor gives to it."""
    machine = Machine(tmp_path / "author", memory)
    machine.encode(texts(1, start=100))
    elsewhere = Memory()
    Repository(elsewhere).create()
    before = dict(elsewhere.objects)
    machine.repository = Repository(elsewhere)
    for attempt in (machine.pull, machine.push):
        with pytest.raises(RepositoryMismatch):
            attempt()
    assert elsewhere.objects == before
    machine.repository = Repository(memory)
    assert machine.push().rows == 1


def test_a_pack_of_another_dtype_is_a_problem(tmp_path: Path, memory: Memory) -> None:
    """Vectors of another kind under the same name are not taken, and the message says that one of the two is wrong."""
    stranger = Machine(tmp_path / "stranger", memory)
    stranger.encode(texts(3, start=50), dtype="float16")
    stranger.push()
    author = Machine(tmp_path / "author", memory)
    (problem,) = author.pull().problems
    assert isinstance(problem, DamagedPack)
    assert "float16" in str(problem)
    assert "float32" in str(problem)
    assert author.found(texts(3, start=50)) == []
    assert author.found(FIRST) == FIRST
    # And a new reader has one of the two, never both.
    reader = Machine(tmp_path / "reader", memory)
    assert len(reader.pull().problems) in (1, 2)
    assert reader.found(FIRST + texts(3, start=50)) in (FIRST, texts(3, start=50))


def test_the_first_vector_of_a_key_stays(tmp_path: Path) -> None:
    """A key in two packs: the one that was applied first answers, whatever comes later."""
    memory = Memory()
    one, two = Machine(tmp_path / "1", memory), Machine(tmp_path / "2", memory)
    one.encode(["a"])
    two.mirror.namespace(SPEC).append(keys_of_texts(["a"]), truth(["b"]))
    one.push()
    two.push()
    one.pull()
    assert one.found(["a"]) == ["a"]


def test_a_pack_of_known_rows_is_not_read(tmp_path: Path) -> None:
    """Where every key is here already, the keys are read and the vectors are not."""
    memory = Memory()
    for name in ("one", "two"):
        machine = Machine(tmp_path / name, memory)
        machine.encode(FIRST)
        machine.push()
    storage = Counting(memory)
    reader = Machine(tmp_path / "reader", storage)
    report = reader.pull()
    assert (report.packs, report.rows) == (2, len(FIRST))
    assert len({path.split("/")[1] for verb, path in storage.calls if verb == "get" and "/vectors/" in path}) == 1
    assert reader.found(FIRST) == FIRST
    storage.calls.clear()
    assert reader.pull().packs == 0
    assert [verb for verb, _ in storage.calls] == ["list"]


def test_a_damaged_namespace_does_not_stop_the_others(tmp_path: Path) -> None:
    """Its problem is reported by pull and push; the rows of the sound one go up and come down."""
    memory = Memory()
    machine = Machine(tmp_path / "m", memory)
    machine.encode(FIRST)
    machine.encode(FIRST, OTHER_SPEC)
    (machine.mirror.namespace(OTHER_SPEC).folder / "state.json").write_bytes(b"{")
    again = Machine(tmp_path / "m", memory)
    for report in (again.push(), again.pull()):
        assert [type(problem) for problem in report.problems] == [DamagedMirror]
    fresh = Machine(tmp_path / "fresh", memory)
    fresh.pull()
    assert fresh.found(FIRST) == FIRST


def test_a_pack_that_has_gone_is_reported(tmp_path: Path) -> None:
    """A manifest deleted behind our back is a problem that names the way to send its rows again."""
    memory = Memory()
    machine = Machine(tmp_path / "m", memory)
    machine.encode(FIRST)
    machine.push()
    machine.encode(SECOND)
    machine.push()
    (namespace, pack), *_ = packs(memory)
    del memory.objects[layout.manifest_path(namespace, pack)]
    (problem,) = machine.pull().problems
    assert isinstance(problem, IncompleteListing)
    assert pack in str(problem)
    machine.mirror.rebind()
    machine.push()
    fresh = Machine(tmp_path / "fresh", memory)
    fresh.pull()
    assert fresh.found(FIRST + SECOND) == FIRST + SECOND


def test_a_lost_spec_is_written_again(tmp_path: Path) -> None:
    """By whoever pushes to the namespace next, though its packs are known."""
    memory = Memory()
    machine = Machine(tmp_path / "m", memory)
    machine.encode(FIRST)
    machine.push()
    del memory.objects[layout.spec_path(SPEC.namespace)]
    other = Machine(tmp_path / "other", memory)
    other.encode(SECOND)
    other.push()
    fresh = Machine(tmp_path / "fresh", memory)
    assert fresh.pull().problems == []
    assert fresh.found(FIRST + SECOND) == FIRST + SECOND


def test_a_mirror_moves_to_another_repository(tmp_path: Path) -> None:
    """Rebound, every row waits again, pulled ones too, and the new repository gets them all."""
    memory = Memory()
    author = Machine(tmp_path / "author", memory)
    author.encode(FIRST)
    author.push()
    machine = Machine(tmp_path / "m", memory)
    machine.pull()
    machine.encode(SECOND)
    machine.push()
    elsewhere = Memory()
    machine.repository = Repository(elsewhere)
    with pytest.raises(IncompleteListing, match="--rebind"):
        machine.pull()
    machine.mirror.rebind()
    assert machine.push().rows == len(FIRST + SECOND)
    fresh = Machine(tmp_path / "fresh", elsewhere)
    fresh.pull()
    assert fresh.found(FIRST + SECOND) == FIRST + SECOND
