"""`EmbeddingCache`: what goes in comes out, once encoded is enough, and doubt is an error."""

import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from types import FrameType
from typing import Any, Self

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cas_cache.encoding
from cas_cache import CacheMiss, EmbeddingCache, EncoderSpec
from cas_cache import cache as cache_module
from cas_cache.errors import (
    ConfigurationError,
    DamagedPack,
    DataWarning,
    InvalidEncoderOutput,
    InvalidItem,
    InvalidURL,
    MirrorWriteError,
    NotAMirror,
    RemoteWarning,
    RepositoryMismatch,
    ShapeMismatch,
)
from cas_cache.repository import Repository
from paths import SUPPORT
from storages import OTHER_SPEC, SPEC, Counting, Encoder, Memory, packs, texts, truth

PACKAGE = str(Path(cas_cache.__file__).parent)
QUERY = EncoderSpec(model="acme/query", revision="1", prompt="query: ")


def never(_: list[str]) -> Any:
    pytest.fail("the encoder was called")


@pytest.fixture
def cache(tmp_path: Path) -> EmbeddingCache:
    return EmbeddingCache(tmp_path / "mirror")


def joined(directory: Path, storage: Any, **options: Any) -> EmbeddingCache:
    """Return a cache whose repository is in a storage of the test."""
    cache = EmbeddingCache(directory, remote=str(directory.parent / "unused"), **options)
    cache.repository = Repository(storage)
    return cache


# Encode ------------------------------------------------------------------------------------------------------------


class Calls:
    """Records the calls of functions, comprehensions and generators that are written in the package."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.entries = 0
        """Number of calls into cache.py from another file of the package."""

    def __enter__(self) -> Self:
        sys.setprofile(self._record)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _record(self, frame: FrameType, event: str, _: object) -> None:
        file, caller = frame.f_code.co_filename, frame.f_back
        if event == "call" and file.startswith(PACKAGE):
            self.files.append(file)
            before = "" if caller is None else caller.f_code.co_filename
            self.entries += file == cache_module.__file__ and before.startswith(PACKAGE) and before != file


@pytest.mark.parametrize("remote", [False, True])
def test_a_hit_is_short(tmp_path: Path, *, remote: bool) -> None:
    """A call of three texts passes through few functions of few files, and the texts do not travel up and down.

    Counted are the calls of Python functions of the package, not of NumPy or of the standard library.
    """
    cache = EmbeddingCache(tmp_path / "m", remote=tmp_path / "r" if remote else None, push="manual", self_check=8)
    with cache:
        cache.encode(["a", "b"], SPEC, Encoder())
        if remote:
            cache.push()
        cache.encode(["a", "b", "a"], SPEC, never)
        with Calls() as hit:
            cache.encode(["a", "b", "a"], SPEC, never)
        with Calls() as miss:
            cache.encode(["c", "d", "e"], SPEC, Encoder())
    assert len(set(hit.files)) <= 12, set(hit.files)
    assert len(hit.files) <= 60
    assert len(set(miss.files)) <= 24, set(miss.files)
    assert hit.entries == 0
    assert miss.entries <= 2


def test_order_and_repeats(cache: EmbeddingCache) -> None:
    """Vectors come in the order of the texts; each distinct text is encoded once, in order of appearance."""
    wanted = ["b", "a", "b", "c", "a"]
    encoder = Encoder()
    np.testing.assert_array_equal(cache.encode(wanted, SPEC, encoder), truth(wanted))
    assert encoder.calls == [["b", "a", "c"]]
    np.testing.assert_array_equal(cache.encode(["d", *wanted], SPEC, encoder), truth(["d", *wanted]))
    assert encoder.calls == [["b", "a", "c"], ["d"]]
    np.testing.assert_array_equal(cache.encode(iter(wanted), SPEC, never), truth(wanted))


@pytest.mark.verify
@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.text(max_size=3), max_size=12), max_size=5), st.integers(1, 4))
def test_any_calls_give_what_the_encoder_gives(tmp_path_factory: Any, calls: list[list[str]], chunk: int) -> None:
    """Whatever is asked in whatever order, answers are the encoder's and nothing is encoded twice."""
    cache = EmbeddingCache(tmp_path_factory.mktemp("mirror"), chunk_items=chunk)
    encoder = Encoder()
    for wanted in calls:
        if wanted:
            np.testing.assert_array_equal(cache.encode(wanted, SPEC, encoder), truth(wanted))
            vectors, found = cache.get(wanted, SPEC)
            assert found.all()
            np.testing.assert_array_equal(vectors, truth(wanted))
    assert len(encoder.asked) == len(set(encoder.asked))
    assert all(len(call) <= chunk for call in encoder.calls)


