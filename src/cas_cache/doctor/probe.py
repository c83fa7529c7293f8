"""Test the operations of a writer and a maintainer in a scratch folder: each basic guarantee alone, then the contract.

Nothing is written unless DELETE is allowed or a repository exists, so an empty place stays empty.
"""

from __future__ import annotations

import math
import time
import traceback
from typing import TYPE_CHECKING, ClassVar

from cas_cache.doctor import basics
from cas_cache.doctor.guarantees import BASICS, CONTRACT, Guarantee, check_missing
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

    from cas_cache.doctor.report import Report
    from cas_cache.storage.interface import Storage

GATE = {"put", "stored", "ranges-past-end", "list-at-once", "delete"}
"""Guarantees that the contract needs: without them, its thousand objects cannot be recognised or removed."""


class ShorterContract(StorageContract):
    """The contract with a listing that is just longer than one page of S3."""

    many: ClassVar[int] = 1_100


class Probe:
    """A test run on a storage.

    Args:
        opener: Opens the storage; for other processes it must be picklable.
        report: The report that collects findings.
        marked: True if a repository exists.
    """

    def __init__(self, opener: Callable[[], Storage], report: Report, *, marked: bool) -> None:
        self.report = report
        self.scratch = Scratch.fresh(opener)
        self.broken: set[str] = set()
        self._marked = marked
        self._began = False
        self._url = opener().url
        self._writer, self._reader = self.scratch(), self.scratch()
        self._verbs: set[str] = set()
        self._away = False

    def run(self, contract: StorageContract) -> None:
        """Run all tests, and always clean up afterwards."""
        try:
            self._basics()
            if self._away:
                return
            if self.broken & GATE:
                self.report.note(
                    "contract",
                    f"Not tried, because of {', '.join(sorted(self.broken & GATE))}: its tests rest on that, and write "
                    "a thousand objects.",
                )
            else:
                self._contract(contract)
        finally:
            if self._began:
                self._clean()

    def _basics(self) -> None:
        """Test each basic guarantee alone."""
        writer, reader = self._writer, self._reader
        if not self._may_delete(writer):
            self.broken.add("delete")
            if not self._marked:
                self.report.note(
                    "put",
                    "Not tried: what is written could not be deleted again.",
                    "Ask a maintainer to try, or make the first push.",
                )
                self.broken.add("put")
                return
        self._began = True
        if not self._check("put", lambda: basics.put(writer)) or not self._check(
            "stored", lambda: basics.stored(reader)
        ):
            self._try_fewer_checksums()
            return
        if not self._check("ranges-past-end", lambda: basics.past_end(reader)):
            self._try_fewer_checksums()
            return
        self._check("largest", lambda: basics.largest(writer, reader))
        self._check("missing", lambda: check_missing(reader, "basics/not-there"))
        if self._check("list-at-once", lambda: basics.lists(writer, reader)):
            self._check("times", lambda: basics.times(reader))
            self._clock(writer, reader)
        self._check("overwrite", lambda: basics.overwrite(writer, reader))
        self._check("whole", lambda: basics.whole(writer, reader))
        if self._check("ranges", lambda: basics.ranges(writer, reader)):
            self._check("ranges-beyond", lambda: basics.ranges_beyond(reader))
        else:
            self._try_fewer_checksums()
        self._create_only()
        if "delete" not in self.broken:
            self._check("delete", lambda: basics.delete(writer, reader))

    def _may_delete(self, storage: Storage) -> bool:
        """DELETE a missing name, which can be refused but deletes nothing; return True if DELETE works."""
        try:
            storage.delete(basics.FIRST)
        except AccessDenied as err:
            self._refused("delete", err)
            return False
        except RemoteError as err:
            self._broken("delete", str(err), BASICS["delete"])
            return False
        return True

    def _check(self, name: str, check: Callable[[], None]) -> bool:
        """Run one check; return True if the guarantee is kept."""
        if self._away:
            return False
        try:
            check()
        except AccessDenied as err:
            self.broken.add(name)
            self._refused(name, err)
        except (AssertionError, RemoteError) as err:
            cause = err.__cause__ if isinstance(err, AssertionError) else err
            if isinstance(cause, RemoteUnavailable) and not self._answers():
                self.report.error("reach", cause, "The storage stopped answering; nothing more was tried.")
                self._away = True
                return False
            self._broken(name, str(err), BASICS[name])
        else:
            self.report.ok(name, basics.KEPT[name])
        return name not in self.broken

    def _refused(self, name: str, err: AccessDenied) -> None:
        """Report the verb that was refused in a check, once, because other checks need it too."""
        verb = self._writer.refused or self._reader.refused
        self._writer.refused = self._reader.refused = ""
        if verb == "put" and name != "put":
            verb = "overwrite"  # the first PUT was not refused
        if verb == "get" and name in {"missing", "delete"}:
            verb = "missing"
        if verb in self._verbs:
            self.report.note(name, f"Not tried: that {verb} is refused was said before.")
        else:
            self._verbs.add(verb)
            self.report.refused(self._url, verb, err)

    def _broken(self, name: str, seen: str, promise: Guarantee) -> None:
        self.broken.add(name)
        self.report.add(name, promise.status, seen, promise.means, promise.repair)

    def _try_fewer_checksums(self) -> None:
        """Repeat failed checks without the checksums of the AWS SDK, and report it if that helps."""
        inner = with_fewer_checksums(self.scratch().inner)
        if inner is None or self._away:
            return
        storage = Below(inner, self.scratch.folder)
        try:
            basics.put(storage)
            basics.stored(storage)
            basics.ranges(storage, storage)
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

    def _create_only(self) -> None:
        if CREATE_ONLY not in self._writer.capabilities:
            self.report.note(
                "create-only", "This file system declares none, so nothing relies on it.", BASICS["create-only"].means
            )
        else:
            self._check("create-only", lambda: basics.create_only(self._writer, self._reader))

    def _clock(self, writer: Storage, reader: Storage) -> None:
        """Report how far the storage's clock is from the local one; nothing depends on it."""
        try:
            before = time.time()
            writer.put(basics.SECOND, basics.CONTENT)
            skew = max(entry.modified for entry in reader.list("basics")) - before
        except RemoteError:
            return
        if math.isnan(skew):
            return
        if abs(skew) > SKEW_SECONDS:
            self.broken.add("clock")
            self.report.note("clock", f"The storage's clock is {skew:+.0f} s from this machine's.", SKEW)
        else:
            self.report.ok("clock", f"The storage's clock is {skew:+.1f} s from this machine's.")

    def _contract(self, contract: StorageContract) -> None:
        """Run every test of the contract, each in its own folder."""
        follow = []
        if PROCESSES not in self.scratch().capabilities:
            self.report.note("processes", "This storage is for one process, and declares so.")
        for name in names_of(contract):
            shown, promise = name.replace("test_", "contract-", 1).replace("_", "-"), _promise(contract, name)
            unfit = self._unfit(name)
            if unfit:
                self.report.note(shown, f"Not tried: {unfit}")
                continue
            try:
                getattr(contract, name)(self.scratch.below(shown))
            except Exception as err:  # noqa: BLE001 - whatever a file system raises, the guarantee is broken
                if promise.rests_on & self.broken:
                    follow.append(shown)
                    continue
                self._broken(shown, f"{_docstring(contract, name)} {_error_summary(err)}", promise)
                if isinstance(err, RemoteUnavailable) and not self._answers():
                    self.report.note("contract", "Ended here: the storage does not answer any more.")
                    return
            else:
                self.report.ok(shown, _docstring(contract, name))
        if follow:
            self.report.note(
                "contract",
                f"Not kept either, which follows from {', '.join(sorted(self.broken & {*BASICS, 'clock'}))}: "
                f"{', '.join(follow)}.",
            )

    def _unfit(self, name: str) -> str:
        """Return the reason why a test cannot run on this system; empty if it can."""
        if name == "test_use_after_fork" and not may_fork():
            return "forking a process that has threads is not safe on this system."
        return ""

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


def _promise(contract: StorageContract, name: str) -> Guarantee:
    return CONTRACT.get(name) or Guarantee(f"A promise is broken that the contract makes: {_docstring(contract, name)}")


def _docstring(contract: StorageContract, name: str) -> str:
    return (getattr(contract, name).__doc__ or name).strip().splitlines()[0]


def _error_summary(err: Exception) -> str:
    """Describe a failure in one line: the message of a cas_cache error, or the assertion that failed.

    Other errors are described by name only, because their messages may contain a token.
    """
    if isinstance(err, CasCacheError):
        return f"Seen otherwise: {err}"
    if not isinstance(err, AssertionError):
        return f"Seen otherwise: {type(err).__name__} was raised."
    # The traceback of another process ends with the error. A bare assertion has no text, so its source line is shown.
    place = traceback.extract_tb(err.__traceback__)[-1]
    lines = str(err).splitlines()
    shown = lines[-1].strip() if lines else str(place.line)
    if len(lines) > 1 and not shown.startswith(("AssertionError", "cas_cache.")):
        shown = shown.partition(":")[0]
    return f"Seen otherwise: {shown} (line {place.lineno} of {place.name})."
