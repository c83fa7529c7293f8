"""``cas-cache info``: one namespace, with the document that is its identity."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cas_cache.amounts import counted
from cas_cache.cli.help import Command
from cas_cache.cli.ls import describe
from cas_cache.cli.options import (
    json_text,
    mirror_options,
    namespace_option,
    open_mirror,
    print_json,
)
from cas_cache.cli.talk import say
from cas_cache.repository import is_url, without_credentials
from cas_cache.settings import TABLES, Settings

if TYPE_CHECKING:
    from cas_cache.mirror import Mirror, Namespace


@click.command(
    cls=Command,
    examples=(
        "cas-cache info my_mirror -n 55dc47fb",
        "cas-cache info --settings",
    ),
)
@mirror_options
@click.option("--settings", is_flag=True, help="Show the settings that are in force, and where each was found.")
@namespace_option("wanted", "Show this namespace.")
def info(
    cache: str | None,
    remote: str | None,
    *,
    wanted: str | None,
    settings: bool,
    as_json: bool,
) -> None:
    """Show what identifies the vectors of a namespace, and where they are; or the settings in force, and whence."""
    if settings:
        _print_settings(as_json=as_json)
        return
    mirror = open_mirror(cache, remote)
    ns = _chosen(mirror, wanted)
    facts = {
        **describe(ns),
        "spec": ns.spec.public_document(),
        "folder": str(ns.folder),
        "packs": sorted(ns.packs),
        "repository": mirror.repository,
    }
    if as_json:
        print_json(facts)
        return
    for name in ("namespace", "rows", "waiting", "dtype", "shape", "bytes", "folder", "repository"):
        say(f"{name:<11}{f'{facts[name]:,}' if isinstance(facts[name], int) else facts[name]}")
    say(f"{'packs':<11}{len(ns.packs):,}")
    say("spec")
    say(json_text(facts["spec"]))


def _print_settings(*, as_json: bool) -> None:
    found = Settings.read()
    values = {name: getattr(found, name, None) for name in found.sources}
    for table in TABLES:
        values |= {f"{table}.{name}": text for name, text in getattr(found, table).items()}
    shown = {name: {"value": _shown(name, value), "source": found.sources[name]} for name, value in values.items()}
    if as_json:
        print_json({"settings": shown})
        return
    width = max(map(len, shown))
    for name, of in shown.items():
        say(f"{name:<{width}}  {'-' if of['value'] is None else of['value']}  {of['source']}")


def _shown(name: str, value: object) -> object:
    """A value that may be printed: a URL may have credentials in it."""
    if isinstance(value, Path):
        return str(value)
    is_remote = name.startswith("remote") and isinstance(value, str) and is_url(value)
    return without_credentials(str(value)) if is_remote else value


def _chosen(mirror: Mirror, wanted: str | None) -> Namespace:
    found = [ns for ns in mirror.namespaces() if ns.spec.namespace.startswith(wanted or "")]
    if len(found) == 1:
        return found[0]
    if not found:
        what = f"no namespace {wanted}" if wanted else "nothing"
        raise click.UsageError(f"There is {what} in {mirror.directory}. `cas-cache ls` lists what is there.")
    ids = ", ".join(ns.spec.namespace[:12] for ns in found[:8])
    raise click.UsageError(f"{counted(len(found), 'namespace')} match: {ids}. Choose one with --namespace.")
