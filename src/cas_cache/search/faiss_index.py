"""The design of a search, and FAISS indexes: build, extend and query them. They propose rows; `exact.rank` scores them.

Answers never depend on an index alone, so rounding (PQ, SQ) costs recall but never changes a score.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.errors import ConfigurationError
from cas_cache.mirror.index import ABSENT
from cas_cache.search.exact import METRICS, as_searched, block_rows, faiss_metric, require_faiss

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

MIN_ROWS = 1024
"""Minimum rows for an index: with fewer, exact search is as fast and quantizers have too few rows to train on."""

MIN_TRAINED_ON = 1 << 15
"""Minimum number of training rows for scalar and product quantizers, if there are as many."""

TRAINED_ON_A_CENTROID = 64
"""Number of training rows per list of an inverted file; faiss wants 39 to 256."""

EF_CONSTRUCTION, EF_SEARCH, MIN_PROBES = 200, 64, 16
"""Graphs and inverted files with faiss's own defaults (40, 16, 1 list) miss too many neighbours."""

LINKS = range(2, 513)
"""Links of a graph's node that faiss can take; it aborts the process with 0 or 1."""

INDEX_STRING = re.compile(r"[0-9A-Za-z_,.()\[\]+-]{1,200}")
PARAMETERS = re.compile(r"(\w+=[1-9][0-9]{0,5}(,(?!$)|$))*")
"""Parameters of a search as faiss writes them. With 0 and huge numbers it fails or does not return."""


@dataclass(frozen=True, slots=True)
class Design:
    """Metric, index and parameters of a search.

    Attributes:
        metric: One of `METRICS`.
        index: The index as faiss's `index_factory` names it; None compares every row.
        parameters: Parameters of a search in the index, as faiss's `ParameterSpace` names them: ``"nprobe=32"``.
        k_factor: k_factor * k candidates are ranked again by their stored vectors.

    Raises:
        ConfigurationError: If one of them is invalid.
    """

    metric: str = "cosine"
    index: str | None = None
    parameters: str = ""
    k_factor: int = 4

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ConfigurationError(f"metric={self.metric!r} is unknown. Choose one of {', '.join(METRICS)}.")
        if self.index is not None and not _matches(INDEX_STRING, self.index):
            raise ConfigurationError(
                f"index={self.index!r} is not a string for FAISS's index_factory. Pass one, such as 'HNSW32' or "
                "'IVF1024,PQ16', or None for exact search."
            )
        for graph, links in re.findall(r"(HNSW|NSG)(\d+)", self.index or ""):
            if len(links) > 3 or int(links) not in LINKS:
                raise ConfigurationError(
                    f"index={self.index!r}: {graph} needs {LINKS[0]} to {LINKS[-1]} links. Choose a number in between."
                )
        if not _matches(PARAMETERS, self.parameters):
            raise ConfigurationError(
                f"parameters={self.parameters!r} must be NAME=NUMBER[,NAME=NUMBER...] with whole numbers from 1 to "
                "999999, such as 'efSearch=128' or 'nprobe=32'."
            )
        if self.parameters and self.index is None:
            raise ConfigurationError(f"parameters={self.parameters!r} are those of an index. Pass index= as well.")
        if type(self.k_factor) is not int or not 1 <= self.k_factor <= 1000:
            raise ConfigurationError(f"k_factor={self.k_factor!r} must be a whole number from 1 to 1000.")

    @property
    def name(self) -> str:
        """The stem of the names of its files: metric, the string of the index, and a hash of that."""
        index = self.index or ""
        digest = hashlib.sha256(index.encode()).hexdigest()[:12]
        return f"{self.metric}-{re.sub('[^0-9A-Za-z]+', '-', index)[:40]}-{digest}"


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def new_index(design: Design, dimensions: int) -> Any:
    """Return an empty index.

    Raises:
        ConfigurationError: If faiss does not know the index or a parameter, or vectors of this length do not fit.
    """
    faiss = require_faiss()
    with _named(design):
        index = faiss.index_factory(dimensions, design.index, faiss_metric(design.metric))
        for part in _parts(index):
            for trained in (part, getattr(part, "pq", part)):
                if hasattr(trained, "cp"):
                    trained.cp.min_points_per_centroid = 1  # train on what exists, without a warning on stderr
            if hasattr(part, "do_polysemous_training"):
                part.do_polysemous_training = False  # takes most of the time, and its filter is not used
            if hasattr(part, "hnsw"):
                part.hnsw.efConstruction = EF_CONSTRUCTION
        prepare(index, design)
    return index


