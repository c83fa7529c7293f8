"""``cas-cache status``: the differences between a mirror and its repository."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cas_cache.amounts import counted
from cas_cache.amounts import size as size_of
from cas_cache.cli.filters import Filters, filter_options
from cas_cache.cli.help import Command
from cas_cache.cli.options import cache_options, open_cache, open_mirror, print_json
from cas_cache.cli.pull import must_be_there_if_new
from cas_cache.cli.table import name_of, print_namespaces
from cas_cache.cli.talk import say
from cas_cache.errors import ConfigurationError

if TYPE_CHECKING:
    from cas_cache.sync import Standing


@click.command(
    cls=Command,
    examples=(
        "cas-cache status my_mirror --remote s3://team/emb",
        "cas-cache status my_mirror --remote s3://team/emb --json",
    ),
)
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
    from cas_cache.sync import standing

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
                say(f"skipped: {problem}", err=True)
    if report.problems:
        raise click.exceptions.Exit(1)


def _print(found: list[Standing]) -> None:
    """Print two lines per namespace, as `ls` does, and a total."""
    if found:
        print_namespaces((one.namespace, [name_of(one.spec), _line(one)]) for one in found)
    up, down = sum(one.bytes_to_push for one in found), sum(one.bytes_to_pull for one in found)
    say(
        f"{counted(len(found), 'namespace')}, {sum(one.in_step for one in found):,} up to date; "
        f"{size_of(up)} to push, {size_of(down)} to pull"
    )


def _line(one: Standing) -> str:
    return f"{counted(one.rows_here, 'row')}; {'up to date' if one.in_step else _moves(one)}"


def _moves(one: Standing) -> str:
    push = f"{one.rows_to_push:,} to push ({size_of(one.bytes_to_push)})"
    pull = f"{one.rows_to_pull:,} in {counted(one.packs_to_pull, 'pack')} to pull ({size_of(one.bytes_to_pull)})"
    return ", ".join(text for text, some in ((push, one.rows_to_push), (pull, one.packs_to_pull)) if some)
