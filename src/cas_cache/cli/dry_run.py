"""``--dry-run`` of `pull`, `push` and `sync`: what they would move, by comparing both sides. Nothing is created."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cas_cache.cli.options import existing_mirror, known_remote, open_mirror, open_repository
from cas_cache.config.locations import places
from cas_cache.config.settings import Settings
from cas_cache.errors import ConfigurationError

if TYPE_CHECKING:
    from cas_cache.cli.filters import Filters
    from cas_cache.mirror import Mirror
    from cas_cache.repository import Repository
    from cas_cache.sync import SyncReport, SyncStatus


@dataclass(frozen=True, slots=True)
class SyncTarget:
    """The objects that the options name: CACHE, ``--remote``, ``--storage-option`` and filters."""

    cache: str | None
    remote: str | None
    storage_options: tuple[str, ...]
    filters: Filters

    def repository(self, verb: str, *, writes: bool) -> Repository:
        """Return the repository; send no request.

        Raises:
            ConfigurationError: If no repository is named, the cache is offline, or it is read-only and this `writes`.
        """
        if places(self.cache, known_remote(self.cache, self.remote), Settings.read())[1] is None:
            raise ConfigurationError(f"There is no remote to {verb}. Name one: --remote, or CAS_CACHE_REMOTE.")
        return open_repository(self.cache, self.remote, self.storage_options, verb=verb, writes=writes)

    def mirror(self) -> Mirror:
        """Return the mirror.

        Raises:
            NotAMirror: If it does not exist.
        """
        return open_mirror(self.cache, self.remote)

    def chosen(self, statuses: list[SyncStatus], mirror: Mirror | None) -> list[SyncStatus]:
        """Return the namespaces that match the filters.

        Raises:
            ConfigurationError: If a filter value matches no namespace.
        """
        if not self.filters:
            return statuses
        chosen = set(self.filters.chosen({status.namespace: status.spec for status in statuses}, mirror))
        return [status for status in statuses if status.namespace in chosen]


def would_pull(target: SyncTarget) -> SyncReport:
    """Return the maximum that a pull would download. A missing mirror is not created."""
    from cas_cache.sync import pull_of, status_of

    repository = target.repository("pull from", writes=False)
    mirror = existing_mirror(places(target.cache, target.remote, Settings.read())[0])
    if mirror is None or mirror.repository is None:
        repository.must_exist()
    statuses, problems = status_of(mirror, repository)
    return pull_of(target.chosen(statuses, mirror), problems)


def would_push(target: SyncTarget, *, rebind: bool) -> SyncReport:
    """Return what a push would send. A missing repository is not created."""
    from cas_cache.sync import local_status, peek, push_of

    mirror = target.mirror()
    repository = target.repository("push to", writes=True)
    peek(None if rebind else mirror, repository)
    statuses, problems = local_status(mirror)
    return push_of(target.chosen(statuses, mirror), problems, rebind=rebind)


def would_sync(target: SyncTarget) -> tuple[SyncReport, SyncReport]:
    """Return what a sync would download, and what it would send."""
    from cas_cache.sync import SyncReport, pull_of, push_of, status_of

    mirror = target.mirror()
    statuses, problems = status_of(mirror, target.repository("sync with", writes=True))
    chosen = target.chosen(statuses, mirror)
    return pull_of(chosen, problems), push_of(chosen, SyncReport())
