"""Column: a real .npy file that grows in place."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas_cache.errors import DamagedMirror
from cas_cache.mirror.column import Column

KINDS = [
    ("float16", (3,)),
    ("float32", (384,)),
    ("float64", (2, 5)),
    ("int8", (5,)),
    ("uint8", (32,)),
    ("bool", (7,)),
    ("uint64", ()),
    ("float32", tuple([1] * 40)),
]


def filled(count: int, dtype: str, shape: tuple[int, ...], seed: int = 0) -> Any:
    """Return random rows."""
    return np.random.default_rng(seed).integers(0, 2 if dtype == "bool" else 99, (count, *shape)).astype(dtype)


@pytest.mark.parametrize(("dtype", "shape"), KINDS, ids=str)
def test_opens_with_numpy_at_each_committed_moment(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    """After every commit, `np.load` maps exactly the committed rows, whether their number has 1 digit or 4."""
    column = Column(tmp_path / "c.npy", np.dtype(dtype), shape)
    rows = filled(1100, dtype, shape)
    done = 0
    for upto in (1, 9, 10, 11, 99, 100, 1000, 1100):
        column.write(done, rows[done:upto])
        column.set_rows(upto)
        done = upto
        loaded = np.load(column.path, mmap_mode="r")
        assert loaded.dtype == np.dtype(dtype)
        assert loaded.shape == (upto, *shape)
        assert np.array_equal(loaded, rows[:upto])
        assert np.array_equal(column.map(upto), rows[:upto])
        assert column.header_bytes % 64 == 0
        assert np.array_equal(np.load(column.path), rows[:upto])


def test_written_rows_do_not_exist_before_the_header_says_so(tmp_path: Path) -> None:
    """Between writing and committing, a reader sees the old rows; an earlier map never changes."""
    column = Column(tmp_path / "c.npy", np.dtype("f4"), (2,))
    column.write(0, filled(3, "f4", (2,)))
    column.set_rows(3)
    before = column.map(3)
    copy = np.array(before)
    column.write(3, filled(5, "f4", (2,), 1))
    assert np.load(column.path, mmap_mode="r").shape == (3, 2)
    column.set_rows(8)
    assert np.array_equal(before, copy)
    assert np.load(column.path, mmap_mode="r").shape == (8, 2)


def test_what_was_written_and_not_committed_is_written_over(tmp_path: Path) -> None:
    """A crash's leftovers, longer than the next write, are not part of the column."""
    column = Column(tmp_path / "c.npy", np.dtype("f4"), (2,))
    column.write(0, filled(2, "f4", (2,)))
    column.set_rows(2)
    column.write(2, np.full((50, 2), 7, "f4"))
    new = filled(1, "f4", (2,), 3)
    column.write(2, new)
    column.set_rows(3)
    assert np.array_equal(column.map(3)[2:], new)
    assert np.load(column.path, mmap_mode="r").shape == (3, 2)


def test_leftovers_of_another_kind_are_written_over(tmp_path: Path) -> None:
    """A crashed first append may have left a header of another dtype and shape."""
    Column(tmp_path / "c.npy", np.dtype("f8"), tuple([1] * 60)).write(0, np.zeros((2, *[1] * 60)))
    column = Column(tmp_path / "c.npy", np.dtype("f2"), (3,))
    column.write(0, filled(2, "f2", (3,)))
    column.set_rows(2)
    assert np.array_equal(np.load(column.path), filled(2, "f2", (3,)))


def test_is_mapped_read_only(tmp_path: Path) -> None:
    """A map cannot be used to change stored rows."""
    column = Column(tmp_path / "c.npy", np.dtype("f4"), (2,))
    column.write(0, filled(2, "f4", (2,)))
    column.set_rows(2)
    with pytest.raises(ValueError, match="read-only"):
        column.map(2)[0, 0] = 1


@pytest.mark.parametrize("damage", ["gone", "empty", "short", "header", "other dtype", "other shape", "not npy"])
def test_damage_is_an_error(tmp_path: Path, damage: str) -> None:
    """A file that is missing, truncated, or another array's is never mapped."""
    column = Column(tmp_path / "c.npy", np.dtype("f4"), (4,))
    column.write(0, filled(5, "f4", (4,)))
    column.set_rows(5)
    data = column.path.read_bytes()
    if damage == "gone":
        column.path.unlink()
    elif damage == "other dtype":
        np.save(column.path, np.zeros((5, 4), "i4"))
    elif damage == "other shape":
        np.save(column.path, np.zeros((10, 2), "f4"))
    else:
        column.path.write_bytes(
            {
                "empty": b"",
                "short": data[:-1],
                "header": data[:60] + b"?" + data[61:],
                "not npy": b"\0" * len(data),
            }[damage]
        )
    with pytest.raises(DamagedMirror, match=r"c\.npy"):
        column.map(5)
    assert column.map(0).shape == (0, 4)


@given(st.integers(0, 10**18 - 1), st.sampled_from(KINDS))
def test_header_keeps_its_length(rows: int, kind: tuple[str, tuple[int, ...]]) -> None:
    """For any number of rows, the header fits into its space, so rows never move."""
    column = Column(Path("c.npy"), np.dtype(kind[0]), kind[1])
    header = column._header(rows)
    assert len(header) == column.header_bytes
    assert column._is_own(header)
    assert header.endswith(b"\n")


def test_header_met_while_it_is_written_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers take no lock, so they may see half of the old header and half of the new; that is not damage."""
    column = Column(tmp_path / "c.npy", np.dtype("f4"), (4,))
    column.write(0, filled(100, "f4", (4,)))
    column.set_rows(100)
    at = column._header(100).index(b"100") + 3
    torn = column._header(100)[:at] + column._header(9)[at:]
    assert not column._is_own(torn)
    answers = iter([torn, torn])
    read = column._read_header
    monkeypatch.setattr(column, "_read_header", lambda: next(answers, None) or read())
    assert column.map(100).shape == (100, 4)
