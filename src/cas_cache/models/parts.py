"""The parts of torch modules: tensors, children, adapters, hooks and replaced methods, read without calling their code.

Hooks include what accelerate does to a module to keep its weights on another device.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

from cas_cache.models.names import class_name, top_package
from cas_cache.models.tensors import is_tensor
from cas_cache.models.tokenizers import is_tokenizer
from cas_cache.models.values import SCALARS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cas_cache.models.functions import CodeReader

PEFT_NOT_COMPUTED = frozenset(
    {"base_model_name_or_path", "revision", "inference_mode", "task_type", "auto_mapping", "peft_version",
     "lora_dropout", "init_lora_weights"}
)  # fmt: skip

SAMPLED_NAMES = frozenset({"original_inv_freq"})
"""Buffers that are an attribute in one release of transformers and a tensor in another."""

WRAPPING = frozenset({"OptimizedModule", "DataParallel", "DistributedDataParallel"})
"""Classes of torch, by name, that run another module unchanged."""

HOOKS = ("_forward_pre_hooks", "_forward_hooks")

MOVING_HOOKS = frozenset(
    {"accelerate:AlignDevicesHook", "accelerate:CpuOffload", "accelerate:UserCpuOffloadHook",
     "accelerate:SequentialHook", "accelerate:ModelHook"}
)  # fmt: skip
"""Hooks of accelerate that only move weights and inputs."""

RECORDING = frozenset({"transformers", "accelerate"})
"""Libraries whose forward hooks only record intermediate results, or move tensors."""


def is_module(value: Any) -> bool:
    """Return True for a torch module; torch is not imported for this."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def unwrapped(module: Any) -> Any:
    """Return the module that `torch.compile` or a data-parallel wrapper runs."""
    while type(module).__name__ in WRAPPING:
        inner = module._modules  # noqa: SLF001 - an OptimizedModule forwards every other name
        module = inner["_orig_mod"] if "_orig_mod" in inner else inner["module"]
    return module


