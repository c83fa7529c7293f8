"""What differs in anything that may change a vector never meets on one path; what does not, always does."""

import itertools

import numpy as np
import pytest
from mteb.types import PromptType

from cas_cache.errors import IdentityError, UnpinnedModel
from cas_cache.mteb import CachedEmbeddingWrapper, spec_of
from mteb_integration.mteb_encoders import HashEncoder, TitleBodyEncoder
from mteb_integration.mteb_tasks import loader, metadata

TEXTS = [f"topic{i}" for i in range(9)]
CALL = {"task_metadata": metadata("A"), "hf_split": "test", "hf_subset": "default"}
QUERY = {"prompt_type": PromptType.query}

# A plain call, and calls that differ from it and from one another in one thing.
CALLS = {
    "plain": (HashEncoder, {}, {}),
    "model": (HashEncoder, {"name": "test/other"}, {}),
    "revision": (HashEncoder, {"revision": "r2"}, {}),
    "query": (HashEncoder, {}, QUERY),
    "document": (HashEncoder, {}, {"prompt_type": PromptType.document}),
    "prompt": (HashEncoder, {"prompts": {"query": "query: "}}, QUERY),
    "another prompt": (HashEncoder, {"prompts": {"query": "Query: "}}, QUERY),
    "int8": (HashEncoder, {}, {"precision": "int8"}),
    "binary": (HashEncoder, {}, {"precision": "binary"}),
    "kwarg": (HashEncoder, {}, {"anything": 1}),
    "kwarg's value": (HashEncoder, {}, {"anything": 2}),
    "kwarg's type": (HashEncoder, {}, {"anything": "1"}),
    "normalize": (HashEncoder, {}, {"normalize_embeddings": True}),
    "truncate_dim": (HashEncoder, {}, {"truncate_dim": 8}),
    "another truncate_dim": (HashEncoder, {}, {"truncate_dim": 16}),
    "experiment": (HashEncoder, {"experiment": {"a": 1}}, {}),
    "another experiment": (HashEncoder, {"experiment": {"a": "1"}}, {}),
    "task": (HashEncoder, {}, {"task_metadata": metadata("B")}),
    "task type": (HashEncoder, {}, {"task_metadata": metadata("A", "Reranking")}),
    "subset": (HashEncoder, {}, {"hf_subset": "fra"}),
    "split": (HashEncoder, {}, {"hf_split": "dev"}),
    "class": (TitleBodyEncoder, {}, {"another": "class"}),
}


def test_no_two_calls_that_differ_ever_meet(tmp_path):
    """On one path each call gets its own vectors, cold and warm, and each pair has namespaces of its own."""
    namespaces = {}
    for name, (encoder, made, called) in CALLS.items():
        plain = encoder(**made).encode(loader(TEXTS), **{**CALL, **called})
        for run in ("cold", "warm"):
            model = CachedEmbeddingWrapper(encoder(**made), tmp_path)
            found = model.encode(loader(TEXTS), **{**CALL, **called})
            np.testing.assert_array_equal(found, plain, err_msg=f"{name}, {run}")
            assert model.stats.encoded == (len(TEXTS) if run == "cold" else 0), name
        rest = {k: v for k, v in called.items() if k not in {*CALL, "prompt_type"}}
        call = {**CALL, **called}
        namespaces[name] = spec_of(
            encoder(**made),
            call["task_metadata"],
            call.get("prompt_type"),
            call["hf_subset"],
            rest,
            hf_split=call["hf_split"],
        ).namespace
    for one, other in itertools.combinations(namespaces, 2):
        assert namespaces[one] != namespaces[other], (one, other)
    assert {path.name for path in (tmp_path / "namespaces").iterdir()} == set(namespaces.values())


