"""`spec_of`: the identity of an mteb encoder for one task and role.

Two encoder classes are known to be pure functions of text, effective prompt, role and settings; their vectors are
shared across tasks. For every other class the task is part of the identity, and the key covers every content field of
a row, because such a class may read them.
"""

from __future__ import annotations

from dataclasses import dataclass
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
"""Every field of a row that mteb prepares, except its id."""

ENCODE_DEFAULTS = {"precision": "float32", "output_value": "sentence_embedding"}
"""Defaults of sentence-transformers' `encode`; spelled out, they change nothing."""

MODALITIES = ("text", "image", "audio", "video")
MEDIA_SETTINGS = ("fps", "max_frames", "num_frames", "min_frames", "target_sampling_rate", "max_samples")


@dataclass(frozen=True, slots=True)
class TaskContext:
    """What mteb passes to `encode` beside the rows, and the rows' columns; see `spec_of`."""

    task_metadata: Any
    prompt_type: Any = None
    hf_subset: str = "default"
    hf_split: str = "test"
    columns: tuple[str, ...] = ("text",)

    def encode_arguments(self) -> dict[str, Any]:
        """Return the arguments that mteb's `encode` requires."""
        names = ("task_metadata", "hf_split", "hf_subset", "prompt_type")
        return {name: getattr(self, name) for name in names}

    def scope(self) -> dict[str, Any]:
        """Return everything by which an encoder could tell this call from one of another task."""
        task = self.task_metadata
        return {
            "task": str(task.name),
            "type": str(task.type),
            "subset": str(self.hf_subset),
            "split": str(self.hf_split),
        }


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """The name and the revision that pin a model's weights; not checked here.

    Attributes:
        name: The name of the model.
        revision: The revision of its weights.
        user_pinned: The user passed both, so an argument that cannot be described is identified by its class.
    """

    name: str
    revision: str
    user_pinned: bool


