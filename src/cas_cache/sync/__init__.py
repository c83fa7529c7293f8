"""Push and pull: the only package that sees both the mirror and the repository."""

from cas_cache.sync.connecting import connect, peek
from cas_cache.sync.explaining import Explanation, explain
from cas_cache.sync.lazy import pull_keys, pull_rows
from cas_cache.sync.pulling import pull
from cas_cache.sync.pushing import push
from cas_cache.sync.report import SyncReport
from cas_cache.sync.status import SyncStatus, local_status, pull_of, push_of, status_of

__all__ = [
    "Explanation",
    "SyncReport",
    "SyncStatus",
    "connect",
    "explain",
    "local_status",
    "peek",
    "pull",
    "pull_keys",
    "pull_of",
    "pull_rows",
    "push",
    "push_of",
    "status_of",
]
