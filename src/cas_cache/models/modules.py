"""Describe a tree of torch modules.

Each module is described by its class, its configuration and its children. A transformers model is described by its
configuration and by the differences from the model that transformers builds for it. A description also contains
everything else that can change what a module computes: code that belongs to no library, replaced methods, hooks,
adapters.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from cas_cache.models import sentence_transformers as st
from cas_cache.models.configuration import attention_of, describe_config
from cas_cache.models.exported import describe_exported, is_exported
from cas_cache.models.functions import CodeReader
from cas_cache.models.names import class_name, foreign_functions, foreign_methods, is_library
from cas_cache.models.parts import (
    SAMPLED_NAMES,
    adapters_of,
    describe_hooks,
    is_computed,
    is_function,
    is_module,
    is_of_torch,
    is_override,
    own_tensors,
    real_forward,
    tuples_of,
    unwrapped,
    walk,
)
from cas_cache.models.skeleton import Skeleton, StandardParts, scalars_of, skeleton_of
from cas_cache.models.tokenizers import describe_tokenizer, is_tokenizer
from cas_cache.models.values import SCALARS, VOLATILE, named_by_user, plain_value

NOT_COMPUTED = frozenset(
    {
        "training", "gradient_checkpointing", "name_or_path", "warnings_issued", "call_super_init", "dump_patches",
        "max_seq_len_cached", "original_max_seq_len", "is_hpu_graph_enabled", "trust_remote_code", "base_model",
        "update_embeddings", "padding_idx", "sparse", "scale_grad_by_freq", "inplace", "dropout", "layer_idx",
        "hf_device_map", "is_loaded_in_4bit", "is_loaded_in_8bit", "is_quantized", "quantization_method",
    }
)  # fmt: skip
"""Attributes of the libraries' modules that do not change vectors, or that change while a model computes."""

NOT_REPLACED = frozenset({"extra_repr"})
"""Methods that are not part of the computation."""

INERT = frozenset({bool, int, float, str, type(None), dict, OrderedDict, set, list, tuple})
"""Types whose values are not called."""

MISSING = object()

_standard = StandardParts()


