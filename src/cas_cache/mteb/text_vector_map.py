"""`TextVectorMap`: mteb 1.x's map from texts to vectors, over the vectors of one task in a mirror.

The methods and attributes are those of the class in mteb 1.x. It reads the views of a mirror, so it needs no second
copy of a task's vectors; the dtype is the encoder's; and rows are verified before they are returned. It needs neither
mteb nor torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from cas_cache.errors import ConfigurationError, InvalidEncoderOutput, MirrorError, ShapeMismatch
from cas_cache.format.rows import as_array, finite_rows, storable
from cas_cache.identity import EncoderSpec, canonical_json, first_of_each, keys_of_texts
from cas_cache.mirror import Mirror, Namespace, View, keys_in, views_in
from cas_cache.mirror.index import ABSENT

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_NAMED = 5
"""Maximum number of models that an error names; more would bury the advice."""


class TextVectorMap:
    """The vectors of one task's texts.

    Args:
        directory: ``<mirror directory>/<task name>``.
        initial_vectors: Ignored; mteb 1.x reserved space for this number.
        role: ``"query"`` or ``"document"``, to load only this role; None joins the task's roles.
        model: The model, if several models are in the folder: its name, or ``name@revision``.
        spec: The exact encoder: if one model was run with several settings, and for `add` in an empty folder.
        namespace: The same by id, or by a prefix of an id that selects one namespace of the folder: after a prompt was
            changed, the folder has a namespace for each prompt. `cas-cache info` shows them.

    Attributes:
        hash_to_index: For each text, hex SHA-256 of its UTF-8 bytes -> row of `vectors`.
        vector_dim: Length of a vector; None before the first.
    """

    def __init__(
        self,
        directory: str | Path,
        initial_vectors: int = 100_000,
        *,
        role: str | None = None,
        model: str | None = None,
        spec: EncoderSpec | None = None,
        namespace: str | None = None,
    ) -> None:
        if spec is not None and namespace is not None:
            raise ConfigurationError("Both spec= and namespace= select an encoder. Pass one of them.")
        self.directory = Path(directory).expanduser().absolute()
        self.initial_vectors = initial_vectors
        self._role = role
        self._model = model
        self._spec = spec
        self._namespace = namespace
        self._mirror = Mirror(self.directory.parent, create=spec is not None)
        self._added: dict[str, NDArray[Any]] = {}
        self._parts: list[tuple[View, Namespace, NDArray[np.int64]]] = []
        self._ambiguous: dict[str, list[int]] = {}
        self._vectors: NDArray[Any] | None = None
        self.hash_to_index: dict[str, int] = {}
        self.vector_dim: int | None = None
        self.load()

    def __getstate__(self) -> dict[str, Any]:
        # A copy reads the task from the mirror again. Vectors that are added but not saved are in both.
        return {**vars(self), "_parts": [], "_vectors": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.load()

    def __repr__(self) -> str:
        return f"TextVectorMap({str(self.directory)!r}, {len(self.hash_to_index)} texts)"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __contains__(self, text: str) -> bool:
        return text in self._added or _hash(text) in self.hash_to_index

    @property
    def vectors(self) -> NDArray[Any] | None:
        """(n, d): a row for each distinct text of each role, in the order of the requests; None before the first."""
        if self._vectors is None and (self._parts or self._added):
            stored = [ns.take(rows) for _, ns, rows in self._parts]
            added = [np.stack(list(self._added.values()))] if self._added else []
            self._vectors = np.concatenate([rows for rows in (*stored, *added) if len(rows)] or stored)
        return self._vectors

    def load(self, name: str | None = None) -> None:
        """Read the vectors that the mirror holds for this task now.

        Args:
            name: The task's name, as mteb 1.x passed it; None takes the folder's.

        Raises:
            ConfigurationError: If `name` is another task's, or several models are in the folder and none was named.
            MirrorError: If the mirror has no such task, model or role.
        """
        if name is not None and self._mirror.views.folder(name) != self.directory:
            raise ConfigurationError(
                f"{self.directory} is not the folder of {name}. Open {self.directory.parent / name}."
            )
        views = self._chosen(views_in(self.directory))
        self._parts, self._vectors = [], None
        self.hash_to_index, self._ambiguous = {}, {}
        start = 0
        for namespace, group in _by_namespace(views).items():
            ns = self._mirror.get(namespace)
            if ns is None:
                raise MirrorError(
                    f"The vectors of {self.directory.name} ({group[0].model}) are no longer in this mirror. Pull, or "
                    "evaluate again."
                )
            rows, texts = self._rows(ns, group)
            for offset, digest in enumerate(texts):
                if digest in self.hash_to_index:
                    self._ambiguous.setdefault(digest, [self.hash_to_index[digest]]).append(start + offset)
                self.hash_to_index.setdefault(digest, start + offset)
            self._parts.append((group[0], ns, rows))
            start += len(rows)
        for offset, text in enumerate(self._added):
            self.hash_to_index.setdefault(_hash(text), start + offset)
        if self._parts:
            self.vector_dim = self._parts[0][1].shape[0] if self._parts[0][1].shape else None

    def get_vector(self, text: str) -> NDArray[Any] | None:
        """Return a text's vector, (d,), or None.

        Raises:
            ConfigurationError: If the text has several different vectors, for example in two roles.
        """
        if text in self._added:
            return self._added[text]
        digest = _hash(text)
        row = self.hash_to_index.get(digest)
        vectors = self.vectors
        if row is None or vectors is None:
            return None
        rows = self._ambiguous.get(digest, [row])
        if (vectors[rows] != vectors[row]).any():
            places = sorted({f"{view.role}, {view.subset}, {view.split}" for view, _, _ in self._parts})
            raise ConfigurationError(
                f"This text has {len(rows)} different vectors, among these roles, subsets and splits: {places}. Pass "
                f"a role, TextVectorMap(directory, role='query'), or take them from .vectors[{rows}]."
            )
        vector: NDArray[Any] = vectors[row]
        return vector

    def add(self, text: str, vector: Any) -> None:
        """Add a text's vector. `save` or `close` stores it; a text that the map holds already keeps its vector.

        Raises:
            ConfigurationError: If the folder does not determine the encoder of this vector.
            ShapeMismatch: If its dimension or dtype is not that of the others. The map is unchanged.
            InvalidEncoderOutput: If it is not a single vector of finite numbers.
        """
        _, ns = self._target()
        row = self._checked(vector, ns)
        if text not in self:
            self.hash_to_index[_hash(text)] = sum(len(rows) for _, _, rows in self._parts) + len(self._added)
            self._added[text] = row
            self._vectors = None
            self.vector_dim = len(row)

    def _checked(self, vector: Any, ns: Namespace) -> NDArray[Any]:
        """Return a vector as it will be stored beside the others."""
        array = as_array(vector)
        if array.ndim != 1:
            raise InvalidEncoderOutput(f"add() takes one vector, (d,), and was given an array of shape {array.shape}.")
        row: NDArray[Any] = storable(array[np.newaxis], 1)[0]
        if not finite_rows(row[np.newaxis]).all():
            raise InvalidEncoderOutput(
                "The vector holds NaN or an infinity, which is never stored. Leave this text out."
            )
        first = next(iter(self._added.values()), None)
        dtype, shape = (ns.dtype, ns.shape) if first is None else (first.dtype, first.shape)
        if dtype is not None and (row.dtype, row.shape) != (dtype, shape):
            raise ShapeMismatch(
                f"{self.directory.name} has {dtype} vectors of shape {shape}; this one is {row.dtype} of shape "
                f"{row.shape}. It was not added. Convert it, or pass another spec= for vectors of another encoder."
            )
        return row

    def save(self) -> None:
        """Commit the added vectors to the mirror."""
        if not self._added:
            return
        view, ns = self._target()
        keys = keys_of_texts(list(self._added))
        ns.append(keys, np.stack(list(self._added.values())))
        self._mirror.views.record(view, keys, keys)
        self._added = {}
        self.load()

    def close(self) -> None:
        """Save, and close the mirror. A second call does nothing."""
        self.save()
        self._vectors = None
        self._mirror.close()

    def _rows(self, ns: Namespace, views: list[View]) -> tuple[NDArray[np.int64], list[str]]:
        """Return rows and text hashes of views of one namespace: each distinct row once, by first appearance."""
        pairs = [keys_in(self.directory, view) for view in views]
        keys = np.concatenate([keys for keys, _ in pairs])
        texts = np.concatenate([keys if texts is None else texts for keys, texts in pairs])
        distinct, _ = first_of_each(keys)
        rows = ns.find(keys[distinct])
        # NaN vectors are never stored, and rows may have been evicted: such texts have no row.
        is_stored = rows != ABSENT
        return rows[is_stored], [row.tobytes().hex() for row in texts[distinct[is_stored]]]

    def _chosen(self, views: list[View]) -> list[View]:
        """Return the views of the requested namespace, or of the requested model and role."""
        if self._spec is not None:
            return [view for view in views if view.namespace == self._spec.namespace]
        if self._namespace is not None:
            return self._in_namespace(self._namespace, views)
        task = views[0].task if views else self.directory.name
        chosen = self._mirror.views.choose(task, role=self._role, model=self._model)
        models = sorted({f"{view.model}@{view.revision}" for view in chosen})
        if len(models) > 1:
            raise ConfigurationError(
                f"{task} has vectors of several models: {', '.join(models[:MAX_NAMED])}. Name one: "
                "TextVectorMap(directory, model='name@revision')."
            )
        self._check_settings(chosen)
        return chosen

    def _in_namespace(self, wanted: str, views: list[View]) -> list[View]:
        """Return the views of the one namespace whose id begins with `wanted`."""
        matches = sorted({view.namespace for view in views if view.namespace.startswith(wanted)})
        if len(matches) == 1:
            return [view for view in views if view.namespace == matches[0]]
        problem = f"{len(matches)} namespaces begin with" if matches else "no namespace begins with"
        names = self._described(matches or sorted({view.namespace for view in views}))
        raise ConfigurationError(f"In {self.directory.name} {problem} {wanted!r}. Name one of: {names}.")

    def _check_settings(self, views: list[View]) -> None:
        """Refuse a role with several namespaces, of one model with several settings: none of them is the right one."""
        for role in {view.role for view in views}:
            namespaces = sorted({view.namespace for view in views if view.role == role})
            settings = {_settings(ns.spec) for name in namespaces if (ns := self._mirror.get(name)) is not None}
            if len(settings) > 1:
                raise ConfigurationError(
                    f"{self.directory.name} has role {role} in several namespaces of one model: "
                    f"{self._described(namespaces)}. They differ in prompt or parameters (`cas-cache info` shows "
                    "them). Pass namespace= or spec=."
                )

    def _described(self, namespaces: list[str]) -> str:
        """Return namespaces with their prompts, for a message."""
        shown = []
        for name in namespaces[:MAX_NAMED]:
            ns = self._mirror.get(name)
            shown.append(name if ns is None else f"{name} (role {ns.spec.role}, prompt {ns.spec.prompt!r})")
        more = len(namespaces) - len(shown)
        return ", ".join(shown) + (f" and {more} more" if more > 0 else "")

    def _target(self) -> tuple[View, Namespace]:
        """Return the view and the namespace of an added vector."""
        if self._spec is not None:
            view = View(
                task=self.directory.name,
                namespace=self._spec.namespace,
                model=self._spec.model,
                revision=self._spec.revision,
                role=self._spec.role,
                subset="default",
                split="default",
            )
            return view, self._mirror.namespace(self._spec)
        namespaces = {ns.spec.namespace for _, ns, _ in self._parts}
        if len(namespaces) != 1:
            raise ConfigurationError(
                "The folder does not determine the encoder of this vector. Pass role='query' or role='document', or "
                "spec=EncoderSpec(...) if the folder is empty."
            )
        # Opened again, because rows may have been evicted or moved since.
        return self._parts[0][0], self._mirror.namespace(self._parts[0][1].spec)


def _by_namespace(views: list[View]) -> dict[str, list[View]]:
    groups: dict[str, list[View]] = {}
    for view in views:
        groups.setdefault(view.namespace, []).append(view)
    return groups


def _settings(spec: EncoderSpec) -> bytes:
    """Return what all specs of a role share in one evaluation; a subset or split may have its own scope and fields."""
    document = spec.document()
    return canonical_json({name: document[name] for name in document if name not in ("scope", "fields")})


def _hash(text: str) -> str:
    return keys_of_texts([text]).tobytes().hex()
