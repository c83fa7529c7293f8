"""Read mteb's `NumpyCache`, and 1.x's `TextVectorMap`, whose files are identical in format.

``vectors.npy`` is not a ``.npy`` file: it is raw float32, row after row, allocated for 100,000 rows and doubled when
full. Rows that were never stored are zero. Only the file ``dimension`` has the length of a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cas_cache.files.disk import mapped
from cas_cache.interop.folders import DIMENSION, NUMPY_VECTORS, Broken, OldRows, read_index, stamp_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

MAX_DIMENSION = 10**6

MAX_NUMBER_BYTES = 64
"""Maximum number of bytes that are read of the file `dimension`."""


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
