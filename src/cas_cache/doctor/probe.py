"""Test the operations of a writer and a maintainer: every test of the storage contract, each in a scratch folder.

Nothing is written unless DELETE is allowed or a repository exists, so an empty place stays empty.
"""

from __future__ import annotations

import math
import time
import traceback
from typing import TYPE_CHECKING, ClassVar

from cas_cache.doctor.guarantees import GATE, GUARANTEES, Guarantee, finding_name
from cas_cache.doctor.machine import may_fork
from cas_cache.doctor.policies import removal
from cas_cache.doctor.remote import SKEW, SKEW_SECONDS
from cas_cache.doctor.report import Status
from cas_cache.doctor.scratch import Below, Scratch
from cas_cache.errors import AccessDenied, CasCacheError, RemoteError, RemoteUnavailable
from cas_cache.storage.failures import REQUEST_CHECKSUMS, RESPONSE_CHECKSUMS
from cas_cache.storage.fsspec_storage import with_fewer_checksums
from cas_cache.storage.interface import CREATE_ONLY, PROCESSES
from cas_cache.testing import StorageContract

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cas_cache.doctor.report import DoctorReport
    from cas_cache.storage.interface import Storage

CHECKSUMMED = ("test_a_write_is_seen_at_once", "test_reads_past_the_end", "test_ranges")
"""Tests that fail on servers which do not take the checksums that the AWS SDK adds."""


class ShorterContract(StorageContract):
    """The contract with a listing that is just longer than one page of S3."""

    many: ClassVar[int] = 1_100


