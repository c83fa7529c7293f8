"""File systems without links, locks, maps or flushed folders work; others are refused before anything is encoded."""

import errno
import fcntl
import mmap
import os
import platform
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from cas_cache import EmbeddingCache, EncoderSpec
from cas_cache.errors import ConfigurationError, MirrorError, MirrorWriteError
from cas_cache.files import exclusive
from cas_cache.files.disk import write_atomically
from cas_cache.files.exclusive import ExclusiveLock
from cas_cache.mirror import Mirror
from cas_cache.mirror.evict import evict
from tiers import sampled

SPEC = EncoderSpec(model="org/model", revision="abc1234")
TEXTS = [f"text {i}" for i in range(300)]
VECTORS = np.arange(300 * 1000, dtype=np.float32).reshape(300, 1000)  # 1.2 MB: an answer is a map


def encode(texts):
    """Return the vectors of texts."""
    return VECTORS[[int(text.split()[1]) for text in texts]]


def never(_):
    """Fail if anything is encoded."""
    raise AssertionError("encoded")


def no_links(patches, code):
    """Prevent a second name for any file, as on Google Drive, exFAT or CIFS."""
    patches.setattr(os, "link", refusing(code))


def no_locks(patches, code):
    """Prevent locks on any file, as on Lustre, or NFS without its lock daemon."""
    patches.setattr(fcntl, "flock", refusing(code))


def no_maps(patches, code):
    """Prevent maps of any file, as on FUSE with direct_io."""

    class Refusing(mmap.mmap):
        def __new__(cls, *_, **__):
            raise OSError(code, os.strerror(code))

    patches.setattr(mmap, "mmap", Refusing)


def no_folder_fsync(patches, code):
    """Prevent flushes of folders, as on CIFS."""
    real = os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        real(descriptor)

    patches.setattr(os, "fsync", fsync)


def no_folder_open(patches, code):
    """Prevent opening of folders."""
    real = os.open

    def opened(path, *args, **options):
        if os.path.isdir(path):  # noqa: PTH112 - the path may be a string
            raise OSError(code, os.strerror(code), str(path))
        return real(path, *args, **options)

    patches.setattr(os, "open", opened)


def refusing(code):
    """Return a system call that fails."""

    def call(*_, **__):
        raise OSError(code, os.strerror(code))

    return call


CODES = {
    no_links: ("ENOSYS", "ENOTSUP", "EPERM", "EINVAL", "EXDEV", "EACCES"),
    no_locks: ("ENOSYS", "ENOLCK", "ENOTSUP", "EINVAL"),
    no_maps: ("ENODEV", "ENOSYS", "EINVAL", "EPERM", "ENOMEM"),
    no_folder_fsync: ("EINVAL", "ENOSYS", "ENOTSUP", "EBADF"),
    no_folder_open: ("EACCES", "EPERM", "EISDIR"),
}
LACKS = [(lack, code) for lack, codes in CODES.items() for code in codes]


@pytest.mark.parametrize(("lack", "code"), sampled(LACKS, keep={(lack, codes[0]) for lack, codes in CODES.items()}))
def test_a_file_system_that_lacks_it_works(tmp_path, monkeypatch, lack, code):
    """Encode, push, pull, read lazily and read again: every vector is right, and every row arrives."""
    lack(monkeypatch, getattr(errno, code))
    remote = tmp_path / "repository"
    with EmbeddingCache(tmp_path / "a", remote=remote, on_remote_error="raise", chunk_items=80) as cache:
        kept = cache.encode(TEXTS[:200], SPEC, encode)
        cache.encode(TEXTS[100:], SPEC, encode)
    with EmbeddingCache(tmp_path / "a", only_cached=True) as cache:
        assert (cache.encode(TEXTS, SPEC, never) == VECTORS).all()
        assert (cache.encode(TEXTS, SPEC, never) == VECTORS).all()  # from the memo
        kept[:] = 0
        assert (cache.encode(TEXTS[::-1], SPEC, never) == VECTORS[::-1]).all()
    for lazy in (False, True):
        with EmbeddingCache(tmp_path / f"b-{lazy}", remote=remote, only_cached=True, lazy=lazy) as cache:
            assert (cache.encode(TEXTS[::-1], SPEC, never) == VECTORS[::-1]).all()
    left = [path.name for path in tmp_path.rglob(".*") if path.name not in {".lock", ".use"}]
    assert not left


