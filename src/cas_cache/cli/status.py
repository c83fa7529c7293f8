"""``cas-cache status``: what is only here, what is only there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cas_cache.cli.filters import Filters, filter_options
from cas_cache.cli.options import cache_options, human_bytes, open_cache, open_mirror, print_json
from cas_cache.cli.pull import must_be_there_if_new
from cas_cache.errors import ConfigurationError
from cas_cache.sync import standing

if TYPE_CHECKING:
    from cas_cache.sync import Standing


@click.command()
@cache_options
@filter_options
def status(
    cache: str | None,
    remote: str | None,
    storage_options: tuple[str, ...],
    *,
    as_json: bool,
    **filters: tuple[str, ...],
) -> None:
    """Say, namespace by namespace, what a push would send and a pull would take. Nothing is changed.

    Exit code 1 if something could not be read.
    """
    mirror = open_mirror(cache, remote)
    with open_cache(cache, remote, storage_options) as opened:
        if opened.repository is None or opened.offline:
            raise ConfigurationError(
                "There is no repository to compare with. Name one: --remote, or CAS_CACHE_REMOTE, and not offline. "
                "`cas-cache ls` shows what is here."
            )
        must_be_there_if_new(opened)
        found, report = standing(mirror, opened.repository)
        wanted = Filters(**filters)
        if wanted:
            chosen = set(wanted.chosen({one.namespace: one.spec for one in found}, mirror))
            found = [one for one in found if one.namespace in chosen]
        if as_json:
            print_json(
                {
                    "mirror": str(mirror.directory),
                    "repository": opened.repository.url,
                    "namespaces": [one.as_json() for one in found],
                    "problems": report.as_json()["problems"],
                }
            )
        else:
            _print(found)
            for problem in report.problems:
                click.echo(f"passed over: {problem}", err=True)
    if report.problems:
        raise click.exceptions.Exit(1)


def _print(found: list[Standing]) -> None:
    """Two lines a namespace, as `ls` has them, and a sum."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("namespace", no_wrap=True)
    table.add_column("model@revision, role", overflow="fold")
    for one in found:
        spec = one.spec
        role = f", {spec.role}" if spec is not None and spec.role else ""
        name = "(its spec cannot be read)" if spec is None else f"{spec.model}@{spec.revision[:12]}{role}"
        counts = "in step" if one.in_step else _moves(one)
        table.add_row(one.namespace[:12], Text(f"{name}\n{one.rows_here:,} rows here; {counts}"))
    if found:
        Console(highlight=False).print(table)
    up, down = sum(one.bytes_to_push for one in found), sum(one.bytes_to_pull for one in found)
    click.echo(
        f"{len(found)} namespaces, {sum(one.in_step for one in found)} in step; "
        f"{human_bytes(up)} to push, {human_bytes(down)} to pull"
    )


def _moves(one: Standing) -> str:
    push = f"{one.rows_to_push:,} to push ({human_bytes(one.bytes_to_push)})"
    pull = f"{one.rows_to_pull:,} in {one.packs_to_pull} packs to pull ({human_bytes(one.bytes_to_pull)})"
    return ", ".join(text for text, some in ((push, one.rows_to_push), (pull, one.packs_to_pull)) if some)
