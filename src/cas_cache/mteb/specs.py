"""`spec_of`: the identity of an mteb encoder for one task and role.

Two encoder classes are known to be pure functions of text, effective prompt, role and settings; their vectors are
shared across tasks. For every other class the task is part of the identity, and the key covers every content field of
a row, because such a class may read them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cas_cache.errors import IdentityError
from cas_cache.identity import EncoderSpec
from cas_cache.models.names import class_name
from cas_cache.mteb import classification, compat, dataset_adapter
from cas_cache.mteb.arguments import plain, plain_arguments
from cas_cache.mteb.derived import derivation_of

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTENT_FIELDS = ("text", "title", "body", "query", "instruction", "conversation", "image", "audio", "video")
"""Every field of a row that mteb prepares, but its id."""

ENCODE_DEFAULTS = {"precision": "float32", "output_value": "sentence_embedding"}
"""What sentence-transformers' `encode` does if it is not told; spelled out, it is the same."""

MODALITIES = ("text", "image", "audio", "video")
MEDIA_SETTINGS = ("fps", "max_frames", "num_frames", "min_frames", "target_sampling_rate", "max_samples")


def spec_of(  # noqa: PLR0913 - the arguments of mteb's encode
    model: Any,
    task_metadata: Any,
    prompt_type: Any = None,
    hf_subset: str = "default",
    encode_kwargs: Mapping[str, Any] | None = None,
    *,
    hf_split: str = "test",
    columns: tuple[str, ...] = ("text",),
    model_id: str | None = None,
    revision: str | None = None,
) -> EncoderSpec:
    """Return the identity of what an mteb encoder computes for one task and role.

    It is that of the vectors which `encode` returns with these arguments, less a ``precision`` that is derived from
    float vectors. `CachedEmbeddingWrapper` has the encoder return whole vectors wherever it can derive the size from
    them, so its namespace is that of a model that does not truncate, called without ``truncate_dim`` and
    ``normalize_embeddings``.

    Args:
        model: An mteb encoder.
        task_metadata: The task's `TaskMetadata`.
        prompt_type: mteb's `PromptType`, or None.
        hf_subset: The task's subset.
        encode_kwargs: What is passed to `encode` besides these.
        hf_split: The task's split.
        columns: The columns of the prepared rows.
        model_id: The model's name, where its own metadata has none.
        revision: What pins its weights, where its own metadata does not.

    Raises:
        UnpinnedModel: If name and revision do not pin the weights.
        IdentityError: If an argument that may change vectors cannot be described.
    """
    name, pinned = identity_of(model, model_id, revision)
    role = None if prompt_type is None else str(getattr(prompt_type, "value", prompt_type))
    kwargs = dict(encode_kwargs or {})
    known_prompt = _known_prompt(model, task_metadata, prompt_type, kwargs.get("prompt_name"))
    if known_prompt is not None:
        kwargs.pop("prompt_name", None)  # its text is in the prompt, or it is overruled
    derivation = derivation_of(model, kwargs, columns)
    vouched = model_id is not None and revision is not None
    params = common_params(model, derivation.spec_kwargs(kwargs), vouched=vouched)
    if known_prompt is None:
        params.update(experiment_params(model, whole=derivation.whole, vouched=vouched))
        _check_uncalibrated(model, kwargs)
        settings = compat.settings_of_unknown(model, task_metadata, prompt_type, vouched=vouched)
        params.update(plain(settings, "settings"))
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
                "split": str(hf_split),
            },
            fields=tuple(field for field in CONTENT_FIELDS if field in columns) or ("text",),
        )
    params.update(compat.settings_of_sentence_transformer(model.model))
    if derivation.whole:
        params["truncate_dim"] = None  # whatever the attribute says, the argument overrules it
    if kwargs.get("convert_to_tensor") and params["dtype"] != "float32":
        params["convert_to_tensor"] = True  # mteb widens tensors to float32, arrays not
    params.update({s: v for s in MEDIA_SETTINGS if (v := getattr(model, s, None)) is not None})
    return EncoderSpec(
        model=name,
        revision=pinned,
        prompt=known_prompt,
        role=role,
        params=params,
        fields=_fields_of_known(model, columns),
    )


