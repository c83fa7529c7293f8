"""Descriptors: their number is limited for any number of namespaces and answers, and no row is lost or wrong."""

import errno
import json
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cas_cache import EmbeddingCache, EncoderSpec
from cas_cache.errors import AlreadyClosed
from cas_cache.identity import keys_of_texts
from cas_cache.mirror import Mirror, Namespace, descriptors
from cas_cache.mirror.evict import evict, evict_packs
from mirror_rows import keys_for, vectors_for
from paths import SUPPORT
from scale import SCALE
from storages import Encoder, Machine, Memory, texts, truth

ITEMS = 5
BIG = 3000
"""Number of rows of 384 bytes: an answer of 1.1 MB, which is mapped."""


def spec_of(number: int) -> EncoderSpec:
    return EncoderSpec(model="org/model", revision=f"r{number:07d}")


def fill(directory: Path, count: int) -> None:
    """Create a mirror of many namespaces, each with the vectors of `ITEMS` items, without flushing each."""
    keys = keys_for(range(ITEMS))
    with Mirror(directory) as mirror:
        mirror.namespace(spec_of(0)).append(keys, vectors_for(keys))
    first = directory / "namespaces" / spec_of(0).namespace
    state = json.loads((first / "state.json").read_bytes())
    for spec in map(spec_of, range(1, count)):
        folder = directory / "namespaces" / spec.namespace
        folder.mkdir()
        for name in ("keys.npy", "vectors.npy", "digests.npy"):
            shutil.copyfile(first / name, folder / name)
        (folder / "spec.json").write_bytes(spec.canonical())
        (folder / "state.json").write_text(json.dumps({**state, "namespace": spec.namespace}))


def holds_right(ns: Namespace, items: int = ITEMS) -> bool:
    keys = keys_for(range(items))
    return np.array_equal(ns.take(ns.find(keys)), vectors_for(keys))


