"""Manifests: they read back as written, and nothing else is accepted as one."""

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas_cache.errors import UnsupportedFormat
from cas_cache.format.manifest import ARRAYS, Manifest, ObjectRecord, pack_id
from cas_cache.format.rows import DTYPES

SHA = "c0" * 32


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    rows = draw(st.integers(1, 50))
    facts: dict[str, Any] = {
        "namespace": draw(st.text("0123456789abcdef", min_size=32, max_size=32)),
        "rows": rows,
        "dtype": draw(st.sampled_from(sorted(DTYPES))),
        "shape": tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))),
        "chunk_rows": {array: draw(st.integers(1, rows)) for array in ARRAYS},
        "nonce": draw(st.text("0123456789abcdef", min_size=32, max_size=64)),
        "supersedes": tuple(draw(st.lists(st.text("0123456789abcdef", min_size=64, max_size=64), max_size=2))),
    }
    draft = Manifest(objects={}, **facts)
    objects = {name: ObjectRecord(draw(st.integers(0, 999)), SHA) for name in ("zarr.json", "keys/zarr.json")}
    for array in ARRAYS:
        dtype, shape = draft.element_shape(array)
        size = dtype.itemsize * facts["chunk_rows"][array]
        for extent in shape:
            size *= extent
        objects |= {name: ObjectRecord(size, SHA) for name, _, _ in draft.chunks(array)}
    return Manifest(objects=objects, **facts)


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.sampled_from([2**60, 2**63, 2**64, -(2**60), 10**400, 1.5, 1e300]),
    st.sampled_from(["", "../x", "x\ny", "0" * 31, "G" * 32, "float32", "object", "O", "float128"]),
    st.lists(st.integers(0, 3), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value inside a document."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    found = []
    for key, value in items:
        found.append((*path, key))
        if isinstance(value, dict | list):
            found += places(value, (*path, key))
    return found


def changed(document: Any, path: tuple[Any, ...], value: Any) -> bytes:
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return json.dumps(document).encode()


@given(manifests())
def test_round_trip(manifest: Manifest) -> None:
    """A manifest reads back equal, and is written again as the same bytes."""
    data = manifest.to_bytes()
    again = Manifest.from_bytes(data)
    assert again == manifest
    assert again.to_bytes() == data


@given(manifests())
def test_chunks_cover_the_rows_once(manifest: Manifest) -> None:
    """The chunks of each array are its rows in order, without gaps or overlaps."""
    for array in ARRAYS:
        at = 0
        for name, start, stop in manifest.chunks(array):
            assert (start, name.split("/")[0]) == (at, array)
            assert 0 < stop - start <= manifest.chunk_rows[array]
            at = stop
        assert at == manifest.rows


@given(manifests(), JUNK, st.data())
def test_a_changed_value_is_refused_or_harmless(manifest: Manifest, junk: Any, data: st.DataObject) -> None:
    """Whatever one value becomes, reading returns a consistent manifest or raises one of the two errors."""
    document = json.loads(manifest.to_bytes())
    path = data.draw(st.sampled_from(places(document)))
    try:
        read = Manifest.from_bytes(changed(document, path, junk))
    except (ValueError, UnsupportedFormat):
        return
    assert sum(len(read.chunks(array)) for array in ARRAYS) <= len(read.objects)
    assert all(read.objects[name].size > 0 for array in ARRAYS for name, _, _ in read.chunks(array))


@given(manifests(), st.data())
def test_a_missing_field_is_refused(manifest: Manifest, data: st.DataObject) -> None:
    """No field has a default, except the list of features."""
    document = json.loads(manifest.to_bytes())
    field = data.draw(st.sampled_from(sorted(set(document) - {"features"})))
    del document[field]
    with pytest.raises(UnsupportedFormat if field == "version" else ValueError):
        Manifest.from_bytes(json.dumps(document).encode())


@given(manifests(), st.data())
def test_a_missing_chunk_is_refused(manifest: Manifest, data: st.DataObject) -> None:
    """A manifest that names fewer chunks than its rows need is invalid."""
    document = json.loads(manifest.to_bytes())
    chunks = [name for name in document["objects"] if not name.endswith("zarr.json")]
    del document["objects"][data.draw(st.sampled_from(chunks))]
    with pytest.raises(ValueError, match=r"objects|chunks"):
        Manifest.from_bytes(json.dumps(document).encode())


@given(manifests(), st.sampled_from(["../x", "/etc/passwd", "keys/../../x", "keys/c/0/../1", "", "other/c/0", "a\0b"]))
def test_object_names_that_are_paths_elsewhere_are_refused(manifest: Manifest, name: str) -> None:
    """No name in a manifest can lead a reader out of the pack."""
    document = json.loads(manifest.to_bytes())
    document["objects"][name] = {"size": 1, "sha256": SHA}
    with pytest.raises(ValueError, match="is not an object of a pack"):
        Manifest.from_bytes(json.dumps(document).encode())


@pytest.mark.parametrize("rows", [2**60, 2**62, 2**63 - 1, 2**63, 10**30])
def test_huge_row_counts_cost_nothing(rows: int) -> None:
    """A manifest that claims more rows than its objects can hold is refused before anything is counted out."""
    manifest = Manifest(
        namespace="0" * 32,
        rows=1,
        dtype="float32",
        shape=(2,),
        chunk_rows=dict.fromkeys(ARRAYS, 1),
        objects={
            "keys/c/0/0": ObjectRecord(32, SHA),
            "vectors/c/0/0": ObjectRecord(8, SHA),
            "digests/c/0": ObjectRecord(8, SHA),
        },
        nonce="0" * 32,
    )
    document = json.loads(manifest.to_bytes())
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest
    document["rows"] = rows
    with pytest.raises(ValueError, match=r"chunks of keys|count"):
        Manifest.from_bytes(json.dumps(document).encode())
    document["chunk_rows"] = dict.fromkeys(ARRAYS, rows)
    with pytest.raises(ValueError, match=r"with \d+ bytes|count"):
        Manifest.from_bytes(json.dumps(document).encode())


@pytest.mark.parametrize(
    "data",
    [b"", b"null", b"[]", b"3", b'"x"', b"{", b"\xff\xfe", b"{}", b"[" * 200_000, b'{"format":' * 50_000, b"9" * 5000],
    ids=range(11),
)
def test_other_bytes_are_refused(data: bytes) -> None:
    """Bytes that are not one of our JSON objects, however deep, are a ValueError."""
    with pytest.raises(ValueError, match=r".+"):
        Manifest.from_bytes(data)


def test_many_dimensions_are_refused_at_once() -> None:
    """A shape of 200,000 huge dimensions is refused by its length, before it is multiplied out."""
    document = {
        "format": "cas-cache-pack", "version": 1, "namespace": "0" * 32, "rows": 1, "dtype": "int8",
        "shape": [2**62] * 200_000, "chunk_rows": dict.fromkeys(ARRAYS, 1), "objects": {}, "supersedes": [],
        "nonce": "0" * 32,
    }  # fmt: skip
    with pytest.raises(ValueError, match="dimensions"):
        Manifest.from_bytes(json.dumps(document).encode())


@given(manifests(), st.sampled_from([0, 2, "1", None, 2**70]))
def test_other_versions_are_unsupported(manifest: Manifest, version: Any) -> None:
    """Another version is told apart from damage, whatever else the document has."""
    data = changed(json.loads(manifest.to_bytes()), ("version",), version)
    with pytest.raises(UnsupportedFormat, match="Update cas_cache"):
        Manifest.from_bytes(data)
    with pytest.raises(UnsupportedFormat):
        Manifest.from_bytes(json.dumps({"format": "cas-cache-pack", "version": version}).encode())


@given(manifests())
def test_unknown_features_are_unsupported(manifest: Manifest) -> None:
    """A feature that this version does not know is named in the error."""
    data = changed(json.loads(manifest.to_bytes()), ("features",), ["ragged"])
    with pytest.raises(UnsupportedFormat, match="ragged"):
        Manifest.from_bytes(data)


@given(manifests())
def test_unguarded_new_fields_are_passed_over(manifest: Manifest) -> None:
    """A later version may add fields without a feature; this version ignores them."""
    assert Manifest.from_bytes(changed(json.loads(manifest.to_bytes()), ("made_by",), "x")) == manifest


@given(manifests())
def test_the_id_is_the_hash_of_the_bytes(manifest: Manifest) -> None:
    """A pack's id is the hex SHA-256 of its manifest as stored."""
    assert pack_id(manifest.to_bytes()) == hashlib.sha256(manifest.to_bytes()).hexdigest()
