"""System errors while a healthy mirror is read: "try again", and never damage or a lost row."""

import errno
import io
import os
from pathlib import Path

import numpy as np
import pytest

from cas_cache import EmbeddingCache, EncoderSpec
from cas_cache.errors import DamagedMirror, MirrorReadError, RemoteError
from cas_cache.mirror import Mirror
from cas_cache.mirror.check import check_mirror
from cas_cache.mirror.views import View
from tiers import sampled

SPEC = EncoderSpec(model="org/model", revision="abc1234")
TEXTS = [f"text {i}" for i in range(400)]
VECTORS = np.arange(400 * 800, dtype=np.float32).reshape(400, 800)  # 1.3 MB: returned as a map
PASSING = (
    errno.EMFILE,
    errno.ENFILE,
    errno.ESTALE,
    errno.EIO,
    errno.EACCES,
    errno.ENOMEM,
    errno.EINTR,
    errno.ETIMEDOUT,
)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """Return a mirror with pushed rows, pending rows, and a view."""
    root = tmp_path_factory.mktemp("healthy")
    with EmbeddingCache(root / "mirror", remote=root / "repository", push="manual") as cache:
        cache.put(TEXTS[:200], VECTORS[:200], SPEC)
        cache.push()
        cache.put(TEXTS[200:], VECTORS[200:], SPEC)
        ns = cache.mirror.namespace(SPEC)
        view = View("Task", SPEC.namespace, SPEC.model, SPEC.revision, None, "default", "test")
        cache.mirror.views.record(view, np.array(ns.keys), None, TEXTS)
    return root / "mirror"


class Faults:
    """Makes the nth call of an operation below a folder fail."""

    def __init__(self, patches, folder, code):
        self.folder, self.code, self.at, self.calls, self.path = str(folder), code, 0, 0, ""
        real_open, real_lstat, real_stat = os.open, os.lstat, os.stat
        real_memmap, real_listdir, real_scandir = np.memmap, os.listdir, os.scandir
        real_io = io.open

        def opened(path, flags, *args, **options):
            self.count(path)
            return real_open(path, flags, *args, **options)

        def opened_by_io(path, *args, **options):
            if not isinstance(path, int) and "opener" not in options:
                self.count(path)
            return real_io(path, *args, **options)

        patches.setattr(os, "open", opened)
        patches.setattr(io, "open", opened_by_io)
        patches.setattr(os, "lstat", lambda path, **options: (self.count(path), real_lstat(path, **options))[1])
        patches.setattr(os, "stat", lambda path, **options: (self.count(path), real_stat(path, **options))[1])
        patches.setattr(os, "listdir", lambda path=".": (self.count(path), real_listdir(path))[1])
        patches.setattr(os, "scandir", lambda path=".": (self.count(path), real_scandir(path))[1])

        def memmap(file, *args, **options):
            self.count(file.name)
            return real_memmap(file, *args, **options)

        patches.setattr(np, "memmap", memmap)

    def count(self, path):
        """Count a call, and fail if it is the chosen one."""
        if isinstance(path, int) or not os.fspath(path).startswith(self.folder):
            return
        self.calls += 1
        if self.calls == self.at:
            self.path = os.fspath(path)
            raise OSError(self.code, os.strerror(self.code), str(path))

    def start(self, at):
        """Make the nth call from now on fail."""
        self.at, self.calls, self.path = at, 0, ""


def read_all(folder):
    """Read all contents of a mirror, as users do."""
    with EmbeddingCache(folder, only_cached=True) as cache:
        assert (cache.encode(TEXTS, SPEC, lambda _: None) == VECTORS).all()
        assert cache.get(["never encoded"], SPEC)[1].tolist() == [False]
        assert cache.mirror.views.tasks() == ["Task"]
        assert cache.mirror.view("Task").missing == 0
        assert cache.mirror.ids() == [SPEC.namespace]
        assert check_mirror(cache.mirror).clean


@pytest.mark.verify
@pytest.mark.parametrize("code", sampled([errno.errorcode[code] for code in PASSING], keep={"EMFILE"}))
def test_a_healthy_mirror_is_never_called_damaged(healthy, monkeypatch, code):
    """Each system call fails once: the answer is right or the error says "try again", and a retry is right."""
    code = getattr(errno, code)
    with monkeypatch.context() as patches:
        faults = Faults(patches, healthy, code)
        messages = []
        for at in range(1, 1000):
            faults.start(at)
            try:
                read_all(healthy)
            except MirrorReadError as err:
                messages.append(str(err))
            if not faults.path:
                break
        faults.start(0)
        read_all(healthy)
        assert len(messages) >= 10
        assert all("try again" in it and os.strerror(code) in it and "elete" not in it for it in messages)
        assert at > 30


