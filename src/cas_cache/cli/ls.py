"""``cas-cache ls``: the user's mirrors, or the namespaces of one mirror or of one repository."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from cas_cache.cli.choose import empty
from cas_cache.cli.commands import Command
from cas_cache.cli.options import cache_options, side_options
from cas_cache.cli.output import exit_if, name_of, print_json, print_skipped, say, show_namespaces
from cas_cache.config.settings import Settings, expanded
from cas_cache.display import pluralize, size, vector_type
from cas_cache.errors import CasCacheError, MirrorError
from cas_cache.identity import names_of
from cas_cache.mirror import Mirror
from cas_cache.mirror.marker import MARKER

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cas_cache.cli.target import Target
    from cas_cache.identity import EncoderSpec
    from cas_cache.mirror import Namespace


@click.command(
    cls=Command,
    examples=(
        "cas-cache ls",
        "cas-cache ls my_mirror",
        "cas-cache ls s3://team/emb",
        "cas-cache ls my_mirror --repository --json",
    ),
)
@cache_options
@side_options
def ls(target: Target, *, side: str | None, as_json: bool) -> None:
    """List the namespaces of a mirror or of a repository: whose vectors, how many, and whether they were pushed.

    Without CACHE and --remote, all mirrors in the user's cache directory (or CAS_CACHE_DIR) are listed.

    Where the rows of a mirror are is what the mirror knows, without asking: `cas-cache status` compares it with the
    repository. A repository costs one listing, and its manifests.

    Exit codes: 0 fine, 1 something could not be read, 2 usage.
    """
    if target.is_repository(side):
        _list_repository(target, as_json=as_json)
    elif target.cache is None and target.remote is None:
        _list_mirrors(expanded(Settings.read().directory), as_json=as_json)
    else:
        mirror = target.mirror()
        namespaces = mirror.namespaces()
        if as_json:
            print_json(mirror_as_json(mirror, namespaces))
        elif not namespaces:
            say(empty(mirror))
        else:
            _show(namespaces)


def mirror_as_json(mirror: Mirror, namespaces: list[Namespace]) -> dict[str, Any]:
    """Return a mirror with some of its namespaces as plain JSON."""
    return {"mirror": str(mirror.directory), "namespaces": [describe(ns) for ns in namespaces]}


def print_mirror(mirror: Mirror, namespaces: list[Namespace]) -> None:
    """Print a mirror's directory and repository, then some of its namespaces."""
    say(f"mirror {mirror.directory}" + (f", of {mirror.repository_url}" if mirror.repository_url else ""))
    _show(namespaces)


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


def _show(namespaces: list[Namespace]) -> None:
    """Print namespaces of a mirror: encoder, counts and prompt of each."""
    show_namespaces((ns.spec.namespace, [name_of(ns.spec), _counts(ns), *_prompt(ns.spec)]) for ns in namespaces)


def _counts(ns: Namespace) -> tuple[str, ...]:
    where = _where(ns.rows, ns.pending_rows)
    where = f"{ns.pending_rows:,} local only" if where == "partly pushed" else where or "-"
    vectors = "-" if ns.dtype is None else vector_type(ns.dtype.name, ns.shape)
    return pluralize(ns.rows, "row"), where, vectors, size(ns.rows * ns.row_bytes)


def _where(rows: int, pending: int) -> str | None:
    """Describe where rows are, as far as the mirror knows: all rows that are not pending are or were in packs."""
    if not rows:
        return None
    if pending == 0:
        return "pushed"
    return "local only" if pending == rows else "partly pushed"


def _prompt(spec: EncoderSpec | None) -> list[str]:
    """Return the prompt as a line of its own, if there is one; quoted, because spaces at its ends matter."""
    return [f"prompt {names_of(spec)['prompt']!r}"] if spec is not None and spec.prompt else []


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
        say(f"There is no mirror in {directory}. An EmbeddingCache makes one, and so does `cas-cache pull URL`.")
    else:
        for number, (mirror, namespaces) in enumerate(opened):
            if number:
                say("")
            if namespaces:
                print_mirror(mirror, namespaces)
            else:
                say(empty(mirror))
        print_skipped(problems)
    exit_if(problems)


def _mirrors_in(directory: Path) -> list[Path]:
    """Return the mirrors in a directory, in order of their names; the directory itself comes first.

    Raises:
        MirrorError: If the directory cannot be read.
    """
    try:
        paths = [directory, *sorted(directory.iterdir())] if directory.is_dir() else []
        return [path for path in paths if (path / MARKER).is_file()]
    except OSError as err:
        raise MirrorError(f"{directory} cannot be read ({err}). Name a mirror, or set CAS_CACHE_DIR.") from err


def _list_repository(target: Target, *, as_json: bool) -> None:
    """List the namespaces of a repository; exit with 1 if something could not be read."""
    from cas_cache.repository.inventory import inventory

    repository = target.repository("list")
    holdings, problems = inventory(repository)
    if as_json:
        namespaces = [held.as_json() for held in holdings]
        print_json({"repository": repository.url, "namespaces": namespaces, "problems": _as_json(problems)})
    else:
        if not holdings:
            say(f"The repository {repository.url} is empty. `cas-cache push` publishes what a mirror has.")
        else:
            show_namespaces(
                (
                    held.namespace,
                    [
                        name_of(held.spec),
                        (
                            pluralize(held.rows, "row"),
                            pluralize(held.packs, "pack"),
                            vector_type(held.dtype, held.shape) if held.dtype else "-",
                            size(held.bytes),
                        ),
                        *_prompt(held.spec),
                    ],
                )
                for held in holdings
            )
        print_skipped(problems)
    exit_if(problems)


def _as_json(problems: Sequence[CasCacheError]) -> list[dict[str, str]]:
    return [{"error": type(problem).__name__, "message": str(problem)} for problem in problems]
