"""``cas-cache status``: the differences between a mirror and its repository."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cas_cache.cli.commands import Command
from cas_cache.cli.options import cache_options, filter_options
from cas_cache.cli.output import exit_if, name_of, print_json, print_skipped, say, show_namespaces
from cas_cache.cli.target import must_exist_if_new
from cas_cache.display import pluralize, size
from cas_cache.errors import ConfigurationError

if TYPE_CHECKING:
    from cas_cache.cli.choose import Filters
    from cas_cache.cli.target import Target
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
def status(target: Target, filters: Filters, *, as_json: bool) -> None:
    """Say, namespace by namespace, what a push would send and a pull would take. Nothing is changed.

    Exit code 1 if something could not be read.
    """
    from cas_cache.sync import status_of

    mirror = target.mirror()
    with target.open() as opened:
        if opened.repository is None or opened.offline:
            raise ConfigurationError(
                "There is no repository to compare with. Name one: --remote, or CAS_CACHE_REMOTE, and not offline. "
                "`cas-cache ls` shows what the mirror has."
            )
        must_exist_if_new(opened)
        statuses, report = status_of(mirror, opened.repository)
        statuses = filters.of_statuses(statuses, mirror)
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
            print_skipped(report.problems)
    exit_if(report.problems)


def _print(statuses: list[SyncStatus]) -> None:
    """Print two lines per namespace, as `ls` does, and a total."""
    if statuses:
        show_namespaces((status.namespace, [name_of(status.spec), _line(status)]) for status in statuses)
    up, down = sum(status.bytes_to_push for status in statuses), sum(status.bytes_to_pull for status in statuses)
    say(
        f"{pluralize(len(statuses), 'namespace')}, {sum(status.is_up_to_date for status in statuses):,} up to date; "
        f"{size(up)} to push, {size(down)} to pull"
    )


def _line(status: SyncStatus) -> str:
    return f"{pluralize(status.local_rows, 'row')}; {'up to date' if status.is_up_to_date else _moves(status)}"


def _moves(status: SyncStatus) -> str:
    push = f"{status.rows_to_push:,} to push ({size(status.bytes_to_push)})"
    packs = pluralize(status.packs_to_pull, "pack")
    pull = f"{status.rows_to_pull:,} in {packs} to pull ({size(status.bytes_to_pull)})"
    return ", ".join(text for text, is_due in ((push, status.rows_to_push), (pull, status.packs_to_pull)) if is_due)
