"""Push and pull: the only place that sees both sides."""

from cas_cache.sync.meeting import meet
from cas_cache.sync.pulling import pull
from cas_cache.sync.pushing import push
from cas_cache.sync.report import Report

__all__ = ["Report", "meet", "pull", "push"]
