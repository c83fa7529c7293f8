"""A description contains everything that changes vectors, and nothing else.

Each pair is two models under one name with one set of tensors. The first test shows that they make other vectors and
that their descriptions differ; it prints the cosine of what would be served to the second (the vectors of the first)
and its own. The second test breaks the part of the description that sees the difference, and shows that the first test
would fail.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules as st
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerBase, Qwen2Model
from transformers.models.bert import modeling_bert as bert

from cas_cache.models import describe, description, functions, modules, parts, tokenizers, weights_fingerprint
from cas_cache.models.functions import CodeReader
from cas_cache.models.names import class_name, is_library
from tiers import sampled
from tiny_models import (
    SIZE,
    TEXTS,
    WORDS,
    clip,
    encoded,
    every_kind,
    model,
    seeded,
    sequence,
    static,
    tokenizer,
    transformer,
    words,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore")


@dataclass(frozen=True)
class Pair:
    """Two models, and how to make a description blind for their difference.

    Attributes:
        one: Makes the first model.
        other: Makes the second one.
        blind: Pairs of an object and the name of its member that is to see nothing.
        items: What both encode.
    """

    one: Any
    other: Any
    blind: tuple[tuple[Any, str], ...]
    items: list[Any] = field(default_factory=lambda: TEXTS)


CONFIG = (modules, "describe_config")
DIFFERENCES = (modules.ModuleReader, "_differences")
CHANGED = (modules.ModuleReader, "_changed")
HOOKS = (modules, "describe_hooks")
GLOBAL_HOOKS = (description, "global_hooks")
BEHAVIOUR = (modules.ModuleReader, "_behaviour")
PATCHED = (modules.ModuleReader, "_patched")
CLASS = (CodeReader, "own_class")
TOKENIZER = (modules, "describe_tokenizer")
SETTINGS = (modules.st, "config_of")
FUNCTIONS = (modules, "is_function")
ATTRIBUTES = (modules.ModuleReader, "_attributes")
BUFFERS = (modules.ModuleReader, "_buffers")
CODE = (functions, "code_hash")
CLOSURE = (CodeReader, "_captured")
GLOBALS = (CodeReader, "_globals")
WEIGHTS = (description, "_sample")
PARTS = (description, "_parts_of")


def changed(change: Any, kind: str = "bert", **config: Any) -> Any:
    return functools.partial(model, kind, change, **config)


def bidirectional(built: Any) -> None:
    for layer in built[0].auto_model.layers:
        layer.self_attn.is_causal = False
    built[0].auto_model.config.is_causal = False


class Flipped(Qwen2Model):
    """Code of a repository: the same tensors, another function."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        answer = super().forward(*args, **kwargs)
        answer.last_hidden_state = answer.last_hidden_state.flip(-1)
        return answer


def other_class(built: Any) -> None:
    built[0].auto_model.__class__ = Flipped


def relu(built: Any) -> None:
    built[0].auto_model.encoder.layer[0].intermediate.intermediate_act_fn = torch.nn.ReLU()


class Louder(torch.nn.Linear):
    def forward(self, inputs: Any) -> Any:
        return 2 * super().forward(inputs)


def louder_layer(built: Any) -> None:
    built[0].auto_model.encoder.layer[1].output.dense.__class__ = Louder


def epsilon(built: Any) -> None:
    built[0].auto_model.encoder.layer[1].output.LayerNorm.eps = 0.9


def frequencies(built: Any) -> None:
    built[0].auto_model.rotary_emb.inv_freq.mul_(0.1)


def steering(scale: float) -> Any:
    vector = torch.linspace(-1, 1, SIZE) * scale

    def change(built: Any) -> None:
        def steer(module: Any, args: Any, output: Any) -> Any:
            return output + vector

        built[0].auto_model.encoder.layer[0].output.register_forward_hook(steer)

    return change


def steering_pre(built: Any) -> None:
    built[1].register_forward_pre_hook(
        lambda module, args: ({**args[0], "token_embeddings": args[0]["token_embeddings"] ** 2},)
    )


