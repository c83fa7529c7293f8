"""`MirrorCache` and `FaissCache`: vectors by item, in a mirror, as mteb's `CacheBackendProtocol` asks for them.

`cas_cache.mteb.backend` makes them for mteb's own wrapper, ours takes them as ``cache_backend``. A vector is committed
when it is added. FAISS's index is derived from the mirror each time; what it answers is compared
with the mirror's row before it is an answer.
"""

from __future__ import annotations

import os
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.cache import EmbeddingCache
from cas_cache.errors import (
    CacheMiss,
    ConfigurationError,
    DamagedMirror,
    IdentityError,
    InvalidEncoderOutput,
    MirrorWriteError,
    MissingDependency,
)
from cas_cache.files.disk import TEMP_PREFIX, flush
from cas_cache.format.rows import as_array, row_bytes
from cas_cache.identity import Batch, EncoderSpec, keys_of_rows
from cas_cache.mirror.index import ABSENT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

BLOCK_BYTES = 32 << 20
"""Rows that are copied from the mirror into FAISS's index at a time."""


class MirrorCache:
    """Vectors by item, in a mirror; satisfies mteb's `CacheBackendProtocol`.

    Args:
        directory: A folder of its own. Of the mirror too, if no cache is given.
        spec: Whose vectors these are. `backend` finds it out.
        cache: The cache that holds the mirror; None opens one at `directory`.
        **options: As for `EmbeddingCache`, if no cache is given.

    Raises:
        IdentityError: If no spec is given: a folder does not say whose vectors it holds.
    """

    _finalizing = staticmethod(sys.is_finalizing)
    """mteb's wrapper closes in ``__del__``, even when modules are gone; what waited was pushed before that."""

    def __init__(
        self,
        directory: str | Path | None = None,
        *,
        spec: EncoderSpec | None = None,
        cache: EmbeddingCache | None = None,
        **options: Any,
    ) -> None:
        name = type(self).__name__
        if spec is None:
            raise IdentityError(
                f"{name} was given a folder, and not whose vectors it holds. Pass "
                f"cache_backend=cas_cache.mteb.backend(model, cls={name}) to mteb's wrapper, or spec= yourself."
            )
        if cache is not None and options:
            raise ConfigurationError(f"{', '.join(options)}: these belong to the cache. Pass them to its constructor.")
        self.spec = spec
        self.on_close: Callable[[], None] | None = None
        self._owns_cache = cache is None
        self._closed = False
        self.cache = EmbeddingCache(directory, **options) if cache is None else cache
        self.directory = self.cache.mirror.directory if directory is None else Path(directory)

    def __getstate__(self) -> dict[str, Any]:
        # Nobody counts the users of a copied cache, so closing a copy pushes its rows and leaves the cache open.
        return {**vars(self), "on_close": None}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.directory)!r}, namespace={self.spec.namespace})"

    def __contains__(self, item: Mapping[str, Any]) -> bool:
        return self._find(self._keys([item])) is not None

    def add(self, items: Sequence[Mapping[str, Any]], vectors: Any) -> None:
        """Store vectors, of any dtype, and commit. An item that is there, or stands twice, keeps its first vector.

        Args:
            items: n rows, with a text, image, audio or video.
            vectors: (n, d), or (d,) for one item. NaN and infinite ones are left out, with a `DataWarning`.

        Raises:
            InvalidEncoderOutput: If it is not one vector for each item.
            ShapeMismatch: If dtype or length are not those of the vectors that are there.
            MirrorWriteError: If the disk is full or refuses.
        """
        array = as_array(vectors)
        if array.ndim == 1 and len(items) == 1:
            array = array[np.newaxis]
        if array.ndim != 2:
            raise InvalidEncoderOutput(
                f"Vectors of shape {array.shape} came for {len(items)} items; expected ({len(items)}, d). Nothing of "
                "them was stored. Models with several vectors an item cannot be cached: evaluate them as they are."
            )
        keys = self._keys(items)
        self.cache.put(Batch(len(keys), lambda: keys), array, self.spec)

    def get_vector(self, item: Mapping[str, Any]) -> NDArray[Any] | None:
        """Return an item's vector, (d,), or None.

        Raises:
            CacheMiss: If it has none and the cache is `only_cached`.
            DamagedMirror: If it is not what was committed.
        """
        vector = self._find(self._keys([item]))
        if vector is None and self.cache.only_cached:
            raise CacheMiss(
                f"An item is not in the cache of {self.spec.model} (namespace {self.spec.namespace}), and "
                "only_cached=True forbids encoding it. Run once without only_cached, or pull.",
                missing=1,
            )
        return vector

    def save(self) -> None:
        """Do nothing: what was added is committed. Rows go up in the background, the rest at `close`."""

    def load(self) -> None:
        """Do nothing: the mirror is read where it is."""

    def close(self) -> None:
        """Push pending rows, if there is a remote and pushing is automatic, and close the cache if it is its own.

        A cache that was passed in stays open. A second call does nothing.
        """
        if self._closed or self._finalizing():
            return
        self._closed = True
        try:
            self.save()
        finally:
            if self._owns_cache:
                self.cache.close()
            elif self.on_close is not None:
                self.on_close()
            else:
                self.cache.flush()

    def _keys(self, items: Sequence[Mapping[str, Any]]) -> NDArray[np.uint8]:
        fields = [field for field in self.spec.fields if any(field in item for item in items)]
        return keys_of_rows({field: [item.get(field) for item in items] for field in fields}, self.spec.fields)

    def _find(self, keys: NDArray[np.uint8]) -> NDArray[Any] | None:
        try:
            vectors, found = self.cache.get(Batch(len(keys), lambda: keys), self.spec)
        except CacheMiss:  # of whole numbers, which have no NaN for a row that was not found
            return None
        return vectors[0] if found[0] else None


