"""Rows that can be searched: those of a namespace of the mirror, or of an array in memory."""

from __future__ import annotations

import hashlib
import weakref
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cas_cache.errors import ConfigurationError, MirrorError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cas_cache.mirror import Namespace

SEARCHED_DTYPES = ("float16", "float32", "float64", "int8", "uint8")
"""Dtypes of vectors that can be compared as numbers."""


class Rows(Protocol):
    """Rows that can be searched."""

    @property
    def vectors(self) -> NDArray[Any]:
        """The current vectors, (n, d); may be a memory map."""

    def verify(self, rows: NDArray[np.int64] | slice) -> None:
        """Verify rows; raise `DamagedMirror` if one differs from what was stored."""

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return the verified vectors of rows."""

    def fingerprint(self, count: int) -> str | None:
        """Return a string that identifies the first `count` rows; None if there are fewer."""


class NamespaceRows:
    """Rows of a namespace of the mirror. They keep their row numbers while this object lives."""

    def __init__(self, namespace: Namespace) -> None:
        namespace.hold()
        weakref.finalize(self, namespace.release).atexit = False
        self._namespace = namespace
        self.verify = namespace.verify
        self.take = namespace.take

    def __repr__(self) -> str:
        return f"NamespaceRows({self._namespace!r})"

    @property
    def vectors(self) -> NDArray[Any]:
        """Mapped vectors, (n, d), including rows that other processes have committed."""
        ns = self._namespace
        ns.refresh()
        if not ns.rows:
            raise MirrorError(
                f"The namespace {ns.spec.namespace} ({ns.spec.model}) holds no rows to search. Pull, or encode first."
            )
        return next(ns.columns(ns.rows))[2]

    def fingerprint(self, count: int) -> str | None:
        """Return a hash of the rows' digests, which cover keys and vectors; None if there are fewer rows."""
        if not 0 < count <= self._namespace.rows:
            return None
        digests = next(self._namespace.columns(count))[3]
        return hashlib.sha256(np.ascontiguousarray(digests).data).hexdigest()


class ArrayRows:
    """Rows of an array, which must not change."""

    def __init__(self, vectors: NDArray[Any]) -> None:
        self.vectors = vectors
        self._fingerprints: dict[int, str] = {}

    def __repr__(self) -> str:
        return f"ArrayRows({self.vectors.dtype}, {self.vectors.shape})"

    def verify(self, rows: NDArray[np.int64] | slice) -> None:
        """Do nothing: an array in memory has no digests to verify."""

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return the (n, d) vectors of (n,) rows."""
        taken: NDArray[Any] = self.vectors[rows]
        return taken

    def fingerprint(self, count: int) -> str | None:
        """Return a hash of the first rows' bytes; None if there are fewer rows."""
        if not 0 < count <= len(self.vectors):
            return None
        if count not in self._fingerprints:
            first = np.ascontiguousarray(self.vectors[:count])
            header = f"{first.dtype.str} {first.shape} ".encode()
            self._fingerprints[count] = hashlib.sha256(header + hashlib.sha256(first.data).digest()).hexdigest()
        return self._fingerprints[count]


def check_searchable(vectors: NDArray[Any]) -> None:
    """Reject rows that have no distance to a query.

    Raises:
        ConfigurationError: If they are not (n, d), or their dtype is not in `SEARCHED_DTYPES`.
    """
    if vectors.ndim != 2:
        raise ConfigurationError(
            f"A vector of this namespace has the shape {vectors.shape[1:]}; only plain vectors of one dimension can "
            "be searched."
        )
    if vectors.dtype.name not in SEARCHED_DTYPES:
        raise ConfigurationError(
            f"Vectors of {vectors.dtype} cannot be searched; of {', '.join(SEARCHED_DTYPES)} they can. Search the "
            "namespace of the float vectors."
        )
