"""`cache_backend=` of our wrapper: FAISS, mteb's own backends, custom ones; and faulty ones."""

import json
import shutil
import time
from functools import partial
from pathlib import Path

import faiss
import mteb.mocks
import numpy as np
import pytest
from mteb.models.cache_wrappers import CacheBackendProtocol
from mteb.models.cache_wrappers.cache_backends import FaissCache as MtebsFaiss
from mteb.models.cache_wrappers.cache_backends import NumpyCache
from torch.utils.data import DataLoader

import mteb_tasks as tasks
from cas_cache import progress
from cas_cache.errors import (
    CacheMiss,
    ConfigurationError,
    DamagedMirror,
    DataWarning,
    MirrorError,
    MissingDependency,
    ShapeMismatch,
)
from cas_cache.mteb import CachedEmbeddingWrapper, FaissCache, MirrorCache, TextVectorMap, backend
from mteb_encoders import DIMENSION, HashEncoder, TitleBodyEncoder, TorchEncoder
from mteb_tasks import loader, metadata
from tiers import sampled

TEXTS = [f"topic{i % 7}" for i in range(20)]
CALL = {"task_metadata": metadata("A"), "hf_split": "test", "hf_subset": "default"}
IMAGE_TASKS = {type(task).__name__: task for task in mteb.mocks.MOCK_MIEB_TASK_GRID}


class OneFile:
    """A user's backend: a dictionary, and one JSON file."""

    def __init__(self, directory, *, name="all.json"):
        self.path = Path(directory) / name
        self.found = {}

    def add(self, items, vectors):
        for item, vector in zip(items, vectors, strict=True):
            assert item["text"] not in self.found, "an item was added twice"
            self.found[item["text"]] = vector

    def get_vector(self, item):
        return self.found.get(item["text"])

    def save(self):
        kept = {text: (str(v.dtype), v.tolist()) for text, v in self.found.items()}
        self.path.write_text(json.dumps(kept), "utf-8")

    def load(self):
        if self.path.exists():
            kept = json.loads(self.path.read_text("utf-8"))
            self.found = {text: np.array(values, dtype) for text, (dtype, values) in kept.items()}

    def close(self):
        self.found = {}

    def __contains__(self, item):
        return item["text"] in self.found


BACKENDS = {
    "mirror": MirrorCache,
    "faiss": FaissCache,
    "mteb numpy": NumpyCache,
    "mteb faiss": MtebsFaiss,
    "a class": OneFile,
    "a factory": partial(OneFile, name="other.json"),
}
ALL = pytest.mark.parametrize("kind", BACKENDS.values(), ids=BACKENDS)
FOREIGN = pytest.mark.parametrize("kind", [NumpyCache, MtebsFaiss, OneFile])


def wrapped(encoder, place, kind, **options):
    return CachedEmbeddingWrapper(encoder, place, cache_backend=kind, **options)


def encode_with_new_wrapper(encoder, place, kind, texts=TEXTS, **options):
    """Encode with a new wrapper; return the vectors, and how many texts the encoder saw."""
    encoder.forget()
    with wrapped(encoder, place, kind, **options) as model:
        found = model.encode(loader(texts), **CALL)
    return found, len(encoder.forget())


def plain(encoder, texts=TEXTS):
    found = encoder.encode(loader(texts), **CALL)
    encoder.forget()
    return found


@ALL
@pytest.mark.parametrize("encoder", sampled([HashEncoder, TitleBodyEncoder], keep={TitleBodyEncoder}))
@pytest.mark.parametrize(
    "make", sampled([tasks.odd_texts, tasks.same_text_two_titles, tasks.instructions], keep={tasks.odd_texts})
)
def test_scores_are_the_plain_ones(kind, encoder, make, tmp_path):
    """Scores are those without a cache, for titles, duplicates and odd texts; each item is encoded once."""
    encoder, task = encoder(), make()
    expected = tasks.scores(encoder, task)
    every = set(encoder.forget())
    with wrapped(encoder, tmp_path, kind, chunk_items=11) as model:
        assert tasks.scores(model, task) == expected
    seen = encoder.forget()
    assert len(seen) == len(set(seen))
    assert set(seen) == every
    with wrapped(encoder, tmp_path, kind, only_cached=True) as model:
        assert tasks.scores(model, task) == expected
        assert (model.stats.misses, model.stats.encoded) == (0, 0)
    assert encoder.seen == []


