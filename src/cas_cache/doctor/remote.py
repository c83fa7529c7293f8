"""Examine a repository by reading only: LIST, GET, the marker, times. Never writes."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from cas_cache.display import pluralize
from cas_cache.doctor.guarantees import GUARANTEES, Guarantee
from cas_cache.doctor.policies import removal
from cas_cache.doctor.report import Status
from cas_cache.errors import (
    AccessDenied,
    BucketNotFound,
    CasCacheError,
    ConfigurationError,
    NotARepository,
    ObjectNotFound,
    RemoteError,
    RepositoryError,
    UnsupportedFormat,
)
from cas_cache.format import layout
from cas_cache.format.layout import SCRATCH
from cas_cache.format.marker import MAX_DOCUMENT_BYTES, checked_marker
from cas_cache.repository.repository import Repository
from cas_cache.testing.expectations import expect_bytes, expect_missing

if TYPE_CHECKING:
    from collections.abc import Callable

    from cas_cache.doctor.report import DoctorReport
    from cas_cache.storage.interface import ObjectInfo, Storage

SKEW_SECONDS = 60
SKEW = "The two clocks differ. cas_cache compares times of the storage with each other only."
PACKS = Guarantee("The packs concerned are skipped.", "Run `cas-cache check --repository` for all that is damaged.")
SAMPLES = 3
"""Number of manifests that a reader's trial reads and verifies."""


