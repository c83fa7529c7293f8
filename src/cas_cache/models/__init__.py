"""Describe what an encoder computes and what it looks like, for `cas_cache.mteb` and every other integration.

Importing this package imports neither torch nor transformers nor sentence-transformers. They are used only for their
own models.
"""

from cas_cache.models.appearance import appearance_of
from cas_cache.models.description import Description, describe
from cas_cache.models.encoders import describe_encoder, weights_fingerprint

__all__ = [
    "Description",
    "appearance_of",
    "describe",
    "describe_encoder",
    "weights_fingerprint",
]