def test_specs_do_not_mix(cache: EmbeddingCache) -> None:
    """The same text under another spec is another item."""
    cache.encode(["a"], SPEC, Encoder())
    other = cache.encode(["a"], OTHER_SPEC, lambda _: np.zeros((1, 9), np.float64))
    assert (other.shape, other.dtype) == ((1, 9), np.float64)
    np.testing.assert_array_equal(cache.encode(["a"], SPEC, never), truth(["a"]))


def test_what_was_encoded_before_a_failure_stays(tmp_path: Path) -> None:
    """An encoder that raises in the third chunk leaves two chunks, and the next run encodes the rest."""
    cache = EmbeddingCache(tmp_path, chunk_items=4)
    encoder = Encoder()

    def failing(batch: list[str]) -> Any:
        if len(encoder.calls) == 2:
            raise RuntimeError("out of memory")
        return encoder(batch)

    with pytest.raises(RuntimeError, match="out of memory"):
        cache.encode(texts(12), SPEC, failing)
    again = EmbeddingCache(tmp_path, chunk_items=100)
    encoder = Encoder()
    np.testing.assert_array_equal(again.encode(texts(12), SPEC, encoder), truth(texts(12)))
    assert encoder.calls == [texts(4, start=8)]


class Clocked(Encoder):
    """An encoder that takes a number of seconds for each item, on a clock of its own, and can fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float, *, fails_at: float = np.inf) -> None:
        super().__init__()
        self.seconds, self.fails_at, self.now = seconds, fails_at, 0.0
        monkeypatch.setattr(cas_cache.encoding.time, "monotonic", lambda: self.now)

    def __call__(self, batch: list[str]) -> Any:
        if len(self.asked) + len(batch) > self.fails_at:
            raise RateLimitError("429")
        self.now += self.seconds * len(batch)
        return super().__call__(batch)

    @property
    def sizes(self) -> list[int]:
        return [len(call) for call in self.calls]


class RateLimitError(Exception):
    """What an API raises."""


@pytest.mark.parametrize("seconds", [1e-6, 0.001, 0.01, 0.1, 0.2, 1.0])
@pytest.mark.verify
def test_a_chunk_takes_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """By default no chunk is more than 10 s of an encoder's work, and a fast one does not commit often."""
    encoder = Clocked(monkeypatch, seconds)
    count = 20_000 if seconds < 0.01 else 1000
    with EmbeddingCache(tmp_path) as cache:
        np.testing.assert_array_equal(cache.encode(texts(count), SPEC, encoder), truth(texts(count)))
    assert max(encoder.sizes) * seconds <= 10
    if seconds < 0.01:
        assert len(encoder.sizes) <= 22


@pytest.mark.parametrize("fails_at", [600, 5000, 15_000])
def test_a_fast_encoder_that_fails_loses_a_fifth_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    """The error passes unchanged, four fifths of what was paid for are found again, but for one small chunk."""
    with EmbeddingCache(tmp_path) as cache, pytest.raises(RateLimitError, match=r"^429$"):
        cache.encode(texts(20_000), SPEC, Clocked(monkeypatch, 1e-6, fails_at=fails_at))
    with EmbeddingCache(tmp_path) as cache:
        kept = int(cache.get(texts(20_000), SPEC)[1].sum())
    assert kept >= min(0.8 * fails_at, fails_at - 256)


def test_a_later_call_begins_with_the_measured_pace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small calls in a row are not cut up, unless the encoder is slow."""
    with EmbeddingCache(tmp_path) as cache:
        fast = Clocked(monkeypatch, 0.001)
        for start in range(0, 400, 100):
            cache.encode(texts(100, start=start), SPEC, fast)
        assert fast.sizes == [8, 32, 60, 100, 100, 100]
        slow = Clocked(monkeypatch, 2.0)
        for start in range(400, 420, 10):
            cache.encode(texts(10, start=start), SPEC, slow)
        assert slow.sizes == [10, 2, 2, 2, 2, 2]


def test_chunks_recover_from_a_slow_start_and_respect_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first chunk often pays for a warm-up; vectors of one chunk have at most `MAX_CHUNK_BYTES`."""

    class WarmsUp(Clocked):
        def __call__(self, batch: list[str]) -> Any:
            self.now += 0 if self.calls else 30
            return super().__call__(batch)

    monkeypatch.setattr(cas_cache.encoding, "MAX_CHUNK_BYTES", 16 * truth(["a"]).nbytes)
    encoder = WarmsUp(monkeypatch, 0.001)
    with EmbeddingCache(tmp_path) as cache:
        cache.encode(texts(50), SPEC, encoder)
    assert encoder.sizes == [8, 1, 4, 16, 16, 5]


def test_chunk_items_is_the_size_of_every_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast the encoder is."""
    encoder = Clocked(monkeypatch, 2.0)
    with EmbeddingCache(tmp_path, chunk_items=20) as cache:
        cache.encode(texts(50), SPEC, encoder)
    assert encoder.sizes == [20, 20, 10]


KILLED = """
import json, os, signal, sys
import numpy as np
from cas_cache import EmbeddingCache, EncoderSpec
from storages import SPEC, texts, truth
done = 0
def encode(batch):
    global done
    if done == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    done += 1
    return truth(batch)
