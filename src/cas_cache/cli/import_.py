"""``cas-cache import mteb``: import vectors of mteb's own caches into a namespace."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cas_cache.cli.choose import one_namespace, spec_in_file
from cas_cache.cli.commands import Command, CommandGroup
from cas_cache.cli.options import TEXT, dry_run_option, mirror_options, namespace_option
from cas_cache.cli.output import bars_wanted, exit_if, print_json, say
from cas_cache.display import pluralize
from cas_cache.identity import EncoderSpec, parsed_json
from cas_cache.interop import ImportReport, find_folders, plan_import
from cas_cache.mirror import Mirror

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cas_cache.cli.target import Target
    from cas_cache.interop import MtebCacheFolder


@click.group(name="import", cls=CommandGroup, examples=("cas-cache import mteb old my_mirror -n 55dc47fb --dry-run",))
def import_() -> None:
    """Take vectors that something else stored."""


@import_.command(
    cls=Command,
    short_help="Take the vectors of mteb's own caches.",
    examples=(
        "cas-cache import mteb old my_mirror -n 55dc47fb --dry-run",
        "cas-cache import mteb old my_mirror --model org/m --revision 1 --role query",
    ),
)
@click.argument("directory", metavar="DIR")
@mirror_options
@dry_run_option
@namespace_option("namespace", "Import into this namespace of the mirror, under its spec.")
@click.option("--spec", "spec_file", metavar="FILE", help="The spec, as JSON: what `cas-cache info --json` prints.")
@click.option("--model", type=TEXT, help="Whose vectors they are. mteb did not write that down.")
@click.option("--revision", type=TEXT, help="What pins the model's weights.")
@click.option("--prompt", type=TEXT, default="", help="The literal text that was put before every text.")
@click.option("--role", type=click.Choice(["query", "document"]), help="Default: what the folders are named.")
@click.option("--no-role", is_flag=True, help="The vectors are of no role: of a task without queries and documents.")
@click.option(
    "--param", "params", type=TEXT, multiple=True, metavar="K=JSON", help="One of the spec's params. May be repeated."
)
@click.option(
    "--scope", "scope", type=TEXT, multiple=True, metavar="K=JSON", help="One of the spec's scope. May be repeated."
)
@click.option("--mteb-1", is_flag=True, help="mteb 1.x wrote the folders, which cannot be seen.")
@click.option("--accept-unsafe", is_flag=True, help="Also take folders that cannot prove what they hold.")
def mteb(
    directory: str,
    target: Target,
    *,
    namespace: str | None,
    spec_file: str | None,
    mteb_1: bool,
    accept_unsafe: bool,
    dry_run: bool,
    as_json: bool,
    **identity: Any,
) -> None:
    """Take the vectors of mteb's caches in DIR (NumpyCache, FaissCache, 1.x's TextVectorMap) into CACHE's mirror.

    DIR is what was mteb's cache_path, or a folder in it; it is not changed. The vectors will be hits only under the
    very spec that an evaluation asks with: evaluate one task with the cache, then name the namespace that it made.

    Exit codes: 0 fine, 1 a folder was refused or is broken, or a failure, 2 usage.
    """
    folders = find_folders(directory)
    if sum([namespace is not None, spec_file is not None, identity["model"] is not None]) != 1:
        raise click.UsageError("Say whose vectors these are: --namespace ID, --spec FILE, or --model and --revision.")
    if identity["model"] is None and any(identity.values()):
        raise click.UsageError("The options that spell a spec out go with --model; a namespace or a file has its own.")
    if namespace is not None:
        spec = one_namespace(target.mirror(), namespace).spec
    else:
        spec = _spec_of(folders, **identity) if spec_file is None else spec_in_file(Path(spec_file))
    mirror = target.mirror_if_any()
    opened = None if mirror is None else mirror.get(spec.namespace)
    plan = plan_import(folders, spec, opened, accept_unsafe=accept_unsafe, mteb_1=mteb_1)
    if not as_json:
        say("\n".join(plan.lines()))
    report = ImportReport(plan)
    if plan.taken and not dry_run:
        report = plan.run((mirror or Mirror(target.directory)).namespace(spec), progress=bars_wanted())
    if as_json:
        print_json({**report.as_json(), "dry_run": dry_run, "mirror": str(target.directory)})
    else:
        _print_end(report, dry_run=dry_run)
    exit_if(not plan.clean)


def _print_end(report: ImportReport, *, dry_run: bool) -> None:
    spec = report.plan.spec
    verb, count = ("would store", report.taken) if dry_run else ("stored", report.stored)
    role = f", {spec.role}" if spec.role else ""
    say(f"{verb} {pluralize(count, 'vector')} of {spec.model}@{spec.revision}{role} in namespace {spec.namespace}")
    if "refused" in report.left():
        say("If you know better than the folders can show: --accept-unsafe.", err=True)


def _spec_of(
    folders: Sequence[MtebCacheFolder],
    *,
    model: str,
    revision: str | None,
    prompt: str,
    role: str | None,
    no_role: bool,
    params: tuple[str, ...],
    scope: tuple[str, ...],
) -> EncoderSpec:
    """Return the spec that the options describe. Without ``--role``, the role is the one that all folders share."""
    if revision is None:
        raise click.UsageError("--model needs --revision: what pins its weights.")
    if role is not None and no_role:
        raise click.UsageError("--role and --no-role exclude each other.")
    roles = {folder.role for folder in folders}
    if role is None and not no_role:
        if len(roles) > 1:
            raise click.UsageError(
                "DIR has folders of several roles, and each role is a spec of its own. Name one with --role, then the "
                "other."
            )
        role = next(iter(roles))
        if role is None:
            raise click.UsageError(
                "The folders do not say whether they are of queries or documents. Name one with --role, or --no-role."
            )
    return EncoderSpec(
        model=model,
        revision=revision,
        prompt=prompt,
        role=role,
        params=_parse_pairs("--param", params),
        scope=_parse_pairs("--scope", scope),
    )


def _parse_pairs(option: str, pairs: tuple[str, ...]) -> dict[str, Any]:
    parsed = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        try:
            if not equals or not key:
                msg = "no ="
                raise ValueError(msg)
            parsed[key] = parsed_json(value)
        except ValueError as err:
            raise click.BadParameter(
                f'{pair!r} is not K=JSON, such as truncate_dim=256 or dtype="float32" (with the quotes)',
                param_hint=option,
            ) from err
    return parsed
