"""Rows: the form in which both sides store a vector, and the 64-bit digest that verifies a row.

Mirror and repository share this and identity, and nothing else. A row's digest covers its key and the bytes of its
vector. It detects a zero fill, a truncated range or a swapped neighbour, which no checksum of a complete object detects
once the rows have left that object. It does not protect against a forger; the SHA-256 of the objects does.

Definition (format version 1). Let ``w`` be the little-endian 32-bit words of ``key || vector bytes``, zero-padded to a
multiple of 4 bytes, ``L`` the number of vector bytes, and ``m`` the SplitMix64 sequence of seed 0 with every lowest bit
set. Then ``digest = m[0]*L + m[1]*w[0] + m[2]*w[1] + ... mod 2**64``: a multilinear hash. Every multiplier is odd, so a
change of one word is always detected. Words are 32 bits wide in a 64-bit sum, so that flipped sign bits (bit 31) do not
overflow; changes of several words pass only if a combination of multipliers vanishes mod 2**64.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.errors import ConfigurationError, InvalidEncoderOutput, UnsupportedEncoderOutput
from cas_cache.identity.keys import KEY_BYTES

if TYPE_CHECKING:
    from numpy.typing import NDArray

DTYPES = frozenset({
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32",
    "float64",
})  # fmt: skip
"""Dtypes of vectors: the fixed-size types that NumPy and Zarr name alike."""

KEY_AND_DIGEST_BYTES = KEY_BYTES + 8
"""Bytes of a row in addition to its vector."""

BLOCK_BYTES = 1 << 20
"""Bytes of rows that are digested at a time: their words, 64 bits wide, take twice that and stay in the CPU cache."""


@lru_cache(maxsize=8)
def _multipliers(count: int) -> NDArray[np.uint64]:
    """Return the first `count` outputs of SplitMix64 with seed 0, made odd."""
    z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))) | np.uint64(1)


def digest_rows(keys: NDArray[np.uint8], vectors: NDArray[Any]) -> NDArray[np.uint64]:
    """Return the digest of each row.

    Args:
        keys: (n, 32) uint8 keys.
        vectors: (n, *shape) vectors of a little-endian dtype, C-contiguous.

    Returns:
        (n,) uint64 digests.
    """
    count = len(keys)
    width = row_bytes(vectors.dtype, vectors.shape[1:])
    words = KEY_BYTES // 4 + -(-width // 4)
    factors = _multipliers(words + 1)
    of_key, of_vector = np.split(factors[1:], [KEY_BYTES // 4])
    keys = np.ascontiguousarray(keys)
    data = np.ascontiguousarray(vectors).reshape(-1).view(np.uint8).reshape(count, width)
    # The sum is modulo 2**64, so the product of two Python ints is reduced explicitly.
    constant = np.uint64(int(factors[0]) * width % 2**64)
    digests = np.empty(count, np.uint64)
    step = max(1, BLOCK_BYTES // (4 * words))
    for start in range(0, count, step):
        stop = min(start + step, count)
        # A key is a whole number of words, so it need not be joined with the vector, which would copy every vector.
        digests[start:stop] = _words(keys[start:stop]) @ of_key + _words(data[start:stop]) @ of_vector + constant
    return digests


def _words(data: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the little-endian 32-bit words of each row of bytes, zero-padded to a whole number of words."""
    padding = -data.shape[1] % 4
    if padding:
        data = np.pad(data, ((0, 0), (0, padding)))
    return data.view("<u4").astype(np.uint64)


