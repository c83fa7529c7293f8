"""The shared side: packs, manifests and specs under one URL, which many clients write without coordination."""

from cas_cache.repository.pack import PackRows, most_rows_of_a_pack, small_rows
from cas_cache.repository.publishing import MAX_SECONDS
from cas_cache.repository.repository import Repository

__all__ = ["MAX_SECONDS", "PackRows", "Repository", "most_rows_of_a_pack", "small_rows"]
