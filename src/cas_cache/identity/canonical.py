"""Canonical JSON: one value, one byte string, so that its hash can be a name.

Keys are sorted; there are no spaces; text is UTF-8 without escapes beyond those that JSON requires. Floats are allowed
only if JSON returns them unchanged: no NaN, no infinity. Nothing is coerced: a value that is not plain JSON is an
error.

`parsed_json` parses every JSON document of this package, with one kind of error for anything that is not JSON.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from cas_cache.errors import IdentityError
from cas_cache.identity.credentials import redact

MOST = 2**63
"""Limit of whole numbers; larger ones are no longer whole in most JSON readers."""


MAX_DEPTH = 64
"""Maximum depth of nested lists and mappings. Python's own limit depends on the depth of the caller."""

MAX_SHOWN_CHARACTERS = 200
"""Maximum number of characters of a value that an error shows."""

Where = str | tuple["Where", object]
"""A place in a value: its name, or the place that contains it and the key or position there."""


def parsed_json(data: bytes | str) -> Any:
    """Parse a JSON document in UTF-8.

    Raises:
        ValueError: If it is not JSON, is nested too deeply, repeats a name in one object, or holds NaN or Infinity,
            which Python accepts and other parsers do not.
    """
    # Given bytes, Python would also accept other encodings, and halves of UTF-16 pairs in UTF-8.
    text = data if isinstance(data, str) else data.decode()
    try:
        return json.loads(text, parse_constant=_no_number, object_pairs_hook=_each_once)
    except RecursionError as err:
        msg = "nested too deeply"
        raise ValueError(msg) from err


def quoted(value: object) -> str:
    """Return the beginning of a value's `repr` without credentials, for a message: the value may be long, or deep."""
    # Redacted before it is cut, too, because a part of a credential is not recognised.
    return redact(_QUOTED.repr(redact(value) if isinstance(value, str) else value))


def plain_json(value: object, where: Where, depth: int = 0) -> Any:
    """Return a deep copy of `value` made of plain JSON types only.

    Args:
        value: None, bool, int, float, str, and lists, tuples and mappings of these.
        where: Name of the value in an error, for example ``params``.
        depth: Number of lists and mappings that contain it.

    Raises:
        IdentityError: If anything in `value` is not plain JSON. Nothing is converted to a string.
    """
    if value is None or type(value) is bool:
        return value
    if type(value) is int:
        if abs(value) >= MOST:
            raise IdentityError(f"{_place(where)} is a whole number of more than 63 bits. Pass it as a string.")
        return value
    if type(value) is str:
        _check_encodable(value, where)
        return value
    if type(value) is float:
        if not math.isfinite(value):
            raise IdentityError(
                f"{_place(where)} is {value!r}, which JSON cannot hold. Leave it out, or give it a name."
            )
        # 1 and 1.0 are the same setting to every encoder, and JSON parsers do not agree on distinguishing them.
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if isinstance(value, Mapping | list | tuple):
        if depth >= MAX_DEPTH:
            raise IdentityError(f"{_place(where)} is nested more than {MAX_DEPTH} deep. Pass a name in its place.")
        if isinstance(value, Mapping):
            return {_key(k, where): plain_json(v, (where, k), depth + 1) for k, v in value.items()}
        return [plain_json(v, (where, i), depth + 1) for i, v in enumerate(value)]
    raise IdentityError(
        f"{_place(where)} is a {type(value).__module__}.{type(value).__qualname__}, not plain JSON, so it cannot be "
        "part of an encoder's identity. Pass the string, number or mapping that stands for it."
    )


def canonical_json(value: object) -> bytes:
    """Return the only byte string that represents `value`, which must be plain JSON.

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


def _key(key: object, where: Where) -> str:
    if type(key) is not str:
        raise IdentityError(f"{_place(where)} has the key {quoted(key)}; JSON keys are strings.")
    _check_encodable(key, where)
    return key


def _check_encodable(text: str, where: Where) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as err:
        raise IdentityError(
            f"{_place(where)} holds a lone surrogate at position {err.start}; UTF-8 cannot encode it."
        ) from err


def _place(where: Where) -> str:
    """Return a place as code would name it. Computed for errors only: for every value it would take quadratic time."""
    if isinstance(where, str):
        return where
    return f"{_place(where[0])}[{quoted(where[1])}]"


_QUOTED = reprlib.Repr()
_QUOTED.maxstring = _QUOTED.maxother = MAX_SHOWN_CHARACTERS
_QUOTED.maxlist = _QUOTED.maxtuple = 10


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        msg = "a name is there twice"
        raise ValueError(msg)
    return document


def _no_number(literal: str) -> Any:
    msg = f"{literal} is no JSON"
    raise ValueError(msg)
