"""`weights_fingerprint`: a revision for a model that has none."""

from __future__ import annotations

import hashlib
from typing import Any

from cas_cache.errors import IdentityError
from cas_cache.models.description import in_memory, read
from cas_cache.models.encoders import describe_part, parts_of
from cas_cache.models.parts import is_module
from cas_cache.models.tensors import tensor_parts, update
from cas_cache.models.values import canonical

FINGERPRINT_HEX = 40


def weights_fingerprint(model: Any) -> str:
    """Return a revision that pins a model by what it is: ``"weights-"`` and 40 hex digits of a SHA-256.

    It covers what `describe` sees (classes, configurations, tokenizers, adapters, hooks) and all values of every
    tensor. About 1 GB/s.

    Args:
        model: A torch module, a `SentenceTransformer`, or an encoder that holds one under any attribute.

    Raises:
        IdentityError: If the model has no weights that can be read, or holds something that cannot be described.
        TypeError: If it is not a torch module and holds none.
    """
    digest = hashlib.sha256()
    found = {"": model} if is_module(model) else parts_of(model)
    if not found:
        raise TypeError(
            f"{type(model).__name__} is not a torch module and holds none. Pass the torch module, or name the "
            "revision yourself: revision='...'."
        )
    if len(found) == 1:
        found = dict.fromkeys([""], *found.values())  # one model has one fingerprint, bare or under any attribute
    says_something = False
    for name, part in found.items():
        document, tensors = read(part) if is_module(part) else (describe_part(part, name or type(part).__name__), [])
        says_something = says_something or bool(tensors) or not _is_bare(document)
        digest.update(f"{name}\0{canonical(document)}\0".encode())
        for path, tensor, holder in tensors:
            digest.update(f"{path}\0".encode())
            for values in tensor_parts(in_memory(tensor, path, holder), path):
                update(digest, values, path, step=1)
    if not says_something:
        raise IdentityError(
            f"{type(model).__name__} holds no weights that can be read, so a fingerprint of it would be that of any "
            "other model of its kind. Name the revision yourself: revision='...'."
        )
    return f"weights-{digest.hexdigest()[:FINGERPRINT_HEX]}"


def _is_bare(document: Any) -> bool:
    """Return True if nothing is known of a module but the name of a library's class."""
    described = document.get("model")
    return isinstance(described, dict) and set(described) == {"class"} and isinstance(described["class"], str)
