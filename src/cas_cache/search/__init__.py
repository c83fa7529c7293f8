"""Nearest neighbours among the rows of a mirror: exact from its memory map, or by a FAISS index saved beside it.

However rows are found, their scores are computed from the stored rows, and each row is verified by its digest. An index
can miss a neighbour but never returns a wrong one. Needs the extra ``faiss``.
"""

from cas_cache.search.exact import METRICS
from cas_cache.search.faiss_index import Design
from cas_cache.search.searcher import Neighbours, Searcher, open_search

__all__ = [
    "METRICS",
    "Design",
    "Neighbours",
    "Searcher",
    "open_search",
]
