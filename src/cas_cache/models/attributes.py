"""Read an object's own attributes, from its `__dict__` and its slots, without calling a property or a method."""

from __future__ import annotations

from typing import Any


def attributes_of(value: Any) -> dict[str, Any]:
    """Return an object's own attributes by name; {} for an object without any, or one that hides its state."""
    slots = {
        name: getattr(value, name)
        for cls in type(value).__mro__
        for name in slot_names(cls)
        if not name.startswith("__") and hasattr(value, name)
    }
    return {**slots, **getattr(value, "__dict__", {})}


def slot_names(cls: type) -> tuple[str, ...]:
    """Return the slots that a class itself declares."""
    slots = vars(cls).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)
