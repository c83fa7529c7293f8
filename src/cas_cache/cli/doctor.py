"""``cas-cache doctor``: find problems of a set-up or a storage."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cas_cache.cli.commands import Command
from cas_cache.cli.options import cache_options
from cas_cache.cli.output import exit_if, is_quiet, print_json, say
from cas_cache.config.locations import places
from cas_cache.config.settings import Settings
from cas_cache.config.urls import is_url, without_credentials
from cas_cache.doctor import DoctorReport, Role, Status, examine_machine, examine_mirror, examine_remote
from cas_cache.errors import ConfigurationError, MirrorError
from cas_cache.storage import open_storage
from cas_cache.storage.redaction import secrets_in

if TYPE_CHECKING:
    from cas_cache.cli.target import Target
    from cas_cache.doctor import DoctorFinding


@click.command(
    cls=Command,
    examples=(
        "cas-cache doctor",
        "cas-cache doctor s3://team/emb --test-remote",
        "cas-cache doctor s3://team/emb --test-remote --read-only",
    ),
)
@cache_options
@click.option(
    "--test-remote",
    is_flag=True,
    help="Try the storage: write, list and delete in a scratch folder below the repository, and remove it.",
)
@click.option("--read-only", is_flag=True, help="Check and try only what a reader needs; never write.")
@click.option("--thorough", is_flag=True, help="With --test-remote: list 2,500 objects, not 1,100.")
def doctor(target: Target, *, test_remote: bool, read_only: bool, thorough: bool, as_json: bool) -> None:
    """Say what is wrong with a set-up or a storage, what it means, and what to do.

    Without --test-remote nothing is written, here or there. Exit codes: 0 nothing fails, 1 something does, 2 usage.
    """
    if thorough and (read_only or not test_remote):
        raise click.UsageError("--thorough is for --test-remote, without --read-only.")
    settings = Settings.read()
    mirror = None if target.cache_is_repository and not is_url(target.cache or "") else target.cache
    directory, url = places(mirror, _remote(target), settings)
    if test_remote and url is None:
        raise click.UsageError(
            "There is no remote to test. Name its URL, pass --remote (a directory works too), or set CAS_CACHE_REMOTE."
        )
    if test_remote and settings.offline:
        raise ConfigurationError("The cache is offline: no test. Unset CAS_CACHE_OFFLINE.")
    report = DoctorReport(
        role=Role.READER if read_only or settings.read_only else Role.WRITER,
        on_finding=None if as_json else _print,
        secrets=tuple(secrets_in(target.storage_options)),
    )
    examine_machine(report, settings, url)
    belongs = examine_mirror(report, Path(directory))
    if url is None:
        report.note("remote", "None is named: the cache is local. Name a URL or set CAS_CACHE_REMOTE to share it.")
    elif settings.offline:
        report.note("remote", "Not looked at: CAS_CACHE_OFFLINE is on.")
    else:
        opener = functools.partial(open_storage, url, target.storage_options or None)
        # s3fs closes the connections of forked and forgotten file systems late, and asyncio logs that at length.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        examine_remote(report, opener, mirror_repository=belongs, trial=test_remote, thorough=thorough)
    if as_json:
        print_json(
            {"url": None if url is None else without_credentials(url), "mirror": str(directory), **report.as_json()}
        )
    else:
        _print_end(report)
    exit_if(report.fails)


def _remote(target: Target) -> str | None:
    """Return the remote to examine. A damaged mirror names no remote; another check reports the damage."""
    try:
        return target.known_remote()
    except MirrorError:
        return target.remote


def _print(finding: DoctorFinding) -> None:
    line = " ".join(text for text in (finding.what, finding.means, finding.repair) if text)
    say(f"{finding.status:<5} {finding.name}: {line}", err=finding.status is Status.FAIL and is_quiet())


def _print_end(report: DoctorReport) -> None:
    if report.policy:
        say(f"\nThe least that a {report.role} needs:\n\n{report.policy}\n")
    say(", ".join(f"{report.count(status)} {status}" for status in Status))
