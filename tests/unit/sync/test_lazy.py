"""Lazy caches: keys first, vectors when they are asked for, and never a wrong one."""

import gc
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cas_cache import CacheMiss, EmbeddingCache, sync
from cas_cache.errors import DataWarning, IncompleteListing, RemoteWarning, SelfCheckFailed
from cas_cache.format import layout
from cas_cache.identity import keys_of_texts
from cas_cache.mirror.evict import evict
from cas_cache.mirror.remote_keys import RemoteKeyIndex, RemotePack
from cas_cache.repository import Repository, pack, reading
from cas_cache.repository.compacting import compact
from cas_cache.repository.pruning import prune
from paths import SUPPORT
from storages import (
    OTHER_SPEC,
    SPEC,
    Counting,
    Encoder,
    Flaky,
    Machine,
    Memory,
    packs,
    repository_of,
    texts,
    truth,
)
from tiers import sampled

MANY = texts(400)


def never(_: list[str]) -> Any:
    pytest.fail("the encoder was called")


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make chunks of 1,600 bytes: a pack of 200 rows has 4 of keys, 2 of vectors, 1 of digests."""
    monkeypatch.setattr(pack, "CHUNK_BYTES", 1600)
    monkeypatch.setattr(reading, "GAP_BYTES", 64)
    monkeypatch.setattr(reading, "RANGE_BYTES", 320)


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    """A repository with two packs of 200 rows of one namespace."""
    return repository_of(tmp_path / "author", MANY[:200], MANY[200:])


def lazily(directory: Path, storage: Any, **options: Any) -> EmbeddingCache:
    cache = EmbeddingCache(directory, remote=str(directory.parent / "unused"), lazy=True, **options)
    cache.repository = Repository(storage)
    return cache


def vectors_read(counting: Counting) -> list[str]:
    return [path for verb, path in counting.taken() if verb == "get" and "/vectors/" in path]


def test_only_what_is_asked_for_is_read(memory: Memory, tmp_path: Path) -> None:
    """Keys once, then the very rows, also in the next object; what was read is served without a request."""
    counting = Counting(memory)
    before = memory.traffic.down
    with lazily(tmp_path / "laptop", counting) as cache:
        asked = [*MANY[30:40], MANY[35], MANY[390]]
        np.testing.assert_array_equal(cache.encode(asked, SPEC, never), truth(asked))
        calls = counting.taken()
        assert sum(path.startswith("packs") and "/keys/" in path for _, path in calls) == 8
        assert sum("/vectors/" in path for _, path in calls) == 2  # rows 30 to 39 lie together
        assert cache.stats.bytes_pulled == memory.traffic.down - before
        ns = cache.mirror.namespace(SPEC)
        assert ns.rows == 11
        np.testing.assert_array_equal(cache.encode(asked, SPEC, never), truth(asked))
        assert counting.taken() == []
        before = memory.traffic.down
        np.testing.assert_array_equal(cache.encode(MANY[100:120], SPEC, never), truth(MANY[100:120]))
        assert memory.traffic.down - before == 20 * 16
    with lazily(tmp_path / "laptop", counting) as again:
        before = memory.traffic.down
        np.testing.assert_array_equal(again.encode(MANY[38:60], SPEC, never), truth(MANY[38:60]))
        # The marker was read, nothing of the packs but the 20 rows that were not there.
        marker = len(memory.objects[layout.MARKER])
        assert memory.traffic.down - before == 20 * 16 + marker
    with EmbeddingCache(tmp_path / "laptop", offline=True, only_cached=True) as offline:
        np.testing.assert_array_equal(offline.encode(MANY[30:60], SPEC, never), truth(MANY[30:60]))
        with pytest.raises(CacheMiss):
            offline.encode(MANY[:10], SPEC, never)


def test_what_the_repository_lacks_is_encoded_and_pushed(memory: Memory, tmp_path: Path) -> None:
    """Once; and what was read lazily is not pushed again."""
    encoder = Encoder()
    with lazily(tmp_path / "laptop", memory) as cache:
        asked = [MANY[3], "new one", MANY[4], "new two"]
        np.testing.assert_array_equal(cache.encode(asked, SPEC, encoder), truth(asked))
        assert encoder.asked == ["new one", "new two"]
        assert cache.mirror.namespace(SPEC).pending_rows == 2
    assert len(packs(memory)) == 3
    assert EmbeddingCache(tmp_path / "laptop").mirror.namespace(SPEC).pending_rows == 0


def test_only_cached(memory: Memory, tmp_path: Path) -> None:
    """What the repository has is no miss."""
    with lazily(tmp_path / "ci", memory, only_cached=True) as cache:
        np.testing.assert_array_equal(cache.encode(MANY[:7], SPEC, never), truth(MANY[:7]))
        with pytest.raises(CacheMiss):
            cache.encode(["not there"], SPEC, never)
        vectors, found = cache.get([MANY[9], "not there"], SPEC)
        assert found.tolist() == [True, False]
        np.testing.assert_array_equal(vectors[0], truth(MANY[9:10])[0])


def test_the_self_check_sees_rows_that_came_lazily(memory: Memory, tmp_path: Path) -> None:
    """They are others', as if they had come with a whole pack."""
    with lazily(tmp_path / "laptop", memory, self_check=2) as cache:
        with pytest.raises(SelfCheckFailed):
            cache.encode(MANY[:20], SPEC, lambda some: -truth(some))
        encoder = Encoder()
        np.testing.assert_array_equal(cache.encode(MANY[:20], SPEC, encoder), truth(MANY[:20]))
        assert cache.stats.checked == 4
        assert len(encoder.asked) == 2


