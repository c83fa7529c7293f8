"""``cache_backend=`` of our wrapper: which backend stores the vectors, and how a custom one answers a call.

A custom backend receives what the mirror would receive: distinct items, each once, one chunk at a time. Each namespace
of a task has its own backend in ``<mirror>/<task name>/<namespace>/``; see `cas_cache.mteb.verified_backend`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.encoding import ChunkSizes
from cas_cache.errors import CacheMiss, ConfigurationError
from cas_cache.format.rows import as_array, storable
from cas_cache.identity import first_of_each
from cas_cache.mteb.backends import FaissCache, MirrorCache, require_faiss
from cas_cache.mteb.binding import BackendFactory
from cas_cache.mteb.verified_backend import VerifiedBackend
from cas_cache.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from cas_cache.cache import EmbeddingCache
    from cas_cache.identity import Batch, EncoderSpec


def custom_backends(cache_backend: Any, cache: EmbeddingCache) -> CustomBackends | None:
    """Return the custom backends of a cache; None if ``cache_backend=`` selects the mirror.

    Args:
        cache_backend: None, `MirrorCache` or `FaissCache` for the mirror; else a class or function that makes a backend
            of mteb's `CacheBackendProtocol` from a folder.
        cache: The wrapper's cache.

    Raises:
        ConfigurationError: If it is none of these, or a custom backend was passed together with a remote.
        MissingDependency: If it is `FaissCache` and faiss is not installed.
    """
    if cache_backend is FaissCache:
        require_faiss()
    if any(cache_backend is choice for choice in (None, MirrorCache, FaissCache)):
        return None
    name = getattr(cache_backend, "__name__", type(cache_backend).__name__)
    if isinstance(cache_backend, BackendFactory):
        raise ConfigurationError(
            "cas_cache.mteb.backend() is for mteb's own CachedEmbeddingWrapper. Pass remote= to this wrapper, and "
            "cache_backend=FaissCache or no cache_backend."
        )
    if not callable(cache_backend):
        raise ConfigurationError(
            f"cache_backend is an instance of {name}, not a class or function that makes a backend from a folder: each "
            f"namespace has its own. Pass cache_backend={name}."
        )
    if cache.repository is not None:
        raise ConfigurationError(
            f"{name} stores vectors in its own files, so nothing can be pushed to {cache.repository.url}. Use the "
            "mirror (no cache_backend=) or FaissCache, or set no remote; CAS_CACHE_REMOTE sets one, too."
        )
    return CustomBackends(cache_backend, cache)


@dataclass(frozen=True, slots=True)
class EncodeRequest:
    """The items of one call of `encode`.

    Attributes:
        task: The task's name.
        spec: The encoder's identity.
        batch: The n items, by their keys.
        dataset: The n rows.
        progress: Show progress bars.
    """

    task: str
    spec: EncoderSpec
    batch: Batch
    dataset: Any
    progress: bool | None

    def items(self, positions: NDArray[np.int64]) -> list[dict[str, Any]]:
        """Return items as a backend receives them: a text as itself, any other item with its key in place of a text.

        mteb's backends identify an item by its text and media alone, and would ignore a title that the encoder reads
        apart. A key also spares the backend from hashing an image or film again.
        """
        if self.spec.fields != ("text",):
            return [{"text": key.tobytes().hex()} for key in self.batch.keys[positions]]
        if hasattr(self.dataset, "column_names"):
            texts = self.dataset["text"][:]
            return [{"text": texts[position]} for position in positions.tolist()]
        return [{"text": self.dataset[position]["text"]} for position in positions.tolist()]


class CustomBackends:
    """The custom backends of one cache: one for each namespace of a task, opened when it is first needed."""

    def __init__(self, make: Callable[[Path], Any], cache: EmbeddingCache) -> None:
        self._make = make
        self._cache = cache
        self._opened: dict[tuple[str, str], VerifiedBackend] = {}

    def __getstate__(self) -> dict[str, Any]:
        # A copy opens the backends again, from their folders.
        return {**vars(self), "_opened": {}}

    def encode_items(self, request: EncodeRequest, encode: Callable[[NDArray[np.int64]], Any]) -> NDArray[Any]:
        """Return the (n, d) vectors of a request; as `EmbeddingCache.encode_items`.

        Raises:
            CacheMiss: If an item is missing and the cache is `only_cached`.
            ConfigurationError: If the backend does not return what it was given, or another backend owns the folder.
            InvalidEncoderOutput: If the encoder does not return one vector per item.
            ShapeMismatch: If dtype or row shape are not the namespace's.
        """
        backend, stats, keys = self._backend(request), self._cache.stats, request.batch.keys
        if not len(keys):
            return backend.empty(encode)
        distinct, which = first_of_each(keys)
        items = request.items(distinct)
        vectors = backend.find(keys[distinct], items)
        missing = np.array([n for n, vector in enumerate(vectors) if vector is None], np.int64)
        misses = int(np.isin(which, missing).sum())
        hits, namespace = len(keys) - misses, request.spec.namespace
        stats.add_look_up(namespace, hits, misses, hits * backend.row_bytes)
        if len(missing) and self._cache.only_cached:
            raise CacheMiss(
                f"{len(missing)} of {len(distinct)} distinct items are not in {backend.folder}, and only_cached=True "
                "forbids encoding them. Run once without only_cached.",
                positions=tuple(distinct[missing[:10]].tolist()),
                missing=len(missing),
            )
        sizes, start = ChunkSizes(self._cache.chunk_items, stats.seconds_per_item(namespace)), 0
        with progress_bar("encode", len(missing), request.progress) as advance:
            while start < len(missing):
                chunk = missing[start : start + sizes.next]
                start += len(chunk)
                began = time.monotonic()
                encoded = storable(as_array(encode(distinct[chunk])), len(chunk))
                seconds = time.monotonic() - began
                stats.add_encoded(namespace, len(chunk), seconds)
                backend.add(keys[distinct[chunk]], [items[n] for n in chunk], encoded)
                for n, vector in zip(chunk.tolist(), encoded, strict=True):
                    vectors[n] = vector
                sizes.add(len(chunk), seconds, encoded.nbytes // len(chunk))
                advance(len(chunk))
        answer: NDArray[Any] = np.stack([vector for vector in vectors if vector is not None])[which]
        return answer

    def close(self) -> None:
        """Close the backends. They are opened again when they are next needed."""
        for opened in self._opened.values():
            opened.backend.close()
        self._opened = {}

    def _backend(self, request: EncodeRequest) -> VerifiedBackend:
        place = (request.task, request.spec.namespace)
        if place not in self._opened:
            folder = self._cache.mirror.views.folder(request.task) / request.spec.namespace
            self._opened[place] = VerifiedBackend(self._make, folder, request.spec)
        return self._opened[place]
