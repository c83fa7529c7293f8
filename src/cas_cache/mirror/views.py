"""Views: the ordered rows that one caller requested.

An mteb task requests its queries in one call and its corpus in many. A view records the keys of these calls in order,
one batch at a time. A batch that was recorded before is not recorded again, so a second evaluation changes nothing. A
view holds keys, not vectors; the namespace holds the vectors.

::
<dir>/<task name>/<view id>/view.json    description of the view, and its batches: the commit point
                           /keys.npy     (n, 32) uint8, the rows' keys, growing in place
                           /texts.npy    (n, 32) uint8, the keys of their texts only, if they have texts
                           /ids.jsonl    the task's ids of the rows, if it gave any: a JSON string or null each
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from cas_cache.errors import ConfigurationError, DamagedMirror, MirrorError, MirrorReadError, MirrorWriteError
from cas_cache.files.disk import check_folder, lock_of, make_folder, open_plain, read_plain, reading, write_atomically
from cas_cache.identity import KEY_BYTES, NAMESPACE_ID, canonical_json, parsed_json, quoted
from cas_cache.mirror.column import Column

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

VIEW_FILE = "view.json"
IDS_FILE = "ids.jsonl"
VERSION = 1
_RESERVED = {"", "namespaces", "calibration", "faiss", "cas-cache-mirror.json"}

MAX_NAMED = 5
"""Maximum number of views that an error names; more would bury the advice."""

MAX_NAME_LENGTH = 150
"""Maximum length of a folder name before it is shortened and a hash is added. File systems allow 255 bytes."""


@dataclass(frozen=True, slots=True)
class View:
    """The task, encoder and part of the data that a view belongs to.

    Attributes:
        task: The task's name.
        namespace: The id of the namespace that holds the rows.
        model: The model's name, to show to people.
        revision: The model's revision, to show to people.
        role: ``"query"``, ``"document"`` or None.
        subset: The task's subset.
        split: The task's split.
    """

    task: str
    namespace: str
    model: str
    revision: str
    role: str | None
    subset: str
    split: str

    @property
    def id(self) -> str:
        """Name of the view's folder: a hash of all attributes."""
        return hashlib.sha256(canonical_json(asdict(self))).hexdigest()[:16]

    def matches(self, *, role: str | None, model: str | None, subset: str | None, split: str | None) -> bool:
        """Return True if the view matches; None matches anything, and a model is a name or ``name@revision``."""
        return (
            role in (None, self.role)
            and model in (None, self.model, f"{self.model}@{self.revision}")
            and subset in (None, self.subset)
            and split in (None, self.split)
        )