EmbeddingCache(sys.argv[1], chunk_items=5).encode(texts(30), SPEC, encode)
"""


def test_a_killed_process_loses_only_its_last_chunk(tmp_path: Path) -> None:
    """After SIGKILL in the fourth chunk of five, three are there; the rerun encodes only the rest."""
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT)}
    process = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=environment, check=False)
    assert process.returncode == -signal.SIGKILL
    encoder = Encoder()
    np.testing.assert_array_equal(EmbeddingCache(tmp_path).encode(texts(30), SPEC, encoder), truth(texts(30)))
    assert encoder.asked == texts(15, start=15)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint8", "bool"])
def test_dtype_in_is_dtype_out(tmp_path: Path, dtype: str) -> None:
    """The encoder's dtype comes back cold, warm, and on another machine."""
    cache = EmbeddingCache(tmp_path / "1", remote=str(tmp_path / "repo"))
    cold = cache.encode(texts(3), SPEC, Encoder(dtype))
    warm = cache.encode(texts(3), SPEC, never)
    cache.close()
    far = EmbeddingCache(tmp_path / "2", remote=str(tmp_path / "repo")).encode(texts(3), SPEC, never)
    for vectors in (cold, warm, far):
        assert vectors.dtype == dtype
        np.testing.assert_array_equal(vectors, truth(texts(3), dtype))


@pytest.mark.parametrize("name", ["float16", "float32", "float64", "int8", "bfloat16"])
def test_torch_answers(cache: EmbeddingCache, name: str) -> None:
    """Tensors are taken with or without gradient; bfloat16, which NumPy lacks, as float32, without loss."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    dtype = getattr(torch, name)
    tensor = torch.tensor([[0.5, 1, 2], [3, 4, 5]]).to(dtype).requires_grad_(dtype.is_floating_point)
    expected = tensor.detach().float().numpy() if dtype is torch.bfloat16 else tensor.detach().numpy()
    for vectors in (cache.encode(["a", "b"], SPEC, lambda _: tensor), cache.encode(["a", "b"], SPEC, never)):
        assert vectors.dtype == expected.dtype
        np.testing.assert_array_equal(vectors, expected)


def test_lists_and_other_shapes(cache: EmbeddingCache) -> None:
    """A list of vectors is an answer, and a vector may have more than one dimension."""
    matrices = [truth(["a", "b"]), truth(["c", "d"])]
    np.testing.assert_array_equal(cache.encode(["x", "y"], SPEC, lambda _: matrices), np.stack(matrices))
    np.testing.assert_array_equal(cache.encode(["y"], SPEC, never), matrices[1][None])


def test_empty_input(cache: EmbeddingCache) -> None:
    """No texts: the encoder's own empty answer before the first vector is known, then the namespace's."""
    empty = cache.encode([], SPEC, Encoder())
    assert (empty.shape, empty.dtype) == ((0, 4), np.float32)
    cache.encode(["a"], SPEC, Encoder("float16"))
    warm = cache.encode([], SPEC, never)
    assert (warm.shape, warm.dtype) == ((0, 4), np.float16)
    vectors, found = cache.get([], SPEC)
    assert (vectors.shape, found.shape) == ((0, 4), (0,))
    assert cache.put([], np.empty((0, 4), np.float16), SPEC) == 0


def test_callers_may_write_into_answers(tmp_path: Path) -> None:
    """An answer is the caller's own: cold, warm, and from get."""
    cache = EmbeddingCache(tmp_path)
    for answer in (
        cache.encode(texts(3), SPEC, Encoder()),
        cache.encode(texts(3), SPEC, never),
        cache.get(texts(3), SPEC)[0],
    ):
        np.testing.assert_array_equal(answer, truth(texts(3)))
        answer[:] = -1
    np.testing.assert_array_equal(EmbeddingCache(tmp_path).encode(texts(3), SPEC, never), truth(texts(3)))


