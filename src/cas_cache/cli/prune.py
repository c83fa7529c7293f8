"""``cas-cache prune``."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

import click

from cas_cache.cli.commands import Command
from cas_cache.cli.options import ask, cache_options, dry_run_option, is_to_ask, yes_option
from cas_cache.cli.output import bars_wanted, print_json, say
from cas_cache.display import pluralize, size
from cas_cache.repository.pruning import DAY, MAX_PACKS, PruneReport
from cas_cache.repository.pruning import prune as prune_repository

if TYPE_CHECKING:
    from cas_cache.cli.target import Target

UNITS = {"d": DAY, "h": 3600.0, "m": 60.0, "s": 1.0}


def _seconds(_: click.Context, __: click.Parameter, value: str) -> float:
    """Return "7d", "36h", "90m" or "30s" as seconds."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([dhms])", value.strip())
    if not match:
        raise click.BadParameter(f"{value!r} is not a time; write 7d, 36h, 90m or 30s.")
    return float(match[1]) * UNITS[match[2]]


@click.command(
    cls=Command,
    examples=(
        "cas-cache prune s3://team/emb --dry-run",
        "cas-cache prune s3://team/emb --grace 30d --yes",
    ),
)
@cache_options
@dry_run_option
@yes_option
@click.option(
    "--grace", default="7d", show_default=True, callback=_seconds, metavar="TIME", help="Age before anything goes."
)
@click.option(
    "--most-packs",
    type=click.IntRange(min=1),
    default=MAX_PACKS,
    show_default=True,
    help="Packs that one run deletes at most, the oldest first.",
)
@click.option("--force", is_flag=True, help="Allow a --grace below 1d, and to delete all. Nobody may be writing.")
def prune(
    target: Target, *, grace: float, most_packs: int, force: bool, yes: bool, dry_run: bool, as_json: bool
) -> None:
    """Delete from CACHE's repository what nothing refers to: merged packs, and objects that no manifest names.

    If something is to go it asks first; where nobody can be asked it needs --yes.

    Ages are by the storage's clock; to read it, an empty object is written and deleted. With --dry-run they are by this
    machine's.
    """
    asks = is_to_ask(yes=yes, dry_run=dry_run, as_json=as_json)
    repository = target.repository("prune", writes=not dry_run)
    run = functools.partial(
        prune_repository,
        repository,
        grace=grace,
        most_packs=most_packs,
        known=target.known_packs(repository),
        force=force,
        progress=bars_wanted(),
    )
    report = run(dry_run=dry_run or asks)
    if asks and report.deletions:
        _print(report, "would delete")
        ask(f"Delete {pluralize(len(report.deletions), 'pack')} from {repository.url}?")
        report = run()
    if as_json:
        print_json({"url": repository.url, "dry_run": dry_run, **report.as_json()})
    else:
        _print(report, "would delete" if dry_run else "deleted")


def _print(report: PruneReport, did: str) -> None:
    """Print one line per reason and namespace, and a total."""
    for reason, namespace in sorted({(deletion.reason, deletion.namespace) for deletion in report.deletions}):
        mine = [
            deletion for deletion in report.deletions if (deletion.reason, deletion.namespace) == (reason, namespace)
        ]
        deleted, oldest = sum(deletion.bytes for deletion in mine), max(deletion.age for deletion in mine) / DAY
        where = f" of {namespace}" if namespace else ""
        say(f"{did} {len(mine):,} {reason}{where}: {size(deleted)}, up to {oldest:,.1f} days old")
    young = f"{report.young:,} {'is' if report.young == 1 else 'are'}"
    more = f", {report.postponed:,} more at the next run" if report.postponed else ""
    say(f"{did} {pluralize(len(report.deletions), 'pack')}, {size(report.bytes)}; {young} not old enough{more}")
