"""Calibration ranges of int8 and uint8 that are stored in a mirror, beside its namespaces.

::

    <mirror>/calibration/<encoder>/spec.json                   the encoder spec
                                   ranges-<d>.npy              (2, d) float32: minimum and maximum of each dimension
                                   ranges-<d>-normalized.npy   for vectors of length 1

An encoder is a spec without prompt and role, because the int8 vectors of queries and documents can be compared only if
they have the same ranges. Stored ranges are never replaced, so all int8 vectors from one mirror stay comparable. They
are not pushed.
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
"""Minimum rows of a call to take ranges from; with fewer, sentence-transformers warns."""


def stored_ranges(calibration: Any) -> StoredRanges | None:
    """Return the ranges that the option ``calibration`` selects; None for ranges by the call.

    Raises:
        ConfigurationError: If the value is not one of the option's.
    """
    if not isinstance(calibration, str | None):
        return StoredRanges(calibration)
    if calibration not in ("call", "stored"):
        raise ConfigurationError(f"calibration={calibration!r} is neither 'call' nor 'stored' nor an array (2, d).")
    return StoredRanges() if calibration == "stored" else None


class StoredRanges:
    """Calibration ranges that are stored in a mirror.

    Args:
        given: (2, d), minimum and maximum of each dimension, to store if there are none yet; None takes them from the
            first call of at least `MIN_ROWS` rows.

    Raises:
        ConfigurationError: If `given` are not ranges.
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
                    f"calibration={type(given).__name__} {problem}. Pass the minimum and the maximum of each "
                    "dimension: np.stack([vectors.min(axis=0), vectors.max(axis=0)])."
                )

    def check(self, directory: Path, spec: EncoderSpec, rows: int) -> None:
        """Refuse a call that cannot be answered, before it is encoded.

        Args:
            directory: The directory of the mirror.
            spec: The identity of the encoder.
            rows: Number of rows of the call.

        Raises:
            ConfigurationError: If it has too few rows to take ranges from, and none are stored for this encoder.
        """
        if self._given is None and rows < MIN_ROWS and not any(_folder(directory, spec).glob("ranges-*.npy")):
            raise _too_few(spec, rows)

    def of(self, directory: Path, spec: EncoderSpec, vectors: NDArray[Any], *, normalized: bool) -> NDArray[np.float32]:
        """Return the ranges of an encoder; take and store them if there are none yet.

        Args:
            directory: The directory of the mirror.
            spec: The identity of the encoder.
            vectors: (n, d), truncated and normalised as they are to be quantized.
            normalized: The vectors were normalised.

        Returns:
            (2, d) float32.

        Raises:
            ConfigurationError: If there are none and there are too few finite rows to take them from, or the given
                ranges do not fit the vectors or the stored ranges.
            DamagedMirror: If the stored file does not hold ranges.
            MirrorWriteError: If the disk is full or refuses.
        """
        dimension = vectors.shape[-1]
        path = _folder(directory, spec) / f"ranges-{dimension}{'-normalized' if normalized else ''}.npy"
        if self._given is not None and self._given.shape[-1] != dimension:
            raise ConfigurationError(
                f"The calibration ranges are of {self._given.shape[-1]} dimensions, the vectors of {spec.model} of "
                f"{dimension}. Pass ranges of these vectors, or calibration='stored'."
            )
        stored = _read_ranges(path, dimension)
        if stored is None:
            _store(path, spec, _ranges_of(spec, vectors) if self._given is None else self._given)
            stored = _read_ranges(path, dimension)  # another process may have been first
            if stored is None:
                raise MirrorWriteError(f"{path} was deleted while it was written. Run again.")
        if self._given is not None and not np.array_equal(stored, self._given):
            raise ConfigurationError(
                f"{path} holds other calibration ranges than those given, and vectors quantized by different ranges "
                "cannot be compared. Pass calibration='stored' to use the stored ranges, or delete the file."
            )
        return stored


def _folder(directory: Path, spec: EncoderSpec) -> Path:
    return directory / FOLDER / _encoder(spec).namespace


def _encoder(spec: EncoderSpec) -> EncoderSpec:
    return replace(spec, prompt="", role=None)


def _ranges_of(spec: EncoderSpec, vectors: NDArray[Any]) -> NDArray[np.float32]:
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


def _store(path: Path, spec: EncoderSpec, ranges: NDArray[np.float32]) -> None:
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
            f"Storing the calibration ranges {path} failed ({err}). Make room, use another directory, or pass "
            "calibration='call'."
        ) from err


def _read_ranges(path: Path, dimension: int) -> NDArray[np.float32] | None:
    """Return the ranges in a file, None if it does not exist.

    Raises:
        DamagedMirror: If it contains anything else.
    """
    check_folder(path.parent.parent, path.parent)
    try:
        data = read_plain(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError as err:
        raise DamagedMirror(f"The calibration ranges {path} are not a file ({err}). Move the folder away.") from err
    problem = f"has {len(data)} bytes"
    # The header is compared, not parsed, because a damaged one may claim any size.
    expected = _npy(np.zeros((2, dimension), np.float32))
    header = expected[: len(expected) - 2 * 4 * dimension]
    if len(data) == len(expected) and not data.startswith(header):
        problem = "has another header"
    elif len(data) == len(expected):
        ranges = np.frombuffer(data, np.float32, offset=len(header)).reshape(2, dimension)
        problem = _problem(ranges, dimension)
        if not problem:
            return ranges
    raise DamagedMirror(
        f"The calibration ranges {path} are damaged: the file {problem}. Delete it, and they are computed again; "
        "vectors that were quantized before cannot be compared with those that come then. Or pass calibration=ranges."
    )


def _problem(ranges: Any, dimension: int | None = None) -> str:
    """Return why a value does not hold ranges, "" if it does."""
    if not isinstance(ranges, np.ndarray) or ranges.dtype != np.float32 or ranges.ndim != 2 or len(ranges) != 2:
        return "is not a (2, d) array of numbers"
    if ranges.shape[1] == 0 or dimension not in (None, ranges.shape[1]):
        return f"has {ranges.shape[1]} dimensions"
    if not np.isfinite(ranges).all():
        return "holds NaN or infinity"
    return "" if (ranges[0] <= ranges[1]).all() else "has a minimum above the maximum"


def _npy(ranges: NDArray[np.float32]) -> bytes:
    file = io.BytesIO()
    np.save(file, ranges, allow_pickle=False)
    return file.getvalue()