def test_a_mirror_keeps_the_kind_of_lock_that_it_was_made_with(tmp_path, monkeypatch):
    """Processes that see locks and processes that do not would not exclude each other."""
    with monkeypatch.context() as patches:
        no_locks(patches, errno.ENOLCK)
        with EmbeddingCache(tmp_path) as cache:
            cache.put(TEXTS[:5], VECTORS[:5], SPEC)
            folder = cache.mirror.namespace(SPEC).folder
    with EmbeddingCache(tmp_path) as cache:
        with ExclusiveLock(folder / ".lock.held"):
            writer = threading.Thread(target=lambda: cache.put(TEXTS[5:9], VECTORS[5:9], SPEC))
            writer.start()
            writer.join(0.2)
            assert writer.is_alive()
            assert cache.get(TEXTS[:9], SPEC)[1].sum() == 5
        writer.join()
    with EmbeddingCache(tmp_path) as cache:
        assert cache.get(TEXTS[:9], SPEC)[1].all()


def test_locks_that_are_gone_are_refused_before_anything_is_encoded(tmp_path, monkeypatch):
    """Other processes may lock the mirror although this one cannot. Existing rows can be read."""
    with EmbeddingCache(tmp_path) as cache:
        cache.put(TEXTS[:5], VECTORS[:5], SPEC)
    for code in (errno.ENOSYS, errno.ENOLCK):
        with monkeypatch.context() as patches:
            no_locks(patches, code)
            with EmbeddingCache(tmp_path) as cache:
                assert (cache.encode(TEXTS[:5], SPEC, never) == VECTORS[:5]).all()
                with pytest.raises(MirrorWriteError, match="no file locks now"):
                    cache.encode(TEXTS, SPEC, never)


def test_a_mirror_that_cannot_be_written_is_refused_before_anything_is_encoded(tmp_path, monkeypatch):
    """An example is a file system that is mounted read-only."""
    with EmbeddingCache(tmp_path) as cache:
        cache.put(TEXTS[:5], VECTORS[:5], SPEC)
    real = os.open

    def opened(path, flags, *args, **options):
        if flags & (os.O_RDWR | os.O_WRONLY) and str(path).startswith(str(tmp_path)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", opened)
    with EmbeddingCache(tmp_path) as cache:
        assert (cache.encode(TEXTS[:5], SPEC, never) == VECTORS[:5]).all()
        with pytest.raises(MirrorWriteError, match="Read-only file system"):
            cache.encode(TEXTS, SPEC, never)


def test_without_locks_nothing_is_evicted_and_the_message_says_why(tmp_path, monkeypatch):
    """It is unknown if another process reads the rows that would move."""
    no_locks(monkeypatch, errno.ENOSYS)
    with EmbeddingCache(tmp_path) as cache:
        cache.put(TEXTS[:5], VECTORS[:5], SPEC)
    with pytest.raises(MirrorError, match="has no file locks"):
        evict(Mirror(tmp_path), 0)


def no_rename(patches, folder, code):
    """Prevent renames below a folder, as with Mountpoint for S3."""
    real = os.replace

    def replace(source, target, **options):
        if str(target).startswith(str(folder)):
            raise OSError(code, os.strerror(code), str(target))
        real(source, target, **options)

    patches.setattr(os, "replace", replace)
    patches.setattr(os, "rename", replace)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOTSUP, errno.EPERM])
def test_a_mirror_that_cannot_rename_is_not_made(tmp_path, monkeypatch, code):
    """The message names the missing feature of the file system; nothing is left behind."""
    no_rename(monkeypatch, tmp_path, code)
    with pytest.raises(MirrorWriteError, match=r"cannot rename a file over another .*local disk"):
        EmbeddingCache(tmp_path / "mirror")
    assert not list((tmp_path / "mirror").iterdir())


def test_a_mirror_that_cannot_write_in_the_middle_of_a_file_is_not_made(tmp_path, monkeypatch):
    """An example is DBFS, whose files can only grow."""
    with monkeypatch.context() as patches:
        patches.setattr(os, "lseek", refusing(errno.ENOTSUP))
        with pytest.raises(MirrorWriteError, match="cannot write in the middle of a file"):
            EmbeddingCache(tmp_path / "mirror")
    with monkeypatch.context() as patches:
        patches.setattr(os, "lseek", lambda *_: 0)
        with pytest.raises(MirrorWriteError, match="does not keep what is written in the middle"):
            EmbeddingCache(tmp_path / "mirror")


