"""`EmbeddingCache`: the Python interface of the package.

The mirror answers look-ups. A miss asks the repository once for each namespace, then the encoder. Each chunk that the
encoder returns is committed to the mirror before the next chunk is encoded, and is uploaded by the next push. A run
never depends on the remote: by default it continues without one.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from cas_cache import sync
from cas_cache.background import PUSH_SECONDS, BackgroundPush
from cas_cache.config.keyring import trust_of
from cas_cache.config.locations import options_of, places
from cas_cache.config.settings import Settings
from cas_cache.display import Displayable, facts, pluralize, together
from cas_cache.encoding import ChunkSizes, gathered, in_chunks
from cas_cache.errors import (
    AlreadyClosed,
    BucketNotFound,
    CacheMiss,
    ConfigurationError,
    DataWarning,
    IncompleteListing,
    RemoteError,
    RemoteWarning,
    RepositoryError,
    RepositoryMismatch,
    UnsupportedFormat,
)
from cas_cache.format.rows import as_array, checked_dtype, finite_rows, storable
from cas_cache.identity import (
    NAMESPACE_ID,
    Batch,
    EncoderSpec,
    as_texts,
    batch_of_texts,
    first_of_each,
    keys_of_texts,
    texts_at,
)
from cas_cache.mirror import Mirror
from cas_cache.mirror.index import ABSENT
from cas_cache.mirror.pace import Pace, PaceFile
from cas_cache.progress import progress_bar
from cas_cache.reopening import OPEN_IN_THE_WORKER, check_portable, reopen
from cas_cache.repository import Repository
from cas_cache.self_check import MIN_ROWS, ObservedEncoder, SelfCheck
from cas_cache.stats import Stats
from cas_cache.storage import open_storage
from cas_cache.storage.local import LocalStorage
from cas_cache.upload import Upload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from rich.console import Group

    from cas_cache.mirror import Namespace
    from cas_cache.mirror.memo import Rows
    from cas_cache.sync import Report

logger = logging.getLogger(__name__)

RETRY_SECONDS = 60
"""Seconds for which automatic pulls leave a remote alone after it failed."""


PULL_PROBLEMS = (RemoteError, IncompleteListing, UnsupportedFormat)
"""Errors that a run survives when it first asks the repository, except for a bucket that does not exist. Waiting does
not repair a missing bucket, a wrong URL or the wrong mirror, so these stop the run before it encodes anything."""

PUSH_PROBLEMS = (RemoteError, RepositoryError, RepositoryMismatch, UnsupportedFormat)
"""Errors that a run survives after vectors have been paid for: the vectors stay pending in the mirror."""


class EmbeddingCache(Displayable):
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
        trust: Packs to read: ``"any"``, or ``"signed-by"`` for packs signed by `trusted_keys` only. None takes
            ``CAS_CACHE_TRUST``, or ``"any"``.
        trusted_keys: Public keys by name, as ``cas-cache keys new`` prints them. None takes those of the settings.
        signing_key: Private key that signs pushed packs: its name in ``cas-cache keys list``, or its file. None takes
            ``CAS_CACHE_SIGNING_KEY``; if that is not set, packs are not signed.

    Raises:
        ConfigurationError: If an argument or a setting cannot work; also if only signed packs are trusted, and the
            cache would push packs that none of these keys signs.
        UntrustedMirror: If the mirror has rows of packs that the trusted keys did not sign.
        NotAMirror: If the directory holds something other than a mirror.
        InvalidURL: If the remote is not a URL of a known file system.
        MissingDependency: If the file system's package is not installed.
    """

    _is_mirror_removed = False
    """True after a failed pull deleted a new, empty mirror; the next use creates it again."""

    def __init__(  # noqa: PLR0913 - independent switches, all by name
        self,
        location: str | Path | None = None,
        *,
        remote: str | Path | None = None,
        storage_options: Mapping[str, Any] | None = None,
        read_only: bool | None = None,
        offline: bool | None = None,
        only_cached: bool | None = None,
        lazy: bool | None = None,
        self_check: int | None = None,
        max_self_check: int | None = None,
        push: Literal["background", "manual"] = "background",
        push_seconds: float | None = None,
        on_remote_error: Literal["warn", "raise"] = "warn",
        chunk_items: int | None = None,
        progress: bool | None = None,
        trust: Literal["any", "signed-by"] | None = None,
        trusted_keys: Mapping[str, str] | None = None,
        signing_key: str | Path | None = None,
    ) -> None:
        settings = Settings.read()
        _check_choice("push", push, ("background", "manual"))
        _check_choice("on_remote_error", on_remote_error, ("warn", "raise"))
        storage_options = options_of(location, remote, storage_options)
        _check_amount("chunk_items", chunk_items, 1, "encode at least 1 item between two commits")
        _check_amount("self_check", self_check, 0, "compare 0 rows or more")
        _check_amount("max_self_check", max_self_check, 0, "compare 0 rows or more")
        _check_amount("push_seconds", push_seconds, 0, "pass 0 seconds or more")
        directory, url = places(location, remote, settings)
        if url is None and storage_options:
            raise ConfigurationError("storage_options are for a remote, and none is named. Pass remote=.")
        self.offline = settings.offline if offline is None else offline
        trusted, signer = trust_of(settings, trust, trusted_keys, signing_key)
        storage = None if url is None else open_storage(url, storage_options, later=self.offline)
        repository = None if storage is None else Repository(storage, trust=trusted, signer=signer)
        self.mirror = Mirror(directory)
        self.mirror.check_trust(None if trusted is None else trusted.keys)
        stats = self.stats = Stats()
        shown = settings.progress if progress is None else progress
        self._upload = Upload(self.mirror.directory, repository, lambda sent: stats.add(bytes_pushed=sent), shown)
        self.read_only = settings.read_only if read_only is None else read_only
        self.only_cached = settings.only_cached if only_cached is None else only_cached
        self.lazy = settings.lazy if lazy is None else lazy
        asked = settings.self_check if self_check is None else self_check
        self.self_check = MIN_ROWS if asked is None else asked
        self.max_self_check = settings.max_self_check if max_self_check is None else max_self_check
        self.on_remote_error = on_remote_error
        self.chunk_items = chunk_items
        # The arguments of a copy, in addition to attributes that may change, such as `offline`. The path of a
        # repository is made absolute: a relative one would mean another directory in a process that runs elsewhere.
        self._given: dict[str, Any] = {
            "remote": storage.url if isinstance(storage, LocalStorage) else url,
            "storage_options": storage_options,
            "push": push,
            "push_seconds": settings.push_seconds if push_seconds is None else push_seconds,
            "trust": trust or settings.trust,
            "trusted_keys": settings.trusted_keys if trusted_keys is None else dict(trusted_keys),
            "signing_key": settings.signing_key if signing_key is None else signing_key,
        }
        self._opened = repository
        self._closed = False
        self._pulled: set[str] = set()
        self._paces: dict[str, PaceFile] = {}
        self._retry_at = 0.0
        self._warned = False
        self._warned_untrusted = False
        self._pusher = None
        if push == "background" and repository is not None and not (self.offline or self.read_only):
            repository.must_sign()  # before anything is paid for
            self._pusher = self._started_pusher(self._given["push_seconds"])

    def _started_pusher(self, seconds: float | None) -> BackgroundPush:
        upload = self._upload
        pusher = BackgroundPush(
            upload.run, upload.pending, lambda: upload.progress, seconds=PUSH_SECONDS if seconds is None else seconds
        )
        # If the cache is dropped with pending rows, the pusher stays alive to push them; only its timer thread ends.
        weakref.finalize(self, pusher.abandon).atexit = False
        # A push also writes to the mirror: it records which rows were pushed.
        if os.access(self.mirror.directory, os.W_OK):
            pusher.resume()
        return pusher

    def __repr__(self) -> str:
        remote = f", remote={self.repository.url!r}" if self.repository else ""
        return f"EmbeddingCache({str(self.mirror.directory)!r}{remote})"

    def __reduce__(self) -> tuple[Any, ...]:
        arguments = self._arguments()
        storage = None if self.repository is None else self.repository.storage
        check_portable(arguments["remote"], arguments["storage_options"], storage)
        return reopen, (type(self), arguments)

    def __copy__(self) -> Self:
        return type(self)(**self._arguments())

    def __deepcopy__(self, _: dict[int, Any]) -> Self:
        return self.__copy__()

    def _arguments(self) -> dict[str, Any]:
        """Return the arguments that open this cache again, on the same mirror but with its own locks and statistics."""
        self._check_open()
        if self.repository is not self._opened:
            raise ConfigurationError(
                f"The repository of {self!r} was replaced after the cache was opened, so a copy would have another "
                f"one. {OPEN_IN_THE_WORKER}"
            )
        return {
            **self._given,
            "location": str(self.mirror.directory),
            "read_only": self.read_only,
            "offline": self.offline,
            "only_cached": self.only_cached,
            "lazy": self.lazy,
            "self_check": self.self_check,
            "max_self_check": self.max_self_check,
            "on_remote_error": self.on_remote_error,
            "chunk_items": self.chunk_items,
            "progress": self.progress,
        }

    @property
    def repository(self) -> Repository | None:
        """The shared repository; None for a local cache."""
        return self._upload.repository

    @repository.setter
    def repository(self, repository: Repository | None) -> None:
        self._upload.repository = repository

    @property
    def progress(self) -> bool | None:
        """True if progress bars are shown; None shows them on a terminal only."""
        return self._upload.progress

    @progress.setter
    def progress(self, progress: bool | None) -> None:
        self._upload.progress = progress

    def __rich__(self) -> Group:
        switches = [name for name in ("offline", "read_only", "only_cached", "lazy") if getattr(self, name)]
        values = {
            "mirror": self.mirror.directory,
            "remote": None if self.repository is None else self.repository.url,
            "switches": ", ".join(switches) or None,
        }
        # Only local files and the repository's address: showing a notebook cell must not send a request.
        return together(facts("EmbeddingCache", values), self.mirror, self.stats)

    def summary(self) -> str:
        """Return two or three lines that say what the cache did and what is still pending."""
        waits = self._upload.pending()
        did = self.stats.summary()
        return did if waits is None else f"{did}\n{waits}. To push the pending rows: {waits.command}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        finally:
            if exc_type is not None:
                self._remove_empty_mirror()

    def encode(
        self,
        texts: Iterable[str],
        spec: EncoderSpec,
        encode: Callable[[list[str]], Any],
        *,
        adds_prompt: bool = False,
        dtype: Any = None,
    ) -> NDArray[Any]:
        """Return the vectors of texts; encode only texts that are in neither the mirror nor the repository.

        Args:
            texts: n texts without the prompt, repeats allowed: a list, a tuple, a column of pandas, polars, Arrow,
                datasets or NumPy, or an iterator of strings.
            spec: The encoder's identity.
            encode: Function that encodes the distinct missing texts. It is called with one chunk at a time, in order of
                appearance, each text with ``spec.prompt`` in front, and returns one vector per text: a NumPy array, a
                torch tensor, or a list of vectors.
            adds_prompt: Set this if `encode` adds ``spec.prompt`` itself; it then receives the texts without the
                prompt. For example ``lambda texts: model.encode(texts, prompt=spec.prompt)`` with
                sentence-transformers.
            dtype: The dtype of vectors that come as lists of Python numbers; None for float32. Arrays and tensors keep
                theirs.

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
        checked = as_texts(texts)
        prompt = "" if adds_prompt else _spec(spec).prompt

        def encode_at(positions: NDArray[np.int64]) -> Any:
            missing = texts_at(checked, positions)
            return encode([prompt + text for text in missing] if prompt else missing)

        return self.encode_items(batch_of_texts(checked), spec, encode_at, dtype=dtype)

    def encode_items(
        self,
        batch: Batch,
        spec: EncoderSpec,
        encode: Callable[[NDArray[np.int64]], Any],
        *,
        progress: bool | None = None,
        appearance: Callable[[], dict[str, str]] | None = None,
        dtype: Any = None,
    ) -> NDArray[Any]:
        """Return the vectors of items of any kind; see `encode`.

        Args:
            batch: Keys of the n items.
            spec: The encoder's identity.
            encode: Function that is called with the positions of the distinct missing items, ascending, and returns one
                vector per position.
            progress: Show progress bars during this call; None follows the cache's setting.
            appearance: Function that returns the encoder's current appearance, as `cas_cache.models.appearance_of`
                does: a short text for each plain attribute. The cache records it beside the vectors, and compares rows
                of an encoder with another appearance before it serves them. With None, the spec alone identifies the
                encoder.
            dtype: See `encode`.
        """
        checked_dtype(dtype)
        progress = self.progress if progress is None else progress
        if self._pusher is not None:
            self._automatic(self._pusher.check, PUSH_PROBLEMS)
        if self.only_cached and self._is_unknown(spec):
            if not batch.size:
                return np.empty((0, 0), np.float32)
            self.stats.add(misses=batch.size)
            raise _cache_miss(spec, batch.keys, np.arange(batch.size))
        # Held until the vectors are taken: an eviction in between would move the rows that were found.
        with self._namespace(spec).held() as ns:
            return self._vectors_of(ns, batch, ObservedEncoder(ns, encode, appearance, dtype), progress)

    def _vectors_of(self, ns: Namespace, batch: Batch, encoder: ObservedEncoder, progress: bool | None) -> NDArray[Any]:
        remembered = ns.remembered(batch)
        if remembered is not None:
            self._check_others(ns, remembered, encoder, progress)
            self._note_hits(ns, batch.size)
            return ns.take(remembered)
        keys = batch.keys
        rows = self._find(ns, keys, progress)
        self._check_others(ns, rows, encoder, progress)
        missing = np.flatnonzero(rows == ABSENT)
        self._note_hits(ns, len(keys) - len(missing))
        self.stats.add(misses=len(missing))
        distinct, which = first_of_each(keys[missing])
        if len(missing) and self.only_cached:
            raise _cache_miss(ns.spec, keys, missing)
        with progress_bar("encode", len(distinct), progress) as advance:
            kept_out = self._encode_missing(ns, keys, missing[distinct], encoder, advance)
        if not len(keys):
            known = ns.dtype is not None or self.only_cached
            return np.empty((0, *(ns.shape or (0,))), ns.dtype or np.float32) if known else encoder(missing)
        rows[missing] = ns.find(keys[missing])
        if kept_out:
            return gathered(
                ns, rows, dict(zip(missing.tolist(), missing[distinct][which].tolist(), strict=True)), kept_out
            )
        ns.remember(batch, rows)
        return ns.take(rows)

    def get(self, texts: Iterable[str] | Batch, spec: EncoderSpec) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return the cached vectors of texts, from the mirror or the repository. Nothing is encoded.

        Args:
            texts: n texts, or items of any kind as a `Batch`.
            spec: The encoder's identity.

        Returns:
            (n, *shape) vectors, zero for texts that were not found, and an (n,) bool mask of the texts that were found.
            While no vector of the spec is known, the vectors have shape (n, 0).
        """
        keys = _keys_of(texts)
        if self._is_unknown(spec):
            self.stats.add(misses=len(keys))
            return np.zeros((len(keys), 0), np.float32), np.zeros(len(keys), np.bool_)
        with self._namespace(spec).held() as ns:
            rows = self._find(ns, keys, self.progress)
            is_hit = rows != ABSENT
            self._note_hits(ns, int(is_hit.sum()))
            self.stats.add(misses=int((~is_hit).sum()))
            vectors = np.zeros((len(keys), *(ns.shape or (0,))), ns.dtype or np.float32)
            if is_hit.any():
                vectors[is_hit] = ns.take(rows[is_hit])
        return vectors, is_hit

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
        keys = _keys_of(texts)
        array = storable(as_array(vectors, dtype), len(keys))
        finite = finite_rows(array)
        _warn_of_infinite(int((~finite).sum()), spec)
        return self._store(self._namespace(spec), keys[finite], array[finite])

    def explain(self, text: str, spec: EncoderSpec) -> sync.Explanation:
        """Explain where the vector of a text is, or why it is a miss. Nothing is encoded or changed.

        The keys of packs that the mirror does not know are read from the repository, which can take a while.

        Args:
            text: The text without the prompt.
            spec: The encoder's identity.
        """
        self._check_open()
        not_asked = "The repository was not asked, because the cache is offline." if self.offline else None
        asked = None if self.offline else self.repository
        return sync.explain(
            self.mirror,
            asked,
            _spec(spec),
            keys_of_texts([text]),
            not_asked=None if self.repository is None else not_asked,
        )

    def pull(self, namespaces: Iterable[str] | None = None) -> sync.Report:
        """Download packs that the mirror does not have: of some namespaces, or of all.

        Raises:
            ConfigurationError: If there is no remote, or the cache is offline.
            RemoteError: If the remote is unreachable or refuses a request.
            IncompleteListing: If the repository does not list packs that it is known to have.
        """
        return self._pull(namespaces, self.progress)

    def _pull(self, namespaces: Iterable[str] | None, progress: bool | None) -> sync.Report:
        repository = self._remote("pull from")
        requested = _checked_namespaces(namespaces)
        with self._no_empty_mirror():
            report = sync.pull(self.mirror, repository, requested, progress=progress)
        self.stats.add(bytes_pulled=report.bytes)
        self._pulled.update([ns.spec.namespace for ns in self.mirror.namespaces()] if requested is None else requested)
        return report

    @contextmanager
    def _no_empty_mirror(self) -> Iterator[None]:
        """Delete a mirror that this cache created if the block, which would fill it, fails. The next use creates it."""
        try:
            yield
        except BaseException:
            self._remove_empty_mirror()
            raise

    def _remove_empty_mirror(self) -> None:
        self._is_mirror_removed = self._is_mirror_removed or self.mirror.remove_if_new_and_empty()

    def _restore_mirror(self) -> None:
        self._check_open()
        if self._is_mirror_removed:
            self.mirror = Mirror(self.mirror.directory)
            self._is_mirror_removed = False

    def pull_keys(self, namespaces: Iterable[str] | None = None) -> sync.Report:
        """Download the keys of a repository's packs: of some namespaces, or of all. Prepares a `lazy` cache for a run.

        Raises:
            The same errors as `pull`.
        """
        requested = _checked_namespaces(namespaces)
        repository = self._remote("pull from")
        with self._no_empty_mirror():
            report = sync.pull_keys(self.mirror, repository, requested, progress=self.progress)
        self.stats.add(bytes_pulled=report.bytes)
        return report

    def push(self, namespaces: Iterable[str] | None = None, *, rebind: bool = False) -> sync.Report:
        """Publish the pending rows of some namespaces, or of all.

        Args:
            namespaces: Ids of the namespaces to push; None for all.
            rebind: Detach the mirror from the repository that it belongs to, and push every row to this one.

        Raises:
            ConfigurationError: If there is no remote, or the cache is offline or read-only.
            RemoteError: If the remote is unreachable or refuses a request; unpublished rows stay pending.
            RepositoryMismatch: If the mirror belongs to another repository.
            IncompleteListing: If the repository that the mirror belongs to does not exist.
        """
        repository = self._remote("push to")
        if self.read_only:
            raise ConfigurationError(
                "The cache is read-only: nothing is pushed. Open it with read_only=False, or unset CAS_CACHE_READ_ONLY."
            )
        requested = _checked_namespaces(namespaces)
        if rebind:
            self.mirror.rebind()
        sync.connect(self.mirror, repository)
        report = sync.push(self.mirror, repository, requested, progress=self.progress)
        self.stats.add(bytes_pushed=report.bytes)
        return report

    def sync(self, namespaces: Iterable[str] | None = None) -> tuple[sync.Report, sync.Report]:
        """Pull, then push."""
        requested = _checked_namespaces(namespaces)
        return self.pull(requested), self.push(requested)

    def flush(self) -> None:
        """Push pending rows now, if pushing is automatic. The cache stays open."""
        self._check_open()
        if self._pusher is not None:
            self._automatic(self._pusher.close, PUSH_PROBLEMS)

    def close(self) -> None:
        """Push pending rows, if pushing is automatic, and release all locks, maps, threads and connections.

        A push that fails or is interrupted leaves its rows pending in the mirror; the cache is closed in any case.
        Returned arrays stay valid. Closing again does nothing; any other use raises `AlreadyClosed`.
        """
        if self._closed:
            return
        try:
            self.flush()
        finally:
            self._closed = True
            self.mirror.close()
            if self.repository is not None:
                self.repository.storage.close()

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._closed

    def _check_open(self) -> None:
        if self._closed:
            raise AlreadyClosed(f"{self!r} is closed. Open the cache again: EmbeddingCache(...).")

    def _namespace(self, spec: EncoderSpec) -> Namespace:
        self._restore_mirror()
        return self.mirror.namespace(_spec(spec))

    def _is_unknown(self, spec: EncoderSpec) -> bool:
        """Return True if no look-up can find a row of a spec. Create nothing for it: the disk may be full."""
        self._check_open()
        return self.mirror.get(_spec(spec).namespace) is None and not self._reachable

    def _find(self, ns: Namespace, keys: NDArray[np.uint8], progress: bool | None) -> NDArray[np.int64]:
        """Return the rows of keys; ask the repository once per namespace if keys are missing.

        A lazy cache first pulls the keys of the namespace, and then requests the vectors that are missing from the
        mirror.
        """
        rows = ns.find(keys)
        namespace = ns.spec.namespace
        if namespace not in self._pulled and self._reachable and (rows == ABSENT).any():
            self._automatic(lambda: self._pull_one(namespace, progress), PULL_PROBLEMS)
            rows = ns.find(keys)
        if self.lazy and self._reachable and (rows == ABSENT).any():
            self._automatic(lambda: self._pull_rows(namespace, keys[rows == ABSENT], progress), PULL_PROBLEMS)
            rows = ns.find(keys)
        return rows

    @property
    def _reachable(self) -> bool:
        return self.repository is not None and not self.offline and time.monotonic() >= self._retry_at

    def _pull_one(self, namespace: str, progress: bool | None) -> None:
        if self.lazy:
            report = sync.pull_keys(self.mirror, self._remote("pull from"), [namespace], progress=progress)
            self.stats.add(bytes_pulled=report.bytes)
        else:
            report = self._pull([namespace], progress)
        self._pulled.add(namespace)
        self._tell_problems(report)

    def _pull_rows(self, namespace: str, keys: NDArray[np.uint8], progress: bool | None) -> None:
        report = sync.pull_rows(self.mirror, self._remote("pull from"), namespace, keys, progress=progress)
        self.stats.add(bytes_pulled=report.bytes)
        self._tell_problems(report)

    def _tell_problems(self, report: Report) -> None:
        if report.untrusted and not self._warned_untrusted:
            self._warned_untrusted = True
            warnings.warn(
                f"Skipped {pluralize(len(report.untrusted), 'pack')} that no trusted key has signed. Rows that no "
                "other pack has are encoded again. `cas-cache check --repository` names them and says why.",
                DataWarning,
                stacklevel=7,
            )
        if report.problems:
            if self.on_remote_error == "raise":
                raise report.problems.pop(0)  # popped, because the traceback's frames hold the report
            warnings.warn(
                f"{len(report.problems)} packs were skipped. Rows that no other pack has are encoded again. "
                f"The first: {report.problems[0]}",
                DataWarning,
                stacklevel=7,
            )

    def _check_others(self, ns: Namespace, rows: Rows, encoder: ObservedEncoder, progress: bool | None) -> None:
        """Compare some of the rows that others pushed, or that another encoder made, with this encoder's vectors."""
        if not self.self_check or self.only_cached:
            return
        remote = () if self.repository is None else ("--remote", self.repository.url)
        location = (str(self.mirror.directory), *remote)
        check = SelfCheck(self.self_check, self.max_self_check, self.chunk_items, location, self._note_checked)
        check.check(ns, rows, encoder, progress)

    def _encode_missing(
        self,
        ns: Namespace,
        keys: NDArray[np.uint8],
        positions: NDArray[np.int64],
        encoder: ObservedEncoder,
        advance: Callable[[int], object],
    ) -> dict[int, NDArray[Any]]:
        """Encode and commit one chunk at a time; return the vectors that must not be stored, by position."""
        kept_out: dict[int, NDArray[Any]] = {}
        if len(positions):
            self._check_writable(ns)
        sizes = ChunkSizes(self.chunk_items, self._pace_of(ns).last)
        for chunk, vectors in in_chunks(positions, encoder, sizes, lambda pace: self._note_encoded(ns, pace)):
            finite = finite_rows(vectors)
            if finite.all():  # usually true, and avoids a copy of the chunk
                self._store(ns, keys[chunk], vectors, encoder.id)
            else:
                self._store(ns, keys[chunk[finite]], vectors[finite], encoder.id)
                kept_out.update(zip(chunk[~finite].tolist(), vectors[~finite], strict=True))
            advance(len(chunk))
        _warn_of_infinite(len(kept_out), ns.spec)
        return kept_out

    def _check_writable(self, ns: Namespace) -> None:
        """Raise an error if rows cannot be stored, before anything is paid for."""
        ns.check_writable()
        storage = None if self.repository is None else self.repository.storage
        if self._pusher is not None and isinstance(storage, LocalStorage):
            storage.check_file_system()

    def _store(
        self, ns: Namespace, keys: NDArray[np.uint8], vectors: NDArray[Any], appearance: str | None = None
    ) -> int:
        new = ns.append(keys, vectors, appearance=appearance)
        if self._pusher is not None:
            self._pusher.notify(new * ns.row_bytes)
        return new

    def _note_hits(self, ns: Namespace, hits: int) -> None:
        if hits:
            self.stats.note_hits(ns.spec.namespace, hits, ns.row_bytes, self._pace_of(ns).pace)

    def _note_checked(self, rows: int, seconds: float) -> None:
        self.stats.add(checked=rows, encoder_seconds=seconds)

    def _note_encoded(self, ns: Namespace, measured: Pace) -> None:
        pace = self._pace_of(ns)
        pace.add(measured)
        self.stats.note_encoded(ns.spec.namespace, measured, pace.pace)

    def _pace_of(self, ns: Namespace) -> PaceFile:
        known = self._paces.get(ns.spec.namespace)
        return known or self._paces.setdefault(ns.spec.namespace, PaceFile(ns.folder))

    def _remote(self, verb: str) -> Repository:
        self._restore_mirror()
        if self.repository is None:
            raise ConfigurationError(
                f"There is no remote to {verb}. Name one: remote=, on the command line --remote, or CAS_CACHE_REMOTE."
            )
        if self.offline:
            raise ConfigurationError(
                f"The cache is offline: there is nothing to {verb}. Open it with offline=False, or unset "
                "CAS_CACHE_OFFLINE."
            )
        return self.repository

    def _automatic(self, action: Callable[[], object], expected: tuple[type[Exception], ...]) -> None:
        """Run an implicit pull or push; turn expected remote errors into one warning."""
        try:
            action()
        except expected as err:
            is_wrong = expected is PULL_PROBLEMS and isinstance(err, BucketNotFound)
            if is_wrong or self.on_remote_error == "raise":
                raise
            if expected is PULL_PROBLEMS:
                # A failed push, for example for lack of permission, does not mean that reads fail.
                self._retry_at = time.monotonic() + RETRY_SECONDS
            logger.info("going on without the remote: %s", err)
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"Going on without the remote: {err} What is encoded stays pending in the mirror "
                    f"{self.mirror.directory} and goes up at the next push.",
                    RemoteWarning,
                    stacklevel=4,
                )


