"""The configurations of sentence-transformers' modules, in the spelling of its latest release.

Releases rename settings, merge them, and do or do not write defaults. The description of an unchanged checkpoint must
be the same under all of them.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

from cas_cache.models.names import class_name

if TYPE_CHECKING:
    from collections.abc import Callable

RENAMED = {
    "word_embedding_dimension": "embedding_dimension",
    "in_word_embedding_dimension": "in_embedding_dimension",
    "tokenizer_args": "processor_kwargs",
    "model_args": "model_kwargs",
}

NOT_COMPUTED = frozenset(
    {"activation_function", "unpad_inputs", "update_embeddings", "max_seq_length", "do_lower_case", "tokenizer_class",
     "dropout", "processor_kwargs", "model_kwargs", "config_kwargs", "tokenizer_name_or_path"}
)  # fmt: skip
"""Settings that are described elsewhere (as a child module, with the tokenizer), or that do not change vectors."""

POOLING_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Switches in releases before 6, in the order in which their results are concatenated."""

TRANSFORMER_DEFAULTS = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}

EXTRA = {"BoW": ("weights",)}
"""Attributes that a module computes from its configuration and uses instead of it."""


def is_model(module: Any) -> bool:
    """Return True for a `SentenceTransformer`, or another model of that library that runs modules in order."""
    return _extends(type(module).__mro__, "SentenceTransformer")


def config_of(module: Any) -> dict[str, Any] | None:
    """Return the configuration of a module of sentence-transformers; None for any other module."""
    if is_model(module):
        passed = {name: kwargs for name, kwargs in (getattr(module, "module_kwargs", None) or {}).items() if kwargs}
        return {"module_kwargs": passed} if passed else {}
    cls = type(module)
    if not class_name(cls).startswith("sentence_transformers:") or not hasattr(module, "get_config_dict"):
        return None
    stated = {RENAMED.get(name, name): value for name, value in _stated(module).items()}
    defaults = _defaults_of(cls)
    config = {
        name: value
        for name, value in stated.items()
        if name not in NOT_COMPUTED and value is not None and not (name in defaults and value == defaults[name])
    }
    if config.get("module_output_name") == stated.get("module_input_name", ""):
        del config["module_output_name"]  # by default a module writes where it reads
    return config


def child_name(module: Any, name: str) -> str:
    """Return a name of a child that is equal under every release: `Transformer` has renamed its model."""
    return "transformer" if name in ("auto_model", "model") and _is_transformer(module) else name


def _is_transformer(module: Any) -> bool:
    return _extends(type(module).__mro__, "Transformer")


@functools.lru_cache(maxsize=1024)
def _extends(classes: tuple[type, ...], name: str) -> bool:
    return any(class_name(cls) == f"sentence_transformers:{name}" for cls in classes)


def _stated(module: Any) -> dict[str, Any]:
    stated = dict(module.get_config_dict())
    modes = [mode for switch, mode in POOLING_MODES.items() if stated.pop(switch, False)]
    if modes:
        stated["pooling_mode"] = modes
    if type(stated.get("pooling_mode")) is str:
        stated["pooling_mode"] = [stated["pooling_mode"]]
    for name in EXTRA.get(type(module).__name__, ()):
        stated[name] = getattr(module, name)
    return stated


def _defaults_of(cls: Any) -> dict[str, Any]:
    given = _defaults_of_arguments(cls.__init__)
    defaults = {"module_input_name": "sentence_embedding", "use_residual": False, "include_prompt": True, **given}
    if cls.__name__ == "Pooling":
        defaults["pooling_mode"] = None  # always described, because its default differs between releases
    return {**defaults, **(TRANSFORMER_DEFAULTS if cls.__name__ == "Transformer" else {})}


@functools.lru_cache(maxsize=64)
def _defaults_of_arguments(constructor: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(constructor).parameters.items()
    return {RENAMED.get(n, n): p.default for n, p in parameters if p.default is not inspect.Parameter.empty}