def test_the_cache_does_not_keep_the_encoders_array(cache: EmbeddingCache) -> None:
    """An encoder that uses one buffer again and again changes nothing that was stored."""
    buffer = np.zeros((1, 4), np.float32)

    def encode(batch: list[str]) -> Any:
        buffer[:] = truth(batch)
        return buffer

    cache.encode(["a"], SPEC, encode)
    cache.encode(["b"], SPEC, encode)
    np.testing.assert_array_equal(cache.encode(["a", "b"], SPEC, never), truth(["a", "b"]))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (np.ones((1, 4), np.float32), InvalidEncoderOutput),
        (np.ones((3, 4), np.float32), InvalidEncoderOutput),
        (np.ones(2, np.float32), InvalidEncoderOutput),
        (np.ones((2, 0), np.float32), InvalidEncoderOutput),
        (np.array([["x"], ["y"]], object), InvalidEncoderOutput),
        (np.ones((2, 4), np.complex64), InvalidEncoderOutput),
        ([np.ones(3), np.ones(4)], InvalidEncoderOutput),
        ([], InvalidEncoderOutput),
        (None, InvalidEncoderOutput),
        ("ab", InvalidEncoderOutput),
        (3.5, InvalidEncoderOutput),
        ({"a": 1}, InvalidEncoderOutput),
        (np.ones((2, 5), np.float32), ShapeMismatch),
        (np.ones((2, 4), np.float64), ShapeMismatch),
        (np.full((2, 5), np.nan, np.float32), ShapeMismatch),
        (np.ones((2, 2, 2), np.float32), ShapeMismatch),
    ],
)
def test_wrong_answers_are_errors(cache: EmbeddingCache, answer: Any, error: type[Exception]) -> None:
    """An answer that is not one vector a text, of the namespace's kind, is an error and leaves nothing."""
    cache.encode(["known"], SPEC, Encoder())
    with pytest.raises(error):
        cache.encode(["a", "b"], SPEC, lambda _: answer)
    assert cache.mirror.namespace(SPEC).rows == 1
    assert cache.get(["a", "b"], SPEC)[1].tolist() == [False, False]
    np.testing.assert_array_equal(cache.encode(["a", "b"], SPEC, Encoder()), truth(["a", "b"]))


def test_texts_without_a_key_are_errors(cache: EmbeddingCache) -> None:
    """A lone surrogate has no UTF-8 form, and a number is no text."""
    for wrong in ("\ud800", 3, None):
        with pytest.raises(InvalidItem):
            cache.encode(["a", wrong], SPEC, never)  # type: ignore[list-item]


def test_vectors_that_are_not_finite_are_given_back_not_stored(cache: EmbeddingCache) -> None:
    """NaN and infinity reach the caller with one warning, and are encoded again at the next call."""
    answer = truth(["a", "b", "c", "d"])
    answer[1, 2], answer[3, 0] = np.nan, -np.inf
    wanted = ["a", "b", "c", "d", "b"]
    with pytest.warns(DataWarning, match="2 vectors of org/model hold NaN or infinity") as caught:
        vectors = cache.encode(wanted, SPEC, lambda _: answer)
    assert len(caught) == 1
    np.testing.assert_array_equal(vectors, answer[[0, 1, 2, 3, 1]])
    assert cache.get(["a", "b", "c", "d"], SPEC)[1].tolist() == [True, False, True, False]
    encoder = Encoder()
    np.testing.assert_array_equal(cache.encode(wanted, SPEC, encoder), truth(wanted))
    assert encoder.asked == ["b", "d"]


def test_nothing_finite_at_all(cache: EmbeddingCache) -> None:
    """Even the first answer of a spec may be all NaN."""
    with pytest.warns(DataWarning):
        vectors = cache.encode(["a"], SPEC, lambda _: np.full((1, 3), np.nan, np.float16))
    assert (vectors.shape, vectors.dtype) == ((1, 3), np.float16)
    with pytest.warns(DataWarning):
        assert cache.put(["a"], np.full((1, 3), np.inf), SPEC) == 0
    np.testing.assert_array_equal(cache.encode(["a"], SPEC, Encoder()), truth(["a"]))


# Get and put -------------------------------------------------------------------------------------------------------


def test_get_and_put(cache: EmbeddingCache) -> None:
    """Row i is the vector of text i, or NaN; the first vector of a text stays."""
    vectors, found = cache.get(["a"], SPEC)
    assert (vectors.shape, found.tolist()) == ((1, 0), [False])
    assert cache.put(["a", "b", "a"], truth(["a", "b", "a"]), SPEC) == 2
    assert cache.put(["a"], truth(["z"]), SPEC) == 0
    vectors, found = cache.get(["b", "x", "a"], SPEC)
    assert found.tolist() == [True, False, True]
    np.testing.assert_array_equal(vectors[found], truth(["b", "a"]))
    assert np.isnan(vectors[1]).all()
    vectors, found = cache.get(["x", "y"], SPEC)
    assert (vectors.shape, found.any(), np.isnan(vectors).all()) == ((2, 4), False, True)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "bool"])
def test_get_never_invents_a_vector(cache: EmbeddingCache, dtype: str) -> None:
    """Whole numbers have no NaN: a missing text is an error that says which one, not a row of zeros."""
    cache.put(["a", "b"], truth(["a", "b"]).astype(dtype), SPEC)
    vectors, found = cache.get(["b", "a"], SPEC)
    assert (vectors.dtype, found.all()) == (np.dtype(dtype), True)
    for wanted, position, missing in ((["a", "x", "b", "x", "y"], 1, 2), (["x"], 0, 1)):
        with pytest.raises(CacheMiss, match=f"have no NaN.*The first is item {position} .*`missing`") as caught:
            cache.get(wanted, SPEC)
        assert (caught.value.positions[0], caught.value.missing) == (position, missing)
    assert cache.missing(["a", "x", "b", "x", "y"], SPEC) == ["x", "y"]


