"""The cache that a command line names: CACHE, ``--remote`` and ``--storage-option``.

A command of one side takes the mirror or the repository of whatever is named. A command that can look at either side
looks at the one that is named: see `Target.is_repository`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cas_cache.cli.output import bars_wanted
from cas_cache.config.locations import places
from cas_cache.config.settings import Settings, expanded
from cas_cache.config.urls import is_url
from cas_cache.errors import ConfigurationError, NotAMirror, RepositoryMismatch
from cas_cache.format import layout
from cas_cache.mirror import Mirror

if TYPE_CHECKING:
    from cas_cache.cache import EmbeddingCache
    from cas_cache.repository import Repository


@dataclass(frozen=True, slots=True)
class Target:
    """The arguments of a command that say where the cache is.

    Attributes:
        cache: Directory of a mirror, or URL or directory of a repository; None for the settings.
        remote: The value of ``--remote``.
        storage_options: The values of ``--storage-option``.
    """

    cache: str | None
    remote: str | None = None
    storage_options: dict[str, str | bool] = field(default_factory=dict)

    def is_repository(self, side: str | None) -> bool:
        """Return True if a command that can look at either side looks at the repository.

        That is the side that the command line names: a URL, the directory of a repository or ``--remote`` is a
        repository; everything else is a mirror.

        Args:
            side: "repository" or "mirror", if an option chooses the side.

        Raises:
            click.UsageError: If both sides are named and no option chooses, or a mirror has storage options.
        """
        names_both = self.cache is not None and self.remote is not None and not self.cache_is_repository
        if side is None and names_both:
            raise click.UsageError("Both a mirror and a repository are named. Choose with --mirror or --repository.")
        repository = self.cache_is_repository or self.remote is not None if side is None else side == "repository"
        if self.storage_options and not repository:
            raise click.UsageError("--storage-option is for a repository: name its URL, or add --repository.")
        return repository

    @property
    def cache_is_repository(self) -> bool:
        """True if CACHE is a URL, or the directory of a repository."""
        return self.cache is not None and (is_url(self.cache) or (expanded(self.cache) / layout.MARKER).is_file())

    @property
    def directory(self) -> Path | str:
        """The mirror's directory."""
        return places(self.cache, self.remote, Settings.read())[0]

    def known_remote(self) -> str | None:
        """Return ``--remote``; if nothing names a remote, the repository at CACHE or of its mirror.

        Raises:
            ConfigurationError: If two remotes are named, or a remote's name is misspelt.
            DamagedMirror: If the mirror's marker cannot be read.
        """
        if self.remote is not None or self.cache is None or is_url(self.cache):
            return self.remote
        if self.cache_is_repository:
            return str(expanded(self.cache).absolute())
        if places(self.cache, None, Settings.read())[1] is not None:
            return None
        try:
            return Mirror(self.cache, create=False).repository_url
        except NotAMirror:
            return None

    def repository_url(self) -> str | None:
        """Return the URL of the repository; None if there is none.

        Raises:
            ConfigurationError: See `known_remote`.
            DamagedMirror: See `known_remote`.
        """
        return places(self.cache, self.known_remote(), Settings.read())[1]

    def repository(self, verb: str, *, writes: bool = False) -> Repository:
        """Return the repository; send no request.

        Args:
            verb: What the command does with it, for messages.
            writes: True if the command changes the repository.

        Raises:
            click.UsageError: If no repository is named.
            ConfigurationError: If the cache is offline, or it is read-only and the command `writes`.
        """
        from cas_cache.config.keyring import trust_of
        from cas_cache.repository import Repository
        from cas_cache.storage import open_storage

        settings = Settings.read()
        url = self.repository_url()
        if url is None:
            raise click.UsageError(
                f"There is no repository to {verb}. Name its URL, pass --remote (a directory works too), or set "
                "CAS_CACHE_REMOTE."
            )
        if settings.offline:
            raise ConfigurationError(f"The cache is offline: there is nothing to {verb}. Unset CAS_CACHE_OFFLINE.")
        if writes and settings.read_only:
            raise ConfigurationError(f"The cache is read-only: there is nothing to {verb}. Unset CAS_CACHE_READ_ONLY.")
        trust, signer = trust_of(settings)
        return Repository(open_storage(url, self.storage_options or None), trust=trust, signer=signer)

    def repository_to_sync(self, verb: str, *, writes: bool) -> Repository:
        """Return the repository for a dry run of a transfer, with the error of the transfer if none is named.

        Raises:
            ConfigurationError: If no repository is named. See `repository` for others.
        """
        if self.repository_url() is None:
            raise ConfigurationError(f"There is no remote to {verb}. Name one: --remote, or CAS_CACHE_REMOTE.")
        return self.repository(verb, writes=writes)

    def open(self) -> EmbeddingCache:
        """Open the cache. Only commands that push send rows."""
        from cas_cache.cache import EmbeddingCache

        return EmbeddingCache(
            self.cache,
            remote=self.known_remote(),
            storage_options=self.storage_options or None,
            push="manual",
            progress=bars_wanted(),
        )

    def mirror(self) -> Mirror:
        """Open the mirror; never create it.

        Raises:
            NotAMirror: If it does not exist.
        """
        return Mirror(self.directory, create=False)

    def trusted_mirror(self) -> Mirror:
        """Open the mirror for a command that outputs its rows.

        Raises:
            NotAMirror: If it does not exist.
            UntrustedMirror: If it has rows of packs that no trusted key has signed.
        """
        from cas_cache.config.keyring import trust_of

        mirror = self.mirror()
        trust, _ = trust_of(Settings.read())
        mirror.check_trust(None if trust is None else trust.keys)
        return mirror

    def mirror_if_any(self) -> Mirror | None:
        """Open the mirror if it exists; return None, and create nothing, if it does not.

        Raises:
            NotAMirror: If the path holds something else.
        """
        try:
            return self.mirror()
        except NotAMirror:
            directory = Path(self.directory).expanduser()
            if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
                raise
            return None

    def known_packs(self, repository: Repository) -> dict[str, str]:
        """Return the packs that the mirror knows to be in the repository, each with its namespace.

        Raises:
            RepositoryMismatch: If the mirror belongs to another repository.
            DamagedMirror: If a namespace of the mirror is damaged.
        """
        try:
            mirror = self.mirror()
        except NotAMirror:
            return {}
        if not repository.open() or mirror.repository is None:
            return {}
        if mirror.repository != repository.id:
            raise RepositoryMismatch(
                f"The mirror {mirror.directory} belongs to the repository at {mirror.repository_url}, not to that at "
                f"{repository.url}. Nothing was changed. Name the right one, or only --remote."
            )
        return {pack: ns.spec.namespace for ns in mirror.namespaces() for pack in ns.ledger.lasting_packs}


def must_exist_if_new(opened: EmbeddingCache) -> None:
    """Check that the repository exists before a new mirror pulls: a mistyped URL looks like an empty repository.

    Raises:
        NotARepository: If the repository does not exist.
        RemoteError: If the remote is unreachable or refuses a request.
    """
    if opened.repository is not None and not opened.offline and opened.mirror.repository is None:
        opened.repository.must_exist()
