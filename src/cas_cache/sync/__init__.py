"""Push and pull: the only place that sees both sides."""

from cas_cache.sync.meeting import meet
from cas_cache.sync.pulling import pull
from cas_cache.sync.pushing import push
from cas_cache.sync.report import Report
from cas_cache.sync.standing import Standing, standing

__all__ = ["Report", "Standing", "meet", "pull", "push", "standing"]
