"""Write packs: objects first, the manifest last.

A writer that dies leaves objects that no manifest names. Objects never change in place, and no writer waits for
another.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cas_cache.errors import AccessDenied, ConfigurationError, RepositoryError
from cas_cache.format import layout
from cas_cache.format.manifest import pack_id
from cas_cache.repository.pack import contents
from cas_cache.storage.threads import put_all

if TYPE_CHECKING:
    from cas_cache.format.manifest import Manifest
    from cas_cache.format.signing import Signer, Trust
    from cas_cache.repository.pack import PackRows
    from cas_cache.storage.interface import Storage

logger = logging.getLogger(__name__)

MAX_SECONDS = 12 * 3600
"""Maximum number of seconds that a pack's name may be in use before its manifest exists: from planning to the first
object, and again from there to the manifest. Together this is a day, and `prune` deletes nothing younger unless it is
forced to."""


@dataclass(frozen=True, slots=True)
class StagedPack:
    """A pack that is written but not visible yet.

    Attributes:
        namespace: The id of the namespace.
        pack: The id of the pack.
        manifest: The bytes of the manifest, which makes the pack visible.
        paths: Paths of the pack's objects.
        began: Time at which writing began, or the plan was checked, in seconds since 1970 by this machine's clock.
    """

    namespace: str
    pack: str
    manifest: bytes
    paths: tuple[str, ...]
    began: float

    def in_time(self) -> bool:
        """Return True if the objects of the pack are too young for a prune to have removed any."""
        return 0 <= time.time() - self.began <= MAX_SECONDS


def stage(storage: Storage, manifest: Manifest, source: PackRows, began: float) -> StagedPack:
    """Write the objects of a pack.

    All objects come before the manifest: a reader that finds the manifest finds every object.
    """
    data = manifest.to_bytes()
    pack = pack_id(data)
    put_all(storage, ((layout.object_path(pack, name), make) for name, make in contents(manifest, source)))
    paths = tuple(layout.object_path(pack, name) for name in manifest.objects)
    return StagedPack(manifest.namespace, pack, data, paths, began)


def commit(storage: Storage, staged: StagedPack) -> None:
    """Write the manifest of a pack, which makes it visible.

    Raises:
        RemoteError: If the storage is unreachable or refuses a request; the pack is then invisible, or complete.
        RepositoryError: If writing took so long that a prune may have removed the first objects.
    """
    path = layout.manifest_path(staged.namespace, staged.pack)
    if staged.in_time():
        storage.put(path, staged.manifest)
        if staged.in_time():
            return
        # The process was suspended during the PUT. Another process of this mirror may have published the same pack,
        # so the manifest is deleted only if a prune has removed objects. A reader of it had misses at worst.
        remote_paths = {entry.path for entry in storage.list(layout.pack_prefix(staged.pack))}
        if not remote_paths.issuperset(staged.paths):
            try:
                storage.delete(path)
            except AccessDenied as err:
                logger.warning("left the manifest of pack %s, whose objects have gone: %s", staged.pack, err)
    raise RepositoryError(
        f"Writing pack {staged.pack} to {storage.url} took more than {MAX_SECONDS // 3600} hours, or the clock was "
        "set: a prune may have removed its first objects. Nothing is lost. Do the same again."
    )


def check_signer(trust: Trust | None, signer: Signer | None) -> None:
    """Raise an error if new packs would be invisible to clients that trust the same keys.

    Raises:
        ConfigurationError: If they would be.
    """
    if trust is not None and (signer is None or signer.public not in trust.keys):
        what = "there is no signing_key" if signer is None else f"{signer.public} is none of them"
        raise ConfigurationError(
            f"Only packs signed by {', '.join(sorted(trust.names.values()))} are trusted, and {what}: nobody who "
            "trusts the same keys would see what you write. Name a signing_key (CAS_CACHE_SIGNING_KEY) whose public "
            "key is trusted, or open the cache with read_only=True."
        )
