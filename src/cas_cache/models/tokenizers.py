"""Describe tokenizers and processors: vocabulary, added tokens and rules, without the settings of single calls.

Each call of transformers sets padding and truncation, and names and files depend on the machine. The class of a fast
tokenizer of transformers is not described, because releases build the same tokenizer under other names.
"""

from __future__ import annotations

import ctypes
import functools
import json
import weakref
from typing import TYPE_CHECKING, Any

from cas_cache.models.names import class_name, foreign_methods, is_library
from cas_cache.models.values import canonical, hashed, named_by_user, plain_value, shortened

if TYPE_CHECKING:
    from cas_cache.models.functions import CodeReader

RULES = ("normalizer", "pre_tokenizer", "post_processor")

SETTINGS = ("padding_side", "truncation_side", "add_bos_token", "add_eos_token", "split_special_tokens",
            "chat_template", "model_max_length")  # fmt: skip

BY_DEFAULT = {"padding_side": "right", "truncation_side": "right", "split_special_tokens": False,
              "add_bos_token": False, "add_eos_token": False}  # fmt: skip

UNLIMITED = 1 << 31
"""Number of tokens; transformers writes 10**30 for an unlimited length."""

IGNORED_ATTRIBUTES = frozenset(
    {
        "init_kwargs", "name_or_path", "vocab_file", "model_max_length", "deprecation_warnings", "verbose",
        "files_loader", "init_inputs", "chat_template", "cache", "bpe_ranks_cache", "image_processor_type",
        "model_specific_special_tokens",
        "feature_extractor_type", "processor_class", "size_divisor", "is_fast", "clean_up_tokenization_spaces",
        "model_input_names", "return_tensors", "device", "disable_grouping", "data_format",
    }
)  # fmt: skip
"""Attributes of slow tokenizers and of processors that depend on the machine, a call, or earlier calls."""

_vocabularies: weakref.WeakKeyDictionary[Any, tuple[Any, str, Any]] = weakref.WeakKeyDictionary()
"""By tokenizer: signs of a change, the hash, and the model, so that its memory is not reused."""


def is_tokenizer(value: Any) -> bool:
    """Return True for the tokenizers and processors of transformers, tokenizers and sentence-transformers."""
    return _is_of_tokenizers(type(value).__mro__) and not hasattr(value, "forward")


@functools.lru_cache(maxsize=1024)
def _is_of_tokenizers(classes: tuple[type, ...]) -> bool:
    names = {cls.__name__ for cls in classes}
    return bool(
        names & {"Tokenizer", "PreTrainedTokenizerBase", "ProcessorMixin", "ImageProcessingMixin",
                 "FeatureExtractionMixin", "WordTokenizer", "BaseVideoProcessor", "PushToHubMixin"}
    )  # fmt: skip


def describe_tokenizer(tokenizer: Any, where: str, code: CodeReader) -> Any:
    """Return plain JSON for a tokenizer, a processor, or the library's own `Tokenizer`.

    Raises:
        IdentityError: If it refers to something that cannot be described.
    """
    if (stated := named_by_user(tokenizer)) is not None:
        return stated
    described: dict[str, Any] = {}
    if not is_library(type(tokenizer)):
        described["class"] = code.own_class(type(tokenizer), where)
    described.update(_replaced(tokenizer, where, code))
    for cls in reversed(type(tokenizer).__mro__):
        for name, method in foreign_methods(cls).items():
            described[f"patched {name}"] = code.callable(method, f"{where} ({cls.__qualname__}.{name})")
    backend = _backend(tokenizer)
    if backend is not None:
        return {**described, **_settings(tokenizer), **_fast(tokenizer, backend)}
    described.setdefault("class", class_name(type(tokenizer)))
    parts = _parts(tokenizer)
    if parts:
        return {
            **described,
            **{name: describe_tokenizer(part, f"{where}.{name}", code) for name, part in parts.items()},
        }
    return {**described, **_slow(tokenizer, where, code)}


def _replaced(tokenizer: Any, where: str, code: CodeReader) -> dict[str, Any]:
    """Describe methods that were replaced on the object, such as `__call__` or `encode_batch`."""
    held = getattr(tokenizer, "__dict__", {})
    methods = {
        name: value
        for name, value in held.items()
        if callable(value) and callable(getattr(type(tokenizer), name, None))
    }
    return {f"replaced {name}": code.callable(value, f"{where}.{name}") for name, value in sorted(methods.items())}


def _backend(tokenizer: Any) -> Any:
    """Return the Rust tokenizer of a fast tokenizer."""
    if class_name(type(tokenizer)) == "tokenizers:Tokenizer":
        return tokenizer
    return getattr(tokenizer, "backend_tokenizer", None)


def _settings(tokenizer: Any) -> dict[str, Any]:
    settings = {name: getattr(tokenizer, name, None) for name in SETTINGS}
    kept = {
        name: shortened(value)
        for name, value in settings.items()
        if value is not None and value != BY_DEFAULT.get(name)
    }
    if kept.get("model_max_length", 0) >= UNLIMITED:
        del kept["model_max_length"]
    names = getattr(tokenizer, "model_input_names", None)
    if names is not None and list(names) != list(getattr(type(tokenizer), "model_input_names", names)):
        kept["model_input_names"] = list(names)
    return kept


