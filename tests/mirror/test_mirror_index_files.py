"""The files of the key index: whatever happens to them, every key finds its row and every other key finds none."""

import errno
import hashlib
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cas_cache.mirror import Mirror, Namespace, index, index_file
from cas_cache.mirror.index import ABSENT, KeyIndex
from cas_cache.mirror.index_file import Run, RunFile
from mirror.mirror_rows import SPEC, check_all, keys_for, vectors_for
from tiers import sampled

ROWS = 40
SAVE_ROWS = 8
KEY = st.builds(lambda head, tail: bytes([head] * 8 + [tail] * 24), st.integers(0, 3), st.integers(0, 3))


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use files from 8 rows on, blocks of 64 bytes, and small slices: few rows cross all boundaries."""
    monkeypatch.setattr(index, "SAVE_ROWS", SAVE_ROWS)
    monkeypatch.setattr(index, "SEARCHED_AT_ONCE", 16)
    monkeypatch.setattr(index_file, "SLICE_ROWS", 7)
    monkeypatch.setattr(index_file, "BLOCK_BYTES", 64)
    monkeypatch.setattr(index_file, "ENTRIES", 8)


def random_keys(count: int, seed: int = 0) -> Any:
    """Return random keys, (count, 32) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, 32), dtype=np.uint8)


def grown(folder: Path, keys: Any, step: int = SAVE_ROWS) -> KeyIndex:
    """Return an index that was saved after every `step` rows."""
    found = KeyIndex(folder)
    for stop in [*range(step, len(keys), step), len(keys)]:
        found.extend(keys[:stop])
        found.save(keys[:stop])
    return found


def names(folder: Path) -> list[str]:
    """Return the files of the index, by their first row."""
    return [path.name for _, path in sorted(index_file.files_in(folder).items())]


def check(found: KeyIndex, keys: Any, strangers: Any = None) -> None:
    """Check that the index finds what a dict would, for all keys at once and for each alone."""
    strangers = random_keys(20, 99) if strangers is None else strangers
    found.extend(keys)
    assert found.rows == len(keys)
    assert found.find(np.concatenate([strangers, keys]), keys).tolist() == [ABSENT] * len(strangers) + list(
        range(len(keys))
    )
    for row in range(len(keys)):
        assert found.find(keys[row : row + 1], keys).tolist() == [row]


