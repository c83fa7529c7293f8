"""``cache_backend=`` of our wrapper: what answers a call, the mirror, FAISS or a backend of others.

A backend of mteb's, or of anybody's, is given what the mirror would be given: distinct items, once each, a chunk at a
time. What it gives back is served only where it is proved, see `cas_cache.mteb.custom_backends`: one that shifts
rows, rounds, loses entries or is written by two processes costs encodings, never a score.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cas_cache.encoding import ChunkSizes
from cas_cache.errors import CacheMiss, ConfigurationError
from cas_cache.format.rows import as_array, storable
from cas_cache.identity import first_of_each
from cas_cache.mteb.backends import FaissCache, MirrorCache, require_faiss
from cas_cache.mteb.binding import Backend
from cas_cache.mteb.custom_backends import Kept
from cas_cache.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from cas_cache.cache import EmbeddingCache
    from cas_cache.identity import Batch, EncoderSpec


@dataclass(frozen=True, slots=True)
class Call:
    """One call of `encode`.

    Attributes:
        batch: Its n items, by their keys.
        spec: The encoder's identity.
        task: The task's name.
        dataset: The n rows.
        progress: Show progress bars; None as the cache does.
        appearance: Returns what the encoder looks like now.
    """

    batch: Batch
    spec: EncoderSpec
    task: str
    dataset: Any
    progress: bool | None = None
    appearance: Callable[[], dict[str, str]] | None = None


class Answers(Protocol):
    """Answers calls: from what is kept, else from the encoder."""

    in_mirror: bool
    """Whether the mirror has the vectors, so that views of them can be read."""

    def encode_items(self, call: Call, encode: Callable[[NDArray[np.int64]], Any]) -> NDArray[Any]:
        """Return the (n, d) vectors of a call; as `EmbeddingCache.encode_items`."""

    def close(self) -> None:
        """Write what is not written."""


def answers_of(cache_backend: Any, cache: EmbeddingCache) -> Answers:
    """Return what answers calls for ``cache_backend=``.

    Args:
        cache_backend: None or `MirrorCache` for the mirror; `FaissCache`; or a class or function that makes a backend
            of mteb's `CacheBackendProtocol` of a folder.
        cache: The wrapper's cache.

    Raises:
        ConfigurationError: If it is none of these, or a backend of others was given and a remote.
        MissingDependency: If it is `FaissCache` and faiss is not installed.
    """
    if cache_backend is None or cache_backend is MirrorCache:
        return InMirror(cache)
    if cache_backend is FaissCache:
        require_faiss()
        return InFaiss(cache)
    name = getattr(cache_backend, "__name__", type(cache_backend).__name__)
    if isinstance(cache_backend, Backend):
        raise ConfigurationError(
            "cas_cache.mteb.backend() is for mteb's own CachedEmbeddingWrapper. Pass this one remote=, and "
            "cache_backend=FaissCache or nothing."
        )
    if not callable(cache_backend):
        raise ConfigurationError(
            f"cache_backend is a {name}, not a class or function that makes one of a folder: there is one for each "
            f"namespace. Pass cache_backend={name}."
        )
    if cache.repository is not None:
        raise ConfigurationError(
            f"{name} keeps vectors in files of its own, of which nothing can be pushed to {cache.repository.url}. Use "
            "the mirror (no cache_backend=) or FaissCache, or name no remote; CAS_CACHE_REMOTE names one, too."
        )
    return InForeign(cache_backend, cache)


class InMirror:
    """The mirror answers."""

    in_mirror = True

    def __init__(self, cache: EmbeddingCache) -> None:
        self._cache = cache

    def encode_items(self, call: Call, encode: Callable[[NDArray[np.int64]], Any]) -> NDArray[Any]:
        """Return the (n, d) vectors of a call."""
        return self._cache.encode_items(
            call.batch, call.spec, encode, progress=call.progress, appearance=call.appearance
        )

    def close(self) -> None:
        """Do nothing: all is committed."""


class InFaiss(InMirror):
    """The mirror keeps the vectors, FAISS answers, an index for each namespace in ``<mirror>/faiss/``."""

    def __init__(self, cache: EmbeddingCache) -> None:
        super().__init__(cache)
        self._opened: dict[str, FaissCache] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_opened": {}}

    def encode_items(self, call: Call, encode: Callable[[NDArray[np.int64]], Any]) -> NDArray[Any]:
        """Return the (n, d) vectors of a call, which FAISS and the mirror agree on."""
        vectors = super().encode_items(call, encode)
        if not call.batch.size:
            return vectors
        name = call.spec.namespace
        if name not in self._opened:
            folder = self._cache.mirror.directory / "faiss"
            self._opened[name] = FaissCache(folder, spec=call.spec, cache=self._cache)
        return self._opened[name].answer(call.batch.keys, vectors)

    def close(self) -> None:
        """Write the indices."""
        for one in self._opened.values():
            one.save()


class InForeign:
    """A backend of others keeps the vectors, one for each namespace of a task."""

    in_mirror = False

    def __init__(self, make: Callable[[Path], Any], cache: EmbeddingCache) -> None:
        self._make = make
        self._cache = cache
        self._opened: dict[tuple[str, str], Kept] = {}

    def __getstate__(self) -> dict[str, Any]:
        # A copy opens the backends again, from their folders.
        return {**vars(self), "_opened": {}}

    def encode_items(self, call: Call, encode: Callable[[NDArray[np.int64]], Any]) -> NDArray[Any]:
        """Return the (n, d) vectors of a call.

        Raises:
            CacheMiss: If something is missing and the cache is `only_cached`.
            ConfigurationError: If the backend does not keep what it is given, or another one keeps this namespace.
            InvalidEncoderOutput: If the encoder does not return one vector for each item.
            ShapeMismatch: If dtype or row shape are not the namespace's.
        """
        name = call.spec.namespace
        place = (call.task, name)
        if place not in self._opened:
            folder = self._cache.mirror.views.folder(call.task) / name
            self._opened[place] = Kept(self._make, folder, call.spec)
        kept, stats = self._opened[place], self._cache.stats
        keys = call.batch.keys
        if not len(keys):
            return kept.nothing(encode)
        distinct, which = first_of_each(keys)
        items = _items(call, distinct)
        vectors = kept.find(keys[distinct], items)
        missing = np.array([at for at, vector in enumerate(vectors) if vector is None], np.int64)
        misses = int(np.isin(which, missing).sum())
        stats.add_look_up(name, len(keys) - misses, misses, (len(keys) - misses) * kept.row_bytes)
        if len(missing) and self._cache.only_cached:
            raise CacheMiss(
                f"{len(missing)} of {len(distinct)} distinct items are not in {kept.folder}, and only_cached=True "
                "forbids encoding them. Run once without only_cached.",
                positions=tuple(distinct[missing[:10]].tolist()),
                missing=len(missing),
            )
        progress = self._cache.progress if call.progress is None else call.progress
        sizes, first = ChunkSizes(self._cache.chunk_items, stats.seconds_per_item(name)), 0
        with progress_bar("encode", len(missing), progress) as tell:
            while first < len(missing):
                chunk = missing[first : first + sizes.next]
                first += len(chunk)
                began = time.monotonic()
                answer = as_array(encode(distinct[chunk]))
                seconds = time.monotonic() - began
                fresh = storable(answer, len(chunk))
                stats.add_encoded(name, len(chunk), seconds)
                kept.add(keys[distinct[chunk]], [items[at] for at in chunk], fresh)
                for at, vector in zip(chunk.tolist(), fresh, strict=True):
                    vectors[at] = vector
                sizes.add(len(chunk), seconds, fresh.nbytes // len(chunk))
                tell(len(chunk))
        found: NDArray[Any] = np.stack([vector for vector in vectors if vector is not None])[which]
        return found

    def close(self) -> None:
        """Close the backends; they are opened again when they are next needed."""
        for kept in self._opened.values():
            kept.backend.close()
        self._opened = {}


def _items(call: Call, positions: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Items as a backend is given them: a text as itself, anything else by its key in place of a text.

    mteb's backends know an item by its text and media alone; an encoder that reads titles apart knows better. And no
    image or film is hashed again.
    """
    if call.spec.fields != ("text",):
        return [{"text": key.tobytes().hex()} for key in call.batch.keys[positions]]
    if hasattr(call.dataset, "column_names"):
        texts = call.dataset["text"][:]
        return [{"text": texts[at]} for at in positions.tolist()]
    return [{"text": call.dataset[at]["text"]} for at in positions.tolist()]
