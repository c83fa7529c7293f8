"""Diagnose a set-up or a storage in plain words: what was tried, what it means, what to do.

`examine` inspects this machine and a repository without writing anything. With `trial` it also runs
`cas_cache.testing.StorageContract` in a scratch folder below the repository's root, and then removes that folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cas_cache.doctor.machine import examine_machine, examine_mirror
from cas_cache.doctor.policies import Role
from cas_cache.doctor.report import DoctorFinding, DoctorReport, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from cas_cache.storage.interface import Storage

__all__ = [
    "DoctorFinding",
    "DoctorReport",
    "Role",
    "Status",
    "examine_machine",
    "examine_mirror",
    "examine_remote",
]


def examine_remote(
    report: DoctorReport,
    opener: Callable[[], Storage],
    *,
    mirror_repository: str | None = None,
    trial: bool = False,
    thorough: bool = False,
) -> None:
    """Examine a repository, and test its storage if requested.

    Args:
        report: The report that collects findings. If its role is a reader's, nothing is ever written.
        opener: Opens the storage again at each call. For tests in other processes it must be picklable.
        mirror_repository: The id of the repository that the mirror belongs to, if any.
        trial: Test the operations of the role. A writer's trial writes into a scratch folder and deletes it.
        thorough: Run the contract unchanged, with listings of 2,500 objects; otherwise of 1,100.
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
