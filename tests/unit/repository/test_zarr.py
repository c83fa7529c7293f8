"""Packs and zarr: the same bytes under every release, and groups and dask arrays that verify what they read."""

import builtins
import hashlib
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from cas_cache import EmbeddingCache
from cas_cache.errors import (
    CasCacheError,
    ConfigurationError,
    DamagedPack,
    DataWarning,
    MissingDependency,
    NotARepository,
    RepositoryError,
)
from cas_cache.format import layout
from cas_cache.format.manifest import Manifest
from cas_cache.format.rows import DTYPES
from cas_cache.format.zarr_metadata import zarr_documents
from cas_cache.identity import keys_of_texts
from cas_cache.repository import Repository, pack
from cas_cache.repository.compacting import compact
from cas_cache.storage import open_storage
from storages import OTHER_SPEC, SPEC, Machine, Memory, packs, repository_of, texts, truth

NAMESPACE = "0123456789abcdef0123456789abcdef"

# Of the bytes that zarr 3.1.6 wrote for `manifest_of(dtype)`: all four documents, in order of their names.
GOLDEN = {
    "bool": "ba4bf72f7380f0ba776911a3e6152f7f65b190eb9edf9dc06d509321501c8299",
    "float16": "dd73bb62be7006773380a541e08683af3056eaaf86c067ed84096db35daa3430",
    "float32": "498fda3324d49846bbe3f99d9cb620bb297db258c603461311281c0f440b05e8",
    "float64": "635ac000e12bf86a03640b68df0c0bbaca480bb87902cbfd9e2eaa3419f2efcb",
    "int16": "bd7f08ed34c935b216a3c0ff2d108d12bd87969698d9332ccfb1aaa5561d37e6",
    "int32": "f56a5a7ca06dd1cbae164eb6a2edfb8a62cd02ecc09b0c04a45d2ca0934af167",
    "int64": "30ea589c70b225466c14a3af6a3e934ae57e513e04516bf3d2b81e3d3386162f",
    "int8": "a5609c5252803b2aa21920ff0e36d8f87ff53de05560f794624b4c03c17bd0e7",
    "uint16": "04a2a67bc7f5fdbb7d02f89132d383538d2e476bc092f3bcabe1723dec559ab9",
    "uint32": "166e16425cc575898e3b10a5f595273b3aac9fec887e94a2b05e19e159b11261",
    "uint64": "87074620dd02a68f1e91c62aedf9dd68d04f3bd6bb4128ed11b4687150b3e711",
    "uint8": "8670ad19e175057a39d773519011983ca54568a202c22daacd60da0dd265dbbf",
}


