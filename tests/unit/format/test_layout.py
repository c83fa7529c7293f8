"""Paths: every built path parses back, and nothing else parses or escapes the root."""

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas_cache.format import layout

NAMESPACES = st.text("0123456789abcdef", min_size=32, max_size=32)
PACKS = st.text("0123456789abcdef", min_size=64, max_size=64)
ARRAYS = st.sampled_from(["keys", "vectors", "digests"])
OBJECTS = st.one_of(
    st.sampled_from(["zarr.json", "keys/zarr.json", "vectors/zarr.json", "digests/zarr.json"]),
    st.builds(layout.chunk_name, ARRAYS, st.integers(0, 10**6), st.integers(1, 5)),
)
FOREIGN = st.one_of(
    st.text(max_size=80),
    st.text("0123456789abcdefABCDEF./\\\n", max_size=120),
    st.sampled_from(
        ["..", "../x", "keys/../x", "/zarr.json", "keys//c/0", "keys/c/00", "keys/c/0\n", "zarr.json/", "c"]
    ),
)


@given(NAMESPACES, PACKS)
def test_manifest_paths_parse_back(namespace: str, pack: str) -> None:
    """A manifest's path parses back to the two ids that it was built from."""
    path = layout.manifest_path(namespace, pack)
    assert layout.parse_manifest_path(path) == (namespace, pack)
    assert path.startswith(layout.manifests_prefix(namespace) + "/")
    assert path.startswith(layout.manifests_prefix() + "/")


@given(NAMESPACES, PACKS, OBJECTS)
def test_built_paths_are_distinct_and_plain(namespace: str, pack: str, name: str) -> None:
    """Every path is below the root, in normal form, and different from every other kind of path."""
    paths = [
        layout.MARKER,
        layout.spec_path(namespace),
        layout.manifest_path(namespace, pack),
        layout.object_path(pack, name),
    ]
    assert len(set(paths)) == len(paths)
    for path in paths:
        assert posixpath.normpath(path) == path
        assert not path.startswith(("/", ".."))
    assert [path for path in paths if layout.parse_manifest_path(path)] == [paths[2]]
    assert layout.is_object_name(name)


@given(FOREIGN, NAMESPACES, PACKS)
def test_foreign_names_never_become_paths(name: str, namespace: str, pack: str) -> None:
    """Every builder refuses names that are not ids or object names, and no foreign path parses."""
    for wrong in (name, name + namespace, pack + name, namespace.upper() + name, "../" + pack):
        if wrong not in (namespace, pack) and not (len(wrong) in (32, 64) and set(wrong) <= set("0123456789abcdef")):
            for build in (layout.spec_path, layout.manifests_prefix):
                with pytest.raises(ValueError, match="is not a namespace id"):
                    build(wrong)
            with pytest.raises(ValueError, match="is not a pack id"):
                layout.object_path(wrong, "zarr.json")
            assert layout.parse_manifest_path(wrong) is None
            assert layout.parse_manifest_path(f"manifests/{namespace}/{wrong}.json") is None
            assert layout.parse_manifest_path(f"manifests/{wrong}/{pack}.json") is None


@given(FOREIGN, PACKS)
def test_object_names_cannot_leave_their_pack(name: str, pack: str) -> None:
    """A name is either an object's and stays below the pack, or it is refused."""
    if layout.is_object_name(name):
        assert posixpath.normpath(layout.object_path(pack, name)).startswith(f"packs/{pack}/")
    else:
        with pytest.raises(ValueError, match="is not a valid object name"):
            layout.object_path(pack, name)


def test_paths_of_manifests_need_their_exact_form() -> None:
    """Paths similar to a manifest's are foreign: upper case, more folders, other endings, a newline."""
    path = layout.manifest_path("0" * 32, "a" * 64)
    for foreign in (path + "\n", path.upper(), "x/" + path, path + ".tmp", path.replace("/", "//", 1), "/" + path):
        assert layout.parse_manifest_path(foreign) is None
