"""`CachedEmbeddingWrapper`: an mteb encoder that encodes nothing twice.

Scores with it are the scores without it. What mteb's own wrapper gets wrong and this one does not: missing rows are
encoded as mteb prepared them, once each; model, revision, prompt text and encode arguments are part of the key; each
chunk is committed before the next; the dtype is the encoder's on every run.
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
from cas_cache.mteb.backend_factory import Call, answers_of
from cas_cache.mteb.calibration import stored_ranges
from cas_cache.mteb.derived import derivation_of
from cas_cache.mteb.specs import check_describable, spec_of
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
"""What a mirror answers that may be read and not written."""


class CachedEmbeddingWrapper(Displayable):
    """Wrap an encoder so that `mteb.evaluate` takes its vectors from a cache.

    Models whose answers are no dense vectors, one for each item (sparse, multi-vector, contextual, searching ones), are
    passed through: their scores are what they are without the cache, nothing is stored, one `DataWarning` says so.

    Args:
        model: Anything that implements mteb's `EncoderProtocol`, or a `SentenceTransformer`.
        cache_path: Directory of the mirror, or a remote URL; as `EmbeddingCache`'s `location`.
        remote: URL of the repository that is shared, for example ``"s3://team/emb"``.
        model_id: The model's name, where its own metadata has none.
        revision: What pins its weights, where its own metadata does not: see `weights_fingerprint`.
        calibration: Ranges of int8 and uint8, where the encode argument ``precision`` asks for these. ``"call"`` takes
            them from each call, as without a cache. ``"stored"`` takes them once, from the first call of at least 100
            rows, and keeps them in the mirror: vectors are then functions of the item, and calls can be compared. Or
            (2, d), the least and the greatest value of each dimension, to keep.
        cache_backend: What keeps the vectors and answers. None or `MirrorCache`: the mirror. `FaissCache`: the mirror
            keeps them, FAISS answers. Or a class of mteb's `CacheBackendProtocol`, such as mteb's own backends, or
            anything else that makes one of a folder: it keeps them in ``<cache_path>/<task>/<namespace>``, and what it
            answers is proved; nothing can be pushed, and `TextVectorMap` finds nothing.
        **options: As for `EmbeddingCache`: ``storage_options``, ``read_only``, ``offline``, ``only_cached``, ``lazy``,
            ``self_check``, ``push``, ``on_remote_error``, ``chunk_items``, ``progress``, ``trust``, ``trusted_keys``,
            ``signing_key``. The encode argument ``show_progress_bar=False`` turns our bars off, too.

    Raises:
        UnpinnedModel: If name and revision do not pin the model's weights.
        IdentityError: If an argument of the model's loader is an object that cannot be described, and `model_id` and
            `revision` are not given.
        TypeError: If the model is no encoder.
        ConfigurationError: If `calibration` or `cache_backend` is none of these, or a backend of others is given a
            remote.
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
        self._quiet = False
        self._told = 0
        self._uncached = classification.reason_not_to_cache(self._model)
        if self._uncached is None:
            check_describable(self._model, model_id, revision)
        self._ranges = stored_ranges(calibration)
        self.cache = EmbeddingCache(cache_path, remote=remote, **options)
        self._answers = answers_of(cache_backend, self.cache)
        if self._uncached is not None:
            self._pass_on(self._uncached)
        if classification.calls_service(self._model) and self.cache.self_check and not self.cache.only_cached:
            logger.info(
                "%s calls a service that may charge for it. Before vectors that others pushed are served, the "
                "self-check sends %d items or more for each task, role, subset and split; max_self_check= bounds a "
                "call, self_check=0 sends none.",
                type(self._model).__name__,
                self.cache.self_check,
            )
        if classification.searches(self._model):
            # mteb asks for these two by name, and searches with them rather than with `encode`.
            self.index, self.search = self._model.index, self._model.search

    def __getstate__(self) -> dict[str, Any]:
        # The cache opens itself again; what this object has already recorded and reported is not the copy's.
        return {**vars(self), "_recorded": set(), "_told": 0}

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
        """The wrapped model's metadata, with the name and the revision that were given: mteb files its results by them.

        What is set here, as mteb's `CompressionWrapper` does, is not set on the model.
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
    ) -> Any:
        """Return the vectors of a loader's rows; only what is not cached reaches the encoder.

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
        context = {
            "task_metadata": task_metadata,
            "hf_split": hf_split,
            "hf_subset": hf_subset,
            "prompt_type": prompt_type,
        }
        if self._uncached is not None:
            return self._model.encode(inputs, **context, **kwargs)
        if not hasattr(inputs, "dataset"):
            raise InvalidItem(
                f"inputs is a {type(inputs).__name__}, not the DataLoader that mteb passes. For plain texts use "
                "EmbeddingCache.encode, or pass create_dataloader(...) of mteb."
            )
        given = kwargs
        columns = tuple(dataset_adapter.column_names(inputs.dataset))
        derivation = derivation_of(self._model, kwargs, columns, by_call=self._ranges is None)
        kwargs = derivation.encoder_kwargs(kwargs)
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
        progress = False if kwargs.get("show_progress_bar") is False else None
        self._quiet = progress is False
        shown = self.cache.progress if progress is None else progress
        tell = progress_bar_if_slow("look up", len(inputs.dataset), shown)
        batch = dataset_adapter.batch_of_dataset(inputs.dataset, spec.fields, tell)
        ranges = None
        if self._ranges is not None and derivation.calibrated and batch.size:
            directory = self.cache.mirror.directory
            self._ranges.check(directory, spec, batch.size)
            ranges = partial(self._ranges.of, directory, spec, normalized=derivation.normalize)

        def encode(positions: NDArray[np.int64]) -> Any:
            vectors = as_array(
                self._model.encode(dataset_adapter.rows_of_loader(inputs, positions), **context, **kwargs)
            )
            if vectors.ndim > 2:
                # mteb's multi-vector models pad to the longest of a call: no function of an item.
                raise UnsupportedEncoderOutput(
                    f"The encoder returned vectors of shape {vectors.shape[1:]} for each item."
                )
            return vectors

        appearance = partial(compat.appearance, self._model)
        call = Call(batch, spec, str(task_metadata.name), inputs.dataset, progress, appearance)
        try:
            vectors = self._answers.encode_items(call, encode)
        except UnsupportedEncoderOutput as err:
            self._pass_on(str(err))
            return self._model.encode(inputs, **context, **given)
        if batch.size and self._answers.in_mirror:
            self._record(_view(task_metadata, spec, hf_subset, hf_split), batch, inputs.dataset, spec)
        return derivation.answer(vectors, ranges)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the wrapped model's similarity of all pairs."""
        return self._model.similarity(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the wrapped model's similarity of corresponding pairs."""
        return self._model.similarity_pairwise(embeddings1, embeddings2)

    def _pass_on(self, reason: str) -> None:
        """Hand everything to the model from now on.

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

    def close(self) -> None:
        """Push what waits, if pushing is automatic, close the backends, and tell what the cache did.

        That is logged as INFO, and written to stderr where progress bars are shown.
        """
        if self.cache.closed:
            return
        progress = self.cache.progress
        if self._quiet:
            self.cache.progress = False
        try:
            try:
                self._answers.close()
            finally:
                self.cache.close()
            self._tell()
        finally:
            self.cache.progress = progress

    def _tell(self) -> None:
        asked = self.stats.hits + self.stats.misses
        if asked == self._told:
            return  # nothing was asked for since
        self._told = asked
        lines = self.stats.summary().splitlines()
        for line in lines:
            logger.info("%s", line)
        if is_shown(self.cache.progress) and sys.stderr is not None:
            sys.stderr.write("".join(f"cas_cache: {line}\n" for line in lines))
            sys.stderr.flush()

    def _record(self, view: View, batch: Batch, dataset: Any, spec: EncoderSpec) -> None:
        """Note in the view what was asked for, and the keys of the texts alone, by which `TextVectorMap` finds them."""
        if batch.digest is not None and (view, batch.digest) in self._recorded:
            return
        if spec.fields == ("text",):
            text_keys: NDArray[np.uint8] | None = batch.keys
        else:
            has_text = "text" in dataset_adapter.column_names(dataset)
            text_keys = dataset_adapter.batch_of_dataset(dataset, ("text",)).keys if has_text else None
        try:
            self.cache.mirror.views.record(view, batch.keys, text_keys, dataset_adapter.ids_of_dataset(dataset))
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