def own_tensors(module: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parameters and the saved buffers of a module. Other buffers are described separately."""
    torch = sys.modules["torch"]
    # A module with its own way of saving may pack its weights into other objects.
    if type(module)._save_to_state_dict is not torch.nn.Module._save_to_state_dict:  # noqa: SLF001
        state: dict[str, Any] = {}
        module._save_to_state_dict(state, "", keep_vars=True)  # noqa: SLF001
        for name, value in sorted(state.items()):
            for part in value if isinstance(value, tuple | list) else [value]:
                if is_tensor(part):
                    yield name, part
        return
    unsaved = module._non_persistent_buffers_set  # noqa: SLF001 - as above
    yield from ((name, value) for name, value in module._parameters.items() if value is not None)  # noqa: SLF001
    for name, value in module._buffers.items():  # noqa: SLF001
        if value is not None and name not in unsaved:
            yield name, value


def walk(module: Any) -> list[tuple[str, Any]]:
    """Return all modules of a model by path: unwrapped, and shared ones under each path."""
    modules = [("", unwrapped(module))]
    for prefix, part in modules:  # the list grows during the loop
        for name, child in part._modules.items():  # noqa: SLF001 - named_modules() would not unwrap
            if child is not None:
                modules.append((f"{prefix}.{name}" if prefix else name, unwrapped(child)))
    return modules


def adapters_of(module: Any) -> dict[str, Any]:
    """Return the state of an adapter layer of peft: the active adapters, and their scaling."""
    described: dict[str, Any] = {}
    if hasattr(type(module), "merged_adapters") or "merged_adapters" in vars(module):
        described = {
            "active": [] if module.disable_adapters else list(module.active_adapters),
            "merged": list(module.merged_adapters),
            "scaling": dict(getattr(module, "scaling", None) or {}),
        }
    configs = vars(module).get("peft_config")
    if isinstance(configs, dict):
        described["configs"] = {
            name: {key: value for key, value in config.to_dict().items() if key not in PEFT_NOT_COMPUTED and value}
            for name, config in configs.items()
        }
    return described


def is_computed(part: Any, standard: Any, name: str, value: Any) -> bool:
    """Return True if a buffer holds values that the library computes: positions, zeros, or its class's frequencies."""
    import torch

    if value.is_meta or not value.numel():
        return True
    if not value.is_floating_point():
        flat = value.reshape(-1)
        return bool((flat == 0).all()) or bool((flat == torch.arange(len(flat), device=flat.device)).all())
    if standard is None or type(part) is not type(standard) or not hasattr(standard, "config"):
        return False
    if name in SAMPLED_NAMES or str(getattr(part, "rope_type", "")) in ("dynamic", "longrope"):
        return True  # these depend on the longest text so far
    try:
        usual = getattr(type(standard)(standard.config), name)
    except (TypeError, ValueError, AttributeError):
        return False
    held = value.detach().cpu().float()
    return bool(usual.shape == value.shape) and bool(torch.allclose(usual.float(), held, rtol=1e-2, atol=0))


def tuples_of(module: Any) -> dict[str, Any]:
    """Return the attributes of a library's module that are tuples or lists of numbers, such as a stride."""
    return {
        name: list(value)
        for name, value in vars(module).items()
        if isinstance(value, tuple | list) and name[0] != "_" and all(isinstance(part, SCALARS) for part in value)
    }


def is_function(value: Any) -> bool:
    """Return True for a function or callable object that is neither a class nor a module nor a tokenizer."""
    return callable(value) and not isinstance(value, type) and not is_module(value) and not is_tokenizer(value)


def is_override(module: Any, name: str, value: Any) -> bool:
    """Return True for an attribute of an object that replaces a method of its class."""
    return callable(value) and callable(getattr(type(module), name, None))


@functools.cache
def _torch_attributes() -> frozenset[str]:
    import torch

    return frozenset(vars(torch.nn.Module())) | {"_hf_hook", "_old_forward", "hf_device_map", "_compiled_call_impl"}


def is_of_torch(name: str) -> bool:
    """Return True for attributes that torch and accelerate put on every module."""
    return name in _torch_attributes()


def describe_hooks(module: Any, path: str, code: CodeReader) -> dict[str, Any]:
    """Return plain JSON for the forward hooks of a module; {} for none.

    Raises:
        IdentityError: If a hook refers to something that cannot be described.
    """
    described: dict[str, Any] = {}
    held = vars(module)
    for name in HOOKS:
        hooks = [hook for hook in (held.get(name) or {}).values() if not _only_records(hook)]
        if hooks:
            described[name.strip("_")] = [code.callable(hook, f"a {_in_words(name)} of {path}") for hook in hooks]
    own = held.get("_hf_hook")
    if own is not None and not only_moves(own):
        described["accelerate_hook"] = code.instance(own, f"the accelerate hook of {path}")
    return described


def global_hooks(code: CodeReader) -> dict[str, Any]:
    """Return plain JSON for hooks that torch runs on every module; {} for none."""
    from torch.nn.modules import module as torch_module

    described = {}
    for name in HOOKS:
        hooks = [hook for hook in getattr(torch_module, f"_global{name}").values() if not _only_records(hook)]
        if hooks:
            described[f"global{name}"] = [code.callable(hook, f"a global {_in_words(name)}") for hook in hooks]
    return described


def real_forward(module: Any) -> Any:
    """Return the `forward` that replaces the class's on a module, without accelerate's wrapper; None if none does."""
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
    """Return the values of a tensor that accelerate stores outside of the module; None if there are none."""
    hook = getattr(module, "_hf_hook", None)
    for part in [hook, *getattr(hook, "hooks", ())]:
        weights = getattr(part, "weights_map", None)
        if weights is not None:
            try:
                return weights[name]
            except KeyError:
                continue
    return None


def _only_records(hook: Any) -> bool:
    names = getattr(hook, "__globals__", None)
    module = names.get("__name__") if isinstance(names, dict) else type(hook).__module__
    return top_package(module) in RECORDING


def _in_words(name: str) -> str:
    return name.strip("_").replace("_", " ").removesuffix("s")
