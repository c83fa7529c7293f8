"""``cas-cache pull``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cas_cache.cli.filters import Filters, chosen_namespaces, filter_options
from cas_cache.cli.options import cache_options, open_cache, print_report

if TYPE_CHECKING:
    from cas_cache.cache import EmbeddingCache


@click.command()
@cache_options
@filter_options
def pull(
    cache: str | None,
    remote: str | None,
    storage_options: tuple[str, ...],
    *,
    as_json: bool,
    **filters: tuple[str, ...],
) -> None:
    """Take what the repository has and CACHE's mirror has not: all of it, or what the filters choose."""
    with open_cache(cache, remote, storage_options) as opened:
        must_be_there_if_new(opened)
        wanted = chosen_namespaces(opened, Filters(**filters), there=True)
        print_report("pulled", opened.pull(wanted), as_json=as_json)


def must_be_there_if_new(opened: EmbeddingCache) -> None:
    """Refuse to take a mistyped URL, which looks like a repository that has nothing yet, for one, in a new mirror.

    Raises:
        NotARepository: If nothing is there.
        RemoteError: If the remote is away or refuses.
    """
    if opened.repository is not None and not opened.offline and opened.mirror.repository is None:
        opened.repository.must_be_there()
