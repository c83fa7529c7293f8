"""The file of the key index: whatever happens to it, every key finds its row or none, and never another key's row."""

import errno
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

from cas_cache.mirror import Mirror, Namespace, index
from cas_cache.mirror.evict import evict_packs
from cas_cache.mirror.index import ABSENT, INDEX_FILE, TEMP_NAME, KeyIndex
from mirror_rows import SPEC, check_all, keys_for, vectors_for
from paths import SUPPORT
from tiers import sampled

ROWS = 40
SAVE_ROWS = 8
KEY = st.builds(lambda head, tail: bytes([head] * 8 + [tail] * 24), st.integers(0, 3), st.integers(0, 3))


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save from 8 rows on, and use small slices: few rows cross all boundaries."""
    monkeypatch.setattr(index, "SAVE_ROWS", SAVE_ROWS)
    monkeypatch.setattr(index, "SEARCHED_AT_ONCE", 16)
    monkeypatch.setattr(index, "SLICE_ROWS", 7)


def random_keys(count: int, seed: int = 0) -> Any:
    """Return random keys, (count, 32) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, 32), dtype=np.uint8)


def grown(folder: Path, keys: Any, step: int = SAVE_ROWS) -> KeyIndex:
    """Return an index that was saved after every `step` rows."""
    grown = KeyIndex(folder)
    for stop in [*range(step, len(keys), step), len(keys)]:
        grown.extend(keys[:stop])
        grown.save(keys[:stop])
    return grown


def opened(folder: Path, keys: Any) -> KeyIndex:
    """Return an index that a new process would open."""
    opened = KeyIndex(folder)
    opened.extend(keys)
    return opened


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


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    stored=st.lists(KEY | st.binary(min_size=32, max_size=32), max_size=60, unique=True),
    asked=st.lists(KEY, max_size=10),
    steps=st.lists(
        st.tuples(st.integers(1, 20), st.sampled_from(["save", "keep", "open", "lose", "back"])), max_size=12
    ),
)
def test_finds_what_a_dict_finds(stored: list[bytes], asked: list[bytes], steps: list[tuple[int, str]]) -> None:
    """However it grew, was saved, reopened, lost its file and was restored, with keys that share prefixes."""
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
                (folder / INDEX_FILE).unlink(missing_ok=True)
            found.extend(column[:at])
            if then == "save":
                found.save(column[:at])
            rows = {key: row for row, key in enumerate(stored[:at])}
            expected = [rows.get(key, ABSENT) for key in [*asked, *stored]]
            assert found.find(wanted, column[:at]).tolist() == expected


@pytest.mark.parametrize("shared", [8, 31])
def test_keys_that_share_their_beginning(tmp_path: Path, shared: int) -> None:
    """Keys that share a prefix are told apart, even by the last byte, in one run and across runs."""
    keys = np.full((60, 32), 7, np.uint8)
    keys[:, shared] = np.arange(60)
    strangers = keys[:30].copy()
    strangers[:, shared] += 60
    grown(tmp_path, keys)
    check(opened(tmp_path, keys), keys, strangers)


