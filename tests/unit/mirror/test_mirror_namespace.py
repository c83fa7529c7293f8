"""Namespace: rows by key, which survive the process and are visible to others."""

import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cas_cache.errors import DamagedMirror, MirrorWriteError, ShapeMismatch
from cas_cache.format.rows import digest_rows
from cas_cache.mirror import Mirror
from cas_cache.mirror.index import ABSENT
from mirror_rows import OTHER, SPEC, check_all, keys_for, vectors_for
from paths import SUPPORT

READER = """
import sys
import numpy as np
from cas_cache.mirror import Mirror
from mirror_rows import SPEC, check_all
ns = Mirror(sys.argv[1], create=False).get(SPEC.namespace)
check_all(ns)
print(ns.rows, ns.dtype, ns.shape, ns.take(np.arange(ns.rows)).tobytes().hex())
"""

KINDS = [
    ("float16", (5,)),
    ("float32", (24,)),
    ("float64", (3,)),
    ("int8", (5,)),
    ("uint8", (7,)),
    ("bool", (9,)),
    ("float32", (4, 6)),
    ("float16", (1, 3, 2)),
]


def in_new_process(script: str, *arguments: str) -> str:
    """Return the output of a script."""
    places = [str(SUPPORT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    ).stdout


@pytest.mark.parametrize("rows_at_once", [1, 7, 100])
def test_a_large_gather_is_shared_by_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_at_once: int
) -> None:
    """Each thread fills its part: the result equals that of one gather, including repeats and a short last part."""
    ns = Mirror(tmp_path).namespace(SPEC)
    keys = keys_for(range(40))
    ns.append(keys, vectors_for(keys))
    monkeypatch.setattr("cas_cache.mirror.rows.GATHER_BYTES", rows_at_once * ns.row_bytes)
    rows = np.random.default_rng(0).integers(0, 40, 50)
    answer = ns.take(rows)
    np.testing.assert_array_equal(answer, vectors_for(keys)[rows])
    assert answer.flags.writeable
    assert answer.flags.owndata


