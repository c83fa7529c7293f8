"""Push and pull: the only package that sees both the mirror and the repository."""

from cas_cache.sync.explaining import Explanation, explain
from cas_cache.sync.lazy import pull_keys, pull_rows
from cas_cache.sync.meeting import look, meet
from cas_cache.sync.pulling import pull
from cas_cache.sync.pushing import push
from cas_cache.sync.report import Report
from cas_cache.sync.standing import Standing, pull_of, push_of, standing, standing_here

__all__ = [
    "Explanation",
    "Report",
    "Standing",
    "explain",
    "look",
    "meet",
    "pull",
    "pull_keys",
    "pull_of",
    "pull_rows",
    "push",
    "push_of",
    "standing",
    "standing_here",
]