class ModuleReader:
    """Describes torch modules, and collects their tensors.

    Attributes:
        tensors: Every tensor with its path and its module, in an order that depends on the model alone.
        code: Describes functions and classes that modules refer to.
    """

    def __init__(self) -> None:
        self.tensors: list[tuple[str, Any, Any]] = []
        self.code = CodeReader(self._reference)
        self._config: Any = None
        self._paths: dict[int, str] = {}
        self._own: dict[type, Any] = {}
        self._patches: dict[type, dict[str, Any]] = {}
        self._replaced: dict[type, dict[str, Any]] = {}
        self._functions: dict[str, dict[str, Any]] = {}

    def describe(self, module: Any, path: str) -> Any:
        """Return plain JSON for a module and all that it holds.

        Args:
            module: A torch module.
            path: Its path in the model.

        Raises:
            IdentityError: If something that can change vectors cannot be described.
        """
        module = unwrapped(module)
        if id(module) in self._paths and _holds(module):
            return {"again": self._paths[id(module)]}
        self._paths[id(module)] = path
        self._collect(module, path)
        if (stated := named_by_user(module)) is not None:
            self._collect_below(module, path)
            return stated
        described: dict[str, Any] = {"class": self._class(module, path)}
        described.update(self._behaviour(module, path))
        settings = st.config_of(module)
        if settings is None and hasattr(getattr(module, "config", None), "to_diff_dict"):
            described["config"] = describe_config(module.config, f"{path}.config", self.code.value)
            self._add_attention(module, described, path)
            skeleton = skeleton_of(module) if hasattr(module, "init_weights") else None
            if skeleton is not None:
                differences = self._differences(module, skeleton, path)
                return {**described, **({"differences": differences} if differences else {})}
        described.update(self._held(module, path, settings))
        return described

    def _class(self, module: Any, path: str) -> Any:
        cls = type(module)
        if cls not in self._own:
            self._own[cls] = self.code.own_class(cls, path)
        return self._own[cls]

    def _behaviour(self, module: Any, path: str) -> dict[str, Any]:
        """Describe hooks, adapters, and methods that were replaced on the object or on a class of a library."""
        described = describe_hooks(module, path, self.code)
        held = vars(module)
        for name, value in held.items():
            if type(value) in INERT or name[0] == "_" or not is_override(module, name, value):
                continue
            method = real_forward(module) if name == "forward" else value
            if method is not None and name not in NOT_REPLACED:
                described[f"replaced {name}"] = self.code.callable(method, f"{path}.{name}")
        described.update(self._patched(type(module), path))
        if "peft_config" in held or "merged_adapters" in held:
            described["adapters"] = plain_value(adapters_of(module), path)
        return described

    def _patched(self, cls: type, path: str) -> dict[str, Any]:
        """Describe methods of a library's class that other code has replaced."""
        if cls not in self._patches:
            methods = {name: method for part in reversed(cls.__mro__) for name, method in self._foreign(part).items()}
            self._patches[cls] = {
                f"patched {name}": self.code.callable(method, f"{path} ({cls.__qualname__}.{name})")
                for name, method in methods.items()
            }
        return self._patches[cls]

    def _foreign(self, cls: type) -> dict[str, Any]:
        if cls not in self._replaced:
            module = cls.__module__
            if module not in self._functions:
                self._functions[module] = foreign_functions(module) if is_library(cls) else {}
            self._replaced[cls] = foreign_methods(cls) | self._functions[module]
        return self._replaced[cls]

    def _held(self, module: Any, path: str, config: dict[str, Any] | None) -> dict[str, Any]:
        """Describe configuration, attributes, tokenizers and children of a module that has no skeleton."""
        described: dict[str, Any] = {}
        library = is_library(type(module))
        if config is not None:
            described["config"] = plain_value(config, path, self.code.value)
            described["functions"] = {
                name: self.code.callable(value, f"{path}.{name}")
                for name, value in sorted(vars(module).items())
                if name[0] != "_" and _is_held_function(module, name, value)
            }
        elif library:
            attributes = scalars_of(module, NOT_COMPUTED)
            described["attributes"] = {**attributes, **tuples_of(module)}
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
        children = engines
        for name, child in module._modules.items():  # noqa: SLF001 - unlike children(), with names and duplicates
            called = st.child_name(module, name)
            if child is not None and called not in children:  # a Transformer may have its model under two names
                children[called] = self.describe(child, f"{path}.{called}")
        return {
            **{name: value for name, value in described.items() if value},
            **({"modules": children} if children else {}),
        }

    def _attributes(self, module: Any, path: str) -> dict[str, Any]:
        """Describe the attributes of a user's own module, except mutable containers, which often hold caches."""
        return {
            name: self.code.value_or_class(value, f"{path}.{name}")
            for name, value in sorted(vars(module).items())
            if not (is_of_torch(name) or VOLATILE.search(name) or isinstance(value, list | dict | set))
            and not is_override(module, name, value)
        }

    def _differences(self, model: Any, skeleton: Skeleton, path: str) -> dict[str, Any]:
        expected = dict(skeleton)
        self._config = model.config
        differences: dict[str, Any] = {}
        code: dict[str, Any] = {}
        for name, part in walk(model):
            standard = expected.pop(name, None)
            if name and id(part) in self._paths:
                continue
            place = f"{path}.{name}" if name else path
            if name:
                self._paths[id(part)] = place
                self._collect(part, place)
                if (part, standard) in _standard and not self._patched(type(part), place):
                    continue
                if not is_library(type(part)):
                    code[class_name(type(part))] = self._class(part, place)
            described = self._difference(part, standard, place, top=not name)
            if described:
                differences[name or "model"] = described
            elif name and is_library(type(part)):
                _standard.remember(part, standard, self._config)
        if code:
            differences["code"] = code
        absent = sorted(name for name in expected if name.rpartition(".")[0] not in expected or "." not in name)
        if absent:
            differences["absent"] = absent
        return differences

    def _difference(self, part: Any, standard: Any, place: str, *, top: bool) -> dict[str, Any]:
        """Describe how one module differs from the one that the library builds."""
        described = {} if top else self._behaviour(part, place)
        if standard is None or type(part) is not type(standard):
            described["class"] = self._class(part, place)
            own = not is_library(type(part))
            described["attributes"] = self._attributes(part, place) if own else scalars_of(part, NOT_COMPUTED)
        else:
            described.update(self._changed(part, standard, place, top=top))
        described.update(self._buffers(part, standard, place))
        return described

    def _changed(self, part: Any, standard: Any, place: str, *, top: bool) -> dict[str, Any]:
        """Describe attributes, functions and a configuration that differ from those that the library sets."""
        described: dict[str, Any] = {}
        usual = vars(standard)
        for name, value in vars(part).items():
            was = usual.get(name, MISSING)
            if value is was or name[0] == "_" or name in NOT_COMPUTED:
                continue
            if type(value) in SCALARS or type(value) in (tuple, list):
                if value != was and not VOLATILE.search(name):
                    described[name] = plain_value(value, f"{place}.{name}", self.code.value)
            elif _is_held_function(part, name, value) and not self._alike(value, was, place):
                described[name] = self.code.callable(value, f"{place}.{name}")
        config = vars(part).get("config")
        if not top and hasattr(config, "to_diff_dict") and config is not self._config:
            now, before = describe_config(config, place), describe_config(standard.config, place)
            if now != before:
                described["config"] = plain_value(now, place)
        return described

    def _alike(self, value: Any, usual: Any, place: str) -> bool:
        """Return True if a function of a module, such as a lambda, has the description of the library's."""
        if usual is MISSING:
            return False
        return bool(CodeReader(self._reference).value(value, place) == CodeReader(self._reference).value(usual, place))

    def _buffers(self, part: Any, standard: Any, place: str) -> dict[str, Any]:
        """Describe buffers that are not saved with the weights and differ from those that the library computes."""
        names = part._non_persistent_buffers_set  # noqa: SLF001 - torch has no other name for them
        if not names:
            return {}
        names = names - SAMPLED_NAMES
        return {
            f"buffer {name}": plain_value(value, f"{place}.{name}")
            for name in sorted(names)
            if (value := getattr(part, name, None)) is not None and not is_computed(part, standard, name, value)
        }

    def _add_attention(self, module: Any, described: dict[str, Any], path: str) -> None:
        """Describe an attention function that is not one of transformers."""
        name = attention_of(module.config)
        if name is not None:
            from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

            function = ALL_ATTENTION_FUNCTIONS.get(name) if hasattr(ALL_ATTENTION_FUNCTIONS, "get") else None
            described["attention"] = name if function is None else self.code.callable(function, f"{path} ({name})")

    def _collect(self, module: Any, path: str) -> None:
        for name, value in own_tensors(module):
            self.tensors.append((f"{path}.{name}", value, module))

    def _collect_below(self, module: Any, path: str) -> None:
        for name, part in walk(module):
            if name and id(part) not in self._paths:
                self._paths[id(part)] = f"{path}.{name}"
                self._collect(part, f"{path}.{name}")

    def _reference(self, value: Any, where: str) -> Any:
        if is_module(value):
            return self.describe(value, where)
        if is_exported(value):
            return describe_exported(value, where, self.code)
        if hasattr(value, "to_diff_dict"):
            return describe_config(value, where, self.code.value)
        if is_tokenizer(value):
            return describe_tokenizer(value, where, self.code)
        return None


def _is_held_function(module: Any, name: str, value: Any) -> bool:
    """Return True for a function that a module holds, such as an activation; not for a replaced method or a model."""
    return is_function(value) and not is_override(module, name, value) and not is_exported(value)


def _holds(module: Any) -> bool:
    """Return True for a module with tensors or modules. Others, such as activations, may be shared or not."""
    return bool(module._modules or module._parameters or module._buffers)  # noqa: SLF001 - as above
