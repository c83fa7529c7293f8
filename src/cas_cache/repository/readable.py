"""The packs of a namespace for people who read them with other tools, as Zarr groups or dask arrays.

Reading packs is not a sync: nothing is written, and no mirror is needed.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from cas_cache.errors import ConfigurationError, DamagedPack, DataWarning, MissingDependency, RepositoryError
from cas_cache.format.manifest import Manifest, superseders
from cas_cache.identity import NAMESPACE_ID

if TYPE_CHECKING:
    import zarr

    from cas_cache.repository.repository import Repository

MAX_LISTINGS = 3
"""Maximum number of listings. A listed pack may be merged and deleted before its manifest is read; then list again."""


def open_zarr(repository: Repository, namespace: str) -> list[zarr.Group]:
    """See `Repository.open_zarr`."""
    from cas_cache.repository.zarr_store import zarr_groups  # imports zarr: 0.3 s

    return zarr_groups(repository.storage, readable_packs(repository, namespace))


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
        packs = repository.packs(namespace)
        answers = list(zip(packs, repository.manifests(packs), strict=True))
        if not any(isinstance(answer, DamagedPack) and repository.has_gone(pack, answer) for pack, answer in answers):
            break
    manifests = {pack: answer for (_, pack), answer in answers if isinstance(answer, Manifest)}
    problems = [answer for _, answer in answers if not isinstance(answer, Manifest)]
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
