"""What decides a vector, each as two runs that differ in it alone; and what does not."""

from __future__ import annotations

import unicodedata
from typing import Any

import torch
from mteb.models.abs_encoder import PromptSource
from tokenizers import normalizers

from mteb_encoders import TitleBodyEncoder
from mteb_fidelity_encoders import bare
from mteb_fidelity_pairs import (
    DOCUMENT,
    QUERY,
    TEXTS,
    Other,
    Pair,
    Run,
    by_arguments,
    by_encoders,
    by_items,
    columns,
    hashing,
    images,
    instructed,
    no_key,
    no_spec,
    own,
    real,
    setting,
    task,
    trained,
    with_own,
)
from mteb_tasks import metadata

OF_ANY_CLASS = {
    "model": by_encoders(own(), own(meta={"name": "test/other"}), "model"),
    "revision": by_encoders(own(), own(meta={"revision": "r2"}), "revision"),
    "class": by_encoders(own(), own(Other), "params.encoder"),
    "query or document": by_arguments(QUERY, DOCUMENT, "role"),
    "query or no role": Pair(Run(own(), QUERY), Run(own()), no_spec("role", "params.instruction")),
    "model_prompts": by_encoders(
        own(model_prompts={"query": "q: "}), own(model_prompts={"query": "Q: "}), "params.model_prompts", call=QUERY
    ),
    "experiment": by_encoders(
        own(meta={"experiment_kwargs": {"a": 1}}), own(meta={"experiment_kwargs": {"a": 2}}), "params.experiment"
    ),
    "experiment's type": by_encoders(
        own(meta={"experiment_kwargs": {"a": 1}}), own(meta={"experiment_kwargs": {"a": "1"}}), "params.experiment"
    ),
    "loader": by_encoders(
        own(meta={"loader_kwargs": {"a": 1}}), own(meta={"loader_kwargs": {"a": 2}}), "params.loader"
    ),
    "embed_dim": by_encoders(own(meta={"embed_dim": 32}), own(meta={"embed_dim": 64}), "params.embed_dim"),
    "prompts_dict": by_encoders(
        own(prompts_dict={"STS12": "x"}), own(prompts_dict={"STS12": "y"}), "params.prompts_dict", "params.instruction"
    ),
    "prompt_priority": by_encoders(
        own(prompts_dict={"STS12": "by task", "STS": "by type"}),
        own(prompts_dict={"STS12": "by task", "STS": "by type"}, prompt_priority=[PromptSource.TASK_TYPE_PROMPT]),
        "params.prompt_priority", "params.instruction",
    ),
    "instruction template": by_encoders(
        own(instruction_template="{instruction}: "), own(instruction_template="{instruction}\n"),
        "params.instruction_template", "params.instruction",
    ),
    "instruction template, a function": by_encoders(
        own(instruction_template=lambda text, _: f"<{text}>"), own(instruction_template=lambda text, _: f"[{text}]"),
        "params.instruction_template", "params.instruction",
    ),
    "apply_instruction_to_passages": by_encoders(
        own(apply_instruction_to_passages=True), own(apply_instruction_to_passages=False),
        "params.apply_instruction_to_passages", call=DOCUMENT,
    ),
    "the task's prompt": Pair(
        Run(own(), task(prompt="Find passages")), Run(own(), task(prompt="Find papers")),
        no_spec("params.task_prompt", "params.instruction"),
    ),
    "precision": by_arguments({}, {"precision": "int8"}),
    "another precision": by_arguments({"precision": "binary"}, {"precision": "int8"}),
    "normalize_embeddings": by_arguments({}, {"normalize_embeddings": True}),
    "truncate_dim": by_arguments({"truncate_dim": 16}, {"truncate_dim": 8}),
    "an argument": by_arguments({}, {"anything": 1}),
    "its value": by_arguments({"anything": 1}, {"anything": 2}),
    "its type": by_arguments({"anything": 1}, {"anything": "1"}),
    "true is not one": by_arguments({"anything": 1}, {"anything": True}),
    "deep inside": by_arguments({"anything": {"a": [1, {"b": 2}]}}, {"anything": {"a": [1, {"b": 3}]}}),
    "task": by_arguments(task(), {"task_metadata": metadata("B")}, "scope.task"),
    "task type": by_arguments(task(), task(type="Reranking"), "scope.type"),
    "subset": by_arguments({}, {"hf_subset": "fra"}, "scope.subset"),
    "split": by_arguments({}, {"hf_split": "dev"}, "scope.split"),
}  # fmt: skip

