"""`CachedEmbeddingWrapper`: an mteb encoder that encodes nothing twice.

Scores with it are the scores without it. What mteb's own wrapper gets wrong and this one does not: missing rows are
encoded as mteb prepared them, once each; model, revision, prompt text and encode arguments are part of the key; each
chunk is committed before the next; the dtype is the encoder's on every run.
"""

from __future__ import annotations

import errno
import warnings
from typing import TYPE_CHECKING, Any, Self

from cas_cache.cache import EmbeddingCache
from cas_cache.errors import DataWarning, MirrorWriteError
from cas_cache.identity.spec import check_pinned
from cas_cache.mirror import View
from cas_cache.mteb import internals
from cas_cache.mteb.specs import derived_precision, identity_of, spec_of

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from cas_cache.identity import Batch, EncoderSpec
    from cas_cache.stats import Stats


READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
"""What a mirror answers that may be read and not written."""


class CachedEmbeddingWrapper:
    """Wrap an encoder so that `mteb.evaluate` takes its vectors from a cache.

    Args:
        model: Anything that implements mteb's `EncoderProtocol`, or a `SentenceTransformer`.
        cache_path: Directory of the mirror, or a remote URL; as `EmbeddingCache`'s `location`.
        remote: URL of the repository that is shared, for example ``"s3://team/emb"``.
        model_id: The model's name, where its own metadata has none.
        revision: What pins its weights, where its own metadata does not: see `weights_fingerprint`.
        **options: As for `EmbeddingCache`: ``storage_options``, ``read_only``, ``offline``, ``only_cached``, ``push``,
            ``on_remote_error``, ``chunk_items``, ``progress``.

    Raises:
        UnpinnedModel: If name and revision do not pin the model's weights.
        TypeError: If the model is no encoder.
        MissingDependency: If mteb is not installed.

    Example:
        >>> model = CachedEmbeddingWrapper(mteb.get_model(name), "cache", remote="s3://team/emb")  # doctest: +SKIP
        >>> mteb.evaluate(model, tasks)  # doctest: +SKIP
        >>> model.close()  # doctest: +SKIP
    """

    def __init__(
        self,
        model: Any,
        cache_path: str | Path | None = None,
        remote: str | Path | None = None,
        *,
        model_id: str | None = None,
        revision: str | None = None,
        **options: Any,
    ) -> None:
        internals.require_mteb()
        self._model = internals.as_encoder(model)
        self._model_id = model_id
        self._revision = revision
        self._meta: Any = None
        self._recorded: set[tuple[View, bytes]] = set()
        check_pinned(*identity_of(self._model, model_id, revision))
        self.cache = EmbeddingCache(cache_path, remote=remote, **options)

    def __repr__(self) -> str:
        return f"CachedEmbeddingWrapper({type(self._model).__name__}, {self.cache!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def mteb_model_meta(self) -> Any:
        """The wrapped model's metadata; what is set here, as mteb's `CompressionWrapper` does, is not the model's."""
        return self._model.mteb_model_meta if self._meta is None else self._meta

    @mteb_model_meta.setter
    def mteb_model_meta(self, meta: Any) -> None:
        self._meta = meta

    @property
    def stats(self) -> Stats:
        """What the cache did."""
        return self.cache.stats

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> NDArray[Any]:
        """Return the vectors of a loader's rows; only what is not cached reaches the encoder.

        Args:
            inputs: A `DataLoader` over n rows that mteb prepared.
            task_metadata: The task's metadata.
            hf_split: The split.
            hf_subset: The subset.
            prompt_type: Query, document or None.
            **kwargs: Passed on to the encoder.

        Returns:
            (n, d), of the encoder's dtype.
        """
        columns = tuple(internals.column_names(inputs.dataset))
        spec = spec_of(
            self._model,
            task_metadata,
            prompt_type,
            hf_subset,
            kwargs,
            hf_split=hf_split,
            columns=columns,
            model_id=self._model_id,
            revision=self._revision,
        )
        batch = internals.batch_of_dataset(inputs.dataset, spec.fields)
        precision = derived_precision(self._model, kwargs, columns)
        if precision is not None:
            del kwargs["precision"]

        def encode(positions: NDArray[np.int64]) -> Any:
            return self._model.encode(
                internals.rows_of_loader(inputs, positions),
                task_metadata=task_metadata,
                hf_split=hf_split,
                hf_subset=hf_subset,
                prompt_type=prompt_type,
                **kwargs,
            )

        vectors = self.cache.encode_items(batch, spec, encode)
        if batch.size:
            self._record(_view(task_metadata, spec, hf_subset, hf_split), batch, inputs.dataset, spec)
        return vectors if precision is None or not batch.size else internals.quantized(vectors, precision)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the wrapped model's similarity of all pairs."""
        return self._model.similarity(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the wrapped model's similarity of corresponding pairs."""
        return self._model.similarity_pairwise(embeddings1, embeddings2)

    def close(self) -> None:
        """Push what waits, if pushing is automatic."""
        self.cache.close()

    def _record(self, view: View, batch: Batch, dataset: Any, spec: EncoderSpec) -> None:
        """Note in the view what was asked for, and the keys of the texts alone, by which `TextVectorMap` finds them."""
        if batch.digest is not None and (view, batch.digest) in self._recorded:
            return
        if spec.fields == ("text",):
            text_keys: NDArray[np.uint8] | None = batch.keys
        else:
            has_text = "text" in internals.column_names(dataset)
            text_keys = internals.batch_of_dataset(dataset, ("text",)).keys if has_text else None
        try:
            self.cache.mirror.views.record(view, batch.keys, text_keys, internals.ids_of_dataset(dataset))
        except MirrorWriteError as err:
            if not (isinstance(err.__cause__, OSError) and err.__cause__.errno in READ_ONLY):
                raise
            # The vectors are right; what is lost is that `TextVectorMap` and `export` know what the task asked for.
            warnings.warn(f"What {view.task} asked for is not noted: {err}", DataWarning, stacklevel=3)
        if batch.digest is not None:
            self._recorded.add((view, batch.digest))


def _view(task_metadata: Any, spec: EncoderSpec, hf_subset: str, hf_split: str) -> View:
    return View(
        task=str(task_metadata.name),
        namespace=spec.namespace,
        model=spec.model,
        revision=spec.revision,
        role=spec.role,
        subset=str(hf_subset),
        split=str(hf_split),
    )
