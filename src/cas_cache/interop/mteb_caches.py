"""Read mteb's own caches: `NumpyCache`, 1.x's `TextVectorMap`, whose files are identical in format, and `FaissCache`.

NumpyCache's ``vectors.npy`` is not a ``.npy`` file: it is raw float32, row after row, allocated for 100,000 rows and
doubled when full. Rows that were never stored are zero. Only the file ``dimension`` has the length of a row.

FaissCache is a flat FAISS index. Its `add` gives the i-th item of a call the row ``rows before + i``, but stores
nothing for an item that it already has. After a duplicate, every later key of the call names the row after its own.
This can always be detected: the first row number that a duplicate skips is below the start of the next call, so no key
ever gets it. The rows of such a folder are therefore not 0, 1, ..., n - 1, each once.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from cas_cache.errors import MissingDependency
from cas_cache.files.disk import mapped
from cas_cache.interop.folders import (
    DIMENSION,
    FAISS_VECTORS,
    NUMPY_VECTORS,
    Broken,
    OldRows,
    read_index,
    stamp_of,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

MAX_DIMENSION = 10**6

MAX_NUMBER_BYTES = 64
"""Maximum number of bytes that are read of the file `dimension`."""

FLAT = {b"IxF2", b"IxFI"}
"""First bytes of files with a flat index: Euclidean, which mteb writes, and inner product."""

HEADER = struct.Struct("<4siqqq?iq")
"""Kind, dimension, number of rows, two unused numbers, trained, metric, and the number of float32 that follow."""


def read_faiss_cache(folder: Path) -> OldRows | Broken:
    """Return the rows of a folder, or the reason why none of them can be trusted.

    Raises:
        MissingDependency: If faiss is not installed.
    """
    try:
        import faiss
    except ImportError as err:
        raise MissingDependency.of_package(f"{folder} is a FAISS cache; reading it", "faiss-cpu") from err
    stamp = stamp_of(folder)
    index = read_index(folder)
    if isinstance(index, Broken):
        return index
    names, at = index
    problem = _header_problem(folder / FAISS_VECTORS)
    if problem is not None:
        return Broken(problem, len(names))
    try:
        vectors = faiss.read_index(str(folder / FAISS_VECTORS))
    except RuntimeError as err:
        return Broken(f"{FAISS_VECTORS} is cut or damaged ({str(err).splitlines()[0]})", len(names))
    if vectors.ntotal != len(names):
        return Broken(f"{FAISS_VECTORS} has {vectors.ntotal} rows for {len(names)} keys", len(names))
    if not np.array_equal(np.sort(at), np.arange(len(at))):
        return Broken(
            "its keys name other texts' vectors: mteb's FaissCache shifts rows after a duplicate in one call",
            len(names),
        )

    def take(indices: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.asarray(vectors.reconstruct_batch(indices), np.float32)

    return OldRows(names, at, int(vectors.ntotal), int(vectors.d), take, stamp)


def _header_problem(path: Path) -> str | None:
    """Return the reason why a file is not a complete flat index; None if it is one.

    faiss trusts what a file declares: it would allocate any number of rows, and follow a graph wherever it leads.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEADER.size)
            size = file.seek(0, 2)
    except OSError as err:
        return f"{FAISS_VECTORS} cannot be read ({err})"
    if len(head) < HEADER.size:
        return f"{FAISS_VECTORS} is cut or damaged ({size} bytes)"
    code, dimension, rows, _, _, trained, _, count = HEADER.unpack(head)
    if code not in FLAT:
        return f"{FAISS_VECTORS} is not a flat index but of the kind {code!r}, which mteb never writes, or damaged"
    plausible = 0 < dimension <= MAX_DIMENSION and rows >= 0 and trained
    if not plausible or count != rows * dimension or size != HEADER.size + 4 * count:
        return f"{FAISS_VECTORS} is cut or damaged ({size} bytes for {rows} rows of {dimension} float32)"
    return None


def read_numpy_cache(folder: Path) -> OldRows | Broken:
    """Return the rows of a folder, or the reason why none of them can be trusted."""
    stamp = stamp_of(folder)
    index = read_index(folder)
    if isinstance(index, Broken):
        return index
    names, at = index
    dimension = _dimension(folder)
    if dimension is None:
        return Broken(f"the file {DIMENSION} is missing or holds no length of a vector", len(names))
    if not (folder / NUMPY_VECTORS).is_file():
        return Broken(f"it has no {NUMPY_VECTORS}", len(names))
    size = (folder / NUMPY_VECTORS).stat().st_size
    rows, rest = divmod(size, 4 * dimension)
    if rest or not rows:
        return Broken(
            f"{NUMPY_VECTORS} has {size} bytes, which are not whole rows of {dimension} float32: the file is cut, or "
            f"{DIMENSION} is another cache's",
            len(names),
        )
    try:
        with (folder / NUMPY_VECTORS).open("rb") as file:
            vectors = mapped(file, "<f4", "r", 0, (rows, dimension))
    except OSError as err:
        return Broken(f"{NUMPY_VECTORS} cannot be read ({err})", len(names))

    def take(indices: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.asarray(vectors[indices], np.float32)

    return OldRows(names, at, rows, dimension, take, stamp)


def _dimension(folder: Path) -> int | None:
    try:
        with (folder / DIMENSION).open("rb") as file:
            dimension = int(file.read(MAX_NUMBER_BYTES).decode())
    except (OSError, ValueError):
        return None
    return dimension if 0 < dimension <= MAX_DIMENSION else None
