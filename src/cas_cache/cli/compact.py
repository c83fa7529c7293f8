"""``cas-cache compact``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cas_cache.cli.choose import full_namespace
from cas_cache.cli.commands import Command
from cas_cache.cli.options import cache_options, dry_run_option, namespace_option
from cas_cache.cli.output import bars_wanted, exit_if, print_json, say
from cas_cache.display import pluralize, size
from cas_cache.repository.compacting import AT_LEAST
from cas_cache.repository.compacting import compact as compact_repository

if TYPE_CHECKING:
    from cas_cache.cli.target import Target


@click.command(
    cls=Command,
    examples=(
        "cas-cache compact s3://team/emb --dry-run",
        "cas-cache compact s3://team/emb -n 55dc47fb",
    ),
)
@cache_options
@dry_run_option
@namespace_option("namespaces", "Merge packs of this namespace only.", multiple=True)
@click.option(
    "--at-least",
    type=click.IntRange(min=2),
    default=AT_LEAST,
    show_default=True,
    help="Small packs in a merge. A merge is never merged again, so it waits for that many.",
)
def compact(target: Target, *, namespaces: tuple[str, ...], at_least: int, dry_run: bool, as_json: bool) -> None:
    """Merge the small packs of CACHE's repository, so that new mirrors pull faster.

    Anyone may run it at any time. The packs that are merged stay until `cas-cache prune` finds them old enough.

    Exit codes: 0 fine, 1 packs that do not verify were left as they are, or a failure, 2 usage.
    """
    repository = target.repository("compact", writes=not dry_run)
    requested = [full_namespace(repository, namespace) for namespace in namespaces] or None
    report = compact_repository(repository, requested, at_least=at_least, dry_run=dry_run, progress=bars_wanted())
    if as_json:
        print_json({"url": repository.url, "dry_run": dry_run, **report.as_json()})
    else:
        for merge in report.merges:
            would = "would merge" if dry_run else "merge"
            amount = f"{pluralize(merge.rows, 'row')}, {size(merge.bytes)}"
            say(f"{would} {pluralize(len(merge.packs), 'pack')} of {merge.namespace}: {amount}")
        for problem in report.problems:
            say(f"left as it is: {problem}", err=True)
        back = f", {report.taken_back:,} taken back because others had made them" if report.taken_back else ""
        planned, rows = pluralize(len(report.merges), "merge"), pluralize(report.rows, "row")
        say(f"{planned} planned, {len(report.written):,} written, {rows}{back}")
    exit_if(report.problems)
