"""mteb's `FaissCache`: a flat FAISS index beside an ``index.json``.

Its `add` gives the i-th item of a call the row ``rows before + i``, but stores nothing for an item that is there
already: after a duplicate, every later key of the call names the row after its own. That always shows. The first row
number that a duplicate skips is below where the next call starts, so no key ever gets it: the rows of a folder where
this happened are not 0, 1, ..., n - 1, each once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cas_cache.errors import MissingDependency
from cas_cache.exchange.folders import FAISS_VECTORS, Broken, OldRows, read_index, stamp_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def read_faiss_cache(folder: Path) -> OldRows | Broken:
    """Return what a folder's files say, or why nothing of it can be trusted.

    Raises:
        MissingDependency: If faiss is not installed.
    """
    try:
        import faiss
    except ImportError as err:
        raise MissingDependency(
            f"{folder} is a FAISS cache; reading it needs faiss, which is not installed. Do: pip install faiss-cpu"
        ) from err
    stamp = stamp_of(folder)
    index = read_index(folder)
    if isinstance(index, Broken):
        return index
    names, at = index
    try:
        vectors = faiss.read_index(str(folder / FAISS_VECTORS))
    except RuntimeError as err:
        return Broken(f"{FAISS_VECTORS} is cut or damaged ({str(err).splitlines()[0]})", len(names))
    if not isinstance(vectors, faiss.IndexFlat):
        return Broken(f"{FAISS_VECTORS} is a {type(vectors).__name__}, which mteb never writes", len(names))
    if vectors.ntotal != len(names):
        return Broken(f"{FAISS_VECTORS} has {vectors.ntotal} rows for {len(names)} keys", len(names))
    if not np.array_equal(np.sort(at), np.arange(len(at))):
        return Broken(
            "its keys name other texts' vectors: mteb's FaissCache shifts rows after a duplicate in one call",
            len(names),
        )

    def take(wanted: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.asarray(vectors.reconstruct_batch(wanted), np.float32)

    return OldRows(names, at, int(vectors.ntotal), int(vectors.d), take, stamp)