def test_an_opened_index_sorts_only_what_the_file_does_not_cover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is mapped; a tail with too few rows for a new file is sorted."""
    keys = random_keys(ROWS + 5)
    grown(tmp_path, keys)
    sorted_rows: list[tuple[int, int]] = []
    original = index.Run.from_keys
    monkeypatch.setattr(
        index.Run, "from_keys", lambda k, start, stop: sorted_rows.append((start, stop)) or original(k, start, stop)
    )
    found = opened(tmp_path, keys)
    check(found, keys)
    assert found.saved_rows == ROWS
    assert sorted_rows == [(ROWS, ROWS + 5)]


@pytest.mark.verify
def test_a_new_process_finds_all(tmp_path: Path) -> None:
    """With the real sizes, through the mirror: 70,000 rows, of which 65,536 are in the file."""
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
        "print(ns.index)\n"
    )
    outputs = [
        subprocess.run([sys.executable, "-c", script, str(tmp_path), *more], check=True, capture_output=True, text=True)
        for more in (["write"], [])
    ]
    assert [output.stdout for output in outputs] == ["KeyIndex(70000 rows, of which 65536 are in a file)\n"] * 2


def test_one_file_that_is_written_again_as_it_grows(tmp_path: Path) -> None:
    """Each time the rows in memory are an eighth of those in the file, whatever commits they came in."""
    keys = random_keys(1000)
    found = KeyIndex(tmp_path)
    written = 0
    for stop in range(3, 1001, 3):
        found.extend(keys[:stop])
        before = found.saved_rows
        found.save(keys[:stop])
        written += found.saved_rows if found.saved_rows > before else 0
        assert stop - found.saved_rows < max(SAVE_ROWS, found.saved_rows // index.GROWTH)
        assert [path.name for path in tmp_path.iterdir()] == ([INDEX_FILE] if found.saved_rows else [])
    assert written < 10 * 1000
    check(opened(tmp_path, keys), keys)


def test_files_of_version_1_are_removed(tmp_path: Path) -> None:
    """The first save removes the files ``index.<start>-<stop>`` and nothing else."""
    keys = random_keys(ROWS)
    for name in ("index.0-32", "index.32-40", "index.html"):
        (tmp_path / name).write_bytes(b"casindex")
    grown(tmp_path, keys)
    assert sorted(path.name for path in tmp_path.iterdir()) == [INDEX_FILE, "index.html"]


def test_a_file_that_covers_fewer_rows(tmp_path: Path) -> None:
    """A file from an earlier time is right as far as it goes."""
    keys = random_keys(400)
    grown(tmp_path, keys[:100])
    old = (tmp_path / INDEX_FILE).read_bytes()
    grown(tmp_path, keys)
    (tmp_path / INDEX_FILE).write_bytes(old)
    found = opened(tmp_path, keys)
    assert 0 < found.saved_rows <= 100
    check(found, keys)


@pytest.mark.parametrize("different", [slice(None), slice(ROWS - 1, None)])
def test_the_index_of_another_column(tmp_path: Path, different: slice) -> None:
    """An index that was copied from a column with as many rows is rejected, and the next writer replaces it."""
    keys = random_keys(ROWS)
    others = keys.copy()
    others[different] = random_keys(ROWS, 1)[different]
    grown(tmp_path, others, ROWS)
    found = opened(tmp_path, keys)
    assert found.saved_rows == 0
    check(found, keys)
    found.save(keys)
    assert opened(tmp_path, keys).saved_rows == ROWS


def test_an_index_of_other_rows_can_only_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the checksum covers none of the rows that differ, they are not found; no key gets another key's row."""
    monkeypatch.setattr(index, "SAMPLES", 2)
    keys = random_keys(ROWS)
    others = keys.copy()
    others[5:9] = random_keys(4, 5)
    grown(tmp_path, others, ROWS)
    found = opened(tmp_path, keys)
    assert found.saved_rows == ROWS
    expected = [ABSENT if 5 <= row < 9 else row for row in range(ROWS)]
    assert found.find(np.concatenate([keys, others[5:9]]), keys).tolist() == [*expected, *[ABSENT] * 4]


@pytest.mark.verify
@pytest.mark.parametrize("mask", sampled([0x80, 0x02], keep=2))
def test_any_flipped_byte(tmp_path: Path, mask: int) -> None:
    """Any changed byte is noticed when the file is opened, and every key finds its row."""
    keys = random_keys(ROWS)
    grown(tmp_path, keys, ROWS)
    path = tmp_path / INDEX_FILE
    whole = path.read_bytes()
    wanted, expected = np.concatenate([keys, random_keys(10, 3)]), [*range(ROWS), *[ABSENT] * 10]
    for at in range(len(whole)):
        data = bytearray(whole)
        data[at] ^= mask
        path.write_bytes(data)
        found = opened(tmp_path, keys)
        assert found.saved_rows == 0, at
        assert found.find(wanted, keys).tolist() == expected


@pytest.mark.verify
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), late=st.booleans())
def test_any_damage(data: st.DataObject, late: bool) -> None:
    """Bytes are overwritten, and blocks moved, zeroed, cut or added: no effect. After the file was opened: misses."""
    keys = random_keys(ROWS)
    keys[::2, :8] = keys[0, :8]  # half of the keys share a prefix
    with tempfile.TemporaryDirectory() as name:
        grown(Path(name), keys, ROWS)
        path = Path(name, INDEX_FILE)
        found = opened(Path(name), keys)
        whole = bytearray(path.read_bytes())
        start = data.draw(st.integers(0, len(whole) - 1))
        length = data.draw(st.integers(1, 200))
        part = slice(start, start + length)
        match data.draw(st.sampled_from(["garbage", "zeros", "moved", *([] if late else ["cut", "added"])])):
            case "garbage":
                size = len(whole[part])
                whole[part] = data.draw(st.binary(min_size=size, max_size=size))
            case "zeros":
                whole[part] = bytes(len(whole[part]))
            case "moved":
                other = data.draw(st.integers(0, len(whole) - 1))
                moved = whole[other : other + length][: len(whole) - start]
                whole[start : start + len(moved)] = moved
            case "cut":
                del whole[start:]
            case _:
                whole[start:start] = bytes(length)
        with path.open("r+b") as file:  # the same file, so that a map of it changes
            file.write(whole)
            file.truncate()
        found = found if late else opened(Path(name), keys)
        order = np.array(data.draw(st.permutations(range(ROWS))))
        for part_of in (order[:1], order[1:3], order):
            rows = found.find(keys[part_of], keys)
            assert set(rows[rows != part_of]) <= ({ABSENT} if late else set())


