"""Exports, read back with the libraries that they are for."""

import json
import resource
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from mteb.models.cache_wrappers import CachedEmbeddingWrapper as MtebWrapper
from mteb.models.cache_wrappers.cache_backends import NumpyCache

from cas_cache import EmbeddingCache, EncoderSpec
from cas_cache.errors import ConfigurationError, DamagedMirror, MirrorError, MirrorWriteError, MissingDependency
from cas_cache.identity import keys_of_texts
from cas_cache.interop import FORMATS, Selection, export, import_mteb, select_namespace, select_views
from cas_cache.mirror import Mirror, View, ids_in
from cas_cache.mteb import CachedEmbeddingWrapper
from mteb_encoders import HashEncoder
from mteb_tasks import loader, metadata
from storages import SPEC, texts, truth

COUNT = 25
TEXTS = texts(COUNT)
KEYS = keys_of_texts(TEXTS)
HEX = [row.tobytes().hex() for row in KEYS]
DTYPES = ["float32", "float16", "float64", "int8", "uint8", "int64", "bool"]


def mirror_of(directory: Path, dtype: str = "float32", spec: EncoderSpec = SPEC) -> Mirror:
    """Return a mirror that holds the true vectors of the texts."""
    EmbeddingCache(directory).put(TEXTS, truth(TEXTS, dtype), spec)
    return Mirror(directory)


def all_of(directory: Path, dtype: str = "float32", spec: EncoderSpec = SPEC) -> Selection:
    ns = mirror_of(directory, dtype, spec).get(spec.namespace)
    assert ns is not None
    return select_namespace(ns)


def read_npy(path: Path) -> tuple[list[str], Any, bytes]:
    keys = np.load(path / "keys.npy")
    vectors = np.load(path / "vectors.npy", mmap_mode="r")
    return [row.tobytes().hex() for row in keys], vectors, (path / "spec.json").read_bytes()


def read_mteb(path: Path) -> tuple[list[str], Any, bytes]:
    cache = NumpyCache(path)
    cache.load()
    found = [cache.get_vector({"text": text}) for text in TEXTS]
    keys = list(cache.hash_to_index)
    vectors = np.stack([vector for vector in found if vector is not None])
    cache.close()
    return keys, vectors, (path / "spec.json").read_bytes()


def read_table(table: Any) -> tuple[list[str], Any, bytes]:
    width = table.schema.field("vector").type.list_size
    vectors = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return table["key"].to_pylist(), vectors, table.schema.metadata[b"cas_cache.spec"]


def read_parquet(path: Path) -> tuple[list[str], Any, bytes]:
    return read_table(pq.read_table(path))


