"""Nearest neighbours among the rows of a mirror: exact from its memory map, or by a FAISS index kept beside it.

Whatever finds the rows, their scores are computed from the stored rows, each proved by its digest: an index can miss a
neighbour, it can never name a wrong one. Needs the extra ``faiss``.
"""

from cas_cache.search.design import KINDS, METRICS, Design
from cas_cache.search.finder import ArrayRows, Finder, NamespaceRows, Rows
from cas_cache.search.searcher import Neighbours, Searcher, open_search

__all__ = [
    "KINDS",
    "METRICS",
    "ArrayRows",
    "Design",
    "Finder",
    "NamespaceRows",
    "Neighbours",
    "Rows",
    "Searcher",
    "open_search",
]
