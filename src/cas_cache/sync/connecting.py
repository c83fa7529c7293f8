"""What push and pull have in common: that mirror and repository bind together, and which namespaces are meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cas_cache.errors import DamagedMirror, IncompleteListing, UnsupportedFormat
from cas_cache.sync.report import note_skipped

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cas_cache.mirror import Mirror, Namespace
    from cas_cache.repository import Repository
    from cas_cache.sync.report import Report


def connect(mirror: Mirror, repository: Repository) -> bool:
    """Open the repository and let the mirror bind to it: two requests the first time, later one.

    Returns:
        False where there is no repository yet and the mirror belongs to none.

    Raises:
        RepositoryMismatch: If the mirror belongs to another repository.
        UntrustedMirror: If the mirror was filled under another trust.
        IncompleteListing: If the repository that the mirror belongs to is not there.
        NotARepository: If something else is there.
        RemoteError: If the remote is away or refuses.
    """
    if repository.open():
        # Where they have met before, nothing is locked or written: looking goes through here too.
        if mirror.repository != repository.id or mirror.trusted != _trusted(repository):
            bind(mirror, repository)
        return True
    if mirror.repository is not None:
        raise IncompleteListing(
            f"{repository.url} is empty, but the mirror {mirror.directory} belongs to the repository that was at "
            f"{mirror.repository_url}. Nothing was changed. Check the URL. If that repository is gone for good, "
            "push(rebind=True) (`cas-cache push --rebind`) sends every row to this one."
        )
    return False


def bind(mirror: Mirror, repository: Repository) -> None:
    """Let a mirror bind to a repository, for good: not before its marker has said the same twice. 1 request.

    Raises:
        RepositoryMismatch: If the mirror belongs to another repository.
        UntrustedMirror: If it was filled under another trust.
        RepositoryError: If what was read of the marker is not certain.
        RemoteError: If the remote is away or refuses.
    """
    repository.confirm()
    mirror.bind(repository.id, repository.url, _trusted(repository))


def _trusted(repository: Repository) -> frozenset[str] | None:
    return None if repository.trust is None else repository.trust.keys


def peek(mirror: Mirror | None, repository: Repository) -> bool:
    """As `connect`, for who changes nothing: a mirror that belongs to no repository does not bind to this one for it.

    Returns:
        Whether there is a repository.
    """
    return repository.open() if mirror is None or mirror.repository is None else connect(mirror, repository)


def selected(mirror: Mirror, namespaces: Iterable[str] | None, report: Report) -> list[Namespace]:
    """The mirror's namespaces, or those asked for; a damaged one is a problem of its own, not of the others."""
    selected = []
    for namespace in mirror.ids() if namespaces is None else namespaces:
        try:
            ns = mirror.get(namespace)
            if ns is not None:
                ns.refresh()
                selected.append(ns)
        except (DamagedMirror, UnsupportedFormat) as problem:
            note_skipped(f"namespace {namespace}", problem, report)
    return selected
