"""``cas-cache info``: one namespace, with the document that is its identity."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from cas_cache.cli.ls import describe
from cas_cache.cli.options import mirror_options, open_mirror, print_json

if TYPE_CHECKING:
    from cas_cache.mirror import Mirror, Namespace


@click.command()
@mirror_options
@click.option("-n", "--namespace", "wanted", metavar="ID", help="Which one: its id, or the beginning of it.")
def info(
    cache: str | None,
    remote: str | None,
    *,
    wanted: str | None,
    as_json: bool,
) -> None:
    """Show what identifies the vectors of a namespace, and where they are."""
    mirror = open_mirror(cache, remote)
    ns = _chosen(mirror, wanted)
    facts = {
        **describe(ns),
        "spec": ns.spec.document(),
        "folder": str(ns.folder),
        "packs": sorted(ns.packs),
        "repository": mirror.repository,
    }
    if as_json:
        print_json(facts)
        return
    for name in ("namespace", "rows", "waiting", "dtype", "shape", "bytes", "folder", "repository"):
        click.echo(f"{name:<11}{facts[name]}")
    click.echo(f"{'packs':<11}{len(ns.packs)}")
    click.echo("spec")
    click.echo(json.dumps(facts["spec"], indent=2, ensure_ascii=False))


def _chosen(mirror: Mirror, wanted: str | None) -> Namespace:
    found = [ns for ns in mirror.namespaces() if ns.spec.namespace.startswith(wanted or "")]
    if len(found) == 1:
        return found[0]
    if not found:
        what = f"no namespace {wanted}" if wanted else "nothing"
        raise click.UsageError(f"There is {what} in {mirror.directory}. `cas-cache ls` lists what is there.")
    ids = ", ".join(ns.spec.namespace[:12] for ns in found[:8])
    raise click.UsageError(f"{len(found)} namespaces match: {ids}. Choose one with --namespace.")