def prepare(index: Any, design: Design) -> None:
    """Set the parameters of a search."""
    for part in _parts(index):
        if hasattr(part, "nprobe"):
            part.nprobe = min(part.nlist, max(MIN_PROBES, part.nlist // 16))
        if hasattr(part, "hnsw"):
            part.hnsw.efSearch = EF_SEARCH
    if design.parameters:
        require_faiss().ParameterSpace().set_index_parameters(index, design.parameters)


def build(design: Design, vectors: NDArray[Any]) -> Any:
    """Return a new index of all rows of (n, d) vectors.

    Raises:
        ConfigurationError: If faiss cannot make or train it with these rows.
    """
    index = new_index(design, vectors.shape[1])
    if not index.is_trained:
        lists = max(getattr(part, "nlist", 0) for part in _parts(index))
        count = min(len(vectors), max(MIN_TRAINED_ON, TRAINED_ON_A_CENTROID * lists))
        chosen = np.linspace(0, len(vectors) - 1, count).astype(np.int64)
        with _named(design):
            index.train(as_searched(vectors[chosen], design.metric))
    extend(index, design, vectors)
    return index


def extend(index: Any, design: Design, vectors: NDArray[Any]) -> None:
    """Add the rows of (n, d) vectors that an index does not cover yet: those from ``index.ntotal`` on.

    Raises:
        ConfigurationError: If rows cannot be added to an index of this kind.
    """
    step = block_rows(vectors.shape[1])
    with _named(design):
        for start in range(index.ntotal, len(vectors), step):
            index.add(as_searched(vectors[start : start + step], design.metric))


def propose(index: Any, queries: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return (q, count) int64 rows that may be nearest to each query; `ABSENT` where fewer were found."""
    rows: NDArray[np.int64] = index.search(queries, min(count, index.ntotal))[1]
    rows[(rows < 0) | (rows >= index.ntotal)] = ABSENT
    return rows


def is_sound(index: Any, design: Design, dimensions: int, rows: int) -> bool:
    """Return True if an index that was read has this design and covers this number of rows."""
    faiss = require_faiss()
    expected = new_index(design, dimensions)
    same = type(faiss.downcast_index(index)) is type(faiss.downcast_index(expected))
    return bool(same and index.d == dimensions and index.ntotal == rows and index.metric_type == expected.metric_type)


def _parts(index: Any) -> Iterator[Any]:
    """Yield an index, those that it wraps (transforms, refinement, id maps), and its storage."""
    part = require_faiss().downcast_index(index)
    yield part
    for name in ("index", "base_index", "storage"):
        inner = getattr(part, name, None)
        if inner is not None:
            yield from _parts(inner)


@contextmanager
def _named(design: Design) -> Iterator[None]:
    """Name the index in errors of faiss."""
    try:
        yield
    except (RuntimeError, MemoryError) as err:
        reason = re.sub(r"^.*\.(cpp|h):\d+: ", "", str(err).strip().partition("\n")[0])
        parameters = f" with {design.parameters!r}" if design.parameters else ""
        raise ConfigurationError(
            f"FAISS cannot use the index {design.index!r}{parameters} for these vectors ({reason}). Choose another, "
            "such as 'HNSW32'."
        ) from err
