"""`spec_of`: the identity of an mteb encoder for one task and role.

Two encoder classes are known to be pure functions of text, effective prompt, role and settings; their vectors are
shared across tasks. For every other class the task is part of the identity, and the key covers every content field of
a row, because such a class may read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from cas_cache.errors import IdentityError
from cas_cache.identity import EncoderSpec
from cas_cache.mteb import internals

NEUTRAL_KWARGS = frozenset(
    {
        "batch_size",
        "show_progress_bar",
        "num_proc",
        "num_workers",
        "device",
        "convert_to_numpy",
        "convert_to_tensor",
    }
)
"""Encode arguments that do not change what a vector is, beyond rounding."""

CONTENT_FIELDS = ("text", "title", "body", "query", "instruction", "conversation", "image", "audio", "video")
"""Every field of a row that mteb prepares, but its id."""

MODALITIES = ("text", "image", "audio", "video")
MEDIA_SETTINGS = ("fps", "max_frames", "num_frames", "min_frames", "target_sampling_rate", "max_samples")


def spec_of(  # noqa: PLR0913 - the arguments of mteb's encode
    model: Any,
    task_metadata: Any,
    prompt_type: Any = None,
    hf_subset: str = "default",
    encode_kwargs: Mapping[str, Any] | None = None,
    *,
    columns: tuple[str, ...] = ("text",),
    model_id: str | None = None,
    revision: str | None = None,
) -> EncoderSpec:
    """Return the identity of what an mteb encoder computes for one task and role.

    Args:
        model: An mteb encoder.
        task_metadata: The task's `TaskMetadata`.
        prompt_type: mteb's `PromptType`, or None.
        hf_subset: The task's subset.
        encode_kwargs: What is passed to `encode` besides these.
        columns: The columns of the prepared rows.
        model_id: The model's name, where its own metadata has none.
        revision: What pins its weights, where its own metadata does not.

    Raises:
        UnpinnedModel: If name and revision do not pin the weights.
        IdentityError: If an argument that may change vectors is not plain JSON.
    """
    name, pinned = identity_of(model, model_id, revision)
    role = None if prompt_type is None else str(getattr(prompt_type, "value", prompt_type))
    params = _common_params(model, encode_kwargs or {})
    known_prompt = _known_prompt(model, task_metadata, prompt_type)
    if known_prompt is None:
        dimension = getattr(getattr(model, "mteb_model_meta", None), "embed_dim", None)
        if isinstance(dimension, int):
            params["embed_dim"] = dimension
        return EncoderSpec(
            model=name,
            revision=pinned,
            role=role,
            params=params,
            scope={
                "task": str(task_metadata.name),
                "type": str(task_metadata.type),
                "subset": str(hf_subset),
            },
            fields=tuple(field for field in CONTENT_FIELDS if field in columns) or ("text",),
        )
    params.update(internals.settings_of_sentence_transformer(model.model))
    params.update({s: v for s in MEDIA_SETTINGS if (v := getattr(model, s, None)) is not None})
    present = tuple(field for field in MODALITIES if field in columns)
    return EncoderSpec(
        model=name,
        revision=pinned,
        prompt=known_prompt,
        role=role,
        params=params,
        fields=present or ("text",),
    )


def identity_of(model: Any, model_id: str | None, revision: str | None) -> tuple[str, str]:
    """Return name and revision of a model: those given, else those of its metadata. Not checked here."""
    meta = getattr(model, "mteb_model_meta", None)
    name = model_id if model_id is not None else getattr(meta, "name", None)
    pinned = revision if revision is not None else getattr(meta, "revision", None)
    return (name or "", pinned or "")


def _known_prompt(model: Any, task_metadata: Any, prompt_type: Any) -> str | None:
    """The effective prompt text of the two known classes, None for any other."""
    if internals.is_sentence_transformer_wrapper(model):
        return internals.prompt_of_sentence_transformer(model, task_metadata, prompt_type)
    if internals.is_instruct_wrapper(model):
        return internals.prompt_of_instruct(model, task_metadata, prompt_type)
    return None


def _common_params(model: Any, encode_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    meta = getattr(model, "mteb_model_meta", None)
    params: dict[str, Any] = {"encoder": type(model).__qualname__}
    experiment = _plain(getattr(meta, "experiment_kwargs", None) or {}, "experiment_kwargs")
    if experiment:
        params["experiment"] = experiment
    kwargs = {k: _plain(v, k) for k, v in encode_kwargs.items() if k not in NEUTRAL_KWARGS}
    if kwargs.get("precision") in (None, "float32"):
        kwargs.pop("precision", None)  # sentence-transformers' default
    if kwargs:
        params["encode"] = kwargs
    return params


def _plain(value: Any, where: str) -> Any:
    """Plain JSON for what mteb's users pass: enums by value, torch dtypes by name."""
    if isinstance(value, Enum):
        return _plain(value.value, where)
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f"{where}[{k!r}]") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, where) for v in value]
    if type(value).__module__ == "torch" and type(value).__name__ == "dtype":
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise IdentityError(
        f"The encode argument {where} is a {type(value).__qualname__}; whether it changes vectors cannot be told, and "
        "it cannot be written down. Pass a plain value, or evaluate without the cache."
    )