def test_a_cache_that_met_an_error_is_used_again(healthy, monkeypatch):
    """The same object can be used after the system refused a read."""
    with EmbeddingCache(healthy, only_cached=True) as cache, monkeypatch.context() as patches:
        faults = Faults(patches, healthy, errno.EMFILE)
        for at in range(1, 100):
            faults.start(at)
            try:
                cache.get(TEXTS, SPEC)
            except MirrorReadError:
                continue
            if not faults.path:
                break
        faults.start(0)
        assert (cache.get(TEXTS, SPEC)[0] == VECTORS).all()
        assert at > 5


@pytest.mark.parametrize("code", sampled([errno.errorcode[code] for code in PASSING], keep={"EMFILE"}))
def test_a_healthy_repository_in_a_directory_is_never_called_damaged(healthy, tmp_path, monkeypatch, code):
    """Each system call fails once: a pull stops with a remote's error, or skips an unreadable pack."""
    code = getattr(errno, code)
    repository = healthy.parent / "repository"
    with monkeypatch.context() as patches:
        faults = Faults(patches, repository, code)
        for at in range(1, 1000):
            faults.start(at)
            with EmbeddingCache(tmp_path / str(at), remote=repository, push="manual") as cache:
                try:
                    report = cache.pull()
                except RemoteError:
                    assert faults.path
                else:
                    assert all("may not be read" in str(problem) for problem in report.problems)
                    assert not report.problems or code in (errno.EACCES, errno.EPERM)
                    assert report.problems or (cache.get(TEXTS[:200], SPEC)[0] == VECTORS[:200]).all()
            if not faults.path:
                break
    assert at > 10


@pytest.mark.parametrize(("code", "works"), [(errno.EMFILE, False), (errno.EIO, False), (errno.EROFS, True)])
def test_a_namespace_is_not_read_without_its_lock_because_of_an_error_that_passes(healthy, monkeypatch, code, works):
    """Rows could be evicted during the read. If the lock's file cannot be created at all, no process evicts."""
    real = os.open

    def opened(path, *args, **options):
        if str(path).endswith(".use"):
            raise OSError(code, os.strerror(code), str(path))
        return real(path, *args, **options)

    monkeypatch.setattr(os, "open", opened)
    with EmbeddingCache(healthy, only_cached=True) as cache:
        if works:
            assert cache.get(TEXTS, SPEC)[1].all()
        else:
            with pytest.raises(MirrorReadError, match="try again"):
                cache.get(TEXTS, SPEC)


def test_the_message_says_why_and_what_to_do(healthy, monkeypatch):
    """Each cause has its own advice."""
    for code, advice in {
        errno.EMFILE: "ulimit -n",
        errno.EACCES: "Check its owner and permissions",
        errno.EIO: "Check the disk",
    }.items():
        with monkeypatch.context() as patches:
            Faults(patches, healthy, code).start(1)
            with pytest.raises(MirrorReadError, match=advice):
                Mirror(healthy, create=False)


def test_no_message_about_damage_advises_to_delete_a_folder(tmp_path):
    """Rows that were not pushed exist nowhere else: a damaged folder is moved away and kept."""
    with EmbeddingCache(tmp_path) as cache:
        cache.put(TEXTS[:5], VECTORS[:5], SPEC)
        folder = cache.mirror.namespace(SPEC).folder
    for name in ("state.json", "keys.npy", "vectors.npy", "digests.npy", "spec.json", "../../cas-cache-mirror.json"):
        path = Path(folder, name)
        data = path.read_bytes()
        for damaged in (b"", b"[]", data[: len(data) // 2], bytes(len(data))):
            path.write_bytes(damaged)
            with pytest.raises(DamagedMirror) as caught, EmbeddingCache(tmp_path) as cache:
                cache.get(TEXTS[:5], SPEC)
            assert "delete" not in str(caught.value).lower()
            assert "nowhere else" in str(caught.value)
            path.write_bytes(data)
    with EmbeddingCache(tmp_path) as cache:
        assert cache.get(TEXTS[:5], SPEC)[1].all()