def row_bytes(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    """Return the size of one vector in bytes."""
    return dtype.itemsize * math.prod(shape)


def as_array(answer: Any, dtype: Any = None) -> NDArray[Any]:
    """Return an encoder's output as a NumPy array, dtype unchanged; torch's bfloat16, which NumPy lacks, as float32.

    Args:
        answer: A NumPy array, a torch tensor (duck-typed, on any device), or a list of vectors.
        dtype: The dtype of lists of Python numbers, whole or not; None for float32. Services return such lists, and
            Python's float64 only reflects how JSON is read, not how the vectors were made. Arrays and tensors keep
            theirs.

    Raises:
        InvalidEncoderOutput: If it is none of these, or has a dtype that NumPy lacks.
        UnsupportedEncoderOutput: If it is sparse, or its vectors differ in shape.
    """
    if hasattr(answer, "detach"):
        answer = _tensor_to_array(answer)
    elif isinstance(answer, list | tuple) and all(_is_number_list(row) for row in answer):
        answer = _numbers_to_array(answer, dtype)
    elif isinstance(answer, list | tuple):
        try:
            answer = np.stack([as_array(row, dtype) for row in answer])
        except InvalidEncoderOutput:
            raise
        except ValueError as err:
            raise UnsupportedEncoderOutput(
                f"The encoder's vectors differ in shape ({err}). Return vectors of one shape."
            ) from err
    elif type(answer) in (float, int):
        answer = _numbers_to_array(answer, dtype)
    elif np.isscalar(answer):
        answer = np.asarray(answer)
    if type(answer).__module__.startswith("scipy.sparse"):
        raise UnsupportedEncoderOutput(
            "The encoder returned a sparse matrix, which is not cached. Densify it first, with .toarray()."
        )
    if not isinstance(answer, np.ndarray) or isinstance(answer, np.ma.MaskedArray):
        raise InvalidEncoderOutput(
            f"The encoder returned a {type(answer).__module__}.{type(answer).__qualname__}. Return a NumPy array or a "
            "torch tensor, one vector for each item."
        )
    return answer


def _is_number_list(row: Any) -> bool:
    """Return True for a list of plain numbers, which services return and which is converted quickly as a whole."""
    return type(row) in (list, tuple) and all(type(value) in (float, int) for value in row)


def _numbers_to_array(rows: Any, dtype: Any) -> NDArray[Any]:
    """Return an array of Python numbers; raise an error for a dtype that would change their values."""
    dtype = checked_dtype(dtype)
    try:
        if dtype.kind == "f":
            return np.asarray(rows, dtype)
        exact = np.asarray(rows)
        with np.errstate(invalid="ignore"):
            array = exact.astype(dtype)
    except (ValueError, OverflowError) as err:
        raise UnsupportedEncoderOutput(
            f"The encoder's vectors differ in shape ({err}). Return vectors of one shape."
        ) from err
    if (array != exact).any():
        raise InvalidEncoderOutput(
            f"The encoder returned lists of numbers that are not {dtype} numbers. Nothing of them was stored. Pass "
            "another dtype=, or none for float32."
        )
    return array


def checked_dtype(dtype: Any) -> np.dtype[Any]:
    """Return the dtype of vectors that come as lists of Python numbers; float32 for None.

    Raises:
        ConfigurationError: If vectors of this dtype cannot be stored.
    """
    try:
        checked = np.dtype(np.float32 if dtype is None else dtype)
    except TypeError as err:
        raise ConfigurationError(
            f"dtype={dtype!r} is not a NumPy dtype ({err}). Pass one of {sorted(DTYPES)}."
        ) from err
    if checked.name not in DTYPES:
        raise ConfigurationError(f"Vectors of dtype {checked} cannot be stored. Pass one of {sorted(DTYPES)}.")
    return checked


def _tensor_to_array(tensor: Any) -> Any:
    if str(getattr(tensor, "layout", "torch.strided")) != "torch.strided":
        raise UnsupportedEncoderOutput("The encoder returned a sparse tensor, which is not cached. Densify it first.")
    tensor = tensor.detach().cpu()
    try:
        return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    except (TypeError, RuntimeError) as err:
        raise InvalidEncoderOutput(
            f"The encoder returned a tensor of {tensor.dtype} that NumPy cannot hold ({err}). Convert it first, for "
            "example with .float()."
        ) from err


def storable(vectors: NDArray[Any], rows: int) -> NDArray[Any]:
    """Return `vectors` in the stored form: C-contiguous and little-endian, values and dtype unchanged.

    Args:
        vectors: (rows, *shape) vectors of a dtype in `DTYPES`.
        rows: Required number of rows.

    Raises:
        InvalidEncoderOutput: If the number of rows differs, rows have no shape, or the dtype cannot be stored.
    """
    if vectors.ndim < 2 or 0 in vectors.shape[1:]:
        raise InvalidEncoderOutput(
            f"An array of shape {vectors.shape} came back for {rows} items; expected ({rows}, d). "
            "Nothing of it was stored. Return one vector for each item."
        )
    if len(vectors) != rows:
        raise InvalidEncoderOutput(
            f"{len(vectors)} vectors came back for {rows} items. Nothing of them was stored, because there is no "
            "telling which vector belongs to which item. Return one vector for each item, in the order asked for."
        )
    if vectors.dtype.name not in DTYPES:
        raise InvalidEncoderOutput(f"Vectors of dtype {vectors.dtype} cannot be stored; use one of {sorted(DTYPES)}.")
    return np.ascontiguousarray(vectors, vectors.dtype.newbyteorder("<"))


def finite_rows(vectors: NDArray[Any]) -> NDArray[np.bool_]:
    """Return an (n,) bool mask of the rows that hold neither NaN nor an infinity."""
    if vectors.dtype.kind != "f":
        return np.ones(len(vectors), np.bool_)
    finite: NDArray[np.bool_] = np.isfinite(vectors).all(axis=tuple(range(1, vectors.ndim)))
    return finite
