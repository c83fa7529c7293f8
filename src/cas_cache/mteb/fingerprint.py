"""Fingerprints of weights: a whole one, a revision for models that have none; and a quick one, taken at every use.

A name and a revision say what was loaded. What was done to it since (trained on, quantized, a pooling changed) they do
not say, so the quick one is part of the identity of every model that can be looked into.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

FINGERPRINT_HEX = 40

SAMPLED = 64
"""Values of each tensor: with the hundred tensors of a small model, 6,400 of them."""

SAMPLE_HEX = 16

CALLED_WITH = ("do_lower_case", "processing_kwargs")
"""How sentence-transformers calls the first module. Its whole configuration would name versions and paths too."""

RULES = ("normalizer", "pre_tokenizer", "post_processor")
"""What a tokenizer does besides its vocabulary, which is long and changes with the tensors' shapes."""

NOT_COMPUTED = frozenset({"transformers_version", "architectures", "dtype", "torch_dtype"})
"""Keys of a transformers configuration that change no vector, or are seen in the tensors."""


def weights_fingerprint(model: Any) -> str:
    """Return a revision that pins a torch model by what it is: ``"weights-"`` and 40 hex digits of a SHA-256.

    It covers every tensor of the state dict (name, dtype, shape, values), and, where the model has them, the
    configurations of transformers' models and of sentence-transformers' modules, and the tokenizer, less the
    tokenizer's padding and truncation, which change from call to call. About 1 GB/s.

    Args:
        model: A torch module, a `SentenceTransformer`, or an mteb encoder that holds one as ``.model``.

    Raises:
        TypeError: If no state dict can be found.
    """
    while not hasattr(model, "state_dict"):
        if not hasattr(model, "model"):
            raise TypeError(
                f"{type(model).__name__} has no state_dict() and no .model that has one. Pass the torch module, or "
                "name the revision yourself: revision='...'."
            )
        model = model.model
    digest = hashlib.sha256()
    for name, tensor in _tensors(model):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(_content(tensor.flatten()))
    for module in model.modules():
        for config in _configs(module):
            document = json.dumps(config, sort_keys=True, default=str)
            digest.update(f"{type(module).__qualname__}\0{document}\0".encode())
    digest.update(_tokenizer_document(model))
    return f"weights-{digest.hexdigest()[:FINGERPRINT_HEX]}"


def weights_sample(model: Any) -> str:
    """Return 16 hex digits that tell a `SentenceTransformer` from what it was before it was trained on or changed.

    It covers name, dtype, shape and `SAMPLED` values of every tensor, kind and configuration of every module but the
    first, which is the transformer, how that one is called, and the tokenizer's rules. About 15 ms for MiniLM. What
    differs in no sampled value passes unseen: a step of training changes nearly all of them, unless all but a few rows
    of the embeddings are frozen.
    """
    digest = hashlib.sha256()
    for name, tensor in _tensors(model):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        values = tensor.flatten()
        digest.update(_content(values[:: max(1, len(values) // SAMPLED)]))
    for position, module in enumerate(model.children()):
        config = module.get_config_dict() if position and hasattr(module, "get_config_dict") else {}
        document = json.dumps(config, sort_keys=True, default=str)
        digest.update(f"{type(module).__qualname__}\0{document}\0".encode())
    first = next(iter(model.children()), None)
    called = {name: value for name in CALLED_WITH if (value := getattr(first, name, None))}
    digest.update(json.dumps(called, sort_keys=True, default=str).encode())
    backend = getattr(getattr(model, "tokenizer", None), "backend_tokenizer", None)
    for rule in RULES:
        of_rule = getattr(backend, rule, None)
        digest.update(f"\0{rule}\0".encode() + (b"" if of_rule is None else of_rule.__getstate__()))
    return digest.hexdigest()[:SAMPLE_HEX]


def _tensors(model: Any) -> Iterator[tuple[str, Any]]:
    """Every tensor of the state dict by name, sorted; quantized ones by their values."""
    import torch

    for name, value in sorted(model.state_dict().items()):
        # Modules that torch quantized keep tuples of tensors, dtypes and None.
        for part in value if isinstance(value, tuple | list) else [value]:
            if isinstance(part, torch.Tensor):
                yield name, part.detach().dequantize() if part.is_quantized else part.detach()


def _content(values: Any) -> bytes:
    """The bytes of a flat tensor, on whatever device and of whatever type."""
    import torch

    content: bytes = values.contiguous().cpu().view(torch.uint8).numpy().tobytes()
    return content


def _configs(module: Any) -> list[dict[str, Any]]:
    """What a module says of how it computes, less where and by which version it was saved."""
    found = [module.get_config_dict()] if hasattr(module, "get_config_dict") else []
    config: Any = getattr(module, "config", None)
    if hasattr(config, "to_diff_dict"):
        found.append({k: v for k, v in config.to_diff_dict().items() if k not in NOT_COMPUTED and k[:1] != "_"})
    return found


def _tokenizer_document(model: Any) -> bytes:
    backend = getattr(getattr(model, "tokenizer", None), "backend_tokenizer", None)
    if backend is None:
        return b""
    document = json.loads(backend.to_str())
    fixed = {key: value for key, value in document.items() if key not in ("padding", "truncation")}
    return json.dumps(fixed, sort_keys=True).encode()
