"""Skeletons that transformers builds for a configuration: a model's classes and settings are compared with theirs.

The skeleton has no weights and takes about 15 ms for a small model. It is built once for a class and configuration.
"""

from __future__ import annotations

import copy
from typing import Any

from cas_cache.models.configuration import config_key

MAX_SKELETONS = 32

SCALARS = (bool, int, float, str, type(None))

_built: dict[tuple[type, str], Any] = {}


def skeleton_of(model: Any) -> Any:
    """Return a model of the same class and configuration with all tensors on torch's meta device, or None.

    None where the class cannot be built of its configuration alone.
    """
    key = (type(model), config_key(model.config))
    if key not in _built:
        if len(_built) >= MAX_SKELETONS:
            _built.clear()
        _built[key] = _build(model)
    return _built[key]


def _build(model: Any) -> Any:
    import torch
    from torch.overrides import TorchFunctionMode
    from torch.utils._device import _device_constructors

    constructors = _device_constructors()

    class WithoutWeights(TorchFunctionMode):  # type: ignore[misc]
        """Make tensors on the meta device and leave them as they are; in this thread alone."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = dict(kwargs or {})
            if getattr(func, "__module__", None) == "torch.nn.init":
                return args[0] if args else given.get("tensor")
            if func in constructors:
                given["device"] = "meta"
            return func(*args, **given)

    state = torch.get_rng_state()
    try:
        with WithoutWeights(), torch.no_grad():
            return type(model)(copy.deepcopy(model.config)).eval()
    except Exception:  # noqa: BLE001 - code of others, which is then described in full
        return None
    finally:
        torch.set_rng_state(state)


def scalars_of(module: Any, ignored: frozenset[str]) -> dict[str, Any]:
    """Return the plain attributes of a module by name, without private ones and those in `ignored`."""
    return {
        name: value
        for name, value in vars(module).items()
        if type(value) in SCALARS and name[0] != "_" and name not in ignored
    }
