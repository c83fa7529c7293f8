"""Hooks on torch modules, and what accelerate does to a module to keep its weights on another device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cas_cache.models.names import class_name, top_package

if TYPE_CHECKING:
    from cas_cache.models.functions import CodeReader

HOOKS = ("_forward_pre_hooks", "_forward_hooks")

MOVING_HOOKS = frozenset(
    {"accelerate:AlignDevicesHook", "accelerate:CpuOffload", "accelerate:UserCpuOffloadHook",
     "accelerate:SequentialHook", "accelerate:ModelHook"}
)  # fmt: skip
"""Hooks of accelerate that move weights and inputs, and do not change values."""

RECORDING = frozenset({"transformers", "accelerate"})
"""Libraries whose forward hooks record intermediate results, or move tensors."""


def describe_hooks(module: Any, path: str, code: CodeReader) -> dict[str, Any]:
    """Return plain JSON for the forward hooks of a module; {} for none.

    Raises:
        IdentityError: If a hook holds something that cannot be described.
    """
    described: dict[str, Any] = {}
    held = vars(module)
    for kind in HOOKS:
        hooks = [hook for hook in (held.get(kind) or {}).values() if not _records(hook)]
        if hooks:
            described[kind.strip("_")] = [code.callable(hook, f"a {_spoken(kind)} of {path}") for hook in hooks]
    own = held.get("_hf_hook")
    if own is not None and not only_moves(own):
        described["accelerate_hook"] = code.instance(own, f"the accelerate hook of {path}")
    return described


def global_hooks(code: CodeReader) -> dict[str, Any]:
    """Return plain JSON for hooks that torch runs on every module; {} for none."""
    from torch.nn.modules import module as torch_module

    described = {}
    for kind in HOOKS:
        hooks = [hook for hook in getattr(torch_module, f"_global{kind}").values() if not _records(hook)]
        if hooks:
            described[f"global{kind}"] = [code.callable(hook, f"a global {_spoken(kind)}") for hook in hooks]
    return described


def real_forward(module: Any) -> Any:
    """Return the `forward` that was put on a module, without accelerate's wrapper; None if it is the class's method."""
    forward = vars(module).get("forward")
    if forward is not None and getattr(module, "_hf_hook", None) is not None:
        forward = vars(module).get("_old_forward")
    function = getattr(forward, "__func__", None)
    bound = getattr(forward, "__self__", None) is module
    return None if bound and function is getattr(type(module), "forward", None) else forward


def only_moves(hook: Any) -> bool:
    """Return True for a hook of accelerate that only moves tensors."""
    if class_name(type(hook)) not in MOVING_HOOKS:
        return False
    return all(only_moves(part) for part in getattr(hook, "hooks", ()))


def offloaded(module: Any, name: str) -> Any:
    """Return the values of a tensor that accelerate keeps outside of the module; None if it keeps none."""
    hook = getattr(module, "_hf_hook", None)
    for part in [hook, *getattr(hook, "hooks", ())]:
        weights = getattr(part, "weights_map", None)
        if weights is not None:
            try:
                return weights[name]
            except KeyError:
                continue
    return None


def _records(hook: Any) -> bool:
    names = getattr(hook, "__globals__", None)
    module = names.get("__name__") if isinstance(names, dict) else type(hook).__module__
    return top_package(module) in RECORDING


def _spoken(kind: str) -> str:
    return kind.strip("_").replace("_", " ").removesuffix("s")
