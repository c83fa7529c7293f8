"""`MirrorSearch`: searches a cached corpus for mteb's retrieval tasks, instead of multiplying it out.

mteb passes the corpus as the encoder returned it. With a `CachedEmbeddingWrapper` that is a memory map of the mirror's
file if the corpus is stored there in one piece, so exact search reads the mirror in place. Otherwise, for example after
repeats in a corpus, it is an array in memory. The origin of rows does not matter: an index is saved under a hash of the
bytes that were passed, so it is found again for the same corpus and for no other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.errors import ConfigurationError
from cas_cache.format.rows import as_array
from cas_cache.search import METRICS, Design
from cas_cache.search.exact import rank, require_faiss
from cas_cache.search.finder import Finder, checked_queries
from cas_cache.search.rows import ArrayRows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

FOLDER = ".faiss"
"""A folder in the mirror's directory. Its contents can be deleted at any time."""

METRIC_OF = {"cosine": "cosine", "dot": "ip", "euclidean": "l2"}
"""The metric of each of mteb's `ScoringFunction`s."""

CHECKED_QUERIES, CHECKED_DOCUMENTS = 4, 16
"""Number of pairs whose scores each search compares with the model's own similarity."""

TOLERANCE = 2e-3
"""Tolerance of a score: two roundings of float16. Another similarity function differs by more."""