OF_THE_KNOWN = {
    "prompt by task": by_encoders(
        hashing(model_prompts={"STS12": "one: "}), hashing(model_prompts={"STS12": "other: "}), "prompt"
    ),
    "prompt by type": by_encoders(
        hashing(model_prompts={"STS": "1: "}), hashing(model_prompts={"STS": "2: "}), "prompt"
    ),
    "prompt by role": by_encoders(
        hashing(model_prompts={"query": "1: "}), hashing(model_prompts={"query": "2: "}), "prompt", call=QUERY
    ),
    "prompt by task and role": by_encoders(
        hashing(model_prompts={"STS12-query": "1: "}), hashing(model_prompts={"STS12-query": "2: "}), "prompt",
        call=QUERY,
    ),
    "prompt of its own": by_encoders(
        hashing(with_own("query", "1: ")), hashing(with_own("query", "2: ")), "prompt", call=QUERY
    ),
    "space after the prompt": by_encoders(
        hashing(with_own("query", "query:")), hashing(with_own("query", "query: ")), "prompt", call=QUERY
    ),
    "default prompt": by_encoders(
        hashing(lambda: bare({"x": "x: ", "y": "y: "}, "x")), hashing(lambda: bare({"x": "x: ", "y": "y: "}, "y")),
        "prompt",
    ),
    "prompt_name": Pair(
        Run(hashing(lambda: bare({"x": "x: ", "y": "y: "})), {"prompt_name": "x"}),
        Run(hashing(lambda: bare({"x": "x: ", "y": "y: "})), {"prompt_name": "y"}),
        no_spec("prompt"),
    ),
    "way of queries and documents": Pair(
        Run(hashing(lambda: bare(routed=True)), QUERY), Run(hashing(lambda: bare(routed=True)), DOCUMENT),
        no_spec("role"),
    ),
    "template": by_encoders(
        instructed(instruction_template="1 {instruction}"), instructed(instruction_template="2 {instruction}"), "prompt"
    ),
    "template, a function": by_encoders(
        instructed(instruction_template=lambda t, _: f"1 {t}"), instructed(instruction_template=lambda t, _: f"2 {t}"),
        "prompt",
    ),
    "instruction to passages": by_encoders(
        instructed(prompts_dict={"STS12": "x"}),
        instructed(prompts_dict={"STS12": "x"}, apply_instruction_to_passages=False), "prompt", call=DOCUMENT,
    ),
    "instructions": by_encoders(
        instructed(prompts_dict={"STS12": "x"}), instructed(prompts_dict={"STS12": "y"}), "prompt"
    ),
    "the task's own instruction": Pair(
        Run(instructed(), task(prompt="Find passages")), Run(instructed(), task(prompt="Find papers")),
        no_spec("prompt"),
    ),
    "max_seq_length": by_encoders(
        real(setting(max_seq_length=4)), real(setting(max_seq_length=5)), "params.max_seq_length", "params.computes"
    ),
    "dtype": by_encoders(
        real(), real(model_kwargs={"dtype": torch.float16}), "params.dtype", "params.weights"
    ),
    "padding side": by_encoders(
        real(setting(tokenizer_padding_side="left")), real(setting(tokenizer_padding_side="right")),
        "params.computes",
    ),
    "truncation side": by_encoders(
        real(setting(max_seq_length=5, tokenizer_truncation_side="left")),
        real(setting(max_seq_length=5, tokenizer_truncation_side="right")), "params.computes",
    ),
    "weights, trained once": by_encoders(real(), real(trained("A text.")), "params.weights"),
    "weights, trained twice": by_encoders(
        real(trained("A text.")), real(trained("Quite another.")), "params.weights"
    ),
    "pooling": by_encoders(
        real(lambda model: setattr(model[1], "pooling_mode", "cls")),
        real(lambda model: setattr(model[1], "pooling_mode", "max")), "params.computes",
    ),
    "include_prompt": by_encoders(
        real(prompts={"query": "a query: "}),
        real(lambda model: model.set_pooling_include_prompt(include_prompt=False), prompts={"query": "a query: "}),
        "params.computes", call=QUERY,
    ),
    "backend": by_encoders(
        real(), real(setting(backend="onnx")), "params.backend", seen=False
    ),
    "processing_kwargs": Pair(
        Run(real()), Run(real(), {"processing_kwargs": {"text": {"max_length": 5, "truncation": True}}}),
        no_spec("params.encode"),
    ),
    "fps": by_encoders(hashing(fps=1.0), hashing(fps=2.0), "params.fps", seen=False),
    "max_frames": by_encoders(hashing(max_frames=1), hashing(max_frames=2), "params.max_frames", seen=False),
    "num_frames": by_encoders(hashing(num_frames=1), hashing(num_frames=2), "params.num_frames", seen=False),
    "target_sampling_rate": by_encoders(
        hashing(target_sampling_rate=8000), hashing(target_sampling_rate=16000), "params.target_sampling_rate",
        seen=False,
    ),
    "max_samples": by_encoders(hashing(max_samples=10), hashing(max_samples=20), "params.max_samples", seen=False),
}  # fmt: skip

