"""`CachedEmbeddingWrapper`: an mteb encoder that encodes nothing twice.

Scores with it are the scores without it. Unlike mteb's own wrapper, it encodes missing rows as mteb prepared them, once
each; model, revision, prompt text and encode arguments are part of the key; each chunk is committed before the next;
and the dtype is the encoder's in every run.
"""

from __future__ import annotations

import errno
import logging
import sys
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self

from cas_cache.cache import EmbeddingCache
from cas_cache.display import Displayable, facts, together
from cas_cache.errors import ConfigurationError, DataWarning, InvalidItem, MirrorWriteError, UnsupportedEncoderOutput
from cas_cache.format.rows import as_array
from cas_cache.mirror import View
from cas_cache.mteb import classification, compat, dataset_adapter
from cas_cache.mteb.backends import FaissCache, check_float32
from cas_cache.mteb.calibration import stored_ranges
from cas_cache.mteb.custom_backends import EncodeRequest, custom_backends
from cas_cache.mteb.derived import derivation_of
from cas_cache.mteb.specs import TaskContext, check_describable, identity_of, spec_of_stored
from cas_cache.progress import is_shown, progress_bar_if_slow

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Group

    from cas_cache.identity import Batch, EncoderSpec
    from cas_cache.stats import Stats


logger = logging.getLogger(__name__)

READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
"""Error numbers of a write to a mirror that may only be read."""