def _fields_of_known(model: Any, columns: tuple[str, ...]) -> tuple[str, ...]:
    """The columns that one of the two known classes hands to the model.

    Raises:
        IdentityError: If it hands over none of them.
    """
    present = tuple(field for field in MODALITIES if field in columns)
    if not any(field in dataset_adapter.LAZY_FIELDS for field in present):
        return ("text",)
    if classification.is_sentence_transformer_wrapper(model):
        # With images, audio or video it drops what its metadata does not name.
        known = model.mteb_model_meta.modalities
        present = tuple(field for field in present if field in known)
        if not present:
            raise IdentityError(f"The model's metadata names the modalities {known}; the rows have {sorted(columns)}.")
    return present


def identity_of(model: Any, model_id: str | None, revision: str | None) -> tuple[str, str]:
    """Return name and revision of a model: those given, else those of its metadata. Not checked here."""
    meta = getattr(model, "mteb_model_meta", None)
    name = model_id if model_id is not None else getattr(meta, "name", None)
    pinned = revision if revision is not None else getattr(meta, "revision", None)
    return (name or "", pinned or "")


def _check_uncalibrated(model: Any, encode_kwargs: Mapping[str, Any]) -> None:
    """Refuse to store what a model of sentence-transformers, in a class that is not known, quantizes by the call."""
    if encode_kwargs.get("precision") in compat.CALIBRATED and hasattr(getattr(model, "model", None), "encode"):
        raise IdentityError(
            f"precision={encode_kwargs['precision']!r} of {type(model).__name__} depends on the texts that are encoded "
            "together. Evaluate without the cache, or wrap the cache: CompressionWrapper(CachedEmbeddingWrapper(...))."
        )


def _known_prompt(model: Any, task_metadata: Any, prompt_type: Any, name: str | None) -> str | None:
    """The effective prompt text of the two known classes, None for any other."""
    if classification.is_sentence_transformer_wrapper(model):
        return compat.prompt_of_sentence_transformer(model, task_metadata, prompt_type, name)
    if classification.is_instruct_wrapper(model):
        return compat.prompt_of_instruct(model, task_metadata, prompt_type, name)
    return None


def check_describable(model: Any, model_id: str | None, revision: str | None) -> None:
    """Refuse a model whose identity cannot be given, before anything is encoded.

    Raises:
        UnpinnedModel: If name and revision do not pin the weights.
        IdentityError: If an argument of its loader cannot be described.
    """
    name, pinned = identity_of(model, model_id, revision)
    vouched = model_id is not None and revision is not None
    EncoderSpec(model=name, revision=pinned, params=common_params(model, {}, vouched=vouched))
    if not classification.is_known(model):
        experiment_params(model, whole=False, vouched=vouched)
        compat.arguments_of_loader(model, vouched=vouched)


def experiment_params(model: Any, *, whole: bool, vouched: bool) -> dict[str, Any]:
    """Return what `mteb.get_model` was given; with `whole`, less what sets the size alone.

    Not for the two known classes: their arguments reach the model, whose description shows what they do.
    """
    meta = getattr(model, "mteb_model_meta", None)
    experiment = plain_arguments(getattr(meta, "experiment_kwargs", None), "loader argument", vouched=vouched)
    if whole and getattr(meta, "loader", None) is type(model):
        experiment.pop("embed_dim", None)  # these classes hand it to their model as truncate_dim, and to nothing else
    return {"experiment": experiment} if experiment else {}


def common_params(model: Any, encode_kwargs: Mapping[str, Any], *, vouched: bool = False) -> dict[str, Any]:
    """Return the class of an encoder, and what the caller says of how it is to encode."""
    params: dict[str, Any] = {"encoder": class_name(type(model))}
    kwargs = plain_arguments(encode_kwargs, "encode argument", vouched=vouched)
    for argument, default in ENCODE_DEFAULTS.items():
        if kwargs.get(argument) == default:
            del kwargs[argument]
    if kwargs:
        params["encode"] = kwargs
    return params