@pytest.mark.parametrize("kind", [FaissCache, NumpyCache])
def test_images(kind, tmp_path):
    """Items that are not texts are stored, too."""
    task = IMAGE_TASKS["MockAny2AnyRetrievalI2TTask"]
    task.load_data()  # once: each load draws other images
    model = mteb.get_model("mteb/baseline-random-encoder")
    expected = tasks.scores(model, task)
    for _ in range(2):
        with wrapped(model, tmp_path, kind) as cached:
            assert tasks.scores(cached, task) == expected
    assert cached.stats.encoded == 0


@FOREIGN
def test_the_protocol_is_what_is_asked_for(kind, tmp_path):
    """Each namespace has its own backend, in a folder with the encoder spec and a description of the backend."""
    assert isinstance(kind(tmp_path / "x"), CacheBackendProtocol)
    encoder = HashEncoder()
    with wrapped(encoder, tmp_path / "c", kind) as model:
        tasks.scores(model, tasks.misleading_titles())
        folders = [path.parent for path in (tmp_path / "c" / "MisleadingTitles").glob("*/spec.json")]
        assert sorted(json.loads((f / "spec.json").read_bytes())["role"] for f in folders) == ["document", "query"]
        described = json.loads((folders[0] / "backend.json").read_bytes())
    assert described["backend"].endswith(kind.__name__)
    assert (described["dtype"], described["shape"]) == ("float32", [DIMENSION])
    assert not (tmp_path / "c" / "namespaces").exists()


@FOREIGN
@pytest.mark.parametrize(
    ("encoder", "dtype"), [(HashEncoder, "float16"), (HashEncoder, "int8"), (TorchEncoder, "bfloat16")]
)
def test_the_dtype_is_the_encoders(kind, encoder, dtype, tmp_path):
    """Vectors that float32 can hold are returned in the encoder's dtype, bit for bit, in every run."""
    encoder = encoder(dtype=dtype)
    expected = plain(encoder)
    expected = expected.float().numpy() if dtype == "bfloat16" else expected
    for count in (7, 0):
        found, seen = encode_with_new_wrapper(encoder, tmp_path, kind)
        assert (found.dtype, seen) == (expected.dtype, count)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", [NumpyCache, MtebsFaiss])
def test_a_backend_that_rounds_is_refused(kind, tmp_path):
    """Vectors that float32 would round are an error that names the dtypes, in every run; none is served rounded."""
    encoder = HashEncoder(dtype="float64")
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="answers in float32 what is float64"):
            encode_with_new_wrapper(encoder, tmp_path, kind)
    np.testing.assert_array_equal(encode_with_new_wrapper(encoder, tmp_path / "mirror", None)[0], plain(encoder))


def test_faiss_that_would_round_is_refused(tmp_path):
    """FaissCache refuses vectors that float32 would round, and they are in the mirror."""
    encoder = HashEncoder(dtype="float64")
    with pytest.raises(ConfigurationError, match="use MirrorCache"):
        encode_with_new_wrapper(encoder, tmp_path, FaissCache)
    found, seen = encode_with_new_wrapper(encoder, tmp_path, None)
    assert seen == 0
    np.testing.assert_array_equal(found, plain(encoder))


class Shifts(OneFile):
    """Stores the vector of the last item of a call for the first, like an off-by-one error."""

    def add(self, items, vectors):
        super().add(items, np.roll(vectors, 1, axis=0))


class Loses(OneFile):
    def add(self, items, vectors):
        super().add(items[1:], vectors[1:])


class Cuts(OneFile):
    def add(self, items, vectors):
        super().add(items, vectors[:, :-1])


class Negates(OneFile):
    def get_vector(self, item):
        found = super().get_vector(item)
        return None if found is None else -found


