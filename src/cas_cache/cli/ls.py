"""``cas-cache ls``: the user's mirrors, or the namespaces of one mirror or of one repository."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from cas_cache.cli.help import Command
from cas_cache.cli.options import cache_options, names_repository, open_mirror, open_repository, print_json
from cas_cache.cli.table import name_of, print_namespaces
from cas_cache.cli.verbosity import say
from cas_cache.config.settings import Settings, expanded
from cas_cache.display import pluralize
from cas_cache.display import size as size_of
from cas_cache.errors import CasCacheError, MirrorError
from cas_cache.identity import names_of
from cas_cache.mirror import Mirror
from cas_cache.mirror.mirror import MARKER

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cas_cache.identity import EncoderSpec
    from cas_cache.mirror import Namespace
    from cas_cache.repository.inventory import Held


@click.command(
    cls=Command,
    examples=(
        "cas-cache ls",
        "cas-cache ls my_mirror",
        "cas-cache ls s3://team/emb",
        "cas-cache ls s3://team/emb --json",
    ),
)
@cache_options
@click.option("--there", is_flag=True, help="List the repository's, not the mirror's: one listing and its manifests.")
def ls(cache: str | None, remote: str | None, storage_options: tuple[str, ...], *, there: bool, as_json: bool) -> None:
    """List the namespaces of CACHE's mirror: whose vectors, how many, and whether they were pushed.

    Without CACHE and --remote, all mirrors in the user's cache directory (or CAS_CACHE_DIR) are listed.

    If CACHE is a URL, or the directory of a repository, the namespaces of that repository are listed instead.

    Where rows are is what the mirror knows, without asking: `cas-cache status` compares with the repository.

    Exit codes: 0 fine, 1 something could not be read, 2 usage.
    """
    if there or (remote is None and names_repository(cache)):
        _list_repository(cache, remote, storage_options, as_json=as_json)
        return
    if storage_options:
        raise click.UsageError("--storage-option is for a repository: name its URL, or add --there.")
    if cache is None and remote is None:
        _list_mirrors(expanded(Settings.read().directory), as_json=as_json)
        return
    mirror = open_mirror(cache, remote)
    namespaces = mirror.namespaces()
    if as_json:
        print_json(mirror_as_json(mirror, namespaces))
    elif not namespaces:
        say(empty(mirror))
    else:
        print_all(namespaces)


def mirror_as_json(mirror: Mirror, namespaces: list[Namespace]) -> dict[str, Any]:
    """Return a mirror with some of its namespaces as plain JSON."""
    return {
        "mirror": str(mirror.directory),
        "namespaces": [describe(ns) for ns in namespaces],
    }


def print_mirror(mirror: Mirror, namespaces: list[Namespace]) -> None:
    """Print a mirror's directory and repository, then some of its namespaces."""
    say(f"mirror {mirror.directory}" + (f", of {mirror.repository_url}" if mirror.repository_url else ""))
    print_all(namespaces)


def print_all(namespaces: list[Namespace]) -> None:
    """Print namespaces of a mirror: encoder, counts and prompt of each."""
    print_namespaces((ns.spec.namespace, [name_of(ns.spec), _counts(ns), *_prompt(ns.spec)]) for ns in namespaces)


def empty(mirror: Mirror) -> str:
    """Return the sentence for a mirror without namespaces."""
    return f"The mirror {mirror.directory} is empty. `cas-cache pull` fetches what others have pushed."


def _list_mirrors(directory: Path, *, as_json: bool) -> None:
    """List every mirror in a directory, and the directory itself if it is one; exit with 1 if one cannot be read."""
    opened: list[tuple[Mirror, list[Namespace]]] = []
    problems: list[CasCacheError] = []
    for place in _mirrors_in(directory):
        try:
            mirror = Mirror(place, create=False)
            opened.append((mirror, mirror.namespaces()))
        except CasCacheError as err:
            problems.append(err)
    if as_json:
        mirrors = [
            {**mirror_as_json(mirror, namespaces), "repository": mirror.repository_url} for mirror, namespaces in opened
        ]
        print_json({"directory": str(directory), "mirrors": mirrors, "problems": _as_json(problems)})
    elif not opened and not problems:
        say(f"There is no mirror in {directory}. A run makes one; so does `cas-cache pull URL`.")
    else:
        for number, (mirror, namespaces) in enumerate(opened):
            if number:
                say("")
            if namespaces:
                print_mirror(mirror, namespaces)
            else:
                say(empty(mirror))
    _end(problems, as_json=as_json)