def _fast(tokenizer: Any, backend: Any) -> dict[str, Any]:
    rules = {name: _state(rule) for name in RULES if (rule := getattr(backend, name)) is not None}
    added = {str(number): _added(token) for number, token in sorted(backend.get_added_tokens_decoder().items())}
    if tokenizer is backend:  # without transformers, which sets these in each call
        rules |= {name: rule for name in ("truncation", "padding") if (rule := getattr(backend, name)) is not None}
    return {
        **{name: shortened(rule) for name, rule in rules.items()},
        "added_tokens": shortened(added),
        "vocabulary": _vocabulary(tokenizer, backend, canonical(added)),
    }


def _state(rule: Any) -> Any:
    return _less_defaults(json.loads(rule.__getstate__()))


def _added(token: Any) -> dict[str, Any]:
    flags = ("single_word", "lstrip", "rstrip", "normalized")
    return {"content": token.content, **{flag: True for flag in flags if getattr(token, flag)}}


def _less_defaults(document: Any) -> Any:
    """Return rules without the values that only some releases spell out."""
    if isinstance(document, dict):
        return {
            name: _less_defaults(value) for name, value in document.items() if value is not None and value is not False
        }
    if isinstance(document, list):
        return [_less_defaults(value) for value in document]
    return document


def _vocabulary(tokenizer: Any, backend: Any, added: str) -> str:
    """Return a hash of the model of a fast tokenizer: its vocabulary, merges and settings.

    Reading the vocabulary takes 5 ms for 30,000 tokens, so the hash is reused until something that is cheap to read has
    changed: the model itself, the number of tokens, a sample of them, a setting.
    """
    model = backend.model
    size = backend.get_vocab_size(with_added_tokens=True)
    sampled = tuple(backend.id_to_token(number) for number in range(0, size, max(1, size // 64)))
    names = ("dropout", "unk_token", "unk_id", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
             "byte_fallback", "ignore_merges", "max_input_chars_per_word")  # fmt: skip
    seen = (
        type(model),
        _address_of(model),
        size,
        sampled,
        added,
        tuple(repr(getattr(model, name, None)) for name in names),
    )
    remembered = type(tokenizer).__weakrefoffset__ > 0  # not for the Rust class itself before tokenizers 0.23
    known = _vocabularies.get(tokenizer) if remembered else None
    if known is None or known[0] != seen:
        head, _, tail = model.__getstate__().decode().partition(',"vocab":')
        settings = _less_defaults(json.loads(head + "}"))
        known = (seen, hashed(canonical(settings) + tail), model)
        if remembered:
            _vocabularies[tokenizer] = known
    return known[1]


def _address_of(model: Any) -> bytes:
    """Return the address of the model of a Rust tokenizer, because each access makes a new Python object around it.

    These are the bytes of the Python object, which holds a pointer. If a release stored something else in its objects,
    two models would be distinguished by the other signs alone, or the vocabulary would be read each time.
    """
    head = object.__basicsize__
    return ctypes.string_at(id(model) + head, type(model).__basicsize__ - head)


def _parts(tokenizer: Any) -> dict[str, Any]:
    """Return the tokenizer, the image processor and so on of a processor."""
    names = getattr(tokenizer, "attributes", None) or getattr(type(tokenizer), "get_attributes", list)()
    parts = {name: getattr(tokenizer, name, None) for name in names if isinstance(name, str)}
    return {name: part for name, part in parts.items() if part is not None}


def _slow(tokenizer: Any, where: str, code: CodeReader) -> dict[str, Any]:
    """Describe a tokenizer in Python, or a processor of images or audio: its vocabulary and its lasting attributes."""
    described: dict[str, Any] = {}
    if hasattr(tokenizer, "get_vocab") and hasattr(tokenizer, "all_special_tokens"):
        described["vocabulary"] = hashed(canonical(sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])))
        described["special_tokens"] = shortened({name: str(t) for name, t in tokenizer.special_tokens_map.items()})
    model: Any = getattr(tokenizer, "sp_model", None)
    if hasattr(model, "serialized_model_proto"):
        described["sentencepiece"] = hashed(model.serialized_model_proto())
    for name, value in sorted(getattr(tokenizer, "__dict__", {}).items()):
        if name in IGNORED_ATTRIBUTES or name == "sp_model" or callable(value) or name.startswith("__"):
            continue
        if name.startswith("_") and name not in ("_added_tokens_decoder", "_added_tokens_encoder"):
            continue
        described[name] = plain_value(value, f"{where}.{name}", lambda held, place: _held(held, place, code))
    return {**described, **_settings(tokenizer)}


def _held(value: Any, where: str, code: CodeReader) -> Any:
    if class_name(type(value)).endswith(":AddedToken"):
        return _added(value)
    if is_tokenizer(value):
        return describe_tokenizer(value, where, code)
    return code.instance(value, where)