@pytest.mark.parametrize("shared", [False, True])
def test_a_bound_encoder(tmp_path: Path, *, shared: bool) -> None:
    """It answers as `encode` does, and says which texts it would encode, without encoding or storing them."""
    remote = tmp_path / "repository"
    with EmbeddingCache(tmp_path / "other", remote=remote) as other:
        other.encode(["a"], QUERY, Encoder())
    with EmbeddingCache(tmp_path / "mirror", remote=remote if shared else None, self_check=0) as cache:
        encoder = Encoder()
        bound = cache.bind(QUERY, encoder)
        expected = ["b"] if shared else ["b", "a"]
        assert bound.missing(iter(["b", "a", "b"])) == expected
        assert (encoder.asked, cache.stats.misses) == ([], 0)
        vectors = bound(iter(["b", "a", "b"]))
        assert encoder.asked == [QUERY.prompt + text for text in expected]
        np.testing.assert_array_equal(vectors, truth([QUERY.prompt + text for text in ("b", "a", "b")]))
        np.testing.assert_array_equal(vectors, cache.encode(["b", "a", "b"], QUERY, never))
        assert bound.missing(["b", "a"]) == []
        as_lists = cache.bind(OTHER_SPEC, lambda texts: truth(texts).tolist(), adds_prompt=True, dtype="float64")
        assert as_lists(["c"]).dtype == np.float64
        assert "Encoder" not in repr(bound).replace("EncoderSpec", "").replace("CachedEncoder", "")
        assert cache.missing([], QUERY) == []
        with pytest.raises(TypeError, match="spec is a str"):
            cache.bind("model", encoder)  # type: ignore[arg-type]


@pytest.mark.parametrize("vectors", [np.ones((2, 4)), np.ones(4), "x"])
def test_put_refuses_what_encode_refuses(cache: EmbeddingCache, vectors: Any) -> None:
    """One vector for each text, or an error."""
    with pytest.raises(InvalidEncoderOutput):
        cache.put(["a"], vectors, SPEC)
    assert not cache.get(["a"], SPEC)[1].any()


def test_only_cached(tmp_path: Path) -> None:
    """A miss is an error that says where, also a KeyError; hits are served."""
    EmbeddingCache(tmp_path).encode(["a", "b"], SPEC, Encoder())
    cache = EmbeddingCache(tmp_path, only_cached=True)
    np.testing.assert_array_equal(cache.encode(["b", "a"], SPEC, never), truth(["b", "a"]))
    with pytest.raises(CacheMiss, match="2 of 4 distinct items") as caught:
        cache.encode(["a", "x", "b", "y", "x"], SPEC, never)
    assert isinstance(caught.value, KeyError)
    assert (caught.value.positions, caught.value.missing) == ((1, 3), 2)
    assert SPEC.namespace in str(caught.value)


# The remote --------------------------------------------------------------------------------------------------------


def test_a_second_machine_encodes_nothing(tmp_path: Path) -> None:
    """What one encoded, the other pulls at its first miss."""
    remote = str(tmp_path / "repo")
    with EmbeddingCache(tmp_path / "1", remote=remote) as one:
        one.encode(texts(20), SPEC, Encoder())
        one.encode(texts(3), OTHER_SPEC, Encoder("float64"))
    with EmbeddingCache(tmp_path / "2", remote=remote) as two:
        np.testing.assert_array_equal(two.encode(texts(20), SPEC, never), truth(texts(20)))
        np.testing.assert_array_equal(two.encode(texts(3), OTHER_SPEC, never), truth(texts(3), "float64"))
        vectors, found = two.get(texts(2), SPEC)
        assert found.all()
        np.testing.assert_array_equal(vectors, truth(texts(2)))


def test_every_namespace_is_asked_for(tmp_path: Path) -> None:
    """A mirror that knows two namespaces pulls each at its own first miss, not only the first."""
    remote = str(tmp_path / "repo")
    with EmbeddingCache(tmp_path / "2", remote=remote) as two:
        two.encode(["mine"], SPEC, Encoder())
        two.encode(["mine"], OTHER_SPEC, Encoder())
    with EmbeddingCache(tmp_path / "1", remote=remote) as one:
        one.encode(texts(5), SPEC, Encoder())
        one.encode(texts(5), OTHER_SPEC, Encoder())
    two = EmbeddingCache(tmp_path / "2", remote=remote)
    np.testing.assert_array_equal(two.encode(texts(5), SPEC, never), truth(texts(5)))
    np.testing.assert_array_equal(two.encode(texts(5), OTHER_SPEC, never), truth(texts(5)))