def manifest_of(dtype: str, shape: tuple[int, ...] = (2, 3)) -> Manifest:
    chunk_rows = {"keys": 3, "vectors": 5, "digests": 7}
    return Manifest(
        namespace=NAMESPACE, rows=7, dtype=dtype, shape=shape, chunk_rows=chunk_rows, objects={}, nonce="0" * 32
    )


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make chunks of 96 bytes: 6 vectors of 4 float32."""
    monkeypatch.setattr(pack, "CHUNK_BYTES", 96)


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    """A repository with two packs of 10 rows."""
    return repository_of(tmp_path / "author", texts(10), texts(10, 10))


def chunks_of(memory: Memory, pack_id: str) -> list[str]:
    return sorted(path for path in memory.objects if pack_id in path and "/vectors/c" in path)


# Metadata ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_the_metadata_is_what_zarr_3_1_6_wrote(dtype: str) -> None:
    """Byte for byte, whatever zarr is installed, and even if none is."""
    documents = zarr_documents(manifest_of(dtype))
    assert list(documents) == ["digests/zarr.json", "keys/zarr.json", "vectors/zarr.json", "zarr.json"]
    assert hashlib.sha256(b"".join(documents.values())).hexdigest() == GOLDEN[dtype]


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("shape", [(1,), (3,), (2, 3)])
def test_the_installed_zarr_reads_the_metadata_as_it_is_meant(dtype: str, shape: tuple[int, ...]) -> None:
    """Shape, chunks, dtype, order of bytes, fill value and attributes."""
    manifest = manifest_of(dtype, shape)
    store: Any = zarr.storage.MemoryStore(
        {name: zarr.core.buffer.cpu.Buffer.from_bytes(data) for name, data in zarr_documents(manifest).items()}
    )
    group = zarr.open_group(store, mode="r")
    assert dict(group.attrs) == {"namespace": NAMESPACE}
    assert sorted(group.array_keys()) == ["digests", "keys", "vectors"]
    vectors: Any = group["vectors"]
    assert (vectors.shape, vectors.chunks, vectors.dtype) == ((7, *shape), (5, *shape), np.dtype(dtype))
    assert (vectors.compressors, vectors.filters, vectors.shards) == ((), (), None)
    assert vectors.fill_value == 0


def test_no_pack_is_written_or_read_by_zarr(tmp_path: Path) -> None:
    """A push and a pull in a process that cannot import zarr."""
    code = (
        "import sys; sys.modules['zarr'] = None\n"
        "from cas_cache import EmbeddingCache, EncoderSpec\n"
        "spec = EncoderSpec(model='m/m', revision='1')\n"
        "with EmbeddingCache('a', remote='./r') as cache: cache.put(['x'], [[1.0, 2.0]], spec)\n"
        "with EmbeddingCache('b', remote='./r') as cache: print(cache.get(['x'], spec)[0].tolist())\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout == "[[1.0, 2.0]]\n"


# open_zarr -----------------------------------------------------------------------------------------------------------


def test_packs_open_as_groups(memory: Memory) -> None:
    """In the order in which they were pushed, named by their ids, with the right rows, and read-only."""
    groups = Repository(memory).open_zarr(SPEC.namespace)
    assert all(isinstance(group, zarr.Group) for group in groups)
    assert sorted(group.basename for group in groups) == sorted(name for _, name in packs(memory))
    every = [np.concatenate([np.asarray(group[name]) for group in groups]) for name in ("keys", "vectors")]
    np.testing.assert_array_equal(every[0], keys_of_texts(texts(20)))
    np.testing.assert_array_equal(every[1], truth(texts(20)))
    group = groups[0]
    assert group.attrs["namespace"] == SPEC.namespace
    assert sorted(group.array_keys()) == ["digests", "keys", "vectors"]
    vectors: Any = group["vectors"]
    np.testing.assert_array_equal(vectors[3:8], truth(texts(10))[3:8])
    with pytest.raises(ValueError, match="read-only"):
        vectors[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        group.create_group("more")


def test_groups_of_a_directory_and_of_a_cache(tmp_path: Path) -> None:
    """The repository of a cache has the same method; other namespaces have groups of their own."""
    with EmbeddingCache(tmp_path / "mirror", remote=str(tmp_path / "remote")) as cache:
        cache.put(texts(3), truth(texts(3)), SPEC)
        cache.put(texts(5), truth(texts(5)), OTHER_SPEC)
        cache.push()
        assert cache.repository is not None
        (group,) = cache.repository.open_zarr(SPEC.namespace)
        np.testing.assert_array_equal(np.asarray(group["vectors"]), truth(texts(3)))
    (other,) = Repository(open_storage(str(tmp_path / "remote"))).open_zarr(OTHER_SPEC.namespace)
    np.testing.assert_array_equal(np.asarray(other["vectors"]), truth(texts(5)))


@pytest.mark.parametrize("how", ["flipped", "cut", "deleted"])
def test_a_damaged_chunk_is_an_error_and_never_zeros(memory: Memory, how: str) -> None:
    """Zarr alone reads a chunk that was deleted as zeros; the other chunks are still read."""
    group = Repository(memory).open_zarr(SPEC.namespace)[0]
    path = chunks_of(memory, group.basename)[0]
    data = memory.objects[path]
    if how == "deleted":
        del memory.objects[path]
    else:
        memory.objects[path] = data[:-1] if how == "cut" else bytes([data[0] ^ 1]) + data[1:]
    vectors: Any = group["vectors"]
    with pytest.raises(DamagedPack) as caught:
        vectors[:]
    assert caught.value.pack == group.basename
    np.testing.assert_array_equal(vectors[5:], truth(texts(10))[5:])


def test_a_merge_stands_for_the_packs_that_it_supersedes(memory: Memory) -> None:
    """No row twice while both are visible; if the merge cannot be read, its sources."""
    (merge,) = compact(Repository(memory), at_least=2).written
    assert len(packs(memory)) == 3
    (group,) = Repository(memory).open_zarr(SPEC.namespace)
    assert group.basename == merge
    memory.objects[layout.manifest_path(SPEC.namespace, merge)] = b"{}"
    with pytest.warns(DataWarning, match="1 packs of"):
        groups = Repository(memory).open_zarr(SPEC.namespace)
    assert len(groups) == 2
    assert merge not in {group.basename for group in groups}


def test_packs_of_another_shape_are_skipped(memory: Memory, tmp_path: Path) -> None:
    """As a pull skips them, with a warning that names one."""
    other = Machine(tmp_path / "other", memory)
    other.mirror.namespace(SPEC).append(keys_of_texts(["wide"]), truth(["wide"], width=6))
    other.push()
    with pytest.warns(DataWarning, match="another dtype or shape"):
        assert len(Repository(memory).open_zarr(SPEC.namespace)) == 2


def test_what_cannot_be_opened(memory: Memory) -> None:
    """A wrong id, no repository, no packs."""
    repository = Repository(memory)
    for wrong in ("", "org/model", SPEC.namespace.upper(), "../specs"):
        with pytest.raises(ConfigurationError, match="is not a namespace id"):
            repository.open_zarr(wrong)
    with pytest.raises(NotARepository):
        Repository(Memory()).open_zarr(SPEC.namespace)
    assert repository.open_zarr("0" * 32) == []
    with pytest.raises(RepositoryError, match="has no packs"):
        repository.open_dask("0" * 32)


# open_dask -----------------------------------------------------------------------------------------------------------


def test_vectors_as_one_dask_array(memory: Memory) -> None:
    """The rows of all packs, chunk by chunk, in the order of `open_zarr`; its name stands for its contents."""
    repository = Repository(memory)
    array = repository.open_dask(SPEC.namespace)
    assert (array.shape, array.dtype, array.chunks) == ((20, 4), np.dtype("float32"), ((5, 5, 5, 5), (4,)))
    np.testing.assert_array_equal(array.compute(scheduler="threads"), truth(texts(20)))
    np.testing.assert_array_equal(array.sum(axis=0).compute(scheduler="sync"), truth(texts(20)).sum(axis=0))
    assert array.name == Repository(memory).open_dask(SPEC.namespace).name


def test_a_damaged_chunk_fails_a_computation(memory: Memory) -> None:
    """With the typed error, through dask."""
    array = Repository(memory).open_dask(SPEC.namespace)
    del memory.objects[chunks_of(memory, packs(memory)[0][1])[1]]
    with pytest.raises(DamagedPack, match="Nothing was filled in"):
        array.compute(scheduler="threads")


def test_without_dask_the_extra_is_named(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any request is made."""
    real = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.partition(".")[0] == "dask":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependency, match=r"cas-cache\[dask\]"):
        Repository(memory).open_dask(SPEC.namespace)


def test_packs_are_not_pickled(memory: Memory) -> None:
    """The connection belongs to this process, and the error says what to do."""
    group = Repository(memory).open_zarr(SPEC.namespace)[0]
    with pytest.raises(CasCacheError, match="in the other process"):
        pickle.dumps(group.store)


@pytest.mark.localstack
def test_a_bucket(s3_remote: Any, tmp_path: Path) -> None:
    """The same from S3."""
    author = Machine(tmp_path / "author", open_storage(s3_remote.url, s3_remote.storage_options))
    author.encode(texts(20))
    author.push()
    array = author.repository.open_dask(SPEC.namespace)
    np.testing.assert_array_equal(array.compute(scheduler="threads"), truth(texts(20)))
