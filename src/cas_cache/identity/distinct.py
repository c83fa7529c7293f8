"""Find equal keys in a batch. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def first_of_each(keys: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first position of each distinct key, in order of first appearance, and each key's distinct key.

    Args:
        keys: (n, 32) uint8 keys.

    Returns:
        (u,) int64 positions, ascending, and (n,) int64, the index of each key's distinct key.
    """
    _, first, inverse = np.unique(prefixes_of(keys), return_index=True, return_inverse=True)
    if not np.array_equal(keys[first[inverse]], keys):
        # Two keys share 8 bytes. By chance this happens to one in 2**64 pairs, so this slow path is almost never taken.
        seen: dict[bytes, int] = {}
        inverse = np.array([seen.setdefault(key.tobytes(), len(seen)) for key in keys], np.int64)
        first = np.unique(inverse, return_index=True)[1]
    order = np.argsort(first, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return first[order].astype(np.int64), rank[inverse]


def prefixes_of(keys: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the first 8 bytes of each key as one number."""
    prefixes: NDArray[np.uint64] = np.ascontiguousarray(keys[:, :8]).view(np.uint64).reshape(-1)
    return prefixes
