"""``cas-cache pull``."""

from __future__ import annotations

import click

from cas_cache.cli.options import cache_options, open_cache, print_report


@click.command()
@cache_options
def pull(cache: str | None, remote: str | None, storage_options: tuple[str, ...], *, as_json: bool) -> None:
    """Take what the repository has and CACHE's mirror has not."""
    with open_cache(cache, remote, storage_options) as opened:
        print_report("pulled", opened.pull(), as_json=as_json)
