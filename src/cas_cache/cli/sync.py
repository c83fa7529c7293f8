"""``cas-cache sync``: pull, then push."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cas_cache.cli.commands import Command
from cas_cache.cli.options import cache_options, dry_run_option, filter_options
from cas_cache.cli.output import exit_if, print_json, print_report

if TYPE_CHECKING:
    from cas_cache.cli.choose import Filters
    from cas_cache.cli.target import Target
    from cas_cache.sync import SyncReport


@click.command(
    cls=Command,
    examples=(
        "cas-cache sync my_mirror --remote s3://team/emb",
        "cas-cache sync my_mirror --remote s3://team/emb --dry-run",
    ),
)
@cache_options
@filter_options
@dry_run_option
def sync(target: Target, filters: Filters, *, dry_run: bool, as_json: bool) -> None:
    """Pull, then push: afterwards CACHE's mirror and the repository hold the same, or what the filters choose of it.

    A repository that does not exist yet is made, as `push` does.
    """
    if dry_run:
        _print(*_would_sync(target, filters), dry_run=True, as_json=as_json)
        return
    target.mirror()
    with target.open() as opened:
        is_remote = opened.repository is not None and not opened.offline and opened.repository.open()
        requested = filters.of_cache(opened, remote=is_remote)
        _print(*opened.sync(requested), dry_run=False, as_json=as_json)


def _would_sync(target: Target, filters: Filters) -> tuple[SyncReport, SyncReport]:
    """Return what a sync would download, and what it would send."""
    from cas_cache.sync import SyncReport, pull_of, push_of, status_of

    mirror = target.mirror()
    statuses, problems = status_of(mirror, target.repository_to_sync("sync with", writes=True))
    chosen = filters.of_statuses(statuses, mirror)
    return pull_of(chosen, problems), push_of(chosen, SyncReport())


def _print(pulled: SyncReport, pushed: SyncReport, *, dry_run: bool, as_json: bool) -> None:
    """Print what was moved; exit with 1 if something was skipped because of a problem."""
    if as_json:
        print_json({"dry_run": dry_run, "pulled": pulled.as_json(), "pushed": pushed.as_json()})
        exit_if(pulled.problems or pushed.problems)
        return
    try:
        print_report("would pull" if dry_run else "pulled", pulled, as_json=False)
    finally:
        print_report("would push" if dry_run else "pushed", pushed, as_json=False)
