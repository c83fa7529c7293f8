"""A fingerprint of weights: a revision for models that have none, such as local checkpoints."""

from __future__ import annotations

import hashlib
import json
from typing import Any

FINGERPRINT_HEX = 40

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
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name}\0{values.dtype}\0{tuple(values.shape)}\0".encode())
        digest.update(values.flatten().view(_byte_type()).numpy().data)
    for module in model.modules():
        for config in _configs(module):
            document = json.dumps(config, sort_keys=True, default=str)
            digest.update(f"{type(module).__qualname__}\0{document}\0".encode())
    digest.update(_tokenizer_document(model))
    return f"weights-{digest.hexdigest()[:FINGERPRINT_HEX]}"


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


def _byte_type() -> Any:
    import torch

    return torch.uint8
