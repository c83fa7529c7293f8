"""Describe the configuration of a transformers model: the values that differ from its class's defaults.

Paths, versions, names and switches that change only speed are not described. Releases of transformers spell the rotary
embedding in two ways; both have one description.
"""

from __future__ import annotations

from typing import Any

from cas_cache.models.values import Other, canonical, plain_value

NOT_COMPUTED = frozenset(
    {
        # its origin, and what the tensors show
        "transformers_version", "name_or_path", "architectures", "auto_map", "dtype", "torch_dtype", "tokenizer_class",
        "adapters", "finetuning_task", "task_specific_params", "model_type", "base_config_key",
        # outputs and speed
        "use_cache", "return_dict", "output_attentions", "output_hidden_states", "torchscript", "attn_implementation",
        "experts_implementation", "gradient_checkpointing", "use_flash_attn", "use_memory_efficient_attention",
        "unpad_inputs", "reference_compile", "deterministic_flash_attn", "pretraining_tp", "use_return_dict",
        "pruned_heads", "tie_word_embeddings", "tf_legacy_loss", "use_bfloat16",
        # training and heads of other tasks
        "initializer_range", "initializer_factor", "id2label", "label2id", "num_labels", "problem_type",
        "classifier_dropout", "chunk_size_feed_forward", "summary_type", "summary_use_proj", "summary_activation",
        "summary_proj_to_labels", "summary_first_dropout", "router_aux_loss_coef", "output_router_logits",
        # generation, which older releases store in the configuration
        "bad_words_ids", "begin_suppress_tokens", "decoder_start_token_id", "diversity_penalty", "do_sample",
        "early_stopping", "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "forced_bos_token_id",
        "forced_eos_token_id", "length_penalty", "max_length", "min_length", "no_repeat_ngram_size",
        "num_beam_groups", "num_beams", "num_return_sequences", "output_scores", "prefix", "remove_invalid_values",
        "repetition_penalty", "return_dict_in_generate", "suppress_tokens", "temperature", "tie_encoder_decoder",
        "top_k", "top_p", "typical_p", "cross_attention_hidden_size", "bos_token_id", "sep_token_id",
    }
)  # fmt: skip
"""Keys that do not change the vectors of an encoder."""

FORMER_DEFAULTS = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}
"""Defaults of keys that newer releases of transformers do not have."""

ROPE_KEYS = ("rope_theta", "rope_scaling", "rope_parameters", "default_theta")

DEFAULT_THETA = 10000

ATTENTION = frozenset(
    {"eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3", "flash_attention_4",
     "paged_attention"}
)  # fmt: skip
"""Attention kernels of transformers: the same function up to rounding."""

_defaults: dict[type, dict[str, Any]] = {}


def describe_config(config: Any, where: str, other: Other | None = None) -> dict[str, Any]:
    """Return plain JSON for a transformers configuration, or for a mapping in its place.

    Raises:
        IdentityError: If a value in it cannot be described.
    """
    values = _values(config)
    defaults = _defaults_of(config)
    described = {
        name: _described(value, f"{where}.{name}", other)
        for name, value in values.items()
        if _counts(name, value, defaults)
    }
    rope = _rope(config, values)
    if rope:
        described["rope"] = plain_value(rope, f"{where}.rope", other)
    quantization = values.get("quantization_config")
    if quantization is not None:
        described["quantization"] = _quantization(quantization, f"{where}.quantization_config", other)
    return described


def attention_of(config: Any) -> str | None:
    """Return the name of the attention function, None for a function of transformers."""
    name = getattr(config, "_attn_implementation", None)
    known = name is None or name in ATTENTION or str(name).startswith("kernels-community/")
    return None if known else str(name)


def _values(config: Any) -> dict[str, Any]:
    held = config if isinstance(config, dict) else vars(config)
    return {name: value for name, value in held.items() if not name.startswith("_")}


def _described(value: Any, where: str, other: Other | None) -> Any:
    if hasattr(value, "to_diff_dict"):
        return describe_config(value, where, other)
    return plain_value(value, where, other)


def _counts(name: str, value: Any, defaults: dict[str, Any]) -> bool:
    if name in NOT_COMPUTED or name in ROPE_KEYS or name == "quantization_config" or value is None:
        return False
    if name == "layer_types" and len(set(map(str, value))) == 1:
        return False  # older releases do not spell out that all layers have one type
    if name in defaults:
        return not _equal(value, defaults[name])
    return name not in FORMER_DEFAULTS or value != FORMER_DEFAULTS[name]


def _equal(value: Any, default: Any) -> bool:
    if hasattr(value, "to_diff_dict") and type(value) is type(default):
        return describe_config(value, "") == describe_config(default, "")
    return bool(type(value) is type(default) and value == default) or (
        isinstance(value, int | float) and isinstance(default, int | float) and value == default
    )


def _defaults_of(config: Any) -> dict[str, Any]:
    """Return the values of a configuration of this class without arguments; {} for a class that needs some."""
    cls = type(config)
    if cls is dict:
        return {}
    if cls not in _defaults:
        try:
            _defaults[cls] = _values(cls())
        except (TypeError, ValueError, AttributeError, KeyError):  # a class with required arguments
            _defaults[cls] = {}
    return _defaults[cls]


def _rope(config: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Return the rotary embedding in one spelling, without default values."""
    parameters = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(parameters, dict):
        parameters = dict(vars(parameters))
    theta = parameters.get("rope_theta", values.get("rope_theta", getattr(config, "default_theta", None)))
    if parameters and all(isinstance(part, dict) for part in parameters.values()):
        return {name: _rope_of(part, part.get("rope_theta")) for name, part in parameters.items()}
    return _rope_of(parameters, theta)


def _rope_of(parameters: dict[str, Any], theta: Any) -> dict[str, Any]:
    rope = {
        name: value for name, value in parameters.items() if value is not None and name not in ("type", "rope_theta")
    }
    rope.setdefault("rope_type", parameters.get("type", "default"))
    if rope["rope_type"] == "default":
        del rope["rope_type"]
    if theta is not None and theta != DEFAULT_THETA:
        rope["rope_theta"] = theta
    if rope.get("partial_rotary_factor") == 1:
        del rope["partial_rotary_factor"]
    return rope


def _quantization(value: Any, where: str, other: Other | None) -> Any:
    stated = value if isinstance(value, dict) else value.to_dict()
    kept = {name: held for name, held in stated.items() if held is not None and not name.startswith("_")}
    return plain_value(kept, where, other)


def config_key(config: Any) -> str:
    """Return a text that two configurations share only if equal models are built from them."""
    return canonical({name: repr(value) for name, value in vars(config).items()})