def steering_by_method(built: Any) -> None:
    layer = built[0].auto_model.encoder.layer[0].output
    usual = layer.forward
    layer.forward = lambda *args: usual(*args).flip(-1)


def preprocessing(built: Any) -> None:
    usual = built[0].preprocess
    built[0].preprocess = lambda inputs, **kwargs: usual([text[:3] for text in inputs], **kwargs)


def more_tokens(built: Any) -> None:
    built.tokenizer.add_tokens(["ear"], special_tokens=True)  # inside of "pears"


def cased(built: Any) -> None:
    built.tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)


def other_vocabulary(built: Any) -> None:
    from tokenizers.models import WordPiece

    backend = built.tokenizer.backend_tokenizer
    vocab = backend.get_vocab(with_added_tokens=False)
    vocab["sea"], vocab["war"] = vocab["war"], vocab["sea"]
    backend.model = WordPiece(vocab, unk_token="[UNK]")


def left(built: Any) -> None:
    built.tokenizer.truncation_side = "left"
    built.max_seq_length = 5


def right(built: Any) -> None:
    built.max_seq_length = 5


def trained(built: Any) -> None:
    for parameter in built.parameters():
        parameter.data.add_(0.05)  # unseen by torch's own version counters


def router(mode: str = "mean", default: str = "document", dense: Any = None) -> Any:
    parts = [transformer(), st.Pooling(SIZE, pooling_mode=mode), *([] if dense is None else [dense()])]
    return sequence(st.Router.for_query_document([static()], parts, default_route=default))


class Scaled(torch.nn.Module):
    """A custom module."""

    def __init__(self, scale: float = 1.0, shift: float = 0.0, axis: Any = (-1,)) -> None:
        super().__init__()
        self.scale, self.axis = scale, axis
        self.register_buffer("shift", torch.full((SIZE,), shift), persistent=False)

    def forward(self, features: Any) -> Any:
        vector = features["sentence_embedding"]
        features["sentence_embedding"] = (vector * self.scale + self.shift + (vector > 0)).flip(self.axis[0])
        return features


class Doubled(torch.nn.Module):
    """Wraps a layer and has no tensors of its own."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any) -> Any:
        return 2 * self.inner(*args)


def wrapped_layer(built: Any) -> None:
    layer = built[0].auto_model.encoder.layer[1].output
    layer.dense = Doubled(layer.dense)


def replaced_tensor(built: Any) -> None:
    layer = built[0].auto_model.encoder.layer[1].output.dense
    layer.weight = torch.nn.Parameter(layer.weight.detach().flip(0))


def from_source(source: str, **names: Any) -> Any:
    """Return the object that a source defines as ``made``, in a module of its own."""
    space: dict[str, Any] = {"__name__": "code_of_a_user", **names}
    exec(source, space)
    return space["made"]


def hooked(source: str, **names: Any) -> Any:
    """Return a change that registers a forward hook on a model's pooling."""
    return lambda built: built[1].register_forward_hook(from_source(source, **names))


HOOK = """
def made(module, args, output, power={default}):
    output["sentence_embedding"] = abs(output["sentence_embedding"]) ** power {operation}
"""

HOOK_WITH_GLOBAL = """
def made(module, args, output):
    output["sentence_embedding"] = abs(output["sentence_embedding"]) ** POWER
"""


def repeated(times: int) -> Any:
    """Return a change that replaces a pooling's forward by a function that captures a number."""

    def change(built: Any) -> None:
        usual = built[1].forward

        def forward(features: Any, **kwargs: Any) -> Any:
            features = usual(features, **kwargs)
            features["sentence_embedding"] = features["sentence_embedding"].roll(times, -1)
            return features

        built[1].forward = forward

    return change


OWN_MODULE = """
import torch

class made(torch.nn.Module):
    def forward(self, features):
        features["sentence_embedding"] = features["sentence_embedding"] {operation}
        return features
"""


def own_source(operation: str) -> Any:
    return lambda: sequence(static(), from_source(OWN_MODULE.format(operation=operation))())


