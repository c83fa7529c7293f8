"""Packs: any Zarr reader opens them, and damaged data is never read."""

import hashlib
import json
from typing import Any

import dask.array
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cas_cache.errors import DamagedPack
from cas_cache.format import layout
from cas_cache.format.manifest import Manifest
from cas_cache.format.rows import DTYPES, digest_rows, row_bytes, storable
from cas_cache.identity import keys_of_texts
from cas_cache.repository import Repository, pack, reading
from cas_cache.storage import open_storage
from storages import SPEC, Memory, manifest_of, packs, reseal, texts, truth

NONCE = "0" * 32


class Rows:
    """Rows for a pack, from arrays."""

    def __init__(self, names: list[str], vectors: NDArray[Any]) -> None:
        keys = keys_of_texts(names)
        vectors = storable(vectors, len(names))
        self.columns = {"keys": keys, "vectors": vectors, "digests": digest_rows(keys, vectors)}
        self.rows, self.dtype, self.shape = len(vectors), vectors.dtype, vectors.shape[1:]

    def column(self, array: str, start: int, stop: int) -> NDArray[Any]:
        return self.columns[array][start:stop]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make chunks of 96 bytes: 6 vectors of 4 float32, 3 keys, 12 digests."""
    monkeypatch.setattr(pack, "CHUNK_BYTES", 96)


def published(storage: Any, count: int = 10, dtype: str = "float32") -> str:
    return Repository(storage).publish(SPEC.namespace, Rows(texts(count), truth(texts(count), dtype)), NONCE)


def read_all(memory: Memory, namespace: str, name: str, first: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    repository, manifest = Repository(memory), manifest_of(memory, namespace, name)
    parts = list(repository.read(name, manifest, repository.keys(name, manifest), first))
    return np.concatenate([part.keys for part in parts]), np.concatenate([part.vectors for part in parts])


@pytest.mark.usefixtures("small_chunks")
def test_zarr_and_dask_read_a_local_pack(tmp_path: Any) -> None:
    """A pack opens with plain zarr and dask, including several padded chunks, and has the same numbers."""
    name = published(open_storage(str(tmp_path)))
    group = zarr.open_group(str(tmp_path / "packs" / name), mode="r")
    assert group.attrs["namespace"] == SPEC.namespace
    assert group["vectors"].chunks == (5, 4)
    assert group["keys"].chunks == (3, 32)
    np.testing.assert_array_equal(group["vectors"][:], truth(texts(10)))
    np.testing.assert_array_equal(group["keys"][:], keys_of_texts(texts(10)))
    np.testing.assert_array_equal(group["digests"][:], digest_rows(keys_of_texts(texts(10)), truth(texts(10))))
    lazy = dask.array.from_zarr(str(tmp_path / "packs" / name), component="vectors")
    assert lazy.numblocks == (2, 1)
    np.testing.assert_array_equal(lazy.sum(axis=0).compute(scheduler="sync"), truth(texts(10)).sum(axis=0))


@pytest.mark.usefixtures("small_chunks")
def test_zarr_and_dask_read_a_pack_on_s3(s3_remote: Any) -> None:
    """The same works with a bucket."""
    name = published(open_storage(s3_remote.url, s3_remote.storage_options))
    where = {"store": f"{s3_remote.url}/packs/{name}", "storage_options": s3_remote.storage_options}
    np.testing.assert_array_equal(zarr.open_group(**where, mode="r")["vectors"][:], truth(texts(10)))
    lazy = dask.array.from_zarr(
        where["store"], component="vectors", storage_options=s3_remote.storage_options, zarr_format=3
    )
    np.testing.assert_array_equal(lazy.compute(scheduler="sync"), truth(texts(10)))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("shape", [(1,), (3,), (2, 3)])
def test_every_dtype_and_shape_comes_back(dtype: str, shape: tuple[int, ...]) -> None:
    """Published rows read back bit for bit, with cas_cache and with zarr."""
    memory = Memory()
    vectors = np.random.default_rng(1).integers(0, 2, (7, *shape)).astype(dtype)
    Repository(memory).publish(SPEC.namespace, Rows(texts(7), vectors), NONCE)
    ((namespace, name),) = packs(memory)
    keys, got = read_all(memory, namespace, name)
    assert got.dtype == vectors.dtype
    np.testing.assert_array_equal(got, vectors)
    np.testing.assert_array_equal(keys, keys_of_texts(texts(7)))
    document = json.loads(memory.objects[f"packs/{name}/vectors/zarr.json"])
    assert (document["data_type"], document["shape"]) == (dtype, [7, *shape])


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("first", range(11))
def test_reading_goes_on_at_any_row(first: int) -> None:
    """Reading from row n yields the rows from n on, and fetches no earlier chunk."""
    memory = Memory()
    name = published(memory)
    keys, vectors = np.zeros((0, 32)), np.zeros((0, 4))
    if first < 10:
        keys, vectors = read_all(memory, SPEC.namespace, name, first)
    np.testing.assert_array_equal(keys, keys_of_texts(texts(10))[first:])
    np.testing.assert_array_equal(vectors, truth(texts(10))[first:])


def test_same_rows_and_nonce_make_the_same_pack() -> None:
    """The rows and the nonce determine a pack, byte for byte."""
    one, two, three = Memory(), Memory(), Memory()
    assert published(one) == published(two)
    one.objects.pop(layout.MARKER)
    two.objects.pop(layout.MARKER)
    assert one.objects == two.objects
    other = Repository(three).publish(SPEC.namespace, Rows(texts(10), truth(texts(10))), "1" * 32)
    assert other != packs(one)[0][1]


@pytest.mark.parametrize("rows", [1, 2, 5, 6, 7, 100, 1009])
@pytest.mark.parametrize("bytes_of_a_row", [1, 16, 95, 96, 97, 10_000])
@pytest.mark.usefixtures("small_chunks")
def test_chunks_are_even_and_bounded(rows: int, bytes_of_a_row: int) -> None:
    """Chunks hold at most CHUNK_BYTES (or one row), and padding is less than one row per chunk."""
    step = pack.rows_of_a_chunk(rows, bytes_of_a_row)
    chunks = -(-rows // step)
    assert step == 1 or step * bytes_of_a_row <= 96
    assert chunks * step - rows < max(chunks, 2)
    assert rows <= pack.most_rows_of_a_pack(bytes_of_a_row) or chunks > pack.CHUNKS_OF_A_PACK / 2


def test_the_last_chunk_is_padded_with_zeros(small_chunks: None) -> None:
    """Every object is a complete chunk, as Zarr requires, and the manifest says so."""
    memory = Memory()
    name = published(memory, 9)
    manifest = manifest_of(memory, SPEC.namespace, name)
    last = memory.objects[f"packs/{name}/vectors/c/1/0"]
    assert len(last) == manifest.chunk_rows["vectors"] * row_bytes(np.dtype("float32"), (4,))
    assert last[-16:] == bytes(16)
    for path, record in manifest.objects.items():
        content = memory.objects[layout.object_path(name, path)]
        assert (len(content), hashlib.sha256(content).hexdigest()) == (record.size, record.sha256)


@pytest.mark.usefixtures("small_chunks")
def test_only_the_row_digest_sees_rows_swapped_under_a_new_manifest() -> None:
    """With two rows swapped and every object hash corrected, only the row digests are left, and they detect it."""
    memory = Memory()
    name = published(memory)
    chunk = f"packs/{name}/vectors/c/1/0"
    data = memory.objects[chunk]
    memory.objects[chunk] = data[16:32] + data[:16] + data[32:]
    name = reseal(memory, SPEC.namespace, name)
    manifest = Repository(memory).manifest(SPEC.namespace, name)
    repository = Repository(memory)
    reader = repository.read(name, manifest, repository.keys(name, manifest))
    _, vectors, _, upto = next(reader)
    assert upto == 5
    np.testing.assert_array_equal(vectors, truth(texts(5)))
    with pytest.raises(
        DamagedPack, match=r"2 rows of .* do not agree with their digests, the first is row 5"
    ) as caught:
        next(reader)
    assert caught.value.pack == name


@pytest.mark.parametrize("array", ["keys", "digests", "vectors"])
def test_a_missing_object_is_said_to_be_missing(array: str) -> None:
    """A missing object is an error: nothing is filled in for it."""
    memory = Memory()
    name = published(memory)
    for path in [p for p in memory.objects if p.startswith(f"packs/{name}/{array}/c")]:
        del memory.objects[path]
    with pytest.raises(DamagedPack, match="is missing from memory"):
        read_all(memory, SPEC.namespace, name)


@pytest.mark.parametrize("array", ["keys", "digests", "vectors"])
def test_zeros_under_a_new_manifest_are_noticed(array: str) -> None:
    """An array filled with zeros never passes as vectors, even if all object hashes are right."""
    memory = Memory()
    name = published(memory)
    for path in [p for p in memory.objects if p.startswith(f"packs/{name}/{array}/c")]:
        memory.objects[path] = bytes(len(memory.objects[path]))
    name = reseal(memory, SPEC.namespace, name)
    with pytest.raises(DamagedPack, match="do not agree with their digests"):
        read_all(memory, SPEC.namespace, name)


# Some rows of a pack -------------------------------------------------------------------------------------------------


def some_rows(memory: Memory, name: str, rows: list[int]) -> NDArray[Any]:
    """Return rows of a pack of `texts`, read by ranges."""
    asked, manifest = np.array(rows, np.int64), manifest_of(memory, SPEC.namespace, name)
    repository = Repository(memory)
    digests = repository.digests(name, manifest)[asked]
    parts = list(repository.read_rows(name, manifest, asked, keys_of_texts([f"text {row}" for row in rows]), digests))
    assert [part.stop for part in parts] == np.cumsum([len(part.keys) for part in parts]).tolist()
    return np.concatenate([part.vectors for part in parts])


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("rows", [[0], [9], [4, 5], [0, 2, 9], list(range(10))])
def test_some_rows(rows: list[int]) -> None:
    """The rows are read by ranges of chunks, and are the requested ones."""
    memory = Memory()
    name = published(memory)
    np.testing.assert_array_equal(some_rows(memory, name, rows), truth([f"text {row}" for row in rows]))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("data", [b"", b"\0" * 95, b"\0" * 96])
def test_rows_of_a_damaged_object_are_refused(data: bytes) -> None:
    """Truncated or zero-filled objects are refused, whatever the manifest says."""
    memory = Memory()
    name = published(memory)
    memory.objects[f"packs/{name}/vectors/c/0/0"] = data
    np.testing.assert_array_equal(some_rows(memory, name, [7]), truth(["text 7"]))
    with pytest.raises(DamagedPack):
        some_rows(memory, name, [4, 7])


@given(
    rows=st.sets(st.integers(0, 4999), min_size=1, max_size=200),
    of_chunk=st.integers(1, 5000),
    width=st.integers(1, 4000),
)
def test_ranges_cover_what_was_asked_for(rows: set[int], of_chunk: int, width: int) -> None:
    """Each row is in exactly one range; ranges lie within a chunk and do not overlap; gaps and lengths are limited."""
    manifest = Manifest(
        namespace="0" * 32,
        rows=5000,
        dtype="float32",
        shape=(width,),
        chunk_rows={"vectors": of_chunk},
        objects={},
        nonce="0" * 32,
    )
    asked = np.array(sorted(rows), np.int64)
    ranges = reading.plan_ranges(manifest, asked)
    assert [row for part in ranges for row in asked[part.asked].tolist()] == asked.tolist()
    end = 0
    for part in ranges:
        mine = asked[part.asked]
        assert (part.start, part.stop) == (mine[0], mine[-1] + 1)
        assert part.start >= end
        end = part.stop
        number = part.start // of_chunk
        assert part.first == number * of_chunk
        assert part.stop <= part.first + of_chunk
        assert part.name == f"vectors/c/{number}/0"
        gap = max(1, reading.GAP_BYTES // (4 * width))
        assert (np.diff(mine) <= gap).all()
        assert part.stop - part.start <= max(1, reading.RANGE_BYTES // (4 * width))
    assert sum(part.stop - part.start for part in ranges) <= 5000
