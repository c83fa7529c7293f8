"""How implicit pulls and pushes survive a remote that fails: one warning, and a pause before the next attempt.

A run never depends on the remote. What is wrong and does not repair itself by waiting still stops the run before it
encodes anything: a bucket that does not exist, a wrong URL, the wrong mirror.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from typing import TYPE_CHECKING, Literal

from cas_cache.display import pluralize
from cas_cache.errors import (
    BucketNotFound,
    DataWarning,
    IncompleteListing,
    RemoteError,
    RemoteWarning,
    RepositoryError,
    RepositoryMismatch,
    UnsupportedFormat,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cas_cache.sync import SyncReport

logger = logging.getLogger(__name__)

RETRY_SECONDS = 60
"""Seconds for which implicit pulls leave a remote alone after it failed."""

PULL_ERRORS = (RemoteError, IncompleteListing, UnsupportedFormat)
"""Errors that a run survives when it asks the repository, except for a bucket that does not exist."""

PUSH_ERRORS = (RemoteError, RepositoryError, RepositoryMismatch, UnsupportedFormat)
"""Errors that a run survives after vectors have been paid for: the vectors stay pending in the mirror."""


class RemoteErrors:
    """What has failed so far, and what was said about it.

    Args:
        directory: The mirror, in which rows stay pending.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._retry_at = 0.0
        self._warned = False
        self._warned_untrusted = False

    def __repr__(self) -> str:
        return f"RemoteErrors(paused={self.paused}, warned={self._warned})"

    @property
    def paused(self) -> bool:
        """True for a while after a failed pull. A failed push does not mean that reads fail."""
        return time.monotonic() < self._retry_at

    def survive(
        self, action: Callable[[], object], *, during: Literal["pull", "push"], policy: Literal["warn", "raise"]
    ) -> None:
        """Run an implicit pull or push; turn expected errors into one warning, unless the policy is to raise them."""
        expected = PULL_ERRORS if during == "pull" else PUSH_ERRORS
        try:
            action()
        except expected as err:
            if policy == "raise" or (during == "pull" and isinstance(err, BucketNotFound)):
                raise
            if during == "pull":
                self._retry_at = time.monotonic() + RETRY_SECONDS
            logger.info("going on without the remote: %s", err)
            if not self._warned:
                self._warned = True
                warn_caller(
                    f"Going on without the remote: {err} What is encoded stays pending in the mirror "
                    f"{self._directory} and goes up at the next push.",
                    RemoteWarning,
                )

    def report(self, report: SyncReport, *, policy: Literal["warn", "raise"]) -> None:
        """Warn of packs that an implicit pull skipped; raise the first problem if that is the policy."""
        if report.untrusted and not self._warned_untrusted:
            self._warned_untrusted = True
            warn_caller(
                f"Skipped {pluralize(len(report.untrusted), 'pack')} that no trusted key has signed. Rows that no "
                "other pack has are encoded again. `cas-cache check --repository` names them and says why.",
                DataWarning,
            )
        if report.problems:
            if policy == "raise":
                raise report.problems.pop(0)  # popped, because the traceback's frames hold the report
            warn_caller(
                f"{len(report.problems)} packs were skipped. Rows that no other pack has are encoded again. "
                f"The first: {report.problems[0]}",
                DataWarning,
            )


def warn_caller(message: str, category: type[Warning]) -> None:
    """Issue a warning that names the line outside of this package from which the call came."""
    level, frame = 1, sys._getframe()  # noqa: SLF001 - warnings.warn itself skips files from Python 3.12 on only
    package = __name__.partition(".")[0]
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
