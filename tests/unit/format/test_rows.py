"""Rows: the digest that proves a row, and what an encoder may answer."""

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cas_cache.errors import InvalidEncoderOutput, UnsupportedEncoderOutput
from cas_cache.format.rows import BLOCK_BYTES, DTYPES, as_array, digest_rows, finite_rows, row_bytes, storable
from naming import named

SHAPES = st.lists(st.integers(1, 7), min_size=1, max_size=3).map(tuple)


def reference(key: bytes, vector: bytes) -> int:
    """The digest of one row, from its definition alone."""

    def multipliers(seed: int = 0) -> Any:
        mask = 2**64 - 1
        while True:
            seed = (seed + 0x9E3779B97F4A7C15) & mask
            z = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & mask
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
            yield (z ^ (z >> 31)) | 1

    data = key + vector
    data += b"\0" * (-len(data) % 4)
    words = [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]
    return sum(m * w for m, w in zip(multipliers(), [len(vector), *words], strict=False)) % 2**64


def rows(count: int, dtype: str = "float32", shape: tuple[int, ...] = (6,), seed: int = 0) -> tuple[Any, Any]:
    """Keys and vectors of random bytes."""
    random = np.random.default_rng(seed)
    keys = random.integers(0, 256, (count, 32), dtype=np.uint8)
    width = row_bytes(np.dtype(dtype), shape)
    data = random.integers(0, 2 if dtype == "bool" else 256, (count, width), dtype=np.uint8)
    return keys, data.view(dtype).reshape(count, *shape)


def test_digest_vectors() -> None:
    """These digests are in people's packs: they never change."""
    keys = np.arange(64, dtype=np.uint8).reshape(2, 32)
    floats = np.array([[1.5, -2], [0, 3]], "<f4")
    odd = np.array([[1, -2, 3], [0, 0, 0]], "<i1")
    assert digest_rows(keys, floats).tolist() == [3889514106808384688, 12825460549359234992]
    assert digest_rows(keys, odd).tolist() == [10994587305815153388, 13897663946510494533]


@given(st.integers(0, 5), st.sampled_from(sorted(DTYPES)), SHAPES, st.integers(0, 2**32))
def test_digest_is_as_defined(count: int, dtype: str, shape: tuple[int, ...], seed: int) -> None:
    """Every dtype and width, also those that fill no whole word, has the digest of the definition."""
    keys, vectors = rows(count, dtype, shape, seed)
    digests = digest_rows(keys, vectors)
    assert digests.dtype == np.uint64
    assert digests.tolist() == [reference(k.tobytes(), v.tobytes()) for k, v in zip(keys, vectors, strict=True)]


@pytest.mark.parametrize(("dtype", "shape"), [("float16", (3,)), ("int8", (5,)), ("bool", (1,)), ("uint8", (7, 3))])
def test_digest_of_odd_widths(dtype: str, shape: tuple[int, ...]) -> None:
    """Rows that end inside a word are padded, not cut, and their length counts."""
    keys, vectors = rows(3, dtype, shape)
    assert digest_rows(keys, vectors).tolist() == [
        reference(k.tobytes(), v.tobytes()) for k, v in zip(keys, vectors, strict=True)
    ]
    flat = vectors.reshape(3, -1)
    longer = np.concatenate([flat, np.zeros((3, 1), flat.dtype)], axis=1)
    assert not (digest_rows(keys, longer) == digest_rows(keys, vectors)).any()


