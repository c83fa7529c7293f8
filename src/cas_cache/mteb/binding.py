"""`backend`: binds `MirrorCache` and `FaissCache` to a model, for mteb's own `CachedEmbeddingWrapper`.

That wrapper makes a backend of a folder's path and nothing else. So the model comes from here; task, settings and role
come from the path, and are in the spec's scope. Rows that it prepares twice it prepares twice with any backend: its
namespaces say so (``"via"``), and are never those of `cas_cache.mteb.CachedEmbeddingWrapper`.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cas_cache.cache import EmbeddingCache
from cas_cache.errors import ConfigurationError, IdentityError
from cas_cache.identity import EncoderSpec
from cas_cache.mteb import classification, compat
from cas_cache.mteb.arguments import plain
from cas_cache.mteb.backends import FaissCache, MirrorCache, require_faiss
from cas_cache.mteb.cache_paths import Folder, folder_of
from cas_cache.mteb.specs import (
    CONTENT_FIELDS,
    MEDIA_SETTINGS,
    check_describable,
    common_params,
    experiment_params,
    identity_of,
)
from cas_cache.reopening import check_portable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cas_cache.stats import Stats

VIA = "mteb.CachedEmbeddingWrapper"
"""Whose vectors these are: that wrapper's, which prepares rows a second time."""


