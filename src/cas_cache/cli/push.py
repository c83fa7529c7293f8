"""``cas-cache push``."""

from __future__ import annotations

import click

from cas_cache.cli.dry_run import SyncTarget, would_push
from cas_cache.cli.filters import Filters, chosen_namespaces, filter_options
from cas_cache.cli.help import Command
from cas_cache.cli.options import cache_options, dry_run_option, open_cache, open_mirror, print_report


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
def push(
    cache: str | None,
    remote: str | None,
    storage_options: tuple[str, ...],
    *,
    rebind: bool,
    dry_run: bool,
    as_json: bool,
    **filters: tuple[str, ...],
) -> None:
    """Publish the pending rows of CACHE's mirror: all of them, or those that the filters choose."""
    if dry_run:
        report = would_push(SyncTarget(cache, remote, storage_options, Filters(**filters)), rebind=rebind)
        print_report("would push", report, dry_run=True, as_json=as_json)
        return
    open_mirror(cache, remote)
    with open_cache(cache, remote, storage_options) as opened:
        requested = chosen_namespaces(opened, Filters(**filters), remote=False)
        print_report("pushed", opened.push(requested, rebind=rebind), as_json=as_json)
