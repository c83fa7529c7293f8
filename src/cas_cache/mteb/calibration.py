"""Calibration ranges of int8 and uint8 that outlast a call, beside the namespaces of a mirror.

::

    <mirror>/calibration/<encoder>/spec.json                   whose ranges these are
                                   ranges-<d>.npy              (2, d) float32: least and greatest value by dimension
                                   ranges-<d>-normalized.npy   of vectors of length 1

An encoder is here a spec without prompt and role: queries and documents go by the same ranges, or their int8 vectors
could not be compared. What is there is never replaced: int8 vectors that one mirror gave stay comparable. They are not
pushed.
"""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.errors import ConfigurationError, DamagedMirror, MirrorWriteError
from cas_cache.files.disk import check_folder, flush, read_plain, write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from cas_cache.identity import EncoderSpec

FOLDER = "calibration"

MIN_ROWS = 100
"""Rows of a call that ranges may be taken from; with fewer, sentence-transformers warns."""


def stored_ranges(calibration: Any) -> StoredRanges | None:
    """Return what the option ``calibration`` asks for; None for ranges by the call.

    Raises:
        ConfigurationError: If it is none of its values.
    """
    if not isinstance(calibration, str | None):
        return StoredRanges(calibration)
    if calibration not in ("call", "stored"):
        raise ConfigurationError(f"calibration={calibration!r} is neither 'call' nor 'stored' nor an array (2, d).")
    return StoredRanges() if calibration == "stored" else None


class StoredRanges:
    """Calibration ranges that are kept in a mirror.

    Args:
        given: (2, d) least and greatest value by dimension, to be kept where none are; None takes them from the first
            call of at least `MIN_ROWS` rows.

    Raises:
        ConfigurationError: If `given` are no ranges.
    """

    def __init__(self, given: Any = None) -> None:
        self._given: NDArray[np.float32] | None = None
        if given is not None:
            try:
                self._given = np.array(given, np.float32)
                problem = _problem(self._given)
            except (TypeError, ValueError) as err:
                problem = f"is not an array of numbers ({err})"
            if problem:
                raise ConfigurationError(
                    f"calibration={type(given).__name__} {problem}. Pass the least and the greatest value of each "
                    "dimension: np.stack([vectors.min(axis=0), vectors.max(axis=0)])."
                )

    def check(self, directory: Path, spec: EncoderSpec, rows: int) -> None:
        """Refuse a call that could not be answered, before it is encoded.

        Args:
            directory: The mirror's.
            spec: Whose vectors are asked for.
            rows: How many.

        Raises:
            ConfigurationError: If it has too few rows to take ranges from, and this encoder has none.
        """
        if self._given is None and rows < MIN_ROWS and not any(_folder(directory, spec).glob("ranges-*.npy")):
            raise _too_few(spec, rows)

    def of(self, directory: Path, spec: EncoderSpec, vectors: NDArray[Any], *, normalized: bool) -> NDArray[np.float32]:
        """Return the ranges of an encoder; the first time, take and keep them.

        Args:
            directory: The mirror's.
            spec: Whose vectors these are.
            vectors: (n, d), truncated and normalised as they are to be quantized.
            normalized: Whether they were normalised.

        Returns:
            (2, d) float32.

        Raises:
            ConfigurationError: If there are none and there are too few finite rows to take them from, or the ranges
                given do not fit the vectors or what is kept.
            DamagedMirror: If what is kept are no ranges.
            MirrorWriteError: If the disk is full or refuses.
        """
        dimension = vectors.shape[-1]
        path = _folder(directory, spec) / f"ranges-{dimension}{'-normalized' if normalized else ''}.npy"
        if self._given is not None and self._given.shape[-1] != dimension:
            raise ConfigurationError(
                f"The calibration ranges are of {self._given.shape[-1]} dimensions, the vectors of {spec.model} of "
                f"{dimension}. Pass ranges of these vectors, or calibration='stored'."
            )
        kept = _read(path, dimension)
        if kept is None:
            found = self._given if self._given is not None else _taken(spec, vectors)
            _keep(path, spec, found)
            kept = _read(path, dimension)  # another process may have been first
            if kept is None:
                raise MirrorWriteError(f"{path} was deleted while it was written. Run again.")
        if self._given is not None and not np.array_equal(kept, self._given):
            raise ConfigurationError(
                f"{path} holds other calibration ranges than those given, and vectors by the one and by the other "
                "cannot be compared. Pass calibration='stored' to go by what is kept, or delete the file."
            )
        return kept