@pytest.mark.parametrize(("dtype", "shape"), KINDS, ids=str)
def test_what_goes_in_comes_out(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    """Rows are equal bit for bit, in dtype and shape, from this handle and from a new one."""
    keys = keys_for(range(50))
    vectors = vectors_for(keys, dtype, shape)
    ns = Mirror(tmp_path).namespace(SPEC)
    assert ns.append(keys[:20], vectors[:20]) == 20
    assert ns.append(keys[20:], vectors[20:]) == 30
    for handle in (ns, Mirror(tmp_path).get(SPEC.namespace)):
        assert handle is not None
        out = handle.take(handle.find(keys[::-1]))
        assert out.dtype == vectors.dtype
        assert out.shape == vectors.shape
        assert out.tobytes() == vectors[::-1].tobytes()
        assert out.flags.writeable
        assert (handle.dtype, handle.shape, handle.row_bytes) == (np.dtype(dtype), shape, vectors[0].nbytes)


def test_a_new_process_reads_the_same_bits(tmp_path: Path) -> None:
    """A new process has none of this one's memory."""
    keys = keys_for(range(30))
    Mirror(tmp_path).namespace(SPEC).append(keys, vectors_for(keys))
    expected = f"30 float32 (24,) {vectors_for(keys).tobytes().hex()}"
    assert in_new_process(READER, str(tmp_path)).strip() == expected


def test_columns_open_with_numpy_after_each_commit(tmp_path: Path) -> None:
    """The three files are arrays that any tool can read, at any time."""
    ns = Mirror(tmp_path).namespace(SPEC)
    keys = keys_for(range(120))
    vectors = vectors_for(keys)
    for start, stop in ((0, 1), (1, 9), (9, 10), (10, 100), (100, 120)):
        ns.append(keys[start:stop], vectors[start:stop])
        columns = {name: np.load(ns.folder / f"{name}.npy", mmap_mode="r") for name in ("keys", "vectors", "digests")}
        assert np.array_equal(columns["keys"], keys[:stop])
        assert np.array_equal(columns["vectors"], vectors[:stop])
        assert np.array_equal(columns["digests"], digest_rows(keys[:stop], vectors[:stop]))


def test_special_values_keep_their_bits(tmp_path: Path) -> None:
    """NaN payloads, infinities, negative zero and subnormals are bits like all others."""
    bits = np.array([[0x7FC00001, 0xFFC12345, 0x7F800000, 0xFF800000], [0x80000000, 1, 0, 0x807FFFFF]], np.uint32)
    ns = Mirror(tmp_path).namespace(SPEC)
    ns.append(keys_for([0, 1]), bits.view(np.float32))
    assert np.array_equal(Mirror(tmp_path).namespace(SPEC).take(np.array([0, 1])).view(np.uint32), bits)


def test_the_first_vector_of_a_key_wins(tmp_path: Path) -> None:
    """A committed row never changes, whatever vectors are offered later."""
    ns = Mirror(tmp_path).namespace(SPEC)
    keys = keys_for(range(3))
    ns.append(keys, vectors_for(keys))
    assert ns.append(keys, vectors_for(keys) + 1) == 0
    assert ns.append(keys_for([2, 3]), vectors_for(keys_for([2, 3])) + 1) == 1
    assert np.array_equal(ns.take(ns.find(keys)), vectors_for(keys))
    assert np.array_equal(ns.take(ns.find(keys_for([3]))), vectors_for(keys_for([3])) + 1)


def test_duplicates_within_a_batch_are_stored_once(tmp_path: Path) -> None:
    """The first of them is stored."""
    ns = Mirror(tmp_path).namespace(SPEC)
    keys = keys_for([5, 6, 5, 7, 6, 5])
    vectors = np.arange(6, dtype=np.float32).reshape(6, 1)
    assert ns.append(keys, vectors) == 3
    assert ns.rows == 3
    assert ns.take(ns.find(keys_for([5, 6, 7]))).ravel().tolist() == [0, 1, 3]


def test_rows_may_be_asked_for_in_any_order_and_often(tmp_path: Path) -> None:
    """`take` follows the caller's order, including repeats, and returns a new array to each caller."""
    ns = Mirror(tmp_path).namespace(SPEC)
    keys = keys_for(range(10))
    ns.append(keys, vectors_for(keys))
    rows = np.array([9, 0, 9, 3, 3])
    first = ns.take(rows)
    assert np.array_equal(first, vectors_for(keys)[rows])
    first[:] = 0
    assert np.array_equal(ns.take(rows), vectors_for(keys)[rows])


@pytest.mark.parametrize("rows", [[-1], [3], [0, 99], [ABSENT]])
def test_rows_that_do_not_exist_are_an_error(tmp_path: Path, rows: list[int]) -> None:
    """A miss used as a row number never returns the last row or the nearest."""
    ns = Mirror(tmp_path).namespace(SPEC)
    ns.append(keys_for(range(3)), vectors_for(keys_for(range(3))))
    with pytest.raises(IndexError):
        ns.take(np.array(rows))
    with pytest.raises(IndexError):
        Mirror(tmp_path).namespace(SPEC).take(np.array(rows))


def test_an_empty_namespace_answers(tmp_path: Path) -> None:
    """Without rows, every key is a miss, and an empty request works."""
    ns = Mirror(tmp_path).namespace(SPEC)
    assert ns.find(keys_for(range(3))).tolist() == [ABSENT] * 3
    assert ns.take(np.array([], np.int64)).shape == (0,)
    assert ns.append(keys_for([]), np.empty((0, 4), np.float32)) == 0
    assert (ns.rows, ns.dtype, ns.shape, ns.row_bytes, ns.pending_rows) == (0, None, (), 0, 0)
    assert ns.ledger.plan(10) == []


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [("float64", (24,)), ("float16", (24,)), ("int32", (24,)), ("float32", (25,)), ("float32", (24, 1))],
)
def test_another_dtype_or_shape_is_refused(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    """A spec has one dtype and shape; no row of a refused batch is stored, by any handle or process."""
    ns, other = Mirror(tmp_path).namespace(SPEC), Mirror(tmp_path).namespace(SPEC)
    ns.append(keys_for(range(3)), vectors_for(keys_for(range(3))))
    for handle in (ns, other, Mirror(tmp_path).namespace(SPEC)):
        with pytest.raises(ShapeMismatch, match="params="):
            handle.append(keys_for(range(9)), vectors_for(keys_for(range(9)), dtype, shape))
        assert handle.rows == 3
    assert len(check_all(Mirror(tmp_path).namespace(SPEC))) == 3


def test_namespaces_do_not_share_rows(tmp_path: Path) -> None:
    """The same keys with another spec have other rows."""
    mirror = Mirror(tmp_path)
    keys = keys_for(range(4))
    mirror.namespace(SPEC).append(keys, vectors_for(keys))
    other = mirror.namespace(OTHER)
    assert (other.find(keys) == ABSENT).all()
    other.append(keys, np.ones((4, 2), np.float64))
    assert np.array_equal(mirror.namespace(SPEC).take(np.arange(4)), vectors_for(keys))
    assert {ns.spec for ns in mirror.namespaces()} == {SPEC, OTHER}


def test_a_second_handle_sees_commits_without_reopening(tmp_path: Path) -> None:
    """Handles share only the files, and see each other's rows at the next look-up."""
    one, two = Mirror(tmp_path).namespace(SPEC), Mirror(tmp_path).namespace(SPEC)
    for item in range(20):
        writer, reader = (one, two) if item % 2 else (two, one)
        keys = keys_for([item])
        assert reader.find(keys)[0] == ABSENT
        writer.append(keys, vectors_for(keys))
        assert reader.find(keys)[0] == item
        assert np.array_equal(reader.take(reader.find(keys)), vectors_for(keys))
    assert check_all(one) == check_all(two)


def test_a_writer_does_not_trust_the_stamp_of_the_state(tmp_path: Path) -> None:
    """Inodes are reused and a file system's clock stands still for milliseconds: still, no commit is overwritten."""
    one, two = Mirror(tmp_path).namespace(SPEC), Mirror(tmp_path).namespace(SPEC)
    one.append(keys_for([0]), vectors_for(keys_for([0])))
    path = one.folder / "state.json"
    before = path.stat()
    two.append(keys_for([1]), vectors_for(keys_for([1])))
    # Give the second commit's state the inode, time and size of the first, as can happen by chance.
    stamp = path.stat()
    one.table._stamp = (stamp.st_ino, stamp.st_mtime_ns, stamp.st_size)
    assert before.st_size == stamp.st_size
    one.append(keys_for([2]), vectors_for(keys_for([2])))
    for handle in (one, two, Mirror(tmp_path).namespace(SPEC)):
        assert handle.find(keys_for([0, 1, 2])).tolist() == [0, 1, 2]
        assert len(check_all(handle)) == 3


def test_bytes_past_the_commit_point_do_not_exist(tmp_path: Path) -> None:
    """Rows that a crash left uncommitted are not found, and the next append overwrites them."""
    keys = keys_for(range(6))
    ns = Mirror(tmp_path).namespace(SPEC)
    ns.append(keys[:2], vectors_for(keys[:2]))
    state = (ns.folder / "state.json").read_bytes()
    ns.append(keys[2:5], vectors_for(keys[2:5]) * 0 + 9)
    # As if the process had died just before its commit: all columns are written, including headers.
    (ns.folder / "state.json").write_bytes(state)
    again = Mirror(tmp_path).namespace(SPEC)
    assert again.rows == 2
    assert again.find(keys).tolist() == [0, 1] + [ABSENT] * 4
    again.append(keys[3:4], vectors_for(keys[3:4]))
    assert len(check_all(Mirror(tmp_path).namespace(SPEC))) == 3
    assert np.load(ns.folder / "vectors.npy", mmap_mode="r").shape == (3, 24)


@pytest.mark.parametrize("step", range(1, 9))
def test_a_crash_at_any_step_of_an_append(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Whatever was the last write to the disk, the mirror opens with the old rows or with all of the new ones."""
    from cas_cache.mirror import column, table

    class Crash(BaseException):
        pass

    ns = Mirror(tmp_path).namespace(SPEC)
    keys = keys_for(range(8))
    ns.append(keys[:3], vectors_for(keys[:3]))
    steps = iter(range(1, 99))

    def crashing(function: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            if next(steps) == step:
                raise Crash
            return function(*arguments, **named)

        return call

    monkeypatch.setattr(column.Column, "write", crashing(column.Column.write))
    monkeypatch.setattr(column.Column, "set_rows", crashing(column.Column.set_rows))
    monkeypatch.setattr(table, "write_atomically", crashing(table.write_atomically))
    try:
        ns.append(keys[3:], vectors_for(keys[3:]))
        survived = 8
    except Crash:
        survived = 3
    monkeypatch.undo()
    assert survived == (3 if step <= 7 else 8)
    for handle in (ns, Mirror(tmp_path).namespace(SPEC)):
        assert len(check_all(handle)) == survived
        handle.append(keys, vectors_for(keys))
    assert len(check_all(Mirror(tmp_path).namespace(SPEC))) == 8


def test_threads_that_share_a_handle(tmp_path: Path) -> None:
    """Readers and writers that share a handle see no wrong row, no false damage and no row twice."""
    ns = Mirror(tmp_path).namespace(SPEC)
    ns.append(keys_for([0]), vectors_for(keys_for([0])))
    done = threading.Event()

    def append(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(25):
            keys = keys_for(random.integers(0, 600, 40))
            ns.append(keys, vectors_for(keys))

    def read(seed: int) -> None:
        random = np.random.default_rng(seed)
        while not done.is_set():
            keys = keys_for(random.integers(0, 600, 40))
            rows = ns.find(keys)
            found = rows != ABSENT
            assert np.array_equal(ns.take(rows[found]), vectors_for(keys[found]))

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read, seed) for seed in (1, 2)]
        writers = [pool.submit(append, seed) for seed in (3, 4)]
        wait(writers)
        done.set()
    for future in readers + writers:
        future.result()
    check_all(ns)


def test_a_map_is_never_older_than_the_state(tmp_path: Path) -> None:
    """A thread that mapped the columns while another committed cannot make a new row read as the last old one."""
    ns = Mirror(tmp_path).namespace(SPEC)
    keys = keys_for(range(5))
    ns.append(keys[:2], vectors_for(keys[:2]))
    old = ns.table._mapped()
    ns.append(keys[2:], vectors_for(keys[2:]))
    ns.table._maps = old
    assert np.array_equal(ns.take(np.arange(5)), vectors_for(keys))


def test_a_pack_is_read_in_parts(tmp_path: Path) -> None:
    """Progress within a pack survives, and rows that the mirror already had count as read."""
    ns = Mirror(tmp_path).namespace(SPEC)
    keys = keys_for(range(6))
    ns.append(keys[1:2], vectors_for(keys[1:2]))
    assert ns.append(keys[:4], vectors_for(keys[:4]), pack="p", upto=(4, 6)) == 3
    again = Mirror(tmp_path).namespace(SPEC)
    assert (again.ledger.applied_rows("p"), again.packs) == (4, frozenset())
    assert again.append(keys[4:], vectors_for(keys[4:]), pack="p", upto=(6, 6)) == 2
    assert (again.ledger.applied_rows("p"), again.packs) == (6, {"p"})
    assert again.ledger.applied_rows("unknown") == 0
    assert again.pending_rows == 1
    assert len(check_all(again)) == 6


@pytest.mark.parametrize("rows", [0, 4])
def test_a_pack_of_nothing_new_is_known_afterwards(tmp_path: Path, rows: int) -> None:
    """If two writers pushed the same rows, the second pack is read once, not at every pull."""
    ns = Mirror(tmp_path).namespace(SPEC)
    keys = keys_for(range(4))
    ns.append(keys, vectors_for(keys), pack="p", upto=(4, 4))
    assert ns.append(keys[:rows], vectors_for(keys[:rows]), pack="q", upto=(rows, rows)) == 0
    again = Mirror(tmp_path).namespace(SPEC)
    assert again.packs == {"p", "q"}
    assert len(check_all(again)) == 4


def test_plans_are_kept_until_published(tmp_path: Path) -> None:
    """A retry in another process gets the same rows with the same nonces; published rows are no longer pending."""
    ns = Mirror(tmp_path).namespace(SPEC)
    keys = keys_for(range(25))
    ns.append(keys[:10], vectors_for(keys[:10]))
    ns.append(keys[10:15], vectors_for(keys[10:15]), pack="p", upto=(5, 5))
    ns.append(keys[15:], vectors_for(keys[15:]))
    plans = ns.ledger.plan(8)
    assert [plan.rows for plan in plans] == [8, 8, 4]
    assert [plan.runs for plan in plans] == [((0, 8),), ((8, 10), (15, 21)), ((21, 25),)]
    assert len({plan.nonce for plan in plans}) == 3
    again = Mirror(tmp_path).namespace(SPEC)
    assert again.ledger.plan(8) == again.ledger.plan(3) == plans
    rows = np.r_[8:10, 15:21]
    assert np.array_equal(again.read(plans[1], "keys", 0, 8), keys[rows])
    assert np.array_equal(again.read(plans[1], "vectors", 1, 5), vectors_for(keys[rows])[1:5])
    digests = digest_rows(keys, vectors_for(keys))
    assert np.array_equal(again.read(plans[1], "digests", 0, 8), digests[rows])
    again.ledger.published(plans[1], "q")
    assert again.packs == {"p", "q"}
    assert ns.ledger.plan(8) == [plans[0], plans[2]]
    assert ns.pending_rows == 12
    new = keys_for([99])
    ns.append(new, vectors_for(new))
    assert [plan.rows for plan in ns.ledger.plan(8)] == [8, 4, 1]
    assert ns.ledger.plan(8)[:2] == [plans[0], plans[2]]


def _limited(directory: Path) -> str:
    """Append under a file size limit until it takes effect, report the rows that are left, and continue without it."""
    script = f"""
import resource, signal
import numpy as np
from cas_cache.errors import MirrorWriteError
from cas_cache.mirror import Mirror
from mirror_rows import SPEC, check_all, keys_for, vectors_for
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
ns = Mirror({str(directory)!r}).namespace(SPEC)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
done = 0
try:
    while True:
        keys = keys_for(range(done, done + 30))
        ns.append(keys, vectors_for(keys))
        done += 30
except MirrorWriteError as err:
    assert "committed before are safe" in str(err), err
    assert isinstance(err, OSError)
assert done > 0
assert ns.rows == done == len(check_all(ns)) == len(check_all(Mirror({str(directory)!r}).namespace(SPEC)))
assert np.load(ns.folder / "vectors.npy", mmap_mode="r").shape[0] >= done
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
keys = keys_for(range(done + 100))
ns.append(keys, vectors_for(keys))
assert len(check_all(Mirror({str(directory)!r}).namespace(SPEC))) == done + 100
print("fine")
"""
    return in_new_process(script)


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """When the file system is full, committed rows stay, the error says so, and later appends work."""
    assert _limited(tmp_path).strip() == "fine"


@pytest.mark.parametrize(
    "place", ["cas_cache.mirror.column.os.fsync", "cas_cache.files.disk.os.fsync", "pathlib.Path.replace"]
)
def test_a_disk_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """A refused flush or rename raises one of cas_cache's errors, and committed rows are not touched."""
    ns = Mirror(tmp_path).namespace(SPEC)
    keys = keys_for(range(9))
    ns.append(keys[:4], vectors_for(keys[:4]))

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(place, refuse)
        with pytest.raises(MirrorWriteError, match="The disk is full"):
            ns.append(keys[4:], vectors_for(keys[4:]))
        with pytest.raises(MirrorWriteError):
            Mirror(tmp_path).namespace(OTHER).append(keys, vectors_for(keys))
    assert len(check_all(ns)) == 4
    assert len(check_all(Mirror(tmp_path).namespace(SPEC))) == 4
    ns.append(keys[4:], vectors_for(keys[4:]))
    assert len(check_all(Mirror(tmp_path).namespace(SPEC))) == 9


def test_a_folder_that_is_replaced_while_in_use(tmp_path: Path) -> None:
    """Deleting a namespace under a running process, as our messages advise, causes an error and no wrong row."""
    ns = Mirror(tmp_path).namespace(SPEC)
    keys = keys_for(range(9))
    ns.append(keys, vectors_for(keys))
    ns.find(keys)
    for path in ns.folder.iterdir():
        path.unlink()
    with pytest.raises(DamagedMirror, match="Open the cache again"):
        ns.find(keys)
    Mirror(tmp_path).namespace(SPEC).append(keys[5:], vectors_for(keys[5:]))
    with pytest.raises(DamagedMirror, match="Open the cache again"):
        ns.find(keys)
    assert len(check_all(Mirror(tmp_path).namespace(SPEC))) == 4


KEYS = st.builds(lambda head, tail: bytes([head] * 8 + [tail] * 24), st.integers(0, 2), st.integers(0, 4))


class AgainstADict(RuleBasedStateMachine):
    """Two handles, reopening, crashes, packs and plans: look-ups always return what a dict would."""

    @initialize()
    def begin(self) -> None:
        self.place = tempfile.TemporaryDirectory()
        self.model: dict[bytes, bytes] = {}
        self.pushed: set[bytes] = set()
        self.stamp = 0
        self.handles = [Mirror(self.place.name).namespace(SPEC) for _ in range(2)]

    def teardown(self) -> None:
        if hasattr(self, "place"):
            self.place.cleanup()

    @rule(keys=st.lists(KEYS, max_size=6), which=st.integers(0, 1), pack=st.sampled_from([None, "p"]))
    def append(self, keys: list[bytes], which: int, pack: str | None) -> None:
        self.stamp += 10
        vectors = np.arange(self.stamp, self.stamp + len(keys), dtype=np.float32)[:, None]
        expected = 0
        for key, vector in zip(keys, vectors, strict=True):
            if key not in self.model:
                self.model[key] = vector.tobytes()
                expected += 1
                if pack:
                    self.pushed.add(key)
        column = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 32)
        assert self.handles[which].append(column, vectors, pack=pack) == expected

    @rule(keys=st.lists(KEYS, max_size=8), which=st.integers(0, 1))
    def look_up(self, keys: list[bytes], which: int) -> None:
        ns = self.handles[which]
        rows = ns.find(np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 32))
        for key, row in zip(keys, rows, strict=True):
            assert (row == ABSENT) == (key not in self.model)
            if row != ABSENT:
                assert ns.take(np.array([row])).tobytes() == self.model[key]

    @rule(which=st.integers(0, 1))
    def reopen(self, which: int) -> None:
        ns = Mirror(self.place.name).get(SPEC.namespace)
        assert ns is not None
        self.handles[which] = ns

    @rule(which=st.integers(0, 1), rows=st.integers(1, 5))
    def crash_before_commit(self, which: int, rows: int) -> None:
        ns = self.handles[which]
        ns.refresh()
        if ns.rows:
            for column, values in zip(
                ns.table.columns(ns.table.state),
                (np.full((rows, 32), 7, np.uint8), np.full((rows, 1), 7, np.float32), np.full(rows, 7, np.uint64)),
                strict=True,
            ):
                column.write(ns.rows, values)
                column.set_rows(ns.rows + rows)

    @rule(which=st.integers(0, 1), most=st.integers(1, 4))
    def push(self, which: int, most: int) -> None:
        ns = self.handles[which]
        plans = ns.ledger.plan(most)
        assert sum(plan.rows for plan in plans) == len(self.model) - len(self.pushed)
        if plans:
            assert plans[0].rows <= 4
            self.pushed.update(key.tobytes() for key in ns.read(plans[0], "keys", 0, plans[0].rows))
            ns.ledger.published(plans[0], f"pack {plans[0].nonce}")

    @invariant()
    def both_handles_know_all(self) -> None:
        for ns in getattr(self, "handles", []):
            ns.refresh()
            assert ns.rows == len(self.model)
            assert {key.tobytes() for key in ns.keys} == set(self.model)
            assert ns.pending_rows == len(self.model) - len(self.pushed)


AgainstADict.TestCase.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestAgainstADict = AgainstADict.TestCase
