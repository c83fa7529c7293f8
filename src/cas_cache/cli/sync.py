"""``cas-cache sync``: pull, then push."""

from __future__ import annotations

import click

from cas_cache.cli.filters import Filters, chosen_namespaces, filter_options
from cas_cache.cli.options import cache_options, open_cache, open_mirror, print_json, print_report


@click.command()
@cache_options
@filter_options
def sync(
    cache: str | None,
    remote: str | None,
    storage_options: tuple[str, ...],
    *,
    as_json: bool,
    **filters: tuple[str, ...],
) -> None:
    """Pull, then push: afterwards CACHE's mirror and the repository hold the same, or what the filters choose of it.

    A repository that is not there yet is made, as `push` does.
    """
    open_mirror(cache, remote)
    with open_cache(cache, remote, storage_options) as opened:
        there = opened.repository is not None and not opened.offline and opened.repository.open()
        wanted = chosen_namespaces(opened, Filters(**filters), there=there)
        pulled, pushed = opened.sync(wanted)
        if as_json:
            print_json({"pulled": pulled.as_json(), "pushed": pushed.as_json()})
            if pulled.problems or pushed.problems:
                raise click.exceptions.Exit(1)
            return
        try:
            print_report("pulled", pulled, as_json=False)
        finally:
            print_report("pushed", pushed, as_json=False)
