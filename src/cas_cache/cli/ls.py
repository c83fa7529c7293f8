"""``cas-cache ls``: the namespaces of a mirror, or those of a repository."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from cas_cache.amounts import counted
from cas_cache.amounts import size as size_of
from cas_cache.cli.help import Command
from cas_cache.cli.options import cache_options, open_mirror, open_repository, print_json
from cas_cache.cli.table import name_of, print_namespaces
from cas_cache.cli.talk import say
from cas_cache.identity import names_of
from cas_cache.repository import is_url, layout
from cas_cache.settings import expanded

if TYPE_CHECKING:
    from cas_cache.identity import EncoderSpec
    from cas_cache.mirror import Namespace
    from cas_cache.repository.inventory import Held


@click.command(
    cls=Command,
    examples=(
        "cas-cache ls my_mirror",
        "cas-cache ls s3://team/emb",
        "cas-cache ls s3://team/emb --json",
    ),
)
@cache_options
@click.option("--there", is_flag=True, help="List the repository's, not the mirror's: one listing and its manifests.")
def ls(cache: str | None, remote: str | None, storage_options: tuple[str, ...], *, there: bool, as_json: bool) -> None:
    """List the namespaces of CACHE's mirror: whose vectors, how many, and whether they are only here.

    If CACHE is a URL, or the directory of a repository, the namespaces of that repository are listed instead.

    Where rows are is what the mirror knows, without asking: `cas-cache status` compares with the repository.

    Exit codes: 0 fine, 1 something could not be read, 2 usage.
    """
    repository = None if remote is not None else _repository(cache)
    if repository is not None:
        cache, remote, there = None, repository, True
    if there:
        _list_there(cache, remote, storage_options, as_json=as_json)
        return
    if storage_options:
        raise click.UsageError("--storage-option is for a repository: name its URL, or add --there.")
    mirror = open_mirror(cache, remote)
    found = mirror.namespaces()
    if as_json:
        print_json({"mirror": str(mirror.directory), "namespaces": [describe(ns) for ns in found]})
    elif not found:
        say(f"The mirror {mirror.directory} is empty. `cas-cache pull` fetches what others have pushed.")
    else:
        print_namespaces((ns.spec.namespace, [name_of(ns.spec), _counts(ns), *_prompt(ns.spec)]) for ns in found)


def _repository(cache: str | None) -> str | None:
    """Return the repository that CACHE names, None if it names a mirror: a URL, or the directory of a repository."""
    if cache is None or is_url(cache):
        return cache
    directory = expanded(cache).absolute()
    return str(directory) if (directory / layout.MARKER).is_file() else None


def describe(ns: Namespace) -> dict[str, Any]:
    """Return a namespace's line as plain JSON."""
    return {
        "namespace": ns.spec.namespace,
        **names_of(ns.spec),
        "rows": ns.rows,
        "waiting": ns.waiting_rows,
        "where": _where(ns.rows, ns.waiting_rows),
        "dtype": None if ns.dtype is None else ns.dtype.name,
        "shape": list(ns.shape),
        "bytes": ns.rows * ns.row_bytes,
    }


def _where(rows: int, waiting: int) -> str | None:
    """Where rows are, as far as the mirror knows: those that do not wait came from packs, or went into some."""
    if not rows:
        return None
    if waiting == 0:
        return "also there"
    return "only here" if waiting == rows else "partly there"


def _counts(ns: Namespace) -> tuple[str, ...]:
    where = _where(ns.rows, ns.waiting_rows)
    where = f"{ns.waiting_rows:,} only here" if where == "partly there" else where or "-"
    vector = f"{ns.dtype.name}[{','.join(map(str, ns.shape))}]" if ns.dtype is not None else "-"
    return counted(ns.rows, "row"), where, vector, size_of(ns.rows * ns.row_bytes)


def _prompt(spec: EncoderSpec | None) -> list[str]:
    """The prompt on a line of its own, where there is one; quoted, because blanks at its end count."""
    return [f"prompt {names_of(spec)['prompt']!r}"] if spec is not None and spec.prompt else []


def _list_there(cache: str | None, remote: str | None, storage_options: tuple[str, ...], *, as_json: bool) -> None:
    """List a repository's; exit with 1 if something could not be read."""
    from cas_cache.repository.inventory import inventory

    repository = open_repository(cache, remote, storage_options, verb="list", writes=False)
    found, problems = inventory(repository)
    if as_json:
        shown = [{"error": type(problem).__name__, "message": str(problem)} for problem in problems]
        print_json({"repository": repository.url, "namespaces": [held.as_json() for held in found], "problems": shown})
    elif not found:
        say(f"The repository {repository.url} is empty. `cas-cache push` publishes what a mirror has.")
    else:
        print_namespaces((held.namespace, [name_of(held.spec), _held(held), *_prompt(held.spec)]) for held in found)
    if problems and not as_json:
        for problem in problems:
            say(f"passed over: {problem}", err=True)
    if problems:
        raise click.exceptions.Exit(1)


def _held(held: Held) -> tuple[str, ...]:
    vector = f"{held.dtype}[{','.join(map(str, held.shape))}]" if held.dtype else "-"
    return counted(held.rows, "row"), counted(held.packs, "pack"), vector, size_of(held.bytes)
