"""Read packs and verify what is read: complete objects by their SHA-256, rows by their digests.

Reading goes by the manifest: zarr's reader fills a missing chunk with zeros, here it is an error. A problem with a
single object is a problem of its pack only: an archive storage class, a disabled encryption key, another owner or a
policy for one name make one object unreadable. If the storage refuses every object, the credentials are wrong, and the
pull ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cas_cache.errors import AccessDenied, DamagedPack, ObjectNotFound, UnreadablePack
from cas_cache.format import layout
from cas_cache.format.layout import object_path
from cas_cache.format.manifest import ObjectRecord
from cas_cache.format.rows import digest_rows
from cas_cache.storage.threads import IN_FLIGHT, ordered_map

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from cas_cache.format.manifest import Manifest
    from cas_cache.storage.interface import Storage

GAP_BYTES = 1 << 17
"""Requested rows are read in one request if less than this lies between them. At 50 MB/s it takes 3 ms more, which is
less than the wait for another answer of an object storage."""

RANGE_BYTES = 4 << 20
"""Maximum length of a range, so that several are in flight at once and little is in memory."""

RANGES_IN_FLIGHT = 16


class PackChunk(NamedTuple):
    """Rows of a pack that were read and verified.

    Attributes:
        keys: (m, 32) uint8 keys.
        vectors: (m, *shape) vectors.
        digests: (m,) uint64 digests.
        stop: The row after the last of them.
    """

    keys: NDArray[np.uint8]
    vectors: NDArray[Any]
    digests: NDArray[np.uint64]
    stop: int


def read_column(storage: Storage, pack: str, manifest: Manifest, array: str) -> NDArray[Any]:
    """Return the keys, (rows, 32) uint8, or the digests, (rows,) uint64, of a pack, from verified objects.

    Raises:
        DamagedPack: If an object is missing, cannot be read, or fails verification.
        RemoteError: If the storage is unreachable or refuses a request.
    """
    chunks = ordered_map(lambda chunk: _read_chunk(storage, pack, manifest, array, chunk), manifest.chunks(array))
    return np.concatenate(list(chunks))


def read(
    storage: Storage, pack: str, manifest: Manifest, keys: NDArray[np.uint8], first: int = 0
) -> Iterator[PackChunk]:
    """Yield the rows of a pack from row `first` on, verified, one chunk at a time.

    Args:
        storage: The storage of the repository.
        pack: The id of the pack.
        manifest: The manifest of the pack.
        keys: The keys of the pack, from `read_column`.
        first: The row to begin at.

    Raises:
        DamagedPack: If an object is missing or fails verification, or a row does not match its digest.
        RemoteError: If the storage is unreachable or refuses a request.
    """
    digests = read_column(storage, pack, manifest, "digests")

    def fetch(chunk: tuple[str, int, int]) -> NDArray[Any]:
        name, start, stop = chunk
        vectors = _read_chunk(storage, pack, manifest, "vectors", chunk)
        where = f"{object_path(pack, name)} in {storage.url}"
        _verify_rows(where, pack, np.arange(start, stop), keys[start:stop], vectors, digests[start:stop])
        return vectors

    requested = [chunk for chunk in manifest.chunks("vectors") if chunk[2] > first]
    for (_, start, stop), vectors in zip(requested, ordered_map(fetch, requested), strict=True):
        skip = max(first - start, 0)
        yield PackChunk(keys[start + skip : stop], vectors[skip:], digests[start + skip : stop], stop)


class RowRange(NamedTuple):
    """Rows of one chunk that are read together.

    Attributes:
        name: Name of the chunk.
        first: First row of the chunk.
        start: First row to read.
        stop: The row after the last row to read.
        asked: Slice of the requested rows that the range contains.
    """

    name: str
    first: int
    start: int
    stop: int
    asked: slice


def plan_ranges(manifest: Manifest, rows: NDArray[np.int64]) -> list[RowRange]:
    """Choose the ranges of a pack's vectors to read for some of its rows. Pure.

    Rows that are close to each other are read together with the rows between them.

    Args:
        manifest: The manifest of the pack.
        rows: (n,) int64, ascending, distinct, each in [0, `manifest.rows`).
    """
    of_chunk = manifest.chunk_rows["vectors"]
    gap = max(1, GAP_BYTES // manifest.vector_bytes)
    longest = max(1, RANGE_BYTES // manifest.vector_bytes)
    chunks = manifest.chunks("vectors")
    ranges: list[RowRange] = []
    begin = 0
    for i in range(1, len(rows) + 1):
        if i < len(rows) and (
            rows[i] - rows[i - 1] <= gap
            and rows[i] // of_chunk == rows[begin] // of_chunk
            and rows[i] - rows[begin] < longest
        ):
            continue
        name, first, _ = chunks[int(rows[begin]) // of_chunk]
        ranges.append(RowRange(name, first, int(rows[begin]), int(rows[i - 1]) + 1, slice(begin, i)))
        begin = i
    return ranges


def read_rows(  # noqa: PLR0913 - rows are named by position, key and digest
    storage: Storage,
    pack: str,
    manifest: Manifest,
    rows: NDArray[np.int64],
    keys: NDArray[np.uint8],
    digests: NDArray[np.uint64],
    *,
    whole_chunks: bool = False,
) -> Iterator[PackChunk]:
    """Yield the vectors of some rows of a pack from ranged reads, each row verified by its digest.

    Args:
        storage: The storage of the repository.
        pack: The id of the pack.
        manifest: The manifest of the pack.
        rows: (n,) int64, ascending, distinct.
        keys: (n, 32) uint8, keys of these rows.
        digests: (n,) uint64, digests of these rows.
        whole_chunks: Read each chunk that has a requested row completely, and also verify its SHA-256.

    Yields:
        Parts of the requested rows, in order; `stop` counts the rows of all parts so far.

    Raises:
        DamagedPack: If an object is missing or too short, or a row does not match its digest.
        RemoteError: If the storage is unreachable or refuses a request.
    """
    dtype, shape = manifest.element_shape("vectors")
    size = manifest.vector_bytes

    def ranged(part: RowRange) -> NDArray[Any]:
        path = object_path(pack, part.name)
        begin, end = (part.start - part.first) * size, (part.stop - part.first) * size
        data = get_of_pack(storage, path, begin, end, pack=pack)
        if len(data) != end - begin:
            raise DamagedPack(
                f"{path} in {storage.url} is shorter than its manifest says. Nothing of it was taken.", pack=pack
            )
        return np.frombuffer(data, dtype).reshape(part.stop - part.start, *shape)

    def whole(part: RowRange) -> NDArray[Any]:
        return _read_chunk(storage, pack, manifest, "vectors", (part.name, part.start, part.stop))

    def fetch(part: RowRange) -> NDArray[Any]:
        read = whole(part) if whole_chunks else ranged(part)
        vectors = np.ascontiguousarray(read[rows[part.asked] - part.start])
        where = f"{object_path(pack, part.name)} in {storage.url}"
        _verify_rows(where, pack, rows[part.asked], keys[part.asked], vectors, digests[part.asked])
        return vectors

    ranges = _chunks_with(manifest, rows) if whole_chunks else plan_ranges(manifest, rows)
    in_flight = IN_FLIGHT if whole_chunks else RANGES_IN_FLIGHT
    for part, vectors in zip(ranges, ordered_map(fetch, ranges, in_flight=in_flight), strict=True):
        yield PackChunk(keys[part.asked], vectors, digests[part.asked], part.asked.stop)


def _verify_rows(
    where: str,
    pack: str,
    rows: NDArray[np.int64],
    keys: NDArray[np.uint8],
    vectors: NDArray[Any],
    digests: NDArray[np.uint64],
) -> None:
    """Raise an error if a row does not match its digest; `where` and `rows` say which rows these are."""
    wrong = np.flatnonzero(digest_rows(keys, vectors) != digests)
    if len(wrong):
        raise DamagedPack(
            f"{len(wrong)} rows of {where} do not agree with their digests, the first is row {rows[wrong[0]]}. None of "
            "these rows was taken.",
            pack=pack,
        )


def _chunks_with(manifest: Manifest, rows: NDArray[np.int64]) -> list[RowRange]:
    """Return the chunks that hold some of the rows, as ranges of all their rows."""
    ranges = []
    for name, start, stop in manifest.chunks("vectors"):
        begin, end = np.searchsorted(rows, [start, stop]).tolist()
        if begin < end:
            ranges.append(RowRange(name, start, start, stop, slice(begin, end)))
    return ranges


def _read_chunk(
    storage: Storage, pack: str, manifest: Manifest, array: str, chunk: tuple[str, int, int]
) -> NDArray[Any]:
    """Fetch one chunk, verify it and return its rows without the padding."""
    name, start, stop = chunk
    data = read_object(storage, pack, manifest, name)
    dtype, shape = manifest.element_shape(array)
    rows = np.frombuffer(data, dtype).reshape(manifest.chunk_rows[array], *shape)
    return rows[: stop - start]


def read_object(storage: Storage, pack: str, manifest: Manifest, name: str) -> bytes:
    """Return the content of an object that the manifest names, verified.

    Raises:
        DamagedPack: If the object is missing or fails verification.
        RemoteError: If the storage is unreachable or refuses a request.
    """
    path, record = object_path(pack, name), manifest.objects[name]
    data = get_of_pack(storage, path, 0, record.size, pack=pack)
    if ObjectRecord.of(data) != record:
        raise DamagedPack(
            f"{path} in {storage.url} does not have the content that its manifest names ({len(data)} of {record.size} "
            "bytes, or another SHA-256). Nothing of it was taken.",
            pack=pack,
        )
    return data


def get_of_pack(storage: Storage, path: str, start: int, stop: int, *, pack: str) -> bytes:
    """Return bytes [start, stop) of an object of a pack.

    Raises:
        DamagedPack: If the object is missing.
        UnreadablePack: If the storage refuses this object but not the repository.
        RemoteError: If the storage is unreachable or refuses everything.
    """
    try:
        return storage.get(path, start, stop)
    except ObjectNotFound as err:
        raise DamagedPack(f"{path} is missing from {storage.url}. Nothing was filled in.", pack=pack) from err
    except AccessDenied as err:
        # Is it this object only, or everything? The marker is the object that every client may read.
        if not may_read(storage):
            raise
        raise UnreadablePack(f"{path} may not be read, and the rest of the repository may. {err}", pack=pack) from err


def may_read(storage: Storage) -> bool:
    """Return True if the storage lets this client read the marker of the repository: 1 request.

    Raises:
        RemoteError: If the storage is unreachable.
    """
    try:
        storage.get(layout.MARKER, 0, 1)
    except (AccessDenied, ObjectNotFound):
        return False
    return True
