"""`MirrorCache` and `FaissCache`: the vectors of a mirror by item, as mteb's `CacheBackendProtocol` wants them.

`cas_cache.mteb.backend` makes them for mteb's own wrapper, and ours takes the classes as ``cache_backend=``. A vector
is committed when it is added. Answers always come from the mirror; the FAISS index is derived from it, for search.
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
    IdentityError,
    InvalidEncoderOutput,
    MirrorWriteError,
    MissingDependency,
)
from cas_cache.files.disk import TEMP_PREFIX, flush
from cas_cache.format.rows import as_array, row_bytes
from cas_cache.identity import Batch, EncoderSpec, keys_of_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

BLOCK_BYTES = 32 << 20
"""Bytes of the rows that are copied from the mirror into a FAISS index at a time."""


class MirrorCache:
    """The vectors of a mirror by item; satisfies mteb's `CacheBackendProtocol`.

    Args:
        directory: A folder of its own, which is also the mirror's if no cache is given.
        spec: The identity of the vectors' encoder. `backend` makes it from a model.
        cache: The cache that holds the mirror; None opens one at `directory`.
        **options: As for `EmbeddingCache`, if no cache is given.

    Raises:
        IdentityError: If no spec is given: a folder does not identify the encoder of its vectors.
    """

    _finalizing = staticmethod(sys.is_finalizing)
    """mteb's wrapper closes in ``__del__``, even when modules are gone; pending rows were pushed before that."""

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
                f"{name} was given a folder, but not the encoder of its vectors. Pass "
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
        # The users of a copied cache are not counted, so closing a copy pushes its rows and leaves the cache open.
        return {**vars(self), "on_close": None}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.directory)!r}, namespace={self.spec.namespace})"

    def __contains__(self, item: Mapping[str, Any]) -> bool:
        return self._find(item) is not None

    def add(self, items: Sequence[Mapping[str, Any]], vectors: Any) -> None:
        """Store vectors of any dtype, and commit. An item that exists, or appears twice, keeps its first vector.

        Args:
            items: n rows, each with a text, image, audio or video.
            vectors: (n, d), or (d,) for one item. Vectors with NaN or infinity are skipped, with a `DataWarning`.

        Raises:
            InvalidEncoderOutput: If there is not one vector per item.
            ShapeMismatch: If dtype or length are not those of the existing vectors.
            MirrorWriteError: If the disk is full or refuses.
        """
        array = as_array(vectors)
        if array.ndim == 1 and len(items) == 1:
            array = array[np.newaxis]
        if array.ndim != 2:
            raise InvalidEncoderOutput(
                f"Vectors of shape {array.shape} were given for {len(items)} items; expected ({len(items)}, d). None "
                "was stored. Models with several vectors per item cannot be cached: evaluate them as they are."
            )
        self.cache.put(self._batch(items), array, self.spec)

    def get_vector(self, item: Mapping[str, Any]) -> NDArray[Any] | None:
        """Return an item's vector, (d,), or None.

        Raises:
            CacheMiss: If there is none and the cache is `only_cached`.
            DamagedMirror: If the stored vector is not the one that was committed.
        """
        vector = self._find(item)
        if vector is None and self.cache.only_cached:
            raise CacheMiss(
                f"An item is not in the cache of {self.spec.model} (namespace {self.spec.namespace}), and "
                "only_cached=True forbids encoding it. Run once without only_cached, or pull.",
                missing=1,
            )
        return vector

    def save(self) -> None:
        """Do nothing: added vectors are committed. Rows are pushed in the background, the rest at `close`."""

    def load(self) -> None:
        """Do nothing: the mirror is read in place."""

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

    def _batch(self, items: Sequence[Mapping[str, Any]]) -> Batch:
        fields = [field for field in self.spec.fields if any(field in item for item in items)]
        keys = keys_of_rows({field: [item.get(field) for item in items] for field in fields}, self.spec.fields)
        return Batch(len(keys), lambda: keys)

    def _find(self, item: Mapping[str, Any]) -> NDArray[Any] | None:
        try:
            vectors, is_found = self.cache.get(self._batch([item]), self.spec)
        except CacheMiss:  # no integer can stand for a vector that was not found
            return None
        return vectors[0] if is_found[0] else None


class FaissCache(MirrorCache):
    """A `MirrorCache` with a flat FAISS index over its rows, for search.

    Row i of the index is row i of the namespace in the mirror. `save` and `close` write ``<namespace>.index`` to
    `directory`, and ``<namespace>.keys.npy``, the (n, 32) uint8 keys of its rows, for other tools. These files are
    never read: the index is made from the mirror's rows, which their digests verify. It takes the memory of all vectors
    of the namespace in float32.

    Args:
        directory: As for `MirrorCache`; the files of the index are written there.
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
            ConfigurationError: If float32, in which FAISS stores vectors, would round them.
        """
        ns = self.cache.mirror.namespace(self.spec)
        ns.refresh()
        if ns.dtype is None or not ns.rows:
            return None
        check_float32(self.spec, ns.dtype, ns.shape)
        if self._index is None:
            self._index = self._faiss.IndexFlatL2(ns.shape[0])
        step = max(1, BLOCK_BYTES // row_bytes(np.dtype(np.float32), ns.shape))
        for first in range(self._index.ntotal, ns.rows, step):
            self._index.add(ns.take(slice(first, min(first + step, ns.rows))).astype(np.float32))
        return self._index

    def save(self) -> None:
        """Write the index and its keys, if it has grown.

        Raises:
            ConfigurationError: If float32, in which FAISS stores vectors, would round them.
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
        """Write a file under a temporary name, and rename it when it is complete."""
        temp = self.directory / f"{TEMP_PREFIX}{uuid.uuid4().hex}"
        try:
            write(temp)
            with temp.open("rb") as file:
                os.fsync(file.fileno())
            temp.replace(self.directory / f"{self.spec.namespace}.{suffix}")
            flush(self.directory)
        finally:
            temp.unlink(missing_ok=True)


def check_float32(spec: EncoderSpec, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Refuse vectors that a FAISS index cannot hold as they are.

    Raises:
        ConfigurationError: If float32 would round them, or they have several axes.
    """
    if not np.can_cast(dtype, np.float32, "safe") or len(shape) != 1:
        raise ConfigurationError(
            f"{spec.model} has {dtype} vectors of shape {shape}; FAISS stores float32 vectors of one axis, which would "
            "change them. They are in the mirror: use MirrorCache."
        )


def require_faiss() -> Any:
    """Return the module `faiss`.

    Raises:
        MissingDependency: With the install command.
    """
    try:
        import faiss
    except ImportError as err:
        raise MissingDependency.of_package("FaissCache", "faiss-cpu") from err
    return faiss


def _save_array(path: Path, values: NDArray[Any]) -> None:
    with path.open("wb") as file:  # np.save would add a suffix to a path
        np.save(file, values, allow_pickle=False)