def test_a_mirror_whose_files_cannot_be_made_durable_is_not_made(tmp_path, monkeypatch):
    """Committed rows would be lost in a power failure."""
    monkeypatch.setattr(os, "fsync", refusing(errno.EINVAL))
    with pytest.raises(MirrorWriteError, match="cannot make a file durable"):
        EmbeddingCache(tmp_path / "mirror")


def test_a_repository_that_cannot_be_made_is_refused_before_anything_is_encoded(tmp_path, monkeypatch):
    """Cached vectors are still served, and a cache that pushes manually still works."""
    with EmbeddingCache(tmp_path / "mirror") as cache:
        cache.put(TEXTS[:5], VECTORS[:5], SPEC)
    (tmp_path / "place").mkdir()
    no_rename(monkeypatch, tmp_path / "place", errno.ENOSYS)
    remote = tmp_path / "place" / "repository"
    with (
        EmbeddingCache(tmp_path / "mirror", remote=remote, push="manual") as cache,
        pytest.raises(ConfigurationError, match="cannot hold a repository: its file system cannot rename"),
    ):
        cache.push()
    with (
        pytest.raises(ConfigurationError, match="cannot hold a repository"),
        EmbeddingCache(tmp_path / "new", remote=remote) as cache,
    ):
        cache.encode(TEXTS[:5], SPEC, never)
    assert not list((tmp_path / "place").iterdir())


def test_without_links_one_of_many_writers_makes_a_file(tmp_path, monkeypatch):
    """The file system decides which create-only write wins, with or without links."""
    no_links(monkeypatch, errno.EPERM)
    for turn in range(5):
        path = tmp_path / str(turn)
        with ThreadPoolExecutor(8) as threads:
            made = list(threads.map(lambda n, path=path: write_atomically(path, b"%d" % n, create_only=True), range(8)))
        assert sum(made) == 1
        assert path.read_bytes() == b"%d" % made.index(True)
    assert len(list(tmp_path.iterdir())) == 5


def test_an_exclusive_lock_excludes(tmp_path):
    """Threads hold the lock one at a time."""
    path, inside, most = tmp_path / "held", [], []

    def work(n):
        with ExclusiveLock(path):
            inside.append(n)
            time.sleep(0.005)  # without the lock, other threads would enter
            most.append(len(inside))
            inside.remove(n)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(20)))
    assert max(most) == 1
    assert not path.exists()


@pytest.mark.parametrize("holder", ["{node} {gone} 00", "{node} {self} 00"])
def test_the_lock_of_a_process_that_has_ended_is_broken(tmp_path, holder):
    """A killed process, and one whose number this process now has, hold no lock."""
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    path = tmp_path / "held"
    path.write_text(holder.format(node=exclusive.machine(), gone=pid, self=os.getpid()))
    with ExclusiveLock(path):
        assert f" {os.getpid()} " in path.read_text()
    assert not list(tmp_path.iterdir())


OTHERS = ["elsewhere 1 00", f"{platform.node()}pid:[1] 1 00", "", "no holder at all", f"{exclusive.machine()} 1 00"]


@pytest.mark.parametrize("holder", OTHERS)
def test_the_lock_of_a_process_that_may_live_is_waited_for_and_named(tmp_path, monkeypatch, holder):
    """The lock of a remote or a running local process is never broken, and the wait for it ends."""
    monkeypatch.setattr(exclusive, "PATIENCE", 0.2)
    path = tmp_path / "held"
    path.write_text(holder)
    with pytest.raises(TimeoutError, match="If that process has ended, remove this file") as caught:
        ExclusiveLock(path).acquire()
    assert caught.value.filename == str(path)
    assert path.read_text() == holder


def test_a_lock_that_is_never_released_is_an_error_of_the_mirror(tmp_path, monkeypatch):
    """The error is raised before anything is encoded."""
    no_locks(monkeypatch, errno.ENOSYS)
    monkeypatch.setattr(exclusive, "PATIENCE", 0.2)
    with EmbeddingCache(tmp_path) as cache:
        cache.put(TEXTS[:5], VECTORS[:5], SPEC)
        Path(cache.mirror.namespace(SPEC).folder, ".lock.held").write_text("elsewhere 1 00")
        with pytest.raises(MirrorWriteError, match="held by another process"):
            cache.encode(TEXTS, SPEC, never)