def open_files(directory: Path) -> list[str]:
    """Return the files below a directory that this process has open; a mapped file counts as open."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(link.readlink()))
        except FileNotFoundError:
            continue
    return [path for path in found if path.startswith(f"{directory}/")]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """Set and return a limit of descriptors that fits two or three namespaces with all files mapped."""
    monkeypatch.setattr(descriptors, "MAX_OPEN", 12)
    return 12


@pytest.fixture
def mirror(tmp_path: Path, few: int) -> Iterator[Mirror]:
    fill(tmp_path / "mirror", 10)
    with Mirror(tmp_path / "mirror") as opened:
        yield opened


def use_others(mirror: Mirror) -> None:
    """Use enough namespaces that the files of the first one are closed."""
    for number in range(1, 10):
        assert holds_right(opened(mirror, number))
    assert not open_files(mirror.directory / "namespaces" / spec_of(0).namespace)


def opened(mirror: Mirror, number: int) -> Namespace:
    ns = mirror.get(spec_of(number).namespace)
    assert ns is not None
    return ns


def evict_elsewhere(directory: Path) -> Any:
    code = (
        "import json, sys; from cas_cache.mirror import Mirror; from cas_cache.mirror.evict import evict; "
        "print(json.dumps(evict(Mirror(sys.argv[1]), 0).as_json()))"
    )
    command = [sys.executable, "-c", code, str(directory)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_one_handle_serves_while_its_files_are_closed_and_opened(mirror: Mirror, few: int) -> None:
    """Handles stay usable, whichever namespaces were used since, and the number of open files is limited."""
    spaces = mirror.namespaces()
    for _ in range(3):
        for ns in spaces:
            assert holds_right(ns)
            # One namespace may open its files before the next one makes room.
            assert len(open_files(mirror.directory)) <= few + 4
    assert mirror.namespaces() == spaces


def test_pending_rows_of_a_closed_namespace_are_pushed(tmp_path: Path, few: int) -> None:
    """Rows that were appended before the files were closed are found, extended and pushed."""
    memory = Memory()
    machine = Machine(tmp_path / "mirror", memory)
    specs = [spec_of(number) for number in range(10)]
    spaces = [machine.mirror.namespace(spec) for spec in specs]
    for part in (slice(0, 3), slice(2, 5)):
        for ns in spaces:
            ns.append(keys_of_texts(texts(5)[part]), truth(texts(5)[part]))
    assert [ns.pending_rows for ns in spaces] == [5] * 10
    assert len(open_files(tmp_path)) <= few + 4
    assert machine.push().rows == 50
    other = Machine(tmp_path / "other", memory)
    assert other.pull().rows == 50
    assert all(other.found(texts(6), spec) == texts(5) for spec in specs)


def test_an_answer_outlives_the_files_of_its_namespace(tmp_path: Path, few: int) -> None:
    """A map stays valid and private when its namespace is closed to free descriptors, and evicted elsewhere."""
    memory = Memory()
    machine = Machine(tmp_path / "mirror", memory)
    wide = np.repeat(truth(texts(BIG)), 24, axis=1)
    ns = machine.mirror.namespace(spec_of(0))
    ns.append(keys_of_texts(texts(BIG)), wide)
    machine.push()
    answer = ns.take(slice(0, BIG))
    for number in range(1, 10):
        machine.encode(texts(5), spec_of(number))
    folder = ns.folder
    assert open_files(folder) == [str(folder / "vectors.npy")]
    assert len(evict_elsewhere(tmp_path / "mirror")["evicted"]) == 1
    assert np.array_equal(answer, wide)
    answer[:] = 0
    del answer
    assert open_files(folder) == []


def test_rows_that_moved_while_the_files_were_closed(tmp_path: Path, few: int) -> None:
    """Another process may evict then; old row numbers raise an error, and the mirror opens the namespace again."""
    memory = Memory()
    machine = Machine(tmp_path / "mirror", memory)
    machine.encode(texts(5))
    machine.push()
    machine.encode(texts(5, 5))
    ns = machine.mirror.namespaces()[0]
    rows = ns.find(keys_of_texts(texts(5, 5)))
    assert rows.tolist() == [5, 6, 7, 8, 9]
    for number in range(1, 10):
        machine.encode(texts(5), spec_of(number))
    assert len(evict_elsewhere(tmp_path / "mirror")["evicted"]) == 1
    for use in (lambda: ns.take(rows), lambda: ns.find(keys_of_texts(texts(5))), lambda: ns.keys, ns.hold, ns.refresh):
        with pytest.raises(AlreadyClosed, match="again"):
            use()
    again = machine.mirror.get(ns.spec.namespace)
    assert again is not None
    assert again.find(keys_of_texts(texts(10))).tolist() == [-1] * 5 + [0, 1, 2, 3, 4]
    assert machine.found(texts(10), ns.spec) == texts(5, 5)


def test_a_writer_and_an_eviction_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """A writer whose files are closed waits for the eviction before it takes the lock that the eviction needs."""
    machine = Machine(tmp_path / "mirror", Memory())
    machine.encode(texts(5))
    machine.push()
    (ns,) = machine.mirror.namespaces()
    (evicting,) = Mirror(tmp_path / "mirror").namespaces()
    assert ns.suspend()
    assert evicting.reserve()
    raised: list[BaseException] = []

    def write() -> None:
        try:
            ns.append(keys_of_texts(["new"]), truth(["new"]))
        except AlreadyClosed as err:
            raised.append(err)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    writer.join(0.2)  # time to take a lock that it must not have yet
    assert writer.is_alive()
    eviction = threading.Thread(target=evict_packs, args=(evicting, ns.packs), daemon=True)
    eviction.start()
    eviction.join(60)
    writer.join(60)
    assert (eviction.is_alive(), writer.is_alive(), len(raised)) == (False, False, 1)


def test_a_namespace_that_is_held_is_not_closed(mirror: Mirror) -> None:
    """Its lock stays, so nothing is evicted from it, however many others are used; afterwards it is closed."""
    with opened(mirror, 0).held() as ns:
        for number in range(1, 10):
            assert holds_right(opened(mirror, number))
        assert str(ns.folder / ".use") in open_files(ns.folder)
        with Mirror(mirror.directory) as other:
            assert not opened(other, 0).reserve()
    use_others(mirror)
    with Mirror(mirror.directory) as other:
        assert opened(other, 0).reserve()


def test_an_encoder_that_uses_many_other_specs(tmp_path: Path, few: int) -> None:
    """A call keeps its namespace open from the look-up to the result, so rows cannot move while it encodes."""
    with EmbeddingCache(tmp_path / "mirror") as cache:

        def encode(missing: list[str]) -> Any:
            for number in range(1, 10):
                cache.encode(texts(5), spec_of(number), Encoder())
            assert open_files(tmp_path / "mirror" / "namespaces" / spec_of(0).namespace)
            return truth(missing)

        assert np.array_equal(cache.encode(texts(8), spec_of(0), encode), truth(texts(8)))


@pytest.mark.verify
def test_threads_that_close_the_files_of_each_other(mirror: Mirror) -> None:
    """Every answer is right, and no thread uses a file that another thread has closed."""
    random = np.random.default_rng(5)

    def work(seed: int) -> bool:
        order = np.random.default_rng(seed).integers(0, 10, 60)
        return all(holds_right(opened(mirror, int(number))) for number in order)

    with ThreadPoolExecutor(6) as threads:
        assert all(threads.map(work, random.integers(0, 1000, 12).tolist()))


def test_many_mirrors_share_the_limit(tmp_path: Path, few: int) -> None:
    """Unclosed caches with a namespace each hold no more descriptors than one cache with many namespaces."""
    fill(tmp_path / "mirror", 1)
    mirrors = [Mirror(tmp_path / "mirror") for _ in range(30)]
    for mirror in (*mirrors, *mirrors):
        assert holds_right(opened(mirror, 0))
        assert len(open_files(tmp_path)) <= few + 4
    del mirrors, mirror
    assert open_files(tmp_path) == []


def test_an_eviction_does_not_hold_all_locks_at_once(tmp_path: Path, few: int) -> None:
    """Rows of many namespaces are evicted with a constant number of descriptors; a namespace in use is skipped."""
    machine = Machine(tmp_path / "mirror", Memory())
    for number in range(10):
        machine.encode(texts(5), spec_of(number))
    machine.push()
    in_use = spec_of(7).namespace
    with opened(machine.mirror, 7).held(), Mirror(tmp_path / "mirror") as mirror:
        report = evict(mirror, 0)
        assert (len(report.evicted), report.in_use, report.after) == (9, [in_use], report.before // 10)
    assert sorted(len(machine.found(texts(5), spec_of(number))) for number in range(10)) == [0] * 9 + [5]


def test_a_namespace_that_is_opened_between_plan_and_eviction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is reported as in use, and its rows are counted as not evicted."""
    machine = Machine(tmp_path / "mirror", Memory())
    machine.encode(texts(5))
    machine.push()
    name = machine.mirror.ids()[0]
    machine.mirror.close()
    reserve, taken = Namespace.reserve, []

    def reserve_once(self: Namespace) -> bool:
        if taken:
            others.append(Mirror(tmp_path / "mirror").namespaces())
        taken.append(self)
        return reserve(self)

    others: list[list[Namespace]] = []
    monkeypatch.setattr(Namespace, "reserve", reserve_once)
    with Mirror(tmp_path / "mirror") as mirror:
        report = evict(mirror, 0)
        assert (report.evicted, report.in_use, report.after) == ([], [name], report.before)
        assert opened_rows(mirror, name) == 5