class Adjusted(torch.nn.Module):
    """A custom module whose attributes determine its output."""

    def __init__(self, name: str = "flip", function: Any = torch.relu, shift: float = 0.0, axes: Any = (-1,)) -> None:
        super().__init__()
        self.name, self.function, self.axes = name, function, axes
        self.shift = torch.linspace(0, shift, SIZE)  # a tensor that is not a buffer

    def forward(self, features: Any) -> Any:
        vector = self.function(features["sentence_embedding"]) + self.shift
        features["sentence_embedding"] = vector.flip(*self.axes) if self.name == "flip" else vector
        return features


def adjusted(**settings: Any) -> Any:
    return lambda: sequence(static(), Adjusted(**settings))


def dense(activation: Any) -> Any:
    return seeded(lambda: st.Dense(SIZE, SIZE, activation_function=activation))


def routed(query: Any, document: Any) -> Any:
    routes = {"query": [static(), dense(query)], "document": [static(), dense(document)]}
    return lambda: sequence(st.Router(routes, default_route="document"))


def tokenizing(**steps: Any) -> Any:
    """Return a change of a fast tokenizer's steps."""

    def change(built: Any) -> None:
        for name, step in steps.items():
            setattr(built.tokenizer.backend_tokenizer, name, step)

    return change


def merging(*merges: tuple[str, str]) -> Any:
    """Return a model of letters and two syllables, which the merges make."""
    vocabulary = {token: number for number, token in enumerate([*"apersn dt,", "pe", "ea"])}
    built = static()
    built.tokenizer = Tokenizer(BPE(vocabulary, list(merges)))
    return lambda: sequence(built)


def quantized() -> Any:
    return torch.ao.quantization.quantize_dynamic(model(), {torch.nn.Linear}, torch.qint8)


def darker(built: Any) -> None:
    built[0].processor.image_processor.image_mean = [0.9, 0.1, 0.5]


def pictures() -> list[Any]:
    from PIL import Image

    return [Image.new("RGB", (32, 32), color) for color in ("red", "olive")]


def own(**settings: Any) -> Any:
    return lambda: sequence(static(), Scaled(**settings))


def weighted_bow(built: Any) -> None:
    built[0].weights[WORDS.index("sea")] = 9.0


def bow(vocab: list[str], change: Any = None, **kwargs: Any) -> Any:
    def make() -> Any:
        built = sequence(st.BoW(vocab, **kwargs))
        if change is not None:
            change(built)
        return built

    return make


