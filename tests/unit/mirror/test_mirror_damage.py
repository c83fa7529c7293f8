"""Damage: files changed after they were committed cause an error or a miss, never a wrong vector."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cas_cache.errors import DamagedMirror, UnsupportedFormat
from cas_cache.identity import EncoderSpec
from cas_cache.mirror import Mirror, Namespace
from cas_cache.mirror.index import ABSENT
from mirror_rows import OTHER, SPEC, keys_for, vectors_for
from tiers import sampled

COLUMNS = ["vectors.npy", "keys.npy", "digests.npy"]
ITEMS = 60


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of a namespace of 60 rows, in a mirror with a second namespace of the same size."""
    mirror = Mirror(tmp_path)
    for spec, items in ((SPEC, range(ITEMS)), (OTHER, range(1000, 1000 + ITEMS))):
        keys = keys_for(items)
        mirror.namespace(spec).append(keys, vectors_for(keys))
    return mirror.namespace(SPEC).folder


def opened(folder: Path) -> Namespace:
    """Return the namespace, from a newly opened mirror."""
    return Mirror(folder.parent.parent).namespace(SPEC)


def outcome(folder: Path) -> str:
    """Request each item alone and all at once; check that nothing wrong is served, and return the outcome."""
    keys = keys_for(range(ITEMS))
    seen = set()
    for wanted in (keys, *keys[:, None]):
        try:
            ns = opened(folder)
            rows = ns.find(wanted)
            found = rows != ABSENT
            vectors = ns.take(rows[found])
        except DamagedMirror:
            seen.add("damage")
        else:
            if found.any():
                assert np.array_equal(vectors, vectors_for(wanted[found])), "a wrong vector was served"
            seen.add("whole" if found.all() else "miss")
    return " ".join(sorted(seen))


def flipped(path: Path, at: int, mask: int = 0x40) -> None:
    """Flip bits of a byte of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= mask
    path.write_bytes(data)


def test_no_damage(folder: Path) -> None:
    """Without damage, all rows are served."""
    assert outcome(folder) == "whole"


@pytest.mark.parametrize(
    ("name", "expected"), sampled([("vectors.npy", "damage"), ("keys.npy", "miss"), ("digests.npy", "damage")], keep=3)
)
@pytest.mark.parametrize("row", [0, 31, ITEMS - 1])
def test_a_flipped_bit(folder: Path, name: str, expected: str, row: int) -> None:
    """The damaged row is not served, its neighbours still are."""
    path = folder / name
    width = (path.stat().st_size - 128) // ITEMS
    flipped(path, 128 + row * width + width // 2)
    seen = outcome(folder)
    assert expected in seen
    assert "whole" in seen
    with_neighbours = opened(folder).find(keys_for([row, (row + 1) % ITEMS]))
    assert np.array_equal(opened(folder).take(with_neighbours[1:]), vectors_for(keys_for([(row + 1) % ITEMS]))), (
        "the row next door is fine"
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from([*COLUMNS, "state.json", "spec.json"]), data=st.data())
def test_any_flipped_byte_anywhere(folder: Path, name: str, data: st.DataObject) -> None:
    """Whichever byte of header, rows, state or spec changes, nothing wrong is served."""
    path = folder / name
    whole = path.read_bytes()
    try:
        flipped(path, data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(1, 255)))
        keys = keys_for(range(ITEMS))
        try:
            ns = opened(folder)
            rows = ns.find(keys)
            found = rows != ABSENT
            assert np.array_equal(ns.take(rows[found]), vectors_for(keys[found]).reshape(-1, *ns.shape))
        except (DamagedMirror, UnsupportedFormat):
            pass
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("size", sampled([0, 50, 128, 128 + 100, -1], keep=5))
def test_a_cut_column(folder: Path, name: str, size: int) -> None:
    """A truncated column is detected before a map could reach beyond it."""
    path = folder / name
    path.write_bytes(path.read_bytes()[:size])
    assert outcome(folder) == "damage"
    with pytest.raises(DamagedMirror):
        opened(folder).append(keys_for([1]), vectors_for(keys_for([1])))


@pytest.mark.parametrize("name", COLUMNS)
def test_a_deleted_column(folder: Path, name: str) -> None:
    """A missing column is damage, for readers and writers."""
    (folder / name).unlink()
    assert outcome(folder) == "damage"
    with pytest.raises(DamagedMirror):
        opened(folder).append(keys_for([999]), vectors_for(keys_for([999])))


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_filled_with_zeros(folder: Path, name: str) -> None:
    """The length and header are right but the rows are zeros, as some file systems leave them after a power failure."""
    path = folder / name
    path.write_bytes(path.read_bytes()[:128] + bytes(path.stat().st_size - 128))
    assert outcome(folder) == ("miss" if name == "keys.npy" else "damage")


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_of_another_namespace(folder: Path, name: str) -> None:
    """The dtype, shape and length are the same, but the rows are others."""
    shutil.copy(Mirror(folder.parent.parent).namespace(OTHER).folder / name, folder / name)
    assert outcome(folder) == ("miss" if name == "keys.npy" else "damage")


@pytest.mark.parametrize(("one", "other"), [(0, 1), (0, 2), (1, 2)])
def test_columns_that_changed_names(folder: Path, one: int, other: int) -> None:
    """Each column knows its own header."""
    a, b = folder / COLUMNS[one], folder / COLUMNS[other]
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)
    assert outcome(folder) == "damage"


@pytest.mark.parametrize("name", ["vectors.npy", "digests.npy"])
def test_rows_that_changed_places(folder: Path, name: str) -> None:
    """Rows shifted by one, as a lost write would do, are other keys' rows."""
    column = np.load(folder / name, mmap_mode="r+")
    column[:] = np.roll(np.array(column), 1, axis=0)
    column.flush()
    assert outcome(folder) == "damage"


