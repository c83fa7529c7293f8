"""Copies of caches: pickled, deep-copied, forked and spawned ones are caches of their own at the same place."""

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cas_cache import EmbeddingCache
from cas_cache.errors import AlreadyClosed, ConfigurationError, NotAMirror
from cas_cache.mirror import Mirror
from cas_cache.mirror.evict import evict
from cas_cache.repository import Repository
from cas_cache.storage import open_storage
from paths import ROOT
from storages import SPEC, Memory, texts, truth
from tiers import sampled

SOURCE = str(ROOT / "src")

MANY = texts(60)

BY_PICKLE = pytest.mark.parametrize("copied", [lambda it: pickle.loads(pickle.dumps(it)), copy.copy, copy.deepcopy])

OPTIONS = {
    "read_only": True,
    "offline": True,
    "only_cached": True,
    "lazy": True,
    "self_check": 3,
    "max_self_check": 50,
    "push": "manual",
    "push_seconds": 7.5,
    "on_remote_error": "raise",
    "chunk_items": 7,
    "progress": False,
}


def rows_of(remote: Path) -> int:
    """Return the rows of all packs of a repository, repeats included."""
    repository = Repository(open_storage(str(remote)))
    repository.open()
    return sum(manifest.rows for manifest in repository.manifests(list(repository.packs())))


def _encode(cache: EmbeddingCache, asked: list[str]) -> list[list[float]]:
    found: list[list[float]] = cache.encode(asked, SPEC, truth).tolist()
    return found


@BY_PICKLE
def test_a_copy_is_a_second_cache_on_the_same_mirror(tmp_path: Path, copied: Callable[[Any], Any]) -> None:
    """It reads what the first committed and the first reads its rows; closing one leaves the other open."""
    with EmbeddingCache(tmp_path / "mirror", remote=tmp_path / "remote") as cache:
        cache.encode(MANY[:20], SPEC, truth)
        again = copied(cache)
        assert type(again) is EmbeddingCache
        assert again.mirror is not cache.mirror
        assert again.mirror.directory == cache.mirror.directory
        assert again.repository.url == cache.repository.url
        np.testing.assert_array_equal(again.encode(MANY[:30], SPEC, truth), truth(MANY[:30]))
        assert (again.stats.hits, again.stats.encoded) == (20, 10)
        again.close()
        assert cache.get(MANY[:30], SPEC)[1].all()
        assert cache.stats.misses == 20
    assert rows_of(tmp_path / "remote") == 30


@BY_PICKLE
def test_options_are_those_of_the_cache_as_it_is_now(tmp_path: Path, copied: Callable[[Any], Any]) -> None:
    """What was given, and what was set on the cache afterwards."""
    with EmbeddingCache(tmp_path / "m", remote=str(tmp_path / "r"), **OPTIONS) as cache:  # type: ignore[arg-type]
        cache.offline = False
        again = copied(cache)
    names = [name for name in OPTIONS if name not in ("push", "push_seconds")]
    assert {name: getattr(again, name) for name in names} == {name: getattr(cache, name) for name in names}
    assert again.offline is False
    assert again.__reduce__()[1][1]["push_seconds"] == OPTIONS["push_seconds"]


def test_relative_places_are_the_same_in_another_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker may run elsewhere."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with EmbeddingCache("mirror", remote="./remote") as cache:
        pickled = pickle.dumps(cache)
    monkeypatch.chdir(tmp_path / "there")
    with pickle.loads(pickled) as again:
        assert again.mirror.directory == tmp_path / "here" / "mirror"
        assert again.repository.url == str(tmp_path / "here" / "remote")


def test_a_pickle_holds_no_lock_and_no_row(tmp_path: Path) -> None:
    """It has only the place and the options, the same bytes each time; whoever evicts does not wait for it."""
    with EmbeddingCache(tmp_path / "mirror", remote=tmp_path / "remote") as cache:
        pickled = pickle.dumps(cache)
        cache.encode(MANY, SPEC, truth)
        assert pickle.dumps(cache) == pickled
        assert len(pickled) < 2000
    assert evict(Mirror(tmp_path / "mirror"), 0).evicted