class CachedEmbeddingWrapper(Displayable):
    """Wrap an encoder so that `mteb.evaluate` takes its vectors from a cache.

    Models that do not answer with one dense vector per item (sparse, multi-vector, contextual, searching ones) are
    passed through: their scores are those without the cache, nothing is stored, and one `DataWarning` says so.

    Args:
        model: Anything that implements mteb's `EncoderProtocol`, or a `SentenceTransformer`.
        cache_path: Directory of the mirror, or a remote URL; as `EmbeddingCache`'s `location`.
        remote: URL of the shared repository, for example ``"s3://team/emb"``.
        model_id: The model's name, if its metadata has none.
        revision: The revision of its weights, if its metadata does not pin them: see `weights_fingerprint`.
        calibration: Ranges of int8 and uint8, if the encode argument ``precision`` requests these. ``"call"`` takes
            them from each call, as without a cache. ``"stored"`` takes them once, from the first call of at least 100
            rows, and stores them in the mirror: vectors are then functions of the item, and calls can be compared. Or
            (2, d), the minimum and the maximum of each dimension, to store.
        cache_backend: Where the vectors are stored. None or `MirrorCache`: in the mirror. `FaissCache`: in the mirror,
            and `close` writes a FAISS index of each namespace to ``<mirror>/faiss/``. Or a class of mteb's
            `CacheBackendProtocol`, such as mteb's own backends, or any function that makes one from a folder: it stores
            them in ``<cache_path>/<task>/<namespace>``, and its answers are verified; nothing can be pushed, and
            `TextVectorMap` finds nothing.
        **options: As for `EmbeddingCache`: ``storage_options``, ``read_only``, ``offline``, ``only_cached``, ``lazy``,
            ``self_check``, ``push``, ``on_remote_error``, ``chunk_items``, ``progress``, ``signing``. The encode
            argument ``show_progress_bar=False`` turns our bars off, too.

    Raises:
        UnpinnedModel: If name and revision do not pin the model's weights.
        IdentityError: If an argument of the model's loader is an object that cannot be described, and `model_id` and
            `revision` are not given.
        TypeError: If the model is not an encoder.
        ConfigurationError: If `calibration` or `cache_backend` is none of these, or a custom backend is given a remote.
        MissingDependency: If mteb, or faiss with `FaissCache`, is not installed.

    Example:
        >>> model = CachedEmbeddingWrapper(mteb.get_model(name), "cache", remote="s3://team/emb")  # doctest: +SKIP
        >>> mteb.evaluate(model, tasks)  # doctest: +SKIP
        >>> model.close()  # doctest: +SKIP
    """

    def __init__(  # noqa: PLR0913 - independent switches, all by name
        self,
        model: Any,
        cache_path: str | Path | None = None,
        remote: str | Path | None = None,
        *,
        model_id: str | None = None,
        revision: str | None = None,
        calibration: Literal["call", "stored"] | NDArray[Any] = "call",
        cache_backend: Callable[[Path], Any] | None = None,
        **options: Any,
    ) -> None:
        compat.require_mteb()
        self._model = compat.as_encoder(model)
        self._model_id = model_id
        self._revision = revision
        self._meta: Any = None
        self._recorded: set[tuple[View, bytes]] = set()
        self._shows_progress = True
        self._reported_items = 0
        self._uncached = classification.reason_not_to_cache(self._model)
        if self._uncached is None:
            check_describable(self._model, identity_of(self._model, model_id, revision))
        self._ranges = stored_ranges(calibration)
        self.cache = EmbeddingCache(cache_path, remote=remote, **options)
        self._backends = custom_backends(cache_backend, self.cache)
        self._indexed: dict[str, EncoderSpec] | None = {} if cache_backend is FaissCache else None
        """The specs whose FAISS index `close` writes, by namespace; None without `FaissCache`."""
        if self._uncached is not None:
            self._pass_through(self._uncached)
        if classification.calls_service(self._model) and self.cache.self_check and not self.cache.only_cached:
            logger.info(
                "%s calls a service that may charge for it. Before vectors that others pushed are served, the "
                "self-check sends %d items or more for each task, role, subset and split; max_self_check= bounds a "
                "call, self_check=0 sends none.",
                type(self._model).__name__,
                self.cache.self_check,
            )
        if classification.searches(self._model):
            # mteb looks these two up by name, and searches with them rather than with `encode`.
            self.index, self.search = self._model.index, self._model.search

    def __getstate__(self) -> dict[str, Any]:
        # The cache opens itself again. A copy has recorded and reported nothing yet.
        return {**vars(self), "_recorded": set(), "_reported_items": 0}

    def __repr__(self) -> str:
        return f"CachedEmbeddingWrapper({type(self._model).__name__}, {self.cache!r})"

    def __rich__(self) -> Group:
        return together(facts("CachedEmbeddingWrapper", {"model": type(self._model).__name__}), self.cache)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def mteb_model_meta(self) -> Any:
        """The wrapped model's metadata, with the given name and revision, by which mteb files its results.

        Metadata that is set here, as mteb's `CompressionWrapper` does, is not set on the model.
        """
        meta = self._model.mteb_model_meta if self._meta is None else self._meta
        given = {"name": self._model_id, "revision": self._revision}
        update = {name: value for name, value in given.items() if value is not None}
        return meta.model_copy(update=update) if update and self._meta is None else meta

    @mteb_model_meta.setter
    def mteb_model_meta(self, meta: Any) -> None:
        self._meta = meta

    @property
    def stats(self) -> Stats:
        """Statistics of the cache."""
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
    ) -> Any:
        """Return the vectors of a loader's rows; only rows that are not cached reach the encoder.

        Args:
            inputs: A `DataLoader` over n rows that mteb prepared.
            task_metadata: The task's metadata.
            hf_split: The split.
            hf_subset: The subset.
            prompt_type: Query, document or None.
            **kwargs: Passed on to the encoder.

        Returns:
            (n, d), of the encoder's dtype; whatever the encoder returns if it is passed through.
        """
        if self._uncached is None and not hasattr(inputs, "dataset"):
            raise InvalidItem(
                f"inputs is a {type(inputs).__name__}, not the DataLoader that mteb passes. For plain texts use "
                "EmbeddingCache.encode, or pass create_dataloader(...) of mteb."
            )
        columns = () if self._uncached is not None else tuple(dataset_adapter.column_names(inputs.dataset))
        context = TaskContext(task_metadata, prompt_type, hf_subset, hf_split, columns)
        if self._uncached is None:
            try:
                return self._encode_cached(inputs, context, kwargs)
            except UnsupportedEncoderOutput as err:
                self._pass_through(str(err))
        return self._model.encode(inputs, **context.encode_arguments(), **kwargs)

    def _encode_cached(self, inputs: Any, context: TaskContext, kwargs: dict[str, Any]) -> NDArray[Any]:
        dataset = inputs.dataset
        derivation = derivation_of(self._model, kwargs, context.columns, by_call=self._ranges is None)
        identity = identity_of(self._model, self._model_id, self._revision)
        stored = derivation.stored_kwargs(kwargs)
        spec = spec_of_stored(self._model, identity, context, stored, is_whole=derivation.is_sized)
        self._shows_progress = kwargs.get("show_progress_bar") is not False
        progress = self.cache.progress if self._shows_progress else False
        advance = progress_bar_if_slow("look up", len(dataset), progress)
        batch = dataset_adapter.batch_of_dataset(dataset, spec.fields, advance)
        ranges = None
        if self._ranges is not None and derivation.is_calibrated and batch.size:
            directory = self.cache.mirror.directory
            self._ranges.check(directory, spec, batch.size)
            ranges = partial(self._ranges.of, directory, spec, normalized=derivation.normalize)
        arguments = {**context.encode_arguments(), **derivation.encoder_kwargs(kwargs)}

        def encode(positions: NDArray[np.int64]) -> NDArray[Any]:
            vectors = as_array(self._model.encode(dataset_adapter.rows_of_loader(inputs, positions), **arguments))
            if vectors.ndim > 2:
                # mteb's multi-vector models pad to the longest item of a call, so a vector depends on the others.
                raise UnsupportedEncoderOutput(
                    f"The encoder returned vectors of shape {vectors.shape[1:]} for each item."
                )
            return vectors

        task = str(context.task_metadata.name)
        if self._backends is not None:
            vectors = self._backends.encode_items(EncodeRequest(task, spec, batch, dataset, progress), encode)
        else:
            appearance = partial(compat.appearance, self._model)
            vectors = self.cache.encode_items(batch, spec, encode, progress=progress, appearance=appearance)
            if batch.size:
                self._record(context, spec, batch, dataset)
                if self._indexed is not None:
                    check_float32(spec, vectors.dtype, vectors.shape[1:])
                    self._indexed[spec.namespace] = spec
        return derivation.answer(vectors, ranges)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the wrapped model's similarity of all pairs."""
        return self._model.similarity(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the wrapped model's similarity of corresponding pairs."""
        return self._model.similarity_pairwise(embeddings1, embeddings2)

    def close(self) -> None:
        """Push pending rows, if pushing is automatic, close the backends, and report what the cache did.

        The report is logged as INFO, and written to stderr where progress bars are shown.
        """
        if self.cache.closed:
            return
        progress = self.cache.progress
        if not self._shows_progress:
            self.cache.progress = False
        try:
            try:
                if self._backends is not None:
                    self._backends.close()
                for spec in (self._indexed or {}).values():
                    FaissCache(self.cache.mirror.directory / "faiss", spec=spec, cache=self.cache).save()
            finally:
                self.cache.close()
            self._report()
        finally:
            self.cache.progress = progress

    def _pass_through(self, reason: str) -> None:
        """Pass everything to the model from now on.

        Raises:
            ConfigurationError: If the cache may not encode.
        """
        name = type(self._model).__name__
        if self.cache.only_cached:
            raise ConfigurationError(f"{name} cannot be cached: {reason}. Evaluate it without only_cached=True.")
        self._uncached = reason
        warnings.warn(
            f"{name} is evaluated without the cache: {reason.rstrip('.')}. Its answers are passed on as they are.",
            DataWarning,
            stacklevel=3,
        )

    def _report(self) -> None:
        items = self.stats.hits + self.stats.misses
        if items == self._reported_items:
            return  # nothing was requested since
        self._reported_items = items
        lines = self.stats.summary().splitlines()
        for line in lines:
            logger.info("%s", line)
        if is_shown(self.cache.progress) and sys.stderr is not None:
            sys.stderr.write("".join(f"cas_cache: {line}\n" for line in lines))
            sys.stderr.flush()

    def _record(self, context: TaskContext, spec: EncoderSpec, batch: Batch, dataset: Any) -> None:
        """Record the batch in the task's view, with the keys of the texts alone, which `TextVectorMap` looks up."""
        view = View(
            task=str(context.task_metadata.name),
            namespace=spec.namespace,
            model=spec.model,
            revision=spec.revision,
            role=spec.role,
            subset=str(context.hf_subset),
            split=str(context.hf_split),
        )
        if batch.digest is not None and (view, batch.digest) in self._recorded:
            return
        text_keys: NDArray[np.uint8] | None = batch.keys
        if spec.fields != ("text",):
            has_text = "text" in context.columns
            text_keys = dataset_adapter.batch_of_dataset(dataset, ("text",)).keys if has_text else None
        try:
            self.cache.mirror.views.record(view, batch.keys, text_keys, dataset_adapter.ids_of_dataset(dataset))
        except MirrorWriteError as err:
            if not (isinstance(err.__cause__, OSError) and err.__cause__.errno in READ_ONLY):
                raise
            # The vectors are right; `TextVectorMap` and `export` do not learn what the task requested.
            warnings.warn(f"The rows that {view.task} requested are not recorded: {err}", DataWarning, stacklevel=4)
        if batch.digest is not None:
            self._recorded.add((view, batch.digest))
