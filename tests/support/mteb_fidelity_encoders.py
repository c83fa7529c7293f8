"""Encoders that are sensitive to all they are given: text and media to the bit, role, prompt, arguments, task.

Three of them, for the three ways in which the cache knows an encoder: `MediaEncoder`, a class of one's own;
`sentence_transformer` and `instruct`, mteb's two wrappers, around a model that hashes what reaches it. All of them
remember what they were given, and give the same bits for the same item whatever it is encoded with.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from typing import Any
from unittest import mock

import numpy as np
import torch
from mteb.models import SentenceTransformerEncoderWrapper
from mteb.models.instruct_wrapper import InstructSentenceTransformerModel
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.input_module import InputModule

from mteb_encoders import DIMENSION, HashEncoder, bag, word_vector

LABELS = ("id", "label", "labels", "value")
MODALITIES = ["text", "image", "audio", "video"]


def trace(value: Any) -> str:
    """Return a string that two values of a row share only if they hold the same, to the pixel, sample and frame."""
    if value is None or isinstance(value, str | int | float):
        return repr(value)
    if isinstance(value, dict) and "array" not in value:
        return json.dumps({key: trace(inner) for key, inner in value.items()}, sort_keys=True)
    if isinstance(value, list | tuple):
        return json.dumps([trace(inner) for inner in value])
    return hashlib.sha256(b"\0".join(_parts(value))).hexdigest()


def _parts(value: Any) -> list[bytes]:
    if hasattr(value, "get_frames_in_range"):  # a video
        frames = value.get_frames_in_range(0, len(value))
        return [frames.data.numpy().tobytes(), frames.pts_seconds.numpy().tobytes()]
    if isinstance(value, torch.Tensor | np.ndarray):  # what mteb's collators make of them
        return [repr((tuple(value.shape), str(value.dtype))).encode(), np.asarray(value).tobytes()]
    if hasattr(value, "tobytes"):  # an image
        return [repr((value.mode, value.size)).encode(), value.tobytes()]
    return [repr(value["sampling_rate"]).encode(), np.asarray(value["array"]).tobytes()]


class MediaEncoder(HashEncoder):
    """A class of one's own that reads every column of a row apart, whatever it holds."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mteb_model_meta = self.mteb_model_meta.model_copy(update={"modalities": MODALITIES})

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> Any:
        role = None if prompt_type is None else prompt_type.value
        own = self.own(task_metadata, hf_split, hf_subset, role, kwargs)
        rows = []
        for batch in inputs:
            columns = sorted(set(batch) - set(LABELS))
            for at in range(len(batch[columns[0]])):
                parts = {name: batch[name][at] for name in columns}
                traces = {name: trace(part) for name, part in parts.items()}
                self.seen.append((task_metadata.name, hf_subset, hf_split, role, json.dumps(traces, sort_keys=True)))
                content = [bag(part) if isinstance(part, str) else word_vector(traces[n]) for n, part in parts.items()]
                rows.append(sum((1 + n) * vector for n, vector in enumerate(content)) + own)
        return self.answer(np.stack(rows))

    def own(self, task_metadata: Any, split: str, subset: str, role: str | None, kwargs: dict[str, Any]) -> Any:
        """The part of a vector that the call decides, not the item."""
        prompt = (self.model_prompts or {}).get(role or "", "")
        return 0.2 * word_vector(repr((task_metadata.name, subset, split, role, prompt)))


class HashModule(InputModule):
    """The one module of a `SentenceTransformer` without a network: a vector is the hash of the prompt and the item."""

    def __init__(self, *, routed: bool = False) -> None:
        super().__init__()
        self.routed = routed  # whether queries and documents go different ways, as in a Router
        self.scale = torch.nn.Parameter(torch.ones(1))  # a weight, for what looks at device, dtype or weights
        self.seen: list[tuple[str | None, str, str]] = []
        self.seen_role: str | None = None  # by its name a memory; any other plain attribute is identity

    @property
    def modalities(self) -> list[Any]:
        """What mteb may hand over."""
        return [*MODALITIES, ("text", "image"), ("image", "text")]

    def get_embedding_dimension(self) -> int:
        """Return the length of a vector."""
        return DIMENSION

    def preprocess(self, inputs: Any, prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Make vectors at once."""
        rows = []
        way = word_vector(f"way {kwargs.get('task')}") if self.routed else 0
        for item in inputs:
            text = item if isinstance(item, str) else item.get("text", "")
            rest = {} if isinstance(item, str) else {name: trace(part) for name, part in item.items() if name != "text"}
            self.seen.append((self.seen_role, prompt or "", json.dumps([text, rest], sort_keys=True)))
            rows.append(bag((prompt or "") + text) + sum(word_vector(f"{n} {part}") for n, part in rest.items()) + way)
        return {"vectors": torch.from_numpy(np.stack(rows).astype(np.float32))}

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Hand them on."""
        features["sentence_embedding"] = features["vectors"] * self.scale
        return features

    def save(self, *_: Any, **__: Any) -> None:
        """Not needed."""


class Known:
    """One of mteb's wrappers around a `HashModule`, with the same ways to look at what was seen.

    Attributes:
        model: What `CachedEmbeddingWrapper` is given.
        identity: With which name and revision.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.identity = {"model_id": "test/known", "revision": "r1"}
        encode = model.encode

        def with_role(*args: Any, prompt_type: Any = None, **kwargs: Any) -> Any:
            model.model[0].seen_role = None if prompt_type is None else prompt_type.value
            return encode(*args, prompt_type=prompt_type, **kwargs)

        model.encode = with_role  # of the object: its class is what the cache looks at

    def forget(self) -> list[tuple[str | None, str, str]]:
        """Return what was seen since the last call: role, prompt and item."""
        module = self.model.model[0]
        seen, module.seen = module.seen, []
        return list(seen)


def bare(prompts: dict[str, str] | None = None, default: str | None = None, **module: Any) -> SentenceTransformer:
    """Return a `SentenceTransformer` around a `HashModule`."""
    modules = [HashModule(**module)]
    return SentenceTransformer(modules=modules, prompts=prompts, default_prompt_name=default, device="cpu")


def sentence_transformer(prompts: dict[str, str] | None = None, model: Any = None, **settings: Any) -> Known:
    """Return mteb's wrapper of sentence-transformers' models, around `bare` if no model is given."""
    model = bare(prompts) if model is None else model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what mteb says of metadata that a model of tests does not have
        wrapper = SentenceTransformerEncoderWrapper(model, **settings)
    wrapper.mteb_model_meta = wrapper.mteb_model_meta.model_copy(update={"modalities": MODALITIES})
    return Known(wrapper)


def instruct(**settings: Any) -> Known:
    """Return mteb's instruction wrapper; it loads models by name, so loading is replaced."""
    with mock.patch("sentence_transformers.SentenceTransformer", return_value=bare()):
        wrapper = InstructSentenceTransformerModel("test/known", "r1", **settings)
    wrapper.mteb_model_meta = HashEncoder("test/known", "r1").mteb_model_meta
    return Known(wrapper)