@pytest.mark.parametrize("method", sampled(["spawn", "fork", "forkserver"], keep=3))
def test_workers_share_the_mirror_and_push_each_row_once(tmp_path: Path, method: str) -> None:
    """Vectors are right, all rows are kept, and the parent's pending rows are in one pack."""
    with EmbeddingCache(tmp_path / "mirror", remote=tmp_path / "remote") as cache:
        cache.encode(MANY[:30], SPEC, truth)
        with multiprocessing.get_context(method).Pool(2) as pool:
            parts = [MANY[first : first + 15] for first in range(0, 60, 15)]
            waiting = [pool.apply_async(_encode, (cache, part)) for part in parts]
            for part, result in zip(parts, waiting, strict=True):
                np.testing.assert_array_equal(result.get(timeout=120), truth(part))
    assert rows_of(tmp_path / "remote") == 60
    with EmbeddingCache(tmp_path / "mirror", offline=True) as offline:
        assert offline.get(MANY, SPEC)[1].all()
        assert offline.mirror.namespace(SPEC).pending_rows == 0


def test_a_worker_that_ends_pushes_what_it_encoded(tmp_path: Path) -> None:
    """Also the rows that its parent left pending, once: the parent has nothing left to push."""
    with EmbeddingCache(tmp_path / "mirror", remote=tmp_path / "remote") as cache:
        cache.encode(MANY[:30], SPEC, truth)
        worker = multiprocessing.get_context("spawn").Process(target=_encode, args=(cache, MANY))
        worker.start()
        worker.join(120)
        assert worker.exitcode == 0
        assert rows_of(tmp_path / "remote") == 60
    assert rows_of(tmp_path / "remote") == 60


def test_a_closed_cache(tmp_path: Path) -> None:
    """It is not opened again by accident."""
    cache = EmbeddingCache(tmp_path)
    cache.close()
    for action in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(AlreadyClosed, match="Open the cache again"):
            action(cache)


SECRETS: dict[str, tuple[str, dict[str, Any]]] = {
    "secret": ("s3://bucket/p", {"key": "AKIAIOSFODNN7EXAMPLE", "secret": "not-to-be-seen"}),
    "token": ("s3://bucket/p", {"token": "not-to-be-seen"}),
    "nested": ("s3://bucket/p", {"client_kwargs": {"aws_secret_access_key": "not-to-be-seen"}}),
    "in a list": ("s3://bucket/p", {"headers": [{"Authorization": "Bearer not-to-be-seen"}]}),
    "account key": ("abfs://container@account.dfs.core.windows.net/p", {"account_key": "not-to-be-seen"}),
    "user in the URL": ("sftp://user:not-to-be-seen@host/p", {}),
}


@pytest.mark.parametrize("name", SECRETS)
def test_credentials_are_never_pickled(tmp_path: Path, name: str) -> None:
    """Pickling is refused with what to do; a copy in the same process needs no plain text."""
    remote, options = SECRETS[name]
    # Offline: the file system, whose package may be missing, is not opened.
    cache = EmbeddingCache(tmp_path, remote=remote, storage_options=options, offline=True)
    with pytest.raises(ConfigurationError, match=r"Open it in the worker") as refused:
        pickle.dumps(cache)
    assert "not-to-be-seen" not in str(refused.value)
    with copy.deepcopy(cache) as again:
        assert again.repository.url == cache.repository.url  # type: ignore[union-attr]


def test_objects_of_this_process_are_refused(tmp_path: Path) -> None:
    """A session or a credential object means nothing elsewhere."""
    options = {"session": object(), "profile": "team"}
    cache = EmbeddingCache(tmp_path, remote="s3://bucket/p", storage_options=options, offline=True)
    with pytest.raises(ConfigurationError, match=r"session are objects of this process.*Open it in the worker"):
        pickle.dumps(cache)


