"""Import vectors from old mteb caches, and export them to files for other tools.

Nothing in this package imports mteb or torch. faiss and pyarrow are imported at run time by the functions that need
them.
"""

from cas_cache.interop.exporting import (
    FORMATS,
    FORMATS_WITH_IDS,
    ExportReport,
    Selection,
    export,
    plan_export,
    select_namespace,
    select_views,
)
from cas_cache.interop.folders import MtebCacheFolder, find_folders
from cas_cache.interop.import_plan import FolderPlan, ImportPlan, ImportReport
from cas_cache.interop.importing import import_mteb, plan_import

__all__ = [
    "FORMATS",
    "FORMATS_WITH_IDS",
    "ExportReport",
    "FolderPlan",
    "ImportPlan",
    "ImportReport",
    "MtebCacheFolder",
    "Selection",
    "export",
    "find_folders",
    "import_mteb",
    "plan_export",
    "plan_import",
    "select_namespace",
    "select_views",
]
