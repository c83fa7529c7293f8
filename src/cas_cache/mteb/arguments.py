"""Describe the arguments of encoders as plain JSON: only those that change vectors.

`mteb.get_model` passes its keyword arguments to the model's loader and stores them in the model's metadata. Credentials
are dropped (`strip_credentials`), and so are arguments that only decide where and how fast an encoder runs. An object
is described by its settings, if it has any. An object that cannot be described is refused, unless the user passed the
name and the revision of the model.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from enum import Enum
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from cas_cache.errors import IdentityError
from cas_cache.identity.credentials import strip_credentials
from cas_cache.models.encoders import describe_part, is_part
from cas_cache.models.functions import bytecode_hash, names_used
from cas_cache.models.names import top_package

NEUTRAL = frozenset(
    {
        # Devices and processes.
        "accelerator", "batch_size", "chunk_size", "device", "device_map", "devices", "low_cpu_mem_usage", "max_memory",
        "max_workers", "n_jobs", "num_proc", "num_workers", "offload_folder", "offload_state_dict", "pool",
        "target_devices",
        # Kernels differ by rounding.
        "_attn_implementation", "attn_implementation", "use_flash_attention_2", "use_sdpa",
        # Locations of files, and how they are loaded.
        "cache_dir", "cache_folder", "force_download", "local_files_only", "proxies", "resume_download",
        "trust_remote_code", "use_safetensors",
        # Requests to a service.
        "backoff_factor", "max_retries", "max_requests_per_minute", "max_tokens_per_minute", "num_retries",
        "rate_limit", "request_timeout", "requests_per_minute", "retries", "retry", "retry_delay", "retry_wait", "rpm",
        "sleep_time", "timeout", "tpm", "wait_time",
        # Output on the screen.
        "disable_tqdm", "progress", "progress_bar", "show_progress", "show_progress_bar", "verbose", "verbosity",
        # The container of the vectors.
        "convert_to_numpy", "convert_to_tensor",
    }
)  # fmt: skip
"""Names of arguments that do not change vectors, beyond rounding, at any depth."""

_VERSIONS = frozenset({"transformers_version", "torch_version", "sentence_transformers_version"})
"""Keys of settings that hold the version that wrote them."""

_LIBRARIES = frozenset({"mteb", "numpy", "sentence_transformers", "torch", "transformers"})
"""Packages whose functions are known by their names. Their code changes between releases."""

MAX_FUNCTIONS = 32
"""Maximum number of functions that are described for one argument."""


def plain_arguments(arguments: Mapping[str, Any] | None, kind: str, *, user_pinned: bool = False) -> dict[str, Any]:
    """Return arguments as plain JSON, without credentials, None, and arguments that do not change vectors.

    Args:
        arguments: By name.
        kind: Their name in errors: ``"loader argument"`` or ``"encode argument"``.
        user_pinned: The user named the model and its revision, so an object that cannot be described
            is identified by its class.

    Raises:
        IdentityError: If an object cannot be described.
    """
    kept = _without_neutral(strip_credentials(arguments or {}))
    return {name: plain(value, f"{kind} {name}", user_pinned=user_pinned) for name, value in kept.items()}


def _without_neutral(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that may change vectors, also inside of arguments such as ``model_kwargs``."""
    kept = {}
    for name, value in arguments.items():
        is_nested = isinstance(value, Mapping) and str(name).endswith(("_kwargs", "_args", "_options"))
        remaining = _without_neutral(value) if is_nested else value
        if name not in NEUTRAL and remaining is not None and not (isinstance(remaining, Mapping) and not remaining):
            kept[name] = remaining
    return kept


def plain(value: Any, where: str, *, user_pinned: bool = False) -> Any:  # noqa: PLR0911 - one a kind
    """Return plain JSON for an argument: enums by value, dtypes by name, objects by their settings.

    Args:
        value: The value, without credentials.
        where: Its name in an error, for example ``encode argument task``.
        user_pinned: See `plain_arguments`.

    Raises:
        IdentityError: If it cannot be described.
    """
    if isinstance(value, Enum):
        return plain(value.value, where, user_pinned=user_pinned)
    if isinstance(value, Mapping):
        return _plain_mapping(value, where, user_pinned=user_pinned)
    if isinstance(value, list | tuple):
        return [plain(item, where, user_pinned=user_pinned) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(item, where, user_pinned=user_pinned) for item in value), key=repr)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if type(value).__module__ == "torch" and type(value).__name__ in ("dtype", "device"):
        return str(value)
    return _plain_object(value, where, user_pinned=user_pinned)


