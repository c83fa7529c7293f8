"""``cas-cache status``: the differences between a mirror and its repository."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cas_cache.cli.filters import Filters, filter_options
from cas_cache.cli.help import Command
from cas_cache.cli.options import cache_options, open_cache, open_mirror, print_json
from cas_cache.cli.pull import must_exist_if_new
from cas_cache.cli.table import name_of, print_namespaces
from cas_cache.cli.verbosity import say
from cas_cache.display import pluralize
from cas_cache.display import size as size_of
from cas_cache.errors import ConfigurationError

if TYPE_CHECKING:
    from cas_cache.sync import SyncStatus


@click.command(
    cls=Command,
    examples=(
        "cas-cache status my_mirror --remote s3://team/emb",
        "cas-cache status my_mirror --remote s3://team/emb --json",
    ),
)
@cache_options
@filter_options
def status(
    cache: str | None,
    remote: str | None,
    storage_options: tuple[str, ...],
    *,
    as_json: bool,
    **filters: tuple[str, ...],
) -> None:
    """Say, namespace by namespace, what a push would send and a pull would take. Nothing is changed.

    Exit code 1 if something could not be read.
    """
    from cas_cache.sync import status_of

    mirror = open_mirror(cache, remote)
    with open_cache(cache, remote, storage_options) as opened:
        if opened.repository is None or opened.offline:
            raise ConfigurationError(
                "There is no repository to compare with. Name one: --remote, or CAS_CACHE_REMOTE, and not offline. "
                "`cas-cache ls` shows what is here."
            )
        must_exist_if_new(opened)
        statuses, report = status_of(mirror, opened.repository)
        requested = Filters(**filters)
        if requested:
            chosen = set(requested.chosen({status.namespace: status.spec for status in statuses}, mirror))
            statuses = [status for status in statuses if status.namespace in chosen]
        if as_json:
            print_json(
                {
                    "mirror": str(mirror.directory),
                    "repository": opened.repository.url,
                    "namespaces": [status.as_json() for status in statuses],
                    "problems": report.as_json()["problems"],
                }
            )
        else:
            _print(statuses)
            for problem in report.problems:
                say(f"skipped: {problem}", err=True)
    if report.problems:
        raise click.exceptions.Exit(1)


def _print(statuses: list[SyncStatus]) -> None:
    """Print two lines per namespace, as `ls` does, and a total."""
    if statuses:
        print_namespaces((status.namespace, [name_of(status.spec), _line(status)]) for status in statuses)
    up, down = sum(status.bytes_to_push for status in statuses), sum(status.bytes_to_pull for status in statuses)
    say(
        f"{pluralize(len(statuses), 'namespace')}, {sum(status.is_up_to_date for status in statuses):,} up to date; "
        f"{size_of(up)} to push, {size_of(down)} to pull"
    )


def _line(status: SyncStatus) -> str:
    return f"{pluralize(status.local_rows, 'row')}; {'up to date' if status.is_up_to_date else _moves(status)}"


def _moves(status: SyncStatus) -> str:
    push = f"{status.rows_to_push:,} to push ({size_of(status.bytes_to_push)})"
    packs = pluralize(status.packs_to_pull, "pack")
    pull = f"{status.rows_to_pull:,} in {packs} to pull ({size_of(status.bytes_to_pull)})"
    return ", ".join(text for text, is_due in ((push, status.rows_to_push), (pull, status.packs_to_pull)) if is_due)
