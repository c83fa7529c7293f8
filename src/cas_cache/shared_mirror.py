"""A mirror and the repository that it shares with: opened, pulled, pushed, copied and closed together.

This is what a cache does apart from vectors. Explicit pulls and pushes raise every error. Implicit ones, which a
look-up or a commit starts, do not stop a run (see `remote_errors`).
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Self

from cas_cache import sync
from cas_cache.background import PUSH_SECONDS, BackgroundPush
from cas_cache.config.keyring import Signing, trust_of
from cas_cache.config.locations import options_of, places
from cas_cache.config.options import check_options, checked_namespaces
from cas_cache.config.settings import Settings
from cas_cache.errors import AlreadyClosed, ConfigurationError
from cas_cache.mirror import Mirror
from cas_cache.mirror.index import ABSENT
from cas_cache.remote_errors import RemoteErrors
from cas_cache.reopening import OPEN_IN_THE_WORKER, check_portable, reopen
from cas_cache.repository import Repository
from cas_cache.self_check import MIN_ROWS
from cas_cache.stats import Stats
from cas_cache.storage import open_storage
from cas_cache.storage.local import LocalStorage
from cas_cache.upload import Upload

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from cas_cache.mirror import Namespace
    from cas_cache.sync import SyncReport

_OPTIONS = (
    "read_only",
    "offline",
    "only_cached",
    "lazy",
    "self_check",
    "max_self_check",
    "on_remote_error",
    "chunk_items",
    "progress",
)
"""Options that are attributes, and may be changed while the cache is open."""


class SharedMirror:
    """A mirror and, if a remote is named, the repository that it shares with. See `EmbeddingCache` for the arguments.

    Attributes:
        mirror: The local mirror.
        stats: Statistics since it was opened.
    """

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
        signing: Signing | None = None,
    ) -> None:
        check_options(push, on_remote_error, chunk_items, self_check, max_self_check, push_seconds)
        settings = Settings.read()
        storage_options = options_of(location, remote, storage_options)
        directory, url = places(location, remote, settings)
        if url is None and storage_options:
            raise ConfigurationError("storage_options are for a remote, and none is named. Pass remote=.")
        self.offline = settings.offline if offline is None else offline
        self.read_only = settings.read_only if read_only is None else read_only
        self.only_cached = settings.only_cached if only_cached is None else only_cached
        self.lazy = settings.lazy if lazy is None else lazy
        rows_to_check = settings.self_check if self_check is None else self_check
        self.self_check = MIN_ROWS if rows_to_check is None else rows_to_check
        self.max_self_check = settings.max_self_check if max_self_check is None else max_self_check
        self.on_remote_error = on_remote_error
        self.chunk_items = chunk_items
        trusted, signer = trust_of(settings, signing)
        storage = None if url is None else open_storage(url, storage_options, later=self.offline)
        repository = None if storage is None else Repository(storage, trust=trusted, signer=signer)
        self.mirror = Mirror(directory)
        self.mirror.check_trust(None if trusted is None else trusted.keys)
        stats = self.stats = Stats()
        shown = settings.progress if progress is None else progress
        self._upload = Upload(self.mirror.directory, repository, lambda sent: stats.add(bytes_pushed=sent), shown)
        # The arguments of a copy, in addition to `_OPTIONS`. The path of a repository is made absolute: a relative one
        # would mean another directory in a process that runs elsewhere.
        self._given: dict[str, Any] = {
            "remote": storage.url if isinstance(storage, LocalStorage) else url,
            "storage_options": storage_options,
            "push": push,
            "push_seconds": settings.push_seconds if push_seconds is None else push_seconds,
            "signing": (signing or Signing()).with_settings(settings),
        }
        self._opened = repository
        self._closed = False
        self._is_mirror_removed = False
        self._pulled: set[str] = set()
        self._remote_errors = RemoteErrors(self.mirror.directory)
        self._pusher = None
        if push == "background" and repository is not None and not (self.offline or self.read_only):
            repository.require_signer()  # before anything is paid for
            self._pusher = self._started_pusher(self._given["push_seconds"])

    def _started_pusher(self, seconds: float | None) -> BackgroundPush:
        pusher = BackgroundPush(self._upload, seconds=PUSH_SECONDS if seconds is None else seconds)
        # A push also writes to the mirror: it records which rows were pushed.
        if os.access(self.mirror.directory, os.W_OK):
            pusher.resume()
        return pusher

    def __repr__(self) -> str:
        remote = f", remote={self.repository.url!r}" if self.repository else ""
        return f"{type(self).__name__}({str(self.mirror.directory)!r}{remote})"

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
        options = {name: getattr(self, name) for name in _OPTIONS}
        return {**self._given, **options, "location": str(self.mirror.directory)}

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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        finally:
            if exc_type is not None:
                self._remove_empty_mirror()

    def pull(self, namespaces: Iterable[str] | None = None) -> SyncReport:
        """Download packs that the mirror does not have: of some namespaces, or of all.

        Raises:
            ConfigurationError: If there is no remote, or the cache is offline.
            RemoteError: If the remote is unreachable or refuses a request.
            IncompleteListing: If the repository does not list packs that it is known to have.
        """
        return self._pull(checked_namespaces(namespaces), self.progress)

    def pull_keys(self, namespaces: Iterable[str] | None = None) -> SyncReport:
        """Download the keys of a repository's packs: of some namespaces, or of all. Prepares a `lazy` cache for a run.

        Raises:
            The same errors as `pull`.
        """
        return self._pull_keys(checked_namespaces(namespaces), self.progress)

    def push(self, namespaces: Iterable[str] | None = None, *, rebind: bool = False) -> SyncReport:
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
        requested = checked_namespaces(namespaces)
        if rebind:
            self.mirror.rebind()
        sync.connect(self.mirror, repository)
        report = sync.push(self.mirror, repository, requested, progress=self.progress)
        self.stats.add(bytes_pushed=report.bytes)
        return report

    def sync(self, namespaces: Iterable[str] | None = None) -> tuple[SyncReport, SyncReport]:
        """Pull, then push."""
        requested = checked_namespaces(namespaces)
        return self.pull(requested), self.push(requested)

    def flush(self) -> None:
        """Push pending rows now, if pushing is automatic. The cache stays open."""
        self._check_open()
        if self._pusher is not None:
            self._remote_errors.survive(self._pusher.close, during="push", policy=self.on_remote_error)

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

    def summary(self) -> str:
        """Return two or three lines that say what the cache did and what is still pending."""
        pending = self._upload.pending()
        did = self.stats.summary()
        return did if pending is None else f"{did}\n{pending}. To push the pending rows: {pending.command}"

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._closed

    def _check_open(self) -> None:
        if self._closed:
            raise AlreadyClosed(f"{self!r} is closed. Open the cache again: EmbeddingCache(...).")

    def _remote(self, verb: str) -> Repository:
        self._open_mirror()
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

    def _pull(self, namespaces: list[str] | None, progress: bool | None) -> SyncReport:
        repository = self._remote("pull from")
        with self._no_empty_mirror():
            report = sync.pull(self.mirror, repository, namespaces, progress=progress)
        self.stats.add(bytes_pulled=report.bytes)
        self._pulled.update(self.mirror.ids() if namespaces is None else namespaces)
        return report

    def _pull_keys(self, namespaces: list[str] | None, progress: bool | None) -> SyncReport:
        repository = self._remote("pull from")
        with self._no_empty_mirror():
            report = sync.pull_keys(self.mirror, repository, namespaces, progress=progress)
        self.stats.add(bytes_pulled=report.bytes)
        return report

    @property
    def _is_reachable(self) -> bool:
        return self.repository is not None and not self.offline and not self._remote_errors.paused

    def _pull_missing(self, ns: Namespace, keys: NDArray[np.uint8], progress: bool | None) -> bool:
        """Ask the repository for rows that the mirror lacks: once per namespace and, if lazy, for each of them.

        Returns:
            True if the repository was asked, so that the mirror may have some of the rows now.
        """
        namespace, asked = ns.spec.namespace, False

        def pull_namespace() -> None:
            report = (self._pull_keys if self.lazy else self._pull)([namespace], progress)
            self._pulled.add(namespace)
            self._remote_errors.report(report, policy=self.on_remote_error)

        def pull_rows() -> None:
            absent = keys[ns.find(keys) == ABSENT] if asked else keys
            report = sync.pull_rows(self.mirror, self._remote("pull from"), namespace, absent, progress=progress)
            self.stats.add(bytes_pulled=report.bytes)
            self._remote_errors.report(report, policy=self.on_remote_error)

        if namespace not in self._pulled and self._is_reachable:
            self._remote_errors.survive(pull_namespace, during="pull", policy=self.on_remote_error)
            asked = True
        if self.lazy and self._is_reachable:
            self._remote_errors.survive(pull_rows, during="pull", policy=self.on_remote_error)
            asked = True
        return asked

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

    def _open_mirror(self) -> Mirror:
        """Return the mirror; create it again if a failed pull deleted it."""
        self._check_open()
        if self._is_mirror_removed:
            self.mirror = Mirror(self.mirror.directory)
            self._is_mirror_removed = False
        return self.mirror