def _plain_mapping(value: Mapping[Any, Any], where: str, *, user_pinned: bool) -> dict[str, Any]:
    for key in value:
        if not isinstance(key, str):
            raise IdentityError(
                f"The {where} has the key {key!r}, which is not a string: in JSON, 1 and '1' would be "
                "the same. Use strings as keys, or evaluate without the cache."
            )
    return {key: plain(item, f"{where}[{key!r}]", user_pinned=user_pinned) for key, item in value.items()}


def _plain_object(value: Any, where: str, *, user_pinned: bool) -> Any:
    settings = None if is_part(value) else _settings_of(value)
    if settings is not None:
        stable = {name: item for name, item in settings.items() if name not in _VERSIONS}
        return {"class": type(value).__qualname__, **plain(strip_credentials(stable), where, user_pinned=user_pinned)}
    if isinstance(value, type):
        return _name_of(value)
    try:
        if is_part(value):
            return describe_part(value, where)
        if callable(value):
            return _plain_function(value, where, [])
    except IdentityError:
        if not user_pinned:
            raise
    if user_pinned:
        return _name_of(value if isinstance(value, FunctionType | MethodType) else type(value))
    raise IdentityError(
        f"The {where} is a {_name_of(type(value))}, which cannot be described, so it may change "
        "vectors. Name the model and a revision that stands for it, model_id= and revision=, or pass a plain value."
    )


def _settings_of(value: Any) -> Mapping[str, Any] | None:
    """Return the settings of an object that has a documented way to export them."""
    if isinstance(value, type):
        return None
    for name in ("to_diff_dict", "to_dict", "model_dump"):
        if callable(getattr(value, name, None)):
            settings = getattr(value, name)()
            return settings if isinstance(settings, Mapping) else None
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else None


def _plain_function(function: Any, where: str, seen: list[Any]) -> Any:
    """Describe a function by its name; outside of the libraries also by its code, defaults and the values it uses."""
    if isinstance(function, partial):
        parts = {"args": list(function.args), "keywords": function.keywords}
        return {"partial": _plain_function(function.func, where, seen), **plain(strip_credentials(parts), where)}
    name = _name_of(function)
    if _is_known_by_name(function):
        return name
    if not isinstance(function, FunctionType) or len(seen) >= MAX_FUNCTIONS:
        raise IdentityError(
            f"The {where} is a {_name_of(type(function))} ({name}), whose state cannot be described. Name the model "
            "and a revision that stands for it, model_id= and revision=, or pass a plain function."
        )
    if any(function is other for other in seen):
        return name
    seen.append(function)
    used = {
        **dict(
            zip(function.__code__.co_freevars, (cell.cell_contents for cell in function.__closure__ or ()), strict=True)
        ),
        **{n: function.__globals__[n] for n in sorted(names_used(function.__code__)) if n in function.__globals__},
        "": [list(function.__defaults__ or ()), function.__kwdefaults__ or {}],
    }
    described = {n: _plain_value_used(v, f"{where} ({name} uses {n})", seen) for n, v in used.items()}
    return {"function": name, "code": bytecode_hash(function.__code__), "uses": described}


def _is_known_by_name(function: Any) -> bool:
    """Return True for classes, and for functions without state that Python or a known library defines."""
    if isinstance(function, type):
        return True
    if isinstance(function, BuiltinFunctionType):
        return isinstance(function.__self__, ModuleType | type | None)
    module = getattr(function, "__module__", None)
    if isinstance(function, FunctionType):
        # A library's decorator has what it wraps in its closure; what wraps a library's function has that one's name.
        modules = {top_package(module), top_package(function.__globals__.get("__name__"))}
        return not function.__closure__ and modules <= _LIBRARIES
    exported = getattr(sys.modules.get(module or ""), getattr(function, "__name__", ""), None)
    return exported is function and top_package(module) == "numpy"  # a ufunc, or one of NumPy's own dispatchers


def _plain_value_used(value: Any, where: str, seen: list[Any]) -> Any:
    if isinstance(value, ModuleType):
        return value.__name__
    if is_part(value):
        return describe_part(value, where)
    if callable(value) and not isinstance(value, type):
        return _plain_function(value, where, seen)
    return plain(strip_credentials(value), where)


def _name_of(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
