"""`EmbeddingCache`: the Python interface of the package.

The mirror answers look-ups. A miss asks the repository once for each namespace, then the encoder. Each chunk that the
encoder returns is committed to the mirror before the next chunk is encoded, and is uploaded by the next push. A run
never depends on the remote: by default it continues without one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache import sync
from cas_cache.display import Displayable, facts, together
from cas_cache.encoding import ChunkSizes, MissingItems, ObservedEncoder, TextEncoder, append_finite, cache_miss
from cas_cache.errors import DataWarning
from cas_cache.format.rows import as_array, checked_dtype, storable
from cas_cache.identity import Batch, EncoderSpec, batch_of_texts, first_of_each, keys_of_texts, texts_at
from cas_cache.mirror.index import ABSENT
from cas_cache.remote_errors import warn_caller
from cas_cache.self_check import SelfCheck
from cas_cache.shared_mirror import SharedMirror
from cas_cache.storage.local import LocalStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray
    from rich.console import Group

    from cas_cache.mirror import Namespace
    from cas_cache.mirror.rows import Rows


class EmbeddingCache(SharedMirror, Displayable):
    """A cache of embeddings: a local mirror and, if a remote is named, a shared repository.

    Args:
        location: Directory of the mirror; or a remote URL, whose mirror is then kept in the user's cache directory.
            None takes ``CAS_CACHE_REMOTE``, or a local cache.
        remote: Repository to share, as a URL, a directory, or a name in the settings, if `location` is a directory.
            None takes ``CAS_CACHE_REMOTE``. Write a new directory as a path, such as ``./name``.
        storage_options: Options passed to fsspec, together with those that a `UPath` carries. Credentials are left to
            fsspec or the cloud SDK.
        read_only: Never write to the repository. None takes ``CAS_CACHE_READ_ONLY``.
        offline: Never use the network. None takes ``CAS_CACHE_OFFLINE``.
        only_cached: Raise `CacheMiss` instead of encoding. None takes ``CAS_CACHE_ONLY_CACHED``.
        lazy: Pull only the keys of a namespace when it is first requested, and then only the requested vectors, each
            verified by its digest. None takes ``CAS_CACHE_LAZY``. `pull` still downloads everything.
        self_check: Minimum number of rows to encode again and compare before the cache serves rows that others pushed
            and that were never compared in this mirror, or rows whose encoder had a different appearance. At least one
            row of each such pack is compared. 0 trusts everybody. None takes ``CAS_CACHE_SELF_CHECK``, or 8. With
            `only_cached` nothing is encoded, so nothing is compared.
        max_self_check: Maximum number of rows that one call may encode again for the self-check. If it needs more, the
            call raises `SelfCheckTooLarge` before it encodes anything. None takes ``CAS_CACHE_MAX_SELF_CHECK``, or no
            limit.
        push: ``"background"`` pushes during the run, and the rest at `close` or when the process ends; ``"manual"``
            pushes only when `push` is called. Rows that an earlier process left pending are pushed as well.
        push_seconds: Maximum number of seconds that a row stays pending before a background push starts. A push also
            starts at 48 MiB of pending vectors; with ``math.inf``, only then. None takes ``CAS_CACHE_PUSH_SECONDS``, or
            30.
        on_remote_error: Reaction of automatic pulls and pushes to a remote that is unreachable, refuses requests or has
            changed unexpectedly: ``"warn"`` once and continue, or ``"raise"``. Calls of `pull`, `push` and `sync`
            always raise, and so does the first look-up if the bucket does not exist.
        chunk_items: Number of items to encode between two commits. None chooses by measurement: about 5 s of the
            encoder's work, at most 256 items or a quarter of what the call has committed, whichever is larger, and at
            most 64 MB of vectors.
        progress: Show progress bars for encoding, pulls and pushes. None takes ``CAS_CACHE_PROGRESS``, or shows them on
            a terminal only.
        signing: Which packs to read, and the key that signs pushed packs; see `Signing`. None takes the settings.

    Raises:
        ConfigurationError: If an argument or a setting cannot work; also if only signed packs are trusted, and the
            cache would push packs that none of the trusted keys signs.
        UntrustedMirror: If the mirror has rows of packs that the trusted keys did not sign.
        NotAMirror: If the directory holds something other than a mirror.
        InvalidURL: If the remote is not a URL of a known file system.
        MissingDependency: If the file system's package is not installed.
    """

    def __rich__(self) -> Group:
        switches = [name for name in ("offline", "read_only", "only_cached", "lazy") if getattr(self, name)]
        values = {
            "mirror": self.mirror.directory,
            "remote": None if self.repository is None else self.repository.url,
            "switches": ", ".join(switches) or None,
        }
        # Only local files and the repository's address: showing a notebook cell must not send a request.
        return together(facts("EmbeddingCache", values), self.mirror, self.stats)

    def encode(
        self,
        texts: Iterable[str],
        spec: EncoderSpec,
        encoder: Callable[[list[str]], Any],
        *,
        adds_prompt: bool = False,
        dtype: Any = None,
    ) -> NDArray[Any]:
        """Return the vectors of texts; encode only texts that are in neither the mirror nor the repository.

        Args:
            texts: n texts without the prompt, repeats allowed: a list, a tuple, a column of pandas, polars, Arrow,
                datasets or NumPy, or an iterator of strings.
            spec: The encoder's identity.
            encoder: Function that encodes the distinct missing texts. It is called with one chunk at a time, in order
                of appearance, each text with ``spec.prompt`` in front, and returns one vector per text: a NumPy array,
                a torch tensor, or a list of vectors.
            adds_prompt: Set this if `encoder` adds ``spec.prompt`` itself; it then receives the texts without the
                prompt. For example ``lambda texts: model.encode(texts, prompt=spec.prompt)`` with
                sentence-transformers.
            dtype: Dtype of vectors that come as lists of Python numbers; None for float32. Arrays keep theirs.

        Returns:
            Writable (n, *shape) array in the order of `texts`, of the encoder's dtype (torch bfloat16 as float32).

        Raises:
            InvalidItem: If the texts are not a sequence of strings, or a text cannot be encoded as UTF-8.
            CacheMiss: If a text is missing and the cache is `only_cached`.
            InvalidEncoderOutput: If the encoder does not return one vector per text. Nothing of that chunk is
                stored.
            ShapeMismatch: If dtype or row shape are not the namespace's. Nothing of that chunk is stored.
            SelfCheckFailed: If the encoder does not reproduce the vectors that others pushed for this spec.
            SelfCheckTooLarge: If the self-check would have to compare more than `max_self_check` rows.
        """
        batch = batch_of_texts(texts)
        prompt = "" if adds_prompt else _checked_spec(spec).prompt
        return self.encode_items(batch, spec, TextEncoder(batch.texts, encoder, prompt), dtype=dtype)

    def encode_items(
        self,
        batch: Batch,
        spec: EncoderSpec,
        encoder: Callable[[NDArray[np.int64]], Any],
        *,
        progress: bool | None = None,
        appearance: Callable[[], dict[str, str]] | None = None,
        dtype: Any = None,
    ) -> NDArray[Any]:
        """Return the vectors of items of any kind; see `encode`.

        Args:
            batch: Keys of the n items.
            spec: The encoder's identity.
            encoder: Function that is called with the positions of the distinct missing items, ascending, and returns
                one vector per position.
            progress: Show progress bars during this call; None follows the cache's setting.
            appearance: Function that returns the encoder's current appearance, as `cas_cache.models.appearance_of`
                does: a short text for each plain attribute. The cache records it beside the vectors, and compares rows
                of an encoder with another appearance before it serves them. With None, the spec alone identifies the
                encoder.
            dtype: See `encode`.
        """
        if dtype is not None:
            checked_dtype(dtype)
        if self._pusher is not None and self._pusher.failed:
            self._remote_errors.survive(self._pusher.check, during="push", policy=self.on_remote_error)
        if self.only_cached and self._is_unknown(spec):
            if not batch.size:
                return np.empty((0, 0), np.float32)
            self.stats.add(misses=batch.size)
            raise cache_miss(spec, batch.keys, np.arange(batch.size))
        with self._held(spec) as ns:
            observed = ObservedEncoder(ns.appearances, encoder, appearance, dtype)
            if batch.size:
                return self._vectors_of(ns, batch, observed, progress)
            is_known = ns.dtype is not None or self.only_cached
            return _no_vectors(ns, 0) if is_known else observed(np.empty(0, np.int64))

    def _held(self, spec: EncoderSpec) -> AbstractContextManager[Namespace]:
        """Open the namespace of a spec until its vectors are taken: an eviction meanwhile would move the rows."""
        if self._closed or self._is_mirror_removed:
            self._open_mirror()
        return self.mirror.held(_checked_spec(spec))

    def _vectors_of(self, ns: Namespace, batch: Batch, encoder: ObservedEncoder, progress: bool | None) -> NDArray[Any]:
        """Return the vectors of a batch: look up, pull, verify others, encode what is missing, gather."""
        rows, missing = self._find(ns, batch, progress)
        self._verify_others(ns, rows, encoder, progress)
        if isinstance(rows, slice) or not len(missing):  # every item is a hit
            vectors = ns.take(rows)
            self.stats.add_look_up(ns.spec.namespace, batch.size, 0, vectors.nbytes)
            return vectors
        hits = batch.size - len(missing)
        self.stats.add_look_up(ns.spec.namespace, hits, len(missing), hits * ns.row_bytes)
        items = MissingItems(ns, batch.keys, missing)
        refused = self._encode_missing(items, encoder, progress)
        vectors = items.gather(rows, refused)
        if batch.digest is not None and not refused:
            ns.remember(batch, rows)
        return vectors

    def _find(self, ns: Namespace, batch: Batch, progress: bool | None) -> tuple[Rows, NDArray[np.int64]]:
        """Return the row of each item, and the positions of the items that neither mirror nor repository has."""
        remembered = None if batch.digest is None else ns.remembered(batch)
        if remembered is not None:
            return remembered, _NOTHING
        keys = batch.keys
        rows = ns.find(keys)
        missing = np.flatnonzero(rows == ABSENT)
        if len(missing) and self._pull_missing(ns, keys[missing], self._shown(progress)):
            rows[missing] = ns.find(keys[missing])
            missing = missing[rows[missing] == ABSENT]
        if batch.digest is not None and not len(missing):
            ns.remember(batch, rows)
        return rows, missing

    def _verify_others(self, ns: Namespace, rows: Rows, encoder: ObservedEncoder, progress: bool | None) -> None:
        """Compare some of the rows that others pushed, or that another encoder made, with this encoder's vectors."""
        if self.self_check and not self.only_cached and not (encoder.describe is None and ns.is_verified):
            remote = () if self.repository is None else ("--remote", self.repository.url)
            location = (str(self.mirror.directory), *remote)
            check = SelfCheck(self.self_check, self.max_self_check, self.chunk_items, location, self.stats)
            check.check(ns, rows, encoder, self._shown(progress))

    def _encode_missing(
        self, items: MissingItems, encoder: ObservedEncoder, progress: bool | None
    ) -> dict[bytes, NDArray[Any]]:
        """Encode and commit the missing items; return the vectors that must not be stored, by key."""
        spec = items.ns.spec
        if self.only_cached:
            raise cache_miss(spec, items.keys, items.positions)
        # Everything that could refuse the vectors is asked before they are paid for.
        items.ns.check_writable()
        storage = None if self.repository is None else self.repository.storage
        if self._pusher is not None and isinstance(storage, LocalStorage):
            storage.check_file_system()
        sizes = ChunkSizes(self.chunk_items, self.stats.seconds_per_item(spec.namespace))
        on_commit = None if self._pusher is None else self._pusher.notify
        refused = items.encode(encoder, sizes, self.stats, on_commit, progress=self._shown(progress))
        _warn_of_infinite(len(refused), spec)
        return refused

    def bind(
        self, spec: EncoderSpec, encoder: Callable[[list[str]], Any], *, adds_prompt: bool = False, dtype: Any = None
    ) -> CachedEncoder:
        """Return a function of texts that answers as `encode` does with these arguments."""
        return CachedEncoder(self, _checked_spec(spec), encoder, adds_prompt, dtype)

    def get(self, texts: Iterable[str] | Batch, spec: EncoderSpec) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return the cached vectors of texts, from the mirror or the repository. Nothing is encoded.

        Row i always belongs to text i, so that vectors and texts cannot be paired wrongly. A row that was not found is
        NaN, which no vector in a cache is.

        Args:
            texts: n texts, or items of any kind as a `Batch`.
            spec: The encoder's identity.

        Returns:
            (n, *shape) vectors, NaN for texts that were not found, and an (n,) bool mask of the texts that were found.
            While no vector of the spec is known, the vectors have shape (n, 0).

        Raises:
            CacheMiss: If a text was not found, and the vectors are whole numbers or bools, which have no NaN.
        """
        batch = _batch_of(texts)
        if self._is_unknown(spec):
            self.stats.add(misses=len(batch.keys))
            return np.empty((batch.size, 0), np.float32), np.zeros(batch.size, np.bool_)
        with self._held(spec) as ns:
            rows, missing = self._find(ns, batch, None)
            hits = batch.size - len(missing)
            self.stats.add_look_up(ns.spec.namespace, hits, len(missing), hits * ns.row_bytes)
            found = np.ones(batch.size, np.bool_)
            found[missing] = False
            if isinstance(rows, slice) or (hits and not len(missing)):
                return ns.take(rows), found
            if len(missing) and ns.dtype is not None and ns.dtype.kind != "f":
                raise cache_miss(spec, batch.keys, missing, without_nan=ns.dtype)
            vectors = _no_vectors(ns, batch.size)
            if hits:
                vectors[found] = ns.take(rows[found])
        return vectors, found

    def missing(self, texts: Iterable[str], spec: EncoderSpec) -> list[str]:
        """Return the distinct texts that `encode` would encode, in order of appearance. Nothing is encoded."""
        batch = batch_of_texts(texts)
        missing = np.arange(batch.size)
        if not self._is_unknown(spec):
            with self._held(spec) as ns:
                missing = self._find(ns, batch, None)[1]
        return texts_at(batch.texts, missing[first_of_each(batch.keys[missing])[0]])

    def put(self, texts: Iterable[str] | Batch, vectors: Any, spec: EncoderSpec, *, dtype: Any = None) -> int:
        """Store vectors that were made elsewhere. Existing vectors are kept.

        Args:
            texts: n texts, or items of any kind as a `Batch`.
            vectors: (n, *shape) vectors, made by this spec's encoder.
            spec: The encoder's identity.
            dtype: The dtype of vectors that come as lists of Python numbers; None for float32.

        Returns:
            The number of new vectors.

        Raises:
            InvalidEncoderOutput: If there is not one vector per text.
            ShapeMismatch: If dtype or row shape are not the namespace's.
        """
        keys = _batch_of(texts).keys
        array = storable(as_array(vectors, dtype), len(keys))
        ns = self._open_mirror().namespace(_checked_spec(spec))
        new, refused = append_finite(ns, keys, array)
        if self._pusher is not None:
            self._pusher.notify(new * ns.row_bytes)
        _warn_of_infinite(len(refused), spec)
        return new

    def explain(self, text: str, spec: EncoderSpec) -> sync.Explanation:
        """Explain where the vector of a text is, or why it is a miss. Nothing is encoded or changed.

        The keys of packs that the mirror does not know are read from the repository, which can take a while.

        Args:
            text: The text without the prompt.
            spec: The encoder's identity.
        """
        self._check_open()
        asked, not_asked = self.repository, None
        if self.offline and asked is not None:
            asked, not_asked = None, "The repository was not asked, because the cache is offline."
        return sync.explain(self.mirror, asked, _checked_spec(spec), keys_of_texts([text]), not_asked=not_asked)

    def _is_unknown(self, spec: EncoderSpec) -> bool:
        """Return True if no look-up can find a row of a spec. Create nothing for it: the disk may be full."""
        self._check_open()
        return self.mirror.get(_checked_spec(spec).namespace) is None and not self._is_reachable

    def _shown(self, progress: bool | None) -> bool | None:
        return self.progress if progress is None else progress


@dataclass(frozen=True, slots=True)
class CachedEncoder:
    """An encoder that asks a cache first: a function of texts. `EmbeddingCache.bind` makes it.

    Attributes:
        cache: The cache.
        spec: The encoder's identity.
        encoder: The encoder; see `EmbeddingCache.encode`.
        adds_prompt: See `EmbeddingCache.encode`.
        dtype: See `EmbeddingCache.encode`.
    """

    cache: EmbeddingCache
    spec: EncoderSpec
    encoder: Callable[[list[str]], Any] = field(repr=False)
    adds_prompt: bool = False
    dtype: Any = None

    def __call__(self, texts: Iterable[str]) -> NDArray[Any]:
        """Return the vectors of texts; see `EmbeddingCache.encode`."""
        return self.cache.encode(texts, self.spec, self.encoder, adds_prompt=self.adds_prompt, dtype=self.dtype)

    def missing(self, texts: Iterable[str]) -> list[str]:
        """Return the distinct texts that a call would encode; see `EmbeddingCache.missing`."""
        return self.cache.missing(texts, self.spec)


_NOTHING = np.empty(0, np.int64)


def _checked_spec(spec: object) -> EncoderSpec:
    if not isinstance(spec, EncoderSpec):
        msg = f"spec is a {type(spec).__name__}; pass an EncoderSpec, which says whose vectors these are"
        raise TypeError(msg)
    return spec


def _batch_of(items: Iterable[str] | Batch) -> Batch:
    return items if isinstance(items, Batch) else batch_of_texts(items)


def _no_vectors(ns: Namespace, count: int) -> NDArray[Any]:
    """Return `count` rows without a vector: NaN, of the namespace's dtype and shape as far as they are known."""
    shape, dtype = ns.shape or (0,), ns.dtype or np.float32
    return np.full((count, *shape), np.nan, dtype) if count else np.empty((0, *shape), dtype)


def _warn_of_infinite(count: int, spec: EncoderSpec) -> None:
    if count:
        warn_caller(
            f"{count} vectors of {spec.model} hold NaN or infinity. They were given back, not stored.", DataWarning
        )
