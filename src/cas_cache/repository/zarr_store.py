"""The packs of a namespace for other tools, as Zarr groups or dask arrays. The only module that imports zarr.

Adds to a Zarr store: reads go by manifests, and every object is read completely and must have the size and SHA-256 that
its manifest names. zarr itself fills a missing chunk with zeros; here a missing chunk is an error. Nothing is ever
written.
"""

from __future__ import annotations

import asyncio
import warnings
from typing import TYPE_CHECKING, Any

import zarr
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest

from cas_cache.errors import ConfigurationError, DamagedPack, DataWarning, MissingDependency, RepositoryError
from cas_cache.format.manifest import superseders
from cas_cache.identity import NAMESPACE_ID
from cas_cache.repository.reading import read_object

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

    from cas_cache.format.manifest import Manifest
    from cas_cache.repository.repository import Repository
    from cas_cache.storage.interface import Storage

MAX_LISTINGS = 3
"""Maximum number of listings. A listed pack may be merged and deleted before its manifest is read; then list again."""


def open_zarr(repository: Repository, namespace: str) -> list[zarr.Group]:
    """See `Repository.open_zarr`."""
    manifests = readable_packs(repository, namespace)
    store = PackStore(repository.storage, manifests)
    return [zarr.open_group(store, path=pack, mode="r", zarr_format=3) for pack in manifests]


def open_dask(repository: Repository, namespace: str) -> Any:
    """See `Repository.open_dask`."""
    try:
        import dask.array as da
    except ImportError as err:
        raise MissingDependency.of_package("open_dask (the extra cas-cache[dask])", "'dask[array]'") from err
    arrays: list[Any] = [group["vectors"] for group in open_zarr(repository, namespace)]
    if not arrays:
        raise RepositoryError(
            f"{repository.url} has no packs of the namespace {namespace}, so its vectors have no shape. `cas-cache ls "
            f"{repository.url}` lists the namespaces."
        )
    # The path of an array contains the pack's id, so the name identifies the content, as dask requires.
    return da.concatenate(
        [da.from_array(array, chunks=array.chunks, name=f"cas-cache-{array.path}") for array in arrays]
    )


def readable_packs(repository: Repository, namespace: str) -> dict[str, Manifest]:
    """Return the packs that hold the rows of a namespace, the oldest first; warn about skipped packs.

    Raises:
        ConfigurationError: If `namespace` is not a namespace id.
        NotARepository: If there is no repository.
        RemoteError: If the remote is unreachable or refuses a request.
    """
    if not NAMESPACE_ID.fullmatch(namespace):
        raise ConfigurationError(
            f"{namespace!r} is not a namespace id: 32 hex digits, as `EncoderSpec.namespace` and `cas-cache ls --json` "
            "give them."
        )
    repository.must_exist()
    for _ in range(MAX_LISTINGS):
        answers = repository.read_manifests(repository.packs(namespace))
        if not answers.gone:
            break
    problems: list[Exception] = [*answers.untrusted.values(), *answers.problems.values()]
    problems += [DamagedPack(f"The pack {ref.pack} was deleted meanwhile.", pack=ref.pack) for ref in answers.gone]
    manifests = answers.readable
    merged = superseders(manifests)
    manifests = {pack: manifest for pack, manifest in manifests.items() if pack not in merged}
    element = next(((manifest.dtype, manifest.shape) for manifest in manifests.values()), None)
    alike = {pack: manifest for pack, manifest in manifests.items() if (manifest.dtype, manifest.shape) == element}
    problems += [
        DamagedPack(f"The pack {pack} holds vectors of another dtype or shape than the first pack.", pack=pack)
        for pack in manifests.keys() - alike.keys()
    ]
    if problems:
        warnings.warn(
            f"{len(problems)} packs of {namespace} were skipped. The first: {problems[0]}", DataWarning, stacklevel=4
        )
    return alike


class PackStore(Store):
    """Packs as a Zarr store: ``<pack>/zarr.json``, ``<pack>/vectors/c/0/0`` and so on.

    Args:
        storage: The storage of the repository.
        manifests: The verified manifests by pack.
    """

    supports_writes = False
    supports_deletes = False
    supports_listing = True
    supports_partial_writes = False

    def __init__(self, storage: Storage, manifests: Mapping[str, Manifest]) -> None:
        super().__init__(read_only=True)
        self._storage = storage
        self._manifests = dict(manifests)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, PackStore)
            and other._storage.url == self._storage.url
            and other._manifests.keys() == self._manifests.keys()
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"PackStore({self._storage.url!r}, {len(self._manifests)} packs)"

    def __reduce__(self) -> tuple[Any, ...]:
        raise ConfigurationError(
            f"The packs of {self._storage.url} are not pickled: the connection and its credentials belong to this "
            "process. Call open_zarr or open_dask in the other process, or compute with dask's threads."
        )

    def with_read_only(self, read_only: bool = False) -> PackStore:
        """Return this store again, because it has no writable form."""
        if not read_only:
            msg = "packs never change; open them read-only"
            raise ValueError(msg)
        return PackStore(self._storage, self._manifests)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return an object, or a part of it; None if no manifest names it."""
        pack, _, name = key.partition("/")
        if not self._is_named(pack, name):
            return None
        data = await asyncio.to_thread(read_object, self._storage, pack, self._manifests[pack], name)
        return prototype.buffer.from_bytes(_part(data, byte_range))

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return several objects, or parts of them."""
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Return True if a manifest names the object."""
        pack, _, name = key.partition("/")
        return self._is_named(pack, name)

    async def set(self, key: str, value: Buffer) -> None:  # noqa: ARG002
        """Raise ValueError: nothing is written."""
        self._check_writable()

    async def delete(self, key: str) -> None:  # noqa: ARG002
        """Raise ValueError: nothing is deleted."""
        self._check_writable()

    async def set_partial_values(self, key_start_values: Iterable[tuple[str, int, Any]]) -> None:  # noqa: ARG002
        """Raise ValueError: nothing is written. Only zarr before 3.1.3 requires this method."""
        self._check_writable()

    async def list(self) -> AsyncIterator[str]:
        """Yield the names of all objects."""
        for pack, manifest in self._manifests.items():
            for name in manifest.objects:
                yield f"{pack}/{name}"

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names of all objects that begin with a prefix."""
        async for key in self.list():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names of objects and folders directly below a folder."""
        folder = f"{prefix.rstrip('/')}/" if prefix else ""
        names: dict[str, None] = {}
        async for key in self.list_prefix(folder):
            names[key.removeprefix(folder).partition("/")[0]] = None
        for name in names:
            yield name

    def _is_named(self, pack: str, name: str) -> bool:
        return pack in self._manifests and name in self._manifests[pack].objects


def _part(data: bytes, byte_range: ByteRequest | None) -> bytes:
    if isinstance(byte_range, RangeByteRequest):
        return data[byte_range.start : byte_range.end]
    if isinstance(byte_range, OffsetByteRequest):
        return data[byte_range.offset :]
    if isinstance(byte_range, SuffixByteRequest):
        return data[-byte_range.suffix :]
    return data
