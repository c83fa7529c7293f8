"""Canonical JSON: one value, one byte string, so that its hash can be a name.

Sorted keys, no spaces, UTF-8 without escapes beyond those JSON demands. Floats are allowed only where JSON gives
them back unchanged: no NaN, no infinity. Nothing is coerced: what is not plain JSON is an error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from cas_cache.errors import IdentityError

MOST = 2**63
"""Whole numbers beyond are no longer whole in most JSON readers."""


def plain_json(value: object, where: str) -> Any:
    """Return a deep copy of `value` made of plain JSON types only.

    Args:
        value: None, bool, int, float, str, and lists, tuples and mappings of these.
        where: How to call the value in an error, for example ``params["dtype"]``.

    Raises:
        IdentityError: If anything in `value` is not plain JSON. Nothing is turned into a string.
    """
    if value is None or type(value) is bool:
        return value
    if type(value) is int:
        if abs(value) >= MOST:
            raise IdentityError(f"{where} is a whole number of more than 63 bits. Pass it as a string.")
        return value
    if type(value) is str:
        _check_encodable(value, where)
        return value
    if type(value) is float:
        if not math.isfinite(value):
            raise IdentityError(f"{where} is {value!r}, which JSON cannot hold. Leave it out, or give it a name.")
        # 1 and 1.0 are the same setting to every encoder, and JSON readers do not agree on telling them apart.
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if isinstance(value, Mapping):
        return {_key(k, where): plain_json(v, f"{where}[{k!r}]") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(v, f"{where}[{i}]") for i, v in enumerate(value)]
    raise IdentityError(
        f"{where} is a {type(value).__module__}.{type(value).__qualname__}, not plain JSON, so it cannot be part of "
        "an encoder's identity. Pass the string, number or mapping that stands for it."
    )


def canonical_json(value: object) -> bytes:
    """Return the one byte string that stands for `value`, which must be plain JSON.

    Raises:
        IdentityError: If `value` is not plain JSON.
    """
    plain = plain_json(value, "value")
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def freeze(value: Any) -> Any:
    """Return plain JSON as immutable values: mappings as read-only proxies, lists as tuples."""
    if isinstance(value, dict):
        return MappingProxyType({k: freeze(v) for k, v in value.items()})
    if isinstance(value, list):
        return tuple(freeze(v) for v in value)
    return value


def _key(key: object, where: str) -> str:
    if type(key) is not str:
        raise IdentityError(f"{where} has the key {key!r}; JSON keys are strings.")
    _check_encodable(key, where)
    return key


def _check_encodable(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as err:
        raise IdentityError(f"{where} holds a lone surrogate at position {err.start}; UTF-8 cannot encode it.") from err
