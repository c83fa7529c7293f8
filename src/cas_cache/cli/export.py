"""``cas-cache export``: write vectors as files for other tools."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cas_cache.cli.choose import one_namespace
from cas_cache.cli.commands import Command
from cas_cache.cli.options import dry_run_option, json_option, namespace_option, view_options
from cas_cache.cli.output import bars_wanted, print_json, say
from cas_cache.cli.target import Target
from cas_cache.display import pluralize, size
from cas_cache.interop import FORMATS, FORMATS_WITH_IDS, plan_export, select_namespace, select_views
from cas_cache.interop import export as write_export

if TYPE_CHECKING:
    from cas_cache.cli.choose import ViewChoice


@click.command(
    cls=Command,
    examples=(
        "cas-cache export my_mirror vectors --format npy -n 55dc47fb",
        "cas-cache export my_mirror corpus.parquet --format parquet --task SciFact",
    ),
)
@click.argument("cache")
@click.argument("target")
@dry_run_option
@click.option("--format", "format_name", type=click.Choice(list(FORMATS)), required=True)
@namespace_option("namespace", "Export all of this namespace.")
@view_options("What this task asked for, in its order.")
@json_option
def export(
    cache: str,
    target: str,
    *,
    format_name: str,
    namespace: str | None,
    views: ViewChoice,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Write vectors of CACHE's mirror to TARGET, which must not be there.

    npy and mteb make a directory (mteb's NumpyCache opens the second), parquet a file. Of a task, parquet has every
    row that it asked for, with its id, the others each once. Every row is verified by its digest before it is written.
    """
    if (namespace is None) == (views.task is None):
        raise click.UsageError("Say what to export: --namespace ID, or --task NAME.")
    mirror = Target(cache).trusted_mirror()
    if namespace is not None:
        chosen = select_namespace(one_namespace(mirror, namespace))
    else:
        chosen = select_views(mirror, views.of_one_namespace(mirror), with_ids=format_name in FORMATS_WITH_IDS)
    if dry_run:
        report = plan_export(chosen, target, format_name)
    else:
        report = write_export(chosen, target, format_name, progress=bars_wanted())
    if as_json:
        print_json({"dry_run": dry_run, **report.as_json()})
        return
    did = "would export" if dry_run else "exported"
    say(f"{did} {pluralize(report.rows, 'row')} of {report.namespace} as {format_name} to {report.target}")
    say(size(report.bytes))
    if report.missing:
        say(f"left out: {pluralize(report.missing, 'row')} that the task asked for and that are not here", err=True)