def test_a_full_pull_afterwards_takes_the_rest(memory: Memory, tmp_path: Path) -> None:
    """Every row is there once; evicted rows come back, lazily too."""
    with lazily(tmp_path / "laptop", memory) as cache:
        cache.encode(MANY[50:60], SPEC, never)
        cache.pull()
        ns = cache.mirror.namespace(SPEC)
        assert ns.rows == 400
        assert ns.packs == {name for _, name in packs(memory)}
    del cache, ns
    gc.collect()  # who has it open keeps its rows where they are
    mirror = EmbeddingCache(tmp_path / "laptop").mirror
    assert len(evict(mirror, 0).evicted) == 2
    with lazily(tmp_path / "laptop", memory) as cache:
        np.testing.assert_array_equal(cache.encode(MANY[55:65], SPEC, never), truth(MANY[55:65]))
        assert cache.mirror.namespace(SPEC).rows == 10


def test_lazily_read_rows_are_evicted(memory: Memory, tmp_path: Path) -> None:
    """And read again when they are asked for."""
    with lazily(tmp_path / "laptop", memory) as cache:
        cache.encode([MANY[5], MANY[250]], SPEC, never)
    del cache
    gc.collect()
    mirror = EmbeddingCache(tmp_path / "laptop").mirror
    assert sum(it.rows for it in evict(mirror, 0).evicted) == 2
    with lazily(tmp_path / "laptop", memory) as cache:
        np.testing.assert_array_equal(cache.encode(MANY[:400:50], SPEC, never), truth(MANY[:400:50]))


def test_keys_of_all_namespaces_ahead(memory: Memory, tmp_path: Path) -> None:
    """`pull_keys` takes them, so a run needs vectors only."""
    author = Machine(tmp_path / "author", memory)
    author.encode(texts(10), OTHER_SPEC)
    author.push()
    counting = Counting(memory)
    with lazily(tmp_path / "laptop", counting) as cache:
        report = cache.pull_keys()
        assert (report.packs, report.rows) == (3, 410)
        assert vectors_read(counting) == []
        assert cache.pull_keys().packs == 0
        for spec in (SPEC, OTHER_SPEC):
            np.testing.assert_array_equal(cache.encode(MANY[:3], spec, never), truth(MANY[:3]))


def test_new_packs_of_others_are_seen_by_the_next_process(memory: Memory, tmp_path: Path) -> None:
    """Only the keys of what is new are read."""
    with lazily(tmp_path / "laptop", memory) as cache:
        cache.encode(MANY[:1], SPEC, never)
    author = Machine(tmp_path / "author", memory)
    author.encode(["later"])
    author.push()
    counting = Counting(memory)
    with lazily(tmp_path / "laptop", counting) as cache:
        np.testing.assert_array_equal(cache.encode(["later", MANY[1]], SPEC, never), truth(["later", MANY[1]]))
    assert sum("/keys/" in path for _, path in counting.taken()) == 1


# Compaction and prune ------------------------------------------------------------------------------------------------


