"""Eviction: whole packs, the longest unused first; pending rows stay, and no key ever finds another key's row."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cas_cache import EmbeddingCache
from cas_cache.errors import AlreadyClosed, DamagedMirror, MirrorWriteError
from cas_cache.identity import keys_of_texts
from cas_cache.mirror import Mirror
from cas_cache.mirror.evict import Candidate, evict, plan_evict
from storages import OTHER_SPEC, SPEC, Encoder, Machine, Memory, texts, truth
from tiers import sampled

ROW = 4 * 4 + 32 + 8 + 16


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def machine(memory: Memory, tmp_path: Path) -> Machine:
    """Return a mirror with four packs of ten rows, used in this order, and five pending rows."""
    machine = Machine(tmp_path / "mirror", memory)
    for i in range(4):
        machine.encode(texts(10, i * 10))
        machine.push()
    machine.encode(texts(5, 40))
    used = {pack: 1000.0 + at for at, pack in enumerate(packs_of(tmp_path / "mirror"))}
    (machine.mirror.namespace(SPEC).folder / "used.json").write_text(json.dumps(used))
    return machine


def packs_of(directory: Path) -> list[str]:
    """Return the packs in the order of their rows."""
    document = json.loads((directory / "namespaces" / SPEC.namespace / "state.json").read_bytes())
    return [pack for _, _, pack, _ in document["extents"] if pack]


def close(machine: Machine) -> Path:
    """Close the mirror; return its directory."""
    machine.mirror._namespaces.clear()
    return machine.mirror.directory


def held(directory: Path, count: int = 45) -> list[int]:
    """Return the texts that the mirror has, after checking that all of them are right."""
    ns = Mirror(directory).namespace(SPEC)
    rows = ns.find(keys_of_texts(texts(count)))
    there = np.flatnonzero(rows >= 0)
    # Not `take`, which would record the use.
    ns.verify(rows[there])
    np.testing.assert_array_equal(ns.table.vectors[rows[there]], truth([f"text {i}" for i in there]))
    assert ns.rows == len(there)
    assert np.load(ns.folder / "vectors.npy", mmap_mode="r").shape[0] == ns.rows if ns.rows else True
    return there.tolist()


def test_the_plan() -> None:
    """The longest unused packs are evicted first, no more than needed; ties are always broken in the same way."""
    made = [Candidate("n", pack, 1, 10, used) for pack, used in (("a", 3.0), ("b", 1.0), ("c", 2.0), ("d", 1.0))]
    assert [it.pack for it in plan_evict(made, total=40, max_bytes=40)] == []
    assert [it.pack for it in plan_evict(made, total=40, max_bytes=39)] == ["b"]
    assert [it.pack for it in plan_evict(made, total=40, max_bytes=15)] == ["b", "d", "c"]
    assert [it.pack for it in plan_evict(made, total=40, max_bytes=0)] == ["b", "d", "c", "a"]


@pytest.mark.parametrize(("packs", "left"), [(0, 45), (1, 35), (2, 25), (4, 5)])
def test_the_longest_unused_go(machine: Machine, packs: int, left: int) -> None:
    """Packs are evicted down to the requested size; a dry run reports the same without changes; pending rows stay."""
    directory = close(machine)
    most = left * ROW
    dry = evict(Mirror(directory), most, dry_run=True)
    assert held(directory) == list(range(45))
    report = evict(Mirror(directory), most)
    assert report == dry
    assert [it.rows for it in report.evicted] == [10] * packs
    assert (report.before, report.after, report.waiting) == (45 * ROW, left * ROW, 5 * ROW)
    assert held(directory) == list(range(packs * 10, 45))
    assert not list((directory / "namespaces" / SPEC.namespace).glob("*.new"))


def test_what_waits_stays_and_can_be_pushed(machine: Machine, memory: Memory, tmp_path: Path) -> None:
    """They stay even with a limit of zero; a pull brings the other rows back."""
    directory = close(machine)
    report = evict(Mirror(directory), 0)
    assert (report.after, report.waiting) == (5 * ROW, 5 * ROW)
    again = Machine(directory, memory)
    assert again.push().rows == 5
    assert again.pull().rows == 40
    assert again.pull().packs == 0
    again.mirror._namespaces.clear()
    assert held(directory) == list(range(45))


def test_use_counts(machine: Machine) -> None:
    """A pack that was used recently stays, whether a run of rows or single rows were read."""
    ns = Mirror(close(machine)).namespace(SPEC)  # a process records the use of each pack once
    ns.take(ns.find(keys_of_texts(["text 3"])))
    ns.take(slice(10, 12))
    directory = close(machine)
    del ns
    evict(Mirror(directory), 25 * ROW)
    assert held(directory) == [*range(20), *range(40, 45)]


def test_a_cache_goes_on_after_an_eviction(tmp_path: Path) -> None:
    """Evicted rows come back from the repository when they are missed, and are not encoded again."""
    encoder = Encoder()
    cache = EmbeddingCache(tmp_path / "mirror", remote=tmp_path / "repo", push="manual")
    cache.encode(texts(3000), SPEC, encoder)
    cache.push()
    del cache
    assert len(evict(Mirror(tmp_path / "mirror"), 0).evicted) == 1
    cache = EmbeddingCache(tmp_path / "mirror", remote=tmp_path / "repo")
    np.testing.assert_array_equal(cache.encode(texts(3000), SPEC, encoder), truth(texts(3000)))
    assert len(encoder.asked) == 3000


def test_memos_do_not_outlive_their_rows(tmp_path: Path) -> None:
    """A batch that was remembered is looked up again, because its rows have moved."""
    with EmbeddingCache(tmp_path / "mirror", remote=tmp_path / "repo", push="manual") as cache:
        for start in (0, 2000):
            cache.encode(texts(2000, start), SPEC, Encoder())
            cache.push()
        cache.encode(texts(2000, 2000), SPEC, Encoder())
    del cache
    evict(Mirror(tmp_path / "mirror"), 2000 * ROW)
    cache = EmbeddingCache(tmp_path / "mirror")
    again = Encoder()
    np.testing.assert_array_equal(cache.encode(texts(2000, 2000), SPEC, again), truth(texts(2000, 2000)))
    np.testing.assert_array_equal(cache.encode(texts(2000), SPEC, again), truth(texts(2000)))
    assert len(again.asked) == 2000


def test_a_namespace_in_use_is_left_as_it_is(machine: Machine) -> None:
    """Another object or process that uses it prevents eviction; after that is gone, it is evicted."""
    directory = machine.mirror.directory
    report = evict(Mirror(directory), 0)
    assert (report.evicted, report.in_use) == ([], [SPEC.namespace])
    assert report.after == report.before
    close(machine)
    script = """
