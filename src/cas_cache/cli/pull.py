"""``cas-cache pull``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cas_cache.cli.commands import Command
from cas_cache.cli.options import cache_options, dry_run_option, filter_options
from cas_cache.cli.output import print_report
from cas_cache.cli.target import must_exist_if_new

if TYPE_CHECKING:
    from cas_cache.cli.choose import Filters
    from cas_cache.cli.target import Target
    from cas_cache.sync import SyncReport


@click.command(
    cls=Command,
    examples=(
        "cas-cache pull my_mirror --remote s3://team/emb",
        "cas-cache pull my_mirror --remote s3://team/emb --model 'org/*'",
        "cas-cache pull my_mirror --remote s3://team/emb -n 55dc47fb --dry-run",
    ),
)
@cache_options
@filter_options
@dry_run_option
@click.option("--keys-only", is_flag=True, help="Take keys only, for a lazy cache that reads vectors when asked for.")
def pull(target: Target, filters: Filters, *, keys_only: bool, dry_run: bool, as_json: bool) -> None:
    """Download packs that CACHE's mirror does not have: all of them, or those that the filters choose."""
    what = " the keys of" if keys_only else ""
    if dry_run:
        report = _would_pull(target, filters)
        if keys_only:
            from cas_cache.format.rows import KEY_AND_DIGEST_BYTES

            report.bytes = report.rows * KEY_AND_DIGEST_BYTES
        print_report(f"would pull{what}", report, dry_run=True, as_json=as_json)
        return
    with target.open() as opened:
        must_exist_if_new(opened)
        requested = filters.of_cache(opened, remote=True)
        report = opened.pull_keys(requested) if keys_only else opened.pull(requested)
        print_report(f"pulled{what}", report, as_json=as_json)


def _would_pull(target: Target, filters: Filters) -> SyncReport:
    """Return the maximum that a pull would download. A missing mirror is not created."""
    from cas_cache.sync import pull_of, status_of

    repository = target.repository_to_sync("pull from", writes=False)
    mirror = target.mirror_if_any()
    if mirror is None or mirror.repository is None:
        repository.must_exist()
    statuses, problems = status_of(mirror, repository)
    return pull_of(filters.of_statuses(statuses, mirror), problems)