class MirrorSearch:
    """mteb's `IndexEncoderSearchProtocol` over what a cache answers.

    Args:
        model: The encoder that is evaluated. Of a `CachedEmbeddingWrapper` indexes are saved in its mirror; of any
            other they are kept in memory.
        index: None, exact search, gives the scores of a run without it. A FAISS index, as for `open_search`, can miss
            documents, and scores then differ.
        metric: ``"cosine"``, ``"ip"`` or ``"l2"``; None takes the model's ``similarity_fn_name``.
        parameters: As for `open_search`.
        k_factor: As for `open_search`.

    Raises:
        MissingDependency: If faiss is not installed.
        ConfigurationError: If metric or a parameter is invalid, or the model's similarity is none of these.

    Example:
        >>> cached = CachedEmbeddingWrapper(model, "cache")  # doctest: +SKIP
        >>> searched = SearchEncoderWrapper(cached, index_backend=MirrorSearch(cached))  # doctest: +SKIP
        >>> mteb.evaluate(searched, tasks, cache=None)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: Any,
        *,
        index: str | None = None,
        metric: str | None = None,
        parameters: str = "",
        k_factor: int = 4,
    ) -> None:
        require_faiss()
        self.design = Design(metric or _metric_of(model), index, parameters, k_factor)
        mirror = getattr(getattr(model, "cache", None), "mirror", None)
        self._folder: Path | None = None if mirror is None else mirror.directory / FOLDER
        self._parts: list[NDArray[Any]] = []
        self._ids: list[str] = []
        self._finder: Finder | None = None

    def __repr__(self) -> str:
        return f"MirrorSearch({self.design!r}, documents={len(self._ids)})"

    def add_documents(self, embeddings: Any, idxs: Iterable[str]) -> None:
        """Take documents, after those that are there.

        Args:
            embeddings: (n, d). They are not copied, so they must not be changed until `clear`.
            idxs: Their n ids.

        Raises:
            ConfigurationError: If there is not one id per document.
        """
        vectors, ids = as_array(embeddings), list(idxs)
        if len(vectors) != len(ids):
            raise ConfigurationError(f"{len(vectors)} documents came with {len(ids)} ids. Pass one id for each.")
        if len(vectors):
            self._parts.append(vectors)
            self._ids += ids
            self._finder = None

    def search(
        self,
        embeddings: Any,
        top_k: int,
        similarity_fn: Callable[[Any, Any], Any],
        top_ranked: Mapping[str, list[str]] | None = None,
        query_idx_to_id: Mapping[int, str] | None = None,
    ) -> tuple[list[list[float]], list[list[int]]]:
        """Return the nearest documents of each query, the best first.

        Args:
            embeddings: (q, d).
            top_k: Maximum number of documents per query.
            similarity_fn: The model's similarity; some scores are compared with it.
            top_ranked: Documents to rank for each query, by id; None searches all.
            query_idx_to_id: The ids of the queries, for `top_ranked`.

        Returns:
            For each query its scores, and the positions of the documents: in the order in which they were added, or in
            the query's list in `top_ranked`.

        Raises:
            ConfigurationError: If no documents were added, ids are missing or unknown, or the model's similarity is not
                ``metric``.
            ShapeMismatch: If queries and documents differ in dimension.
        """
        vectors = self._vectors()
        queries = checked_queries(embeddings, vectors.shape[-1])
        if top_ranked is not None:
            return self._rerank(queries, top_k, similarity_fn, top_ranked, query_idx_to_id)
        if self._finder is None:
            self._finder = self._opened(vectors)
        scores, rows = self._finder.find(queries, top_k)
        self._check_scores(queries, scores, rows, similarity_fn)
        return scores.tolist(), rows.tolist()

    def clear(self) -> None:
        """Remove the documents; saved indexes stay."""
        self._parts, self._ids, self._finder = [], [], None

    def _vectors(self) -> NDArray[Any]:
        """Return all documents: a single array as it was passed, several joined."""
        if not self._parts:
            raise ConfigurationError("There are no documents to search. Call add_documents first.")
        if len(self._parts) > 1:
            self._parts = [np.concatenate(self._parts)]
        return self._parts[0]

    def _opened(self, vectors: NDArray[Any]) -> Finder:
        rows = ArrayRows(vectors)
        if self._folder is None or self.design.index is None:
            return Finder(rows, self.design)
        return Finder(rows, self.design, self._folder / str(rows.fingerprint(len(vectors)))[:32])

    def _rerank(
        self,
        queries: NDArray[Any],
        top_k: int,
        similarity_fn: Callable[[Any, Any], Any],
        top_ranked: Mapping[str, list[str]],
        query_idx_to_id: Mapping[int, str] | None,
    ) -> tuple[list[list[float]], list[list[int]]]:
        if query_idx_to_id is None:
            raise ConfigurationError("top_ranked names queries by id: pass query_idx_to_id.")
        vectors = self._vectors()
        row_of = {document: row for row, document in enumerate(self._ids)}
        all_scores: list[list[float]] = []
        all_positions: list[list[int]] = []
        for n in range(len(queries)):
            ranked = top_ranked.get(query_idx_to_id[n]) or []
            unknown = next((document for document in ranked if document not in row_of), None)
            if unknown is not None:
                raise ConfigurationError(f"The document {unknown!r} is to be ranked and was not added.")
            # A document that is listed twice counts once, at its first position.
            position_of = {row_of[document]: position for position, document in reversed(list(enumerate(ranked)))}
            candidates = np.fromiter(position_of, np.int64, len(position_of))[None]
            k = min(top_k, len(position_of))
            scores, rows = rank(queries[n : n + 1], candidates, k, self.design.metric, lambda rows: vectors[rows])
            if n < CHECKED_QUERIES and k:
                self._check_scores(queries[n : n + 1], scores, rows, similarity_fn)
            all_scores.append(scores[0].tolist())
            all_positions.append([position_of[row] for row in rows[0].tolist()])
        return all_scores, all_positions

    def _check_scores(
        self,
        queries: NDArray[Any],
        scores: NDArray[np.float32],
        rows: NDArray[np.int64],
        similarity_fn: Callable[[Any, Any], Any],
    ) -> None:
        """Compare some scores with the model's own."""
        vectors = self._vectors()
        for n in range(min(CHECKED_QUERIES, len(queries))):
            chosen = rows[n, :CHECKED_DOCUMENTS]
            own = as_array(similarity_fn(queries[n : n + 1], np.array(vectors[chosen])))[0].astype(np.float64)
            ours = scores[n, :CHECKED_DOCUMENTS].astype(np.float64)
            scale = np.maximum(np.abs(own), 1)
            if not (np.abs(own - ours) <= TOLERANCE * scale).all():
                worst = int(np.nanargmax(np.abs(own - ours) / scale))
                raise ConfigurationError(
                    f"The model's similarity is not {self.design.metric!r}: it gives {own[worst]:.6g} where that gives "
                    f"{ours[worst]:.6g}. Pass the right metric= of {', '.join(METRICS)}, or evaluate without "
                    "MirrorSearch."
                )


def _metric_of(model: Any) -> str:
    """Return the metric in a model's metadata; cosine, as in mteb, if there is none."""
    name = getattr(getattr(model, "mteb_model_meta", None), "similarity_fn_name", None)
    if name is None:
        return "cosine"
    value = str(getattr(name, "value", name))
    if value not in METRIC_OF:
        raise ConfigurationError(
            f"The model compares by {value!r}, which cannot be searched; {', '.join(METRIC_OF)} can. Evaluate without "
            "MirrorSearch."
        )
    return METRIC_OF[value]
