"""`backend`: binds `MirrorCache` and `FaissCache` to a model, for mteb's own `CachedEmbeddingWrapper`.

That wrapper makes a backend from the path of a folder and nothing else::

    <cache_path>/<task>[/experiments/<name>][/query|document]

So the model comes from `backend`; task, settings and role come from the path, and are in the spec's scope. Rows that
the wrapper prepares twice it prepares twice with any backend: its namespaces say so (``"via"``), and are never those of
`cas_cache.mteb.CachedEmbeddingWrapper`.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cas_cache.cache import EmbeddingCache
from cas_cache.errors import ConfigurationError, IdentityError
from cas_cache.identity import EncoderSpec
from cas_cache.mteb import classification, compat
from cas_cache.mteb.arguments import plain
from cas_cache.mteb.backends import FaissCache, MirrorCache, require_faiss
from cas_cache.mteb.specs import (
    CONTENT_FIELDS,
    check_describable,
    check_uncalibrated,
    common_params,
    experiment_params,
    identity_of,
    media_settings,
)
from cas_cache.reopening import check_portable

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from cas_cache.mteb.specs import ModelIdentity
    from cas_cache.stats import Stats

VIA = "mteb.CachedEmbeddingWrapper"
"""The wrapper that encoded the vectors: mteb's, which prepares rows a second time."""

ROLES = ("query", "document")
EXPERIMENTS = "experiments"
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