READERS: dict[str, Callable[[Path], tuple[list[str], Any, bytes]]] = {
    "npy": read_npy,
    "mteb": read_mteb,
    "parquet": read_parquet,
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORMATS)
def test_what_is_written_is_read_back(tmp_path: Path, name: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys, vectors to the bit, dtype and spec; in one chunk and in many."""
    selection = all_of(tmp_path / "mirror", dtype)
    for number, chunk in enumerate([1 << 20, 4 * 7 * np.dtype(dtype).itemsize]):
        monkeypatch.setattr("cas_cache.interop.exporting.CHUNK_BYTES", chunk)
        target = tmp_path / f"out{number}"
        if name == "mteb" and dtype in ("float64", "int64"):
            with pytest.raises(ConfigurationError, match="would be rounded"):
                export(selection, target, name)
            continue
        report = export(selection, target, name)
        keys, vectors, spec = READERS[name](target)
        assert (keys, spec) == (HEX, SPEC.canonical())
        assert vectors.dtype == ("float32" if name == "mteb" else dtype)
        np.testing.assert_array_equal(vectors, truth(TEXTS, dtype))
        size = sum(f.stat().st_size for f in target.iterdir()) if target.is_dir() else target.stat().st_size
        assert (report.rows, report.missing, report.bytes, report.target) == (COUNT, 0, size, target)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_mteb_goes_on_with_the_folder(tmp_path: Path) -> None:
    """Its wrapper takes every vector from the export, adds its own, and has both when opened again."""
    role = "document"
    target = tmp_path / "cache_path" / "T" / role
    encoder = HashEncoder()
    call = {"task_metadata": metadata("T"), "hf_split": "test", "hf_subset": "default"}
    from mteb.types import PromptType

    with CachedEmbeddingWrapper(encoder, tmp_path / "mirror") as cached:
        right = cached.encode(loader(TEXTS), **call, prompt_type=PromptType.document)
    mirror = Mirror(tmp_path / "mirror")
    export(select_views(mirror, mirror.views.of("T")), target, "mteb")
    encoder.forget()
    wrapper = MtebWrapper(encoder, tmp_path / "cache_path")
    # mteb's wrapper prepares what it has to encode again, and a prepared document has an id and a body.
    rows = {"id": ["d"] * (COUNT + 1), "body": [*TEXTS, "new"]}
    answer = wrapper.encode(loader([*TEXTS, "new"], **rows), **call, prompt_type=PromptType.document)
    np.testing.assert_array_equal(answer[:COUNT], right)
    assert len(encoder.forget()) == 1
    wrapper.close()
    reopened = NumpyCache(target)
    reopened.load()
    np.testing.assert_array_equal(reopened.get_vector({"text": "new"}), answer[COUNT])
    np.testing.assert_array_equal(reopened.get_vector({"text": TEXTS[3]}), right[3])
    reopened.close()


def test_an_export_comes_back(tmp_path: Path) -> None:
    """From a mirror to mteb's files to another mirror: the same vectors; under another spec nothing is taken."""
    export(all_of(tmp_path / "mirror"), tmp_path / "out" / "T", "mteb")
    other = EncoderSpec(model="org/other", revision="1")
    report = import_mteb(Mirror(tmp_path / "second"), tmp_path / "out", other, accept_unsafe=True)
    assert report.taken == 0
    assert "another encoder's" in str(report.plan.folders[0].passed_over)
    report = import_mteb(Mirror(tmp_path / "second"), tmp_path / "out", SPEC, accept_unsafe=True)
    assert report.stored == COUNT
    vectors, found = EmbeddingCache(tmp_path / "second").get(TEXTS, SPEC)
    assert found.all()
    np.testing.assert_array_equal(vectors, truth(TEXTS))


def view_of(
    mirror: Mirror, asked: list[str], split: str = "test", spec: EncoderSpec = SPEC, ids: list[str] | None = None
) -> View:
    """Return a view of texts, as an evaluation records it."""
    view = View("T", spec.namespace, spec.model, spec.revision, spec.role, "default", split)
    mirror.views.record(view, keys_of_texts(asked), None, ids)
    return view


def test_a_view_is_in_its_order(tmp_path: Path) -> None:
    """Each row once where it was first asked for; with ids each as often as it was; what is not here is counted."""
    mirror = mirror_of(tmp_path / "mirror")
    asked = [TEXTS[5], TEXTS[2], "gone", TEXTS[5], TEXTS[0]]
    view = view_of(mirror, asked, ids=["a", "b", "c", "d", "e"])
    view_of(mirror, [TEXTS[9]])  # a batch without ids
    report = export(select_views(mirror, [view]), tmp_path / "out", "parquet")
    assert (report.rows, report.missing) == (4, 1)
    keys, vectors, _ = read_parquet(tmp_path / "out")
    assert keys == [HEX[5], HEX[2], HEX[0], HEX[9]]
    np.testing.assert_array_equal(vectors, truth([TEXTS[5], TEXTS[2], TEXTS[0], TEXTS[9]]))
    chosen = select_views(mirror, [view], with_ids=True)
    report = export(chosen, tmp_path / "parquet", "parquet")
    table = pq.read_table(tmp_path / "parquet")
    assert (report.rows, table.column_names) == (5, ["key", "id", "vector"])
    assert table["id"].to_pylist() == ["a", "b", "d", "e", None]
    assert table["key"].to_pylist() == [HEX[5], HEX[2], HEX[5], HEX[0], HEX[9]]
    right = truth([TEXTS[5], TEXTS[2], TEXTS[5], TEXTS[0], TEXTS[9]])
    np.testing.assert_array_equal(read_table(table)[1], right)
    with pytest.raises(ConfigurationError, match="no place for ids"):
        export(chosen, tmp_path / "npy", "npy")


def test_ids_stay_with_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of views with and without ids, and of one that grows between two looks at it."""
    mirror = mirror_of(tmp_path / "mirror")
    without = view_of(mirror, TEXTS[3:5], "a")
    grows = view_of(mirror, TEXTS[:2], "b", ids=["x", "y"])

    def late(folder: Path, view: View) -> Any:
        view_of(mirror, TEXTS[6:8], "b", ids=["later", "latest"])
        return ids_in(folder, view)

    monkeypatch.setattr("cas_cache.interop.exporting.ids_in", late)
    chosen = select_views(mirror, [grows, without], with_ids=True)
    assert [HEX[row] for row in chosen.rows] == [HEX[0], HEX[1], HEX[3], HEX[4]]
    assert chosen.ids == ("x", "y", None, None)


def test_views_are_joined_within_a_namespace(tmp_path: Path) -> None:
    """Two splits of one encoder are one file, in their order; two encoders are not; a namespace may be gone."""
    mirror = mirror_of(tmp_path / "mirror")
    other = EncoderSpec(model="org/other", revision="1")
    one, two = view_of(mirror, TEXTS[3:5], "a"), view_of(mirror, TEXTS[4:7], "b")
    chosen = select_views(mirror, [two, one])
    assert [HEX[row] for row in chosen.rows] == [HEX[4], HEX[5], HEX[6], HEX[3]]
    with pytest.raises(ConfigurationError, match="2 namespaces"):
        select_views(mirror, [one, view_of(mirror, TEXTS, spec=other)])
    with pytest.raises(MirrorError, match="any more"):
        select_views(mirror, [view_of(mirror, TEXTS, spec=other)])


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_is_written_over(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that is there is an error and stays; one that another makes meanwhile, too. Nothing is left behind."""
    selection = all_of(tmp_path / "mirror")
    places = {"file": tmp_path / "file", "folder": tmp_path / "folder", "link": tmp_path / "link"}
    places["file"].write_text("mine")
    places["folder"].mkdir()
    places["link"].symlink_to(tmp_path / "nowhere")
    for place in places.values():
        with pytest.raises(ConfigurationError, match="exists already"):
            export(selection, place, name)
    write = FORMATS[name]

    def slow(chosen: Selection, path: Path) -> None:
        write(chosen, path)
        (tmp_path / "race").write_text("theirs")

    monkeypatch.setitem(FORMATS, name, slow)
    with pytest.raises(ConfigurationError, match="made meanwhile"):
        export(selection, tmp_path / "race", name)
    assert (places["file"].read_text(), (tmp_path / "race").read_text()) == ("mine", "theirs")
    assert {path.name for path in tmp_path.iterdir()} == {"mirror", "file", "folder", "link", "race"}


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_row_never_leaves(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last row of several chunks is found before it is written; no target and nothing else is left."""
    monkeypatch.setattr("cas_cache.interop.exporting.CHUNK_BYTES", 64)
    folder = mirror_of(tmp_path / "mirror").namespaces()[0].folder
    data = bytearray((folder / "vectors.npy").read_bytes())
    data[-1] ^= 1
    (folder / "vectors.npy").write_bytes(data)
    ns = Mirror(tmp_path / "mirror").get(SPEC.namespace)
    assert ns is not None
    with pytest.raises(DamagedMirror, match="do not agree with their digests"):
        export(select_namespace(ns), tmp_path / "out", name)
    assert [path.name for path in tmp_path.iterdir()] == ["mirror"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_disk_that_refuses(tmp_path: Path, name: str) -> None:
    """A file where a folder should be, a file that may not grow: ours, with what to do, and nothing is left."""
    (tmp_path / "file").write_text("x")
    selection = all_of(tmp_path / "mirror")
    with pytest.raises(MirrorWriteError, match="name another target"):
        export(selection, tmp_path / "file" / "out", name)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150, hard))
    try:
        with pytest.raises(MirrorWriteError, match="name another target"):
            export(selection, tmp_path / "out", name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name for path in tmp_path.iterdir()} == {"mirror", "file"}


@pytest.mark.parametrize("name", FORMATS)
def test_vectors_of_several_axes(tmp_path: Path, name: str) -> None:
    """One format holds them; the others refuse them."""
    rows = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4) + 1
    EmbeddingCache(tmp_path / "mirror").put(TEXTS[:2], rows, SPEC)
    selection = select_namespace(Mirror(tmp_path / "mirror").namespaces()[0])
    if name == "npy":
        export(selection, tmp_path / "out", name)
        np.testing.assert_array_equal(READERS[name](tmp_path / "out")[1], rows)
    else:
        with pytest.raises(ConfigurationError, match=r"shape \(3, 4\).*Choose npy"):
            export(selection, tmp_path / "out", name)
        assert not (tmp_path / "out").exists()


def test_what_cannot_be_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No rows, no such format, keys that are not of texts, a package that is not there."""
    selection = all_of(tmp_path / "mirror")
    with pytest.raises(ConfigurationError, match="not a format"):
        export(selection, tmp_path / "out", "csv")
    empty = Mirror(tmp_path / "mirror").namespace(EncoderSpec(model="m", revision="1"))
    with pytest.raises(ConfigurationError, match="nothing to export"):
        export(select_namespace(empty), tmp_path / "out", "npy")
    titled = all_of(tmp_path / "mirror", spec=EncoderSpec(model="m", revision="1", fields=("text", "title")))
    with pytest.raises(ConfigurationError, match="texts alone; these are of text, title"):
        export(titled, tmp_path / "out", "mteb")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependency, match="pip install pyarrow"):
        export(selection, tmp_path / "out", "parquet")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["npy", "mteb"])