def test_the_core_path_on_s3(tmp_path: Path, s3_remote: Any) -> None:
    """Encode, push, pull and get through a real S3 server."""
    options = {"remote": s3_remote.url, "storage_options": s3_remote.storage_options}
    with EmbeddingCache(tmp_path / "1", **options) as one:
        np.testing.assert_array_equal(one.encode(texts(50), SPEC, Encoder("float16")), truth(texts(50), "float16"))
    assert one.stats.bytes_pushed > 50 * (32 + 8 + 8)
    with EmbeddingCache(tmp_path / "2", **options, push="manual") as two:
        np.testing.assert_array_equal(two.encode(texts(50), SPEC, never), truth(texts(50), "float16"))
        two.put(["new"], truth(["new"], "float16"), SPEC)
        pulled, pushed = two.sync()
        assert (pulled.packs, pushed.packs, pushed.rows) == (0, 1, 1)
    with EmbeddingCache(tmp_path / "1", **options) as one:
        assert one.pull().rows == 1
        np.testing.assert_array_equal(one.get(["new"], SPEC)[0], truth(["new"], "float16"))


def test_stats(tmp_path: Path) -> None:
    """Hits, misses with repeats, distinct encodings, and bytes both ways are counted as documented."""
    memory = Memory()
    cache = joined(tmp_path / "1", memory, push="manual")
    cache.encode(["a", "b", "a"], SPEC, Encoder())
    cache.encode(["a", "c"], SPEC, Encoder())
    cache.get(["a", "x"], SPEC)
    assert (cache.stats.hits, cache.stats.misses, cache.stats.encoded) == (2, 5, 3)
    cache.push()
    sizes = sum(map(len, memory.objects.values()))
    # Making the repository is not pushing.
    assert cache.stats.bytes_pushed == sizes - len(memory.objects["cas-cache.json"])
    far = joined(tmp_path / "2", memory, push="manual")
    far.encode(["a", "b", "c"], SPEC, never)
    assert (far.stats.hits, far.stats.misses, far.stats.encoded) == (3, 0, 0)
    metadata = sum(len(data) for path, data in memory.objects.items() if path.endswith("zarr.json") or "specs/" in path)
    # The marker is read twice where a mirror meets its repository.
    pulled = sizes - metadata + len(memory.objects["cas-cache.json"])
    assert far.stats.bytes_pulled == pulled
    assert far.stats.as_json() == {
        "hits": 3, "misses": 0, "encoded": 0, "checked": 0, "bytes_pushed": 0, "bytes_pulled": pulled,
        "bytes_served": 48, "encoder_seconds": 0.0, "hit_rate": 1.0, "seconds_saved": None,
    }  # fmt: skip


def test_offline_never_calls_the_storage(tmp_path: Path) -> None:
    """Offline, nothing is asked of the remote, and what is asked for by name is an error."""
    counting = Counting(Memory())
    cache = joined(tmp_path / "1", counting, offline=True)
    cache.encode(texts(3), SPEC, Encoder())
    cache.get(["x"], SPEC)
    cache.put(["y"], truth(["y"]), SPEC)
    for attempt in (cache.pull, cache.push, cache.sync):
        with pytest.raises(ConfigurationError, match="offline"):
            attempt()
    assert cache.mirror.namespace(SPEC).pending_rows == 4
    cache.close()
    assert counting.calls == []


def test_read_only_never_puts(tmp_path: Path) -> None:
    """Read-only, what others have is pulled, and nothing is ever written, not even a marker."""
    counting = Counting(Memory())
    cache = joined(tmp_path / "1", counting, read_only=True)
    cache.encode(texts(3), SPEC, Encoder())
    with pytest.raises(ConfigurationError, match="read-only"):
        cache.push()
    cache.flush()
    assert {verb for verb, _ in counting.calls} == {"get", "list"}
    writer = joined(tmp_path / "2", counting.inner)
    writer.put(["far"], truth(["far"]), SPEC)
    writer.push()
    assert cache.pull().rows == 1
    assert not [call for call in counting.calls if call[0] == "put"]


def test_manual_push(tmp_path: Path) -> None:
    """With push="manual", close pushes nothing and push does."""
    memory = Memory()
    with joined(tmp_path / "1", memory, push="manual") as cache:
        cache.encode(texts(3), SPEC, Encoder())
    assert memory.objects == {}
    assert joined(tmp_path / "1", memory, push="manual").push().rows == 3
    assert len(packs(memory)) == 1


