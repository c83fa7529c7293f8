"""A full disk: eviction works, a failed write frees its room, and reading needs none."""

import errno
import os
import resource
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from cas_cache import CacheMiss, EmbeddingCache, EncoderSpec
from cas_cache.errors import MirrorWriteError
from cas_cache.mirror import Mirror
from cas_cache.mirror.evict import Candidate, evict, smallest_rewrite_first
from failing_disk import failing_disk
from tiers import sampled

SPEC = EncoderSpec(model="org/model", revision="abc1234")
OTHER = EncoderSpec(model="org/model", revision="def5678")
TEXTS = [f"text {i}" for i in range(5000)]
VECTORS = np.arange(5000 * 64, dtype=np.float32).reshape(5000, 64)
ALL = None
"""Means that every write fails."""


def filled(root, pushed, pending=0, packs=2):
    """Return a mirror with packs that were pushed, and with pending rows."""
    with EmbeddingCache(root / "mirror", remote=root / "repository", push="manual") as cache:
        for first in range(0, pushed, pushed // packs):
            part = slice(first, first + pushed // packs)
            cache.put(TEXTS[part], VECTORS[part], SPEC)
            cache.push()
        cache.put(TEXTS[pushed : pushed + pending], VECTORS[pushed : pushed + pending], SPEC)
    return root / "mirror"


def held(directory):
    """Return the number of rows that a new process would find, after checking that each is right."""
    with EmbeddingCache(directory, offline=True, read_only=True) as cache:
        vectors, found = cache.get(TEXTS, SPEC)
        assert not found.any() or (vectors[found] == VECTORS[found]).all()
    return int(found.sum())


def sizes(directory):
    """Return the sizes of the columns of a mirror."""
    return {path.name: path.stat().st_size for path in directory.rglob("*.npy*")}


def test_all_rows_are_evicted_without_a_byte_to_write(tmp_path):
    """A namespace that keeps no rows needs no room; a pull brings all of them back."""
    directory = filled(tmp_path, 5000)
    with failing_disk("write", directory, times=ALL) as disk:
        report = evict(Mirror(directory), 0)
    assert disk.fired
    assert (len(report.evicted), report.after) == (2, 0)
    assert held(directory) == 0
    assert not sizes(directory)
    with EmbeddingCache(directory, remote=tmp_path / "repository", push="manual") as cache:
        cache.pull()
    assert held(directory) == 5000


def test_a_limit_of_the_size_of_files_is_like_a_full_disk(tmp_path):
    """Nothing can be written to any file."""
    directory = filled(tmp_path, 5000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        assert held(directory) == 5000
        assert evict(Mirror(directory), 0).after == 0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert held(directory) == 0


def test_more_is_evicted_where_the_rest_cannot_be_written_again(tmp_path):
    """Rows that cannot be rewritten, but are in the repository, are evicted too, and the report says so."""
    directory = filled(tmp_path, 5000)
    size = evict(Mirror(directory), 10**9, dry_run=True).before
    with failing_disk("write", directory, times=1):
        report = evict(Mirror(directory), size // 2)
    assert (len(report.evicted), report.after) == (2, 0)
    assert held(directory) == 0


def test_pending_rows_stay_and_the_message_is_true(tmp_path):
    """Pending rows exist nowhere else: all rows stay, and the message says how many, and what to do."""
    directory = filled(tmp_path, 3000, pending=2000)
    before = sizes(directory)
    with failing_disk("write", directory, times=ALL), pytest.raises(MirrorWriteError) as caught:
        evict(Mirror(directory), 0)
    assert "None of its 5000 rows was lost. 2000 have to stay" in str(caught.value)
    assert "512.0 kB" in str(caught.value)
    assert held(directory) == 5000
    assert sizes(directory) == before


def test_a_push_makes_pending_rows_fit_for_eviction(tmp_path):
    """A push on a full disk uses the room of files that only hold hints."""
    directory = filled(tmp_path, 3000, pending=2000)
    with EmbeddingCache(directory, remote=tmp_path / "repository", push="manual") as cache:
        for _ in range(3):  # each commit of the push fails once
            with failing_disk("write", directory, times=1) as disk:
                cache.push()
            assert disk.fired or not cache.mirror.namespace(SPEC).pending_rows
    evict(Mirror(directory), 0)
    assert held(directory) == 0


def test_the_namespace_with_the_fewest_rows_to_keep_is_first():
    """Each namespace makes room for the next one."""
    chosen = [Candidate("a", "1", 1, 10, 0.0), Candidate("b", "2", 1, 10, 0.0), Candidate("b", "3", 1, 10, 0.0)]
    assert smallest_rewrite_first(chosen, {"a": 100, "b": 20}) == ["b", "a"]
    assert smallest_rewrite_first(chosen, {"a": 10, "b": 200}) == ["a", "b"]


def test_an_array_that_was_returned_outlives_an_unfinished_eviction(tmp_path, monkeypatch):
    """Columns that an eviction could not remove are replaced, never overwritten, because they may be mapped."""
    directory = filled(tmp_path, 5000)
    with EmbeddingCache(directory, offline=True) as cache:
        kept = cache.encode(TEXTS, SPEC, None)  # a map of the file
    unlink = Path.unlink

    def crash(path, **options):
        if path.name.endswith(".npy"):
            raise KeyboardInterrupt
        unlink(path, **options)

    with monkeypatch.context() as patches, failing_disk("write", directory, times=ALL):
        patches.setattr(Path, "unlink", crash)
        with pytest.raises(KeyboardInterrupt):
            evict(Mirror(directory), 0)
    assert held(directory) == 0
    with EmbeddingCache(directory, offline=True) as cache:
        cache.put(TEXTS, VECTORS + 1, SPEC)
        assert (cache.get(TEXTS, SPEC)[0] == VECTORS + 1).all()
    assert (kept == VECTORS).all()


FAULTS = [(operation, code) for operation in ("write", "fsync", "rename") for code in (errno.ENOSPC, errno.EIO)]


@pytest.mark.parametrize(("operation", "code"), sampled(FAULTS, keep={("write", errno.ENOSPC)}))
def test_a_write_that_fails_gives_its_room_back(tmp_path, operation, code):
    """Whichever write fails, the files hold only the committed rows, and a retry succeeds."""
    for at in range(1, 30):
        directory = tmp_path / str(at)
        with EmbeddingCache(directory) as cache:
            cache.put(TEXTS[:100], VECTORS[:100], SPEC)
            before = sizes(directory)
            with failing_disk(operation, directory, code=code, at=at) as disk:
                try:
                    cache.put(TEXTS[100:300], VECTORS[100:300], SPEC)
                except MirrorWriteError:
                    assert sizes(directory) == before or held(directory) == 300
            if not disk.fired:
                break
            if held(directory) == 100:
                assert all(len(np.load(path)) == 100 for path in directory.rglob("*.npy"))
            cache.put(TEXTS[100:300], VECTORS[100:300], SPEC)
        assert held(directory) == 300
    assert at > 3 or operation == "rename"


def test_a_first_write_that_fails_leaves_no_column(tmp_path):
    """The same holds for a namespace without rows."""
    with EmbeddingCache(tmp_path) as cache:
        with failing_disk("write", cache.mirror.namespace(SPEC).folder, at=4), pytest.raises(MirrorWriteError):
            cache.put(TEXTS[:100], VECTORS[:100], SPEC)
        assert not sizes(tmp_path)


@pytest.mark.parametrize("lazy", [False, True])
def test_a_failed_pull_gives_back_what_it_wrote(tmp_path, lazy):
    """A disk that fills up during a pull has as much room as before the pull."""
    filled(tmp_path, 1000)
    for at in range(1, 60, 2):
        directory = tmp_path / f"{lazy}-{at}"
        with EmbeddingCache(directory, remote=tmp_path / "repository", push="manual", lazy=lazy) as cache:
            cache.mirror.namespace(SPEC)
            pull = cache.pull_keys if lazy else cache.pull
            with failing_disk("write", directory / "namespaces", at=at, times=ALL):
                try:
                    pull()
                except MirrorWriteError:
                    assert not sizes(directory)
                else:
                    break
    assert at > 3


def test_reading_needs_no_room(tmp_path):
    """An offline cache on a full disk finds its rows; missing rows are misses, also for an unknown spec."""
    directory = filled(tmp_path, 5000)
    before = sorted(directory.rglob("*"))
    with failing_disk("write", directory, times=ALL):
        for only_cached in (False, True):
            with EmbeddingCache(directory, offline=True, read_only=True, only_cached=only_cached) as cache:
                assert (cache.encode(TEXTS, SPEC, None) == VECTORS).all()
                assert cache.get([*TEXTS[:2], "new"], SPEC)[1].tolist() == [True, True, False]
                vectors, found = cache.get(["new", "newer"], OTHER)
                assert (vectors.shape, found.tolist()) == ((2, 0), [False, False])
        with EmbeddingCache(directory, offline=True, read_only=True, only_cached=True) as cache:
            with pytest.raises(CacheMiss, match="2 of 2 distinct items") as caught:
                cache.encode(["new", "newer", "new"], OTHER, None)
            assert (caught.value.positions, caught.value.missing) == ((0, 1), 2)
            assert cache.encode([], OTHER, None).shape == (0, 0)
            assert cache.stats.misses == 3
    assert not (directory / "namespaces" / OTHER.namespace).exists()
    assert {path for path in directory.rglob("*") if path not in before} <= {
        directory / "namespaces" / SPEC.namespace / "memo"
    }


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of 8 MB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], check=False).returncode:
        pytest.skip("this machine lets nobody mount a file system here")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def fill(place):
    """Fill the disk to the last byte."""
    with (place / "filler").open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert os.statvfs(place).f_bavail == 0


def test_a_disk_that_is_really_full(small_disk, tmp_path):
    """Read, push and evict with 0 bytes free; then a pull runs out of room, and frees it again."""
    directory = filled(small_disk, 3000, pending=2000)
    shutil.move(small_disk / "repository", tmp_path / "repository")
    fill(small_disk)
    assert held(directory) == 5000
    with EmbeddingCache(directory, remote=tmp_path / "repository", push="manual") as cache:
        assert cache.push().rows == 2000
    evict(Mirror(directory), 0)
    assert held(directory) == 0
    free = os.statvfs(small_disk).f_bavail
    assert free * 4096 > VECTORS.nbytes
    (small_disk / "another").write_bytes(bytes((free - 100) * 4096))
    with EmbeddingCache(directory, remote=tmp_path / "repository", push="manual") as cache:
        before = os.statvfs(small_disk).f_bavail
        with pytest.raises(MirrorWriteError, match="disk is full"):
            cache.pull()
        assert os.statvfs(small_disk).f_bavail >= before - held(directory) * 300 // 4096 - 8
        (small_disk / "another").unlink()
        cache.pull()
    assert held(directory) == 5000
