"""Connecting a mirror with its repository, and selecting namespaces: the part that push and pull share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cas_cache.errors import DamagedMirror, IncompleteListing, UnsupportedFormat

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cas_cache.mirror import Mirror, Namespace
    from cas_cache.repository import Repository
    from cas_cache.sync.report import SyncReport


def connect(mirror: Mirror, repository: Repository) -> bool:
    """Open the repository and bind the mirror to it: two requests the first time, one later.

    Returns:
        False if there is no repository yet and the mirror belongs to none.

    Raises:
        RepositoryMismatch: If the mirror belongs to another repository.
        UntrustedMirror: If the mirror was filled under a trust setting that does not allow this one.
        IncompleteListing: If the repository that the mirror belongs to does not exist.
        NotARepository: If the URL holds something other than a repository.
        RemoteError: If the remote is unreachable or refuses a request.
    """
    if repository.open():
        # A mirror that is bound already is neither locked nor written to, because read-only operations come through
        # here too.
        if mirror.repository != repository.id or mirror.trusted != _trusted(repository):
            bind(mirror, repository)
        return True
    if mirror.repository is not None:
        raise IncompleteListing(
            f"There is no repository at {repository.url}, but the mirror {mirror.directory} belongs to the repository "
            f"that was at {mirror.repository_url}. Nothing was changed. Check the URL. If that repository is gone for "
            "good, push(rebind=True) (`cas-cache push --rebind`) sends every row to this one."
        )
    return False


def bind(mirror: Mirror, repository: Repository) -> None:
    """Bind a mirror to a repository permanently. The marker is read a second time first. 1 request.

    Raises:
        RepositoryMismatch: If the mirror belongs to another repository.
        RepositoryError: If no two reads of the marker in a row agree, or it differs from the first read.
        RemoteError: If the remote is unreachable or refuses a request.
    """
    # A mirror stays with its repository, and no hash covers the marker, so a single damaged read must not decide this.
    repository.confirm()
    mirror.bind(repository.id, repository.url, _trusted(repository))


def _trusted(repository: Repository) -> frozenset[str] | None:
    return None if repository.trust is None else repository.trust.keys


def peek(mirror: Mirror | None, repository: Repository) -> bool:
    """Like `connect`, but read-only: an unbound mirror stays unbound.

    Returns:
        True if the repository exists.
    """
    return repository.open() if mirror is None or mirror.repository is None else connect(mirror, repository)


def selected(mirror: Mirror, namespaces: Iterable[str] | None, report: SyncReport) -> list[Namespace]:
    """Return the mirror's namespaces, or the requested ones; report a damaged one and go on with the others."""
    selected = []
    for namespace in mirror.ids() if namespaces is None else namespaces:
        try:
            ns = mirror.get(namespace)
            if ns is not None:
                ns.refresh()
                selected.append(ns)
        except (DamagedMirror, UnsupportedFormat) as problem:
            report.skip(f"namespace {namespace}", problem)
    return selected
