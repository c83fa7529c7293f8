"""Metric, kind of index and parameters of a search. Pure: no I/O.

Parameters have faiss's names. Parameters that shape an index are part of its file name; search parameters are not, so
one file serves searches with any of them.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cas_cache.errors import ConfigurationError
from cas_cache.identity import canonical_json

if TYPE_CHECKING:
    from collections.abc import Mapping

METRICS = ("cosine", "ip", "l2")
"""Cosine similarity, inner product, Euclidean distance."""

SCALARS = {"8bit": "SQ8", "6bit": "SQ6", "4bit": "SQ4", "fp16": "SQfp16"}
"""Scalar quantizers, and their names in faiss's `index_factory`."""

_HNSW: Mapping[str, int | str] = {"M": 32, "efConstruction": 200}
_IVF: Mapping[str, int | str] = {"nlist": 0}

KINDS: Mapping[str, Mapping[str, int | str]] = {
    "exact": {},
    "hnsw": _HNSW,
    "hnswsq": {**_HNSW, "sq": "8bit"},
    "ivf": _IVF,
    "ivfpq": {**_IVF, "m": 0, "nbits": 8},
    "ivfsq": {**_IVF, "sq": "8bit"},
}
"""Kinds of index with the parameters that shape each. 0 means: chosen by the number of rows or dimensions."""

SEARCHED_WITH: Mapping[str, Mapping[str, int]] = {
    "exact": {},
    "hnsw": {"efSearch": 64, "k_factor": 1},
    "hnswsq": {"efSearch": 64, "k_factor": 2},
    "ivf": {"nprobe": 0, "k_factor": 1},
    "ivfpq": {"nprobe": 0, "k_factor": 8},
    "ivfsq": {"nprobe": 0, "k_factor": 2},
}
"""Search parameters of each kind. ``k_factor``: k_factor * k candidates are ranked again by their stored vectors."""

ROWS_A_LIST = 39
"""Minimum number of training rows that faiss asks for per list of an inverted file."""

MAX_HNSW_LINKS = 512
MAX_BITS = 12
"""Maximum bits of a code: larger codebooks need more training rows than a namespace has."""


@dataclass(frozen=True, slots=True)
class Design:
    """Checked metric, kind and parameters of a search. Made by `design_of`.

    Attributes:
        metric: One of `METRICS`.
        kind: One of `KINDS`.
        shape: Parameters that shape the index.
        search: Parameters of a search in the index.
    """

    metric: str = "cosine"
    kind: str = "exact"
    shape: Mapping[str, int | str] = field(default_factory=dict)
    search: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The stem of its file names: metric, kind, and a hash of the parameters that shape the index."""
        digest = hashlib.sha256(canonical_json(dict(self.shape))).hexdigest()[:12]
        return f"{self.metric}-{self.kind}-{digest}"

    @property
    def is_trained(self) -> bool:
        """True if an index of this kind must be trained before rows are added."""
        return self.kind != "hnsw"

    def lists(self, rows: int) -> int:
        """Return the number of lists of an inverted file with this number of rows."""
        given = int(self.shape["nlist"])
        return given or max(1, min(round(4 * math.sqrt(rows)), rows // ROWS_A_LIST))

    def probes(self, lists: int) -> int:
        """Return the number of lists that a search reads."""
        return min(lists, self.search["nprobe"] or max(16, lists // 16))

    def factory(self, dimensions: int, rows: int) -> str:
        """Return the string for faiss's `index_factory`.

        Args:
            dimensions: The number of dimensions of a vector.
            rows: The number of rows available for training.

        Raises:
            ConfigurationError: If vectors of this number of dimensions cannot be cut into `m` parts.
        """
        coarse = f"HNSW{self.shape['M']}" if self.kind.startswith("hnsw") else f"IVF{self.lists(rows)}"
        if "sq" in self.shape:
            return f"{coarse},{SCALARS[str(self.shape['sq'])]}"
        if self.kind == "ivfpq":
            return f"{coarse},PQ{self._parts(dimensions)}x{self.shape['nbits']}"
        return f"{coarse},Flat"

    def _parts(self, dimensions: int) -> int:
        """Return the number of separately quantized parts of a vector, with 4 dimensions each or, if need be, more."""
        given = int(self.shape["m"])
        if given and dimensions % given:
            raise ConfigurationError(
                f"m={given} does not divide the {dimensions} dimensions of these vectors. Choose a divisor."
            )
        return given or max(m for m in range(1, max(1, dimensions // 4) + 1) if dimensions % m == 0)


def design_of(metric: str, kind: str, parameters: Mapping[str, int | str]) -> Design:
    """Check metric, kind and parameters.

    Raises:
        ConfigurationError: If one of them is unknown or invalid.
    """
    if metric not in METRICS:
        raise ConfigurationError(f"metric={metric!r} is none of {', '.join(METRICS)}.")
    if kind not in KINDS:
        raise ConfigurationError(f"kind={kind!r} is none of {', '.join(KINDS)}.")
    known = {**KINDS[kind], **SEARCHED_WITH[kind]}
    foreign = sorted(parameters.keys() - known.keys())
    if foreign:
        raise ConfigurationError(f"kind={kind!r} has no parameter {foreign[0]}. It has: {', '.join(known) or 'none'}.")
    for name, value in parameters.items():
        _check(name, value, known[name])
    chosen = {**known, **parameters}
    return Design(
        metric,
        kind,
        {name: chosen[name] for name in KINDS[kind]},
        {name: int(chosen[name]) for name in SEARCHED_WITH[kind]},
    )


def _check(name: str, value: int | str, default: int | str) -> None:
    """Reject values for which faiss would raise an error of its own or abort the process."""
    if name == "sq":
        if value not in SCALARS:
            raise ConfigurationError(f"sq={value!r} is none of {', '.join(SCALARS)}.")
        return
    least = {"M": 2, "nlist": 0, "nprobe": 0, "m": 0}.get(name, 1)
    most = {"M": MAX_HNSW_LINKS, "nbits": MAX_BITS}.get(name, 1 << 30)
    if type(value) is not int or not least <= value <= most:
        raise ConfigurationError(f"{name}={value!r} must be a whole number from {least} to {most} (default {default}).")