def test_digest_does_not_depend_on_the_batch() -> None:
    """A row has one digest, alone, among few, or across the blocks that are worked on at a time."""
    keys, vectors = rows(BLOCK_BYTES // (4 * (8 + 2048)) + 3, "float32", (2048,))
    whole = digest_rows(keys, vectors)
    for at in (0, 1, len(keys) - 4, len(keys) - 1):
        assert digest_rows(keys[at : at + 1], vectors[at : at + 1])[0] == whole[at]
    assert np.array_equal(digest_rows(keys[::2], vectors[::2]), whole[::2])


@pytest.mark.parametrize(("dtype", "shape"), [("float32", (4,)), ("float16", (3,)), ("int8", (5,))])
def test_digest_notices_every_flipped_bit(dtype: str, shape: tuple[int, ...]) -> None:
    """Each single bit of key and vector, flipped alone, shows."""
    keys, vectors = rows(1, dtype, shape)
    right = digest_rows(keys, vectors)[0]
    for array in (keys, vectors):
        data = array.reshape(-1).view(np.uint8)
        for at in range(len(data)):
            for bit in range(8):
                data[at] ^= 1 << bit
                assert digest_rows(keys, vectors)[0] != right
                data[at] ^= 1 << bit
    assert digest_rows(keys, vectors)[0] == right


@given(st.integers(0, 2**32), st.data())
def test_digest_notices_any_changed_byte(seed: int, data: st.DataObject) -> None:
    """A byte that becomes any other byte shows."""
    keys, vectors = rows(1, "float32", (9,), seed)
    right = digest_rows(keys, vectors)[0]
    target = data.draw(st.sampled_from([keys, vectors])).reshape(-1).view(np.uint8)
    target[data.draw(st.integers(0, len(target) - 1))] ^= data.draw(st.integers(1, 255))
    assert digest_rows(keys, vectors)[0] != right


def test_digest_notices_two_flipped_signs() -> None:
    """Two sign bits in a row sit at the top of their words, where a plain sum mod 2**32 would lose them."""
    keys, vectors = rows(1, "float32", (16,))
    right = digest_rows(keys, vectors)[0]
    for one in range(16):
        for other in range(one):
            changed = vectors.copy()
            changed[0, [one, other]] *= -1
            assert digest_rows(keys, changed)[0] != right


def test_digest_notices_swaps_and_zeros() -> None:
    """The row next door, two values exchanged within a row, and a zero fill all show."""
    keys, vectors = rows(50)
    right = digest_rows(keys, vectors)
    assert not (digest_rows(keys, np.roll(vectors, 1, axis=0)) == right).any()
    assert not (digest_rows(np.roll(keys, 1, axis=0), vectors) == right).any()
    assert not (digest_rows(keys, np.roll(vectors, 1, axis=1)) == right).any()
    assert not (digest_rows(keys, np.zeros_like(vectors)) == right).any()
    assert not (digest_rows(keys, np.full_like(vectors, -0.0)) == right).any()
    assert not (digest_rows(np.zeros_like(keys), np.zeros_like(vectors)) == 0).any()
    assert len(set(right.tolist())) == 50


def test_digest_covers_the_key() -> None:
    """One vector under two keys has two digests: texts that share a vector cannot share a row by accident."""
    keys = np.frombuffer(b"".join(hashlib.sha256(bytes([i])).digest() for i in range(20)), np.uint8).reshape(-1, 32)
    assert len(set(digest_rows(keys, np.ones((20, 4), np.float32)).tolist())) == 20


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_storable_keeps_values_and_dtype(dtype: str) -> None:
    """What is stored is what was given, in rows and little-endian."""
    _, vectors = rows(4, dtype, (2, 3))
    for given_ in (vectors, vectors.astype(vectors.dtype.newbyteorder(">")), np.asfortranarray(vectors)):
        stored = storable(given_, 4)
        assert stored.dtype == np.dtype(dtype).newbyteorder("<")
        assert stored.flags.c_contiguous
        assert stored.tobytes() == vectors.tobytes()


@pytest.mark.parametrize(
    ("vectors", "match"),
    [
        (np.zeros((3, 4)), "3 vectors came back for 4 items"),
        (np.zeros((5, 4)), "5 vectors came back for 4 items"),
        (np.zeros(4), "shape"),
        (np.zeros((4, 0)), "shape"),
        (np.zeros((4, 2, 0)), "shape"),
        (np.float32(1)[None][0:0], "shape"),
        (np.zeros(()), "shape"),
        (np.zeros((4, 2), dtype=object), "object"),
        (np.zeros((4, 2), dtype="U3"), "<U3"),
        (np.zeros((4, 2), dtype=complex), "complex"),
        (np.zeros((4, 2), dtype=np.longdouble), "float128|longdouble"),
        (np.zeros((4, 2), dtype="datetime64[s]"), "datetime"),
        (np.zeros((4, 2), dtype=[("a", "f4")]), "a"),
    ],
)
def test_storable_refuses_what_cannot_be_told_apart(vectors: Any, match: str) -> None:
    """A wrong number of rows, no row shape or another dtype stores nothing."""
    with pytest.raises(InvalidEncoderOutput, match=match):
        storable(vectors, 4)


def test_finite_rows() -> None:
    """A row with a NaN or an infinity anywhere is not finite; whole numbers always are."""
    vectors = np.ones((5, 2, 2), np.float16)
    vectors[1, 0, 1], vectors[2, 1, 1], vectors[4, 0, 0] = np.nan, np.inf, -np.inf
    assert finite_rows(vectors).tolist() == [True, False, False, True, False]
    assert finite_rows(np.ones((2, 3), np.int8)).tolist() == [True, True]
    assert finite_rows(np.ones((2, 3), np.bool_)).tolist() == [True, True]


def test_nothing_is_a_batch_too() -> None:
    """No rows have no digests, and are storable and finite."""
    empty = np.empty((0, 3), np.float32)
    assert digest_rows(np.empty((0, 32), np.uint8), empty).shape == (0,)
    assert finite_rows(empty).shape == (0,)
    assert storable(empty, 0).shape == (0, 3)


def test_as_array_of_numpy_is_itself() -> None:
    """An array passes untouched, whatever it holds; `storable` judges it."""
    for array in (np.zeros((2, 3), np.float16), np.zeros((2, 3), dtype=object)):
        assert as_array(array) is array


def test_as_array_of_lists() -> None:
    """Lists of vectors and of lists become one array, dtype kept."""
    vectors = [np.array([1, 2], np.float16), np.array([3, 4], np.float16)]
    assert as_array(vectors).dtype == np.float16
    assert as_array(tuple(vectors)).tolist() == [[1, 2], [3, 4]]
    assert as_array([[1.0, 2.0], [3.0, 4.0]]).tolist() == [[1, 2], [3, 4]]
    assert as_array([[[1, 2]], [[3, 4]]]).shape == (2, 1, 2)
    assert as_array([]).shape == (0,)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        {"dense": np.zeros((2, 2))},
        iter([np.zeros(2)]),
        [np.zeros(2), None],
        [np.zeros(2), np.zeros(3)],
        [[1.0], [1.0, 2.0]],
        [np.zeros(2), {"a": 1}],
    ],
    ids=named,
)
def test_as_array_refuses(answer: object) -> None:
    """Generators, mappings, holes and ragged rows are no matrix."""
    with pytest.raises(InvalidEncoderOutput):
        as_array(answer)


