"""A fingerprint of weights: a revision for models that have none, such as local checkpoints."""

from __future__ import annotations

import hashlib
import json
from typing import Any

FINGERPRINT_HEX = 40


def weights_fingerprint(model: Any) -> str:
    """Return a revision that pins a torch model by what it is: ``"weights-"`` and 40 hex digits of a SHA-256.

    It covers every tensor of the state dict (name, dtype, shape, values), and, where the model has them, the
    configuration of sentence-transformers' modules and the tokenizer, less the tokenizer's padding and truncation,
    which change from call to call. About 1 GB/s.

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
        if hasattr(module, "get_config_dict"):
            config = json.dumps(module.get_config_dict(), sort_keys=True, default=str)
            digest.update(f"{type(module).__qualname__}\0{config}\0".encode())
    digest.update(_tokenizer_document(model))
    return f"weights-{digest.hexdigest()[:FINGERPRINT_HEX]}"


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
