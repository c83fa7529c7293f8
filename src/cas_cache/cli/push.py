"""``cas-cache push``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cas_cache.cli.commands import Command
from cas_cache.cli.options import cache_options, dry_run_option, filter_options
from cas_cache.cli.output import print_report

if TYPE_CHECKING:
    from cas_cache.cli.choose import Filters
    from cas_cache.cli.target import Target
    from cas_cache.sync import SyncReport


@click.command(
    cls=Command,
    examples=(
        "cas-cache push my_mirror --remote s3://team/emb",
        "cas-cache push my_mirror --remote s3://team/emb --role query --dry-run",
    ),
)
@cache_options
@filter_options
@dry_run_option
@click.option(
    "--rebind",
    is_flag=True,
    help="Send every row, whatever was pushed before: to another repository, or to this one again.",
)
def push(target: Target, filters: Filters, *, rebind: bool, dry_run: bool, as_json: bool) -> None:
    """Publish the pending rows of CACHE's mirror: all of them, or those that the filters choose."""
    if dry_run:
        print_report("would push", _would_push(target, filters, rebind=rebind), dry_run=True, as_json=as_json)
        return
    target.mirror()
    with target.open() as opened:
        requested = filters.of_cache(opened, remote=False)
        print_report("pushed", opened.push(requested, rebind=rebind), as_json=as_json)


def _would_push(target: Target, filters: Filters, *, rebind: bool) -> SyncReport:
    """Return what a push would send. A missing repository is not created."""
    from cas_cache.sync import local_status, peek, push_of

    mirror = target.mirror()
    repository = target.repository_to_sync("push to", writes=True)
    peek(None if rebind else mirror, repository)
    statuses, problems = local_status(mirror)
    return push_of(filters.of_statuses(statuses, mirror), problems, rebind=rebind)
