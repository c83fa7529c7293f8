"""``cas-cache sync``: pull, then push."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cas_cache.cli.dry_run import SyncTarget, would_sync
from cas_cache.cli.filters import Filters, chosen_namespaces, filter_options
from cas_cache.cli.help import Command
from cas_cache.cli.options import cache_options, dry_run_option, open_cache, open_mirror, print_json, print_report

if TYPE_CHECKING:
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
def sync(
    cache: str | None,
    remote: str | None,
    storage_options: tuple[str, ...],
    *,
    dry_run: bool,
    as_json: bool,
    **filters: tuple[str, ...],
) -> None:
    """Pull, then push: afterwards CACHE's mirror and the repository hold the same, or what the filters choose of it.

    A repository that is not there yet is made, as `push` does.
    """
    if dry_run:
        reports = would_sync(SyncTarget(cache, remote, storage_options, Filters(**filters)))
        _print(*reports, dry_run=True, as_json=as_json)
        return
    open_mirror(cache, remote)
    with open_cache(cache, remote, storage_options) as opened:
        is_remote = opened.repository is not None and not opened.offline and opened.repository.open()
        requested = chosen_namespaces(opened, Filters(**filters), remote=is_remote)
        _print(*opened.sync(requested), dry_run=False, as_json=as_json)


def _print(pulled: SyncReport, pushed: SyncReport, *, dry_run: bool, as_json: bool) -> None:
    """Print what was moved; exit with 1 if something was skipped because of a problem."""
    if as_json:
        print_json({"dry_run": dry_run, "pulled": pulled.as_json(), "pushed": pushed.as_json()})
        if pulled.problems or pushed.problems:
            raise click.exceptions.Exit(1)
        return
    try:
        print_report("would pull" if dry_run else "pulled", pulled, as_json=False)
    finally:
        print_report("would push" if dry_run else "pushed", pushed, as_json=False)