def test_options_without_secrets_travel(tmp_path: Path) -> None:
    """Profiles, regions and endpoints name no secret; the other process finds the credentials itself."""
    options = {"profile": "team", "anon": False, "client_kwargs": {"region_name": "eu-central-1"}}
    cache = EmbeddingCache(tmp_path, remote="s3://bucket/p", storage_options=options, offline=True)
    pickled = pickle.dumps(cache)
    again = pickle.loads(pickled)
    assert pickle.dumps(again) == pickled
    assert again.repository.url == "s3://bucket/p"


def test_a_storage_of_one_process_is_refused(tmp_path: Path) -> None:
    """memory:// is empty in every other process; so is a repository that was put into the cache by hand."""
    cache = EmbeddingCache(tmp_path / "a", remote="memory://somewhere", push="manual")
    with pytest.raises(ConfigurationError, match="one process only"):
        pickle.dumps(cache)
    cache = EmbeddingCache(tmp_path / "b", remote=tmp_path / "r", push="manual")
    cache.repository = Repository(Memory())
    with pytest.raises(ConfigurationError, match=r"was replaced.*Open it in the worker"):
        pickle.dumps(cache)


def test_a_local_cache_does_not_get_the_remote_of_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings of the worker name one: its rows would go where the parent's do not."""
    with EmbeddingCache(tmp_path / "mirror") as cache:
        pickled = pickle.dumps(cache)
    monkeypatch.setenv("CAS_CACHE_REMOTE", str(tmp_path / "remote"))
    with pytest.raises(ConfigurationError, match="Open it in the worker"):
        pickle.loads(pickled)


def test_a_mirror(tmp_path: Path) -> None:
    """It is opened again; one that is closed, or deleted since, is not."""
    mirror = Mirror(tmp_path / "m")
    pickled = pickle.dumps(mirror)
    assert pickle.loads(pickled).directory == copy.deepcopy(mirror).directory == mirror.directory
    mirror.close()
    with pytest.raises(AlreadyClosed):
        pickle.dumps(mirror)
    (tmp_path / "m").rename(tmp_path / "elsewhere")
    with pytest.raises(NotAMirror):
        pickle.loads(pickled)
    assert not (tmp_path / "m").exists()


JOBLIB = """
import sys
from joblib import Parallel, delayed
from cas_cache import EmbeddingCache, EncoderSpec
import numpy as np
def encode(cache, number):
    spec = EncoderSpec(model="org/model", revision="a1b2c3d")
    return cache.encode([f"text {number}"], spec, lambda texts: np.array([[len(t)] for t in texts], np.float32)).item()
with EmbeddingCache(sys.argv[1], remote=sys.argv[2]) as cache:
    print(Parallel(n_jobs=2)(delayed(encode)(cache, 10 ** number) for number in range(4)))
"""


@pytest.mark.verify
def test_joblib(tmp_path: Path) -> None:
    """Its processes are loky's, and functions of a script travel with cloudpickle."""
    pytest.importorskip("joblib")
    script = tmp_path / "script.py"
    script.write_text(JOBLIB)
    run = [sys.executable, str(script), str(tmp_path / "mirror"), str(tmp_path / "remote")]
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    done = subprocess.run(run, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[6.0, 7.0, 8.0, 9.0]"
    assert rows_of(tmp_path / "remote") == 4


def test_dill_gives_the_same_fingerprint(tmp_path: Path) -> None:
    """`datasets` reuses the result of a map whose function hashes the same."""
    hasher = pytest.importorskip("datasets.fingerprint").Hasher
    with EmbeddingCache(tmp_path / "mirror") as cache:

        def embed(batch: list[str]) -> Any:
            return cache.encode(batch, SPEC, truth)

        before = hasher.hash(embed)
        embed(MANY)
        assert hasher.hash(embed) == before