def opened_rows(mirror: Mirror, name: str) -> int:
    ns = mirror.get(name)
    return 0 if ns is None else ns.rows


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_an_answer_is_a_copy_where_no_map_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """If the system refuses a map for lack of descriptors, maps or memory, the same answer is returned in memory."""
    wide = np.repeat(truth(texts(BIG)), 24, axis=1)
    ns = Mirror(tmp_path / "mirror").namespace(spec_of(0))
    ns.append(keys_of_texts(texts(BIG)), wide)
    ns.take(np.arange(3))

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(mmap, "mmap", refuse)
        answer = ns.take(slice(0, BIG))
    assert np.array_equal(answer, wide)
    assert not is_mapped(answer)
    answer[:] = 0
    assert np.array_equal(ns.take(slice(0, BIG)), wide)


def is_mapped(array: Any) -> bool:
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return False


COMMON = """
import os, resource, sys
from pathlib import Path
import numpy as np
from cas_cache.mirror import Mirror
from test_mirror_descriptors import *
directory, count, limit = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
most = 0

def count_files():
    global most
    most = max(most, len(os.listdir("/proc/self/fd")))
"""

ANSWERS = (
    COMMON
    + """
from cas_cache.errors import MirrorError
wide = np.repeat(truth(texts(BIG)), 24, axis=1)
keys = keys_of_texts(texts(BIG))
mirror = Mirror(directory)
ns = mirror.namespace(spec_of(0))
ns.append(keys, wide)
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
kept = []
for _ in range(count):
    kept.append(ns.take(slice(0, BIG)))
    count_files()
mapped = [is_mapped(array) for array in kept]
assert mapped == [True] * (limit // 4) + [False] * (count - limit // 4), mapped
assert all(np.array_equal(array, wide) for array in kept)
kept[0][:] = kept[-1][:] = 0
assert np.array_equal(kept[1], wide) and np.array_equal(ns.take(slice(0, BIG)), wide)
del kept
assert is_mapped(ns.take(slice(0, BIG))), "answers that are gone make room for maps"
assert most < limit // 2, most

# Without a free descriptor: what is open goes on, and a lock that cannot be taken is an error that says so.
def exhaust():
    while True:
        try: os.dup(0)
        except OSError: return

exhaust()
answer = ns.take(slice(0, BIG))
assert np.array_equal(answer, wide) and not is_mapped(answer)
assert ns.suspend()
exhaust()
try: ns.take(slice(0, BIG))
except MirrorError as err: assert "ulimit -n" in str(err) and "elete" not in str(err), err
else: sys.exit("read without a lock")
"""
)

