"""Look into torch modules: their parts, tensors, adapters and methods, without calling any of their code."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

from cas_cache.models.tensors import is_tensor
from cas_cache.models.tokenizers import is_tokenizer
from cas_cache.models.values import SCALARS

if TYPE_CHECKING:
    from collections.abc import Iterator

PEFT_NOT_COMPUTED = frozenset(
    {"base_model_name_or_path", "revision", "inference_mode", "task_type", "auto_mapping", "peft_version",
     "lora_dropout", "init_lora_weights"}
)  # fmt: skip

SAMPLED_NAMES = frozenset({"original_inv_freq"})
"""Buffers that a release of transformers keeps as an attribute and another as a tensor."""


WRAPPING = frozenset({"OptimizedModule", "DataParallel", "DistributedDataParallel"})
"""Classes of torch, by name, that run another module as it is."""


def is_module(value: Any) -> bool:
    """Return True for a torch module; torch is not imported for this."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def unwrapped(module: Any) -> Any:
    """Return the module that `torch.compile` or a data-parallel wrapper runs."""
    while type(module).__name__ in WRAPPING:
        inner = module._modules  # noqa: SLF001 - an OptimizedModule hands every other name on
        module = inner["_orig_mod"] if "_orig_mod" in inner else inner["module"]
    return module


def own_tensors(module: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parameters and saved buffers of a module. Other buffers are described where they matter."""
    torch = sys.modules["torch"]
    # A module that saves in a way of its own may pack its weights into something else.
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
    """Return all modules of a model by path: for compiled ones the module they run, shared ones under each path."""
    found = [("", unwrapped(module))]
    for prefix, part in found:  # which grows on the way
        for name, child in part._modules.items():  # noqa: SLF001 - named_modules() would not unwrap
            if child is not None:
                found.append((f"{prefix}.{name}" if prefix else name, unwrapped(child)))
    return found


def adapters_of(module: Any) -> dict[str, Any]:
    """Return the state of an adapter layer of peft: which adapters act, and how strongly."""
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
    """Return True if a buffer holds what the library computes for it: positions, zeros, or frequencies of its class."""
    import torch

    if value.is_meta or not value.numel():
        return True
    if not value.is_floating_point():
        flat = value.reshape(-1)
        return bool((flat == 0).all()) or bool((flat == torch.arange(len(flat), device=flat.device)).all())
    if standard is None or type(part) is not type(standard) or not hasattr(standard, "config"):
        return False
    if name in SAMPLED_NAMES or str(getattr(part, "rope_type", "")) in ("dynamic", "longrope"):
        return True  # these grow with the longest text so far
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
    """Return True for a method that was put on the object in place of its class's, which is described as such."""
    return callable(value) and callable(getattr(type(module), name, None))


@functools.cache
def _torch_attributes() -> frozenset[str]:
    import torch

    return frozenset(vars(torch.nn.Module())) | {"_hf_hook", "_old_forward", "hf_device_map", "_compiled_call_impl"}


def is_of_torch(name: str) -> bool:
    """Return True for attributes that torch and accelerate keep on every module."""
    return name in _torch_attributes()
