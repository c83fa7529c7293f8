"""The formats of exported vectors: ``.npy`` files, mteb's `NumpyCache`, and Parquet."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.errors import MissingDependency
from cas_cache.identity import KEY_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from cas_cache.interop.exporting import Selection


def write_npy(selection: Selection, folder: Path) -> None:
    """Write ``vectors.npy``, ``keys.npy``, (n, 32) uint8, and the canonical ``spec.json`` to a new folder."""
    folder.mkdir()
    count = len(selection.rows)
    with (folder / "vectors.npy").open("xb") as vectors_file, (folder / "keys.npy").open("xb") as keys_file:
        _write_header(vectors_file, selection.dtype, (count, *selection.namespace.shape))
        _write_header(keys_file, np.dtype(np.uint8), (count, KEY_BYTES))
        for keys, vectors, _ in selection.chunks():
            vectors_file.write(_bytes(vectors))
            keys_file.write(_bytes(keys))
    (folder / "spec.json").write_bytes(selection.namespace.spec.canonical())


def write_mteb(selection: Selection, folder: Path) -> None:
    """Write a folder that mteb's `NumpyCache` opens, and ``spec.json``, which mteb ignores."""
    folder.mkdir()
    index: dict[str, int] = {}
    row = 0
    with (folder / "vectors.npy").open("xb") as file:
        for keys, vectors, _ in selection.chunks():
            index.update((key.tobytes().hex(), row + at) for at, key in enumerate(keys))
            row += len(keys)
            file.write(_bytes(vectors.astype("<f4")))
    (folder / "index.json").write_text(json.dumps(index, indent=2), "utf-8")
    (folder / "dimension").write_text(str(selection.namespace.shape[0]), "utf-8")
    (folder / "spec.json").write_bytes(selection.namespace.spec.canonical())


def write_parquet(selection: Selection, path: Path) -> None:
    """Write a Parquet file: one row per vector with ``key`` in hex, ``id`` if known, and ``vector`` of fixed size.

    The schema's metadata has the encoder spec's canonical JSON under ``cas_cache.spec``. Each chunk is a row group.
    """
    try:
        import pyarrow.parquet as pq
    except ImportError as err:
        raise MissingDependency.of_package("The format parquet", "pyarrow") from err
    schema = _schema(selection)
    # Keys never repeat, and numbers of vectors hardly do: a dictionary would cost more than it saves.
    options = {"compression": "zstd", "use_dictionary": False}
    with path.open("xb") as file, pq.ParquetWriter(file, schema, **options) as writer:
        for batch in _batches(selection, schema):
            writer.write_batch(batch)


def _schema(selection: Selection) -> Any:
    import pyarrow as pa

    spec = selection.namespace.spec
    number = pa.field("item", pa.from_numpy_dtype(selection.dtype), nullable=False)
    columns = [pa.field("key", pa.string(), nullable=False)]
    if selection.ids is not None:
        columns.append(pa.field("id", pa.string()))
    columns.append(pa.field("vector", pa.list_(number, selection.namespace.shape[0]), nullable=False))
    return pa.schema(columns, {"cas_cache.spec": spec.canonical(), "cas_cache.namespace": spec.namespace})


def _batches(selection: Selection, schema: Any) -> Iterator[Any]:
    import pyarrow as pa

    for keys, vectors, ids in selection.chunks():
        columns = [pa.array([key.tobytes().hex() for key in keys], pa.string())]
        if ids is not None:
            columns.append(pa.array(ids, pa.string()))
        numbers = pa.array(vectors.reshape(-1))
        columns.append(pa.FixedSizeListArray.from_arrays(numbers, type=schema.field("vector").type))
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _write_header(file: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, description)


def _bytes(array: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data