@pytest.mark.parametrize("kind", [Shifts, Loses, Cuts, Negates])
def test_a_backend_that_changes_vectors_is_refused(kind, tmp_path):
    """A backend that shifts, loses, cuts or changes vectors is refused at the first chunk, and serves none later."""
    encoder = HashEncoder()
    with pytest.raises(ConfigurationError, match="does not give back what it was given"):
        encode_with_new_wrapper(encoder, tmp_path, kind)
    expected = plain(encoder)
    with pytest.raises(CacheMiss, match="7 of 7"):
        encode_with_new_wrapper(encoder, tmp_path, kind, only_cached=True)
    if kind is Loses:
        with pytest.raises(ConfigurationError, match="does not give back"):
            encode_with_new_wrapper(encoder, tmp_path, kind)
        return
    with pytest.warns(DataWarning, match="not what it was given"):
        found, _ = encode_with_new_wrapper(encoder, tmp_path, kind)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", [NumpyCache, OneFile])
def test_vectors_that_were_changed_later_are_not_served(kind, tmp_path):
    """Rows that were swapped in the backend's file are encoded again, with a warning, and never served."""
    encoder = HashEncoder()
    encode_with_new_wrapper(encoder, tmp_path, kind)
    (folder,) = (path.parent for path in tmp_path.glob("A/*/backend.json"))
    if kind is NumpyCache:
        index = json.loads((folder / "index.json").read_bytes())
        first, second, *_ = index
        index[first], index[second] = index[second], index[first]
        (folder / "index.json").write_text(json.dumps(index))
    else:
        found = json.loads((folder / "all.json").read_bytes())
        first, second, *_ = found
        found[first], found[second] = found[second], found[first]
        (folder / "all.json").write_text(json.dumps(found))
    with pytest.raises(CacheMiss):
        encode_with_new_wrapper(encoder, tmp_path, kind, only_cached=True)
    for _ in range(2):
        with pytest.warns(DataWarning, match="2 vectors in .* that are not what it was given"):
            found, seen = encode_with_new_wrapper(encoder, tmp_path, kind)
        assert seen == 2
        np.testing.assert_array_equal(found, plain(encoder))


@FOREIGN
def test_a_crash_before_the_proofs_are_stored(kind, tmp_path):
    """Vectors without proof are encoded and compared once, and then served."""
    encoder = HashEncoder()
    encode_with_new_wrapper(encoder, tmp_path, kind)
    (proofs,) = tmp_path.glob("A/*/proofs")
    shutil.rmtree(proofs)
    for count in (7, 0):
        found, seen = encode_with_new_wrapper(encoder, tmp_path, kind)
        assert seen == count
        np.testing.assert_array_equal(found, plain(encoder))


@FOREIGN
def test_a_crash_before_the_backend_saved(kind, tmp_path):
    """Vectors that the backend has lost are encoded and stored again, although their proofs exist."""
    encoder = HashEncoder()
    encode_with_new_wrapper(encoder, tmp_path, kind)
    (folder,) = (path.parent for path in tmp_path.glob("A/*/backend.json"))
    for path in folder.iterdir():
        if path.is_file() and path.name not in ("spec.json", "backend.json"):
            path.unlink()
    if kind is NumpyCache:
        (folder / "dimension").write_text(str(DIMENSION))
        (folder / "index.json").write_text("{}")
        np.zeros(100 * DIMENSION, np.float32).tofile(folder / "vectors.npy")
    for count in (7, 0):
        found, seen = encode_with_new_wrapper(encoder, tmp_path, kind)
        assert seen == count
        np.testing.assert_array_equal(found, plain(encoder))


@ALL
def test_an_encoder_that_fails_keeps_what_was_encoded(kind, tmp_path):
    """Chunks before the failure are stored; the next run encodes the rest."""
    encoder, expected = HashEncoder(), plain(HashEncoder())
    answers = iter([True, True, False])

    def fail(*arguments, **named):
        if not next(answers):
            msg = "out of memory"
            raise RuntimeError(msg)
        return HashEncoder.encode(encoder, *arguments, **named)

    encoder.encode = fail
    with pytest.raises(RuntimeError, match="out of memory"):
        encode_with_new_wrapper(encoder, tmp_path, kind, chunk_items=2)
    del encoder.encode
    found, seen = encode_with_new_wrapper(encoder, tmp_path, kind)
    assert seen == 3
    np.testing.assert_array_equal(found, expected)


