"""A shared cache of embeddings on object storage that never returns a wrong vector."""

from cas_cache.cache import EmbeddingCache
from cas_cache.errors import CacheMiss, CasCacheError
from cas_cache.identity import EncoderSpec

__all__ = ["CacheMiss", "CasCacheError", "EmbeddingCache", "EncoderSpec"]
__version__ = "0.1.0"