class RemoteChecks:
    """A read-only examination of a repository.

    Attributes:
        storage: The repository's storage; None if the URL cannot be used.
        marker: The content of the marker; None if there is no readable marker.
        fit: True if every check so far succeeded, so that more checks make sense.
    """

    def __init__(self, report: DoctorReport, opener: Callable[[], Storage]) -> None:
        self.report = report
        self.storage: Storage | None = None
        self.marker: dict[str, object] | None = None
        self.fit = True
        self._opener = opener
        self._manifests: list[ObjectInfo] = []

    def check_access(self, mirror_repository: str | None) -> None:
        """Check everything that can be seen without writing.

        Args:
            mirror_repository: The id of the repository that the mirror belongs to, if any.
        """
        try:
            self.storage = self._opener()
        except CasCacheError as err:
            self._add_error("url", err, "The repository cannot be reached.")
            return
        except Exception as err:  # noqa: BLE001 - some file systems log in when they are made, each with its own errors
            # The error's message is not shown: it may contain the token in a form that cannot be recognised.
            self._add_failure(
                "url",
                f"The file system could not be made: it raised {type(err).__name__}.",
                "The repository cannot be reached.",
                "Check the network, the credentials that it finds, and --storage-option.",
            )
            return
        if self._check_list(self.storage) and self._check_get(self.storage):
            self._check_repository(self.storage)
            self._check_binding(mirror_repository)
            self._check_clock()
            self._check_left_overs(self.storage)

    def check_reads(self) -> None:
        """Test a reader's operations: ranges, a missing name, a few manifests and their specs."""
        storage = self.storage
        if storage is None or self.marker is None:
            self.report.note("ranges", "Not tried: there is no repository yet to read from.")
            return
        self._guarded("ranges", "get", GUARANTEES["test_ranges"], lambda: self._check_ranges(storage))
        absent = GUARANTEES["test_nothing_is_there_at_first"]
        self._guarded("missing", "missing", absent, lambda: self._check_missing(storage))
        self._guarded("manifests", "get", PACKS, lambda: self._check_packs(storage))

    def _add_failure(self, name: str, what: str, means: str, repair: str) -> None:
        self.fit = False
        self.report.add(name, Status.FAIL, what, means, repair)

    def _add_error(self, name: str, err: CasCacheError, means: str) -> None:
        self.fit = False
        self.report.error(name, err, means)

    def _add_refusal(self, verb: str, err: AccessDenied) -> None:
        self.fit = False
        self.report.refused(self.storage.url if self.storage else "", verb, err)

    def _check_list(self, storage: Storage) -> bool:
        """LIST the manifests, as the first request; return True if more checks make sense."""
        before = time.monotonic()
        try:
            self._manifests = storage.list(layout.MANIFESTS)
        except AccessDenied as err:
            self._add_refusal("list", err)
            # With unknown credentials, GET would fail in the same way.
            return self.report.findings[-1].name != "credentials"
        except BucketNotFound as err:
            self._add_error("reach", err, "There is nowhere to push to or pull from.")
            return False
        except ConfigurationError as err:
            self._add_error("url", err, "The repository cannot be reached.")
            return False
        except RemoteError as err:
            self._add_error("reach", err, "Runs go on without the repository.")
            return False
        self.report.ok("reach", f"{storage.url} answered in {time.monotonic() - before:.2f} s.")
        self.report.ok("list", f"LIST {layout.MANIFESTS}/: {pluralize(len(self._manifests), 'object')}.")
        return True

    def _check_get(self, storage: Storage) -> bool:
        """GET the marker; return True if the checks can continue."""
        try:
            data = storage.get(layout.MARKER, 0, MAX_DOCUMENT_BYTES)
        except ObjectNotFound:
            self.report.ok("get", f"GET {layout.MARKER}: allowed; it is not there.")
            return True
        except AccessDenied as err:
            self._add_refusal("missing" if self._hidden(storage) else "get", err)
            return False
        except RemoteError as err:
            if self._reads_less(storage):
                past = GUARANTEES["test_reads_past_the_end"]
                what = f"GET of a range past the end of {layout.MARKER} fails, one within it does not: {err}"
                self._add_failure("reads-past-the-end", what, past.means, past.repair)
            else:
                self._add_error("get", err, "Nothing can be read.")
            return False
        self.report.ok("get", f"GET {layout.MARKER}: {pluralize(len(data), 'byte')}.")
        try:
            self.marker = checked_marker(data, storage.url)
        except (NotARepository, UnsupportedFormat) as err:
            self._add_error("repository", err, "This cas_cache does not use it.")
            return False
        return True

    def _reads_less(self, storage: Storage) -> bool:
        """Return True if the first byte of the marker can be read."""
        try:
            return len(storage.get(layout.MARKER, 0, 1)) == 1
        except RemoteError:
            return False

    def _hidden(self, storage: Storage) -> bool:
        """Return True if GET was refused for a marker that, according to LIST, does not exist."""
        try:
            return self.fit and all(entry.path != layout.MARKER for entry in storage.list(""))
        except RemoteError:
            return False

    def _check_repository(self, storage: Storage) -> None:
        if self.marker is None:
            self._check_empty_place(storage)
            return
        namespaces = {ref.namespace for entry in self._manifests if (ref := layout.parse_manifest_path(entry.path))}
        what = (
            f"Version {self.marker['version']}, id {self.marker['id']}, {pluralize(len(self._manifests), 'pack')} in "
            f"{pluralize(len(namespaces), 'namespace')}."
        )
        asked = self.marker["writer_features"]
        if asked:
            self.report.add(
                "repository",
                Status.WARN,
                f"{what} It asks writers for {asked}.",
                "This cas_cache reads it and does not push to it.",
                "Update cas_cache to push.",
            )
        else:
            self.report.ok("repository", what)

    def _check_empty_place(self, storage: Storage) -> None:
        """Report on a place without a marker: an empty one is fine, anything else belongs to something else."""
        if not self.fit:
            self.report.note("repository", "Whether anything is there cannot be seen without LIST.")
            return
        try:
            listed = storage.list("")
        except AccessDenied as err:
            self._add_refusal("list", err)
            return
        except RemoteError as err:
            self._add_error("list", err, "Nobody can see whether the place is empty.")
            return
        others = [entry.path for entry in listed if not entry.path.startswith(f"{SCRATCH}/")]
        below = layout.repositories_below(others)
        if below:
            self._add_failure(
                "repository",
                f"{storage.url} is not a repository. One is at {storage.url}/{below[0]}.",
                "Names of objects begin with the repository's prefix; a bucket alone is another prefix.",
                f"Name {storage.url}/{below[0]}.",
            )
        elif others:
            self._add_failure(
                "repository",
                f"{storage.url} holds {pluralize(len(listed), 'object')} and no {layout.MARKER}; {others[0]!r} is one.",
                "It is something else's, or a repository that lost its marker; cas_cache will not write there.",
                f"Name an empty prefix, such as {storage.url}/cas-cache. If it was a repository: "
                f"`cas-cache check {storage.url}`.",
            )
        elif not listed:
            self.report.note("repository", "There is nothing yet; the first push makes a repository.")

    def _check_binding(self, mirror_repository: str | None) -> None:
        if mirror_repository is None:
            return
        repository_id = str(self.marker["id"]) if self.marker else ""
        if repository_id == mirror_repository:
            self.report.ok("belongs", "The mirror belongs to this repository.")
        elif self.fit:
            self.report.add(
                "belongs",
                Status.FAIL,
                f"The mirror belongs to the repository {mirror_repository[:8]}; here is {repository_id[:8] or 'none'}.",
                "The mirror neither pushes here nor pulls from here.",
                "Name that repository, or another CACHE. If it is gone for good: `cas-cache push --rebind`.",
            )

    def _check_clock(self) -> None:
        """Check the times in the listing. The storage's clock is reported, not judged."""
        if not self._manifests:
            return
        unknown = sum(math.isnan(entry.modified) for entry in self._manifests)
        if unknown:
            times = GUARANTEES["test_modified"]
            self.report.add(
                "modified", times.status, f"{unknown} objects are listed without a time.", times.means, times.repair
            )
            return
        age = time.time() - max(entry.modified for entry in self._manifests)
        if age < -SKEW_SECONDS:
            self.report.note("newest", f"The newest pack is {-age:.0f} s in the future by this machine's clock.", SKEW)
        else:
            self.report.ok("newest", f"The newest pack is {max(0, age) / 3600:.1f} h old by this machine's clock.")

    def _check_left_overs(self, storage: Storage) -> None:
        try:
            entries = storage.list(SCRATCH)
        except RemoteError:
            return  # an earlier LIST has reported it
        if entries:
            self.report.add(
                "left-overs",
                Status.WARN,
                f"{pluralize(len(entries), 'object')} below {storage.url}/{SCRATCH}/: a `doctor --test-remote` "
                "is running, or was killed.",
                "They cost space and nothing else.",
                f"If none is running, delete that folder: {removal(f'{storage.url}/{SCRATCH}')}",
            )

    def _guarded(self, name: str, verb: str, advice: Guarantee, check: Callable[[], str]) -> None:
        """Run a check that returns what it saw or raises, and report the result."""
        try:
            seen = check()
        except AccessDenied as err:
            self._add_refusal(verb, err)
        except (AssertionError, RemoteError, RepositoryError, UnsupportedFormat) as err:
            self._add_failure(name, str(err), advice.means, advice.repair)
        else:
            self.report.ok(name, seen)

    def _check_ranges(self, storage: Storage) -> str:
        whole = storage.get(layout.MARKER, 0, MAX_DOCUMENT_BYTES)
        size = len(whole)
        for start, stop in ((0, 1), (1, 3), (size // 2, size), (size - 1, size + 1)):
            expect_bytes(storage, layout.MARKER, start, stop, whole)
        return f"Ranges of {layout.MARKER}, up to its end and past it, are what they should be."

    def _check_missing(self, storage: Storage) -> str:
        expect_missing(storage, f"{SCRATCH}/not-there")
        return "GET of a name that does not exist says so."

    def _check_packs(self, storage: Storage) -> str:
        repository = Repository(storage)
        packs = [ref for entry in self._manifests if (ref := layout.parse_manifest_path(entry.path))][:SAMPLES]
        for namespace, pack in packs:
            repository.manifest(namespace, pack)
            repository.spec(namespace)
        return (
            f"{pluralize(len(packs), 'manifest')} and the specs of their namespaces verify."
            if packs
            else "There is no pack yet."
        )