def test_a_row_number_outside_of_the_column(tmp_path: Path) -> None:
    """A file with a valid checksum that names a row that does not exist leads to a miss, or to the right row."""
    keys = random_keys(ROWS)
    for wrong in (-1, ROWS, 10**9):
        run = index.Run.from_keys(keys, 0, ROWS)
        damaged = run.rows[3]
        run.rows[3] = wrong
        index._write_run(tmp_path, [run], keys)
        found = opened(tmp_path, keys)
        assert found.saved_rows == ROWS
        rows = found.find(keys, keys)
        assert rows[damaged] in (ABSENT, damaged)
        assert np.delete(rows, damaged).tolist() == [row for row in range(ROWS) if row != damaged]


def test_a_column_put_back_and_grown_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backup's state and columns meet a newer index, then other rows that are equal in all compared rows."""
    monkeypatch.setattr(index, "SAMPLES", 2)
    keys = keys_for(range(ROWS))
    ns = Mirror(tmp_path).namespace(SPEC)
    ns.append(keys[:10], vectors_for(keys[:10]))
    backup = {path.name: path.read_bytes() for path in ns.folder.glob("*.*") if path.name != INDEX_FILE}
    ns.append(keys[10:], vectors_for(keys[10:]))
    assert (ns.folder / INDEX_FILE).exists()
    for name, data in backup.items():
        (ns.folder / name).write_bytes(data)
    other = np.concatenate([keys_for(range(1000, 1029)), keys[-1:]])
    writer = Mirror(tmp_path).namespace(SPEC)
    # The process dies before it can save its index.
    monkeypatch.setattr(KeyIndex, "save", lambda *_: None)
    writer.append(other, vectors_for(other))
    assert len(check_all(Mirror(tmp_path).namespace(SPEC))) == ROWS


@pytest.mark.parametrize("first", [True, False])
def test_rows_that_moved(tmp_path: Path, first: bool) -> None:
    """An eviction left an old index behind: rows are found at their new places, and evicted rows can come back."""
    keys = keys_for(range(48))
    ns = Mirror(tmp_path).namespace(SPEC)
    kept = []
    for pack, start in (("a", 0), ("b", 16), ("c", 32)):
        ns.append(keys[start : start + 16], vectors_for(keys[start : start + 16]), pack=pack, upto=(16, 16))
        kept.append((ns.folder / INDEX_FILE).read_bytes())
    folder = ns.folder
    del ns
    for index_bytes in kept[1:]:
        gone = "a" if first else "b"
        evicting = namespace_of(tmp_path)
        assert evicting.reserve()
        evict_packs(evicting, [gone])
        assert not (folder / INDEX_FILE).exists()
        (folder / INDEX_FILE).write_bytes(index_bytes)
        ns = namespace_of(tmp_path)
        assert len(check_all(ns)) == 32
        evicted = keys[:16] if first else keys[16:32]
        assert (ns.find(evicted) == ABSENT).all()
        assert ns.append(evicted, vectors_for(evicted), pack=gone, upto=(16, 16)) == 16
        del ns
        assert len(check_all(namespace_of(tmp_path))) == 48


