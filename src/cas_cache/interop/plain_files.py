"""Files of vectors that need only NumPy to write: ``.npy``, mteb's `NumpyCache`, safetensors.

A safetensors file is 8 bytes of length, JSON, and the tensors as they are in memory. It is written without the
safetensors library, which needs all tensors in memory.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.identity import KEY_BYTES

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from cas_cache.interop.exporting import Selection

SAFETENSORS_TYPES = {
    "bool": "BOOL",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
}


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


def write_safetensors(selection: Selection, path: Path) -> None:
    """Write the tensors ``vectors`` and ``keys``, (n, 32) uint8, with the encoder spec in the metadata."""
    namespace, count = selection.namespace, len(selection.rows)
    shape = (count, *namespace.shape)
    end = math.prod(shape) * selection.dtype.itemsize
    header = {
        "__metadata__": {
            "format": "cas-cache-export",
            "namespace": namespace.spec.namespace,
            "spec": namespace.spec.canonical().decode(),
        },
        "vectors": {
            "dtype": SAFETENSORS_TYPES[selection.dtype.name],
            "shape": list(shape),
            "data_offsets": [0, end],
        },
        "keys": {"dtype": "U8", "shape": [count, KEY_BYTES], "data_offsets": [end, end + count * KEY_BYTES]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, vectors, _ in selection.chunks():
            file.write(_bytes(vectors))
        # Keys are only 32 bytes a row and mapped, so a second pass over them is cheaper than one over the vectors.
        keys = namespace.keys
        for start in range(0, count, 1 << 16):
            file.write(_bytes(keys[selection.rows[start : start + (1 << 16)]]))


def _write_header(file: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, description)


def _bytes(array: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data