def test_damaged_packs_are_warned_of_and_encoded_anew(tmp_path: Path) -> None:
    """A damaged pack costs an automatic pull one warning; with "raise" it is an error."""
    memory = Memory()
    with joined(tmp_path / "1", memory) as one:
        one.encode(texts(3), SPEC, Encoder())
    (path,) = [path for path in memory.objects if path.endswith("vectors/c/0/0")]
    memory.objects[path] = bytes(len(memory.objects[path]))
    two = joined(tmp_path / "2", memory)
    encoder = Encoder()
    with pytest.warns(DataWarning, match="skipped") as caught:
        np.testing.assert_array_equal(two.encode(texts(3), SPEC, encoder), truth(texts(3)))
    assert len(caught) == 1
    assert encoder.asked == texts(3)
    with joined(tmp_path / "3", memory, on_remote_error="raise") as three, pytest.raises(DamagedPack, match="SHA-256"):
        three.encode(texts(3), SPEC, never)
    two.flush()
    assert two.pull().problems == [], "what is here already is not asked of a damaged pack again"


# Places ------------------------------------------------------------------------------------------------------------


def test_locations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory, a URL, a directory and a URL, or what the settings say."""
    monkeypatch.setenv("CAS_CACHE_DIR", str(tmp_path / "settings"))
    repo = f"file://{tmp_path}/repo"
    assert EmbeddingCache().mirror.directory == tmp_path / "settings" / "local"
    assert EmbeddingCache().repository is None
    assert EmbeddingCache(str(tmp_path / "d")).mirror.directory == tmp_path / "d"
    by_url = EmbeddingCache(repo)
    assert by_url.mirror.directory.parent == tmp_path / "settings"
    assert by_url.repository.url == str(tmp_path / "repo")
    assert EmbeddingCache(repo + "/").mirror.directory == by_url.mirror.directory
    assert EmbeddingCache(repo + "2").mirror.directory != by_url.mirror.directory
    both = EmbeddingCache(tmp_path / "d2", remote=repo)
    assert (both.mirror.directory, both.repository.url) == (tmp_path / "d2", str(tmp_path / "repo"))
    monkeypatch.setenv("CAS_CACHE_REMOTE", repo)
    assert EmbeddingCache().mirror.directory == by_url.mirror.directory
    assert EmbeddingCache(tmp_path / "d3").repository.url == str(tmp_path / "repo")
    assert EmbeddingCache(f"file://{tmp_path}/other").repository.url == str(tmp_path / "other")


def test_settings_are_defaults_of_switches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CAS_CACHE_OFFLINE and CAS_CACHE_READ_ONLY hold unless an argument says otherwise."""
    monkeypatch.setenv("CAS_CACHE_OFFLINE", "1")
    monkeypatch.setenv("CAS_CACHE_READ_ONLY", "yes")
    cache = EmbeddingCache(tmp_path)
    assert (cache.offline, cache.read_only) == (True, True)
    cache = EmbeddingCache(tmp_path, offline=False, read_only=False)
    assert (cache.offline, cache.read_only) == (False, False)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"location": ""}, ConfigurationError),
        ({"location": "s3:/team/emb"}, InvalidURL),
        ({"location": Path("s3://team/emb")}, InvalidURL),
        ({"location": "s3://a/b", "remote": "s3://c/d"}, ConfigurationError),
        ({"remote": ""}, InvalidURL),
        ({"push": "never"}, ConfigurationError),
        ({"on_remote_error": "ignore"}, ConfigurationError),
        ({"chunk_items": 0}, ConfigurationError),
        ({"storage_options": {"key": "x"}}, ConfigurationError),
    ],
    ids=str,
)
def test_arguments_that_cannot_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], error: type[Exception]
) -> None:
    """Each is a typed error before anything is made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAS_CACHE_DIR", str(tmp_path / "settings"))
    with pytest.raises(error):
        EmbeddingCache(**options)
    assert list(tmp_path.iterdir()) == []


def test_no_remote_to_speak_to(cache: EmbeddingCache) -> None:
    """A local cache has nothing to pull or push, and says how to name a remote."""
    for attempt in (cache.pull, cache.push, cache.sync):
        with pytest.raises(ConfigurationError, match="CAS_CACHE_REMOTE"):
            attempt()
    cache.close()


def test_two_repositories_for_one_mirror(tmp_path: Path) -> None:
    """A mirror that met one repository refuses the next, at the first call that would touch it."""
    for name in ("a", "b"):
        with EmbeddingCache(tmp_path / name, remote=str(tmp_path / f"repo-{name}")) as cache:
            cache.encode(["x"], SPEC, Encoder())
    crossed = EmbeddingCache(tmp_path / "a", remote=str(tmp_path / "repo-b"), push="manual")
    for attempt in (crossed.pull, lambda: crossed.encode(["y"], SPEC, never)):
        with pytest.raises(RepositoryMismatch):
            attempt()


def test_occupied_directories(tmp_path: Path) -> None:
    """A directory with other things in it, or a file, is no mirror."""
    (tmp_path / "old.txt").write_text("x")
    for place in (tmp_path, tmp_path / "old.txt"):
        with pytest.raises(NotAMirror):
            EmbeddingCache(place)


def test_repr_shows_places_only(tmp_path: Path) -> None:
    """No vectors, no credentials."""
    cache = EmbeddingCache(tmp_path / "m", remote="memory://user:hunter2@host/x")
    assert repr(cache) == f"EmbeddingCache('{tmp_path / 'm'}', remote='memory://host/x')"
    assert "hunter2" not in json.dumps([repr(cache.repository), repr(cache.repository.storage), str(cache.mirror)])


def test_nothing_warns_on_a_clean_run(tmp_path: Path) -> None:
    """A run that goes well says nothing."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with EmbeddingCache(tmp_path / "m", remote=str(tmp_path / "r")) as cache:
            cache.encode(texts(3), SPEC, Encoder())
            cache.pull()
            cache.push()
    assert caught == []


