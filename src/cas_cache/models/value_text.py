"""Short texts for the values of an encoder's attributes: equal values have equal texts in every process.

A text contains no address, time or credential. Long values are hashed.
"""

from __future__ import annotations

import datetime as dt
import decimal
import fractions
import functools
import random
import re
import types
import uuid
from collections import deque
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.identity.credentials import redact
from cas_cache.models.functions import bytecode_hash, captured
from cas_cache.models.names import class_name, top_package
from cas_cache.models.parts import is_module
from cas_cache.models.values import hashed

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_TEXT = 80
"""Maximum characters of a value that is not hashed."""

MAX_ITEMS = 256
"""Maximum items of a container that are described one by one; a larger container is hashed."""

MAX_HASHED = 1 << 16
"""Maximum items of a container that are hashed; of a larger container this many, evenly spread."""

TABLES = frozenset({"pandas", "polars", "pyarrow"})

MIN_SECRET = 16
"""Minimum characters of a credential that is recognised by its shape; shorter texts are not searched."""

MAX_BYTES = 1 << 20
"""Maximum bytes of an array that is hashed whole; of a larger one `SAMPLED` values, evenly spread."""

SAMPLED = 1 << 16

SCALARS = (type(None), bool, int, float, complex, str, bytes)

MAPPINGS = (dict, types.MappingProxyType)
"""Other mappings are described by their attributes, because each item may be read from a file or a server."""

CONTAINERS = (*MAPPINGS, list, tuple, deque, set, frozenset)

AS_TEXT = (
    PurePath,
    decimal.Decimal,
    fractions.Fraction,
    uuid.UUID,
    dt.date,
    dt.time,
    dt.timedelta,
    dt.tzinfo,
    slice,
    range,
    np.generic,
    np.dtype,
)
"""Types whose text describes a value completely."""

CACHED = type(functools.lru_cache(len))

FUNCTIONS = (
    *(types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.MethodDescriptorType),
    *(types.WrapperDescriptorType, functools.partial, CACHED),
)


def text_of(value: Any) -> str | None:
    """Return the text of a value; None for an object with attributes, and for a container of objects."""
    if type(value) in SCALARS:
        return _scalar(value)
    for describe in (_named, _array, _table, _of_torch, _random_state, _flat):
        text = describe(value)
        if text is not None:
            return text
    return None


def _named(value: Any) -> str | None:
    """Return the text of a value that has a name, or whose own text describes it completely."""
    if isinstance(value, Enum):
        return f"{class_name(type(value))}.{value.name}"
    if isinstance(value, AS_TEXT):
        return _short(str(value))
    if isinstance(value, re.Pattern):
        return _short(f"{value.pattern!r} {value.flags}")
    if isinstance(value, type):
        return class_name(value)
    if isinstance(value, types.ModuleType):
        return value.__name__
    return function_text(value) if isinstance(value, FUNCTIONS) else None


def _scalar(value: Any) -> str:
    if not isinstance(value, str):
        return _short(repr(value))
    return _short(redact(value) if len(value) >= MIN_SECRET else value, quoted=True)


def _short(text: str, *, quoted: bool = False) -> str:
    shown = repr(text) if quoted else text
    return shown if len(shown) <= MAX_TEXT else f"{len(text)} characters {hashed(text)}"


def _flat(value: Any) -> str | None:
    """Return the text of a list or set of scalars, or of a container with very many items."""
    if not isinstance(value, CONTAINERS):
        return None
    if len(value) > MAX_ITEMS:
        return f"{type(value).__name__} of {len(value)}: {_of_many(value)}"
    if isinstance(value, MAPPINGS):
        return None
    texts: Sequence[str | None] = [item_text(item) for item in value]
    if None in texts:
        return None
    if isinstance(value, set | frozenset):
        texts = sorted(map(str, texts))
    return f"{type(value).__name__} of {len(value)}: {_short(', '.join(map(str, texts)))}"


