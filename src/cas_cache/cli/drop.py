"""``cas-cache drop``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cas_cache.amounts import counted
from cas_cache.amounts import size as size_of
from cas_cache.cli.asking import ask, is_to_ask, yes_option
from cas_cache.cli.help import Command
from cas_cache.cli.options import (
    cache_options,
    dry_run_option,
    full_namespace,
    namespace_option,
    open_repository,
    print_json,
)
from cas_cache.cli.talk import say
from cas_cache.errors import RepositoryError
from cas_cache.repository.drop import drop as drop_namespace

if TYPE_CHECKING:
    from cas_cache.repository import Repository
    from cas_cache.repository.drop import DropReport


@click.command(
    cls=Command,
    examples=(
        "cas-cache drop s3://team/emb -n 55dc47fb --dry-run",
        "cas-cache drop s3://team/emb -n 55dc47fb --force --yes",
    ),
)
@cache_options
@dry_run_option
@yes_option
@namespace_option("namespace", "Delete this namespace.", required=True)
@click.option("--force", is_flag=True, help="Also if a pack was added in the last day.")
def drop(
    cache: str | None,
    remote: str | None,
    storage_options: tuple[str, ...],
    *,
    namespace: str,
    yes: bool,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Delete a namespace, with all its vectors, from CACHE's repository. Mirrors keep what they have.

    It asks first; where nobody can be asked it needs --yes.
    """
    asks = is_to_ask(yes=yes, dry_run=dry_run, as_json=as_json)
    repository = open_repository(cache, remote, storage_options, verb="drop from", writes=not dry_run)
    namespace = full_namespace(repository, namespace)
    report = drop_namespace(repository, namespace, dry_run=True)
    if asks and (report.is_idle or force):
        ask(f"Delete {_told(report)} from {repository.url}, {_spec(repository, namespace)}?")
    if not dry_run:
        report = drop_namespace(repository, namespace, force=force)
    if as_json:
        print_json({"url": repository.url, "dry_run": dry_run, **report.as_json()})
    else:
        say(f"{'would delete' if dry_run else 'deleted'} {_told(report)}")


def _spec(repository: Repository, namespace: str) -> str:
    """Whose vectors these are, for the one who is asked."""
    try:
        spec = repository.spec(namespace)
    except RepositoryError:
        return "whose spec cannot be read"
    return f"the vectors of {spec.model}@{spec.revision}, role {spec.role}, for everybody"


def _told(report: DropReport) -> str:
    return f"namespace {report.namespace}: {counted(len(report.packs), 'pack')}, {size_of(report.bytes)}"
