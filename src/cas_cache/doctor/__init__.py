"""What is wrong with a set-up or a storage, in plain words: what was tried, what it means, what to do.

`examine` looks at this machine and at a repository and writes nothing. With `trial` it also runs
`cas_cache.testing.StorageContract` in a scratch folder below the repository's root, and removes that again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cas_cache.doctor.machine import examine_machine, examine_mirror
from cas_cache.doctor.policies import Role, grant, s3_policy
from cas_cache.doctor.report import Finding, Report, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from cas_cache.repository.interface import Storage

__all__ = [
    "Finding",
    "Report",
    "Role",
    "Status",
    "examine_machine",
    "examine_mirror",
    "examine_remote",
    "grant",
    "s3_policy",
]


def examine_remote(
    report: Report,
    opener: Callable[[], Storage],
    *,
    mirror_repository: str | None = None,
    trial: bool = False,
    thorough: bool = False,
) -> None:
    """Look at a repository, and try its storage if asked.

    Args:
        report: Where findings go. If its role is a reader's, nothing is ever written.
        opener: Opens the storage, anew at each call. For tests in other processes it must be picklable.
        mirror_repository: The id of the repository that the mirror belongs to, if any.
        trial: Try what the role does. A writer's trial writes into a scratch folder and deletes it.
        thorough: The contract as it is, with listings of 2,500 objects; else of 1,100.
    """
    from cas_cache.doctor.remote import RemoteChecks

    checks = RemoteChecks(report, opener)
    checks.check_access(mirror_repository)
    if report.role == Role.READER:
        if trial and checks.fit:
            checks.check_reads()
        report.note("write", "Not tried: read only.")
    elif not checks.fit:
        report.note("write", "Not tried: what failed comes first.")
    elif not trial:
        report.note("write", "Not tried; --test-remote tries it, in a scratch folder that it removes.")
    else:
        from cas_cache.doctor.probe import Probe, ShorterContract
        from cas_cache.testing import StorageContract

        Probe(opener, report, marked=checks.marker is not None).run(
            StorageContract() if thorough else ShorterContract()
        )
