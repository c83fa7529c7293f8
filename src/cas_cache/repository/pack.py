"""One pack: an immutable batch of rows as a Zarr v3 group, described and written without zarr.

A chunk *is* the bytes of its rows: no codec, no shard, one object, one PUT. zarr's own write path would take about 15
requests per pack.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cas_cache.format.manifest import ARRAYS, Manifest, ObjectRecord
from cas_cache.format.rows import row_bytes
from cas_cache.format.zarr_metadata import zarr_documents
from cas_cache.storage.threads import ordered_map

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

CHUNK_BYTES = 48 << 20
"""Maximum size of a chunk. s3fs and gcsfs upload in parts from 50 MiB on; below that, an object is one atomic PUT."""

CHUNKS_OF_A_PACK = 16
"""Maximum number of chunks of a pack: about 768 MiB of vectors, so that a billion rows are hundreds of packs."""


class PackRows(Protocol):
    """Rows to write as a pack, read by column so that only a few chunks are in memory."""

    rows: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def column(self, array: str, start: int, stop: int) -> NDArray[Any]:
        """Return rows [start, stop) of ``"keys"``, ``"vectors"`` or ``"digests"``."""
        ...


def rows_of_a_chunk(rows: int, bytes_of_a_row: int) -> int:
    """Return the rows of each chunk when `rows` rows are divided evenly, which leaves little padding at the end."""
    most = max(1, CHUNK_BYTES // bytes_of_a_row)
    chunks = -(-rows // most)
    return -(-rows // chunks)


def most_rows_of_a_pack(bytes_of_a_row: int) -> int:
    """Return the maximum number of rows of that size in a pack."""
    return CHUNKS_OF_A_PACK * max(1, CHUNK_BYTES // bytes_of_a_row)


def is_small(manifest: Manifest) -> bool:
    """Return True if a pack is small: less than half full, and not a merge, which is never merged again."""
    return not manifest.supersedes and manifest.rows < small_rows(manifest.vector_bytes)


def small_rows(bytes_of_a_row: int) -> int:
    """Return the number of rows of that size below which a pack is small."""
    return -(-most_rows_of_a_pack(bytes_of_a_row) // 2)


def describe(
    namespace: str, source: PackRows, nonce: str, supersedes: tuple[str, ...] = (), **optional: Any
) -> Manifest:
    """Return the manifest of the pack that `source` will become. Every object is built once, hashed and dropped.

    Args:
        namespace: The id of the namespace.
        source: The rows.
        nonce: Hex digits drawn for this pack.
        supersedes: The packs whose rows these are.
        **optional: `source_rows` and `appearance`, see `Manifest`.
    """
    sizes = {"keys": 32, "vectors": row_bytes(source.dtype, source.shape), "digests": 8}
    facts: dict[str, Any] = {
        "namespace": namespace,
        "rows": source.rows,
        "dtype": source.dtype.name,
        "shape": source.shape,
        "chunk_rows": {array: rows_of_a_chunk(source.rows, sizes[array]) for array in ARRAYS},
        "nonce": nonce,
        "supersedes": supersedes,
        **optional,
    }
    draft = Manifest(objects={}, **facts)
    objects = list(contents(draft, source))
    records = ordered_map(lambda item: ObjectRecord.of(item[1]()), objects)
    return Manifest(objects={name: record for (name, _), record in zip(objects, records, strict=True)}, **facts)


def contents(manifest: Manifest, source: PackRows) -> Iterator[tuple[str, Callable[[], bytes | memoryview]]]:
    """Yield (name, function that builds the content) for each object of a pack, metadata first."""
    for name, document in zarr_documents(manifest).items():
        yield name, lambda document=document: document  # type: ignore[misc]
    for array in ARRAYS:
        for name, start, stop in manifest.chunks(array):
            yield name, lambda a=array, b=start, e=stop: _chunk(manifest, source, a, b, e)  # type: ignore[misc]


def _chunk(manifest: Manifest, source: PackRows, array: str, start: int, stop: int) -> memoryview:
    """Return a chunk's bytes: the rows as they are, or a copy padded with zeros to a whole chunk, as Zarr requires."""
    dtype, shape = manifest.element_shape(array)
    rows = np.ascontiguousarray(source.column(array, start, stop), dtype)
    if stop - start < manifest.chunk_rows[array]:
        padded = np.zeros((manifest.chunk_rows[array], *shape), dtype)
        padded[: stop - start] = rows
        rows = padded
    return rows.reshape(-1).view(np.uint8).data.toreadonly()