def backend(
    model: Any,
    remote: str | Path | None = None,
    *,
    cls: type[MirrorCache] = MirrorCache,
    model_id: str | None = None,
    revision: str | None = None,
    encode_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Backend:
    """Return a ``cache_backend`` for mteb's own `CachedEmbeddingWrapper`.

    The mirror is in that wrapper's ``cache_path``. What mteb's wrapper gets wrong with any backend, it gets wrong with
    this one: `cas_cache.mteb.CachedEmbeddingWrapper` does not.

    Args:
        model: The encoder that the wrapper is given, too.
        remote: URL of the repository that is shared.
        cls: `MirrorCache` or `FaissCache`.
        model_id: The model's name, where its own metadata has none.
        revision: What pins its weights, where its own metadata does not: see `weights_fingerprint`.
        encode_kwargs: What `mteb.evaluate` is given as ``encode_kwargs``. A backend cannot see them, and those that
            change vectors must not share.
        **options: As for `EmbeddingCache`.

    Raises:
        UnpinnedModel: If name and revision do not pin the model's weights.
        ConfigurationError: If `cls` is neither of these.
        IdentityError: If the model's vectors are no functions of an item, or an encode argument is not plain JSON.
        TypeError: If the model is no encoder.
        MissingDependency: If mteb, or faiss with `FaissCache`, is not installed.

    Example:
        >>> from mteb.models.cache_wrappers import CachedEmbeddingWrapper  # doctest: +SKIP
        >>> model = mteb.get_model(name)  # doctest: +SKIP
        >>> shared = backend(model, remote="s3://team/emb")  # doctest: +SKIP
        >>> cached = CachedEmbeddingWrapper(model, "cache", cache_backend=shared)  # doctest: +SKIP
    """
    compat.require_mteb()
    given: object = cls
    if not (isinstance(given, type) and issubclass(given, MirrorCache)):
        raise ConfigurationError(
            f"cls={cls!r} is neither MirrorCache nor FaissCache. Pass others to mteb's wrapper as they are."
        )
    if issubclass(cls, FaissCache):
        require_faiss()
    encoder = compat.as_encoder(model)
    reason = classification.reason_not_to_cache(encoder)
    if reason is not None:
        raise IdentityError(f"{type(encoder).__name__} cannot be cached: {reason}. Evaluate it as it is.")
    check_describable(encoder, model_id, revision)
    return Backend(encoder, (model_id, revision), encode_kwargs or {}, cls, {"remote": remote, **options})


class Backend:
    """Makes the backends of one model: called with a folder, as mteb's wrapper does.

    All folders of one ``cache_path`` have their vectors in one mirror there.
    """

    def __init__(
        self,
        model: Any,
        identity: tuple[str | None, str | None],
        encode_kwargs: Mapping[str, Any],
        cls: type[MirrorCache],
        options: Mapping[str, Any],
    ) -> None:
        self._model = model
        self._identity = identity
        self._encode_kwargs = dict(encode_kwargs)
        self._params()  # what cannot be written down is refused now
        self._experiments = compat.experiments_of(model)
        self._class = cls
        self._options = options
        self._caches: dict[Path, EmbeddingCache] = {}
        self._users = Counter[Path]()
        self._stats: list[Stats] = []

    def __getstate__(self) -> dict[str, Any]:
        remote = self._options.get("remote")
        check_portable(None if remote is None else str(remote), self._options.get("storage_options") or {})
        return {**vars(self), "_caches": {}, "_users": Counter(), "_stats": []}

    def __repr__(self) -> str:
        return f"Backend({type(self._model).__name__}, cls={self._class.__name__})"

    def __call__(self, directory: str | Path) -> MirrorCache:
        """Return the backend of a folder ``<cache_path>/<task>[/experiments/<name>][/query|document]``.

        Raises:
            ConfigurationError: If the path is no such folder of this model.
            IdentityError: If int8 or uint8 are asked for, which depend on the texts that are encoded together.
            NotAMirror: If ``cache_path`` holds something else, such as the files of mteb's own backends.
        """
        folder = folder_of(Path(directory), self._experiments)
        spec = self.spec(folder)
        root = folder.cache_path.expanduser().absolute()
        if root not in self._caches:
            self._caches[root] = EmbeddingCache(root, **self._options)
            self._stats.append(self._caches[root].stats)
        made = self._class(directory, spec=spec, cache=self._caches[root])
        made.on_close = partial(self._release, root)
        self._users[root] += 1
        return made

    def _release(self, root: Path) -> None:
        """Push the pending rows of a cache, and close it with the last of its backends."""
        self._users[root] -= 1
        if self._users[root]:
            self._caches[root].flush()
        else:
            self._caches.pop(root).close()

    @property
    def stats(self) -> list[Stats]:
        """What the cache of each ``cache_path`` did."""
        return list(self._stats)

    def spec(self, folder: Folder) -> EncoderSpec:
        """Return the identity of a folder's vectors; never that of our own wrapper's."""
        precision = self._experiments[folder.experiment]
        if precision in compat.CALIBRATED and hasattr(getattr(self._model, "model", None), "encode"):
            raise IdentityError(
                f"precision={precision!r} of {type(self._model).__name__} depends on the texts that are encoded "
                "together. Evaluate without the cache, or with cas_cache.mteb.CachedEmbeddingWrapper."
            )
        name, pinned = identity_of(self._model, *self._identity)
        return EncoderSpec(
            model=name,
            revision=pinned,
            role=folder.role,
            params=self._params(),
            # The name of the experiment is made of the loader's arguments, which are in `params`; it may hold a token.
            scope={"task": folder.task, "precision": precision},
            # Prepared twice, a row's vector depends on its title, too.
            fields=CONTENT_FIELDS,
        )

    def _params(self) -> dict[str, Any]:
        import mteb

        model, vouched = self._model, None not in self._identity
        kwargs = {
            name: value for name, value in self._encode_kwargs.items() if name != "precision"
        }  # the folder says it
        common = common_params(model, kwargs, vouched=vouched)
        common.update(experiment_params(model, whole=False, vouched=vouched))
        settings = plain(compat.settings_of_any(model, vouched=vouched), "settings")
        media = {name: value for name in MEDIA_SETTINGS if (value := getattr(model, name, None)) is not None}
        # How rows are prepared, and a task's own prompt, are that version's.
        return {**common, **settings, **media, "via": VIA, "mteb": mteb.__version__}