OF_ITEMS = {
    "decomposed letters": by_items(
        {"texts": ["\u00e9t\u00e9"]}, {"texts": ["e\u0301te\u0301"]},
        no_key(lambda text: unicodedata.normalize("NFC", text))
    ),
    "a space at the end": by_items({"texts": ["a b"]}, {"texts": ["a b "]}, no_key(str.strip)),
    "capitals": by_items({"texts": ["a b"]}, {"texts": ["A b"]}, no_key(str.lower)),
    "line ends": by_items({"texts": ["a\nb"]}, {"texts": ["a\r\nb"]}, no_key(lambda text: text.replace("\r", ""))),
    "a zero byte": by_items({"texts": ["a"]}, {"texts": ["a\0"]}, no_key(lambda text: text.rstrip("\0"))),
    "beyond the BMP": by_items({"texts": ["\U0001f600"]}, {"texts": ["\U0001f601"]}, no_key(lambda _: "x")),
    "title and body": by_items(
        *columns(texts=(["a b c"], ["a b c"]), title=(["a"], ["a b"]), body=(["b c"], ["c"])), no_spec("fields"),
        own(TitleBodyEncoder),
    ),
    "query and instruction": by_items(
        *columns(texts=(["a b c"], ["a b c"]), query=(["a"], ["a b"]), instruction=(["b c"], ["c"])), no_spec("fields")
    ),
    "turns of a conversation": by_items(
        *columns(
            texts=(["user: a; b"], ["user: a; b"]),
            conversation=(
                [[{"role": "user", "content": "a; b"}]],
                [[{"role": "user", "content": "a"}, {"role": "", "content": "b"}]]
            ),
        ),
        no_spec("fields"),
    ),
    "a pixel": by_items(images(1, 2), images(3, 4), no_spec("fields")),
    "a pixel, for a known class": by_items(images(1, 2), images(3, 4), no_spec("fields"), hashing()),
    "modalities": Pair(
        Run(hashing(), rows=images(1, 2)),
        Run(lambda: _with_modalities(hashing()(), ["text"]), rows=images(1, 2)), no_spec("fields"),
    ),
}  # fmt: skip


def _with_modalities(known: Any, modalities: list[str]) -> Any:
    meta = known.model.mteb_model_meta
    known.model.mteb_model_meta = meta.model_copy(update={"modalities": modalities})
    return known


def _shorter(model: Any) -> None:
    model[0].processing_kwargs = {"text": {"max_length": 4, "truncation": True}}


def _cased(model: Any) -> None:
    model.tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)


