"""Skeletons: the models without weights that transformers builds for a configuration, to compare a model with.

Building a skeleton takes about 15 ms for a small model, and happens once for each class and configuration.
"""

from __future__ import annotations

import copy
import types
import weakref
from operator import is_ as is_same
from typing import Any

from cas_cache.models.configuration import config_key
from cas_cache.models.parts import is_of_torch, walk
from cas_cache.models.values import SCALARS

MAX_SKELETONS = 32

Skeleton = dict[str, Any]
"""The modules of a skeleton by path; the model itself under ""."""

_built: dict[tuple[type, str], Skeleton | None] = {}


def skeleton_of(model: Any) -> Skeleton | None:
    """Return the modules of a model of the same class and configuration whose tensors are on torch's meta device.

    None if the class cannot be built from its configuration alone. The modules must not be changed.
    """
    key = (type(model), config_key(model.config))
    if key not in _built:
        if len(_built) >= MAX_SKELETONS:
            _built.clear()
        built = _build(model)
        _built[key] = None if built is None else dict(walk(built))
    return _built[key]


def _build(model: Any) -> Any:
    import torch
    from torch.overrides import TorchFunctionMode
    from torch.utils._device import _device_constructors

    constructors = _device_constructors()

    class WithoutWeights(TorchFunctionMode):  # type: ignore[misc]
        """Create tensors on the meta device without initialising them, in this thread only."""

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
    except Exception:  # noqa: BLE001 - foreign code; the model is then described in full
        return None
    finally:
        torch.set_rng_state(state)


class StandardParts:
    """Modules without differences from those that a library builds, and their attributes at that time.

    A part stays standard as long as its class, its counterpart and all its attributes are the same objects and cannot
    have changed: each is a plain immutable value, the model's configuration, or one of the mappings that torch puts on
    every module. Hooks and tensors in these mappings are compared each time.
    """

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[Any, tuple[Any, ...]] = weakref.WeakKeyDictionary()

    def __contains__(self, pair: tuple[Any, Any]) -> bool:
        """Return True if a part, with its counterpart in a skeleton, was remembered and has not changed."""
        part, standard = pair
        known = self._known.get(part)
        if known is None:
            return False
        held = vars(part)
        return (
            known[0] is type(part)
            and known[1] is standard
            and known[2] == tuple(held)
            and all(map(is_same, known[3], held.values()))
            and not _has_hooks(held)
        )

    def remember(self, part: Any, standard: Any, config: Any) -> None:
        """Remember a part without differences, if no attribute can change unseen.

        Args:
            part: A module of the model.
            standard: Its counterpart in the skeleton.
            config: The configuration of the model, which is described separately.
        """
        held = vars(part)
        lasting = (is_of_torch(name) or value is config or _is_immutable(value) for name, value in held.items())
        if "_hf_hook" not in held and not _has_hooks(held) and all(lasting):
            self._known[part] = (type(part), standard, tuple(held), tuple(held.values()))


def _is_immutable(value: Any) -> bool:
    if isinstance(value, types.BuiltinFunctionType):
        return isinstance(value.__self__, types.ModuleType | None)
    return type(value) in SCALARS or (type(value) is tuple and all(type(part) in SCALARS for part in value))


def _has_hooks(held: dict[str, Any]) -> bool:
    return bool(held["_forward_hooks"] or held["_forward_pre_hooks"] or held["_non_persistent_buffers_set"])


def scalars_of(module: Any, ignored: frozenset[str]) -> dict[str, Any]:
    """Return the plain attributes of a module by name, except private ones and those in `ignored`."""
    return {
        name: value
        for name, value in vars(module).items()
        if type(value) in SCALARS and name[0] != "_" and name not in ignored
    }
