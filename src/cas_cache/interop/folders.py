"""Find the folders of old mteb caches below a directory, and read their paths and indexes.

::

    <cache path>/<task>[/experiments/<name>][/query|document]/index.json      {hex key: row}
                                                             /vectors.npy     raw float32, with the file `dimension`
                                                             /vectors.faiss   or this

mteb 1.x and the first 2.x wrote ``<cache path>/<task>`` only, for queries and documents together. The files of 1.x's
`TextVectorMap` and of 2.x's `NumpyCache` are identical in format, so they do not show which version wrote them.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cas_cache.config.settings import expanded
from cas_cache.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

INDEX = "index.json"
DIMENSION = "dimension"
NUMPY_VECTORS = "vectors.npy"
FAISS_VECTORS = "vectors.faiss"
ROLES = ("query", "document")
EXPERIMENTS = "experiments"

MAX_ROWS = 2**62
"""Limit of row numbers: no disk holds a file of so many rows, and larger numbers could overflow 64 bits."""


@dataclass(frozen=True, slots=True)
class MtebCacheFolder:
    """One cache folder of mteb.

    Attributes:
        path: The path of the folder.
        backend: The mteb backend that the files belong to; ``"both"`` if they belong to two.
        task: The task's name.
        role: ``"query"``, ``"document"``, or None if it is not the folder of a role.
        experiment: The name that mteb gave to settings that are not the default, or None.
        named: True if the given directory is the experiment's or inside it, not above it.
        leads_out: A file that is a symbolic link out of the given directory, or None. Such a link could make an import
        read another user's files and push them to others.
    """

    path: Path
    backend: Literal["numpy", "faiss", "both"]
    task: str
    role: str | None = None
    experiment: str | None = None
    is_named: bool = True
    leads_out: str | None = None


@dataclass(frozen=True, slots=True)
class Broken:
    """A folder of which nothing can be trusted.

    Attributes:
        why: The reason, as text for people.
        keys: The number of keys in its index, if known.
    """

    why: str
    keys: int = 0


@dataclass(frozen=True, slots=True)
class OldRows:
    """Keys and vectors as a folder's files declare them, before the rows are checked.

    Attributes:
        names: The keys, as written in the index.
        at: (n,) int64, the row of each key.
        rows: The number of rows in the file of vectors.
        dimension: The length of a vector.
        take: Returns (k, dimension) float32 for (k,) int64 row numbers in [0, `rows`).
        stamp: Sizes and times of the files, which show later changes.
    """

    names: list[str]
    at: NDArray[np.int64]
    rows: int
    dimension: int
    take: Callable[[NDArray[np.int64]], NDArray[np.float32]]
    stamp: tuple[tuple[int, int], ...]


def find_folders(directory: str | Path) -> list[MtebCacheFolder]:
    """Return the cache folders at and below a directory, in order of their paths. Opens no file.

    Raises:
        ConfigurationError: If there are no cache folders.
    """
    root = expanded(directory).absolute()
    if not root.is_dir():
        raise ConfigurationError(f"{root} is not a directory. Name a cache_path of mteb, or a folder in one.")
    mteb_folders = []
    for place, folders, files in os.walk(root):
        folders.sort()
        backend = _backend(files)
        if backend is not None:
            mteb_folders.append(
                replace(_parse_path(root, Path(place), backend), leads_out=_leads_out(root, Path(place)))
            )
    if not mteb_folders:
        raise ConfigurationError(
            f"There is no cache of mteb in {root}: no folder has {INDEX} with {NUMPY_VECTORS} or {FAISS_VECTORS}. "
            "Name the cache_path that CachedEmbeddingWrapper was given, or a folder in it."
        )
    return sorted(mteb_folders, key=lambda folder: folder.path)


def _leads_out(root: Path, folder: Path) -> str | None:
    """Return the first of a folder's files that is a link out of a directory, or None."""
    real = Path(os.path.realpath(root))
    for name in (INDEX, DIMENSION, NUMPY_VECTORS, FAISS_VECTORS):
        if (folder / name).is_symlink() and not Path(os.path.realpath(folder / name)).is_relative_to(real):
            return name
    return None


def _backend(files: list[str]) -> Literal["numpy", "faiss", "both"] | None:
    if FAISS_VECTORS in files:
        return "both" if NUMPY_VECTORS in files or DIMENSION in files else "faiss"
    # A killed run leaves vectors without an index. A mirror's own vectors.npy is not taken: it has no `dimension` file.
    return "numpy" if INDEX in files or (NUMPY_VECTORS in files and DIMENSION in files) else None


def _parse_path(root: Path, path: Path, backend: Literal["numpy", "faiss", "both"]) -> MtebCacheFolder:
    """Read task, experiment and role from a path below the given directory and, if that is inside a task's, above."""
    below, own = list(path.relative_to(root).parts), list(root.parts)
    inside = not below or below[0] in (*ROLES, EXPERIMENTS) or root.name == EXPERIMENTS
    parts = own[-4:] + below if inside else below
    role = parts.pop() if parts[-1] in ROLES else None
    if EXPERIMENTS not in parts[1:-1]:
        return MtebCacheFolder(path, backend, parts[-1] if inside else parts[0], role)
    cut = parts.index(EXPERIMENTS, 1)
    is_named = inside and EXPERIMENTS not in (*below, root.name)
    # An experiment's name may contain slashes; it then spans several folders.
    return MtebCacheFolder(path, backend, parts[cut - 1], role, "/".join(parts[cut + 1 :]), is_named)


def read_index(folder: Path) -> tuple[list[str], NDArray[np.int64]] | Broken:
    """Return the keys and rows of a folder's index, or the reason why it cannot be used."""
    try:
        pairs = json.loads((folder / INDEX).read_bytes(), object_pairs_hook=_Pairs)
    except FileNotFoundError:
        return Broken(f"it has no {INDEX}: the run that wrote it was killed before it saved")
    except (OSError, ValueError, RecursionError) as err:
        return Broken(f"{INDEX} is cut or damaged ({err})")
    if not isinstance(pairs, _Pairs) or not all(_is_row(row) for _, row in pairs):
        return Broken(f"{INDEX} is not a mapping of keys to row numbers")
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        return Broken(f"{INDEX} has a key twice", len(names))
    return names, np.array([row for _, row in pairs], np.int64)


def stamp_of(folder: Path) -> tuple[tuple[int, int], ...]:
    """Return sizes and times of a folder's files; a change means that another process is writing to them."""
    files = (folder / name for name in (INDEX, DIMENSION, NUMPY_VECTORS, FAISS_VECTORS))
    return tuple((stat.st_size, stat.st_mtime_ns) for file in files if file.exists() and (stat := file.stat()))


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as pairs, which keeps repeated keys."""


def _is_row(value: object) -> bool:
    return type(value) is int and 0 <= value < MAX_ROWS
