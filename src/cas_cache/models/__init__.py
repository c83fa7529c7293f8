"""What an encoder computes and what it looks like: used by `cas_cache.mteb` and by other integrations.

Nothing here imports torch unless a torch model is given to it.
"""

from cas_cache.models.appearance import appearance_of

__all__ = ["appearance_of"]