def backend(
    model: Any,
    remote: str | Path | None = None,
    *,
    cls: type[MirrorCache] = MirrorCache,
    model_id: str | None = None,
    revision: str | None = None,
    encode_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> BackendFactory:
    """Return a ``cache_backend`` for mteb's own `CachedEmbeddingWrapper`.

    The mirror is in that wrapper's ``cache_path``. What mteb's wrapper gets wrong with any backend, it gets wrong with
    this one: `cas_cache.mteb.CachedEmbeddingWrapper` does not.

    Args:
        model: The encoder that the wrapper is given, too.
        remote: URL of the shared repository.
        cls: `MirrorCache` or `FaissCache`.
        model_id: The model's name, if its metadata has none.
        revision: The revision of its weights, if its metadata does not pin them: see `weights_fingerprint`.
        encode_kwargs: The ``encode_kwargs`` of `mteb.evaluate`. A backend cannot see them, and vectors made with other
            arguments must not be shared.
        **options: As for `EmbeddingCache`.

    Raises:
        UnpinnedModel: If name and revision do not pin the model's weights.
        ConfigurationError: If `cls` is neither of these.
        IdentityError: If the model's vectors are not functions of an item, or an encode argument is not plain JSON.
        TypeError: If the model is not an encoder.
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
            f"cls={cls!r} is neither MirrorCache nor FaissCache. Pass other backends to mteb's wrapper as they are."
        )
    if issubclass(cls, FaissCache):
        require_faiss()
    encoder = compat.as_encoder(model)
    reason = classification.reason_not_to_cache(encoder)
    if reason is not None:
        raise IdentityError(f"{type(encoder).__name__} cannot be cached: {reason}. Evaluate it as it is.")
    identity = identity_of(encoder, model_id, revision)
    check_describable(encoder, identity)
    return BackendFactory(encoder, identity, encode_kwargs or {}, cls, {"remote": remote, **options})


class BackendFactory:
    """Makes the backends of one model when mteb's wrapper calls it with a folder.

    All folders of one ``cache_path`` store their vectors in one mirror there.
    """

    def __init__(
        self,
        model: Any,
        identity: ModelIdentity,
        encode_kwargs: Mapping[str, Any],
        cls: type[MirrorCache],
        options: Mapping[str, Any],
    ) -> None:
        self._model = model
        self._identity = identity
        self._encode_kwargs = {
            name: value for name, value in encode_kwargs.items() if name != "precision"
        }  # in the path
        self._params()  # refuses what cannot be described before anything is encoded
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
        return f"BackendFactory({type(self._model).__name__}, cls={self._class.__name__})"

    def __call__(self, directory: str | Path) -> MirrorCache:
        """Return the backend of a folder ``<cache_path>/<task>[/experiments/<name>][/query|document]``.

        Raises:
            ConfigurationError: If the path is not such a folder of this model.
            IdentityError: If int8 or uint8 are requested, which depend on the texts that are encoded together.
            NotAMirror: If ``cache_path`` contains something else, such as the files of mteb's own backends.
        """
        folder = parse_folder(Path(directory), self._experiments)
        spec = self.spec(folder)
        root = folder.cache_path.expanduser().absolute()
        if root not in self._caches:
            self._caches[root] = EmbeddingCache(root, **self._options)
            self._stats.append(self._caches[root].stats)
        made = self._class(directory, spec=spec, cache=self._caches[root])
        made.on_close = partial(self._release, root)
        self._users[root] += 1
        return made

    @property
    def stats(self) -> list[Stats]:
        """The statistics of the cache of each ``cache_path``."""
        return list(self._stats)

    def spec(self, folder: CacheFolder) -> EncoderSpec:
        """Return the identity of a folder's vectors; it is never that of our own wrapper's vectors."""
        precision = self._experiments[folder.experiment]
        check_uncalibrated(self._model, precision)
        return EncoderSpec(
            model=self._identity.name,
            revision=self._identity.revision,
            role=folder.role,
            params=self._params(),
            # The name of the experiment is made of the loader's arguments, which are in `params`; it may hold a token.
            scope={"task": folder.task, "precision": precision},
            # Prepared twice, a row's vector depends on its title, too.
            fields=CONTENT_FIELDS,
        )

    def _release(self, root: Path) -> None:
        """Push the pending rows of a cache, and close it with the last of its backends."""
        self._users[root] -= 1
        if self._users[root]:
            self._caches[root].flush()
        else:
            self._caches.pop(root).close()

    def _params(self) -> dict[str, Any]:
        import mteb

        model, user_pinned = self._model, self._identity.user_pinned
        return {
            **common_params(model, self._encode_kwargs, user_pinned=user_pinned),
            **experiment_params(model, is_whole=False, user_pinned=user_pinned),
            **plain(compat.settings_of_any(model, user_pinned=user_pinned), "settings"),
            **media_settings(model),
            "via": VIA,
            "mteb": mteb.__version__,  # decides how rows are prepared, and a task's own prompt
        }


@dataclass(frozen=True, slots=True)
class CacheFolder:
    """A folder of mteb's own wrapper, parsed.

    Attributes:
        cache_path: The directory that the wrapper was given.
        task: The task's name.
        experiment: mteb's name for settings other than the default, or None.
        role: ``"query"``, ``"document"`` or None.
    """

    cache_path: Path
    task: str
    experiment: str | None
    role: str | None


def parse_folder(path: Path, experiments: Container[str | None]) -> CacheFolder:
    """Parse the path of a folder, from its end.

    Args:
        path: The folder.
        experiments: The names of experiments that a model's folders can have; None among them if they can have none.

    Raises:
        ConfigurationError: If it is not such a folder of this model, or `cache_path` was a URL.
    """
    if any(SCHEME.fullmatch(part) for part in path.parts[:1]):
        raise ConfigurationError(
            f"cache_path was a URL, from which mteb's wrapper made the local folder {path.parts[0]!r}. Pass a local "
            "directory as cache_path, and the URL as backend(model, remote=...)."
        )
    place, role = (path.parent, path.name) if path.name in ROLES else (path, None)
    experiment = None
    if place.parent.name == EXPERIMENTS and place.name in experiments:
        place, experiment = place.parent.parent, place.name
    elif None not in experiments:
        raise ConfigurationError(
            f"{path} is not a folder of this model: its experiment_kwargs are not the default, and the path does not "
            "name them. Pass backend() the model that mteb's wrapper is given."
        )
    elif EXPERIMENTS in (place.name, place.parent.name):
        raise ConfigurationError(
            f"{path} names an experiment of other settings than this model's. Pass backend() the model that mteb's "
            f"wrapper is given, and do not pass a cache_path that ends in {EXPERIMENTS!r}."
        )
    if not place.name:
        raise ConfigurationError(f"{path} names no task. Pass <cache_path>/<task>, as mteb's wrapper does.")
    return CacheFolder(place.parent, place.name, experiment, role)
