"""The description of a tree of torch modules.

Each module is described by its class, its configuration and its children. A transformers model is described by its
configuration and by what differs from what transformers builds for it. Everything else that can change what a module
computes is in it as well: code that belongs to no library, replaced methods, hooks, adapters.
"""

from __future__ import annotations

import functools
import re
import sys
import types
from typing import TYPE_CHECKING, Any

from cas_cache.models import sentence_transformers as st
from cas_cache.models.configuration import attention_of, describe_config
from cas_cache.models.exported import describe_exported, is_exported
from cas_cache.models.functions import CodeReader
from cas_cache.models.hooks import describe_hooks, real_forward
from cas_cache.models.names import class_name, is_library
from cas_cache.models.skeleton import scalars_of, skeleton_of
from cas_cache.models.tensors import is_tensor
from cas_cache.models.tokenizers import describe_tokenizer, is_tokenizer
from cas_cache.models.values import SCALARS, named_by_user, plain_value

if TYPE_CHECKING:
    from collections.abc import Iterator

NOT_COMPUTED = frozenset(
    {
        "training", "gradient_checkpointing", "name_or_path", "warnings_issued", "call_super_init", "dump_patches",
        "max_seq_len_cached", "original_max_seq_len", "is_hpu_graph_enabled", "trust_remote_code", "base_model",
        "update_embeddings", "padding_idx", "sparse", "scale_grad_by_freq", "inplace", "dropout", "layer_idx",
        "hf_device_map", "is_loaded_in_4bit", "is_loaded_in_8bit", "is_quantized", "quantization_method",
    }
)  # fmt: skip
"""Attributes of the libraries' modules that change no vector, or that change while a model computes."""

VOLATILE = re.compile(
    r"(^|_)(calls?|count(s|er|ers)?|seen|hits|misses|elapsed|timers?|timings?|time|cached?|caches|memo|stats"
    r"|logs?|logger|history|lock)(_|$)"
)
"""Names of attributes that change while a module computes: counters, clocks and memories of former calls."""

PEFT_NOT_COMPUTED = frozenset(
    {"base_model_name_or_path", "revision", "inference_mode", "task_type", "auto_mapping", "peft_version",
     "lora_dropout", "init_lora_weights"}
)  # fmt: skip

NOT_REPLACED = frozenset({"extra_repr"})

SAMPLED_NAMES = frozenset({"original_inv_freq"})
"""Buffers that a release of transformers keeps as an attribute and another as a tensor."""


def is_module(value: Any) -> bool:
    """Return True for a torch module; torch is not imported for this."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def unwrapped(module: Any) -> Any:
    """Return the module that `torch.compile` or a data-parallel wrapper runs."""
    while class_name(type(module)) in ("torch:OptimizedModule", "torch:DataParallel", "torch:DistributedDataParallel"):
        module = module.module if hasattr(module, "module") else module._orig_mod  # noqa: SLF001 - torch.compile's
    return module


class ModuleReader:
    """Describe torch modules, and collect their tensors on the way.

    Attributes:
        tensors: Every tensor with its path, in an order that depends on the model alone.
        code: Describes functions and classes that modules hold.
    """

    def __init__(self) -> None:
        self.tensors: list[tuple[str, Any, Any]] = []
        self.code = CodeReader(self._reference)
        self._paths: dict[int, str] = {}
        self._own: dict[type, Any] = {}
        self._patches: dict[type, dict[str, Any]] = {}

    def describe(self, module: Any, path: str) -> Any:
        """Return plain JSON for a module and all that it holds.

        Args:
            module: A torch module.
            path: Where it was found.

        Raises:
            IdentityError: If something that can change vectors cannot be described.
        """
        module = unwrapped(module)
        if id(module) in self._paths:
            return {"again": self._paths[id(module)]}
        self._paths[id(module)] = path
        self._collect(module, path)
        if (stated := named_by_user(module)) is not None:
            self._collect_below(module, path)
            return stated
        described: dict[str, Any] = {"class": self._class(module, path)}
        described.update(self._behaviour(module, path))
        if st.config_of(module) is None and hasattr(getattr(module, "config", None), "to_diff_dict"):
            described["config"] = describe_config(module.config, f"{path}.config", self.code.value)
            self._check_attention(module, described, path)
            skeleton = skeleton_of(module) if hasattr(module, "init_weights") else None
            if skeleton is not None:
                differences = self._differences(module, skeleton, path)
                return {**described, **({"differences": differences} if differences else {})}
        described.update(self._held(module, path))
        return described

    def _class(self, module: Any, path: str) -> Any:
        cls = type(module)
        if cls not in self._own:
            self._own[cls] = self.code.own_class(cls, path)
        return self._own[cls]

    def _behaviour(self, module: Any, path: str) -> dict[str, Any]:
        """Hooks, and methods that were put on the object or on a class of a library."""
        described = describe_hooks(module, path, self.code)
        for name, value in sorted(vars(module).items()):
            method = real_forward(module) if name == "forward" else value
            public = not name.startswith("_") and name not in NOT_REPLACED
            if public and method is not None and _is_override(module, name, method):
                described[f"replaced {name}"] = self.code.callable(method, f"{path}.{name}")
        described.update(self._patched(type(module), path))
        adapters = _adapters(module)
        if adapters:
            described["adapters"] = plain_value(adapters, path)
        return described

    def _patched(self, cls: type, path: str) -> dict[str, Any]:
        """Methods of a library's class that other code has replaced."""
        if cls not in self._patches:
            methods = {
                name: method for part in reversed(cls.__mro__) for name, method in _foreign_methods(part).items()
            }
            self._patches[cls] = {
                f"patched {name}": self.code.callable(method, f"{path} ({cls.__qualname__}.{name})")
                for name, method in methods.items()
            }
        return self._patches[cls]

    def _held(self, module: Any, path: str) -> dict[str, Any]:
        """Configuration, attributes, tokenizers and children of a module that is not compared with a skeleton."""
        described: dict[str, Any] = {}
        config = st.config_of(module)
        library = is_library(type(module))
        if config is not None:
            described["config"] = plain_value(config, path, self.code.value)
        elif library:
            attributes = scalars_of(module, NOT_COMPUTED)
            described["attributes"] = {**attributes, **_tuples(module)}
        if not library:
            described["attributes"] = self._attributes(module, path)
        for name, value in sorted(vars(module).items()):
            if is_tokenizer(value) and (library or name not in described.get("attributes", {})):
                described["tokenizer"] = describe_tokenizer(value, f"{path}.{name}", self.code)
        engines = {
            st.child_name(module, name): describe_exported(value, f"{path}.{name}", self.code)
            for name, value in sorted(vars(module).items())
            if is_exported(value)
        }
        if not library or config is None:
            described.update(self._buffers(module, None, path))
        children = engines | {
            st.child_name(module, name): self.describe(child, f"{path}.{st.child_name(module, name)}")
            for name, child in module._modules.items()  # noqa: SLF001 - unlike children(), with names and duplicates
            if child is not None
        }
        return {
            **{name: value for name, value in described.items() if value},
            **({"modules": children} if children else {}),
        }

    def _attributes(self, module: Any, path: str) -> dict[str, Any]:
        """Attributes of a module of the user's own, less mutable containers: many a module remembers in one."""
        return {
            name: self.code.value(value, f"{path}.{name}")
            for name, value in sorted(vars(module).items())
            if not (_is_of_torch(name) or VOLATILE.search(name) or isinstance(value, list | dict | set))
            and not _is_override(module, name, value)
        }

    def _differences(self, model: Any, skeleton: Any, path: str) -> dict[str, Any]:
        expected = dict(_walk(skeleton))
        found: dict[str, Any] = {}
        code: dict[str, Any] = {}
        for name, part in _walk(model):
            place = f"{path}.{name}" if name else path
            standard = expected.pop(name, None)
            if id(part) in self._paths and name:
                continue
            if name:
                self._paths[id(part)] = place
                self._collect(part, place)
            described = self._behaviour(part, place) if name else {}
            if not is_library(type(part)) and name:
                code[class_name(type(part))] = self._class(part, place)
            if standard is None or type(part) is not type(standard):
                described["class"] = self._class(part, place)
                own = not is_library(type(part))
                described["attributes"] = self._attributes(part, place) if own else scalars_of(part, NOT_COMPUTED)
            else:
                described.update(self._changed(part, standard, place, top=not name))
            described.update(self._buffers(part, standard, place))
            if described:
                found[name] = described
        if code:
            found["code"] = code
        absent = sorted(name for name in expected if name.rpartition(".")[0] not in expected or "." not in name)
        if absent:
            found["absent"] = absent
        return found

    def _changed(self, part: Any, standard: Any, place: str, *, top: bool) -> dict[str, Any]:
        """Attributes that are not as the library sets them, and code of one's own in a class that is as expected."""
        described: dict[str, Any] = {}
        was, held = scalars_of(standard, NOT_COMPUTED), scalars_of(part, NOT_COMPUTED)
        changed = {
            name: value
            for name, value in held.items()
            if not VOLATILE.search(name) and (name not in was or was[name] != value)
        }
        if changed:
            described["attributes"] = plain_value(changed, place)
        config = getattr(part, "config", None)
        if not top and hasattr(config, "to_diff_dict"):
            config, usual = describe_config(config, place), describe_config(standard.config, place)
            if config != usual:
                described["config"] = plain_value(config, place)
        for name, value in vars(part).items():
            if _is_function(value) and not _is_override(part, name, value) and name[0] != "_":
                usual = vars(standard).get(name)
                if value is not usual and self._fresh(value, place) != self._fresh(usual, place):
                    described[name] = self.code.callable(value, f"{place}.{name}")
        return described

    def _fresh(self, value: Any, place: str) -> Any:
        return CodeReader(self._reference).value(value, place)

    def _buffers(self, part: Any, standard: Any, place: str) -> dict[str, Any]:
        """Buffers that are not saved with the weights and are not what the library computes."""
        names = part._non_persistent_buffers_set - SAMPLED_NAMES  # noqa: SLF001 - torch has no other name for them
        return {
            f"buffer {name}": plain_value(value, f"{place}.{name}")
            for name in sorted(names)
            if (value := getattr(part, name, None)) is not None and not _is_computed(part, standard, name, value)
        }

    def _check_attention(self, module: Any, described: dict[str, Any], path: str) -> None:
        """An attention function that is not one of transformers' own is described."""
        name = attention_of(module.config)
        if name is not None:
            from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

            function = ALL_ATTENTION_FUNCTIONS.get(name) if hasattr(ALL_ATTENTION_FUNCTIONS, "get") else None
            described["attention"] = name if function is None else self.code.callable(function, f"{path} ({name})")

    def _collect(self, module: Any, path: str) -> None:
        for name, value in _own_tensors(module):
            self.tensors.append((f"{path}.{name}", value, module))

    def _collect_below(self, module: Any, path: str) -> None:
        for name, part in _walk(module):
            if name and id(part) not in self._paths:
                self._paths[id(part)] = f"{path}.{name}"
                self._collect(part, f"{path}.{name}")

    def _reference(self, value: Any, where: str) -> Any:
        if is_module(value):
            return self.describe(value, where)
        if is_tokenizer(value):
            return describe_tokenizer(value, where, self.code)
        if hasattr(value, "to_diff_dict"):
            return describe_config(value, where, self.code.value)
        return None