def test_a_merge_is_read_when_its_sources_have_gone(memory: Memory, tmp_path: Path) -> None:
    """Before that it is skipped: its keys are known. A cache that is open meanwhile goes on, without encoding."""
    counting = Counting(memory)
    with lazily(tmp_path / "open", memory) as opened, lazily(tmp_path / "laptop", counting) as cache:
        for one in (opened, cache):
            np.testing.assert_array_equal(one.encode(MANY[:2], SPEC, never), truth(MANY[:2]))
        assert compact(Repository(memory), at_least=2).written
        counting.taken()
        with lazily(tmp_path / "laptop", counting) as again:
            np.testing.assert_array_equal(again.encode(MANY[2:4], SPEC, never), truth(MANY[2:4]))
        assert not any("/keys/" in path for _, path in counting.taken())
        with lazily(tmp_path / "new", counting) as new:
            assert new.pull_keys().packs == 1  # the merge alone
        assert prune(Repository(memory), grace=0, force=True).deletions
        with lazily(tmp_path / "laptop", counting) as again:
            assert again.pull_keys().packs == 1
            assert again.mirror.namespace(SPEC).remote_keys.packs == {name for _, name in packs(memory)}
        for one in (opened, cache):
            np.testing.assert_array_equal(one.encode(MANY[4:9], SPEC, never), truth(MANY[4:9]))
        assert cache.mirror.namespace(SPEC).remote_keys.packs == {name for _, name in packs(memory)}
    with lazily(tmp_path / "new", memory) as new:
        np.testing.assert_array_equal(new.encode(MANY, SPEC, never), truth(MANY))


def test_an_empty_listing_is_not_believed(memory: Memory, tmp_path: Path) -> None:
    """Nor does it cost the catalogue."""
    with lazily(tmp_path / "laptop", memory) as cache:
        cache.encode(MANY[:1], SPEC, never)
    there = dict(memory.objects)
    for path in [path for path in memory.objects if path.startswith(layout.MANIFESTS)]:
        del memory.objects[path]
    with lazily(tmp_path / "laptop", memory, on_remote_error="raise") as cache:
        with pytest.raises(IncompleteListing):
            cache.encode(MANY[:2], SPEC, never)
        memory.objects.update(there)
        np.testing.assert_array_equal(cache.encode(MANY[:2], SPEC, never), truth(MANY[:2]))


# Damage in the repository --------------------------------------------------------------------------------------------


def _change(memory: Memory, part: str, how: Callable[[bytes], bytes | None]) -> None:
    """Change the first object of that column that there is, or delete it."""
    path = min(path for path in memory.objects if f"/{part}/c/0" in path)
    data = how(memory.objects.pop(path))
    if data is not None:
        memory.objects[path] = data


def _flipped(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


DAMAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "flipped": _flipped,
    "cut": lambda data: data[:100],
    "zeroed": lambda data: bytes(len(data)),
    "shifted": lambda data: data[16:] + data[:16],
    "missing": lambda _: None,
}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("part", sampled(["vectors", "keys", "digests"], keep=4))
def test_a_damaged_pack_gives_misses(memory: Memory, tmp_path: Path, part: str, how: str) -> None:
    """Never a wrong vector: its rows are encoded again, with a warning, and the other pack answers."""
    _change(memory, part, DAMAGE[how])
    encoder = Encoder()
    with lazily(tmp_path / "laptop", memory) as cache:
        with pytest.warns(DataWarning, match="skipped"):
            np.testing.assert_array_equal(cache.encode(MANY, SPEC, encoder), truth(MANY))
        assert 0 < len(encoder.asked) <= 200
    with lazily(tmp_path / "laptop", memory) as again:
        np.testing.assert_array_equal(again.encode(MANY, SPEC, never), truth(MANY))


def test_damage_after_the_keys_were_read(memory: Memory, tmp_path: Path) -> None:
    """The same, and the catalogue, which agrees with the repository, is kept."""
    with lazily(tmp_path / "laptop", memory) as cache:
        cache.pull_keys()
        _change(memory, "vectors", _flipped)
        encoder = Encoder()
        with pytest.warns(DataWarning, match="do not agree with their digests"):
            np.testing.assert_array_equal(cache.encode(MANY[:400:4], SPEC, encoder), truth(MANY[:400:4]))
        assert encoder.asked
        assert len(cache.mirror.namespace(SPEC).remote_keys.packs) == 2


