"""The ``zarr.json`` documents that make a pack a Zarr v3 group. Pure.

A manifest names their hashes, so they are part of a pack's id. They are built here rather than by the installed zarr,
whose releases may write other members or another order: the same push makes the same pack with every release. The bytes
are those that zarr 3.1.6 writes.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from cas_cache.format.manifest import ARRAYS

if TYPE_CHECKING:
    import numpy as np

    from cas_cache.format.manifest import Manifest


def zarr_documents(manifest: Manifest) -> dict[str, bytes]:
    """Return the ``zarr.json`` of a pack's group and of its arrays, by their names below the pack, sorted."""
    documents: dict[str, Any] = {
        "zarr.json": {"attributes": {"namespace": manifest.namespace}, "zarr_format": 3, "node_type": "group"}
    }
    for array in ARRAYS:
        dtype, shape = manifest.element_shape(array)
        documents[f"{array}/zarr.json"] = _array_document(
            dtype, [manifest.rows, *shape], [manifest.chunk_rows[array], *shape]
        )
    return {name: json.dumps(document, indent=2).encode() for name, document in sorted(documents.items())}


def _array_document(dtype: np.dtype[Any], shape: list[int], chunk_shape: list[int]) -> dict[str, Any]:
    codec: dict[str, Any] = {"name": "bytes"}
    if dtype.itemsize > 1:
        codec["configuration"] = {"endian": "little"}
    return {
        "shape": shape,
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk_shape}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": dtype.type(0).item(),
        "codecs": [codec],
        "attributes": {},
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }
