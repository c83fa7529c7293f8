"""`MirrorCache` and `FaissCache` as backends of mteb's own wrapper: real mteb, real faiss."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import faiss
import mteb
import mteb.models.model_meta
import numpy as np
import pytest
from mteb.models.cache_wrappers import CacheBackendProtocol
from mteb.models.cache_wrappers import CachedEmbeddingWrapper as MtebsOwn
from mteb.models.cache_wrappers.cache_backends import FaissCache as MtebsFaiss
from mteb.models.cache_wrappers.cache_backends import NumpyCache

import mteb_tasks as tasks
from cas_cache import EncoderSpec
from cas_cache.errors import (
    CacheMiss,
    ConfigurationError,
    DataWarning,
    IdentityError,
    InvalidEncoderOutput,
    MissingDependency,
    NotAMirror,
    ShapeMismatch,
    UnpinnedModel,
)
from cas_cache.identity import keys_of_texts
from cas_cache.mteb import CachedEmbeddingWrapper, FaissCache, MirrorCache, backend
from cas_cache.mteb.binding import CacheFolder, parse_folder
from mteb_encoders import HashEncoder, TorchEncoder
from mteb_fidelity_encoders import instruct, sentence_transformer
from paths import ROOT, SUPPORT
from tiers import sampled

SPEC = EncoderSpec(model="m/m", revision="1")
BOTH = pytest.mark.parametrize("cls", [MirrorCache, FaissCache])
THEIR_WARNINGS = pytest.mark.filterwarnings(
    "ignore:(Dimension file not found|No existing files found|Hash collision or duplicate):UserWarning"
)


def items(*texts):
    return [{"text": text} for text in texts]


def vectors(*values, dtype="float32"):
    return np.array([[value, value + 0.5] for value in values], dtype)


@BOTH
def test_the_protocol_is_satisfied(cls, tmp_path):
    """An instance satisfies mteb's protocol, and a new object finds the added vectors."""
    one = cls(tmp_path, spec=SPEC)
    assert isinstance(one, CacheBackendProtocol)
    one.load()
    assert one.get_vector({"text": "a"}) is None
    one.add(items("a", "b"), vectors(1, 2))
    one.add(items("c"), vectors(3)[0])
    assert {"text": "c"} in one
    assert {"text": "d"} not in one
    one.save()
    one.close()
    again = cls(tmp_path, spec=SPEC)
    np.testing.assert_array_equal(again.get_vector({"text": "b", "id": "7"}), vectors(2)[0])
    np.testing.assert_array_equal(again.get_vector({"text": "c"}), vectors(3)[0])


@BOTH
def test_a_class_without_a_spec_is_refused(cls, tmp_path):
    """The class alone does not know the model, so passing it to mteb's wrapper is an error that names `backend`."""
    wrapper = MtebsOwn(HashEncoder(), tmp_path, cache_backend=cls)
    with pytest.raises(IdentityError, match=rf"backend\(model, cls={cls.__name__}\)"):
        tasks.scores(wrapper, tasks.sts())
    assert not list(tmp_path.iterdir())


@BOTH
@pytest.mark.parametrize(
    "make",
    sampled([tasks.odd_texts, tasks.same_text_two_titles, tasks.instructions, tasks.sts], keep={tasks.odd_texts}),
)
@THEIR_WARNINGS
def test_scores_are_those_of_mtebs_wrapper(cls, make, tmp_path):
    """Scores are those with mteb's own backend, cold, warm and on a second machine; later runs encode nothing."""
    encoder, task = HashEncoder(), make()
    theirs = tasks.scores(MtebsOwn(encoder, tmp_path / "theirs", cache_backend=NumpyCache), task)
    encoder.forget()
    encoded = []
    for place in ("one", "one", "two"):
        made = backend(encoder, remote=str(tmp_path / "remote"), cls=cls)
        wrapper = MtebsOwn(encoder, tmp_path / place, cache_backend=made)
        assert tasks.scores(wrapper, task) == theirs
        wrapper.close()
        encoded.append(len(encoder.forget()))
    assert encoded[0] > 0
    assert encoded[1:] == [0, 0]
    assert made.stats[0].bytes_pulled > 0


@BOTH
@pytest.mark.verify
def test_namespaces_are_apart_from_our_wrappers(cls, tmp_path):
    """After a run of mteb's wrapper in the same mirror, ours encodes everything and scores as without a cache."""
    encoder, task = HashEncoder(), tasks.misleading_titles()
    plain = tasks.scores(encoder, task)
    wrong = tasks.scores(MtebsOwn(encoder, tmp_path, cache_backend=backend(encoder, cls=cls)), task)
    assert tasks.main_score(wrong) < tasks.main_score(plain), (
        "mteb has fixed its wrapper: say so in docs/how-to/mteb.md"
    )
    encoder.forget()
    with CachedEmbeddingWrapper(encoder, tmp_path) as ours:
        assert tasks.scores(ours, task) == plain
        assert ours.stats.hits == 0
        assert len(ours.cache.mirror.ids()) == 4
        via = [ns.spec.params.get("via") for ns in ours.cache.mirror.namespaces()]
    assert sorted(map(str, via)) == ["None"] * 2 + ["mteb.CachedEmbeddingWrapper"] * 2


def with_prompts(prompts):
    return HashEncoder(prompts=prompts)


DIFFERENT = {
    "plain": (HashEncoder, "T", {}),
    "name": (partial(HashEncoder, "test/other"), "T", {}),
    "revision": (partial(HashEncoder, revision="r2"), "T", {}),
    "class": (TorchEncoder, "T", {}),
    "prompt": (partial(with_prompts, {"query": "q: "}), "T", {}),
    "prompt edited": (partial(with_prompts, {"query": "Q: "}), "T", {}),
    "task": (HashEncoder, "U", {}),
    "role": (HashEncoder, "T/query", {}),
    "other role": (HashEncoder, "T/document", {}),
    "experiment": (partial(HashEncoder, experiment={"a": 1}), "T/experiments/a_1", {}),
    "same name of an experiment": (partial(HashEncoder, experiment={"a": "1"}), "T/experiments/a_1", {}),
    "precision": (HashEncoder, "T/experiments/output_dtypes_float16", {}),
    "encode argument": (HashEncoder, "T", {"encode_kwargs": {"normalize_embeddings": True}}),
    "model_id": (HashEncoder, "T", {"model_id": "me/mine"}),
    "weights": (HashEncoder, "T", {"revision": "weights-1"}),
}


def test_nothing_is_shared_wrongly(tmp_path):
    """Runs that differ in the path, the model or an argument have different namespaces."""
    found = {
        what: backend(make(), **options)(tmp_path / "cache" / folder).spec
        for what, (make, folder, options) in DIFFERENT.items()
    }
    assert len({spec.namespace for spec in found.values()}) == len(DIFFERENT)
    neutral = backend(HashEncoder(), encode_kwargs={"batch_size": 3, "show_progress_bar": False})
    assert neutral(tmp_path / "cache" / "T").spec == found["plain"]
    assert neutral(tmp_path / "elsewhere" / "T").spec == found["plain"]


@pytest.mark.filterwarnings("ignore:No instruction template provided")
def test_settings_and_prompts_of_a_model_are_in_the_identity(tmp_path):
    """Settings and prompts of mteb's two wrappers of sentence-transformers models are part of the namespace."""
    models = [known.model for known in (sentence_transformer(), sentence_transformer({"query": "q: "}), instruct())]
    models.append(instruct(apply_instruction_to_passages=False).model)
    for name, value in (("truncate_dim", 8), ("max_seq_length", 9), ("default_prompt_name", "query")):
        models.append(sentence_transformer().model)
        setattr(models[-1].model[0] if name == "max_seq_length" else models[-1].model, name, value)
    named = {"model_id": "m/m", "revision": "1"}
    found = {backend(model, **named)(tmp_path / "c" / "T").spec.namespace for model in models}
    assert len(found) == len(models)


def test_mtebs_version_is_in_the_identity(tmp_path, monkeypatch):
    """The preparation of rows and a task's own prompt depend on mteb's version, so versions share nothing."""
    before = backend(HashEncoder())(tmp_path / "T").spec
    monkeypatch.setattr(mteb, "__version__", "9.9")
    assert backend(HashEncoder())(tmp_path / "T").spec != before


def test_another_mteb_is_refused(monkeypatch):
    """An mteb that has moved the function that names the folders is refused."""
    monkeypatch.delattr(mteb.models.model_meta, "_serialize_experiment_kwargs_to_name")
    with pytest.raises(MissingDependency, match="_serialize_experiment_kwargs_to_name does not exist"):
        backend(HashEncoder())


def test_a_title_is_in_the_key(tmp_path):
    """Rows with one text and two titles have two vectors, because mteb prepares rows twice."""
    one = backend(HashEncoder())(tmp_path / "T" / "document")
    one.add([{"text": "a b c", "title": "a"}, {"text": "a b c", "title": "a b"}], vectors(1, 2))
    np.testing.assert_array_equal(one.get_vector({"text": "a b c", "title": "a b", "id": "x"}), vectors(2)[0])
    assert one.get_vector({"text": "a b c"}) is None


@pytest.mark.parametrize(
    ("path", "experiments", "expected"),
    [
        ("c/T", {None}, CacheFolder(Path("c"), "T", None, None)),
        ("c/T/query", {None}, CacheFolder(Path("c"), "T", None, "query")),
        ("/a/b/T/document", {None}, CacheFolder(Path("/a/b"), "T", None, "document")),
        ("c/T/experiments/e_1/query", {"e_1"}, CacheFolder(Path("c"), "T", "e_1", "query")),
        ("T", {None}, CacheFolder(Path(), "T", None, None)),
    ],
)
def test_a_path_is_read(path, experiments, expected):
    """Cache path, task, experiment and role are parsed from the end of a path."""
    assert parse_folder(Path(path), experiments) == expected


@pytest.mark.parametrize(
    ("path", "experiments", "message"),
    [
        ("c/T", {"e_1"}, "Pass backend.. the model"),
        ("c/T/experiments/e_2", {None, "e_1"}, "other settings"),
        ("c/experiments/T/query", {None}, "'experiments'"),
        ("s3:/team/emb/T", {None}, "cache_path was a URL"),
        ("/", {None}, "names no task"),
    ],
)
def test_a_path_in_doubt_is_refused(path, experiments, message):
    """A folder of other settings, a folder made from a URL, or one without a task is an error with advice."""
    with pytest.raises(ConfigurationError, match=message):
        parse_folder(Path(path), experiments)


def test_the_names_of_experiments_are_mtebs(tmp_path):
    """The wrapper of mteb names its folders for settings and precisions as `experiments_of` expects."""
    for experiment, kwargs in [(None, {}), ({"b": [1, "x/y"]}, {}), (None, {"precision": "float16"})]:
        encoder = HashEncoder(experiment=experiment)
        made = backend(encoder)
        wrapper = MtebsOwn(encoder, tmp_path / "c", cache_backend=made)
        texts = tasks.loader(["a", "b"])
        call = {"task_metadata": tasks.metadata("A"), "hf_split": "test", "hf_subset": "default", **kwargs}
        first = wrapper.encode(texts, **call)
        assert len(encoder.forget()) == 2
        again = MtebsOwn(encoder, tmp_path / "c", cache_backend=backend(encoder)).encode(texts, **call)
        np.testing.assert_array_equal(first, again)
        assert encoder.seen == []


def test_identity_in_doubt_is_refused(tmp_path):
    """An unpinned revision, an object that is not an encoder, an opaque argument and int8 by the call are refused."""
    with pytest.raises(UnpinnedModel, match="revision"):
        backend(HashEncoder(revision="main"))
    with pytest.raises(TypeError, match="not an mteb encoder"):
        backend(object())
    with pytest.raises(IdentityError, match="plain value"):
        backend(HashEncoder(), encode_kwargs={"anything": object()})
    with pytest.raises(ConfigurationError, match="neither MirrorCache nor FaissCache"):
        backend(HashEncoder(), cls=NumpyCache)
    encoder = HashEncoder()
    encoder.model = encoder
    with pytest.raises(IdentityError, match="int8"):
        backend(encoder)(tmp_path / "T" / "experiments" / "output_dtypes_int8")


def test_an_old_cache_is_left_alone(tmp_path):
    """A cache_path with files of mteb's own backends is refused, and nothing is written to it."""
    old = NumpyCache(tmp_path / "T")
    old.add(items("a"), vectors(1))
    old.save()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(NotAMirror):
        backend(HashEncoder())(tmp_path / "T")
    assert sorted(tmp_path.rglob("*")) == before


@BOTH
def test_duplicates_in_a_call(cls, tmp_path):
    """An item keeps its first vector, and later items keep theirs; mteb's FAISS backend shifts them."""
    texts, given = items("a", "a", "b", "c", "b"), vectors(1, 9, 2, 3, 9)
    theirs = MtebsFaiss(tmp_path / "theirs")
    theirs.add(texts, given)
    assert theirs.get_vector({"text": "b"})[0] == 3, "mteb has fixed it: say so in docs/how-to/mteb.md"
    one = cls(tmp_path / "ours", spec=SPEC)
    one.add(texts, given)
    for text, value in zip("abc", (1, 2, 3), strict=True):
        np.testing.assert_array_equal(one.get_vector({"text": text}), vectors(value)[0])
    one.add(items("b", "d"), vectors(9, 4))
    assert [one.get_vector({"text": text})[0] for text in "abcd"] == [1, 2, 3, 4]


@BOTH
@pytest.mark.parametrize("dtype", ["float16", "float32", "int8", "uint8", "bool"])
def test_the_dtype_is_kept(cls, dtype, tmp_path):
    """Vectors are returned bit for bit in their dtype, including negative zero."""
    given = np.array([[-0.0, 1.5], [0.0, -2.5]]).astype(dtype)
    cls(tmp_path, spec=SPEC).add(items("a", "b"), given)
    again = cls(tmp_path, spec=SPEC)
    for text, vector in zip("ab", given, strict=True):
        got = again.get_vector({"text": text})
        assert (got.dtype, got.tobytes()) == (vector.dtype, vector.tobytes())


@pytest.mark.parametrize("dtype", ["float64", "int32"])
def test_an_index_of_rounded_vectors_is_refused(dtype, tmp_path):
    """FaissCache serves vectors that float32 cannot hold from the mirror, and refuses to index or save them."""
    cache, given = FaissCache(tmp_path, spec=SPEC), vectors(1 / 3, dtype=dtype)
    cache.add(items("a"), given)
    np.testing.assert_array_equal(cache.get_vector({"text": "a"}), given[0])
    with pytest.raises(ConfigurationError, match="use MirrorCache"):
        _ = cache.index
    with pytest.raises(ConfigurationError, match="use MirrorCache"):
        cache.close()
    np.testing.assert_array_equal(MirrorCache(tmp_path, spec=SPEC).get_vector({"text": "a"}), given[0])


def test_vectors_that_cannot_be_stored(tmp_path):
    """Another length, dtype or number, and several vectors per item are errors; NaN is skipped with a warning."""
    one = MirrorCache(tmp_path, spec=SPEC)
    one.add(items("a"), vectors(1))
    with pytest.raises(ShapeMismatch):
        one.add(items("b"), np.ones((1, 3), np.float32))
    with pytest.raises(ShapeMismatch):
        one.add(items("b"), vectors(1, dtype="float16"))
    with pytest.raises(InvalidEncoderOutput):
        one.add(items("b", "c"), vectors(1))
    with pytest.raises(InvalidEncoderOutput):
        one.add(items("b"), np.ones((1, 2, 2), np.float32))
    with pytest.warns(DataWarning, match="NaN"):
        one.add(items("b", "c"), vectors(float("nan"), 3))
    assert [one.get_vector({"text": text}) is None for text in "abc"] == [False, True, False]


def test_the_index_file_is_for_others(tmp_path):
    """Row i of the saved index is the vector of key i; the index grows, and is never read back."""
    one = FaissCache(tmp_path, spec=SPEC)
    one.add(items("a", "a", "b"), vectors(1, 1, 2))
    one.save()
    one.add(items("c"), vectors(3))
    one.close()
    file = tmp_path / f"{SPEC.namespace}.index"
    index, keys = faiss.read_index(str(file)), np.load(tmp_path / f"{SPEC.namespace}.keys.npy")
    np.testing.assert_array_equal(keys, keys_of_texts(["a", "b", "c"]))
    np.testing.assert_array_equal(index.reconstruct_n(0, 3), vectors(1, 2, 3))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".tmp-")] == []
    other = faiss.IndexFlatL2(2)
    other.add(vectors(7, 8, 9))
    faiss.write_index(other, str(file))
    np.testing.assert_array_equal(FaissCache(tmp_path, spec=SPEC).get_vector({"text": "b"}), vectors(2)[0])


def test_rows_that_others_added_are_indexed(tmp_path):
    """Rows that another object commits after the index was made are found by it, and extend the index."""
    first, other = FaissCache(tmp_path, spec=SPEC), MirrorCache(tmp_path, spec=SPEC)
    assert first.index is None
    first.add(items("a"), vectors(1))
    assert first.index.ntotal == 1
    other.add(items("b"), vectors(2))
    assert first.get_vector({"text": "b"})[0] == 2
    assert first.index.search(vectors(2), 1)[1].tolist() == [[1]]


def test_faiss_must_be_installed(tmp_path, monkeypatch):
    """Without faiss, both ways to a FaissCache name the package to install before anything is created."""
    monkeypatch.setitem(sys.modules, "faiss", None)
    for make in (
        lambda: FaissCache(tmp_path / "a", spec=SPEC),
        lambda: backend(HashEncoder(), cls=FaissCache),
    ):
        with pytest.raises(MissingDependency, match="pip install faiss-cpu"):
            make()
    assert not list(tmp_path.iterdir())


def test_only_cached(tmp_path):
    """With only_cached, a miss is an error and a stored vector is served."""
    backend(HashEncoder())(tmp_path / "T").add(items("a"), vectors(1))
    one = backend(HashEncoder(), only_cached=True)(tmp_path / "T")
    assert one.get_vector({"text": "a"})[0] == 1
    assert {"text": "b"} not in one
    with pytest.raises(CacheMiss):
        one.get_vector({"text": "b"})


RUN = """
import sys, time, numpy as np
from mteb.models.cache_wrappers import CachedEmbeddingWrapper
import mteb_tasks as tasks
from mteb_encoders import HashEncoder
from cas_cache.mteb import FaissCache, MirrorCache, backend
encoder = HashEncoder()
cls = {"MirrorCache": MirrorCache, "FaissCache": FaissCache}[sys.argv[2]]
made = backend(encoder, cls=cls, remote=sys.argv[3] if len(sys.argv) > 3 else None)
if len(sys.argv) > 3:
    wrapper = CachedEmbeddingWrapper(encoder, sys.argv[1], cache_backend=made)
    tasks.scores(wrapper, tasks.misleading_titles())  # and never closed
else:
    from pathlib import Path
    made(Path(sys.argv[1]) / "T").add([{"text": "a"}], np.ones((1, 2), np.float32))
    print("added", flush=True)
    time.sleep(60)
"""


def process(*arguments):
    return subprocess.Popen(
        [sys.executable, "-c", RUN, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": f"{SUPPORT}{os.pathsep}{ROOT / 'src'}", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.verify
@pytest.mark.parametrize("cls", sampled([MirrorCache, FaissCache], keep={MirrorCache}))
def test_a_crash_loses_nothing_that_was_added(cls, tmp_path):
    """A vector survives SIGKILL right after `add`, before `save`."""
    run = process(tmp_path, cls.__name__)
    assert run.stdout.readline() == "added\n"
    run.send_signal(signal.SIGKILL)
    run.communicate(timeout=30)
    np.testing.assert_array_equal(backend(HashEncoder(), cls=cls)(tmp_path / "T").get_vector({"text": "a"}), [1, 1])


@pytest.mark.verify
@pytest.mark.parametrize("cls", sampled([MirrorCache, FaissCache], keep={FaissCache}))
def test_a_run_that_closes_nothing(cls, tmp_path):
    """The wrapper of mteb closes in `__del__` when the process ends: rows are pushed without an error message."""
    run = process(tmp_path / "one", cls.__name__, tmp_path / "remote")
    _, errors = run.communicate(timeout=120)
    assert run.returncode == 0, errors
    assert "Exception ignored" not in errors
    encoder = HashEncoder()
    made = backend(encoder, cls=cls, remote=str(tmp_path / "remote"), only_cached=True)
    tasks.scores(MtebsOwn(encoder, tmp_path / "two", cache_backend=made), tasks.misleading_titles())
    assert encoder.seen == []
