"""Plain JSON for the contents of modules, functions and tokenizers; long values and tensors by a hash.

No value is converted to text that could hide a difference: a value that cannot be described is an `IdentityError`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

from cas_cache.errors import IdentityError
from cas_cache.models.names import class_name
from cas_cache.models.tensors import is_tensor, tensor_digest

IDENTITY_ATTRIBUTE = "cas_cache_identity"
"""An attribute that users set on a function, module or other object: plain JSON that describes the whole object."""

MAX_PLAIN = 256
"""Maximum characters of a value in a description. Longer values, such as vocabularies, are replaced by a hash."""

SCALARS = (bool, int, float, str, type(None))

VOLATILE = re.compile(
    r"(^|_)(calls?|count(s|er|ers)?|seen|hits|misses|elapsed|timers?|timings?|time|cached?|caches|memo|stats"
    r"|logs?|logger|history|lock)(_|$)"
)
"""Names of attributes and variables that change while a model computes: counters, timers, caches."""

Other = Callable[[Any, str], Any]
"""Function that describes a value that is not plain, given its path."""


def hashed(text: str | bytes) -> str:
    """Return the first 32 hex digits of a SHA-256."""
    return hashlib.sha256(text.encode(errors="surrogatepass") if isinstance(text, str) else text).hexdigest()[:32]


def canonical(document: Any) -> str:
    """Return the JSON whose hash is the digest of a description."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def shortened(document: Any) -> Any:
    """Return a plain JSON value as it is, or its hash if it is long."""
    text = canonical(document)
    return document if len(text) <= MAX_PLAIN else {"sha256": hashed(text)}


def named_by_user(value: Any) -> Any:
    """Return the user's `IDENTITY_ATTRIBUTE` of an object, in a mapping; None without the attribute."""
    try:
        stated = vars(value).get(IDENTITY_ATTRIBUTE)
    except TypeError:
        return None
    return None if stated is None else {IDENTITY_ATTRIBUTE: stated}


def attributes_of(value: Any) -> dict[str, Any]:
    """Return an object's attributes from its `__dict__` and slots, without calling a property or a method.

    {} for an object that has none, or that hides its state.
    """
    slots = {
        name: getattr(value, name)
        for cls in type(value).__mro__
        for name in _slot_names(cls)
        if not name.startswith("__") and hasattr(value, name)
    }
    return {**slots, **getattr(value, "__dict__", {})}


def _slot_names(cls: type) -> tuple[str, ...]:
    """Return the slots that a class itself declares."""
    slots = vars(cls).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def plain_value(value: Any, where: str, other: Other | None = None) -> Any:
    """Return plain JSON for a value; long strings and containers are hashed.

    Args:
        value: Any value.
        where: Path of the value, for an error.
        other: Describes a value that is neither plain nor a container, dtype, enum, array or tensor.

    Raises:
        IdentityError: If the value, or a value inside of it, cannot be described.
    """
    return shortened(_plain(value, where, other))


def _plain(value: Any, where: str, other: Other | None) -> Any:
    if isinstance(value, Enum):
        return _plain(value.value, where, other)
    if isinstance(value, SCALARS):
        return value if not isinstance(value, float) or math.isfinite(value) else {"float": str(value)}
    if (stated := named_by_user(value)) is not None:
        return stated
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        return _container(value, where, other)
    return _leaf(value, where, other)


def _container(value: Any, where: str, other: Other | None) -> Any:
    if isinstance(value, Mapping):
        parts = {key: _plain(part, where, other) for key, part in value.items()}
        if all(type(key) is str for key in parts):
            return parts
        return {"map": sorted([canonical(_plain(key, where, other)), canonical(part)] for key, part in parts.items())}
    parts_in_order = [_plain(part, where, other) for part in value]
    return {"set": sorted(parts_in_order, key=canonical)} if isinstance(value, set | frozenset) else parts_in_order


def _leaf(value: Any, where: str, other: Other | None) -> Any:  # noqa: PLR0911 - one line per type
    if isinstance(value, bytes | bytearray):
        return {"bytes": hashed(bytes(value))}
    if isinstance(value, PurePath):
        return {"path": value.name}  # the folder differs from machine to machine
    if isinstance(value, re.Pattern):
        return {"pattern": [str(value.pattern), value.flags]}
    if is_tensor(value):
        return {"tensor": tensor_digest(value, where)}
    if type(value).__module__ == "torch":  # a dtype, a device, a layout
        return {"torch": str(value).partition(":")[0]}
    if type(value).__module__ == "numpy":
        return _numpy(value)
    if other is not None:
        return other(value, where)
    raise cannot_describe(value, where)


def _numpy(value: Any) -> Any:
    import numpy as np

    array = np.ascontiguousarray(value)
    if array.dtype.hasobject:
        return {"array": hashed(canonical(array.tolist()))}
    return {"array": [str(array.dtype), list(array.shape), hashed(array.tobytes())]}


def cannot_describe(value: Any, where: str) -> IdentityError:
    """Return the error for a value that can change vectors and cannot be described."""
    return IdentityError(
        f"{where} is a {class_name(type(value))}, which cannot be described, so two different ones could share "
        f"vectors. Describe it with an attribute, for example "
        f"object.{IDENTITY_ATTRIBUTE} = 'steering-v1', or evaluate without the cache."
    )
