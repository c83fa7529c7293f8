"""Encoders of any class: their names, the models and tokenizers that they hold, and a fingerprint of all weights."""

from __future__ import annotations

import hashlib
from functools import partial
from types import FunctionType
from typing import Any

from cas_cache.errors import IdentityError
from cas_cache.models.description import describe, in_memory, read
from cas_cache.models.exported import describe_exported, is_exported
from cas_cache.models.functions import CodeReader, captured
from cas_cache.models.names import STANDARD, class_name, is_library, top_package
from cas_cache.models.parts import is_module
from cas_cache.models.tensors import tensor_parts, update
from cas_cache.models.tokenizers import describe_tokenizer, is_tokenizer
from cas_cache.models.values import attributes_of, canonical, hashed, named_by_user

FINGERPRINT_HEX = 40

MAX_DEPTH = 4
"""Levels of nested lists, mappings, functions and objects that are searched for models."""

MAX_ITEMS = 10_000
"""Maximum number of containers and objects that are searched."""

MAX_LENGTH = 1_000
"""Maximum length of a container that is searched. A longer one contains data, not models."""

IGNORED = frozenset({"mteb_model_meta", "model_card_data"})


def describe_encoder(encoder: Any) -> dict[str, Any]:
    """Return plain JSON for an encoder of any class: its name, and every model that it holds.

    Raises:
        IdentityError: If a module holds something that can change vectors and cannot be described.
    """
    held = {name: describe_part(part, name) for name, part in parts_of(encoder).items()}
    stated = named_by_user(encoder)
    return {"class": class_name(type(encoder)), **({"holds": held} if held else {}), **(stated or {})}


def describe_part(part: Any, where: str) -> Any:
    """Return short plain JSON for a torch module, a tokenizer, or a model of another engine.

    Raises:
        IdentityError: If it holds something that can change vectors and cannot be described.
    """
    if is_module(part):
        return describe(part).identity()
    code = CodeReader()
    described = (describe_exported if is_exported(part) else describe_tokenizer)(part, where, code)
    return {"computes": hashed(canonical(described))}


def parts_of(encoder: Any) -> dict[str, Any]:
    """Return the torch modules, tokenizers and models of other engines that an object holds, by their paths.

    They are found under any attribute. Lists, mappings and objects are searched a few levels deep; a
    module's own modules are not listed.
    """
    found: dict[str, Any] = {}
    _search(encoder, "", 0, found, {id(encoder)})
    return dict(sorted(found.items()))


def _search(value: Any, path: str, depth: int, found: dict[str, Any], seen: set[int]) -> None:
    for name, held in _parts(value):
        if id(held) in seen or len(seen) > MAX_ITEMS:
            continue
        place = f"{path}.{name}" if path else name
        if is_part(held):
            seen.add(id(held))
            found[place] = held
        elif depth < MAX_DEPTH and _may_hold(held):
            seen.add(id(held))
            _search(held, place, depth + 1, found, seen)


def is_part(value: Any) -> bool:
    """Return True for a torch module, a tokenizer of a library, or a model of another engine."""
    return is_module(value) or is_exported(value) or (is_tokenizer(value) and is_library(type(value)))


def _parts(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict | list | tuple) and len(value) > MAX_LENGTH:
        return []
    if isinstance(value, dict):
        return [(str(name), held) for name, held in value.items()]
    if isinstance(value, list | tuple):
        return [(str(position), held) for position, held in enumerate(value)]
    if isinstance(value, FunctionType | partial) or getattr(value, "__self__", None) is not None:
        return _parts_of_function(value)
    return [(name, held) for name, held in sorted(attributes_of(value).items()) if name not in IGNORED]


def _parts_of_function(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, FunctionType):
        return sorted(captured(value).items())
    names = ("func", "args", "keywords") if isinstance(value, partial) else ("__self__",)
    return [(name, getattr(value, name)) for name in names]


def _may_hold(value: Any) -> bool:
    """Return True for containers, and for objects of classes outside of Python's own library."""
    if isinstance(value, dict | list | tuple | FunctionType | partial) or getattr(value, "__self__", None) is not None:
        return True
    cls = type(value)
    plain = top_package(cls.__module__) in STANDARD or cls.__module__ in ("numpy", "torch")
    holds = hasattr(value, "__dict__") or any("__slots__" in vars(part) for part in cls.__mro__)
    return holds and not plain and not isinstance(value, type)


def weights_fingerprint(model: Any) -> str:
    """Return a revision that pins a model by its content: ``"weights-"`` and 40 hex digits of a SHA-256.

    It covers everything that `describe` covers (classes, configurations, tokenizers, adapters, hooks) and all values of
    every tensor. It reads about 1 GB/s.

    Args:
        model: A torch module, a `SentenceTransformer`, or an encoder that holds one under any attribute.

    Raises:
        IdentityError: If the model has no weights that can be read, or holds something that cannot be described.
        TypeError: If it is not a torch module and does not hold one.
    """
    digest = hashlib.sha256()
    parts = {"": model} if is_module(model) else parts_of(model)
    if not parts:
        raise TypeError(
            f"{type(model).__name__} is not a torch module and does not hold one. Pass the torch module, or "
            "set the revision yourself: revision='...'."
        )
    if len(parts) == 1:
        parts = dict.fromkeys([""], *parts.values())  # one model has one fingerprint, bare or under any attribute
    is_specific = False
    for name, part in parts.items():
        document, tensors = read(part) if is_module(part) else (describe_part(part, name or type(part).__name__), [])
        is_specific = is_specific or bool(tensors) or not _is_bare(document)
        digest.update(f"{name}\0{canonical(document)}\0".encode())
        for path, tensor, holder in tensors:
            digest.update(f"{path}\0".encode())
            for values in tensor_parts(in_memory(tensor, path, holder), path):
                update(digest, values, path, step=1)
    if not is_specific:
        raise IdentityError(
            f"{type(model).__name__} holds no weights that can be read, so all models of its class would have the "
            "same fingerprint. Set the revision yourself: revision='...'."
        )
    return f"weights-{digest.hexdigest()[:FINGERPRINT_HEX]}"


def _is_bare(document: Any) -> bool:
    """Return True if the description of a module is only the name of a library's class."""
    described = document.get("model")
    return isinstance(described, dict) and set(described) == {"class"} and isinstance(described["class"], str)