def attention(built: Any) -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    def own_attention(module: Any, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> Any:
        return value.transpose(1, 2).contiguous(), None

    ALL_ATTENTION_FUNCTIONS.register("own-attention", own_attention)
    built[0].auto_model.config._attn_implementation = "own-attention"


PAIRS = {
    "rope_theta": Pair(
        changed(None, "qwen"), changed(None, "qwen", rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
        (CONFIG,),
    ),
    "rope_scaling": Pair(
        changed(None, "qwen"),
        changed(None, "qwen", rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}), (CONFIG,),
    ),
    "activation in the configuration": Pair(model, changed(None, hidden_act="relu"), (CONFIG,)),
    "number of heads": Pair(model, changed(None, num_attention_heads=2), (CONFIG,)),
    "norm epsilon in the configuration": Pair(model, changed(None, layer_norm_eps=0.9), (CONFIG,)),
    "attention direction": Pair(changed(None, "qwen"), changed(bidirectional, "qwen"), (CONFIG, CHANGED)),
    "attention function of one's own": Pair(model, changed(attention), ((modules, "attention_of"),)),
    "class of the repository's own": Pair(changed(None, "qwen"), changed(other_class, "qwen"), (CLASS, PARTS)),
    "an activation replaced": Pair(model, changed(relu), (DIFFERENCES,)),
    "class of one layer": Pair(model, changed(louder_layer), (DIFFERENCES,)),
    "norm epsilon of one layer": Pair(model, changed(epsilon), (CHANGED,)),
    "rotary frequencies": Pair(changed(None, "qwen"), changed(frequencies, "qwen"), (BUFFERS,)),
    "a forward hook": Pair(model, changed(steering(3.0)), (HOOKS,)),
    "the tensor of a forward hook": Pair(changed(steering(-3.0)), changed(steering(3.0)), (HOOKS,)),
    "a forward pre-hook": Pair(model, changed(steering_pre), (HOOKS,)),
    "a replaced forward": Pair(model, changed(steering_by_method), (BEHAVIOUR,)),
    "a replaced preprocess": Pair(model, changed(preprocessing), (BEHAVIOUR,)),
    "an added token": Pair(model, changed(more_tokens), (TOKENIZER,)),
    "the tokenizer's normalizer": Pair(model, changed(cased), (TOKENIZER,)),
    "the vocabulary": Pair(model, changed(other_vocabulary), (TOKENIZER,)),
    "truncation side": Pair(changed(right), changed(left), (TOKENIZER,)),
    "truncation of a static embedding's tokenizer": Pair(
        lambda: sequence(static()), lambda: sequence(_shortened(static())), (TOKENIZER,)
    ),
    "the end of a text, for CLIP": Pair(lambda: _ending(102), lambda: _ending(2), (CONFIG,)),
    "vocabulary of a static embedding": Pair(
        lambda: sequence(static()), lambda: sequence(_lowered(static())), (TOKENIZER,)
    ),
    "weights, changed in place": Pair(model, changed(trained), (WEIGHTS,)),
    "dtype": Pair(model, lambda: model().bfloat16(), (WEIGHTS,)),
    "pooling": Pair(model, lambda: sequence(transformer(), st.Pooling(SIZE, pooling_mode="cls")), (SETTINGS,)),
    "pooling in a router": Pair(router, lambda: router("cls"), (SETTINGS,)),
    "the default route": Pair(router, lambda: router(default="query"), (SETTINGS,)),
    "a normalising layer": Pair(
        lambda: sequence(transformer(), st.Pooling(SIZE), torch.nn.Identity()),
        lambda: sequence(transformer(), st.Pooling(SIZE), st.Normalize()), (CLASS, PARTS),
    ),
    "activation of a dense layer": Pair(
        lambda: sequence(static(), seeded(lambda: st.Dense(SIZE, 8))),
        lambda: sequence(static(), seeded(lambda: st.Dense(SIZE, 8, activation_function=torch.nn.ReLU()))), (CLASS,),
    ),
    "a function as a dense layer's activation": Pair(
        lambda: sequence(static(), seeded(lambda: st.Dense(SIZE, 8, activation_function=torch.relu))),
        lambda: sequence(static(), seeded(lambda: st.Dense(SIZE, 8, activation_function=torch.sin))), (FUNCTIONS,),
    ),
    "order of a bag of words": Pair(bow(WORDS), bow(WORDS[::-1]), (SETTINGS, TOKENIZER)),
    "weights of a bag of words": Pair(bow(WORDS), bow(WORDS, word_weights={"sea": 5.0}), (SETTINGS,)),
    "weights of a bag of words, set later": Pair(bow(WORDS), bow(WORDS, weighted_bow), (SETTINGS,)),
    "stop words": Pair(
        lambda: sequence(words(), st.Pooling(SIZE)), lambda: sequence(_without_stop_words(), st.Pooling(SIZE)),
        (TOKENIZER,),
    ),
    "order of two layers": Pair(
        lambda: sequence(static(), dense(torch.nn.ReLU()), dense(torch.nn.Tanh())),
        lambda: sequence(static(), dense(torch.nn.Tanh()), dense(torch.nn.ReLU())), (CLASS,),
    ),
    "what a route holds": Pair(
        routed(torch.nn.ReLU(), torch.nn.Tanh()), routed(torch.nn.Tanh(), torch.nn.ReLU()), (CLASS,)
    ),
    "a wrapped layer": Pair(model, changed(wrapped_layer), (DIFFERENCES,)),
    "the source of a hook": Pair(
        changed(hooked(HOOK.format(default=1, operation=""))), changed(hooked(HOOK.format(default=1, operation="+ 1"))),
        (CODE,),
    ),
    "the defaults of a hook": Pair(
        changed(hooked(HOOK.format(default=1, operation=""))), changed(hooked(HOOK.format(default=3, operation=""))),
        (HOOKS,),
    ),
    "a global that a hook reads": Pair(
        changed(hooked(HOOK_WITH_GLOBAL, POWER=1)), changed(hooked(HOOK_WITH_GLOBAL, POWER=3)), (GLOBALS,)
    ),
    "what a replaced forward captures": Pair(changed(repeated(1)), changed(repeated(2)), (CLOSURE,)),
    "the source of a module of one's own": Pair(own_source("+ 1"), own_source("- 1"), (CLASS,)),
    "a text in a module of one's own": Pair(adjusted(), adjusted(name="as it is"), (ATTRIBUTES,)),
    "a function in a module of one's own": Pair(adjusted(), adjusted(function=torch.sin), (ATTRIBUTES,)),
    "a tensor in a module of one's own": Pair(adjusted(), adjusted(shift=4.0), (ATTRIBUTES,)),
    "a tuple in a module of one's own": Pair(adjusted(), adjusted(axes=(0, -1)), (ATTRIBUTES,)),
    "the pre-tokenizer": Pair(
        model, changed(tokenizing(pre_tokenizer=pre_tokenizers.Split("e", "isolated"))), (TOKENIZER,)
    ),
    "the post-processor": Pair(
        model,
        changed(tokenizing(post_processor=processors.BertProcessing(("[CLS]", 101), ("[CLS]", 101)))), (TOKENIZER,),
    ),
    "the merges": Pair(merging(("p", "e")), merging(("e", "a")), (TOKENIZER,)),
    "the image processor": Pair(
        lambda: sequence(st.CLIPModel(clip())), lambda: _changed(sequence(st.CLIPModel(clip())), darker), (TOKENIZER,),
        pictures(),
    ),
    "dynamic quantization": Pair(model, quantized, (DIFFERENCES, WEIGHTS, PARTS)),
    "a replaced tensor": Pair(model, changed(replaced_tensor), (WEIGHTS,)),
    "a number in a module of one's own": Pair(own(), own(scale=-2.0), (ATTRIBUTES,)),
    "a buffer that is not saved": Pair(own(), own(shift=4.0), (BUFFERS,)),
}  # fmt: skip


def _lowered(module: Any) -> Any:
    module.tokenizer.normalizer = normalizers.Replace("e", "a")
    return module


def _changed(built: Any, change: Any) -> Any:
    change(built)
    return built


def _shortened(module: Any) -> Any:
    module.tokenizer.enable_truncation(2)
    return module


def _ending(token: int) -> Any:
    built = sequence(st.CLIPModel(clip()))
    text = built[0].model.text_model
    text.eos_token_id = text.config.eos_token_id = token
    return built


def _without_stop_words() -> Any:
    table = words()
    table.tokenizer.stop_words = {"sea"}
    return table


def identity(built: Any) -> dict[str, Any]:
    return describe(built).identity()


@pytest.mark.parametrize("name", sampled(PAIRS, keep=10))
def test_changes_of_vectors_are_in_the_description(name: str, figure: Any) -> None:
    """Models with different vectors have different descriptions, before and after encoding, and fingerprints."""
    one, other = PAIRS[name].one(), PAIRS[name].other()
    before = identity(one), identity(other)
    first, second = encoded(one, PAIRS[name].items), encoded(other, PAIRS[name].items)
    assert first.shape != second.shape or not torch.allclose(first, second, atol=1e-4), "the vectors do not differ"
    if first.shape == second.shape:
        cosine = torch.nn.functional.cosine_similarity(first, second).min().item()
        figure(f"cosine of what would be served, in thousandths: {name}", round(1000 * cosine))
    assert before[0] != before[1]
    assert (identity(one), identity(other)) == before
    assert identity(PAIRS[name].other()) == before[1]
    assert weights_fingerprint(one) != weights_fingerprint(other)


CHANGES = [name for name, pair in PAIRS.items() if getattr(pair.other, "func", None) is model and pair.other.args[1]]


@pytest.mark.parametrize("name", sampled(CHANGES, keep=4))
def test_a_change_after_a_description_is_seen(name: str) -> None:
    """Nothing that is remembered for a model hides a later change."""
    kind, change = PAIRS[name].other.args
    built = model(kind)
    before = identity(built)
    change(built)
    assert identity(built) == identity(PAIRS[name].other()) != before


LATER = {
    "a hook": lambda layer: layer.register_forward_hook(lambda module, args, output: -output),
    "a pre-hook": lambda layer: layer.register_forward_pre_hook(lambda module, args: (-args[0],)),
    "a replaced method": lambda layer: setattr(layer, "forward", lambda *args: None),
    "a class": lambda layer: setattr(layer, "__class__", Louder),
    "a number": lambda layer: setattr(layer, "in_features", 7),
    "an attribute": lambda layer: setattr(layer, "scale", 7),
    "a replaced tensor": lambda layer: setattr(layer, "weight", torch.nn.Parameter(layer.weight.detach().flip(0))),
    "no tensor": lambda layer: setattr(layer, "bias", None),
    "a buffer": lambda layer: layer.register_buffer("mask", torch.ones(1)),
    "a buffer that is not saved": lambda layer: layer.register_buffer("mask", torch.full((1,), 0.5), persistent=False),
    "a module inside": lambda layer: setattr(layer, "inner", torch.nn.Linear(2, 2)),
    "a parametrization": torch.nn.utils.parametrizations.weight_norm,
    "a tensor in another order": lambda layer: layer.weight.requires_grad_(False).t_(),
}


@pytest.mark.parametrize("name", LATER)
def test_a_described_layer_is_compared_again(name: str) -> None:
    """A change of a layer that was remembered as standard is in the description."""
    built = model()
    before = identity(built)
    assert identity(built) == before
    LATER[name](built[0].auto_model.encoder.layer[1].attention.self.query)
    assert identity(built) != before


@pytest.mark.parametrize("name", sampled([name for name, pair in PAIRS.items() if pair.blind], keep=12))
def test_without_the_part_that_describes_it_two_models_are_equal(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part of a description is needed: without it the test above fails."""
    one, other = PAIRS[name].one(), PAIRS[name].other()
    for owner, member in PAIRS[name].blind:
        monkeypatch.setattr(owner, member, BLIND.get(member, lambda *args, **kwargs: {}))
    assert identity(one) == identity(other)


BLIND = {
    "own_class": lambda self, cls, where: {},
    "_sample": lambda *args: "",
    "_parts_of": lambda built: (),
    "attention_of": lambda config: None,
    "code_hash": lambda code: "",
}


@contextlib.contextmanager
def everywhere(register: Any, hook: Any) -> Iterator[None]:
    """Have torch run a hook on every module."""
    handle = register(hook)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def patched(cls: type, name: str, make: Any) -> Iterator[None]:
    """Replace a method of a library's class."""
    usual = getattr(cls, name)
    setattr(cls, name, make(usual))
    try:
        yield
    finally:
        setattr(cls, name, usual)


def _first_token(given: dict[str, Any]) -> Any:
    length = given["inputs_embeds"].shape[1]
    return (torch.arange(length) == 0).expand(len(given["inputs_embeds"]), 1, length, length)


def _louder_norm(module: Any, args: Any, output: Any = None) -> Any:
    if isinstance(module, torch.nn.LayerNorm):
        return args[0] ** 3 if output is None else output**3
    return None


IN_FORCE = {
    "a hook on all modules": (
        lambda: everywhere(torch.nn.modules.module.register_module_forward_hook, _louder_norm), GLOBAL_HOOKS,
    ),
    "a pre-hook on all modules": (
        lambda: everywhere(torch.nn.modules.module.register_module_forward_pre_hook, _louder_norm), GLOBAL_HOOKS,
    ),
    "a patched class of sentence-transformers": (
        lambda: patched(
            st.Pooling, "forward",
            lambda usual: lambda self, features: usual(self, {**features, "token_embeddings":
                                                             features["token_embeddings"] ** 3}),
        ),
        PATCHED,
    ),
    "a patched class of torch": (
        lambda: patched(torch.nn.LayerNorm, "forward", lambda usual: lambda self, inputs: usual(self, inputs) ** 3),
        PATCHED,
    ),
    "a patched function of torch": (
        lambda: patched(torch.nn.functional, "layer_norm", lambda usual: lambda *args: usual(*args) ** 3),
        (description, "foreign_functions"),
    ),
    "a patched function of transformers": (
        lambda: patched(bert, "create_bidirectional_mask", lambda usual: lambda *args, **kwargs: _first_token(kwargs)),
        PATCHED,
    ),
    "a patched class of tokenizers": (
        lambda: patched(
            PreTrainedTokenizerBase, "__call__",
            lambda usual: lambda self, text, *args, **kwargs: usual(self, [t[:3] for t in text], *args, **kwargs),
        ),
        (tokenizers, "foreign_methods"),
    ),
}  # fmt: skip
"""Changes of a library itself: a context in which they apply, and the function that describes them."""


@pytest.mark.parametrize("name", IN_FORCE)
def test_changes_of_a_library_are_in_the_description(name: str, monkeypatch: pytest.MonkeyPatch, figure: Any) -> None:
    """A hook on all modules or a patched class changes the description of a loaded model, until it is undone."""
    context, (owner, member) = IN_FORCE[name]
    built = model()
    usual, before = encoded(built), identity(built)
    with context():
        now = encoded(built)
        assert not torch.allclose(usual, now, atol=1e-4), "the vectors do not differ"
        cosine = torch.nn.functional.cosine_similarity(usual, now).min().item()
        figure(f"cosine of what would be served, in thousandths: {name}", round(1000 * cosine))
        assert identity(built) != before
        with monkeypatch.context() as patch:
            patch.setattr(owner, member, lambda *args: {})
            assert identity(built) == before
    assert identity(built) == before


def test_the_chat_template_is_in_the_description() -> None:
    """The chat template is described, because it converts messages to text."""
    built = model()
    before = identity(built)
    built.tokenizer.chat_template = "{{ messages }}"
    assert identity(built) != before


def test_a_few_rows_of_a_large_table_are_in_the_fingerprint_alone() -> None:
    """A description samples 64 values of a tensor, so only the fingerprint shows a few changed rows."""
    one, other = model(), model()
    table = other[0].auto_model.embeddings.word_embeddings.weight
    table.data[other.tokenizer("sea", add_special_tokens=False)["input_ids"]] *= -1
    assert not torch.allclose(encoded(one), encoded(other), atol=1e-3)
    assert identity(one) == identity(other)
    assert weights_fingerprint(one) != weights_fingerprint(other)


def test_the_code_of_a_function_counts_and_where_it_stands_does_not() -> None:
    """Functions with one name differ by code, closure, defaults and globals, and not by their position."""

    def made(source: str, **names: Any) -> Any:
        space: dict[str, Any] = {"__name__": "somebody", **names}
        exec(source, space)
        return space["f"]

    plain = CodeReader().callable(made("def f(x): return x + 1"), "f")
    assert CodeReader().callable(made("\n\n\ndef f(x): return x + 1"), "f") == plain
    others = [
        made("def f(x): return x + 2"),
        made("def f(x, y=1): return x + 1"),
        made("def f(x): return x + A", A=1),
        made("def f(x): return x + A", A=2),
        made("def f(x): return (lambda y: y + A)(x) + (lambda y: y + B)(x)", A=1, B=1),  # two functions of one name
        made("def f(x): return (lambda y: y + A)(x) + (lambda y: y + B)(x)", A=2, B=1),
        made("def g(x): return x\ndef f(x): return g(x)"),
        made("def g(x): return -x\ndef f(x): return g(x)"),
        functools.partial(made("def f(x): return x + 1"), 1),
        functools.partial(made("def f(x): return x + 1"), 2),
    ]
    described = [repr(CodeReader().callable(other, "f")) for other in others]
    assert len({repr(plain), *described}) == 1 + len(others)


def test_objects_that_cannot_be_described_are_refused() -> None:
    """A hook that refers to an object without readable state is an error that says how to describe it."""
    import re

    pattern = re.compile("x").scanner("x")  # an object of C, with hidden state

    def hook(module: Any, args: Any, output: Any) -> Any:
        return output if pattern else None

    built = model()
    built[1].register_forward_hook(hook)
    with pytest.raises(description_error(), match="cas_cache_identity"):
        describe(built)
    hook.cas_cache_identity = "steering-v1"
    first = identity(built)
    hook.cas_cache_identity = "steering-v2"
    assert identity(built) != first


def description_error() -> type[Exception]:
    from cas_cache.errors import IdentityError

    return IdentityError


def compiled(built: Any) -> None:
    built[0].model = torch.compile(built[0].auto_model)


def compiled_by_its_other_name(built: Any) -> None:
    built[0].auto_model = torch.compile(built[0].auto_model)


def evaluated(built: Any) -> None:
    built.train()


def renamed(built: Any) -> None:
    built[0].auto_model.config._name_or_path = "/home/alice/model"
    built.tokenizer.name_or_path = "/home/alice/model"
    built[0].auto_model.config.transformers_version = "1.2.3"


NEUTRAL = {
    "torch.compile": changed(compiled),
    "torch.compile as auto_model": changed(compiled_by_its_other_name),
    "training mode": changed(evaluated),
    "names and paths": changed(renamed),
    "attention kernels": lambda: sequence(
        st.Transformer(transformer().auto_model.config._name_or_path, model_kwargs={"attn_implementation": "eager"}),
        st.Pooling(SIZE, pooling_mode="mean"),
    ),
    "defaults spelled out": changed(None, hidden_act="gelu", layer_norm_eps=1e-12, max_position_embeddings=512),
    "having encoded": changed(lambda built: built.encode([*TEXTS, "longer " * 40], batch_size=2)),
    "a copy": lambda: copy.deepcopy(model()),
}


@pytest.mark.parametrize("name", sampled(NEUTRAL, keep=9))
def test_neutral_changes_are_not_in_the_description(name: str) -> None:
    """Speed, paths, versions and defaults do not change a description."""
    assert identity(NEUTRAL[name]()) == identity(model())


@pytest.mark.parametrize("kind", ["Asym", "StaticEmbedding", "CNN"])
def test_a_model_that_was_saved_and_loaded_is_described_alike(kind: str, tmp_path: Path) -> None:
    """A saved and loaded model has the same description, also if its layers no longer share an activation."""
    built = every_kind()[kind]()
    built.save(str(tmp_path))
    assert identity(SentenceTransformer(str(tmp_path), device="cpu")) == identity(built)


def test_changes_in_place_are_seen_at_once_and_taken_back() -> None:
    """Each change in place changes the description at once, and undoing it restores the description."""
    built = model()
    before = identity(built)
    parameter = next(built.parameters())
    values = parameter.data.clone()
    parameter.data.add_(1)
    assert identity(built) != before
    parameter.data.copy_(values)
    assert identity(built) == before
    parameter.data = values.clone()  # other memory
    parameter.data.mul_(2)
    assert identity(built) != before


def test_a_model_without_tensors_has_no_fingerprint_of_nothing() -> None:
    """A model without distinguishing content has no fingerprint; a bag of words has one by its vocabulary."""
    with pytest.raises(description_error(), match="revision="):
        weights_fingerprint(torch.nn.Identity())
    assert weights_fingerprint(bow(WORDS)()) != weights_fingerprint(bow(WORDS[1:])())


def test_names_of_classes() -> None:
    """A class of a library is named by its package, any other class by its module."""
    assert class_name(torch.nn.Linear) == "torch:Linear"
    assert class_name(st.Pooling) == "sentence_transformers:Pooling"
    assert class_name(Scaled) == f"{__name__}:Scaled"
    assert not is_library(Scaled)
    assert is_library(parts.HOOKS.__class__)
    assert tokenizer().get_vocab_size() > 0
