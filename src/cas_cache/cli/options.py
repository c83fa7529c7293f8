"""Shared options of the commands, how they find the cache, and how they print results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cas_cache.cli.completion import complete_directories, complete_namespaces, complete_remotes
from cas_cache.cli.text import json_text
from cas_cache.cli.verbosity import bars_wanted, say
from cas_cache.config.locations import places
from cas_cache.config.settings import Settings, expanded
from cas_cache.config.urls import is_url
from cas_cache.display import pluralize
from cas_cache.display import size as size_of
from cas_cache.errors import ConfigurationError, NotAMirror, RepositoryMismatch
from cas_cache.format import layout
from cas_cache.identity import NAMESPACE_ID, EncoderSpec, canonical_json, parsed_json
from cas_cache.mirror import Mirror

if TYPE_CHECKING:
    from cas_cache.cache import EmbeddingCache
    from cas_cache.repository import Repository
    from cas_cache.sync import Report

MAX_NAMED = 10
"""Maximum number of namespaces that an error names."""

_F = TypeVar("_F", bound=Callable[..., Any])


def mirror_options(command: _F) -> _F:
    """Add CACHE, ``--remote`` and ``--json`` to a command."""
    command = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(command)
    command = click.option(
        "--remote",
        metavar="URL",
        shell_complete=complete_remotes,
        help="The repository, if CACHE is a directory.",
    )(command)
    return click.argument("cache", required=False, shell_complete=complete_directories)(command)


def namespace_option(name: str, purpose: str, *, required: bool = False, multiple: bool = False) -> Callable[[_F], _F]:
    """Return a decorator that adds ``-n``, ``--namespace``, which means the same on every command that has it.

    Args:
        name: The parameter that gets the value.
        purpose: A sentence that says what the command does with the namespace.
        required: True if the command needs the option.
        multiple: True if the option may be repeated.
    """
    more = " May be repeated." if multiple else ""
    return click.option(
        "-n",
        "--namespace",
        name,
        metavar="ID",
        required=required,
        multiple=multiple,
        shell_complete=complete_namespaces,
        help=f"{purpose} Give its id, or the beginning of it.{more}",
    )


def cache_options(command: _F) -> _F:
    """Add the options of `mirror_options`, and ``--storage-option``."""
    return mirror_options(storage_option(command))


def storage_option(command: _F) -> _F:
    """Add ``--storage-option`` to a command."""
    return click.option(
        "--storage-option",
        "storage_options",
        multiple=True,
        metavar="KEY=VALUE",
        help="Handed to fsspec, for example endpoint_url=http://127.0.0.1:4566. May be repeated.",
    )(command)


def dry_run_option(command: _F) -> _F:
    """Add ``--dry-run`` to a command."""
    return click.option(
        "--dry-run", is_flag=True, help="Only say what would be done; write nothing, neither locally nor remotely."
    )(command)


def open_repository(
    cache: str | None, remote: str | None, storage_options: tuple[str, ...], *, verb: str, writes: bool
) -> Repository:
    """Return the repository that the options name; send no request.

    Raises:
        click.UsageError: If they name no repository.
        ConfigurationError: If the cache is offline, or it is read-only and the command `writes`.
    """
    from cas_cache.config.keyring import trust_of
    from cas_cache.repository import Repository
    from cas_cache.storage import open_storage

    settings = Settings.read()
    _, url = places(cache, known_remote(cache, remote), settings)
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
    return Repository(open_storage(url, parsed_options(storage_options) or None), trust=trust, signer=signer)


def known_remote(cache: str | None, remote: str | None) -> str | None:
    """Return ``--remote``; if nothing names a remote, the repository that is at CACHE or that its mirror belongs to.

    Raises:
        ConfigurationError: If two remotes are named, or a remote's name is misspelt.
        DamagedMirror: If the mirror's marker cannot be read.
    """
    if remote is not None or cache is None or is_url(cache):
        return remote
    if names_repository(cache):
        return str(expanded(cache).absolute())
    _, url = places(cache, None, Settings.read())
    if url is not None:
        return None
    try:
        return Mirror(cache, create=False).repository_url
    except NotAMirror:
        return None


def names_repository(cache: str | None) -> bool:
    """Return True if CACHE is a URL, or the directory of a repository."""
    return cache is not None and (is_url(cache) or (expanded(cache) / layout.MARKER).is_file())


def full_namespace(repository: Repository, beginning: str) -> str:
    """Return the id of the repository's namespace that starts with `beginning`. A complete id is returned unchecked.

    Raises:
        ConfigurationError: If there is no such namespace, or more than one.
        RemoteError: If the storage is unreachable or refuses a request.
    """
    if NAMESPACE_ID.fullmatch(beginning):
        return beginning
    repository.must_exist()
    namespaces = sorted({namespace for namespace, _ in repository.packs()})
    matches = [namespace for namespace in namespaces if namespace.startswith(beginning)]
    if len(matches) != 1 or not beginning:
        listing = ", ".join(namespaces[:MAX_NAMED]) or "(none)"
        raise ConfigurationError(
            f"{pluralize(len(matches), 'namespace')} of {repository.url} begin with {beginning!r}. "
            f"Name one by its id, or so much of it that it is the only one. "
            f"It has {listing}{', ...' if len(namespaces) > MAX_NAMED else ''}."
        )
    return matches[0]


def spec_in_file(path: Path) -> EncoderSpec:
    """Return the spec in a file: a spec document, or the output of `cas-cache info --json`.

    Raises:
        ConfigurationError: If the file cannot be read as JSON.
        IdentityError: If it is not an encoder spec.
    """
    try:
        document = parsed_json(path.read_bytes())
    except (OSError, ValueError) as err:
        raise ConfigurationError(
            f"{path} cannot be read as JSON ({err}). Write it with `cas-cache info CACHE --namespace ID --json`."
        ) from err
    inner = document.get("spec") if isinstance(document, dict) else None
    return EncoderSpec.from_canonical(canonical_json(document if inner is None else inner))


def known_packs(cache: str | None, remote: str | None, repository: Repository) -> dict[str, str]:
    """Return the packs that CACHE's mirror knows to be in the repository, each with its namespace.

    Raises:
        RepositoryMismatch: If the mirror belongs to another repository.
        DamagedMirror: If a namespace of the mirror is damaged.
    """
    directory, _ = places(cache, remote, Settings.read())
    try:
        mirror = Mirror(directory, create=False)
    except NotAMirror:
        return {}
    if not repository.open() or mirror.repository is None:
        return {}
    if mirror.repository != repository.id:
        raise RepositoryMismatch(
            f"The mirror {mirror.directory} belongs to the repository at {mirror.repository_url}, not to that at "
            f"{repository.url}. Nothing was changed. Name the right one, or only --remote."
        )
    return {pack: ns.spec.namespace for ns in mirror.namespaces() for pack in ns.lasting_packs}


def open_cache(
    cache: str | None,
    remote: str | None,
    storage_options: tuple[str, ...],
    **options: Any,
) -> EmbeddingCache:
    """Open the cache that the options name. Only commands that push send rows."""
    from cas_cache.cache import EmbeddingCache

    return EmbeddingCache(
        cache,
        remote=known_remote(cache, remote),
        storage_options=parsed_options(storage_options) or None,
        push="manual",
        progress=bars_wanted(),
        **options,
    )


def open_mirror(cache: str | None, remote: str | None) -> Mirror:
    """Open the mirror that the options name; never create it.

    Raises:
        NotAMirror: If it does not exist.
    """
    return Mirror(places(cache, remote, Settings.read())[0], create=False)


def open_trusted_mirror(cache: str | None, remote: str | None) -> Mirror:
    """Open the mirror that the options name, for a command that outputs its rows.

    Raises:
        NotAMirror: If it does not exist.
        UntrustedMirror: If it has rows of packs that no trusted key has signed.
    """
    from cas_cache.config.keyring import trust_of

    mirror = open_mirror(cache, remote)
    trust, _ = trust_of(Settings.read())
    mirror.check_trust(None if trust is None else trust.keys)
    return mirror


def existing_mirror(place: Path | str) -> Mirror | None:
    """Open a mirror if it exists; return None, and create nothing, if it does not.

    Raises:
        NotAMirror: If the path holds something else.
    """
    try:
        return Mirror(place, create=False)
    except NotAMirror:
        directory = Path(place).expanduser()
        if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
            raise
        return None


def print_json(document: Any) -> None:
    """Print a JSON document in ASCII."""
    say(json_text(document, only_ascii=True))


def print_report(verb: str, report: Report, *, as_json: bool, dry_run: bool = False) -> None:
    """Print what a push or pull did or would do; exit with 1 if something was skipped because of a problem."""
    if as_json:
        print_json({"dry_run": dry_run, **report.as_json()})
    else:
        say(f"{verb} {pluralize(report.packs, 'pack')}, {pluralize(report.rows, 'row')}, {size_of(report.bytes)}")
        for problem in report.problems:
            say(f"skipped: {problem}", err=True)
        if report.untrusted:
            say(
                f"left out: {pluralize(len(report.untrusted), 'pack')} that no trusted key has signed; "
                "`cas-cache check` says why",
                err=True,
            )
        for hint in report.hints:
            say(f"hint: {hint}", err=True)
    if report.problems:
        raise click.exceptions.Exit(1)


def parsed_options(pairs: tuple[str, ...]) -> dict[str, str | bool]:
    """Return ``KEY=VALUE`` pairs as a mapping. ``true`` and ``false`` become booleans: s3fs takes "false" for true.

    Raises:
        click.BadParameter: If one is not a ``KEY=VALUE`` pair.
    """
    parsed: dict[str, str | bool] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            # The value is not shown, because it may be a secret.
            raise click.BadParameter("expected KEY=VALUE", param_hint="--storage-option")
        parsed[key] = {"true": True, "false": False}.get(value.lower(), value)
    return parsed