def test_keys_that_changed_places(folder: Path) -> None:
    """Keys shifted by one find their neighbours' rows, whose digests do not match."""
    column = np.load(folder / "keys.npy", mmap_mode="r+")
    column[:] = np.roll(np.array(column), 1, axis=0)
    column.flush()
    assert outcome(folder) == "damage"


def test_keys_and_vectors_that_changed_places_together_are_right(folder: Path) -> None:
    """The digest covers key and vector, not the position, so rows that moved as a whole are still right."""
    for name in COLUMNS:
        column = np.load(folder / name, mmap_mode="r+")
        column[:] = np.roll(np.array(column), 1, axis=0)
        column.flush()
    assert outcome(folder) == "whole"


@pytest.mark.parametrize(
    "garbage",
    [b"", b"{}", b"null", b"\xff\x00", b'{"version":1}', b'{"version":1,"rows":60}'],
    ids=repr,
)
def test_a_garbage_state(folder: Path, garbage: bytes) -> None:
    """A state cannot be guessed from columns: the namespace is damaged, and its neighbour is not."""
    (folder / "state.json").write_bytes(garbage)
    assert outcome(folder) == "damage"
    other = Mirror(folder.parent.parent).namespace(OTHER)
    keys = keys_for(range(1000, 1000 + ITEMS))
    assert np.array_equal(other.take(other.find(keys)), vectors_for(keys))


def test_a_state_that_says_more_than_there_is(folder: Path) -> None:
    """Rows that the files do not have are damage, not zeros."""
    path = folder / "state.json"
    path.write_bytes(path.read_bytes().replace(b'"rows":60', b'"rows":61').replace(b"[0,60,", b"[0,61,"))
    assert outcome(folder) == "damage"


def test_a_state_that_says_less_loses_rows_and_invents_none(folder: Path) -> None:
    """An older state is an older mirror: its rows are right, and the others are misses."""
    path = folder / "state.json"
    path.write_bytes(path.read_bytes().replace(b'"rows":60', b'"rows":20').replace(b"[0,60,", b"[0,20,"))
    assert outcome(folder) == "miss whole"


@pytest.mark.parametrize(
    ("dtype", "shape"), [("int32", "[24]"), ("float32", "[6,4]"), ("float64", "[12]"), ("int8", "[96]")]
)
def test_a_state_of_another_kind(folder: Path, dtype: str, shape: str) -> None:
    """The same bytes read as another dtype or shape would match their digests, but the column's header does not."""
    path = folder / "state.json"
    text = path.read_text()
    path.write_text(text.replace('"float32"', f'"{dtype}"').replace("[24]", shape))
    assert path.read_text() != text
    assert outcome(folder) == "damage"


def test_columns_and_state_of_another_namespace(folder: Path) -> None:
    """All files but the spec come from another encoder with the same items: digests match, but no vector is right."""
    other = Mirror(folder.parent.parent).namespace(OTHER)
    keys = keys_for(range(ITEMS))
    other.append(keys, vectors_for(keys) + 1)
    for name in (*COLUMNS, "state.json"):
        shutil.copy(other.folder / name, folder / name)
    assert outcome(folder) == "damage"