def anew(folder: Path, keys: Any) -> KeyIndex:
    """Check that an index opened in this folder is right, whichever look-up comes first; return one."""
    for first in (keys[:1], keys[len(keys) // 2 :][:1], keys[-1:], random_keys(1, 98)):
        opened = KeyIndex(folder)
        opened.extend(keys)
        opened.find(first, keys)
        check(opened, keys)
    return opened


def forbid_sorting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the test fail if anything is indexed in memory from now on."""

    def sort(*_: Any) -> Run:
        raise AssertionError("the key column was read")

    monkeypatch.setattr(Run, "from_keys", sort)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    stored=st.lists(KEY | st.binary(min_size=32, max_size=32), max_size=60, unique=True),
    asked=st.lists(KEY, max_size=10),
    steps=st.lists(
        st.tuples(st.integers(1, 20), st.sampled_from(["save", "keep", "open", "lose", "back"])), max_size=12
    ),
)
def test_finds_what_a_dict_finds(stored: list[bytes], asked: list[bytes], steps: list[tuple[int, str]]) -> None:
    """However it grew, was saved, reopened, lost files and was restored, with keys that share prefixes."""
    column = np.frombuffer(b"".join(stored), np.uint8).reshape(-1, 32)
    wanted = np.frombuffer(b"".join([*asked, *stored]), np.uint8).reshape(-1, 32)
    with tempfile.TemporaryDirectory() as name:
        folder, at = Path(name), 0
        found = KeyIndex(folder)
        for step, then in [*steps, (60, "save"), (60, "open")]:
            if then == "back":
                # Like a writer that finds fewer rows: no file may remain that covers more.
                at = max(at - step, 0)
                found = KeyIndex(folder)
                found.prune(at)
            else:
                at = min(at + step, len(stored))
            if then == "open":
                found = KeyIndex(folder)
            if then == "lose":
                for victim in names(folder)[step % 3 :: 3]:
                    (folder / victim).unlink()
            found.extend(column[:at])
            if then == "save":
                found.save(column[:at])
            rows = {key: row for row, key in enumerate(stored[:at])}
            expected = [rows.get(key, ABSENT) for key in [*asked, *stored]]
            assert found.find(wanted, column[:at]).tolist() == expected


@pytest.mark.parametrize("shared", [8, 31])
def test_keys_that_share_their_beginning(tmp_path: Path, shared: int) -> None:
    """Keys that share a prefix are told apart, even by the last byte, in one run and across runs and blocks."""
    keys = np.full((60, 32), 7, np.uint8)
    keys[:, shared] = np.arange(60)
    strangers = keys[:30].copy()
    strangers[:, shared] += 60
    grown(tmp_path, keys)
    check(anew(tmp_path, keys), keys, strangers)


def test_an_opened_index_reads_no_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A saved index is mapped: nothing is sorted, neither to open it nor to look a key up."""
    keys = random_keys(ROWS)
    grown(tmp_path, keys)
    forbid_sorting(monkeypatch)
    opened = anew(tmp_path, keys)
    assert all(isinstance(run._body.base, np.memmap) for run in opened._runs if isinstance(run, RunFile))


def test_only_what_no_file_covers_is_sorted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tail with too few rows for a file is sorted."""
    keys = random_keys(ROWS + 5)
    grown(tmp_path, keys)
    covered = int(names(tmp_path)[-1].partition("-")[2])
    assert covered == ROWS
    sorted_rows: list[tuple[int, int]] = []
    original = Run.from_keys
    monkeypatch.setattr(
        Run, "from_keys", lambda k, start, stop: sorted_rows.append((start, stop)) or original(k, start, stop)
    )
    opened = KeyIndex(tmp_path)
    opened.extend(keys)
    check(opened, keys)
    assert sorted_rows == [(ROWS, ROWS + 5)]


@pytest.mark.verify
def test_a_new_process_finds_all(tmp_path: Path) -> None:
    """With the real sizes, through the mirror: 70,000 rows, of which 65,536 are in files."""
    script = (
        "import sys, numpy as np\n"
        "from cas_cache.mirror import Mirror\n"
        "from cas_cache.identity import EncoderSpec\n"
        "ns = Mirror(sys.argv[1]).namespace(EncoderSpec(model='m', revision='1'))\n"
        "keys = np.random.default_rng(0).integers(0, 256, (70_000, 32), dtype=np.uint8)\n"
        "if len(sys.argv) > 2:\n"
        "    for start in range(0, 65_536, 8192):\n"
        "        ns.append(keys[start : start + 8192][:65_536 - start], np.ones((8192, 1), np.uint8))\n"
        "    ns.append(keys[65_536:], np.ones((4464, 1), np.uint8))\n"
        "order = np.random.default_rng(1).permutation(70_000)\n"
        "assert np.array_equal(ns.find(keys[order]), order)\n"
        "assert (ns.find(keys[:, ::-1]) == -1).all()\n"
        "print(ns._index._runs)\n"
    )
    outputs = [
        subprocess.run([sys.executable, "-c", script, str(tmp_path), *more], check=True, capture_output=True, text=True)
        for more in (["write"], [])
    ]
    assert [output.stdout for output in outputs] == ["[RunFile(0, 65536), Run(65536, 70000)]\n"] * 2


@pytest.mark.verify
def test_few_files_and_no_others(tmp_path: Path) -> None:
    """Each file has 4 times the rows of the next, they are adjacent, and merged files are removed."""
    keys = random_keys(1000)
    found = KeyIndex(tmp_path)
    for stop in range(SAVE_ROWS, 1001, SAVE_ROWS):
        found.extend(keys[:stop])
        found.save(keys[:stop])
        files = [tuple(map(int, name[6:].split("-"))) for name in names(tmp_path)]
        sizes = [last - first for first, last in files]
        assert all(one >= index.GROWTH * next_ for one, next_ in itertools.pairwise(sizes))
        assert len(files) <= 4
        assert [first for first, _ in files] == [0, *(last for _, last in files)][: len(files)]
        assert sum(sizes) == stop
    check(anew(tmp_path, keys), keys)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names(tmp_path))


def test_runs_in_memory_become_one_file(tmp_path: Path) -> None:
    """The tail came in commits of different sizes."""
    keys = random_keys(ROWS)
    found = KeyIndex(tmp_path)
    for stop in (6, 7):
        found.extend(keys[:stop])
    assert len(found._runs) == 2
    found.extend(keys[:8])
    found.save(keys[:8])
    assert names(tmp_path) == ["index.0-8"]


def test_a_missing_index(tmp_path: Path) -> None:
    """If all or any one of the files is missing, its rows are read from the keys, and the writer saves it again."""
    keys = random_keys(252)
    grown(tmp_path, keys)
    whole = names(tmp_path)
    assert len(whole) > 2
    for lost in [*([name] for name in whole), whole]:
        kept = {name: (tmp_path / name).read_bytes() for name in whole}
        for name in lost:
            (tmp_path / name).unlink()
        anew(tmp_path, keys)
        writer = KeyIndex(tmp_path)
        writer.extend(keys)
        writer.save(keys)
        assert sum(int(n[6:].split("-")[1]) - int(n[6:].split("-")[0]) for n in names(tmp_path)) == 252
        anew(tmp_path, keys)
        for name in names(tmp_path):
            (tmp_path / name).unlink()
        for name, data in kept.items():
            (tmp_path / name).write_bytes(data)


def test_a_stale_index(tmp_path: Path) -> None:
    """Files from a shorter column, and files that overlap them, are handled."""
    keys = random_keys(400)
    grown(tmp_path / "", keys[:100])
    old = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    anew(tmp_path, keys)
    grown(tmp_path, keys)
    for name, data in old.items():
        (tmp_path / name).write_bytes(data)
    check(anew(tmp_path, keys), keys)


def test_the_index_of_another_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that was copied from a namespace with as many rows does not belong to this column."""
    monkeypatch.setattr(index_file, "SAMPLES", 3)
    keys, others = random_keys(ROWS), random_keys(ROWS, 1)
    (tmp_path / "other").mkdir()
    grown(tmp_path, keys)
    grown(tmp_path / "other", others)
    for name in names(tmp_path / "other"):
        shutil.copy(tmp_path / "other" / name, tmp_path / name)
    opened = KeyIndex(tmp_path)
    opened.extend(keys)
    assert not any(run.saved for run in opened._runs)
    anew(tmp_path, keys)


def test_the_index_of_a_column_that_differs_in_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a compared row differs, the file is rejected; otherwise the first look-up that reads the row detects it."""
    monkeypatch.setattr(index_file, "SAMPLES", 2)
    keys = random_keys(ROWS)
    for row, rejected in ((ROWS - 1, True), (5, False)):
        others = keys.copy()
        others[row] = random_keys(1, 5)[0]
        for name in names(tmp_path):
            (tmp_path / name).unlink()
        grown(tmp_path, others, ROWS)
        opened = KeyIndex(tmp_path)
        opened.extend(keys)
        assert [run.saved for run in opened._runs] == [not rejected]
        # A batch with the replaced key also depends on its entry, and still all of the batch is found.
        assert opened.find(np.concatenate([keys, others[row : row + 1]]), keys).tolist() == [*range(ROWS), ABSENT]
        assert [run.saved for run in opened._runs] == [False]


def test_a_file_under_another_name(tmp_path: Path) -> None:
    """The head says which rows a file covers; foreign names are skipped."""
    keys = np.tile(random_keys(8), (5, 1))
    keys[:, 31] = np.arange(40)
    grown(tmp_path, keys[:8])
    data = (tmp_path / "index.0-8").read_bytes()
    for name in (
        "index.8-16",
        "index.0-9",
        "index.00-8",
        "index.9-8",
        "index.0-0",
        "index.x",
        "index.0-8.tmp",
        "index.-1-8",
    ):
        (tmp_path / name).write_bytes(data)
    (tmp_path / "index.0-16").mkdir()
    opened = anew(tmp_path, keys)
    check(opened, keys)
    assert opened._runs[0].saved, "what is no file of ours is in nobody's way"
    grown(tmp_path, keys)
    assert "index.8-16" not in names(tmp_path)


@pytest.mark.verify
@pytest.mark.parametrize(("shared", "mask"), sampled([(0, 0x80), (8, 0x02)], keep=2))
def test_any_flipped_byte(tmp_path: Path, shared: int, mask: int) -> None:
    """With each byte of the file changed, every key finds its row, in batches and in single look-ups."""
    keys = random_keys(ROWS)
    # Half of the keys share a prefix, so look-ups continue from entry to entry, through more than one block.
    keys[::2, :shared] = keys[0, :shared]
    grown(tmp_path, keys, ROWS)
    path = tmp_path / f"index.0-{ROWS}"
    whole = path.read_bytes()
    offset = index_file._body_offset(ROWS)
    wanted, expected = np.concatenate([keys, random_keys(10, 3)]), [*range(ROWS), *[ABSENT] * 10]
    seen = 0
    for at in range(len(whole)):
        data = bytearray(whole)
        data[at] ^= mask
        path.write_bytes(data)
        opened = KeyIndex(tmp_path)
        opened.extend(keys)
        assert opened.find(wanted, keys).tolist() == expected
        seen += not opened._runs[0].saved
        near = (at - offset) // 8
        for row in {at % ROWS, near % ROWS, (near - 1) % ROWS}:
            opened = KeyIndex(tmp_path)
            opened.extend(keys)
            assert opened.find(keys[row : row + 1], keys).tolist() == [row]
    padding = offset - (index_file.HEAD.size + 4 * (2 * ROWS // 8) + 32)
    assert seen == len(whole) - padding


def test_a_file_of_no_rows(tmp_path: Path) -> None:
    """A run that ends where it starts would be searched forever."""
    keys = random_keys(ROWS)
    head = index_file._head(0, 0, keys)
    (tmp_path / "index.0-0").write_bytes((head + hashlib.sha256(head).digest()).ljust(128))
    anew(tmp_path, keys)


@pytest.mark.parametrize("entry", sampled([20, 21, 30, 9], keep=4))
@pytest.mark.verify
def test_a_search_that_is_led_astray(tmp_path: Path, entry: int) -> None:
    """With a prefix changed on the path of searches, every pair of keys is found in any order."""
    keys = random_keys(ROWS)
    grown(tmp_path, keys, ROWS)
    path = tmp_path / f"index.0-{ROWS}"
    for mask in (0xFF, 0x80):
        whole = path.read_bytes()
        data = bytearray(whole)
        data[index_file._body_offset(ROWS) + 8 * entry + 7] ^= mask
        path.write_bytes(data)
        for one, other in itertools.combinations(range(ROWS), 2):
            opened = KeyIndex(tmp_path)
            opened.extend(keys)
            assert opened.find(keys[[one, other]], keys).tolist() == [one, other]
        path.write_bytes(whole)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage(data: st.DataObject) -> None:
    """Bytes are overwritten, and blocks swapped, zeroed, cut or added, while the rest is unchanged."""
    keys = random_keys(ROWS)
    with tempfile.TemporaryDirectory() as name:
        grown(Path(name), keys, ROWS)
        path = Path(name, f"index.0-{ROWS}")
        whole = bytearray(path.read_bytes())
        start = data.draw(st.integers(0, len(whole) - 1))
        length = data.draw(st.integers(1, 200))
        match data.draw(st.sampled_from(["garbage", "zeros", "moved", "cut", "added"])):
            case "garbage":
                whole[start : start + length] = data.draw(st.binary(min_size=length, max_size=length))
            case "zeros":
                whole[start : start + length] = bytes(len(whole[start : start + length]))
            case "moved":
                other = data.draw(st.integers(0, len(whole) - 1))
                part = whole[other : other + length]
                whole[start : start + len(part)] = part
            case "cut":
                del whole[start:]
            case _:
                whole[start:start] = bytes(length)
        path.write_bytes(whole)
        order = np.array(data.draw(st.permutations(range(ROWS))))
        opened = KeyIndex(Path(name))
        opened.extend(keys)
        for part in (order[:1], order[1:3], order):
            assert opened.find(keys[part], keys).tolist() == part.tolist()


@pytest.mark.parametrize("wrong", [-1, ROWS, 10**9])
def test_a_row_that_is_none(tmp_path: Path, wrong: int) -> None:
    """An entry that matches its digest, but names a row outside its run, is ignored."""
    keys = random_keys(ROWS)
    run = Run.from_keys(keys, 0, ROWS)
    run.rows[3] = wrong
    index_file.write_run(tmp_path, [run], keys)
    anew(tmp_path, keys)


def test_damage_is_not_merged_and_is_repaired(tmp_path: Path) -> None:
    """The writer verifies a run before it merges it, and rewrites a run that a look-up found damaged."""
    keys = random_keys(ROWS)
    for at in range(index_file._body_offset(24), index_file._body_offset(24) + 16 * 24, 13):
        grown(tmp_path, keys[:24], 24)
        path = tmp_path / "index.0-24"
        data = bytearray(path.read_bytes())
        data[at] ^= 0x10
        path.write_bytes(data)
        writer = KeyIndex(tmp_path)
        writer.extend(keys[:24])
        writer.extend(keys)
        writer.save(keys)
        assert names(tmp_path) == ["index.0-40"]
        check(anew(tmp_path, keys), keys)
        path = tmp_path / "index.0-40"
        good = path.read_bytes()
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        finder = KeyIndex(tmp_path)
        check(finder, keys)
        finder.save(keys)
        assert path.read_bytes() == good
        path.unlink()


def test_a_column_put_back_and_grown_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backup's state and columns meet a newer index, then other rows that are equal in all compared rows."""
    monkeypatch.setattr(index_file, "SAMPLES", 2)
    keys = keys_for(range(ROWS))
    ns = Mirror(tmp_path).namespace(SPEC)
    ns.append(keys[:10], vectors_for(keys[:10]))
    backup = {path.name: path.read_bytes() for path in ns.folder.glob("*.*") if not path.name.startswith("index")}
    ns.append(keys[10:], vectors_for(keys[10:]))
    assert names(ns.folder) == [f"index.0-{ROWS}"]
    for name, data in backup.items():
        (ns.folder / name).write_bytes(data)
    other = np.concatenate([keys_for(range(1000, 1029)), keys[-1:]])
    writer = Mirror(tmp_path).namespace(SPEC)
    # The process dies before it can save its index.
    monkeypatch.setattr(KeyIndex, "save", lambda *_: None)
    writer.append(other, vectors_for(other))
    assert len(check_all(Mirror(tmp_path).namespace(SPEC))) == ROWS


@pytest.mark.parametrize("first", [True, False])
def test_rows_that_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool) -> None:
    """An eviction left an old index behind: rows are found at their new places, and evicted rows can come back."""
    monkeypatch.setattr(index_file, "SAMPLES", 2)
    keys = keys_for(range(48))
    ns = Mirror(tmp_path).namespace(SPEC)
    for pack, start in (("a", 0), ("b", 16), ("c", 32)):
        ns.append(keys[start : start + 16], vectors_for(keys[start : start + 16]), pack=pack, upto=(16, 16))
        if start == 16:
            kept = {path.name: path.read_bytes() for path in ns.folder.glob("index.*")}
    kept |= {path.name: path.read_bytes() for path in ns.folder.glob("index.*")}
    assert set(kept) == {"index.0-32", "index.0-48"}
    folder = ns.folder
    del ns
    gone = "a" if first else "b"
    evicting = namespace_of(tmp_path)
    assert evicting.reserve()
    evicting.evict([gone])
    assert names(folder) == []
    for name, data in kept.items():
        (folder / name).write_bytes(data)
    ns = namespace_of(tmp_path)
    assert len(check_all(ns)) == 32
    evicted = keys[:16] if first else keys[16:32]
    assert (ns.find(evicted) == ABSENT).all()
    assert ns.append(evicted, vectors_for(evicted)) == 16
    assert len(check_all(namespace_of(tmp_path))) == 48


def test_readers_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index is missing, stale or damaged, in a directory that refuses every write."""
    keys = keys_for(range(ROWS))
    Mirror(tmp_path).namespace(SPEC).append(keys, vectors_for(keys))
    folder = Mirror(tmp_path).namespace(SPEC).folder
    path = folder / f"index.0-{ROWS}"
    good = path.read_bytes()

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    for name in ("replace", "unlink", "rename", "fsync"):
        monkeypatch.setattr(os, name, refuse)
    for data in (good, good[:-1] + b"\0\0", good[:100], None):
        if data is None:
            path.chmod(0o200)
            shutil.os.truncate(path, 0)
        else:
            path.write_bytes(data)
        before = {p.name: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.iterdir()}
        folder.chmod(0o500)
        try:
            check_all(Mirror(tmp_path, create=False).namespace(SPEC))
        finally:
            folder.chmod(0o700)
        assert {p.name: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.iterdir()} == before


def test_a_disk_that_refuses_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows are committed nevertheless, nothing is left behind, and the next commit saves everything."""
    ns = Mirror(tmp_path).namespace(SPEC)
    original = index_file._write_at
    full = True

    def write(*arguments: Any) -> None:
        original(*arguments)
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(index_file, "_write_at", write)
    keys = keys_for(range(ROWS))
    for start in range(0, 30, 10):
        assert ns.append(keys[start : start + 10], vectors_for(keys[start : start + 10])) == 10
        assert [p.name for p in ns.folder.iterdir() if p.name.startswith((".tmp", "index"))] == []
        check_all(ns)
    full = False
    assert ns.append(keys, vectors_for(keys)) == 10
    assert names(ns.folder) == [f"index.0-{ROWS}"]
    check_all(Mirror(tmp_path).namespace(SPEC))


class Died(BaseException):
    """Stands for the death of the process."""


def dying(monkeypatch: pytest.MonkeyPatch, at: int, *, after: bool) -> list[str]:
    """Die at the n-th disk operation, before or after its effect; return the operations."""
    done: list[str] = []

    def hooked(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if len(done) >= at:
                raise Died
            done.append(name)
            result = None if len(done) == at and not after else original(*arguments, **options)
            if len(done) == at:
                raise Died
            return result

        return call

    for name in ("fsync", "replace", "unlink"):
        monkeypatch.setattr(os, name, hooked(name, getattr(os, name)))
    monkeypatch.setattr(index_file, "_write_at", hooked("write", index_file._write_at))
    return done


@pytest.mark.parametrize("after", sampled([False, True], keep={False}))
@pytest.mark.verify
def test_a_crash_anywhere(tmp_path: Path, after: bool) -> None:
    """Between any two operations of commits that save and merge, no row is lost, doubled or wrong, now or later."""
    keys = keys_for(range(100))
    at, deaths = 0, 0
    while True:
        at += 1
        folder = tmp_path / f"{at}"
        ns = Mirror(folder).namespace(SPEC)
        ns.append(keys[:20], vectors_for(keys[:20]))
        ns.append(keys[20:24], vectors_for(keys[20:24]))
        with pytest.MonkeyPatch.context() as patch:
            done = dying(patch, at, after=after)
            try:
                ns.append(keys[24:60], vectors_for(keys[24:60]))
            except Died:
                deaths += 1
            else:
                break
        survivor = Mirror(folder).namespace(SPEC)
        assert survivor.rows in {24, 60}
        check_all(survivor)
        survivor.append(keys, vectors_for(keys))
        for ns in (survivor, Mirror(folder).namespace(SPEC)):
            assert check_all(ns) == {key.tobytes(): row for row, key in enumerate(keys)}
        assert all((first, last) != (0, 20) for first, last in index_file.files_in(survivor.folder))
        assert not list(survivor.folder.glob(".tmp-index"))
    assert deaths == len(done) > 12, "the index was not written: the test shows nothing"


def test_files_that_vanish_between_listing_and_opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader lists the files again; after five attempts it reads the keys."""
    keys = random_keys(ROWS)
    grown(tmp_path, keys, ROWS)
    real = index_file.files_in
    ghost = {(0, 32): tmp_path / "index.0-32", (0, 40): tmp_path / "index.0-40.gone"}
    listings = [ghost, ghost]
    monkeypatch.setattr(index, "files_in", lambda folder: listings.pop() if listings else real(folder))
    opened = KeyIndex(tmp_path)
    opened.extend(keys)
    assert [run.saved for run in opened._runs] == [True]
    assert not listings
    monkeypatch.setattr(index, "files_in", lambda _: ghost)
    opened = KeyIndex(tmp_path)
    check(opened, keys)
    assert [run.saved for run in opened._runs] == [False]


def test_a_reader_keeps_what_a_writer_removes_and_takes_what_it_makes(tmp_path: Path) -> None:
    """Mapped files outlive their names; a reader whose tail has grown maps the new files and sorts only the rest."""
    keys = random_keys(400)
    writer, reader = KeyIndex(tmp_path), KeyIndex(tmp_path)
    for stop in range(4, 401, 4):
        writer.extend(keys[:stop])
        writer.save(keys[:stop])
        if stop % 12 == 0:
            check(reader, keys[:stop])
            assert sum(len(run) for run in reader._runs if not run.saved) < SAVE_ROWS
    for name in names(tmp_path):
        (tmp_path / name).unlink()
    check(reader, keys)


WRITER = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from cas_cache.mirror import index, index_file
from mirror import mirror_rows
index.SAVE_ROWS, index_file.BLOCK_BYTES, index_file.ENTRIES = 64, 64, 8
mirror_rows.main(sys.argv[1], *map(int, sys.argv[2:]))
"""


def writer_process(directory: Path, seed: int, items: int, rounds: int, stdout: Any = subprocess.PIPE) -> Any:
    """Start a process that appends, and saves its index often."""
    arguments = [str(Path(__file__).parent.parent), str(directory), str(seed), str(items), str(rounds)]
    return subprocess.Popen([sys.executable, "-c", WRITER, *arguments], stdout=stdout, text=True)


def namespace_of(directory: Path) -> Namespace:
    """Return the namespace, from a newly opened mirror."""
    ns = Mirror(directory, create=False).get(SPEC.namespace)
    assert ns is not None
    return ns


@pytest.mark.verify
def test_a_reader_beside_two_writers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old and new handles work while files are created, merged and removed."""
    monkeypatch.setattr(index, "SAVE_ROWS", 64)
    outputs = [tmp_path / f"{seed}.txt" for seed in range(2)]
    processes = []
    for seed, output in enumerate(outputs):
        with output.open("w") as file:
            processes.append(writer_process(tmp_path / "mirror", seed, 20_000, 60, file))
    while not all(output.read_text() for output in outputs):
        assert [process.poll() for process in processes].count(1) == 0
    old = namespace_of(tmp_path / "mirror")
    seen: set[str] = set()
    from_files = 0
    while any(process.poll() is None for process in processes):
        for ns in (old, namespace_of(tmp_path / "mirror")):
            ns.refresh()
            check_all(ns)
            from_files += any(run.saved for run in ns._index._runs)
        seen.update(names(old.folder))
    assert [process.wait() for process in processes] == [0, 0]
    lines = [line for output in outputs for line in output.read_text().splitlines()[1:]]
    expected = {int(item) for line in lines for item in line.split()}
    for ns in (old, namespace_of(tmp_path / "mirror")):
        ns.refresh()
        assert set(check_all(ns)) == {key.tobytes() for key in keys_for(sorted(expected))}
    assert len(names(old.folder)) <= 6
    assert len(seen) > 6
    assert from_files > 3


@pytest.mark.verify
def test_writers_that_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At random moments of commits that save: all acknowledged rows are found each time, through the files."""
    monkeypatch.setattr(index, "SAVE_ROWS", 64)
    random = np.random.default_rng(4)
    for seed in range(12):
        with writer_process(tmp_path, seed, 50_000, 1_000_000) as process:
            lines = [process.stdout.readline() for _ in range(int(random.integers(2, 12)))]
            process.kill()
            lines += [line for line in process.stdout if line.endswith("\n")]
        ns = namespace_of(tmp_path)
        rows = check_all(ns)
        acknowledged = [int(item) for line in lines[1:] for item in line.split()]
        assert all(key.tobytes() in rows for key in keys_for(acknowledged))
    assert any(run.saved for run in ns._index._runs)


def test_a_look_up_takes_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real sizes: the index is mapped, and a batch takes less than 50 bytes a key in addition."""
    monkeypatch.undo()
    keys = random_keys(300_000)
    grown(tmp_path, keys, 100_000)
    opened = KeyIndex(tmp_path)
    wanted = keys[np.random.default_rng(1).permutation(len(keys))]
    tracemalloc.start()
    opened.extend(keys)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20, "opening loaded it"
    found = opened.find(wanted, keys)
    taken = tracemalloc.get_traced_memory()[1] - found.nbytes
    tracemalloc.stop()
    assert np.array_equal(keys[found], wanted)
    assert taken < 50 * len(wanted)
