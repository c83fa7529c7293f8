"""``cas-cache pull``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cas_cache.cli.dry_run import SyncTarget, would_pull
from cas_cache.cli.filters import Filters, chosen_namespaces, filter_options
from cas_cache.cli.help import Command
from cas_cache.cli.options import cache_options, dry_run_option, open_cache, print_report

if TYPE_CHECKING:
    from cas_cache.cache import EmbeddingCache

KEY_AND_DIGEST_BYTES = 40
"""Size of a row without its vector: a key and a digest."""


@click.command(
    cls=Command,
    examples=(
        "cas-cache pull my_mirror --remote s3://team/emb",
        "cas-cache pull my_mirror --remote s3://team/emb --model 'org/*'",
        "cas-cache pull my_mirror --remote s3://team/emb -n 55dc47fb --dry-run",
    ),
)
@cache_options
@filter_options
@dry_run_option
@click.option("--keys-only", is_flag=True, help="Take keys only, for a lazy cache that reads vectors when asked for.")
def pull(
    cache: str | None,
    remote: str | None,
    storage_options: tuple[str, ...],
    *,
    keys_only: bool,
    dry_run: bool,
    as_json: bool,
    **filters: tuple[str, ...],
) -> None:
    """Download packs that CACHE's mirror does not have: all of them, or those that the filters choose."""
    what = " the keys of" if keys_only else ""
    if dry_run:
        report = would_pull(SyncTarget(cache, remote, storage_options, Filters(**filters)))
        if keys_only:
            report.bytes = report.rows * KEY_AND_DIGEST_BYTES
        print_report(f"would pull{what}", report, dry_run=True, as_json=as_json)
        return
    with open_cache(cache, remote, storage_options) as opened:
        must_exist_if_new(opened)
        requested = chosen_namespaces(opened, Filters(**filters), remote=True)
        report = opened.pull_keys(requested) if keys_only else opened.pull(requested)
        print_report(f"pulled{what}", report, as_json=as_json)


def must_exist_if_new(opened: EmbeddingCache) -> None:
    """Check that the repository exists before a new mirror pulls: a mistyped URL looks like an empty repository.

    Raises:
        NotARepository: If the repository does not exist.
        RemoteError: If the remote is unreachable or refuses a request.
    """
    if opened.repository is not None and not opened.offline and opened.mirror.repository is None:
        opened.repository.must_exist()