import sys
from cas_cache.mirror import Mirror
namespaces = Mirror(sys.argv[1]).namespaces()
print("open", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        assert evict(Mirror(directory), 0).in_use == [SPEC.namespace]
        assert held(directory) == list(range(45))
        process.send_signal(signal.SIGKILL)
    assert evict(Mirror(directory), 0).in_use == []
    assert held(directory) == list(range(40, 45))


def test_others_go_where_one_is_in_use(machine: Machine, memory: Memory) -> None:
    """Packs that cannot be evicted because they are in use do not prevent the eviction of the next candidate."""
    machine.encode(texts(40), OTHER_SPEC)
    machine.push()
    directory = close(machine)
    keep = Mirror(directory).namespace(SPEC)
    report = evict(Mirror(directory), 50 * ROW)
    assert (report.in_use, report.after) == ([SPEC.namespace], 45 * ROW)
    assert keep.rows == 45
    assert Mirror(directory).namespace(OTHER_SPEC).rows == 0


def test_what_was_pushed_last_does_not_go_first(machine: Machine, memory: Memory) -> None:
    """A pack that was just published or pulled counts as used."""
    machine.push()
    directory = close(machine)
    evict(Mirror(directory), 5 * ROW)
    assert held(directory) == list(range(40, 45))


def test_a_handle_that_was_evicted_from_says_so(machine: Machine) -> None:
    """It answers no more requests, in particular none by row numbers that have changed."""
    directory = close(machine)
    mirror = Mirror(directory)
    ns = mirror.namespace(SPEC)
    evict(mirror, 25 * ROW)
    with pytest.raises(AlreadyClosed, match="Open the cache or mirror again"):
        ns.find(keys_of_texts(texts(1)))
    assert mirror.namespace(SPEC).rows == 25


def test_a_folder_that_is_made_anew_is_another_one(tmp_path: Path) -> None:
    """Rows of a namespace that was deleted and filled again in another order are never taken for the old ones."""
    some = texts(3000)
    cache = EmbeddingCache(tmp_path / "mirror")
    for _ in range(2):
        np.testing.assert_array_equal(cache.encode(some, SPEC, Encoder()), truth(some))
    shutil.rmtree(cache.mirror.namespace(SPEC).folder)
    with pytest.raises(DamagedMirror, match="is gone while it was in use"):
        cache.encode(some, SPEC, Encoder())
    EmbeddingCache(tmp_path / "mirror").encode(some[::-1], SPEC, Encoder())
    for asked in (some, some[:5], some[::-1]):
        with pytest.raises(DamagedMirror, match="Open the cache again"):
            cache.encode(asked, SPEC, Encoder())
    np.testing.assert_array_equal(EmbeddingCache(tmp_path / "mirror").encode(some, SPEC, Encoder()), truth(some))


def test_a_map_is_of_the_file_that_was_proved(tmp_path: Path) -> None:
    """A file that has taken the name in the meantime is not returned."""
    ns = Mirror(tmp_path).namespace(SPEC)
    ns.append(keys_of_texts(texts(1000)), truth(texts(1000), width=32).repeat(12, axis=1))
    ns.take(slice(0, 1000))
    path = ns.folder / "vectors.npy"
    data = path.read_bytes()
    path.unlink()
    with pytest.raises(DamagedMirror, match="was replaced"):
        ns.take(slice(0, 1000))
    path.write_bytes(data)
    with pytest.raises(DamagedMirror, match="was replaced"):
        ns.take(slice(0, 1000))


def test_other_namespaces_are_not_touched(machine: Machine, memory: Memory) -> None:
    """A namespace that is open elsewhere does not prevent eviction from the rest."""
    machine.encode(texts(10), OTHER_SPEC)
    machine.push()
    directory = close(machine)
    keep = Mirror(directory).namespace(OTHER_SPEC)
    report = evict(Mirror(directory), 0)
    assert report.in_use == [OTHER_SPEC.namespace]
    np.testing.assert_array_equal(keep.take(np.arange(10)), truth(texts(10)))
    assert Mirror(directory).namespace(SPEC).rows == 0


@pytest.mark.parametrize("most", sampled([0, 15 * ROW, 25 * ROW], keep={15 * ROW}))
def test_a_crash_at_every_step(machine: Machine, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the commit all rows exist, after it those that stay; each is right, and the next opening finishes."""
    directory = close(machine)

    class Crash(BaseException):
        """A BaseException, so that no handler treats it as an error."""

    steps = 0
    for at in range(1, 100):
        copy = tmp_path / f"copy-{at}"
        shutil.copytree(directory, copy)
        count = 0

        def step(_: Any, *, at: int = at) -> None:
            nonlocal count
            count += 1
            if count == at:
                raise Crash

        with monkeypatch.context() as patch:
            for module, name in ((os, "fsync"), (os, "replace"), (Path, "replace"), (Path, "unlink")):
                patch.setattr(module, name, hooked(getattr(module, name), step))
            try:
                evict(Mirror(copy), most)
            except Crash:
                steps += 1
            else:
                break
        left = held(copy)
        assert left in (list(range(45)), list(range(45 - most // ROW if most else 40, 45)))
        again = evict(Mirror(copy), most)
        assert again.after <= max(most, 5 * ROW)
        assert held(copy) == list(range(45 - most // ROW if most else 40, 45))
        assert not list(copy.rglob("*.new"))
    assert steps > 8


def hooked(real: Any, step: Any) -> Any:
    def call(*arguments: Any, **named: Any) -> Any:
        step(real)
        return real(*arguments, **named)

    return call


def test_a_full_disk_changes_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says so; all rows exist, and eviction works again when there is room."""
    directory = close(machine)
    before = held(directory)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("cas_cache.mirror.column._write_all", full)
        with pytest.raises(MirrorWriteError, match="disk is full"):
            evict(Mirror(directory), 25 * ROW)
    assert held(directory) == before
    evict(Mirror(directory), 25 * ROW)
    assert held(directory) == list(range(20, 45))


def test_an_eviction_that_is_not_finished(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that opens it first finishes it; until then every key still finds its own row."""
    directory = close(machine)
    with monkeypatch.context() as patch:
        patch.setattr("cas_cache.mirror.rewrite.finish_rewrite", lambda _: None)
        patch.setattr("cas_cache.mirror.namespace_files.finish_rewrite", lambda _: None)
        evict(Mirror(directory), 25 * ROW)
        ns = Mirror(directory).namespace(SPEC)
        rows = ns.find(keys_of_texts(texts(45)))
        found = np.flatnonzero(rows >= 0)
        np.testing.assert_array_equal(ns.take(rows[found]), truth([f"text {i}" for i in found]))
        del ns
    assert held(directory) == list(range(20, 45))


@pytest.mark.verify
def test_opening_waits_while_somebody_evicts(machine: Machine) -> None:
    """A process that opens the mirror meanwhile sees the state before or after the eviction, never between."""
    directory = close(machine)
    context = multiprocessing.get_context("spawn")
    with context.Pool(3) as pool:
        running = [pool.apply_async(open_often, (str(directory),)) for _ in range(3)]
        for _ in range(40):
            evict(Mirror(directory), 25 * ROW)
        seen = {tuple(rows) for result in running for rows in result.get(timeout=120)}
    assert seen <= {tuple(range(45)), tuple(range(20, 45))}


def open_often(directory: str) -> list[list[int]]:
    return [held(Path(directory)) for _ in range(15)]