def test_a_deleted_state_is_an_honest_miss(folder: Path) -> None:
    """Without a state nothing is committed, and appending starts from the beginning."""
    (folder / "state.json").unlink()
    assert outcome(folder) == "miss"
    keys = keys_for(range(5, ITEMS))
    assert opened(folder).append(keys, vectors_for(keys)) == len(keys)
    assert outcome(folder) == "miss whole"


def test_a_newer_state_is_refused(folder: Path) -> None:
    """Rows of a newer version are not read by this version."""
    path = folder / "state.json"
    path.write_bytes(path.read_bytes().replace(b'"version":1', b'"version":2'))
    with pytest.raises(UnsupportedFormat, match="Update"):
        opened(folder)


def test_the_spec_of_another_namespace(folder: Path) -> None:
    """A folder whose name is not the id of its spec serves nothing."""
    (folder / "spec.json").write_bytes(OTHER.canonical())
    with pytest.raises(DamagedMirror, match=OTHER.namespace):
        Mirror(folder.parent.parent).get(SPEC.namespace)
    with pytest.raises(DamagedMirror):
        opened(folder)
    with pytest.raises(DamagedMirror):
        Mirror(folder.parent.parent).namespaces()


@pytest.mark.parametrize("garbage", [b"", b"{}", b"\xff", b"null", SPEC.canonical() + b"\n", SPEC.canonical()[:-1]])
def test_a_garbage_spec(folder: Path, garbage: bytes) -> None:
    """A spec that is not canonical is damage, not another namespace."""
    (folder / "spec.json").write_bytes(garbage)
    with pytest.raises(DamagedMirror, match=r"spec\.json"):
        Mirror(folder.parent.parent).get(SPEC.namespace)


def test_a_renamed_folder(folder: Path) -> None:
    """Renaming a folder cannot give its rows to another encoder."""
    other = EncoderSpec(model="org/third", revision="1")
    folder.rename(folder.parent / other.namespace)
    with pytest.raises(DamagedMirror):
        Mirror(folder.parent.parent).namespace(other)
    assert Mirror(folder.parent.parent).get(SPEC.namespace) is None


def test_a_deleted_spec_is_written_again(folder: Path) -> None:
    """The folder's name identifies the rows: without the document they are not listed, with it they return."""
    (folder / "spec.json").unlink()
    mirror = Mirror(folder.parent.parent)
    assert mirror.get(SPEC.namespace) is None
    assert [ns.spec for ns in mirror.namespaces()] == [OTHER]
    assert outcome(folder) == "whole"


@pytest.mark.parametrize(
    "change", [lambda f: flipped(f / "vectors.npy", 200), lambda f: flipped(f / "digests.npy", 130)]
)
def test_damage_is_never_shared(folder: Path, change: Callable[[Path], None]) -> None:
    """A row that does not match its digest is not read for a push either."""
    change(folder)
    ns = opened(folder)
    (plan,) = ns.ledger.plan(1000)
    with pytest.raises(DamagedMirror, match="do not agree"):
        ns.read(plan, "vectors", 0, plan.rows)


def test_the_error_names_the_rows_and_the_way_out(folder: Path) -> None:
    """The message says how many rows are damaged, which, where, and what to do."""
    for row in (7, 9):
        flipped(folder / "vectors.npy", 128 + row * 96)
    ns = opened(folder)
    with pytest.raises(DamagedMirror, match=r"2 rows of .* the first is row 7.*cas-cache pull"):
        ns.take(np.arange(ITEMS))
    assert np.array_equal(ns.take(np.array([0, 8])), vectors_for(keys_for([0, 8])))
    with pytest.raises(DamagedMirror, match="1 rows"):
        ns.take(np.array([9, 8]))


def test_a_row_proved_once_is_not_proved_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verification reads a row's bytes once per process."""
    from cas_cache.mirror import rows

    digested: list[int] = []
    original = rows.digest_rows

    def counting(keys: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        digested.append(len(keys))
        return original(keys, vectors)

    monkeypatch.setattr(rows, "digest_rows", counting)
    ns = opened(folder)
    for asked in ([1, 2, 3], [3, 3, 2], [3, 4], list(range(ITEMS))):
        ns.take(np.array(asked))
    assert digested == [3, 1, ITEMS - 4]