def test_readers_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index is missing, stale or damaged, in a directory that refuses every write."""
    keys = keys_for(range(ROWS))
    Mirror(tmp_path).namespace(SPEC).append(keys, vectors_for(keys))
    folder = Mirror(tmp_path).namespace(SPEC).folder
    path = folder / INDEX_FILE
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
    original = index._write_at
    full = True

    def write(*arguments: Any) -> None:
        original(*arguments)
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(index, "_write_at", write)
    keys = keys_for(range(ROWS))
    for start in range(0, 30, 10):
        assert ns.append(keys[start : start + 10], vectors_for(keys[start : start + 10])) == 10
        assert [p.name for p in ns.folder.iterdir() if p.name.startswith((".tmp", "index"))] == []
        check_all(ns)
    full = False
    assert ns.append(keys, vectors_for(keys)) == 10
    assert (ns.folder / INDEX_FILE).exists()
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
    monkeypatch.setattr(index, "_write_at", hooked("write", index._write_at))
    return done


@pytest.mark.parametrize("after", sampled([False, True], keep={False}))
@pytest.mark.verify
def test_a_crash_anywhere(tmp_path: Path, after: bool) -> None:
    """Between any two operations of a commit that saves, no row is lost, doubled or wrong, now or later."""
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
        assert not list(survivor.folder.glob(TEMP_NAME))
    assert deaths > 12
    assert "write" in done, "the index was not written: the test shows nothing"


def test_a_reader_keeps_what_a_writer_replaces_and_takes_what_it_makes(tmp_path: Path) -> None:
    """A mapped file outlives its name; a reader whose tail has grown maps the new file and sorts only the rest."""
    keys = random_keys(400)
    writer, reader = KeyIndex(tmp_path), KeyIndex(tmp_path)
    for stop in range(4, 401, 4):
        writer.extend(keys[:stop])
        writer.save(keys[:stop])
        if stop % 12 == 0:
            check(reader, keys[:stop])
            assert stop - reader.saved_rows < max(SAVE_ROWS, reader.saved_rows // index.GROWTH)
    (tmp_path / INDEX_FILE).unlink()
    check(reader, keys)


WRITER = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from cas_cache.mirror import index
import mirror_rows
index.SAVE_ROWS = 64
mirror_rows.main(sys.argv[1], *map(int, sys.argv[2:]))
"""


def writer_process(directory: Path, seed: int, items: int, rounds: int, stdout: Any = subprocess.PIPE) -> Any:
    """Start a process that appends, and saves its index often."""
    arguments = [str(SUPPORT), str(directory), str(seed), str(items), str(rounds)]
    return subprocess.Popen([sys.executable, "-c", WRITER, *arguments], stdout=stdout, text=True)


def namespace_of(directory: Path) -> Namespace:
    """Return the namespace, from a newly opened mirror."""
    ns = Mirror(directory, create=False).get(SPEC.namespace)
    assert ns is not None
    return ns


@pytest.mark.verify
def test_a_reader_beside_two_writers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old and new handles work while the file is created and replaced."""
    monkeypatch.setattr(index, "SAVE_ROWS", 64)
    outputs = [tmp_path / f"{seed}.txt" for seed in range(2)]
    processes = []
    for seed, output in enumerate(outputs):
        with output.open("w") as file:
            processes.append(writer_process(tmp_path / "mirror", seed, 20_000, 60, file))
    while not all(output.read_text() for output in outputs):
        assert [process.poll() for process in processes].count(1) == 0
    old = namespace_of(tmp_path / "mirror")
    seen: set[int] = set()
    from_files = 0
    while any(process.poll() is None for process in processes):
        for ns in (old, namespace_of(tmp_path / "mirror")):
            ns.refresh()
            check_all(ns)
            from_files += ns.index.saved_rows > 0
        if (old.folder / INDEX_FILE).exists():
            seen.add((old.folder / INDEX_FILE).stat().st_size)
    assert [process.wait() for process in processes] == [0, 0]
    lines = [line for output in outputs for line in output.read_text().splitlines()[1:]]
    expected = {int(item) for line in lines for item in line.split()}
    for ns in (old, namespace_of(tmp_path / "mirror")):
        ns.refresh()
        assert set(check_all(ns)) == {key.tobytes() for key in keys_for(sorted(expected))}
    assert len(seen) > 3
    assert from_files > 3


@pytest.mark.verify
def test_writers_that_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At random moments of commits that save: all acknowledged rows are found each time, through the file."""
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
    assert ns.index.saved_rows > 0


def test_a_look_up_takes_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real sizes: the index is mapped, and a batch takes less than 50 bytes a key in addition."""
    monkeypatch.undo()
    keys = random_keys(300_000)
    grown(tmp_path, keys, 100_000)
    wanted = keys[np.random.default_rng(1).permutation(len(keys))]
    tracemalloc.start()
    found = opened(tmp_path, keys)
    assert found.saved_rows == len(keys)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20, "opening loaded it"
    rows = found.find(wanted, keys)
    taken = tracemalloc.get_traced_memory()[1] - rows.nbytes
    tracemalloc.stop()
    assert np.array_equal(keys[rows], wanted)
    assert taken < 50 * len(wanted)