def _some_words_trained(model: Any) -> None:
    table = model[0].auto_model.embeddings.word_embeddings.weight
    with torch.no_grad():
        table[model.tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"]] += 0.5


OF_WHAT_WAS_LOADED = {
    "how the transformer is called": by_encoders(real(), real(_shorter), "params.computes"),
    "the tokenizer's normalizer": by_encoders(real(), real(_cased), "params.computes"),
    "loader, deep inside": by_encoders(
        own(meta={"loader_kwargs": {"a": {"b": 1}}}), own(meta={"loader_kwargs": {"a": {"b": 2}}}), "params.loader"
    ),
}

NOT_SEEN = {
    "vectors of a few words, trained": by_encoders(real(), real(_some_words_trained), "params.weights"),
}
"""Pairs that the cache takes for one another: see what `cas_cache.models` says about its sample of weights."""

DETERMINANTS = {**OF_ANY_CLASS, **OF_THE_KNOWN, **OF_ITEMS, **OF_WHAT_WAS_LOADED}


def _same(make: Any, one: dict[str, Any], other: dict[str, Any]) -> tuple[Run, Run]:
    return Run(make, one), Run(make, other)


NEUTRAL_PAIRS = {
    "batch size": _same(own(), {"batch_size": 2}, {"batch_size": 64}),
    "progress bar": _same(own(), {}, {"show_progress_bar": True}),
    "processes": _same(own(), {}, {"num_proc": 2}),
    "device": _same(own(), {}, {"device": "cpu"}),
    "arrays": _same(own(), {}, {"convert_to_numpy": True}),
    "the usual precision": _same(own(), {"precision": "float32"}, {"precision": None}),
    "order of arguments": _same(own(), {"a": 1, "b": {"c": 1, "d": 2}}, {"b": {"d": 2, "c": 1}, "a": 1}),
    "order of experiments": (
        Run(own(meta={"experiment_kwargs": {"a": 1, "b": 2}})), Run(own(meta={"experiment_kwargs": {"b": 2, "a": 1}}))
    ),
    "order of rows": (Run(own()), Run(own(), rows={"texts": TEXTS[::-1]})),
    "repeats": (Run(own()), Run(own(), rows={"texts": TEXTS * 2})),
    "ids": (Run(TitleBodyEncoder), Run(TitleBodyEncoder, rows={"texts": TEXTS, "id": ["1", "2", "3"]})),
    "task": _same(hashing(), task(), {"task_metadata": metadata("B")}),
    "task type": _same(hashing(), task(), task(type="Reranking")),
    "subset": _same(hashing(), {}, {"hf_subset": "fra"}),
    "split": _same(hashing(), {}, {"hf_split": "dev"}),
    "instructed task": _same(instructed(prompts_dict={"A": "x", "B": "x"}), task(), {"task_metadata": metadata("B")}),
    "passages of another task": _same(
        instructed(prompts_dict={"A": "x", "B": "y"}, apply_instruction_to_passages=False),
        {**task(), **DOCUMENT}, {"task_metadata": metadata("B"), **DOCUMENT},
    ),
    "name of the prompt": (
        Run(hashing(model_prompts={"STS12": "x: "}), QUERY), Run(hashing(model_prompts={"query": "x: "}), QUERY)
    ),
    "whose prompt it is": (
        Run(hashing(with_own("query", "x: ")), QUERY), Run(hashing(model_prompts={"STS-query": "x: "}), QUERY)
    ),
    "prompts that are not used": (
        Run(hashing(model_prompts={"query": "x: "})), Run(hashing(model_prompts={"query": "y: "}))
    ),
    "prompt_name": (
        Run(hashing(lambda: bare({"x": "x: "})), {"prompt_name": "x"}), Run(hashing(lambda: bare({"x": "x: "}, "x")))
    ),
    "template and instruction": (
        Run(instructed(prompts_dict={"STS12": "x: "})),
        Run(instructed(prompts_dict={"STS12": "x"}, instruction_template="{instruction}: ")),
    ),
    "title and body": (
        Run(hashing(), rows={"texts": ["a b c"], "title": ["a"], "body": ["b c"]}),
        Run(hashing(), rows={"texts": ["a b c"], "title": ["a b"], "body": ["c"]}),
    ),
    "loaded twice": (Run(real()), Run(real())),
    "in use": (Run(real()), Run(real(lambda model: model.encode(TEXTS)))),
    "batch size and device of a model": _same(real(), {"batch_size": 1}, {"batch_size": 32, "device": "cpu"}),
    "tensors": _same(real(), {}, {"convert_to_tensor": True}),
}  # fmt: skip
"""Pairs of runs that differ in nothing that decides a vector."""
