"""Read one object of a pack. A problem with a single object is a problem of its pack only.

An archive storage class, a disabled encryption key, another owner or a policy for one name make a single object
unreadable. If the storage refuses every object, the credentials are wrong, and the pull ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cas_cache.errors import AccessDenied, DamagedPack, ObjectNotFound, UnreadablePack
from cas_cache.format import layout

if TYPE_CHECKING:
    from cas_cache.storage.interface import Storage


def get_of_pack(storage: Storage, path: str, start: int, stop: int, *, pack: str) -> bytes:
    """Return bytes [start, stop) of an object of a pack.

    Raises:
        DamagedPack: If the object is missing.
        UnreadablePack: If the storage refuses this object but not the repository.
        RemoteError: If the storage is unreachable or refuses everything.
    """
    try:
        return storage.get(path, start, stop)
    except ObjectNotFound as err:
        raise DamagedPack(f"{path} is missing from {storage.url}. Nothing was filled in.", pack=pack) from err
    except AccessDenied as err:
        # Is it this object only, or everything? The marker is the object that every client may read.
        if not may_read(storage):
            raise
        raise UnreadablePack(f"{path} may not be read, and the rest of the repository may. {err}", pack=pack) from err


def may_read(storage: Storage) -> bool:
    """Return True if the storage lets this client read the marker of the repository: 1 request.

    Raises:
        RemoteError: If the storage is unreachable.
    """
    try:
        storage.get(layout.MARKER, 0, 1)
    except (AccessDenied, ObjectNotFound):
        return False
    return True