def test_memory_is_bounded(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """32 MB of vectors go out in less than 6 MB of memory."""
    monkeypatch.setattr("cas_cache.interop.exporting.CHUNK_BYTES", 1 << 20)
    rows = np.ones((2048, 4096), np.float32)
    EmbeddingCache(tmp_path / "mirror").put(texts(2048), rows, SPEC)
    selection = select_namespace(Mirror(tmp_path / "mirror").namespaces()[0])
    monkeypatch.setattr("cas_cache.mirror.rows.VERIFIED_AT_ONCE", 64)
    tracemalloc.start()
    try:
        export(selection, tmp_path / "out", name)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6e6


def test_the_command_line(run: Any, tmp_path: Path) -> None:
    """A namespace or a task, as people read it and as JSON."""
    mirror = mirror_of(tmp_path / "mirror")
    view_of(mirror, [TEXTS[3], "gone", TEXTS[3]], ids=["a", "b", "c"])
    target = tmp_path / "out.parquet"
    result = run("export", tmp_path / "mirror", target, "--format", "parquet", "-n", SPEC.namespace[:6])
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(f"exported 25 rows of {SPEC.namespace} as parquet to {target}\n")
    assert read_parquet(target)[0] == HEX
    chosen = [
        "--task",
        "T",
        "--role",
        "query",
        "--model",
        "org/model@a1b2c3d",
        "--subset",
        "default",
        "--split",
        "test",
    ]
    result = run("export", tmp_path / "mirror", tmp_path / "npy", "--format", "npy", *chosen)
    assert (result.code, "left out: 1 row" in result.err) == (0, True)
    assert read_npy(tmp_path / "npy")[0] == [HEX[3]]
    result = run("export", tmp_path / "mirror", tmp_path / "two", "--format", "parquet", *chosen, "--json")
    assert json.loads(result.out) == {
        "dry_run": False, "target": str(tmp_path / "two"), "format": "parquet", "namespace": SPEC.namespace, "rows": 2,
        "bytes": (tmp_path / "two").stat().st_size, "missing": 1,
    }  # fmt: skip
    assert pq.read_table(tmp_path / "two")["id"].to_pylist() == ["a", "c"]


def test_usage(run: Any, tmp_path: Path) -> None:
    """What is not said is asked for, with what there is to choose from."""
    mirror = mirror_of(tmp_path / "mirror")
    other = EncoderSpec(model="org/other", revision="1")
    view_of(mirror, TEXTS[:2])
    view_of(mirror, TEXTS[:2], spec=other)
    for options, code, said in [
        ([], 2, "--namespace ID, or --task NAME"),
        (["-n", "6f", "--task", "T"], 2, "--namespace ID, or --task NAME"),
        (["-n", SPEC.namespace, "--role", "query"], 2, "name a --task"),
        (["-n", "zz"], 2, "0 namespaces"),
        (["--task", "U"], 2, "The tasks are: T"),
        (["--task", "T", "--role", "document"], 2, "org/model@a1b2c3d query default test"),
        (["--task", "T"], 2, "org/other@1 no role default test"),
        (["--task", "T", "--model", "org/other"], 1, "not in"),
        (["-n", SPEC.namespace, "--format", "csv"], 2, "csv"),
    ]:
        result = run("export", tmp_path / "mirror", tmp_path / "out", "--format", "npy", *options)
        assert (result.code, said in result.err.replace("\n", " ")) == (code, True), options
    result = run("export", tmp_path / "none", tmp_path / "out", "--format", "npy", "-n", "ab")
    assert (result.code, "no cas_cache mirror at" in result.err) == (1, True)
    assert {path.name for path in tmp_path.iterdir()} == {"mirror"}