def test_as_array_says_what_is_wrong_inside_a_list() -> None:
    """An element that is no vector is not reported as a difference in shape."""
    with pytest.raises(InvalidEncoderOutput, match="NoneType"):
        as_array([np.zeros(2), None])
    with pytest.raises(InvalidEncoderOutput, match="differ in shape"):
        as_array([np.zeros(2), np.zeros(3)])


def test_text_is_no_vector() -> None:
    """Strings pass as scalars and end at the dtype."""
    with pytest.raises(InvalidEncoderOutput):
        storable(as_array([["a", "b"], ["c", "d"]]), 2)


def test_scipy_sparse_is_refused() -> None:
    """A sparse matrix has `shape` and `dtype` and is still no array."""
    from scipy import sparse

    with pytest.raises(UnsupportedEncoderOutput, match="sparse matrix"):
        as_array(sparse.eye(3, format="csr"))


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
def test_torch_tensors() -> None:
    """Tensors keep their dtype, bfloat16 widens to float32 exactly, and what NumPy cannot hold is our error."""
    import torch

    for name in ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"):
        tensor = torch.ones(2, 3, dtype=getattr(torch, name))
        assert as_array(tensor).dtype.name == name
        assert as_array([tensor, tensor]).shape == (2, 2, 3)
    half = torch.tensor([[1.0078125, -3.0], [0.1, 1e30]], dtype=torch.bfloat16)
    assert as_array(half).dtype == np.float32
    assert torch.equal(torch.from_numpy(as_array(half)).bfloat16(), half)
    assert as_array([half[0], half[1]]).dtype == np.float32
    assert as_array(torch.ones(2, 3, requires_grad=True) * 2).tolist() == [[2, 2, 2]] * 2
    assert storable(as_array(torch.arange(6.0).reshape(2, 3).T), 3).tolist() == [[0, 3], [1, 4], [2, 5]]
    eye = torch.eye(3)
    for sparse in (eye.to_sparse(), eye.to_sparse_csr(), [eye.to_sparse()[0]]):
        with pytest.raises(InvalidEncoderOutput, match="sparse"):
            as_array(sparse)
    for odd in (eye.to(torch.float8_e4m3fn), eye.to(torch.complex64).conj()):
        with pytest.raises(InvalidEncoderOutput, match="Convert it first"):
            as_array(odd)


@settings(max_examples=30)
@given(st.integers(1, 6), st.sampled_from(sorted(DTYPES)), SHAPES, st.integers(0, 2**32))
def test_stored_rows_are_digested_as_given(count: int, dtype: str, shape: tuple[int, ...], seed: int) -> None:
    """Layout and byte order of the answer change neither bytes nor digests."""
    keys, vectors = rows(count, dtype, shape, seed)
    turned = np.asfortranarray(vectors).astype(vectors.dtype.newbyteorder(">"))
    assert np.array_equal(digest_rows(keys, storable(turned, count)), digest_rows(keys, vectors))


def test_lists_of_numbers() -> None:
    """Lists of Python numbers, as services return them, are float32; ragged lists raise our error."""
    np.testing.assert_array_equal(as_array([[1.5, 2], [3, 4.0]]), np.array([[1.5, 2.0], [3.0, 4.0]]))
    assert as_array([[0.1] * 1536] * 3).dtype == np.float32
    with pytest.raises(InvalidEncoderOutput, match="differ in shape"):
        as_array([[1.0, 2.0], [3.0]])
