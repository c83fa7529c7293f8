"""Push: plan the mirror's pending rows into packs and publish them.

Plans are kept in the mirror until their packs are published, so an interrupted push makes the same packs again.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.errors import CredentialInSpec
from cas_cache.identity import check_no_credentials
from cas_cache.repository import MAX_SECONDS, most_rows_of_a_pack, small_rows
from cas_cache.sync.connecting import bind, connect, selected
from cas_cache.sync.report import SyncReport, transferring

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from cas_cache.mirror import Mirror, Namespace, PlannedPack
    from cas_cache.repository import Repository
    from cas_cache.sync.report import Transfer

logger = logging.getLogger(__name__)

MANY_SMALL_PACKS = 64
"""Number of small packs above which a push suggests a compaction: a new mirror needs 4 requests per pack."""


def push(
    mirror: Mirror,
    repository: Repository,
    namespaces: Iterable[str] | None = None,
    *,
    progress: bool | None = False,
) -> SyncReport:
    """Publish the pending rows of the mirror.

    Args:
        mirror: The mirror to read.
        repository: The repository to write to; created if it does not exist.
        namespaces: Ids of the namespaces to push; None for all.
        progress: Show a progress bar; None shows it on a terminal only.

    Raises:
        RemoteError: If the remote is unreachable or refuses a request. Packs that were published before are recorded;
            the other rows stay pending.
        RepositoryMismatch: If the mirror belongs to another repository.
        ConfigurationError: If only signed packs are trusted, and there is no key to sign these.
        IncompleteListing: If the repository that the mirror belongs to does not exist.
        DamagedMirror: If pending rows do not match their digests.
    """
    report = SyncReport()
    pending = [ns for ns in selected(mirror, namespaces, report) if ns.pending_rows and _may_be_pushed(ns, report)]
    if not pending:
        return report
    repository.require_signer()
    if not connect(mirror, repository):
        repository.create(found_empty=True)
        bind(mirror, repository)
    total = sum(ns.pending_rows * ns.row_bytes for ns in pending)
    with transferring(mirror, repository, "push", progress, report=report, push_bytes=total) as transfer:
        for name in [ns.spec.namespace for ns in pending]:
            # Get the namespace again: its rows may have moved while it was not held, which can be hours with many
            # namespaces.
            ns = mirror.get(name)
            if ns is not None:
                with ns.held():
                    _push_namespace(transfer, ns)
    return report


def _push_namespace(transfer: Transfer, ns: Namespace) -> None:
    repository, report = transfer.repository, transfer.report
    repository.publish_spec(ns.spec)
    most_rows = most_rows_of_a_pack(ns.row_bytes)
    for _ in ns.ledger.plan(most_rows, most_age=MAX_SECONDS):
        # Plan again for each pack: earlier packs may have taken hours, and an old nonce must not be used (see `plan`).
        began = time.time()
        plans = ns.ledger.plan(most_rows, most_age=MAX_SECONDS)
        if not plans:
            break
        plan = plans[0]
        pack = repository.publish(
            ns.spec.namespace,
            _Planned(ns, plan),
            plan.nonce,
            began=began,
            appearance=plan.appearance,
            # Recorded only after publishing. A crash in between publishes the same pack again, under the same name.
        )
        ns.ledger.published(plan, pack)
        report.packs += 1
        report.rows += plan.rows
        transfer.bar.update(plan.rows * ns.row_bytes)
        logger.info("pushed pack %s: %d rows of %s", pack, plan.rows, ns.spec.model)
    small = ns.ledger.small_packs(small_rows(ns.row_bytes))
    if small > MANY_SMALL_PACKS:
        report.hints.append(
            f"Namespace {ns.spec.namespace} ({ns.spec.model}) has about {small} small packs: `cas-cache "
            "compact` merges them, and pulls of new mirrors get faster."
        )


def _may_be_pushed(ns: Namespace, report: SyncReport) -> bool:
    """Return False, and report it, if an older version wrote a credential into the namespace's spec."""
    try:
        check_no_credentials(ns.spec)
    except CredentialInSpec as problem:
        report.skip(f"namespace {ns.spec.namespace}", problem)
        return False
    return True


class _Planned:
    """Adapter that presents a planned pack of the mirror as the rows of a repository pack."""

    def __init__(self, ns: Namespace, plan: PlannedPack) -> None:
        self._ns = ns
        self._plan = plan
        self.rows = plan.rows
        self.dtype: np.dtype[Any] = ns.dtype or np.dtype(np.float32)
        self.shape = ns.shape

    def column(self, array: str, start: int, stop: int) -> NDArray[Any]:
        return self._ns.read(self._plan, array, start, stop)
