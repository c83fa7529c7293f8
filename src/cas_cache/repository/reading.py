"""Read one object of a pack: what is wrong with this object alone is a problem of its pack, and of no other.

An archive storage class, a key that is disabled, another owner or a policy for one name make a single object
unreadable. The same answer for every object means that the credentials are wrong, and ends the pull.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cas_cache.errors import AccessDenied, DamagedPack, ObjectNotFound, UnreadablePack
from cas_cache.repository import layout

if TYPE_CHECKING:
    from cas_cache.repository.interface import Storage


def get_of_pack(storage: Storage, path: str, start: int, stop: int, *, pack: str) -> bytes:
    """Return bytes [start, stop) of an object of a pack.

    Raises:
        DamagedPack: If the object is missing.
        UnreadablePack: If the storage refuses this object, and not the repository.
        RemoteError: If the storage is away or refuses everything.
    """
    try:
        return storage.get(path, start, stop)
    except ObjectNotFound as err:
        raise DamagedPack(f"{path} is missing from {storage.url}. Nothing was filled in.", pack=pack) from err
    except AccessDenied as err:
        if not may_read(storage):
            raise
        raise UnreadablePack(f"{path} may not be read, and the rest of the repository may. {err}", pack=pack) from err


def may_read(storage: Storage) -> bool:
    """Return True if the storage gives out the repository's marker: 1 request.

    Raises:
        RemoteError: If the storage is away.
    """
    try:
        storage.get(layout.MARKER, 0, 1)
    except (AccessDenied, ObjectNotFound):
        return False
    return True
