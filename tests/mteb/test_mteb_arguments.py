"""The arguments of loaders and of encode: credentials and switches stay out of an identity, settings are in it."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import sys

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from cas_cache.errors import IdentityError, InvalidItem, MissingDependency
from cas_cache.mteb import CachedEmbeddingWrapper, compat, spec_of
from cas_cache.mteb.binding import backend
from mteb_encoders import HashEncoder
from mteb_tasks import loader, metadata

TASK = metadata("A")
SECRET = "hf_" + "aB3xY" * 7
PREFIX = "query: "


def encoder(**arguments):
    """An encoder as `mteb.get_model(name, **arguments)` returns one."""
    made = HashEncoder()
    updates = {"experiment_kwargs": arguments or None, "loader_kwargs": arguments}
    made.mteb_model_meta = made.mteb_model_meta.model_copy(update=updates)
    return made


def identity(*, encode=None, **arguments):
    return spec_of(encoder(**arguments), TASK, encode_kwargs=encode).namespace


@pytest.mark.parametrize(
    "arguments",
    [
        {"token": SECRET}, {"use_auth_token": True}, {"api_key": "x"}, {"client": ...}, {"HF_TOKEN": "x"},
        {"default_headers": {"Authorization": f"Bearer {SECRET}"}}, {"model_kwargs": {"token": SECRET}},
        {"tokenizer_kwargs": {"use_auth_token": SECRET, "cache_dir": "/home/alice"}},
        {"device": "cuda"}, {"device_map": "auto"}, {"cache_folder": "/home/alice"}, {"local_files_only": True},
        {"trust_remote_code": True}, {"attn_implementation": "sdpa"}, {"max_retries": 3}, {"timeout": 2.5},
        {"model_kwargs": {"attn_implementation": "eager", "device_map": {"": 0}}},
        {"config_kwargs": {"cache_dir": "x"}},
        {"model_kwargs": {}}, {"truncate_dim": None}, {"model_kwargs": {"torch_dtype": None}}, {"num_workers": 4},
    ],
    ids=str,
)  # fmt: skip
def test_neutral_arguments_are_not_in_the_identity(arguments):
    """Such arguments of the loader and of encode, also nested ones, do not change the namespace."""
    assert identity(**arguments) == identity()
    assert identity(encode=arguments) == identity()
    spec = spec_of(encoder(**arguments), TASK, encode_kwargs=arguments)
    assert SECRET.encode() not in spec.canonical()


@pytest.mark.filterwarnings("ignore")
def test_what_a_known_model_was_loaded_with_shows_in_the_model():
    """The description of the model shows the effect of loader arguments; the arguments are in the appearance."""
    pytest.importorskip("torch")
    from mteb.models import SentenceTransformerEncoderWrapper

    from tiny_models import sequence, static

    def model(change=None, **arguments):
        built = sequence(static())
        if change is not None:
            change(built)
        made = SentenceTransformerEncoderWrapper(built)
        made.mteb_model_meta = made.mteb_model_meta.model_copy(update={"experiment_kwargs": arguments or None})
        return made

    def namespace(made, **encode):
        return spec_of(made, TASK, encode_kwargs=encode, model_id="org/m", revision="abc1234").namespace

    plain = namespace(model())
    dtype = {"model_kwargs": {"torch_dtype": "float32"}}
    assert namespace(model(**dtype)) == namespace(model(backend="torch")) == plain
    assert namespace(model(lambda built: built.half(), **dtype)) != plain
    assert namespace(model(), output_value="sentence_embedding", precision="float32") == plain
    assert compat.appearance(model(**dtype)) != compat.appearance(model())
    assert SECRET not in str(compat.appearance(model(token=SECRET)))


def test_arguments_that_change_vectors_are_in_the_identity():
    """Arguments that change vectors count, also beside a credential; of a URL the password does not count."""
    specs = [
        {}, {"max_tokens": 5}, {"max_tokens": 6}, {"pad_token": "[PAD]"}, {"base_url": "https://a.example.org"},
        {"base_url": "https://b.example.org"}, {"model_kwargs": {"torch_dtype": "float16"}},
        {"prompts": {"timeout": "a"}},
        {"prompts": {"timeout": "b"}}, {"truncate_dim": 64},
    ]  # fmt: skip
    assert len({identity(token="x", **arguments) for arguments in specs}) == len(specs)
    assert identity(base_url=f"https://me:{SECRET}@a.example.org") == identity(base_url="https://a.example.org")


@dataclasses.dataclass
class Quantization:
    """Settings in an object, as a `BitsAndBytesConfig`."""

    bits: int
    api_key: str = SECRET

    def to_dict(self):
        return {"bits": self.bits, "api_key": self.api_key, "transformers_version": "5.24"}


class Opaque:
    """An object without settings."""


def adds(prefix):
    return lambda text: prefix + text


def uses_global(text):
    return PREFIX + text


def test_objects_are_described_by_their_settings():
    """Objects are described by `to_dict` if they have it, and dataclasses by their fields."""
    assert identity(config=Quantization(4)) == identity(config=Quantization(4))
    assert identity(config=Quantization(4)) != identity(config=Quantization(8))
    assert SECRET.encode() not in spec_of(encoder(config=Quantization(4)), TASK).canonical()


def test_functions_are_described_by_what_they_do(monkeypatch):
    """A function is described by name, code, defaults, closure and the globals that it uses."""
    assert identity(fn=adds("a")) == identity(fn=adds("a"))
    different = [adds("a"), adds("b"), lambda text: text, lambda text: text + "x", lambda text, x="y": text + x, len]
    different += [functools.partial(adds, "a"), functools.partial(adds, "b")]
    assert len({identity(fn=function) for function in different}) == len(different)
    before = identity(fn=uses_global)
    monkeypatch.setitem(globals(), "PREFIX", "passage: ")
    assert identity(fn=uses_global) != before


def word_tokenizer(*words):
    return Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token=words[0]))


def lowers_for(part):
    return lambda text: part(text.lower())


def constant_layer(value):
    layer = torch.nn.Linear(2, 2)
    for tensor in layer.parameters():
        torch.nn.init.constant_(tensor, value)
    return layer


@pytest.mark.parametrize(
    "make", [constant_layer, lambda value: word_tokenizer(f"word {value}", "b")], ids=["module", "tokenizer"]
)
def test_models_of_libraries_are_described_by_what_they_compute(make):
    """Weights and vocabularies count, not only the class; also those of a model that a function uses."""
    assert identity(part=make(0)) == identity(part=make(0))
    assert identity(part=make(0)) != identity(part=make(1))
    assert identity(part=lowers_for(make(0))) == identity(part=lowers_for(make(0)))
    assert identity(part=lowers_for(make(0))) != identity(part=lowers_for(make(1)))


def test_a_function_with_the_name_of_a_library_is_described():
    """A wrapper that has the name of the function that it wraps is not taken for it."""

    def wrapping(function):
        return functools.wraps(torch.nn.functional.relu)(lambda values: function(values) + 1)

    functions = [torch.nn.functional.relu, wrapping(len), wrapping(sum), torch.tanh, np.tanh, np.mean]
    functions += [torch.nn.functional.max_pool1d, torch.nn.functional.max_pool2d]
    assert len({identity(fn=function) for function in functions}) == len(functions)


STATEFUL = {
    "object": Opaque(),
    "method": Opaque().__repr__,
    "closure": adds(Opaque()),
    "method of a library": word_tokenizer("a").encode,
    "method of a tensor": torch.ones(2).add,
    "callable of a library": np.vectorize(len),
    "ufunc of a function": np.frompyfunc(len, 1, 1),
}


@pytest.mark.parametrize("thing", STATEFUL.values(), ids=STATEFUL)
def test_what_cannot_be_described_is_refused_in_the_constructor(thing, tmp_path):
    """An argument that cannot be described is an error, unless the user passes model_id and revision."""
    with pytest.raises(IdentityError, match=r"loader argument quantization .*model_id= and revision=") as caught:
        CachedEmbeddingWrapper(encoder(quantization=thing), tmp_path)
    assert "encode argument" not in str(caught.value)
    assert not list(tmp_path.iterdir())
    with pytest.raises(IdentityError):
        CachedEmbeddingWrapper(encoder(quantization=thing), tmp_path, revision="4-bit")
    wrapped = CachedEmbeddingWrapper(encoder(quantization=thing), tmp_path, model_id="org/m", revision="4-bit")
    assert len(wrapped.encode(loader(["a"]), task_metadata=TASK, hf_split="test", hf_subset="default")) == 1


def test_given_names_reach_the_metadata_of_mteb(tmp_path):
    """The result cache of mteb sees the given name and revision, so it does not mix two local models."""
    plain = encoder()
    wrapped = CachedEmbeddingWrapper(plain, tmp_path, model_id="me/tuned", revision="run-7")
    assert (wrapped.mteb_model_meta.name, wrapped.mteb_model_meta.revision) == ("me/tuned", "run-7")
    assert plain.mteb_model_meta.name != "me/tuned"
    own = CachedEmbeddingWrapper(plain, tmp_path)
    assert own.mteb_model_meta is plain.mteb_model_meta


def test_a_backend_of_mteb_holds_no_token(tmp_path):
    """The wrapper of mteb names folders by arguments that include the token; nothing in the cache contains it."""
    model = encoder(token=SECRET, max_tokens=7)
    made = backend(model)
    folder = tmp_path / "T" / "experiments" / model.mteb_model_meta.experiment_name / "query"
    cache = made(folder)
    assert cache.spec.params["experiment"]["max_tokens"] == 7
    assert SECRET.encode() not in cache.spec.canonical()


def test_texts_are_not_a_loader(tmp_path):
    """Plain texts instead of a loader are an error that names the right function."""
    wrapped = CachedEmbeddingWrapper(encoder(), tmp_path)
    with pytest.raises(InvalidItem, match=r"not the DataLoader .*EmbeddingCache\.encode"):
        wrapped.encode(["a"], task_metadata=TASK, hf_split="test", hf_subset="default")


def test_an_older_mteb_is_refused_by_name(monkeypatch):
    """An older mteb is an error that names the oldest supported release."""
    monkeypatch.setattr(compat, "version", lambda _: "1.39.7")
    monkeypatch.setattr(compat, "requires", lambda _: ['mteb>=2.8; extra == "mteb"'])
    with pytest.raises(MissingDependency, match=r"mteb 1\.39\.7 is older than mteb 2\.8"):
        compat.require_mteb()


def test_an_mteb_whose_import_fails_is_not_missing(monkeypatch):
    """If importing mteb fails, the error says so and names the cause."""
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(MissingDependency, match=r"is installed, but importing it fails .*mteb") as caught:
        compat.require_mteb()
    assert "not installed" not in str(caught.value)

    def missing(_):
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(compat, "version", missing)
    with pytest.raises(MissingDependency, match="not installed"):
        compat.require_mteb()