def _mirrors_in(directory: Path) -> list[Path]:
    """Return the mirrors in a directory, in order of their names; the directory itself comes first.

    Raises:
        MirrorError: If the directory cannot be read.
    """
    try:
        places = [directory, *sorted(directory.iterdir())] if directory.is_dir() else []
        return [place for place in places if (place / MARKER).is_file()]
    except OSError as err:
        raise MirrorError(f"{directory} cannot be read ({err}). Name a mirror, or set CAS_CACHE_DIR.") from err


def describe(ns: Namespace) -> dict[str, Any]:
    """Return the facts that `ls` shows of a namespace, as plain JSON."""
    return {
        "namespace": ns.spec.namespace,
        **names_of(ns.spec),
        "rows": ns.rows,
        "pending": ns.pending_rows,
        "where": _where(ns.rows, ns.pending_rows),
        "dtype": None if ns.dtype is None else ns.dtype.name,
        "shape": list(ns.shape),
        "bytes": ns.rows * ns.row_bytes,
    }


def _where(rows: int, waiting: int) -> str | None:
    """Describe where rows are, as far as the mirror knows: all rows that are not pending are or were in packs."""
    if not rows:
        return None
    if waiting == 0:
        return "pushed"
    return "local only" if waiting == rows else "partly pushed"


def _counts(ns: Namespace) -> tuple[str, ...]:
    where = _where(ns.rows, ns.pending_rows)
    where = f"{ns.pending_rows:,} local only" if where == "partly pushed" else where or "-"
    vector = f"{ns.dtype.name}[{','.join(map(str, ns.shape))}]" if ns.dtype is not None else "-"
    return pluralize(ns.rows, "row"), where, vector, size_of(ns.rows * ns.row_bytes)


def _prompt(spec: EncoderSpec | None) -> list[str]:
    """Return the prompt as a line of its own, if there is one; quoted, because spaces at its ends matter."""
    return [f"prompt {names_of(spec)['prompt']!r}"] if spec is not None and spec.prompt else []


def _list_repository(cache: str | None, remote: str | None, storage_options: tuple[str, ...], *, as_json: bool) -> None:
    """List the namespaces of a repository; exit with 1 if something could not be read."""
    from cas_cache.repository.inventory import inventory

    repository = open_repository(cache, remote, storage_options, verb="list", writes=False)
    holdings, problems = inventory(repository)
    if as_json:
        namespaces = [held.as_json() for held in holdings]
        print_json({"repository": repository.url, "namespaces": namespaces, "problems": _as_json(problems)})
    elif not holdings:
        say(f"The repository {repository.url} is empty. `cas-cache push` publishes what a mirror has.")
    else:
        print_namespaces(
            (held.namespace, [name_of(held.spec), _holding_columns(held), *_prompt(held.spec)]) for held in holdings
        )
    _end(problems, as_json=as_json)


def _as_json(problems: Sequence[CasCacheError]) -> list[dict[str, str]]:
    return [{"error": type(problem).__name__, "message": str(problem)} for problem in problems]


def _end(problems: Sequence[CasCacheError], *, as_json: bool) -> None:
    """Exit with 1 if something could not be read; print the problems first unless they are in the JSON document."""
    if not as_json:
        for problem in problems:
            say(f"skipped: {problem}", err=True)
    if problems:
        raise click.exceptions.Exit(1)


def _holding_columns(held: Held) -> tuple[str, ...]:
    vector = f"{held.dtype}[{','.join(map(str, held.shape))}]" if held.dtype else "-"
    return pluralize(held.rows, "row"), pluralize(held.packs, "pack"), vector, size_of(held.bytes)