class FaissCache(MirrorCache):
    """A `MirrorCache` that answers from a flat FAISS index, and leaves it as a file for other tools.

    Row i of the index is row i of the namespace in the mirror, whatever was asked for twice. `save` and `close` write
    ``<namespace>.index`` to `directory`, and ``<namespace>.keys.npy``, the (n, 32) uint8 keys of its rows, for other
    use. They are not read: the index is made from the mirror's rows, proved by their digests. It takes the memory of
    all vectors of the namespace in float32.

    Args:
        directory: As for `MirrorCache`; the index's file goes there.
        spec: As for `MirrorCache`.
        cache: As for `MirrorCache`.
        **options: As for `MirrorCache`.

    Raises:
        IdentityError: If no spec is given.
        MissingDependency: If faiss is not installed.
    """

    def __init__(
        self,
        directory: str | Path | None = None,
        *,
        spec: EncoderSpec | None = None,
        cache: EmbeddingCache | None = None,
        **options: Any,
    ) -> None:
        self._faiss = require_faiss()
        super().__init__(directory, spec=spec, cache=cache, **options)
        self._index: Any = None
        self._saved = 0

    def __getstate__(self) -> dict[str, Any]:
        # A copy makes the index again from the mirror's rows.
        return {**super().__getstate__(), "_faiss": None, "_index": None, "_saved": 0}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _faiss=require_faiss())

    @property
    def index(self) -> Any:
        """The `faiss.IndexFlatL2` over all rows that are in the mirror now; None before the first.

        Raises:
            ConfigurationError: If float32, which FAISS holds, would round the vectors.
        """
        ns = self.cache.mirror.namespace(self.spec)
        ns.refresh()
        if ns.dtype is None or not ns.rows:
            return None
        if not np.can_cast(ns.dtype, np.float32, "safe") or len(ns.shape) != 1:
            raise ConfigurationError(
                f"{self.spec.model} has {ns.dtype} vectors of shape {ns.shape}; FAISS holds float32 of one axis, which "
                "would change them. They are in the mirror: use MirrorCache."
            )
        if self._index is None:
            self._index = self._faiss.IndexFlatL2(ns.shape[0])
        step = max(1, BLOCK_BYTES // row_bytes(np.dtype(np.float32), ns.shape))
        for first in range(self._index.ntotal, ns.rows, step):
            self._index.add(ns.take(slice(first, min(first + step, ns.rows))).astype(np.float32))
        return self._index

    def answer(self, keys: NDArray[np.uint8], vectors: NDArray[Any]) -> NDArray[Any]:
        """Return what the index holds for keys, which is what the mirror holds for them.

        Args:
            keys: (n, 32) uint8.
            vectors: (n, d), what the mirror answers.

        Raises:
            ConfigurationError: If float32, which FAISS holds, would round the vectors.
            DamagedMirror: If the two differ in any bit. Nothing is returned.
        """
        rows = self.cache.mirror.namespace(self.spec).find(keys)
        there = rows != ABSENT  # NaN is never stored
        index = self.index
        if index is None or not there.any():
            return vectors
        answer = vectors.copy()
        answer[there] = index.reconstruct_batch(rows[there]).astype(vectors.dtype)
        wrong = (bits_of(answer) != bits_of(vectors)).any(axis=1)
        if wrong.any():
            raise DamagedMirror(
                f"FAISS's index of {self.spec.model} (namespace {self.spec.namespace}) gives other vectors than the "
                f"mirror for {int(wrong.sum())} of {len(keys)} items. Nothing of it was served. Open the cache again, "
                "which rebuilds the index; if that does not help, use MirrorCache and report this."
            )
        return answer

    def save(self) -> None:
        """Write the index and its keys, if it has grown.

        Raises:
            MirrorWriteError: If the disk is full or refuses. No vector is lost by that.
        """
        index = self.index
        if index is None or index.ntotal == self._saved:
            return
        keys = self.cache.mirror.namespace(self.spec).keys[: index.ntotal]
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._write("keys.npy", lambda path: _save_array(path, keys))
            self._write("index", lambda path: self._faiss.write_index(index, str(path)))
        except (OSError, RuntimeError) as err:
            raise MirrorWriteError(
                f"Writing the FAISS index to {self.directory} failed ({err}). The vectors are in the mirror. Make room "
                "and close again, or use MirrorCache."
            ) from err
        self._saved = index.ntotal

    def _write(self, suffix: str, write: Callable[[Path], object]) -> None:
        """Write a file beside its place, and move it there whole."""
        temp = self.directory / f"{TEMP_PREFIX}{uuid.uuid4().hex}"
        try:
            write(temp)
            with temp.open("rb") as file:
                os.fsync(file.fileno())
            temp.replace(self.directory / f"{self.spec.namespace}.{suffix}")
            flush(self.directory)
        finally:
            temp.unlink(missing_ok=True)

    def _find(self, keys: NDArray[np.uint8]) -> NDArray[Any] | None:
        vector = super()._find(keys)
        return None if vector is None else self.answer(keys, vector[np.newaxis])[0]


def require_faiss() -> Any:
    """Return the module.

    Raises:
        MissingDependency: With the install command.
    """
    try:
        import faiss
    except ImportError as err:
        raise MissingDependency.of_package("FaissCache", "faiss-cpu") from err
    return faiss


def _save_array(path: Path, values: NDArray[Any]) -> None:
    with path.open("wb") as file:  # np.save of a path would add a suffix to it
        np.save(file, values, allow_pickle=False)


def bits_of(vectors: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the bytes of each vector, (n, bytes) uint8: compared by value, -0 and 0 would be equal."""
    rows = np.ascontiguousarray(vectors)
    return rows.view(np.uint8).reshape(len(rows), -1)