class Views:
    """The views in a mirror's directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def folder(self, task: str) -> Path:
        """Return the folder of a task's views."""
        return self._directory / folder_name(task)

    def record(
        self,
        view: View,
        keys: NDArray[np.uint8],
        text_keys: NDArray[np.uint8] | None,
        ids: Sequence[str] | None = None,
    ) -> None:
        """Record that `keys` were requested, in this order.

        Args:
            view: The view to add them to.
            keys: (n, 32) uint8, the batch of a call.
            text_keys: (n, 32) uint8, the keys of the rows' texts only; None if the rows have no text.
            ids: The caller's n ids of the rows; None if it has none.

        Raises:
            MirrorWriteError: If the disk is full or a write fails.
        """
        folder = self.folder(view.task) / view.id
        batch = hashlib.sha256(np.ascontiguousarray(keys).data).hexdigest()
        try:
            # Checked without the lock first, because a repeated evaluation finds every batch recorded.
            if batch in _read_document(folder)["batches"]:
                return
            if not (folder / VIEW_FILE).exists():
                make_folder(folder, below=self._directory)
            with lock_of(folder / ".lock"):
                document = _read_document(folder)
                if batch in document["batches"]:
                    return
                rows = document["rows"] + len(keys)
                # A text never has the key 0. It fills in for batches without texts, so that the columns stay aligned.
                has_texts = _has_texts(folder, document)
                if text_keys is None and has_texts:
                    text_keys = np.zeros_like(keys)
                elif text_keys is not None and not has_texts:
                    text_keys = np.concatenate([np.zeros((document["rows"], KEY_BYTES), np.uint8), text_keys])
                for name, values in (("keys", keys), ("texts", text_keys)):
                    if values is not None:
                        column = _column(folder, name)
                        column.write(rows - len(values), values)
                        column.set_rows(rows)
                id_bytes = _write_ids(folder, document, ids, rows)
                document = {
                    "version": VERSION,
                    "created": document.get("created", time.time_ns()),
                    "view": asdict(view),
                    "rows": rows,
                    "texts": text_keys is not None,
                    "id_bytes": id_bytes,
                    "batches": [*document["batches"], batch],
                }
                # Written last: it is the commit point. Rows and ids past its counts do not count.
                write_atomically(folder / VIEW_FILE, json.dumps(document).encode())
        except MirrorReadError:
            raise
        except OSError as err:
            raise MirrorWriteError(f"Writing the view {folder} failed ({err}). Make room and run again.") from err

    def tasks(self) -> list[str]:
        """Return the names of the tasks that have views."""
        with reading(self._directory):
            folders = [folder for folder in self._directory.iterdir() if folder.is_dir() and not folder.is_symlink()]
        return sorted({view.task for folder in folders for view in views_in(folder)})

    def of(self, task: str) -> list[View]:
        """Return the views of a task, in the order of their first request."""
        return views_in(self.folder(task))

    def choose(
        self,
        task: str,
        *,
        role: str | None = None,
        model: str | None = None,
        subset: str | None = None,
        split: str | None = None,
    ) -> list[View]:
        """Return the views of a task that match, at least one; None matches anything. See `View.matches`.

        Raises:
            MirrorError: If there is none; the error lists those that the task has, or the tasks.
        """
        views = self.of(task)
        chosen = [view for view in views if view.matches(role=role, model=model, subset=subset, split=split)]
        if chosen:
            return chosen
        if views:
            raise MirrorError(f"{task} has no such view. It has: {_listed(views)}.")
        raise MirrorError(
            f"There is no view of {task}. The mirror has the tasks {', '.join(self.tasks()) or '(none)'}."
        )

    def choose_one(self, task: str, **asked: str | None) -> View:
        """Like `choose`, for exactly one view.

        Raises:
            MirrorError: If there is none.
            ConfigurationError: If there are several; the error lists what distinguishes them.
        """
        views = self.choose(task, **asked)
        if len(views) > 1:
            raise ConfigurationError(
                f"{task} has {len(views)} views: {_listed(views)}. Name more of what tells them apart: role, model, "
                "subset or split."
            )
        return views[0]


def _listed(views: list[View]) -> str:
    return "; ".join(
        f"role={view.role!r}, model='{view.model}@{view.revision}', subset={view.subset!r}, split={view.split!r}"
        for view in views[:MAX_NAMED]
    )


def views_in(folder: Path) -> list[View]:
    """Return the views in a task's folder, oldest first."""
    check_folder(folder)
    with reading(folder):
        if not folder.is_dir():
            return []
        places = [place for place in sorted(folder.iterdir()) if (place / VIEW_FILE).is_file()]
    documents = [_read_document(place) for place in places]
    return [View(**document["view"]) for document in sorted(documents, key=lambda d: int(d["created"]))]