@pytest.mark.parametrize(
    "neutral",
    [
        {"batch_size": 3},
        {"show_progress_bar": True},
        {"num_proc": 2},
        {"device": "cpu"},
        {"convert_to_numpy": True},
        {"precision": "float32"},
        {"precision": None},
    ],
    ids=str,
)
def test_neutral_arguments_always_meet(neutral, tmp_path):
    """Batch size, progress bar, processes and device change no vector: the same namespace, nothing encoded again."""
    encoder = HashEncoder()
    first = CachedEmbeddingWrapper(encoder, tmp_path).encode(loader(TEXTS), **CALL)
    encoder.forget()
    second = CachedEmbeddingWrapper(encoder, tmp_path).encode(loader(TEXTS), **CALL, **neutral)
    np.testing.assert_array_equal(first, second)
    assert encoder.seen == []


def test_title_and_body_are_part_of_an_unknown_encoders_key(tmp_path):
    """The same joined text under another title is another item for a class that may read titles."""
    one = loader(["a b c"], title=["a"], body=["b c"])
    other = loader(["a b c"], title=["a b"], body=["c"])
    encoder = TitleBodyEncoder()
    model = CachedEmbeddingWrapper(encoder, tmp_path)
    for rows in (one, other):
        np.testing.assert_array_equal(model.encode(rows, **CALL), encoder.encode(rows, **CALL))
    assert model.stats.encoded == 2


def test_settings_of_an_unknown_class_are_part_of_its_identity():
    """Prompts and instruction templates that an object of an unknown class carries tell it from another object."""
    one, other = HashEncoder(), HashEncoder()
    one.instruction_template, other.instruction_template = "{instruction}: ", "{instruction}\n"
    assert spec_of(one, CALL["task_metadata"]) != spec_of(other, CALL["task_metadata"])
    one, other = HashEncoder(), HashEncoder()
    one.prompts_dict, other.prompts_dict = {"A": "x"}, {"A": "y"}
    assert spec_of(one, CALL["task_metadata"]) != spec_of(other, CALL["task_metadata"])


def test_an_argument_that_is_no_plain_value_is_refused(tmp_path):
    """What cannot be written down cannot be told apart: an error that names the argument, nothing encoded."""
    encoder = HashEncoder()
    with pytest.raises(IdentityError, match="anything"):
        CachedEmbeddingWrapper(encoder, tmp_path).encode(loader(TEXTS), **CALL, anything=object())
    assert encoder.seen == []


@pytest.mark.parametrize(
    ("made", "way_out"),
    [
        ({"name": None}, "model_id="),
        ({"name": "no_model_name/available"}, "model_id="),
        ({"revision": None}, "weights_fingerprint"),
        ({"revision": "no_revision_available"}, "revision="),
        ({"revision": "main"}, "revision="),
    ],
)
def test_a_model_without_identity_is_refused_at_once(made, way_out, tmp_path):
    """Construction fails with the way out in the message; with model_id and revision it works."""
    encoder = HashEncoder(**made)
    with pytest.raises(UnpinnedModel, match=way_out):
        CachedEmbeddingWrapper(encoder, tmp_path)
    assert list(tmp_path.iterdir()) == []
    model = CachedEmbeddingWrapper(encoder, tmp_path, model_id="org/name", revision="1")
    assert len(model.encode(loader(TEXTS), **CALL)) == len(TEXTS)
    assert {(ns.spec.model, ns.spec.revision) for ns in model.cache.mirror.namespaces()} == {("org/name", "1")}


def test_the_tasks_own_prompt_is_part_of_an_unknown_encoder():
    """An encoder that asks mteb for its instruction gets the task's prompt, and an upgrade may edit that."""
    tasks = [metadata("A").model_copy(update={"prompt": prompt}) for prompt in (None, "Find passages", "Find papers")]
    namespaces = {spec_of(HashEncoder(), task, PromptType.query).namespace for task in tasks}
    assert len(namespaces) == 3


def test_an_instruction_template_is_part_of_an_unknown_encoder():
    """As a string, and rendered where it is a function."""
    task = metadata("A").model_copy(update={"prompt": "Find passages"})
    namespaces = set()
    for template in ("Q: {instruction}", "Query: {instruction}", lambda i, _: f"<{i}>", lambda i, _: f"[{i}]"):
        encoder = HashEncoder()
        encoder.instruction_template = template
        namespaces.add(spec_of(encoder, task, PromptType.query).namespace)
    assert len(namespaces) == 4