# Damage and faults here ----------------------------------------------------------------------------------------------


def catalogue_of(directory: Path) -> Path:
    return directory / "namespaces" / SPEC.namespace / "catalogue"


def _write(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def _column(folder: Path, name: str) -> Path:
    (found,) = folder.glob(f"*/{name}.npy")
    return found


LOCAL: dict[str, Callable[[Path], object]] = {
    "state is no JSON": lambda f: (f / "catalogue.json").write_bytes(b"{"),
    "state of another namespace": lambda f: (f / "catalogue.json").write_bytes(
        (f / "catalogue.json").read_bytes().replace(SPEC.namespace.encode(), OTHER_SPEC.namespace.encode())
    ),
    "state of a newer version": lambda f: (f / "catalogue.json").write_bytes(
        (f / "catalogue.json").read_bytes().replace(b'"version":1', b'"version":9', 1)
    ),
    "a folder outside": lambda f: (f / "catalogue.json").write_bytes(
        json.dumps({**json.loads((f / "catalogue.json").read_bytes()), "folder": "../.."}).encode()
    ),
    "manifests of nothing": lambda f: (f / "catalogue.json").write_bytes(
        json.dumps(
            {
                **(state := json.loads((f / "catalogue.json").read_bytes())),
                "packs": [[name, rows, "{}"] for name, rows, _ in state["packs"]],
            }
        ).encode()
    ),
    "packs that were swapped": lambda f: (f / "catalogue.json").write_bytes(
        json.dumps(
            {**(state := json.loads((f / "catalogue.json").read_bytes())), "packs": state["packs"][::-1]}
        ).encode()
    ),
    "state gone": lambda f: (f / "catalogue.json").unlink(),
    "keys gone": lambda f: _column(f, "keys").unlink(),
    "keys cut": lambda f: _write_cut(_column(f, "keys")),
    "digests gone": lambda f: _column(f, "digests").unlink(),
    "digests flipped": lambda f: _write(_column(f, "digests"), 128, bytes(3000)),
    "keys flipped": lambda f: _write(_column(f, "keys"), 128 + 20 * 32, b"\xff" * 3200),
}


def _write_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5000])


@pytest.mark.parametrize("how", sampled(LOCAL, keep=4))
def test_a_damaged_catalogue_is_read_again(memory: Memory, tmp_path: Path, how: str) -> None:
    """Never a wrong vector. But for keys, which are misses then, it costs no encoding either."""
    with lazily(tmp_path / "laptop", memory) as cache:
        cache.pull_keys()
    LOCAL[how](catalogue_of(tmp_path / "laptop"))
    encoder, counting = Encoder(), Counting(memory)
    with lazily(tmp_path / "laptop", counting) as cache:
        np.testing.assert_array_equal(cache.encode(MANY, SPEC, encoder), truth(MANY))
    assert bool(encoder.asked) == (how == "keys flipped")
    # Read again, but for keys that cannot be known to be wrong; digests first to see whose fault it is.
    assert any(verb == "get" and "/keys/" in path for verb, path in counting.taken()) == (how != "keys flipped")


def test_a_catalogue_that_names_another_folder_writes_nothing_there(memory: Memory, tmp_path: Path) -> None:
    """Least of all over the rows of the namespace."""
    with lazily(tmp_path / "laptop", memory) as cache:
        cache.encode(MANY[100:105], SPEC, never)
    state = catalogue_of(tmp_path / "laptop") / "catalogue.json"
    state.write_bytes(json.dumps({**json.loads(state.read_bytes()), "folder": "..", "packs": []}).encode())
    with lazily(tmp_path / "laptop", memory) as cache:
        np.testing.assert_array_equal(cache.encode(MANY[10:15], SPEC, never), truth(MANY[10:15]))
    with EmbeddingCache(tmp_path / "laptop", offline=True, only_cached=True) as cache:
        np.testing.assert_array_equal(cache.encode(MANY[100:105], SPEC, never), truth(MANY[100:105]))


