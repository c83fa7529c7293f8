"""The shared side: packs, manifests and specs under one URL, which many clients write without coordination.

`Repository` reads and writes it. `check` compares it with its manifests and changes nothing. `compact` merges small
packs. `prune` deletes what is no longer needed. `drop` deletes a namespace, and `drop_pack` one pack. `inventory`
returns its content by namespace.
"""

from cas_cache.repository.check_report import CheckFinding, CheckReport, Severity
from cas_cache.repository.checking import check
from cas_cache.repository.compacting import CompactReport, Merge, compact, plan_compact
from cas_cache.repository.dropping import DropPackReport, DropReport, drop, drop_pack, plan_drop, plan_drop_pack
from cas_cache.repository.inventory import NamespaceContent, inventory
from cas_cache.repository.pack import PackRows, most_rows_of_a_pack, small_rows
from cas_cache.repository.pruning import Deletion, PruneReport, plan_prune, prune
from cas_cache.repository.publishing import MAX_SECONDS
from cas_cache.repository.repository import Repository

__all__ = [
    "MAX_SECONDS",
    "CheckFinding",
    "CheckReport",
    "CompactReport",
    "Deletion",
    "DropPackReport",
    "DropReport",
    "Merge",
    "NamespaceContent",
    "PackRows",
    "PruneReport",
    "Repository",
    "Severity",
    "check",
    "compact",
    "drop",
    "drop_pack",
    "inventory",
    "most_rows_of_a_pack",
    "plan_compact",
    "plan_drop",
    "plan_drop_pack",
    "plan_prune",
    "prune",
    "small_rows",
]
