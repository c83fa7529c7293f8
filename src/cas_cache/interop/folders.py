"""The folders of old mteb caches: where they are below a directory, and what their path and index say.

::

    <cache path>/<task>[/experiments/<name>][/query|document]/index.json      {hex key: row}
                                                             /vectors.npy     raw float32, with the file `dimension`
                                                             /vectors.faiss   or this

mteb 1.x had ``<cache path>/<task>`` alone, for queries and documents together, and so had the first 2.x. The files of
1.x's `TextVectorMap` and 2.x's `NumpyCache` are the same to the byte: what wrote them cannot be seen.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cas_cache.errors import ConfigurationError
from cas_cache.settings import expanded

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
"""No row number is larger: a file of so many would not fit on any disk, nor the number in 64 bits."""


@dataclass(frozen=True, slots=True)
class MtebCacheFolder:
    """One cache folder of mteb.

    Attributes:
        path: Where it is.
        backend: Which of mteb's backends the files are of; ``"both"`` if they are of two.
        task: The task's name.
        role: ``"query"``, ``"document"``, or None if it is not a role's folder.
        experiment: The name mteb gave to settings that are not the default, or None.
        named: Whether the directory that was given is the experiment's or in it, not above it.
        leads_out: A file that is a symbolic link out of the directory that was given, or None. Somebody else's files
            would be read, and pushed to others.
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
    """Nothing of a folder can be trusted.

    Attributes:
        why: What is wrong, for people.
        keys: How many keys its index has, where that is known.
    """

    why: str
    keys: int = 0


@dataclass(frozen=True, slots=True)
class OldRows:
    """What a folder's files say, before any row is judged.

    Attributes:
        names: The keys, as the index has them.
        at: (n,) int64, the row of each.
        rows: How many rows the vectors' file has.
        dimension: Length of a vector.
        take: Gives (k, dimension) float32 for (k,) int64 row numbers in [0, `rows`).
        stamp: What shows that the files have changed since.
    """

    names: list[str]
    at: NDArray[np.int64]
    rows: int
    dimension: int
    take: Callable[[NDArray[np.int64]], NDArray[np.float32]]
    stamp: tuple[tuple[int, int], ...]


def find_folders(directory: str | Path) -> list[MtebCacheFolder]:
    """Return the cache folders at and below a directory, in order of their paths. Nothing is opened.

    Raises:
        ConfigurationError: If there are none.
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
    """The first of a folder's files that is a link out of a directory."""
    real = Path(os.path.realpath(root))
    for name in (INDEX, DIMENSION, NUMPY_VECTORS, FAISS_VECTORS):
        if (folder / name).is_symlink() and not Path(os.path.realpath(folder / name)).is_relative_to(real):
            return name
    return None


def _backend(files: list[str]) -> Literal["numpy", "faiss", "both"] | None:
    if FAISS_VECTORS in files:
        return "both" if NUMPY_VECTORS in files or DIMENSION in files else "faiss"
    # A run that was killed leaves vectors without an index; a mirror's own vectors.npy has no dimension beside it.
    return "numpy" if INDEX in files or (NUMPY_VECTORS in files and DIMENSION in files) else None


def _parse_path(root: Path, path: Path, backend: Literal["numpy", "faiss", "both"]) -> MtebCacheFolder:
    """Read task, experiment and role from a path: from below the given directory, and, if that is a task's, its own."""
    below, own = list(path.relative_to(root).parts), list(root.parts)
    inside = not below or below[0] in (*ROLES, EXPERIMENTS) or root.name == EXPERIMENTS
    parts = own[-4:] + below if inside else below
    role = parts.pop() if parts[-1] in ROLES else None
    if EXPERIMENTS not in parts[1:-1]:
        return MtebCacheFolder(path, backend, parts[-1] if inside else parts[0], role)
    cut = parts.index(EXPERIMENTS, 1)
    is_named = inside and EXPERIMENTS not in (*below, root.name)
    # An experiment's name may hold a slash, and is then several folders.
    return MtebCacheFolder(path, backend, parts[cut - 1], role, "/".join(parts[cut + 1 :]), is_named)


def read_index(folder: Path) -> tuple[list[str], NDArray[np.int64]] | Broken:
    """Return the keys and rows of a folder's index."""
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
    """Return sizes and times of a folder's files: other ones mean that somebody writes there."""
    files = (folder / name for name in (INDEX, DIMENSION, NUMPY_VECTORS, FAISS_VECTORS))
    return tuple((stat.st_size, stat.st_mtime_ns) for file in files if file.exists() and (stat := file.stat()))


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with what it has twice."""


def _is_row(value: object) -> bool:
    return type(value) is int and 0 <= value < MAX_ROWS
