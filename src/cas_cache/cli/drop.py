"""``cas-cache drop``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cas_cache.cli.choose import full_namespace
from cas_cache.cli.commands import Command
from cas_cache.cli.options import ask, cache_options, dry_run_option, is_to_ask, namespace_option, yes_option
from cas_cache.cli.output import print_json, say
from cas_cache.display import pluralize, size
from cas_cache.errors import ConfigurationError, RepositoryError
from cas_cache.mirror.evict import forget_packs
from cas_cache.repository.dropping import drop as drop_namespace
from cas_cache.repository.dropping import drop_pack

if TYPE_CHECKING:
    from cas_cache.cli.target import Target
    from cas_cache.repository import Repository
    from cas_cache.repository.dropping import DropPackReport, DropReport


@click.command(
    cls=Command,
    examples=(
        "cas-cache drop s3://team/emb -n 55dc47fb --dry-run",
        "cas-cache drop s3://team/emb -n 55dc47fb --force --yes",
    ),
)
@cache_options
@dry_run_option
@yes_option
@namespace_option("namespace", "Delete this namespace.")
@click.option("--pack", metavar="ID", help="One pack with wrong vectors: its id, or how it begins.")
@click.option(
    "--force", is_flag=True, help="Also if a pack was added in the last day, or rows of others go with a merge."
)
def drop(
    target: Target,
    *,
    namespace: str | None,
    pack: str | None,
    yes: bool,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Delete a namespace, with all its vectors, from CACHE's repository. Mirrors keep what they have.

    With --pack, delete one pack, whose vectors a self-check found to be wrong, and the merges that hold its rows. The
    rows go from CACHE's mirror too, and are encoded again when they are next asked for. On every other machine that
    has them, run the same command.

    It asks first; where nobody can be asked it needs --yes.
    """
    if (namespace is None) == (pack is None):
        raise click.UsageError("Name what to delete: either --namespace or --pack.")
    asks = is_to_ask(yes=yes, dry_run=dry_run, as_json=as_json)
    if pack is not None:
        _drop_pack(target, pack, asks=asks, force=force, dry_run=dry_run, as_json=as_json)
        return
    repository = target.repository("drop from", writes=not dry_run)
    namespace = full_namespace(repository, namespace or "")
    report = drop_namespace(repository, namespace, dry_run=True)
    if asks and (report.is_idle or force):
        ask(f"Delete {_described(report)} from {repository.url}, {_spec(repository, namespace)}?")
    if not dry_run:
        report = drop_namespace(repository, namespace, force=force)
    if as_json:
        print_json({"url": repository.url, "dry_run": dry_run, **report.as_json()})
    else:
        say(f"{'would delete' if dry_run else 'deleted'} {_described(report)}")


def _drop_pack(target: Target, pack: str, *, asks: bool, force: bool, dry_run: bool, as_json: bool) -> None:
    """Delete one pack from the repository, and its rows from the mirror."""
    repository = target.repository("drop from", writes=not dry_run)
    mirror = target.mirror_if_any()
    report = drop_pack(repository, pack, dry_run=True)
    packs = report.packs or [pack]
    rows = 0 if mirror is None else forget_packs(mirror, packs, dry_run=True)
    if not (report.packs or rows):
        raise ConfigurationError(
            f"Neither {repository.url} nor the mirror has a pack {pack}. Nothing was deleted. `cas-cache info "
            "-n ID --json` and the message of a failed self-check name packs."
        )
    if asks and (force or not report.other_rows):
        ask(f"Delete {_pack_text(report, rows)}?")
    if not dry_run:
        report = drop_pack(repository, pack, force=force)
        rows = 0 if mirror is None else forget_packs(mirror, packs)
    if as_json:
        print_json({"url": repository.url, "dry_run": dry_run, **report.as_json(), "mirror_rows": rows})
    else:
        say(f"{'would delete' if dry_run else 'deleted'} {_pack_text(report, rows)}")


def _pack_text(report: DropPackReport, rows: int) -> str:
    in_mirror = f"{pluralize(rows, 'row')} in the mirror"
    if not report.packs:
        return in_mirror
    merges = f" and {pluralize(len(report.packs) - 1, 'merge')} of it" if len(report.packs) > 1 else ""
    others = f", with {pluralize(report.other_rows, 'row')} of other packs" if report.other_rows else ""
    dropped = f"pack {report.packs[0]}{merges}: {pluralize(report.rows, 'row')}, {size(report.bytes)}{others}"
    return f"{dropped}; {in_mirror}"


def _spec(repository: Repository, namespace: str) -> str:
    """Describe a namespace's vectors in the question to the user."""
    try:
        spec = repository.spec(namespace)
    except RepositoryError:
        return "whose spec cannot be read"
    return f"the vectors of {spec.model}@{spec.revision}, role {spec.role}, for everybody"


def _described(report: DropReport) -> str:
    return f"namespace {report.namespace}: {pluralize(len(report.packs), 'pack')}, {size(report.bytes)}"
