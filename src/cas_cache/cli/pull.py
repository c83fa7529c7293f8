"""``cas-cache pull``."""

from __future__ import annotations

import click

from cas_cache.cli.options import cache_options, open_cache, print_report


@click.command()
@cache_options
def pull(cache: str | None, remote: str | None, storage_options: tuple[str, ...], *, as_json: bool) -> None:
    """Take what the repository has and CACHE's mirror has not."""
    with open_cache(cache, remote, storage_options) as opened:
        if opened.repository is not None and not opened.offline and opened.mirror.repository is None:
            # To a new mirror a mistyped URL would look like a repository that has nothing yet.
            opened.repository.must_be_there()
        print_report("pulled", opened.pull(), as_json=as_json)