def _folder(directory: Path, spec: EncoderSpec) -> Path:
    return directory / FOLDER / _encoder(spec).namespace


def _encoder(spec: EncoderSpec) -> EncoderSpec:
    return replace(spec, prompt="", role=None)


def _taken(spec: EncoderSpec, vectors: NDArray[Any]) -> NDArray[np.float32]:
    finite = np.isfinite(vectors).all(axis=1)
    if finite.sum() < MIN_ROWS:
        raise _too_few(spec, int(finite.sum()))
    vectors = vectors if finite.all() else vectors[finite]
    return np.stack([vectors.min(axis=0), vectors.max(axis=0)]).astype(np.float32)


def _too_few(spec: EncoderSpec, rows: int) -> ConfigurationError:
    return ConfigurationError(
        f"There are no calibration ranges for {spec.model} yet, and {rows} rows are too few to take them from. Encode "
        f"at least {MIN_ROWS} in one call first, such as a corpus, or pass calibration=ranges of shape (2, d)."
    )


def _keep(path: Path, spec: EncoderSpec, ranges: NDArray[np.float32]) -> None:
    folder = path.parent
    check_folder(folder.parent, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "spec.json", _encoder(spec).canonical(), create_only=True)
        write_atomically(path, _npy(ranges), create_only=True)
        for parent in (folder.parent, folder.parent.parent):
            flush(parent)
    except OSError as err:
        raise MirrorWriteError(
            f"Keeping the calibration ranges {path} failed ({err}). Make room, use another directory, or pass "
            "calibration='call'."
        ) from err


def _read(path: Path, dimension: int) -> NDArray[np.float32] | None:
    """The ranges in a file, None if it is not there.

    Raises:
        DamagedMirror: If it holds anything else.
    """
    check_folder(path.parent.parent, path.parent)
    try:
        data = read_plain(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError as err:
        raise DamagedMirror(f"The calibration ranges {path} are not a file ({err}). Move the folder away.") from err
    problem = f"has {len(data)} bytes"
    # Compared, not parsed: a header may claim any size.
    wanted = _npy(np.zeros((2, dimension), np.float32))
    header = wanted[: len(wanted) - 2 * 4 * dimension]
    if len(data) == len(wanted) and not data.startswith(header):
        problem = "does not begin as it should"
    elif len(data) == len(wanted):
        ranges = np.frombuffer(data, np.float32, offset=len(header)).reshape(2, dimension)
        problem = _problem(ranges, dimension)
        if not problem:
            return ranges
    raise DamagedMirror(
        f"The calibration ranges {path} are damaged: the file {problem}. Delete it, and they are computed again; "
        "vectors that were quantized before cannot be compared with those that come then. Or pass calibration=ranges."
    )


def _problem(ranges: Any, dimension: int | None = None) -> str:
    """Why something is no ranges, "" if it is."""
    if not isinstance(ranges, np.ndarray) or ranges.dtype != np.float32 or ranges.ndim != 2 or len(ranges) != 2:
        return "is not a (2, d) array of numbers"
    if ranges.shape[1] == 0 or dimension not in (None, ranges.shape[1]):
        return f"has {ranges.shape[1]} dimensions"
    if not np.isfinite(ranges).all():
        return "holds NaN or infinity"
    return "" if (ranges[0] <= ranges[1]).all() else "has a least value above the greatest"


def _npy(ranges: NDArray[np.float32]) -> bytes:
    file = io.BytesIO()
    np.save(file, ranges, allow_pickle=False)
    return file.getvalue()
