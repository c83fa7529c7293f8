"""The wrapper as mteb sees it: protocols, refusals, dtypes, crashes."""

import numpy as np
import pytest
from mteb.models import CompressionWrapper
from mteb.models.cache_wrappers import CachedEmbeddingWrapper as MtebsOwn
from mteb.models.models_protocols import CrossEncoderProtocol, EncoderProtocol, SearchProtocol
from mteb.types import OutputDType

import mteb_tasks as tasks
from cas_cache.mteb import CachedEmbeddingWrapper
from cas_cache.mteb.dataset_adapter import rows_of_loader
from mteb_calls import CALL, TEXTS
from mteb_encoders import HashEncoder, TorchEncoder
from mteb_tasks import loader


def test_it_is_an_encoder_and_no_search_model(tmp_path):
    """The wrapper is an encoder for mteb, so mteb builds the search around it."""
    encoder = HashEncoder()
    with CachedEmbeddingWrapper(encoder, tmp_path) as model:
        assert isinstance(model, EncoderProtocol)
        assert not isinstance(model, SearchProtocol)
        assert not isinstance(model, CrossEncoderProtocol)
        assert model.mteb_model_meta is encoder.mteb_model_meta
        vectors = model.encode(loader(TEXTS), **CALL)
        np.testing.assert_array_equal(model.similarity(vectors, vectors), encoder.similarity(vectors, vectors))
        pairwise = model.similarity_pairwise(vectors, vectors[::-1].copy())
        np.testing.assert_array_equal(pairwise, encoder.similarity_pairwise(vectors, vectors[::-1].copy()))


class Scores(HashEncoder):
    def predict(self, *_, **__):
        """Score pairs, as a cross-encoder does."""


@pytest.mark.parametrize("what", [Scores, object], ids=["cross-encoder", "no encoder"])
def test_what_is_no_encoder_is_refused(what, tmp_path):
    """Cross-encoders have no vectors to cache, which is a TypeError that names the class."""
    with pytest.raises(TypeError, match=what.__name__):
        CachedEmbeddingWrapper(what(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_depends_on_the_batch_is_refused(tmp_path):
    """A model that quantizes by the range of a call, mteb's cache and our own are refused with advice."""
    with pytest.raises(TypeError, match=r"CompressionWrapper\(CachedEmbeddingWrapper"):
        CachedEmbeddingWrapper(CompressionWrapper(HashEncoder(), OutputDType.INT8), tmp_path)
    with pytest.raises(TypeError, match="a cache already"):
        CachedEmbeddingWrapper(MtebsOwn(HashEncoder(), tmp_path / "theirs"), tmp_path / "a")
    with pytest.raises(TypeError, match="a cache already"):
        CachedEmbeddingWrapper(CachedEmbeddingWrapper(HashEncoder(), tmp_path / "ours"), tmp_path / "b")


@pytest.mark.filterwarnings("ignore:Estimating quantization parameters:UserWarning")
def test_compression_goes_around_the_cache(tmp_path):
    """The CompressionWrapper of mteb returns the same around the cache as around the encoder."""
    task = tasks.misleading_titles()
    plain = tasks.scores(CompressionWrapper(HashEncoder(), OutputDType.INT8), task)
    encoder = HashEncoder()
    tasks.scores(CachedEmbeddingWrapper(encoder, tmp_path), task)
    encoder.forget()
    wrapped = CompressionWrapper(CachedEmbeddingWrapper(encoder, tmp_path), OutputDType.INT8)
    assert encoder.mteb_model_meta.experiment_kwargs is None
    assert wrapped.mteb_model_meta.experiment_kwargs == {"output_dtypes": "int8"}
    assert tasks.scores(wrapped, task) == plain
    assert encoder.seen == []


@pytest.mark.parametrize(
    ("kind", "dtype", "expected"),
    [
        (HashEncoder, "float16", "float16"),
        (HashEncoder, "float32", "float32"),
        (HashEncoder, "float64", "float64"),
        (HashEncoder, "int8", "int8"),
        (TorchEncoder, "float32", "float32"),
        (TorchEncoder, "float16", "float16"),
        (TorchEncoder, "bfloat16", "float32"),
    ],
)
def test_dtype_in_is_dtype_out(kind, dtype, expected, tmp_path):
    """Dtype and bits are the encoder's, cold, warm and on a second machine; bfloat16 becomes float32."""
    encoder = kind(dtype=dtype)
    plain = encoder.encode(loader(TEXTS), **CALL)
    plain = plain.float().numpy() if dtype == "bfloat16" else np.asarray(plain)
    for mirror in ("one", "one", "two"):
        with CachedEmbeddingWrapper(encoder, tmp_path / mirror, remote=str(tmp_path / "remote")) as model:
            found = model.encode(loader(TEXTS), **CALL)
        assert found.dtype == np.dtype(expected)
        np.testing.assert_array_equal(found, plain)
    assert model.stats.encoded == 0


class Rows:
    """A torch dataset of rows, without `select` and `column_names`."""

    features = ("text",)

    def __init__(self, texts):
        self.texts = texts

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, at):
        return {"text": self.texts[at]}


def test_a_dataset_without_select(tmp_path):
    """A plain torch dataset, as one of mteb's image-text tasks has, is keyed and re-batched like any other."""
    from torch.utils.data import DataLoader

    encoder = HashEncoder()
    rows = DataLoader(Rows(TEXTS), batch_size=4)
    plain = encoder.encode(loader(TEXTS), **CALL)
    encoder.forget()
    model = CachedEmbeddingWrapper(encoder, tmp_path)
    np.testing.assert_array_equal(model.encode(rows, **CALL), plain)
    assert len(encoder.forget()) == len(set(TEXTS))
    assert rows_of_loader(rows, np.array([3, 1])).dataset.features == ("text",)  # encoders look at it
    np.testing.assert_array_equal(model.encode(loader(TEXTS), **CALL), plain)
    assert encoder.seen == []
