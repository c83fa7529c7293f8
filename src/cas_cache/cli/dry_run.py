"""``--dry-run`` of `pull`, `push` and `sync`: what they would move, by comparing both sides. Nothing is created."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cas_cache.cli.options import known_remote, mirror_if_there, open_mirror, open_repository
from cas_cache.errors import ConfigurationError
from cas_cache.location import places
from cas_cache.settings import Settings

if TYPE_CHECKING:
    from cas_cache.cli.filters import Filters
    from cas_cache.mirror import Mirror
    from cas_cache.repository import Repository
    from cas_cache.sync import Report, Standing


@dataclass(frozen=True, slots=True)
class Named:
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

    def chosen(self, found: list[Standing], mirror: Mirror | None) -> list[Standing]:
        """Return the namespaces that match the filters.

        Raises:
            ConfigurationError: If a filter value matches no namespace.
        """
        if not self.filters:
            return found
        chosen = set(self.filters.chosen({one.namespace: one.spec for one in found}, mirror))
        return [one for one in found if one.namespace in chosen]


def would_pull(named: Named) -> Report:
    """Return the maximum that a pull would download. A missing mirror is not created."""
    from cas_cache.sync import pull_of, standing

    repository = named.repository("pull from", writes=False)
    mirror = mirror_if_there(places(named.cache, named.remote, Settings.read())[0])
    if mirror is None or mirror.repository is None:
        repository.must_be_there()
    found, problems = standing(mirror, repository)
    return pull_of(named.chosen(found, mirror), problems)


def would_push(named: Named, *, rebind: bool) -> Report:
    """Return what a push would send. A missing repository is not created."""
    from cas_cache.sync import look, push_of, standing_here

    mirror = named.mirror()
    repository = named.repository("push to", writes=True)
    look(None if rebind else mirror, repository)
    found, problems = standing_here(mirror)
    return push_of(named.chosen(found, mirror), problems, rebind=rebind)


def would_sync(named: Named) -> tuple[Report, Report]:
    """Return what a sync would download, and what it would send."""
    from cas_cache.sync import Report, pull_of, push_of, standing

    mirror = named.mirror()
    found, problems = standing(mirror, named.repository("sync with", writes=True))
    chosen = named.chosen(found, mirror)
    return pull_of(chosen, problems), push_of(chosen, Report())
