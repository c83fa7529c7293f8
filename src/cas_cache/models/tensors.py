"""Read the values of tensors: a sample at every use, or all of them for a fingerprint.

Weights may be on any device, quantized, a subclass that wraps other tensors, or placeholders whose values accelerate
stores elsewhere. They are read in place; weights that cannot be read are an `IdentityError`.
"""

from __future__ import annotations

import hashlib
import sys
from typing import TYPE_CHECKING, Any

from cas_cache.errors import IdentityError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

SAMPLED = 64
"""Values of each tensor in a sample: 6,400 values of a small model with a hundred tensors."""


def is_tensor(value: Any) -> bool:
    """Return True for a torch tensor; torch is not imported for this."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def tensor_digest(tensor: Any, where: str) -> str:
    """Return 32 hex digits of a hash over dtype, shape and all values of a tensor."""
    digest = hashlib.sha256()
    for part in tensor_parts(tensor, where):
        update(digest, part, where, step=1)
    return digest.hexdigest()[:32]


def tensor_parts(tensor: Any, where: str) -> Iterator[Any]:
    """Yield plain strided tensors with the values of a tensor, and text that describes their relation.

    Raises:
        IdentityError: If the values cannot be read.
    """
    import torch

    if tensor.is_meta:
        raise _unreadable(tensor, where, "its values are not in memory")
    if tensor.is_quantized:
        yield tensor.detach().dequantize()
    elif type(tensor) not in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer):
        yield from _subclass_parts(tensor, where)
    elif tensor.layout is not torch.strided:
        yield str(tensor.layout)
        yield tensor.detach().to_dense()
    else:
        yield tensor.detach().resolve_conj().resolve_neg()


def _subclass_parts(tensor: Any, where: str) -> Iterator[Any]:
    """Yield the content of a tensor subclass: by torch's protocol for subclasses, or its storage and attributes."""
    import torch

    yield type(tensor).__qualname__
    flatten = getattr(tensor, "__tensor_flatten__", None)
    try:
        if flatten is not None:
            names, _ = flatten()
            for name in sorted(names):
                yield name
                yield from tensor_parts(getattr(tensor, name), f"{where}.{name}")
            return
        if hasattr(tensor, "full_tensor"):
            yield tensor.full_tensor().detach()
            return
        with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001 - the way torch reads its own subclasses
            yield tensor.detach().as_subclass(torch.Tensor)
    except (NotImplementedError, RuntimeError, TypeError) as err:
        raise _unreadable(tensor, where, str(err)) from err
    for name, value in sorted(vars(tensor).items()):
        yield from _carried(name, value, f"{where}.{name}")


def _carried(name: str, value: Any, where: str) -> Iterator[Any]:
    """Yield the tensors and numbers of a subclass beside its storage, such as the scales of bitsandbytes."""
    if is_tensor(value):
        yield name
        yield from tensor_parts(value, where)
    elif hasattr(value, "as_dict"):
        for key, part in sorted(value.as_dict().items()):
            yield from _carried(f"{name}.{key}", part, where)
    elif isinstance(value, bool | int | float | str):
        yield f"{name}={value}"


def update(digest: Any, part: Any, where: str, *, step: int) -> None:
    """Add text, or every `step`-th value of a plain tensor with its dtype and shape, to a hash."""
    if isinstance(part, str):
        digest.update(f"{part}\0".encode())
        return
    digest.update(f"{str(part.dtype).removeprefix('torch.')}\0{tuple(part.shape)}\0".encode())
    digest.update(_content(part.reshape(-1)[::step], where))


def _content(values: Any, where: str) -> bytes:
    """Return the bytes of a flat tensor of any type, on any device."""
    import torch

    try:
        raw: bytes = values.contiguous().cpu().view(torch.uint8).numpy().tobytes()
    except (NotImplementedError, RuntimeError, TypeError) as err:
        raise _unreadable(values, where, str(err)) from err
    return raw


def is_simple(tensor: Any) -> bool:
    """Return True for a strided tensor of torch's own classes whose values are in memory as they are."""
    import torch

    plain = type(tensor) in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)
    return plain and not tensor.is_meta and not tensor.is_quantized and tensor.layout is torch.strided


def sample_step(part: Any) -> int:
    """Return the distance between the values of a tensor that a sample holds."""
    return max(1, int(part.numel()) // SAMPLED)


def sample_view(part: Any) -> Any:
    """Return a NumPy view of a sample that sees every later change in place; None if none is possible."""
    import torch

    if part.device.type != "cpu" or not part.is_contiguous() or not part.numel():
        return None
    flat = part.reshape(-1)[:: sample_step(part)]
    width = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}.get(flat.element_size())
    view: np.ndarray[Any, Any] | None = None if width is None else flat.view(width).numpy()
    return view


def _unreadable(tensor: Any, where: str, reason: str) -> IdentityError:
    cls = f"{type(tensor).__module__}.{type(tensor).__qualname__}"
    short = " ".join(reason.split())[:200]
    return IdentityError(
        f"The weights {where} ({cls} on {tensor.device}) cannot be read: {short}. So the model cannot be distinguished "
        "from another one of the same name. Load it with its weights in memory (without device_map offload), in a "
        "format that torch can read, or evaluate without the cache."
    )
