"""Checks of arguments that several entry points take, before anything is opened or sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cas_cache.errors import ConfigurationError
from cas_cache.identity import NAMESPACE_ID

if TYPE_CHECKING:
    from collections.abc import Iterable


def check_options(
    push: str,
    on_remote_error: str,
    chunk_items: int | None,
    self_check: int | None,
    max_self_check: int | None,
    push_seconds: float | None,
) -> None:
    """Raise an error for options of `EmbeddingCache` that cannot work.

    Raises:
        ConfigurationError: If one of them is not valid.
    """
    for name, value, choices in (
        ("push", push, ("background", "manual")),
        ("on_remote_error", on_remote_error, ("warn", "raise")),
    ):
        if value not in choices:
            raise ConfigurationError(f"{name}={value!r} is not one of {', '.join(map(repr, choices))}.")
    for name, number, minimum, advice in (
        ("chunk_items", chunk_items, 1, "encode at least 1 item between two commits"),
        ("self_check", self_check, 0, "compare 0 rows or more"),
        ("max_self_check", max_self_check, 0, "compare 0 rows or more"),
        ("push_seconds", push_seconds, 0, "pass 0 seconds or more"),
    ):
        if number is not None and not number >= minimum:  # also true for NaN
            raise ConfigurationError(f"{name} is {number}; {advice}.")


def checked_namespaces(namespaces: Iterable[str] | None) -> list[str] | None:
    """Return namespace ids as a list; None stands for all.

    Raises:
        ConfigurationError: If one of them is not a namespace id.
    """
    if namespaces is None:
        return None
    requested = [namespaces] if isinstance(namespaces, str) else list(namespaces)
    for namespace in requested:
        if not NAMESPACE_ID.fullmatch(namespace):
            raise ConfigurationError(
                f"{namespace!r} is not a namespace id: 32 hex digits, as `EncoderSpec.namespace` and `cas-cache ls "
                "--json` give them."
            )
    return requested
