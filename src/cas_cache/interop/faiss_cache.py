"""mteb's `FaissCache`: a flat FAISS index beside an ``index.json``.

Its `add` gives the i-th item of a call the row ``rows before + i``, but stores nothing for an item that it already has.
After a duplicate, every later key of the call names the row after its own. This can always be detected: the first row
number that a duplicate skips is below the start of the next call, so no key ever gets it. The rows of such a folder are
therefore not 0, 1, ..., n - 1, each once.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from cas_cache.errors import MissingDependency
from cas_cache.interop.folders import FAISS_VECTORS, Broken, OldRows, read_index, stamp_of
from cas_cache.interop.numpy_cache import MAX_DIMENSION

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


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
