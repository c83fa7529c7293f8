"""The marker of a mirror: that the directory is a mirror, and which repository it belongs to.

``cas-cache-mirror.json`` holds format and version, the id and URL of the repository, and the public keys that signed
all packs pulled since the mirror was bound. A mirror belongs to at most one repository: a row is marked as pushed once,
so a second repository would never get it.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cas_cache.errors import (
    DamagedMirror,
    MirrorError,
    MirrorReadError,
    MirrorWriteError,
    NotAMirror,
    RepositoryMismatch,
    UnsupportedFormat,
    UntrustedMirror,
    as_cause,
)
from cas_cache.files.disk import advice, lock_of, make_folder, read_plain, reading, write_atomically
from cas_cache.files.file_system import missing_ability
from cas_cache.identity import parsed_json, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MARKER = "cas-cache-mirror.json"
VERSION = 1
LOCK_FILE = ".lock"
_NEW_MARKER = {"format": "cas-cache-mirror", "version": VERSION, "repository": None, "url": None}

PRIVATE = 0o700
"""Permissions of a new mirror directory. Only the owner may read it, because vectors reveal information about texts."""


class Marker:
    """The marker of one mirror.

    Args:
        directory: Directory of the mirror.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / MARKER

    def __repr__(self) -> str:
        return f"Marker({str(self._path)!r})"

    @property
    def exists(self) -> bool:
        """True if the directory has a marker, or a link in its place.

        Raises:
            MirrorReadError: If the system refuses to look.
        """
        with reading(self._path):
            return self._path.exists() or self._path.is_symlink()

    @property
    def repository(self) -> str | None:
        """The id of the repository that the mirror belongs to; None before it is bound to one."""
        repository: str | None = self.read().get("repository")
        return repository

    @property
    def url(self) -> str | None:
        """The URL of that repository when the mirror was bound to it, without credentials; None before that."""
        url: str | None = self.read().get("url")
        return url

    @property
    def trusted(self) -> frozenset[str] | None:
        """The public keys that signed all packs pulled since the mirror was bound; None if packs need no signature."""
        return _trusted_in(self.read())

    def check_trust(self, trusted: frozenset[str] | None) -> None:
        """Raise an error if rows may be untrusted; see `Mirror.check_trust`."""
        if trusted is None:
            return
        marker = self.read()
        if marker.get("repository") is not None:
            _check_filled(self._directory, _trusted_in(marker), trusted)

    def bind(self, repository: str, url: str, trusted: frozenset[str] | None = None) -> None:
        """Bind the mirror to a repository; see `Mirror.bind`."""
        with self._locked():
            marker = self.read()
            known = marker.get("repository")
            if known == repository:
                _check_filled(self._directory, _trusted_in(marker), trusted)
            elif known is not None:
                raise RepositoryMismatch(
                    f"The mirror {self._directory} belongs to the repository {known[:8]} that was at "
                    f"{marker.get('url')}; {url} holds the repository {repository[:8]}. A mirror serves one "
                    "repository: name the right remote, or use another directory. If the old repository is gone for "
                    "good, push(rebind=True) (`cas-cache push --rebind`) sends every row to the new one."
                )
            keys = None if trusted is None else sorted(trusted)
            if (known, marker.get("trusted")) != (repository, keys):
                met_at = marker.get("url") if known == repository else url
                self._write({**marker, "repository": repository, "url": met_at, "trusted": keys})

    def unbind(self) -> None:
        """Detach the mirror from its repository.

        Raises:
            MirrorWriteError: If the disk is full or a write fails; the mirror then still belongs to its repository.
        """
        with self._locked():
            self._write({**self.read(), "repository": None, "url": None, "trusted": None})

    def restore(self) -> None:
        """Write the marker of a new mirror again."""
        self._write(_NEW_MARKER)

    def create(self) -> None:
        """Make the directory a mirror, if nothing else is in it.

        Raises:
            NotAMirror: If the directory holds something else.
            MirrorWriteError: If the file system refuses, or lacks an ability that a mirror needs.
        """
        self._check_free()
        try:
            make_folder(self._directory, PRIVATE)
            missing = missing_ability(self._directory, in_place=True)
            if missing:
                raise MirrorWriteError(
                    f"A mirror cannot be made at {self._directory}: its file system {missing}. Name a directory on a "
                    "local disk."
                )
            write_atomically(self._path, json.dumps(_NEW_MARKER).encode(), create_only=True)
        except MirrorError:
            raise
        except OSError as err:
            raise MirrorWriteError(
                f"A mirror could not be made at {self._directory} ({err}). Name a directory that you may write to."
            ) from err

    def refuse(self) -> None:
        """Raise an error that says why the directory is not a mirror, and what it is.

        Raises:
            NotAMirror: Always.
        """
        self._check_free()
        raise NotAMirror(
            f"There is no cas_cache mirror at {self._directory}. Check the path. An EmbeddingCache makes one, and so "
            "does `cas-cache pull`."
        )

    def _check_free(self) -> None:
        """Raise `NotAMirror` if the directory holds something other than a mirror."""
        directory = self._directory
        if directory.exists() and not directory.is_dir():
            raise NotAMirror(f"{directory} is a file. Name a directory for the cache.")
        occupied = directory.exists() and any(not p.name.startswith(".") for p in directory.iterdir())
        # Another process may be creating the mirror. It writes the marker first, so an existing marker means that it
        # succeeded.
        if not occupied or self._path.exists():
            return
        if (directory / "cas-cache.json").exists():
            what = "It is a repository: name it as the remote, and a directory of its own for the mirror."
        elif (directory.parent / MARKER).exists():
            what = f"It is a folder in one: the mirror is {directory.parent}."
        else:
            what = "It is not empty, either: for a new mirror name a new or empty directory."
        raise NotAMirror(f"{directory} holds no cas_cache mirror. {what}")

    def read(self) -> dict[str, Any]:
        """Return the content of the marker.

        Raises:
            NotAMirror: If it is another program's file.
            UnsupportedFormat: If a newer version of cas_cache created the mirror.
            DamagedMirror: If it is damaged.
            MirrorReadError: If the system refuses the read.
        """
        path = self._path
        try:
            marker = parsed_json(read_plain(path))
            known = marker["format"] == "cas-cache-mirror"
            version = marker["version"]
            if known and version == VERSION:
                for name in ("repository", "url"):
                    if marker.get(name) is not None and not isinstance(marker[name], str):
                        msg = f"{name} is {quoted(marker[name])}"
                        raise TypeError(msg)
                keys = marker.get("trusted")
                if keys is not None and not (isinstance(keys, list) and all(isinstance(key, str) for key in keys)):
                    msg = f"trusted is {quoted(keys)}"
                    raise TypeError(msg)
        except MirrorReadError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise DamagedMirror(
                f"{path} is damaged ({err!r}). Use another directory, and keep this one: rows that were not pushed may "
                "be nowhere else. Restored from a copy, or from the marker of a mirror of the same repository, it can "
                "be opened again."
            ) from err
        if not known:
            raise NotAMirror(f"{path} is not a mirror's marker. Name another directory.")
        if version != VERSION:
            raise UnsupportedFormat(
                f"{path} has version {quoted(version)}; this cas_cache reads version {VERSION}. Update cas_cache."
            )
        return dict(marker)

    def _write(self, marker: dict[str, Any]) -> None:
        write_atomically(self._path, json.dumps(marker).encode())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock that a writer of the marker needs."""
        try:
            with lock_of(self._directory / LOCK_FILE):
                yield
        except MirrorError:
            raise
        except OSError as err:
            raise MirrorWriteError(
                f"{self._directory} cannot be written ({err}). {advice(err, 'Make it writable')}, or use another "
                "directory."
            ) from as_cause(err)


def _trusted_in(marker: dict[str, Any]) -> frozenset[str] | None:
    keys: list[str] | None = marker.get("trusted")
    return None if keys is None else frozenset(keys)


def _check_filled(directory: Path, filled: frozenset[str] | None, trusted: frozenset[str] | None) -> None:
    """Raise an error rather than serve or mix rows of packs that were pulled under another trust setting."""
    if trusted is None and filled is not None:
        raise UntrustedMirror(
            f'The mirror {directory} holds only rows of packs that trusted keys signed, and trust is "any" now: other '
            'rows would be mixed in. Set trust to "signed-by", or use another directory.'
        )
    if trusted is None or (filled is not None and trusted.issuperset(filled)):
        return
    if filled is None:
        raise UntrustedMirror(
            f"The mirror {directory} was filled with packs of anybody, so what it would answer is not known to be "
            'signed. Use a new directory; the pending rows of this one can be pushed with Signing(trust="any") and a '
            "signing_key."
        )
    raise UntrustedMirror(
        f"The mirror {directory} has rows of packs signed by {', '.join(sorted(filled - trusted))}, trusted no longer. "
        "Use a new directory; the pending rows of this one can be pushed with the settings that it was made with."
    )
