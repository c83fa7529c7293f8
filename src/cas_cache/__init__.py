"""A shared cache of embeddings on object storage that never returns a wrong vector."""

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cas_cache.cache import CachedEncoder, EmbeddingCache
    from cas_cache.config.keyring import Signing
    from cas_cache.errors import CacheMiss, CasCacheError
    from cas_cache.identity import EncoderSpec
    from cas_cache.mirror import Mirror, View
    from cas_cache.stats import Stats
    from cas_cache.sync import SyncReport

__all__ = [
    "CacheMiss",
    "CachedEncoder",
    "CasCacheError",
    "EmbeddingCache",
    "EncoderSpec",
    "Mirror",
    "Signing",
    "Stats",
    "SyncReport",
    "View",
]
__version__ = "0.1.0"

# Quiet by default: log records appear only if the application configures logging. Anything important is a warning or an
# error.
logging.getLogger(__name__).addHandler(logging.NullHandler())

if not TYPE_CHECKING:
    # Imported on first access: the command line needs little of this, and `cas-cache --help` nothing.
    _HOMES = {
        "CacheMiss": "errors",
        "CachedEncoder": "cache",
        "CasCacheError": "errors",
        "EmbeddingCache": "cache",
        "EncoderSpec": "identity",
        "Mirror": "mirror",
        "Signing": "config.keyring",
        "Stats": "stats",
        "SyncReport": "sync",
        "View": "mirror",
    }

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg)
        from importlib import import_module

        globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        return globals()[name]

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