def _spec(spec: object) -> EncoderSpec:
    if not isinstance(spec, EncoderSpec):
        msg = f"spec is a {type(spec).__name__}; pass an EncoderSpec, which says whose vectors these are"
        raise TypeError(msg)
    return spec


def _keys_of(items: Iterable[str] | Batch) -> NDArray[np.uint8]:
    return items.keys if isinstance(items, Batch) else keys_of_texts(items)


def _cache_miss(spec: EncoderSpec, keys: NDArray[np.uint8], missing: NDArray[np.int64]) -> CacheMiss:
    """Return the error for the missing items at the given positions of a call."""
    distinct, _ = first_of_each(keys[missing])
    positions = tuple(int(p) for p in missing[distinct][:10])
    return CacheMiss(
        f"{len(distinct)} of {len(first_of_each(keys)[0])} distinct items are not in the cache of {spec.model} "
        f"(namespace {spec.namespace}), and only_cached=True forbids encoding them. The first is item "
        f"{positions[0]} of the call. Run once without only_cached, or pull.",
        positions=positions,
        missing=len(distinct),
    )


def _warn_of_infinite(count: int, spec: EncoderSpec) -> None:
    if count:
        warnings.warn(
            f"{count} vectors of {spec.model} hold NaN or infinity. They were given back, not stored.",
            DataWarning,
            stacklevel=4,
        )


def _checked_namespaces(namespaces: Iterable[str] | None) -> list[str] | None:
    """Return namespace ids as a list; reject anything else before a request is made."""
    if namespaces is None:
        return None
    requested = [namespaces] if isinstance(namespaces, str) else list(namespaces)
    for namespace in requested:
        if not NAMESPACE_ID.fullmatch(namespace):
            raise ConfigurationError(
                f"{namespace!r} is not a namespace id: 32 hex digits, as `EncoderSpec.namespace` and `cas-cache ls "
                "--json` give them."
            )
    return requested


def _check_amount(name: str, value: float | None, least: int, advice: str) -> None:
    if value is not None and not value >= least:  # also true for NaN
        raise ConfigurationError(f"{name} is {value}; {advice}.")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigurationError(f"{name}={value!r} is not one of {', '.join(map(repr, choices))}.")