def test_one_string_is_not_a_list_of_texts(tmp_path: Path) -> None:
    """A bare string would be taken apart into letters."""
    cache = EmbeddingCache(tmp_path / "mirror")
    with pytest.raises(InvalidItem, match=r"Pass \[text\]"):
        cache.encode("apple", SPEC, Encoder())


def test_nothing_asked_of_a_cache_that_never_encodes(tmp_path: Path) -> None:
    """No texts are no miss, and no reason to call the encoder."""
    encoder = Encoder()
    assert len(EmbeddingCache(tmp_path / "mirror", only_cached=True).encode([], SPEC, encoder)) == 0
    assert encoder.calls == []


def test_a_mirror_cannot_be_made_below_a_file(tmp_path: Path) -> None:
    """The error says where, and what to do."""
    (tmp_path / "file").write_text("")
    with pytest.raises(MirrorWriteError, match="Name a directory that you may write to"):
        EmbeddingCache(tmp_path / "file" / "mirror")


def test_a_push_asks_the_remote_though_nothing_waits(tmp_path: Path) -> None:
    """A wrong remote is noticed by name, not skipped because there is nothing to send."""
    with EmbeddingCache(tmp_path / "m", remote=str(tmp_path / "r")) as cache:
        cache.encode(texts(3), SPEC, Encoder())
    with EmbeddingCache(tmp_path / "other", remote=str(tmp_path / "r2")) as cache:
        cache.encode(texts(3), SPEC, Encoder())
    with pytest.raises(RepositoryMismatch, match="--rebind"):
        EmbeddingCache(tmp_path / "m", remote=str(tmp_path / "r2")).push()
    moved = EmbeddingCache(tmp_path / "m", remote=tmp_path / "r2", push="manual")
    assert moved.push(rebind=True).rows == 3
    with pytest.raises(ConfigurationError, match="not a namespace id"):
        moved.pull("bogus")


def test_what_is_encoded_after_a_flush_goes_with_the_next(tmp_path: Path) -> None:
    """Flushing pushes and keeps the cache open; closing pushes and ends it."""
    cache = EmbeddingCache(tmp_path / "m", remote=str(tmp_path / "r"))
    cache.flush()
    cache.encode(texts(3), SPEC, Encoder())
    cache.close()
    assert EmbeddingCache(tmp_path / "m2", remote=str(tmp_path / "r")).pull().rows == 3


def test_a_repository_of_a_newer_writer_costs_a_run_one_warning(tmp_path: Path) -> None:
    """It can be read; what is encoded waits, and the evaluation goes on."""
    memory = Memory()
    with joined(tmp_path / "1", memory) as one:
        one.encode(texts(3), SPEC, Encoder())
    marker = json.loads(memory.objects["cas-cache.json"])
    memory.objects["cas-cache.json"] = json.dumps({**marker, "writer_features": ["later"]}).encode()
    two = joined(tmp_path / "2", memory)
    encoder = Encoder()
    np.testing.assert_array_equal(two.encode(texts(5), SPEC, encoder), truth(texts(5)))
    assert len(encoder.asked) == 2
    with pytest.warns(RemoteWarning, match="later"):
        two.flush()
    np.testing.assert_array_equal(two.encode(texts(6), SPEC, encoder), truth(texts(6)))
    memory.objects["cas-cache.json"] = json.dumps(marker).encode()
    assert joined(tmp_path / "2", memory).push().rows == 3, "what waited goes up when it may"


def test_an_encoder_that_changes_its_mind(tmp_path: Path) -> None:
    """Another dtype in a later chunk is an error even if nothing of the first could be stored."""
    answers = iter([np.full((2, 4), np.nan, np.float32), np.ones((2, 4), np.float64)])
    cache = EmbeddingCache(tmp_path / "m", chunk_items=2)
    with pytest.raises(ShapeMismatch, match="later in one call"):
        cache.encode(texts(4), SPEC, lambda _: next(answers))


def test_a_spec_is_asked_for(tmp_path: Path) -> None:
    """A model's name alone says too little."""
    with pytest.raises(TypeError, match="EncoderSpec"):
        EmbeddingCache(tmp_path / "m").encode(["a"], "acme/counter", Encoder())