MANY = (
    COMMON
    + """
from cas_cache import EmbeddingCache, sync
from cas_cache.mirror.check import check_mirror
from cas_cache.mirror.evict import evict, evict_packs
from cas_cache.repository import Repository
fill(directory / "mirror", count)
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
specs = [spec_of(number) for number in range(count)]
keys = keys_for(range(ITEMS))
with EmbeddingCache(directory / "mirror") as cache:
    spaces = cache.mirror.namespaces()
    assert len(spaces) == count
    for ns in (*spaces, *spaces[::-1]):
        assert holds_right(ns)
        count_files()
    kept = [cache.encode(["new"], spec, lambda new: vectors_for(keys_of_texts(new))) for spec in specs[:5]]
    count_files()
del spaces
with Mirror(directory / "mirror") as mirror:
    assert len(sync.local_status(mirror)[0]) == count
    count_files()
    assert check_mirror(mirror).as_json()["rows"] == count * ITEMS + len(kept)
    count_files()
    memory = Repository(Memory())
    part = [spec.namespace for spec in specs[:15]]
    assert sync.push(mirror, memory, part).packs == len(part)
    count_files()
    assert len(evict(mirror, 0, dry_run=True).evicted) == len(part)
    count_files()
for name, pull in (("eager", sync.pull), ("lazy", sync.pull_keys)):
    with Mirror(directory / name) as mirror:
        assert pull(mirror, memory, progress=False).packs == len(part)
        count_files()
        assert pull(mirror, memory, progress=False).packs == 0
        count_files()
        assert len(sync.status_of(mirror, memory)[0]) == len(part)
        count_files()
assert most < limit * 3 // 4, most
"""
)


def run(script: str, directory: Path, count: int, limit: int) -> None:
    command = [sys.executable, "-c", script, str(directory), str(count), str(limit)]
    environment = {**os.environ, "PYTHONPATH": f"{SUPPORT}{os.pathsep}{Path(__file__).parent}"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, env=environment)
    assert done.returncode == 0, done.stderr


def test_many_answers_are_kept(tmp_path: Path) -> None:
    """Answers beyond a quarter of the limit are copies; with no descriptor left, look-ups still work."""
    run(ANSWERS, tmp_path, 60, 128)


@pytest.mark.verify
def test_many_namespaces_with_few_descriptors(tmp_path: Path) -> None:
    """200 namespaces in one process that may open 128 files."""
    run(MANY, tmp_path, 200, 128)


@pytest.fixture
def quick() -> Iterator[Path]:
    """Yield a folder in memory, if the system has one, because thousands of namespaces are flushed one by one."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as directory:
        yield Path(directory)


RUN = (
    COMMON
    + """
from cas_cache import EmbeddingCache
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
remote = str(directory / "repository")
with EmbeddingCache(directory / "mirror", remote=remote, push="manual") as cache:
    for number in range(count):
        assert np.array_equal(cache.encode(texts(2), spec_of(number), truth), truth(texts(2)))
        count_files()
    assert cache.push().packs == count
    count_files()
with EmbeddingCache(directory / "other", remote=remote) as cache:
    assert [report.packs for report in cache.sync()] == [count, 0]
    count_files()
    for number in range(count):
        assert cache.get(texts(2), spec_of(number))[1].all()
        count_files()
assert most < limit * 3 // 4, most
"""
)


@pytest.mark.verify
def test_thousands_of_namespaces(quick: Path) -> None:
    """A run, push, pull, sync, status and check with 1,000 namespaces and 256 open files; 10,000 with a scale."""
    environment = {**os.environ, "PYTHONPATH": f"{SUPPORT}{os.pathsep}{Path(__file__).parent}"}
    arguments = [str(quick), str(10_000 if SCALE > 1 else 1_000), "256"]
    subprocess.run([sys.executable, "-c", RUN, *arguments], check=True, timeout=3000, env=environment)
    limited = (
        "import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    program = str(Path(sys.executable).parent / "cas-cache")
    remote = ["--remote", str(quick / "repository")]
    for command in (["status"], ["check", "--repository"], ["push"], ["pull"], ["sync"], ["ls"]):
        mirror = quick / ("third" if command == ["pull"] else "mirror")
        options = [] if command == ["ls"] else remote
        full = [sys.executable, "-c", limited, program, *command, str(mirror), *options]
        done = subprocess.run(full, capture_output=True, text=True, timeout=3000, check=False)
        assert done.returncode == 0, (command, done.stderr)
