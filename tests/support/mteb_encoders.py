"""Encoders for tests: cheap, pure functions of what they are given, which remember all of it.

A vector is a bag of words, so rankings mean something, plus a small part that only the identity decides (model,
revision, role, prompt, encode arguments, task): a vector that was served under another identity is another vector.
"""

import hashlib
from functools import lru_cache
from typing import Any

import numpy as np
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction

DIMENSION = 64
NEUTRAL = ("batch_size", "show_progress_bar", "num_proc", "num_workers", "device", "convert_to_numpy")
CONTENT = ("text", "title", "body", "query", "instruction", "conversation")


@lru_cache(maxsize=100_000)
def word_vector(word: str) -> Any:
    """Return a word's vector: noise that its hash seeds."""
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8])
    return np.random.default_rng(seed).standard_normal(DIMENSION)


def bag(text: str) -> Any:
    """Return the sum of a text's words, and a little of the whole text, so that no text has a zero vector."""
    return sum((word_vector(word) for word in text.split()), 0.01 * word_vector(f"whole {text}"))


class HashEncoder(AbsEncoder):
    """A pure function of text, role, prompt and encode arguments."""

    def __init__(
        self,
        name: str = "test/hash",
        revision: str = "r1",
        *,
        prompts: dict[str, str] | None = None,
        dtype: str = "float32",
        experiment: dict[str, Any] | None = None,
    ) -> None:
        self.mteb_model_meta = ModelMeta.create_empty(
            overwrites={
                "name": name,
                "revision": revision,
                "embed_dim": DIMENSION,
                "similarity_fn_name": ScoringFunction.COSINE,
                "experiment_kwargs": experiment,
            }
        )
        self.model_prompts = prompts
        self.experiment = experiment
        self.dtype = dtype
        self.seen: list[tuple[str | None, ...]] = []

    def content(self, batch: dict[str, Any], at: int) -> Any:
        """The vector of row `at`, without what the identity adds."""
        return bag(batch["text"][at])

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
        prompt = (self.model_prompts or {}).get(role or "", "")
        meta = self.mteb_model_meta
        settings = sorted((k, str(v)) for k, v in kwargs.items() if k not in NEUTRAL)
        task = (task_metadata.name, hf_subset, hf_split)
        identity = repr((meta.name, meta.revision, self.experiment, role, prompt, settings, task))
        own = 0.2 * word_vector(f"identity {identity}")
        rows = []
        for batch in inputs:
            for at in range(len(batch["text"])):
                item = repr({k: batch[k][at] for k in sorted(batch) if k in CONTENT})
                self.seen.append((*task, role, item))
                rows.append(self.content(batch, at) + own)
        return self.answer(np.stack(rows))

    def answer(self, vectors: Any) -> Any:
        """The vectors as this encoder returns them."""
        scaled = np.clip(vectors * 8, -127, 127) if self.dtype == "int8" else vectors
        return scaled.astype(self.dtype)

    def forget(self) -> list[tuple[str | None, ...]]:
        """Return what was seen since the last call."""
        seen, self.seen = self.seen, []
        return seen


class TitleBodyEncoder(HashEncoder):
    """Reads title and body apart, as embeddinggemma does: the same text is another item under another title."""

    def content(self, batch: dict[str, Any], at: int) -> Any:
        body = batch["body" if "body" in batch else "text"][at]
        return bag(body) + (0.5 * bag(batch["title"][at]) if "title" in batch else 0)


class TorchEncoder(HashEncoder):
    """Returns torch tensors."""

    def answer(self, vectors: Any) -> Any:
        import torch

        return torch.from_numpy(vectors).to(getattr(torch, self.dtype))
