"""The mirror: one directory of namespaces and views.

::

    <dir>/cas-cache-mirror.json              format, version, and the repository it belongs to
    <dir>/namespaces/<namespace>/spec.json   encoder spec in canonical form
                                 state.json, keys.npy, vectors.npy, digests.npy
    <dir>/<task name>/<view>/                rows that a task requested, in order

A mirror belongs to at most one repository: a row is marked as pushed once, so a second repository would never get it.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

from cas_cache.config.settings import expanded
from cas_cache.display import Displayable
from cas_cache.errors import AlreadyClosed, DamagedMirror, IdentityError, MirrorError, MirrorWriteError, set_aside
from cas_cache.files.disk import check_folder, make_folder, read_plain, reading, write_atomically
from cas_cache.identity import NAMESPACE_ID, EncoderSpec, check_no_credentials
from cas_cache.mirror.index import ABSENT
from cas_cache.mirror.marker import LOCK_FILE, MARKER, Marker
from cas_cache.mirror.namespace import Namespace
from cas_cache.mirror.overview import table_of_mirror
from cas_cache.mirror.views import View, Views, ids_in, keys_in

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Group

_Mirror = TypeVar("_Mirror", bound="Mirror")


class ViewRows(NamedTuple):
    """The rows that a task requested, in its order.

    Attributes:
        view: The view that the rows belong to.
        keys: (n, 32) uint8 keys.
        vectors: (n, *shape) vectors, writable.
        ids: The task's ids of the n rows; None if it gave none.
        missing: Number of requested rows that the mirror does not have: they were evicted, or held NaN or infinity.
    """

    view: View
    keys: NDArray[np.uint8]
    vectors: NDArray[Any]
    ids: list[str | None] | None
    missing: int

    def __repr__(self) -> str:
        shape = f"{self.vectors.dtype}{list(self.vectors.shape)}"
        return f"ViewRows({self.view}, rows={len(self.keys)}, vectors={shape}, missing={self.missing})"


class Mirror(Displayable):
    """A local directory of namespaces and views.

    Args:
        directory: Directory of the mirror; created if it does not exist.
        create: If False, raise an error and create nothing if the directory is not a mirror.

    Raises:
        NotAMirror: If the directory holds something else, or is not a mirror and `create` is False.
        UnsupportedFormat: If a newer version of cas_cache created the mirror.
    """

    def __init__(self, directory: str | Path, *, create: bool = True) -> None:
        self.directory = expanded(directory).absolute()
        self._namespaces: dict[str, Namespace] = {}
        self._closed = False
        self._made: list[Path] = []
        self._marker = Marker(self.directory)
        if not self._marker.exists:
            if not create:
                self._marker.refuse()
            names = [self.directory / LOCK_FILE, self.directory / MARKER]
            made = names if self.directory.exists() else [*names, self.directory]
            with reading(self.directory):
                self._marker.create()
            self._made = made
        self._marker.read()
        self.views = Views(self.directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickle holds the directory only; unpickling opens the mirror again.
        self._check_open()
        return _reopen, (type(self), str(self.directory))

    def _check_open(self) -> None:
        if self._closed:
            raise AlreadyClosed(f"The mirror {self.directory} is closed. Open it again: Mirror(directory).")

    def __repr__(self) -> str:
        return f"Mirror({str(self.directory)!r})"

    def __rich__(self) -> Group:
        return table_of_mirror(self)

    @property
    def repository(self) -> str | None:
        """The id of the repository that this mirror belongs to; None before it is bound to one."""
        return self._marker.repository

    @property
    def repository_url(self) -> str | None:
        """The URL of that repository when the mirror was bound to it, without credentials; None before that."""
        return self._marker.url

    @property
    def trusted(self) -> frozenset[str] | None:
        """The public keys that signed all packs pulled since the mirror was bound; None if packs need no signature."""
        return self._marker.trusted

    def check_trust(self, trusted: frozenset[str] | None) -> None:
        """Raise an error if the mirror may hold rows that others brought without a trusted signature.

        Args:
            trusted: Trusted public keys; None to trust everybody.

        Raises:
            UntrustedMirror: If the mirror may hold rows of packs that these keys did not sign.
        """
        self._marker.check_trust(trusted)

    def rebind(self) -> None:
        """Detach the mirror from its repository. Every row becomes pending again and goes to the next repository.

        Raises:
            MirrorWriteError: If the disk is full or a write fails; the mirror then still belongs to its repository.
        """
        # Rows first: after a crash in between, the mirror is still bound and its rows are pending, which is safe. In
        # the other order, rows that count as pushed would never reach the next repository.
        for namespace in self.iter_namespaces():
            namespace.ledger.forget_packs()
            namespace.remote_keys.forget()
        self._marker.unbind()

    def bind(self, repository: str, url: str, trusted: frozenset[str] | None = None) -> None:
        """Bind the mirror to a repository.

        Args:
            repository: The id of the repository.
            url: The URL of the repository without credentials, to show to people.
            trusted: The public keys that sign the packs to pull; None for any packs. Later calls may add keys but not
                remove any, because a row does not record who signed it.

        Raises:
            RepositoryMismatch: If the mirror belongs to another repository.
            UntrustedMirror: If the mirror was filled under a trust setting that does not allow this one.
        """
        self._marker.bind(repository, url, trusted)

    def namespace(self, spec: EncoderSpec) -> Namespace:
        """Return the namespace of a spec; create it if it does not exist.

        Raises:
            CredentialInSpec: If the spec holds a credential. An existing namespace can still be opened.
            DamagedMirror: If the namespace exists and is damaged.
            MirrorWriteError: If the disk is full or a write fails.
        """
        opened = self.get(spec.namespace)
        if opened is not None:
            return opened
        check_no_credentials(spec)
        folder = self._folder(spec.namespace)
        try:
            # Before spec.json, whose presence tells other processes that the folders are durable.
            make_folder(folder, below=self.directory)
            write_atomically(folder / "spec.json", spec.canonical())
        except OSError as err:
            raise MirrorWriteError(f"Making {folder} failed ({err}). Make room, or use another directory.") from err
        return self._namespaces.setdefault(spec.namespace, Namespace(folder, spec))

    @contextmanager
    def held(self, spec: EncoderSpec) -> Iterator[Namespace]:
        """Keep the namespace of a spec open until the block ends, so that rows do not move. See `namespace`."""
        self._check_open()
        ns = self._namespaces.get(spec.namespace)
        try:
            if ns is not None:
                ns.hold()
        except AlreadyClosed:  # rows have moved since its last use
            ns = None
        if ns is None:
            ns = self.namespace(spec)
            ns.hold()
        try:
            yield ns
        finally:
            ns.release()

    def get(self, namespace: str) -> Namespace | None:
        """Return the namespace with an id, or None if the mirror has no such namespace.

        Raises:
            DamagedMirror: If the spec in its folder has another id, or cannot be read as a spec.
            MirrorReadError: If the system refuses the read.
            AlreadyClosed: If the mirror is closed.
        """
        self._check_open()
        known = self._namespaces.get(namespace)
        if known is not None and not known.reopen():
            self.forget(namespace)
        if namespace not in self._namespaces:
            folder = self._folder(namespace)
            try:
                check_folder(folder.parent, folder)
                document = read_plain(folder / "spec.json")
            except (FileNotFoundError, NotADirectoryError):
                return None
            except IsADirectoryError as err:
                raise DamagedMirror(f"{folder / 'spec.json'} is not a file ({err}). {set_aside(folder)}") from err
            try:
                spec = EncoderSpec.from_canonical(document)
            except IdentityError as err:
                raise DamagedMirror(f"{folder / 'spec.json'} is damaged: {err} {set_aside(folder)}") from err
            if spec.namespace != namespace:
                raise DamagedMirror(
                    f"{folder} holds the spec of namespace {spec.namespace}. Its rows could be another encoder's, so "
                    f"nothing of it was served. Give the folder that name, if no folder has it. If one has: "
                    f"{set_aside(folder)}"
                )
            self._namespaces[namespace] = Namespace(folder, spec)
        return self._namespaces[namespace]

    def ids(self) -> list[str]:
        """Return the ids of all namespaces, in order. Folders with other names are skipped.

        Raises:
            MirrorReadError: If the system refuses the read.
        """
        root = self.directory / "namespaces"
        check_folder(root)
        with reading(root):
            return sorted(p.name for p in root.iterdir() if NAMESPACE_ID.fullmatch(p.name)) if root.is_dir() else []

    def view(
        self,
        task: str,
        *,
        role: str | None = None,
        model: str | None = None,
        subset: str | None = None,
        split: str | None = None,
    ) -> ViewRows:
        """Return the rows that a task requested, in its order, repeats included.

        Args:
            task: The task's name.
            role: ``"query"`` or ``"document"``. Needed if the task has views of both; the same holds for the arguments
                below.
            model: The model's name, or ``name@revision``.
            subset: The task's subset.
            split: The task's split.

        Raises:
            MirrorError: If no view matches, or the mirror does not have its namespace any more.
            ConfigurationError: If several views match; the error lists what distinguishes them.
            DamagedMirror: If a row does not match its digest.
        """
        view = self.views.choose_one(task, role=role, model=model, subset=subset, split=split)
        ns = self.get(view.namespace)
        if ns is None:
            raise MirrorError(
                f"The vectors of {task} ({view.model}) are not in the mirror {self.directory} any more. Pull, or "
                "evaluate again."
            )
        folder = self.views.folder(task)
        keys, _ = keys_in(folder, view)
        ids = ids_in(folder, view)
        with ns.held():
            rows = ns.find(keys)
            present = rows != ABSENT
            vectors = ns.take(rows[present])
        if ids is not None:
            # Another process may have recorded more rows since the keys were read.
            ids = [id_ for id_, is_present in zip(ids[: len(keys)], present, strict=True) if is_present]
        return ViewRows(view, keys[present], vectors, ids, int((~present).sum()))

    def close(self) -> None:
        """Close every namespace and release all locks, maps and descriptors, so that any process can evict.

        Arrays that were returned before stay valid. Any later use of a namespace raises `AlreadyClosed`.
        """
        self._closed = True
        while self._namespaces:
            self._namespaces.popitem()[1].close()

    def remove_if_new_and_empty(self) -> bool:
        """Delete the files that opening this mirror created, unless it holds anything or belongs to a repository.

        Returns:
            True if the mirror was deleted; the object must not be used any more.
        """
        names = {path.name for path in self._made}
        if not self._made or self.repository is not None or any(p.name not in names for p in self.directory.iterdir()):
            return False
        try:
            for path in self._made:
                if path == self.directory:
                    path.rmdir()
                else:
                    path.unlink(missing_ok=True)
        except OSError as err:
            # Another process has written to the directory meanwhile, so it stays. Restore the marker.
            logger.info("kept the mirror %s, which another process uses: %s", self.directory, err)
            self._marker.restore()
            return False
        return True

    def forget(self, namespace: str) -> None:
        """Remove a namespace from the open ones; the next `get` opens it again."""
        self._namespaces.pop(namespace, None)

    def namespaces(self) -> list[Namespace]:
        """Return all namespaces, ordered by id. If there are many, most keep their files closed until they are used.

        Raises:
            DamagedMirror: If a namespace is damaged.
        """
        return list(self.iter_namespaces())

    def iter_namespaces(self) -> Iterator[Namespace]:
        """Yield all namespaces, ordered by id. Each is open when it is yielded, however many there are.

        Raises:
            DamagedMirror: If a namespace is damaged.
        """
        for name in self.ids():
            namespace = self.get(name)
            if namespace is not None:
                yield namespace

    def _folder(self, namespace: str) -> Path:
        if not NAMESPACE_ID.fullmatch(namespace):
            msg = f"{namespace!r} is not a namespace id: 32 lower-case hex digits"
            raise ValueError(msg)
        return self.directory / "namespaces" / namespace


def _reopen(cls: type[_Mirror], directory: str) -> _Mirror:
    return cls(directory, create=False)