class Probe:
    """A run of the contract on a storage.

    Args:
        opener: Opens the storage; for other processes it must be picklable.
        report: The report that collects findings.
        marked: True if a repository exists.
    """

    def __init__(self, opener: Callable[[], Storage], report: DoctorReport, *, marked: bool) -> None:
        self.report = report
        self.scratch = Scratch.fresh(opener)
        self.broken: set[str] = set()
        self._marked = marked
        self._url = opener().url
        self._refused_verbs: set[str] = set()
        self._skipped: list[str] = []

    def run(self, contract: StorageContract) -> None:
        """Run all tests, and always clean up afterwards."""
        deletable = self._may_delete()
        if not deletable and not self._marked:
            self.report.note(
                "write",
                "Not tried: what is written could not be deleted again.",
                "Ask a maintainer to try, or make the first push.",
            )
            return
        try:
            self._note_capabilities()
            if self._run_tests(contract, deletable=deletable) and self.broken.intersection(CHECKSUMMED):
                self._try_fewer_checksums(contract)
        finally:
            self._clean()

    def _run_tests(self, contract: StorageContract, *, deletable: bool) -> bool:
        """Run the tests in order; return False if the storage stopped answering."""
        for name in names_of(contract):
            if missing := sorted(map(finding_name, self.broken & GATE)):
                self.report.note(
                    "contract",
                    f"The rest was not tried, because of {', '.join(missing)}: it rests on that, and writes a thousand "
                    "objects.",
                )
                break
            if name == "test_modified":
                self._compare_clocks()
            if name == "test_delete" and not deletable:
                self.broken.add(name)
            elif _advice(contract, name).rests_on & self.broken:
                self._skipped.append(name)
            elif not self._run_test(contract, name):
                return False
        if self._skipped:
            needed = {cause for name in self._skipped for cause in _advice(contract, name).rests_on & self.broken}
            self.report.note(
                "not-tried",
                f"Not tried, because of {', '.join(sorted(map(finding_name, needed)))}: "
                f"{', '.join(map(finding_name, self._skipped))}.",
            )
        return True

    def _run_test(self, contract: StorageContract, name: str) -> bool:
        """Run one test in its own folder; return False if the storage stopped answering."""
        shown = finding_name(name)
        if name == "test_use_after_fork" and not may_fork():
            self.report.note(shown, "Not tried: forking a process that has threads is not safe on this system.")
            return True
        self.scratch.refused.clear()
        try:
            getattr(contract, name)(self.scratch.below(shown))
        except AccessDenied as err:
            self.broken.add(name)
            self._add_refusal(shown, err)
        except Exception as err:  # noqa: BLE001 - whatever a file system raises, the guarantee is broken
            cause = err.__cause__ if isinstance(err, AssertionError) else err
            if isinstance(cause, RemoteUnavailable) and not self._answers():
                self.report.error("reach", cause, "The storage stopped answering; nothing more was tried.")
                return False
            self._add_broken(contract, name, err)
        else:
            self.report.ok(shown, _docstring(contract, name))
        return True

    def _may_delete(self) -> bool:
        """DELETE a missing name, which can be refused but deletes nothing; return True if DELETE works."""
        try:
            self.scratch().delete("nothing")
        except AccessDenied as err:
            self._add_refusal("delete", err)
            return False
        except RemoteError as err:
            advice = GUARANTEES["test_delete"]
            self.report.add("delete", advice.status, str(err), advice.means, advice.repair)
            return False
        return True

    def _add_refusal(self, shown: str, err: AccessDenied) -> None:
        """Report the verb that was refused in a test, once, because other tests need it too."""
        verb = self.scratch.refused[-1] if self.scratch.refused else "get"
        if verb in self._refused_verbs:
            self.report.note(shown, f"Not tried: that {verb} is refused was said before.")
            return
        self._refused_verbs.add(verb)
        self.report.refused(self._url, verb, err)

    def _add_broken(self, contract: StorageContract, name: str, err: Exception) -> None:
        self.broken.add(name)
        advice = _advice(contract, name)
        seen = f"{_docstring(contract, name)} Seen otherwise: {_error_summary(err)}"
        self.report.add(finding_name(name), advice.status, seen, advice.means, advice.repair)

    def _note_capabilities(self) -> None:
        texts = {CREATE_ONLY: "writes that only create", PROCESSES: "use from several processes"}
        if absent := [text for name, text in texts.items() if name not in self.scratch().capabilities]:
            self.report.note(
                "capabilities", f"The storage does not declare {' and '.join(absent)}; nothing relies on it."
            )

    def _try_fewer_checksums(self, contract: StorageContract) -> None:
        """Repeat failed tests without the checksums of the AWS SDK, and report it if that helps."""

        def opener(name: str) -> Below:
            inner = with_fewer_checksums(self.scratch.opener()) or self.scratch.opener()
            return Below(inner, f"{self.scratch.folder}/checksums-{finding_name(name)}", self.scratch)

        if with_fewer_checksums(self.scratch.opener()) is None:
            return
        try:
            for name in CHECKSUMMED:
                getattr(contract, name)(lambda name=name: opener(name))
        except (AssertionError, RemoteError):
            return
        self.report.add(
            "checksums",
            Status.WARN,
            f"PUT and GET work with {REQUEST_CHECKSUMS}=when_required and {RESPONSE_CHECKSUMS}=when_required.",
            "The server does not take the checksums that the AWS SDK adds. cas_cache verifies all that it reads by its "
            "own hashes.",
            "Set both, then ask again.",
        )

    def _compare_clocks(self) -> None:
        """Report how far the storage's clock is from the local one; nothing depends on it."""
        storage = self.scratch.below("clock")()
        try:
            before = time.time()
            storage.put("now", b"1")
            skew = max((entry.modified for entry in storage.list("")), default=math.nan) - before
        except RemoteError:
            return
        if math.isnan(skew):
            return
        if abs(skew) > SKEW_SECONDS:
            self.broken.add("clock")
            self.report.note("clock", f"The storage's clock is {skew:+.0f} s from this machine's.", SKEW)
        else:
            self.report.ok("clock", f"The storage's clock is {skew:+.1f} s from this machine's.")

    def _answers(self) -> bool:
        try:
            self.scratch().list("")
        except RemoteError:
            return False
        return True

    def _clean(self) -> None:
        """Delete the written objects, and report those that could not be deleted."""
        url = self.scratch().url
        remaining, reason = -1, "stopped"
        try:
            remaining, reason = self.scratch.clean()
        finally:
            if remaining == 0:
                unseen = f"; LIST does not show that ({reason})" if reason else ""
                self.report.ok("cleaning", f"{url}/ is empty again{unseen}.")
            else:
                self.report.add(
                    "cleaning",
                    Status.WARN,
                    f"{'Objects' if remaining < 0 else f'{remaining} objects'} are left below {url}/ ({reason}).",
                    "They cost space and nothing else.",
                    f"Delete them: {removal(url)}",
                )


def names_of(contract: StorageContract) -> Iterator[str]:
    """Yield the names of a contract's tests, in order."""
    seen = set()
    for cls in reversed(type(contract).__mro__):
        for name in vars(cls):
            if name.startswith("test_") and name not in seen:
                seen.add(name)
                yield name


def _advice(contract: StorageContract, name: str) -> Guarantee:
    docstring = _docstring(contract, name)
    return GUARANTEES.get(name) or Guarantee(f"A promise is broken that the contract makes: {docstring}")


def _docstring(contract: StorageContract, name: str) -> str:
    return (getattr(contract, name).__doc__ or name).strip().splitlines()[0]


def _error_summary(err: Exception) -> str:
    """Describe a failure in one line: the message of a cas_cache error, or the assertion that failed.

    Other errors are described by name only, because their messages may contain a token.
    """
    if isinstance(err, CasCacheError):
        return str(err)
    if not isinstance(err, AssertionError):
        return f"{type(err).__name__} was raised."
    # The traceback of another process ends with the error. A bare assertion has no text, so its source line is shown.
    place = traceback.extract_tb(err.__traceback__)[-1]
    lines = str(err).splitlines()
    if len(lines) == 1:
        return lines[0]
    shown = lines[-1].strip() if lines else str(place.line)
    if lines and not shown.startswith(("AssertionError", "cas_cache.")):
        shown = shown.partition(":")[0]
    return f"{shown} (line {place.lineno} of {place.name})."
