"""``cas-cache export``: write vectors as files for other tools."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cas_cache.cli.completion import complete_tasks
from cas_cache.cli.help import Command
from cas_cache.cli.ls import empty
from cas_cache.cli.options import (
    MAX_NAMED,
    dry_run_option,
    namespace_option,
    open_trusted_mirror,
    print_json,
)
from cas_cache.cli.table import ID_CHARACTERS, name_of
from cas_cache.cli.text import TEXT
from cas_cache.cli.verbosity import bars_wanted, say
from cas_cache.formatting import pluralize
from cas_cache.formatting import size as size_of
from cas_cache.interop import FORMATS, FORMATS_WITH_IDS, plan_export, select_namespace, select_views
from cas_cache.interop import export as write_export

if TYPE_CHECKING:
    from collections.abc import Callable

    from cas_cache.mirror import Mirror, Namespace, View


def view_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that choose among a task's views."""
    for name, choice in (
        ("--split", "."),
        ("--subset", "."),
        ("--model", ": a model's name, or name@revision."),
        ("--role", ": query or document."),
    ):
        command = click.option(name, type=TEXT, help=f"Of the task's{choice}")(command)
    return command


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
@click.option("--task", type=TEXT, shell_complete=complete_tasks, help="What this task asked for, in its order.")
@view_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def export(
    cache: str,
    target: str,
    *,
    format_name: str,
    namespace: str | None,
    task: str | None,
    dry_run: bool,
    as_json: bool,
    **asked: str | None,
) -> None:
    """Write vectors of CACHE's mirror to TARGET, which must not be there.

    npy and mteb make a directory (mteb's NumpyCache opens the second), parquet a file. Of a task, parquet has every
    row that it asked for, with its id, the others each once. Every row is verified by its digest before it is written.
    """
    if (namespace is None) == (task is None):
        raise click.UsageError("Say what to export: --namespace ID, or --task NAME.")
    if namespace is not None and any(value is not None for value in asked.values()):
        raise click.UsageError("--role, --model, --subset and --split choose among a task's views: name a --task.")
    mirror = open_trusted_mirror(cache, None)
    if task is None:
        chosen = select_namespace(one_namespace(mirror, namespace))
    else:
        chosen = select_views(mirror, views_of(mirror, task, asked), with_ids=format_name in FORMATS_WITH_IDS)
    if dry_run:
        report = plan_export(chosen, target, format_name)
    else:
        report = write_export(chosen, target, format_name, progress=bars_wanted())
    if as_json:
        print_json({"dry_run": dry_run, **report.as_json()})
        return
    did = "would export" if dry_run else "exported"
    say(f"{did} {pluralize(report.rows, 'row')} of {report.namespace} as {format_name} to {report.target}")
    say(size_of(report.bytes))
    if report.missing:
        say(f"left out: {pluralize(report.missing, 'row')} that the task asked for and that are not here", err=True)


def one_namespace(mirror: Mirror, beginning: str | None) -> Namespace:
    """Return the mirror's namespace whose id starts with `beginning`.

    Raises:
        click.UsageError: If there is no such namespace, or more than one.
    """
    namespaces = mirror.namespaces()
    matches = [ns for ns in namespaces if ns.spec.namespace.startswith(beginning or "")]
    if len(matches) == 1:
        return matches[0]
    if not namespaces:
        raise click.UsageError(empty(mirror))
    begin = f" begin with {beginning!r}" if beginning else ""
    raise click.UsageError(
        f"{pluralize(len(matches), 'namespace')} of {mirror.directory}{begin or ' could be meant'}. "
        f"{_choice(matches or namespaces)}"
    )


def _choice(namespaces: list[Namespace]) -> str:
    """Return a text that lists the namespaces to choose from."""
    choices = [f"{ns.spec.namespace[:ID_CHARACTERS]} ({name_of(ns.spec)})" for ns in namespaces[:MAX_NAMED]]
    more = ", ... (`cas-cache ls` lists all)" if len(namespaces) > MAX_NAMED else ""
    return f"Choose one by its id, with --namespace: {', '.join(choices)}{more}."


def views_of(mirror: Mirror, task: str, asked: dict[str, str | None]) -> list[View]:
    """Return the task's views that match the options; at least one, and all of one namespace.

    Raises:
        click.UsageError: If none matches, or they belong to several namespaces.
    """
    views = mirror.views.of(task)
    chosen = [view for view in views if view.matches(**asked)]
    if not chosen:
        hint = (
            f"It has {view_list(views)}" if views else f"The tasks are: {', '.join(mirror.views.tasks()) or '(none)'}"
        )
        raise click.UsageError(f"Nothing that the task {task} asked for matches. {hint}.")
    if len({view.namespace for view in chosen}) > 1:
        raise click.UsageError(
            f"The task {task} asked for rows of several namespaces: {view_list(chosen)}. Choose with --role, "
            "--model, --subset and --split, or name the --namespace."
        )
    return chosen


def view_list(views: list[View]) -> str:
    """Return a text that lists views."""
    return ", ".join(
        sorted(
            {f"{v.model}@{v.revision} {v.role or 'no role'} {v.subset} {v.split} ({v.namespace[:12]})" for v in views}
        )
    )