def keys_in(folder: Path, view: View) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Return the keys of a view's rows and the keys of their texts, in order.

    Args:
        folder: The task's folder.
        view: The view.

    Returns:
        (n, 32) uint8 keys, and (n, 32) uint8 keys of the texts, or None if the rows have none; mapped read-only.
    """
    place = folder / view.id
    document = _read_document(place)
    rows = document["rows"]
    keys = _column(place, "keys").map(rows)
    return keys, _column(place, "texts").map(rows) if _has_texts(place, document) else None


def ids_in(folder: Path, view: View) -> list[str | None] | None:
    """Return the task's ids of a view's rows, in order; None if it gave none.

    Args:
        folder: The task's folder.
        view: The view.

    Raises:
        DamagedMirror: If the ids are not those that were written.
    """
    place = folder / view.id
    document = _read_document(place)
    committed = document.get("id_bytes", 0)
    if not committed:
        return None
    path = place / IDS_FILE
    try:
        with reading(path), os.fdopen(open_plain(path), "rb") as file:
            # Read at most the size of the file: Python allocates the requested size, and a damaged file may request
            # anything.
            data = file.read(min(committed, os.fstat(file.fileno()).st_size))
        ids: list[str | None] = [parsed_json(line) for line in data.splitlines()]
        plain = all(id_ is None or isinstance(id_, str) for id_ in ids)
        if len(data) != committed or len(ids) != document["rows"] or not plain:
            msg = f"{len(ids)} ids in {len(data)} bytes"
            raise ValueError(msg)
    except MirrorReadError:
        raise
    except (OSError, ValueError) as err:
        raise DamagedMirror(f"{path} is damaged ({err}). Delete its folder; no vector is lost by that.") from err
    return ids


def folder_name(task: str) -> str:
    """Return the folder name of a task: its name, if that is a plain file name."""
    name = quote(task, safe=" ()[]{}+,=@!&'~;")
    if len(name) > MAX_NAME_LENGTH:
        return f"{name[:MAX_NAME_LENGTH].lstrip('.')}%~{hashlib.sha256(task.encode()).hexdigest()}"
    return name.replace(".", "%2E", 1) if name.startswith(".") else f"%{name}" if name in _RESERVED else name


def _write_ids(folder: Path, document: dict[str, Any], ids: Sequence[str] | None, rows: int) -> int:
    """Write ids after the committed ones and return where they end; rows without an id get null."""
    committed: int = document.get("id_bytes", 0)
    if ids is None and not committed:
        return 0
    lines: list[str | None] = [] if committed else [None] * document["rows"]
    lines += [None] * (rows - document["rows"]) if ids is None else [str(id_) for id_ in ids]
    data = "".join(f"{json.dumps(id_)}\n" for id_ in lines).encode()
    with os.fdopen(open_plain(folder / IDS_FILE, os.O_RDWR | os.O_CREAT), "r+b") as file:
        file.seek(committed)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return committed + len(data)


def _has_texts(folder: Path, document: dict[str, Any]) -> bool:
    """Return True if the committed rows have keys of texts. The file does not prove it: a crash may have left it."""
    if "texts" in document:
        return bool(document["texts"])
    with reading(folder):
        return document["rows"] > 0 and (folder / "texts.npy").exists()


def _column(folder: Path, name: str) -> Column:
    return Column(folder / f"{name}.npy", np.dtype(np.uint8), (KEY_BYTES,))


def _read_document(folder: Path) -> dict[str, Any]:
    path = folder / VIEW_FILE
    check_folder(folder.parent, folder)
    try:
        document = parsed_json(read_plain(path))
        kinds = {"rows": int, "created": int, "batches": list}
        if document["version"] != VERSION or not all(type(document[name]) is type_ for name, type_ in kinds.items()):
            msg = f"version {quoted(document['version'])}"
            raise ValueError(msg)
        sizes = (document["rows"], document.get("id_bytes", 0))
        if not all(type(size) is int and size >= 0 for size in sizes):
            msg = f"sizes {quoted(sizes)}"
            raise ValueError(msg)
        view = View(**document["view"])
        texts: tuple[object, ...] = (view.task, view.namespace, view.model, view.revision, view.subset, view.split)
        texts += () if view.role is None else (view.role,)
        if not all(isinstance(text, str) for text in texts) or not NAMESPACE_ID.fullmatch(view.namespace):
            msg = f"a view of namespace {quoted(view.namespace)}"
            raise ValueError(msg)
        if view.id != folder.name:
            msg = f"it is of the view {view.id}"
            raise ValueError(msg)
    except FileNotFoundError:
        return {"rows": 0, "batches": []}
    except MirrorReadError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise DamagedMirror(f"{path} is damaged ({err}). Delete its folder; no vector is lost by that.") from err
    return dict(document)