@pytest.mark.parametrize("whole", [True, False])
def test_the_catalogue_of_another_model_serves_nothing(memory: Memory, tmp_path: Path, *, whole: bool) -> None:
    """Its rows have the same keys, and digests that agree with them; folders may be mixed up, or states edited."""
    author = Machine(tmp_path / "author", memory)
    author.mirror.namespace(OTHER_SPEC).append(keys_of_texts(MANY), -truth(MANY))
    author.push()
    with lazily(tmp_path / "laptop", memory) as cache:
        cache.pull_keys()
        theirs = cache.mirror.namespace(OTHER_SPEC).folder / "catalogue"
    mine = catalogue_of(tmp_path / "laptop")
    shutil.rmtree(mine)
    shutil.copytree(theirs, mine)
    if not whole:
        state = json.loads((mine / "catalogue.json").read_bytes())
        (mine / "catalogue.json").write_bytes(json.dumps({**state, "namespace": SPEC.namespace}).encode())
    machine = Machine(tmp_path / "laptop", memory)
    assert machine.repository.open()
    assert sync.pull_rows(machine.mirror, machine.repository, SPEC.namespace, keys_of_texts(MANY[:9])).rows in (0, 9)
    assert machine.found(MANY[:9]) in ([], MANY[:9])
    with lazily(tmp_path / "laptop", memory) as cache:
        np.testing.assert_array_equal(cache.encode(MANY[:9], SPEC, never), truth(MANY[:9]))


def test_offline_asks_nobody(memory: Memory, tmp_path: Path) -> None:
    """Though it knows that the repository has the rows."""
    with lazily(tmp_path / "laptop", memory) as cache:
        cache.encode(MANY[:5], SPEC, never)
    counting = Counting(memory)
    with lazily(tmp_path / "laptop", counting, offline=True) as cache:
        encoder = Encoder()
        np.testing.assert_array_equal(cache.encode(MANY[:7], SPEC, encoder), truth(MANY[:7]))
    assert encoder.asked == MANY[5:7]
    assert counting.taken() == []


def test_two_keys_that_were_swapped_are_no_swap_of_vectors(memory: Memory, tmp_path: Path) -> None:
    """The digest covers the key that was asked for."""
    with lazily(tmp_path / "laptop", memory) as cache:
        cache.pull_keys()
    path = _column(catalogue_of(tmp_path / "laptop"), "keys")
    data = path.read_bytes()
    first, second = (keys_of_texts([text]).tobytes() for text in MANY[:2])
    path.write_bytes(data.replace(first, b"\0" * 32).replace(second, first).replace(b"\0" * 32, second))
    encoder = Encoder()
    with lazily(tmp_path / "laptop", memory) as cache, pytest.warns(DataWarning):
        np.testing.assert_array_equal(cache.encode(MANY, SPEC, encoder), truth(MANY))


@pytest.mark.parametrize("at", sampled(range(1, 14), keep=4))
def test_a_remote_that_fails_costs_time_only(memory: Memory, tmp_path: Path, at: int) -> None:
    """At whichever read: what is missing is encoded, and the next run goes on."""
    flaky = Flaky(memory, "get", at)
    encoder = Encoder()
    with lazily(tmp_path / "laptop", flaky) as cache, pytest.warns(RemoteWarning):
        np.testing.assert_array_equal(cache.encode(MANY, SPEC, encoder), truth(MANY))
    with lazily(tmp_path / "laptop", memory) as again:
        np.testing.assert_array_equal(again.encode(MANY, SPEC, never), truth(MANY))


