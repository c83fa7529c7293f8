"""Arrow and Parquet files: one row per vector with ``key`` in hex, ``id`` if known, and ``vector`` of fixed size.

The schema's metadata has the encoder spec's canonical JSON under ``cas_cache.spec``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cas_cache.errors import MissingDependency

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cas_cache.interop.exporting import Selection


def write_parquet(selection: Selection, path: Path) -> None:
    """Write a Parquet file with one row group per chunk."""
    _require_pyarrow("parquet")
    import pyarrow.parquet as pq

    schema = _schema(selection)
    # Keys never repeat, and numbers of vectors hardly do: a dictionary would cost more than it saves.
    options = {"compression": "zstd", "use_dictionary": False}
    with path.open("xb") as file, pq.ParquetWriter(file, schema, **options) as writer:
        for batch in _batches(selection, schema):
            writer.write_batch(batch)


def write_arrow(selection: Selection, path: Path) -> None:
    """Write an uncompressed Arrow IPC file (Feather version 2), which readers can map."""
    _require_pyarrow("arrow")
    import pyarrow as pa

    schema = _schema(selection)
    with path.open("xb") as file, pa.ipc.new_file(file, schema) as writer:
        for batch in _batches(selection, schema):
            writer.write_batch(batch)


def _require_pyarrow(format_name: str) -> None:
    try:
        import pyarrow as pa  # noqa: F401
    except ImportError as err:
        raise MissingDependency.of_package(f"The format {format_name}", "pyarrow") from err


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
