"""Vectors from and to other formats: old caches of mteb in, files that other tools read out.

Nothing here imports mteb or torch; faiss and pyarrow are imported by what needs them, when it runs.
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
