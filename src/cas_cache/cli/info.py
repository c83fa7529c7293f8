"""``cas-cache info``: one namespace, with the document that identifies it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cas_cache.cli.choose import full_namespace, one_namespace, spec_in_file
from cas_cache.cli.commands import Command
from cas_cache.cli.ls import describe, mirror_as_json, print_mirror
from cas_cache.cli.options import TEXT, cache_options, namespace_option
from cas_cache.cli.output import exit_if, json_text, print_json, say
from cas_cache.config.settings import TABLES, Settings
from cas_cache.config.urls import is_url, without_credentials
from cas_cache.display import pluralize

if TYPE_CHECKING:
    from cas_cache.cache import EmbeddingCache
    from cas_cache.cli.target import Target
    from cas_cache.identity import EncoderSpec
    from cas_cache.mirror import Mirror, Namespace
    from cas_cache.sync import Explanation


@click.command(
    cls=Command,
    examples=(
        "cas-cache info my_mirror -n 55dc47fb",
        "cas-cache info --settings",
        'cas-cache info my_mirror --remote s3://team/emb -n 55dc47fb --why "a text"',
    ),
)
@cache_options
@click.option("--spec", "spec_file", metavar="FILE", help="With --why: the spec, as `cas-cache info --json` prints it.")
@click.option("--why", type=TEXT, metavar="TEXT", help="Say where the vector of this text is, or why it is a miss.")
@click.option("--settings", is_flag=True, help="Show the settings that are in force, and where each was found.")
@namespace_option("namespace", "Show this namespace.")
def info(
    target: Target,
    *,
    namespace: str | None,
    why: str | None,
    spec_file: str | None,
    settings: bool,
    as_json: bool,
) -> None:
    """Show the encoder spec of a namespace and where its rows are, or the settings in force and where each was found.

    If several namespaces match, an overview of them is shown instead.

    With --why it asks the mirror, then the repository, where the vector of a text is. Nothing is encoded or changed.

    Exit code 1 if something could not be read.
    """
    if why is None and (spec_file is not None or target.storage_options):
        raise click.UsageError("--spec and --storage-option are for --why TEXT. Add it.")
    if why is not None:
        mirror = target.mirror()  # opening the cache would create the mirror
        with target.open() as opened:
            spec = _asked_spec(mirror, opened, namespace, spec_file)
            _print_explanation(opened.explain(why, spec), as_json=as_json)
        return
    if settings:
        _print_settings(as_json=as_json)
        return
    mirror = target.mirror()
    chosen = _chosen_namespaces(mirror, namespace)
    if len(chosen) > 1:
        _print_overview(mirror, chosen, as_json=as_json)
        return
    (ns,) = chosen
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
    for name in ("namespace", "rows", "pending", "dtype", "shape", "bytes", "folder", "repository"):
        say(f"{name:<11}{f'{facts[name]:,}' if isinstance(facts[name], int) else facts[name]}")
    say(f"{'packs':<11}{len(ns.packs):,}")
    say("spec")
    say(json_text(facts["spec"]))


def _asked_spec(mirror: Mirror, opened: EmbeddingCache, beginning: str | None, spec_file: str | None) -> EncoderSpec:
    if spec_file is not None:
        return spec_in_file(Path(spec_file))
    is_local = any(namespace.startswith(beginning or "") for namespace in mirror.ids())
    if is_local or not beginning or opened.repository is None or opened.offline:
        return one_namespace(mirror, beginning).spec
    return opened.repository.spec(full_namespace(opened.repository, beginning))


def _print_explanation(explanation: Explanation, *, as_json: bool) -> None:
    if as_json:
        print_json(explanation.as_json())
    else:
        say(f"{'hit' if explanation.is_hit else 'miss'}  {explanation.message}")
        for other in explanation.others:
            where = "mirror" if other.in_mirror else "repository"
            say(f"namespace {other.namespace} of the {where} has it: {'; '.join(map(str, other.differences))}")
        for problem in explanation.problems:
            say(f"not read: {problem}", err=True)
    exit_if(explanation.problems)


def _print_settings(*, as_json: bool) -> None:
    settings = Settings.read()
    values = {name: getattr(settings, name, None) for name in settings.sources}
    for table in TABLES:
        values |= {f"{table}.{name}": text for name, text in getattr(settings, table).items()}
    shown = {
        name: {"value": _printable_value(name, value), "source": settings.sources[name]}
        for name, value in values.items()
    }
    if as_json:
        print_json({"settings": shown})
        return
    width = max(map(len, shown))
    for name, setting in shown.items():
        say(f"{name:<{width}}  {'-' if setting['value'] is None else setting['value']}  {setting['source']}")


def _printable_value(name: str, value: object) -> object:
    """Return a setting's value for printing, without credentials in URLs."""
    if isinstance(value, Path):
        return str(value)
    is_remote = name.startswith("remote") and isinstance(value, str) and is_url(value)
    return without_credentials(str(value)) if is_remote else value


def _print_overview(mirror: Mirror, chosen: list[Namespace], *, as_json: bool) -> None:
    """Print namespaces as `ls` does; the hint goes to stderr."""
    if as_json:
        print_json(mirror_as_json(mirror, chosen))
        return
    print_mirror(mirror, chosen)
    say(f"{pluralize(len(chosen), 'namespace')} match. Choose one with --namespace to see its spec.", err=True)


def _chosen_namespaces(mirror: Mirror, beginning: str | None) -> list[Namespace]:
    """Return the namespaces whose ids start with `beginning`, at least one.

    Raises:
        click.UsageError: If there is none.
    """
    matches = [ns for ns in mirror.namespaces() if ns.spec.namespace.startswith(beginning or "")]
    if not matches:
        what = f"no namespace {beginning}" if beginning else "nothing"
        raise click.UsageError(f"There is {what} in {mirror.directory}. `cas-cache ls` lists its namespaces.")
    return matches