def _own_tensors(module: Any) -> Iterator[tuple[str, Any]]:
    """Parameters and saved buffers of a module. Those that are not saved are described, where they count."""
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
    for name, value in module.named_parameters(recurse=False):
        yield name, value
    for name, value in module.named_buffers(recurse=False):
        if name not in module._non_persistent_buffers_set:  # noqa: SLF001
            yield name, value


_methods: dict[type, tuple[tuple[int, ...], dict[str, Any]]] = {}


def _foreign_methods(cls: type) -> dict[str, Any]:
    """Methods of a library's class that were not defined by a library; kept until the class is changed."""
    members = vars(cls)
    seen = tuple(map(id, members.values()))
    known = _methods.get(cls)
    if known is None or known[0] != seen:
        library = is_library(cls)
        found = {
            n: m for n, m in members.items() if library and isinstance(m, types.FunctionType) and not is_library(m)
        }
        known = _methods[cls] = (seen, found)
    return known[1]


def _walk(module: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every module below one by its path, compiled ones by what they run; shared ones under each of their paths."""
    module = unwrapped(module)
    yield prefix, module
    for name, child in module._modules.items():  # noqa: SLF001 - named_modules() would not unwrap
        if child is not None:
            yield from _walk(child, f"{prefix}.{name}" if prefix else name)


def _adapters(module: Any) -> dict[str, Any]:
    """The state of an adapter layer of peft: which adapters act, and how strongly."""
    described: dict[str, Any] = {}
    if hasattr(module, "active_adapters") and hasattr(module, "merged_adapters"):
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


def _is_computed(part: Any, standard: Any, name: str, value: Any) -> bool:
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


def _tuples(module: Any) -> dict[str, Any]:
    """Attributes of a library's module that are tuples or lists of numbers, such as a stride."""
    return {
        name: list(value)
        for name, value in vars(module).items()
        if isinstance(value, tuple | list) and name[0] != "_" and all(isinstance(part, SCALARS) for part in value)
    }


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, type) and not is_module(value) and not is_tokenizer(value)


def _is_override(module: Any, name: str, value: Any) -> bool:
    """Return True for a method that was put on the object in place of its class's, which is described as such."""
    return callable(value) and callable(getattr(type(module), name, None))


@functools.cache
def _torch_attributes() -> frozenset[str]:
    import torch

    return frozenset(vars(torch.nn.Module())) | {"_hf_hook", "_old_forward", "hf_device_map", "_compiled_call_impl"}


def _is_of_torch(name: str) -> bool:
    return name in _torch_attributes()