@ALL
def test_vectors_that_are_not_finite_are_not_stored(kind, tmp_path):
    """NaN is returned in each run with a warning, and not stored; the other vectors are."""

    class Nans(HashEncoder):
        def answer(self, vectors):
            vectors = super().answer(vectors)
            vectors[np.abs(vectors).argmax() // DIMENSION] = np.nan
            return vectors

    encoder = Nans()
    for count in (7, 1):
        with pytest.warns(DataWarning, match="NaN"):
            found, seen = encode_with_new_wrapper(encoder, tmp_path, kind)
        assert seen == count
        assert len({TEXTS[at] for at in np.flatnonzero(np.isnan(found).any(axis=1))}) == 1


@FOREIGN
def test_vectors_of_another_dtype_are_refused(kind, tmp_path):
    """A namespace whose encoder answers in another dtype later is an error, as in the mirror."""
    encode_with_new_wrapper(HashEncoder(), tmp_path, kind)
    encoder = HashEncoder(dtype="float16")
    with pytest.raises(ShapeMismatch, match="float16"):
        encode_with_new_wrapper(encoder, tmp_path, kind, ["new"])


@FOREIGN
def test_a_folder_belongs_to_one_backend(kind, tmp_path):
    """Opening the files of another backend is an error that names both."""
    encode_with_new_wrapper(HashEncoder(), tmp_path, kind)
    other = NumpyCache if kind is not NumpyCache else OneFile
    with pytest.raises(ConfigurationError, match=f"{kind.__name__}.*{other.__name__}"):
        encode_with_new_wrapper(HashEncoder(), tmp_path, other)


@pytest.mark.parametrize("kind", [NumpyCache, OneFile])
def test_damaged_files_are_an_error(kind, tmp_path):
    """Files that a backend cannot load, and a truncated description, are errors that name the folder to move."""
    encode_with_new_wrapper(HashEncoder(), tmp_path, kind)
    (folder,) = (path.parent for path in tmp_path.glob("A/*/backend.json"))
    file = folder / ("index.json" if kind is NumpyCache else "all.json")
    whole = file.read_bytes()
    for path, content in ((file, whole[: len(whole) // 2]), (folder / "backend.json", b'{"backend":')):
        path.write_bytes(content)
        with pytest.raises(DamagedMirror, match=rf"Move {folder} elsewhere"):
            encode_with_new_wrapper(HashEncoder(), tmp_path, kind)
        file.write_bytes(whole)
    shutil.rmtree(folder)
    assert encode_with_new_wrapper(HashEncoder(), tmp_path, kind)[1] == 7


def test_invalid_backends_are_refused(tmp_path, monkeypatch):
    """A custom backend with a remote, an instance, a function that makes none, and `backend()` are errors at once."""
    encoder = HashEncoder()
    with pytest.raises(ConfigurationError, match="nothing can be pushed"):
        wrapped(encoder, tmp_path, NumpyCache, remote=str(tmp_path / "remote"))
    with pytest.raises(ConfigurationError, match="not a class or function"):
        wrapped(encoder, tmp_path, OneFile(tmp_path))
    with pytest.raises(ConfigurationError, match="mteb's own"):
        wrapped(encoder, tmp_path, backend(encoder))
    with wrapped(encoder, tmp_path, dict.fromkeys) as model, pytest.raises((ConfigurationError, TypeError)):
        model.encode(loader(TEXTS), **CALL)
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(MissingDependency, match="pip install faiss-cpu"):
        wrapped(encoder, tmp_path, FaissCache)


def test_a_class_that_is_not_a_backend(tmp_path):
    """A class that lacks methods is named with the missing methods."""
    with pytest.raises(ConfigurationError, match="not a cache backend: it has no add, get_vector"):
        encode_with_new_wrapper(HashEncoder(), tmp_path, Path)


@FOREIGN
def test_only_cached(kind, tmp_path):
    """With only_cached, missing items are an error with their positions, before anything is encoded."""
    encoder = HashEncoder()
    encode_with_new_wrapper(encoder, tmp_path, kind, TEXTS[:3])
    with pytest.raises(CacheMiss) as caught:
        encode_with_new_wrapper(encoder, tmp_path, kind, only_cached=True)
    assert (caught.value.positions, caught.value.missing) == ((3, 4, 5, 6), 4)
    assert encoder.seen == []


@FOREIGN
def test_no_items(kind, tmp_path):
    """A call without rows is answered without the encoder after the first vector."""
    encoder = HashEncoder()
    with wrapped(encoder, tmp_path, kind) as model:
        model.encode(loader(TEXTS), **CALL)
        found = model.encode(DataLoader(loader(TEXTS).dataset.select([])), **CALL)
    assert (found.shape, found.dtype) == ((0, DIMENSION), np.float32)


def test_counts(tmp_path):
    """Hits and misses count items, repeats included; encoded counts distinct ones."""
    encoder = HashEncoder()
    with wrapped(encoder, tmp_path, NumpyCache) as model:
        model.encode(loader(TEXTS[:10]), **CALL)
        model.encode(loader([*TEXTS, "new", "new"]), **CALL)
        assert (model.stats.hits, model.stats.misses, model.stats.encoded) == (20, 12, 8)


def test_our_faiss_cache_stores_vectors_in_the_mirror(tmp_path):
    """They are pushed, views work, and `close` writes an index file of each namespace into the mirror."""
    encoder, task = HashEncoder(), tasks.odd_texts()
    with wrapped(encoder, tmp_path / "c", FaissCache, remote=str(tmp_path / "remote")) as model:
        tasks.scores(model, task)
    encoder.forget()
    with wrapped(encoder, tmp_path / "d", FaissCache, remote=str(tmp_path / "remote"), only_cached=True) as model:
        tasks.scores(model, task)
        mirror = model.cache.mirror
        sizes = {ns.spec.namespace: ns.rows for ns in mirror.namespaces()}
        assert len(mirror.view("OddTexts", role="query").vectors)
        assert mirror.views.tasks() == ["OddTexts"]
    for namespace, rows in sizes.items():
        assert faiss.read_index(str(tmp_path / "d" / "faiss" / f"{namespace}.index")).ntotal == rows


def test_views_need_the_mirror(tmp_path):
    """The vectors of a custom backend are not in the mirror, so they have no view."""
    with wrapped(HashEncoder(), tmp_path, NumpyCache) as model:
        tasks.scores(model, tasks.misleading_titles())
        assert model.cache.mirror.views.tasks() == []
    with pytest.raises(MirrorError):
        TextVectorMap(tmp_path / "MisleadingTitles").load(name="MisleadingTitles")


@pytest.mark.parametrize("kind", [None, NumpyCache])
def test_progress_bars(kind, tmp_path, capsys, monkeypatch):
    """Look-up and encoding show progress bars on request; mteb's ``show_progress_bar=False`` turns them off."""
    monkeypatch.setattr(progress, "SLOW_SECONDS", 0.0)

    class Slow(HashEncoder):
        def answer(self, vectors):
            time.sleep(0.15)  # tqdm writes ten times a second at most
            return super().answer(vectors)

    Slow.__qualname__ = "HashEncoder"
    with wrapped(Slow(), tmp_path, kind, progress=True, chunk_items=2) as model:
        model.encode(loader(TEXTS[:4]), **CALL, show_progress_bar=False)
        assert capsys.readouterr().err == ""
        model.encode(loader(TEXTS), **CALL)
        shown = capsys.readouterr().err
    assert "look up" in shown
    assert "0/3" in shown
    assert "2/3" in shown
    assert "items from the cache" in capsys.readouterr().err  # at its end it says what it did, where bars are shown
    with wrapped(HashEncoder(), tmp_path, kind) as model:
        model.encode(loader(["new"]), **CALL)
    assert capsys.readouterr().err == ""


def test_a_look_up_of_images_reports_each(tmp_path, capsys, monkeypatch):
    """The look-up of images reports one row at a time."""
    from cas_cache.mteb.dataset_adapter import batch_of_dataset

    task = IMAGE_TASKS["MockAny2AnyRetrievalI2TTask"]
    task.load_data()
    images = task.dataset["default"]["test"]["queries"]
    told = []
    batch = batch_of_dataset(images, ("image",), told.append)
    assert len(batch.keys) == len(images) > 1
    assert told == [1] * len(images)
