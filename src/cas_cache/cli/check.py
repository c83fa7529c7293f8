"""``cas-cache check``: compare the contents of a repository or a mirror with their hashes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from cas_cache.cli.commands import Command
from cas_cache.cli.options import cache_options, side_options
from cas_cache.cli.output import bars_wanted, exit_if, is_quiet, print_json, say
from cas_cache.display import pluralize, size
from cas_cache.mirror.check import check_mirror
from cas_cache.repository.check_report import Severity
from cas_cache.repository.checking import check as check_repository

if TYPE_CHECKING:
    from cas_cache.cli.target import Target
    from cas_cache.mirror import Mirror
    from cas_cache.repository.check_report import CheckReport

WHOLE = 100.0


def _part(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    """Return "1%" or "0.01" as 0.01."""
    if value is None:
        return None
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)(%?)", value.strip())
    part = float(match[1]) / (WHOLE if match[2] else 1) if match else 0.0
    if not 0 < part <= 1:
        raise click.BadParameter(f"{value!r} is not a part; write 1% or 0.01, more than 0 and at most 100%.")
    return part


@click.command(
    cls=Command,
    examples=(
        "cas-cache check s3://team/emb",
        "cas-cache check s3://team/emb --read-data --sample 1%",
        "cas-cache check my_mirror",
        "cas-cache check my_mirror --repository",
    ),
)
@cache_options
@side_options
@click.option("--read-data", is_flag=True, help="Read the objects too: hashes, row digests, zarr.json, duplicate keys.")
@click.option(
    "--sample",
    metavar="PART",
    callback=_part,
    help="With --read-data: read the data of this part of the packs only, such as 1%. The same packs each time.",
)
def check(target: Target, *, side: str | None, read_data: bool, sample: float | None, as_json: bool) -> None:
    """Verify the objects of a repository against their manifests, or the rows of a mirror. Nothing is written.

    Of a mirror, every row is compared with its digest. It also names the packs that no encoder was compared with in
    this mirror yet; the self-check does that before they are first served.

    Exit codes: 0 nothing but notes, 1 findings that cost rows or should be repaired, or a failure, 2 usage.
    """
    if not target.is_repository(side):
        if read_data or sample is not None:
            raise click.UsageError(
                "--read-data and --sample are for a repository; of a mirror all rows are read. Name the repository's "
                "URL, or add --repository."
            )
        _check_mirror(target.mirror(), as_json=as_json)
        return
    if sample is not None and not read_data:
        raise click.UsageError("--sample is a part of the data; add --read-data.")
    repository = target.repository("check")
    report = check_repository(repository, read_data=read_data, sample=sample or 1.0, progress=bars_wanted())
    if as_json:
        print_json({"url": repository.url, "read_data": read_data, "sample": sample or 1.0, **report.as_json()})
    else:
        _print_report(repository.url, report)
    exit_if(not report.clean)


def _check_mirror(mirror: Mirror, *, as_json: bool) -> None:
    """Verify all rows of a mirror; exit with 1 if something is wrong."""
    report = check_mirror(mirror)
    if as_json:
        print_json({"mirror": str(mirror.directory), **report.as_json()})
    else:
        for finding in report.findings:
            say(f"{finding.kind}: {finding.namespace}: {finding.what}", err=is_quiet())
        for namespace, packs in report.unverified.items():
            say(
                f"not verified yet: {namespace}: {pluralize(len(packs), 'pack')}, "
                f"{pluralize(sum(packs.values()), 'row')}: {', '.join(packs)}"
            )
        say(
            f"checked {pluralize(report.namespaces, 'namespace')}, {pluralize(report.rows, 'row')}: "
            f"{pluralize(len(report.findings), 'finding')}"
        )
    exit_if(not report.clean)


def _print_report(url: str, report: CheckReport) -> None:
    """Print one line per finding, the worst first, and then what was checked."""
    for finding in report.findings:
        where = f"{finding.severity:<6} {finding.kind}: {finding.path or url}"
        line = f"{where}: {finding.what} {finding.cost} {finding.repair}"
        say(line, err=finding.severity is not Severity.NOTE and is_quiet())
    counts = ", ".join(f"{report.count(severity):,} {severity}" for severity in Severity)
    say(
        f"checked {pluralize(report.packs, 'pack')}, {pluralize(report.rows, 'row')}, "
        f"of {pluralize(report.packs_read, 'pack')} the data: {counts}; "
        f"{size(report.bytes)} read"
    )
