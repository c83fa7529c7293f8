"""What an encoder computes and what it looks like: used by `cas_cache.mteb` and by every other integration.

Importing it imports neither torch nor transformers nor sentence-transformers; they are looked at only where a model of
theirs is given.
"""

from cas_cache.models.appearance import appearance_of
from cas_cache.models.description import Description, describe
from cas_cache.models.encoders import describe_encoder
from cas_cache.models.fingerprint import weights_fingerprint

__all__ = [
    "Description",
    "appearance_of",
    "describe",
    "describe_encoder",
    "weights_fingerprint",
]