def identity_of(model: Any, model_id: str | None, revision: str | None) -> ModelIdentity:
    """Return name and revision of a model: those that the user gave, else those of its metadata."""
    meta = getattr(model, "mteb_model_meta", None)
    name = model_id if model_id is not None else getattr(meta, "name", None)
    pinned = revision if revision is not None else getattr(meta, "revision", None)
    return ModelIdentity(name or "", pinned or "", None not in (model_id, revision))


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

    It identifies the vectors that `encode` returns with these arguments, except for a ``precision`` that is derived
    from float vectors. `CachedEmbeddingWrapper` requests whole vectors from the encoder wherever it can derive the size
    from them, so its namespace is that of a model that does not truncate, called without ``truncate_dim`` and
    ``normalize_embeddings``.

    Args:
        model: An mteb encoder.
        task_metadata: The task's `TaskMetadata`.
        prompt_type: mteb's `PromptType`, or None.
        hf_subset: The task's subset.
        encode_kwargs: Further arguments of `encode`.
        hf_split: The task's split.
        columns: The columns of the prepared rows.
        model_id: The model's name, if its metadata has none.
        revision: The revision of its weights, if its metadata does not pin them.

    Raises:
        UnpinnedModel: If name and revision do not pin the weights.
        IdentityError: If an argument that may change vectors cannot be described.
    """
    kwargs = dict(encode_kwargs or {})
    context = TaskContext(task_metadata, prompt_type, hf_subset, hf_split, columns)
    derivation = derivation_of(model, kwargs, columns)
    identity = identity_of(model, model_id, revision)
    return spec_of_stored(model, identity, context, derivation.spec_kwargs(kwargs), is_whole=derivation.is_whole)


def spec_of_stored(
    model: Any, identity: ModelIdentity, context: TaskContext, kwargs: Mapping[str, Any], *, is_whole: bool
) -> EncoderSpec:
    """Return the identity of vectors as they are stored.

    Args:
        model: An mteb encoder.
        identity: Its name and revision.
        context: The task, and the columns of the rows.
        kwargs: The encode arguments that identify the vectors; see `Derivation.spec_kwargs`.
        is_whole: The vectors have all dimensions, and are not normalised.
    """
    prompt_type = context.prompt_type
    role = None if prompt_type is None else str(getattr(prompt_type, "value", prompt_type))
    prompt = _known_prompt(model, context.task_metadata, prompt_type, kwargs.get("prompt_name"))
    if prompt is None:
        return EncoderSpec(
            model=identity.name,
            revision=identity.revision,
            role=role,
            params=_params_of_unknown(model, identity, context, kwargs, is_whole=is_whole),
            scope=context.scope(),
            fields=tuple(field for field in CONTENT_FIELDS if field in context.columns) or ("text",),
        )
    # The text of a named prompt is in `prompt`, or another prompt overrules it.
    kwargs = {name: value for name, value in kwargs.items() if name != "prompt_name"}
    params = common_params(model, kwargs, user_pinned=identity.user_pinned)
    params.update(compat.settings_of_sentence_transformer(model.model))
    if is_whole:
        params["truncate_dim"] = None  # the argument overrules the attribute
    if kwargs.get("convert_to_tensor") and params["dtype"] != "float32":
        params["convert_to_tensor"] = True  # mteb widens tensors to float32, but not arrays
    params.update(media_settings(model))
    fields = _fields_of_known(model, context.columns)
    return EncoderSpec(
        model=identity.name, revision=identity.revision, prompt=prompt, role=role, params=params, fields=fields
    )


def check_describable(model: Any, identity: ModelIdentity) -> None:
    """Refuse a model that has no identity, before anything is encoded.

    Raises:
        UnpinnedModel: If name and revision do not pin the weights.
        IdentityError: If an argument of its loader cannot be described.
    """
    params = common_params(model, {}, user_pinned=identity.user_pinned)
    EncoderSpec(model=identity.name, revision=identity.revision, params=params)
    if not classification.is_known(model):
        experiment_params(model, is_whole=False, user_pinned=identity.user_pinned)
        compat.arguments_of_loader(model, user_pinned=identity.user_pinned)


def common_params(model: Any, encode_kwargs: Mapping[str, Any], *, user_pinned: bool = False) -> dict[str, Any]:
    """Return the class of an encoder, and the encode arguments that change vectors."""
    params: dict[str, Any] = {"encoder": class_name(type(model))}
    kwargs = plain_arguments(encode_kwargs, "encode argument", user_pinned=user_pinned)
    for argument, default in ENCODE_DEFAULTS.items():
        if kwargs.get(argument) == default:
            del kwargs[argument]
    if kwargs:
        params["encode"] = kwargs
    return params


def experiment_params(model: Any, *, is_whole: bool, user_pinned: bool) -> dict[str, Any]:
    """Return the arguments of `mteb.get_model`; if `is_whole`, without the one that only sets the size.

    Not for the two known classes: their arguments reach the model, whose description shows what they do.
    """
    meta = getattr(model, "mteb_model_meta", None)
    experiment = plain_arguments(getattr(meta, "experiment_kwargs", None), "loader argument", user_pinned=user_pinned)
    if is_whole and getattr(meta, "loader", None) is type(model):
        experiment.pop("embed_dim", None)  # these classes pass it to their model as truncate_dim, and to nothing else
    return {"experiment": experiment} if experiment else {}


def media_settings(model: Any) -> dict[str, Any]:
    """Return how an encoder samples audio and video."""
    return {name: value for name in MEDIA_SETTINGS if (value := getattr(model, name, None)) is not None}


def check_uncalibrated(model: Any, precision: Any) -> None:
    """Refuse to store what a model of sentence-transformers, in a class that is not known, quantizes by the call.

    Raises:
        IdentityError: If the precision depends on the texts that are encoded together.
    """
    if precision in compat.CALIBRATED and hasattr(getattr(model, "model", None), "encode"):
        raise IdentityError(
            f"precision={precision!r} of {type(model).__name__} depends on the texts that are encoded together. "
            "Evaluate without the cache, or quantize around it: mteb's "
            "CompressionWrapper(cas_cache.mteb.CachedEmbeddingWrapper(...))."
        )


def _params_of_unknown(
    model: Any, identity: ModelIdentity, context: TaskContext, kwargs: Mapping[str, Any], *, is_whole: bool
) -> dict[str, Any]:
    """Return what may change the vectors of a class that is not known."""
    user_pinned = identity.user_pinned
    params = common_params(model, kwargs, user_pinned=user_pinned)
    params.update(experiment_params(model, is_whole=is_whole, user_pinned=user_pinned))
    check_uncalibrated(model, kwargs.get("precision"))
    settings = compat.settings_of_unknown(model, context.task_metadata, context.prompt_type, user_pinned=user_pinned)
    params.update(plain(settings, "settings"))
    dimension = getattr(getattr(model, "mteb_model_meta", None), "embed_dim", None)
    if isinstance(dimension, int):
        params["embed_dim"] = dimension
    return params


def _fields_of_known(model: Any, columns: tuple[str, ...]) -> tuple[str, ...]:
    """Return the columns that one of the two known classes passes to the model.

    Raises:
        IdentityError: If it passes none of them.
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


def _known_prompt(model: Any, task_metadata: Any, prompt_type: Any, name: str | None) -> str | None:
    """Return the effective prompt text of the two known classes, None for any other class."""
    if classification.is_sentence_transformer_wrapper(model):
        return compat.prompt_of_sentence_transformer(model, task_metadata, prompt_type, name)
    if classification.is_instruct_wrapper(model):
        return compat.prompt_of_instruct(model, task_metadata, prompt_type, name)
    return None
