"""``cas-cache evict``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from cas_cache.cli.commands import Command
from cas_cache.cli.options import ask, dry_run_option, is_to_ask, mirror_options, yes_option
from cas_cache.cli.output import exit_if, print_json, say
from cas_cache.display import pluralize, size
from cas_cache.mirror.evict import evict as evict_mirror

if TYPE_CHECKING:
    from cas_cache.cli.target import Target
    from cas_cache.mirror.evict import EvictReport

UNITS = {"": 1, "B": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30}
UNITS["TI"] = 2**40

MAX_BYTES = 2**63


def _bytes(_: click.Context, __: click.Parameter, value: str) -> int:
    """Return "50GB", "500M" or "1GiB" as bytes."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)", value.strip())
    unit = match[2].upper() if match else "?"
    # A number alone probably lacks its unit; read as bytes, it would evict everything.
    if not match or unit.removesuffix("B") not in UNITS or not (unit or float(match[1]) == 0):
        raise click.BadParameter(f"{value!r} is not a size; write 50GB, 500MB or 20GiB.")
    unit = unit.removesuffix("B")
    amount = float(match[1]) * UNITS[unit]
    if not amount < MAX_BYTES:
        raise click.BadParameter(f"{value[:20]!r} is larger than any disk; write 50GB, 500MB or 20GiB.")
    return int(amount)


@click.command(
    cls=Command,
    examples=(
        "cas-cache evict my_mirror --max-size 50GB --dry-run",
        "cas-cache evict my_mirror --max-size 50GB --yes",
    ),
)
@mirror_options
@dry_run_option
@yes_option
@click.option("--max-size", required=True, metavar="SIZE", callback=_bytes, help="What may stay, such as 50GB.")
def evict(target: Target, *, max_size: int, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Make CACHE's mirror smaller: the packs that were used longest ago go.

    What is in the repository comes back when a run misses it; `cas-cache pull` says before whether something is not
    there any more. Pending rows stay; so do namespaces that other processes have open.

    If something is to go it asks first; where nobody can be asked it needs --yes.

    Exit codes: 0 fine, 1 the mirror is still larger, or a failure, 2 usage.
    """
    asks = is_to_ask(yes=yes, dry_run=dry_run, as_json=as_json)
    mirror = target.mirror()
    report = evict_mirror(mirror, max_size, dry_run=dry_run or asks)
    if asks and report.evicted:
        _print(report, "would evict")
        ask(f"Evict {pluralize(len(report.evicted), 'pack')} from {mirror.directory}?")
        report = evict_mirror(mirror, max_size)
    if as_json:
        print_json({"dry_run": dry_run, "max_bytes": max_size, **report.as_json()})
    else:
        _print(report, "would evict" if dry_run else "evicted")
    exit_if(report.after > max_size)


def _print(report: EvictReport, did: str) -> None:
    """Print one line per namespace, and a total."""
    for namespace in dict.fromkeys(pack.namespace for pack in report.evicted):
        mine = [pack for pack in report.evicted if pack.namespace == namespace]
        rows, evicted = sum(pack.rows for pack in mine), sum(pack.bytes for pack in mine)
        say(f"{did} {pluralize(len(mine), 'pack')} of {namespace}: {pluralize(rows, 'row')}, {size(evicted)}")
    for namespace in report.in_use:
        say(f"left as it is, because others have it open: {namespace}", err=True)
    say(
        f"{did} {pluralize(len(report.evicted), 'pack')}: {size(report.before)} before, {size(report.after)} "
        f"after, of which {size(report.waiting)} are pending"
    )