def test_a_crash_between_columns_and_state(memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows past what the state says do not exist; they are written over."""

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with lazily(tmp_path / "laptop", memory) as cache, monkeypatch.context() as patch:
        patch.setattr(RemoteKeyIndex, "_commit", die)
        with pytest.raises(KeyboardInterrupt):
            cache.encode(MANY[:5], SPEC, never)
    with lazily(tmp_path / "laptop", memory) as again:
        np.testing.assert_array_equal(again.encode(MANY[100:105], SPEC, never), truth(MANY[100:105]))


def test_another_repository_has_another_catalogue(memory: Memory, tmp_path: Path) -> None:
    """After a rebind nothing of the old one is asked for."""
    with lazily(tmp_path / "laptop", memory, push="manual") as cache:
        cache.encode(MANY[:3], SPEC, never)
    other = Memory()
    with lazily(tmp_path / "laptop", other, push="manual") as cache:
        assert cache.mirror.namespace(SPEC).remote_keys.rows == 400
        cache.push(rebind=True)
        assert cache.mirror.namespace(SPEC).remote_keys.rows == 0
        encoder = Encoder()
        np.testing.assert_array_equal(cache.encode(MANY[:6], SPEC, encoder), truth(MANY[:6]))
        assert encoder.asked == MANY[3:6]


READER = """
import sys, warnings
warnings.simplefilter("error")
import numpy as np
from cas_cache import EmbeddingCache
sys.path.insert(0, sys.argv[1])
from storages import SPEC, texts, truth
many = texts(400)
with EmbeddingCache(sys.argv[2], remote=sys.argv[3], lazy=True, only_cached=True) as cache:
    for start in np.random.default_rng(int(sys.argv[4])).permutation(40) * 10:
        asked = many[start : start + 10]
        np.testing.assert_array_equal(cache.encode(asked, SPEC, None), truth(asked))
"""


@pytest.mark.verify
def test_processes_share_a_catalogue(tmp_path: Path) -> None:
    """Four at a time in one mirror: every answer is right, and each row is there once."""
    with EmbeddingCache(tmp_path / "author", remote=tmp_path / "shared") as author:
        for first in (0, 200):
            author.put(MANY[first : first + 200], truth(MANY[first : first + 200]), SPEC)
            author.push()
    command = [sys.executable, "-c", READER, str(SUPPORT), str(tmp_path / "laptop"), str(tmp_path / "shared")]
    running = [subprocess.Popen([*command, str(seed)], stderr=subprocess.PIPE, text=True) for seed in range(4)]
    for one in running:
        _, err = one.communicate(timeout=120)
        assert one.returncode == 0, err
    ns = EmbeddingCache(tmp_path / "laptop").mirror.namespace(SPEC)
    assert (ns.rows, ns.remote_keys.rows) == (400, 400)


ADDER = """
import sys
import numpy as np
from pathlib import Path
from cas_cache.identity import keys_of_texts
from cas_cache.mirror.remote_keys import RemoteKeyIndex, RemotePack
catalogue, who = RemoteKeyIndex(Path(sys.argv[1]), "0" * 32), sys.argv[2]
for i in range(20):
    keys = keys_of_texts([f"{who} {i} {j}" for j in range(50)])
    catalogue.add([RemotePack(f"{who}-{i}", b"{}", keys, np.arange(50, dtype=np.uint64))])
"""


@pytest.mark.verify
def test_processes_add_to_a_catalogue(tmp_path: Path) -> None:
    """One at a time, with each other's packs in view: none is lost."""
    command = [sys.executable, "-c", ADDER, str(tmp_path / "catalogue")]
    running = [subprocess.Popen([*command, str(who)], stderr=subprocess.PIPE, text=True) for who in range(4)]
    for one in running:
        _, err = one.communicate(timeout=120)
        assert one.returncode == 0, err
    catalogue = RemoteKeyIndex(tmp_path / "catalogue", "0" * 32)
    catalogue.add([RemotePack("0-0", b"{}", keys_of_texts(["known"]), np.zeros(1, np.uint64))])
    assert catalogue.rows == 4000
    assert len(catalogue.packs) == 80
    for who in range(4):
        for i in range(20):
            (found,) = catalogue.locate(keys_of_texts([f"{who} {i} {j}" for j in range(50)]))
            assert found.pack == f"{who}-{i}"
            assert found.rows.tolist() == found.at.tolist() == found.digests.tolist() == list(range(50))


def test_the_command_line(tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """``pull --keys-only`` takes keys, and CAS_CACHE_LAZY=1 the vectors of what is asked for."""
    with EmbeddingCache(tmp_path / "author", remote=tmp_path / "shared") as author:
        author.put(MANY, truth(MANY), SPEC)
    said = run("pull", tmp_path / "laptop", "--remote", tmp_path / "shared", "--keys-only", "--json")
    assert said.code == 0, said
    assert json.loads(said.out)["rows"] == 400
    assert json.loads(said.out)["bytes"] < 400 * 40 + 10_000
    monkeypatch.setenv("CAS_CACHE_LAZY", "1")
    with EmbeddingCache(tmp_path / "laptop", remote=tmp_path / "shared", only_cached=True) as cache:
        assert cache.mirror.namespace(SPEC).rows == 0
        np.testing.assert_array_equal(cache.encode(MANY[:2], SPEC, never), truth(MANY[:2]))
        assert cache.mirror.namespace(SPEC).rows == 2