def _of_many(value: Any) -> str:
    """Return a hash of the plain items of a large container; of a very large one, of some of them."""
    items: Any = list(value.items() if isinstance(value, MAPPINGS) else value)
    if len(items) > MAX_HASHED:
        if isinstance(value, set | frozenset):
            return ""  # it has no order to sample by, so only the size counts
        items = items[:: len(items) // MAX_HASHED]
    texts = [repr(item) if _is_plain(item) else str(item_text(item)) for item in items]
    return hashed("\0".join(sorted(texts) if isinstance(value, set | frozenset) else texts))


def _is_plain(value: Any) -> bool:
    """Return True if the `repr` of a value describes it completely, and is equal in every process."""
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(map(_is_plain, value)) and all(map(_is_plain, value.values()))
    return type(value) in SCALARS


def item_text(value: Any) -> str | None:
    """Return the text of an item of a container; None if it is not plain."""
    if isinstance(value, tuple):
        return repr([item_text(part) for part in value])
    return _scalar(value) if type(value) in SCALARS else _array(value)


def _array(value: Any) -> str | None:
    """Return the text of a NumPy array; None for anything else."""
    if not isinstance(value, np.ndarray):
        return None
    head = f"array {value.dtype} {list(value.shape)}"
    if value.nbytes > MAX_BYTES:
        flat = value.reshape(-1)
        value = flat[:: max(1, flat.size // SAMPLED)]
    if value.dtype.hasobject:
        return f"{head} {hashed(repr([item_text(item) for item in value.reshape(-1).tolist()]))}"
    return f"{head} {hashed(np.ascontiguousarray(value).tobytes())}"


def _table(value: Any) -> str | None:
    """Return the text of a table or column of pandas, polars or Arrow; None for anything else."""
    if top_package(type(value).__module__) not in TABLES or not hasattr(value, "__array__"):
        return None
    return f"{class_name(type(value))} of {len(value)}: {_array(np.asarray(value[:SAMPLED]))}"


def _of_torch(value: Any) -> str | None:
    """Return the text of a tensor, a random state, a device or a dtype of torch; None for anything else."""
    if top_package(type(value).__module__) != "torch" or is_module(value):
        return None
    if hasattr(value, "detach") and hasattr(value, "flatten"):
        head = f"tensor {value.dtype} {list(value.shape)}"
        if str(value.device) == "meta" or str(value.layout) != "torch.strided":
            return head
        flat = value.detach().flatten()
        values = flat[:: max(1, flat.numel() // SAMPLED)].cpu()
        return f"{head} {_array(values.double().numpy())}"
    if hasattr(value, "get_state"):
        return f"random state {_array(value.get_state().numpy())}"
    return str(value) if type(value).__module__ == "torch" else None


def _random_state(value: Any) -> str | None:
    if isinstance(value, random.Random):
        return f"random state {hashed(repr(value.getstate()))}"
    if isinstance(value, np.random.Generator):
        return f"random state {hashed(repr(value.bit_generator.state))}"
    if isinstance(value, np.random.RandomState):
        return f"random state {hashed(repr(value.get_state(legacy=False)))}"
    return None


def function_text(value: Any) -> str:
    """Return the text of a function: its name, its code, and the plain values that it captures."""
    if isinstance(value, functools.partial):
        arguments = [item_text(part) for part in (*value.args, *sorted(value.keywords.items()))]
        return _short(f"partial {function_text(value.func)} {arguments}")
    function = getattr(value, "__wrapped__", getattr(value, "__func__", value))
    code = getattr(function, "__code__", None)
    name = f"function {getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(value).__name__)}"
    if code is None:
        return name
    cells = [
        text_of(held)
        for held in captured(function).values()
        if held is not function and not isinstance(held, FUNCTIONS)
    ]
    defaults = [item_text(part) for part in function.__defaults__ or ()]
    return f"{name} {hashed(repr((bytecode_hash(code), cells, defaults)))}"
