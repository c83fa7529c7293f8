"""A disk in memory: what files hold after some operations, after a death, and after a power cut.

Adds: `Disk`, which a `Recording` is played to; `Disk.tree` is what a process that died leaves, `Disk.cut` what is found
when the power was cut: of what was not flushed, anything may be missing.

What is flushed, is there: the bytes of a file after its own flush, a name after the flush of its folder. What is not:
bytes may be there or not, sector by sector, in any order; a file may have its new size and zeros; names of a folder
come in order, up to any of them, a rename whole or not at all. (Journals keep that order; with `any_order` it is not
relied upon.) Sectors of 512 bytes are written whole or not, as drives promise; an overwrite within one is not torn.
"""

import hashlib
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from crash_points.crash_faults import Recording
from crash_points.disk_faults import Op

SECTOR = 512
TEMPORARY = re.compile(r"\.tmp-([0-9a-f]{32}|index)")
UNIQUE = re.compile(r"[0-9a-f]{16,}")
LOCKS = frozenset({".lock", ".use"})
"""Empty files, there for their locks: nobody is told anything by their being there."""

Tree = dict[str, bytes | None]
"""By path: what a file holds; None for a folder."""

Edit = tuple[tuple[str, Any], ...]
"""Names that change at once: to which node, or None for no more."""


@dataclass
class _File:
    content: bytearray
    durable: bytes
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    """(where, what) was written; (size, None) it was given."""


@dataclass
class _Folder:
    names: dict[str, Any]
    durable: dict[str, Any]
    pending: list[Edit] = field(default_factory=list)


class Disk:
    """The files of a recording, from before its first operation on."""

    def __init__(self, before: dict[str, tuple[int, bytes] | None]) -> None:
        self.nodes: dict[Any, _File | _Folder] = {"": _Folder({}, {})}
        self._made = 0
        for path, what in sorted(before.items()):
            if what is None:
                self._enter(path, self._new_folder(), durable=True)
            else:
                node, content = what
                self.nodes.setdefault(node, _File(bytearray(content), content))
                self._enter(path, node, durable=True)

    @classmethod
    def after(cls, recording: Recording, count: int | None = None) -> "Disk":
        """Return the disk after the first operations of a recording, marks counted; None for all."""
        disk = cls(recording.before)
        disk.play(recording.ops[:count])
        return disk

    def play(self, ops: Iterable[Op]) -> None:
        """Let operations happen."""
        for op in ops:
            getattr(self, f"_{op.verb}")(op)

    def tree(self) -> Tree:
        """Return what everybody sees, and what is there when the process has died."""
        return self._walk({node: it.names for node, it in self.nodes.items() if isinstance(it, _Folder)}, _seen)

    def torn(self, op: Op) -> Tree | None:
        """Return what is there when the process has died in the midst of the next operation; None if it has none.

        Half of what is appended is there; of what is written over something, whole sectors.
        """
        half = len(op.data) // 2 if op.verb == "write" else 0
        if half and op.at < len(self._file(op.node).content):
            half = (op.at + half) // SECTOR * SECTOR - op.at
        if half <= 0:
            return None
        file = self._file(op.node)
        whole = bytes(file.content)
        file.content[:] = _written(whole, op.at, op.data[:half])
        tree = self.tree()
        file.content[:] = whole
        return tree

    def lost(self) -> Tree:
        """Return what is there when the power was cut and nothing was written that was not flushed."""
        return self._walk({node: it.durable for node, it in self.nodes.items() if isinstance(it, _Folder)}, _flushed)

    def names_only(self) -> Tree:
        """Return what is there when the power was cut and all names were written, and sizes, but no bytes."""
        return self._walk({node: it.names for node, it in self.nodes.items() if isinstance(it, _Folder)}, _zeroed)

    def cut(self, chance: random.Random, *, any_order: bool = False) -> Tree:
        """Return what may be there when the power was cut."""
        folders = {}
        for node, it in self.nodes.items():
            if isinstance(it, _Folder):
                kept = it.pending[: chance.randint(0, len(it.pending))]
                if any_order:
                    kept = [edit for edit in it.pending if chance.random() < 0.5]
                names = dict(it.durable)
                for edit in kept:
                    _edit(names, edit)
                folders[node] = names
        return self._walk(folders, lambda file: _some(file, chance))

    def _walk(self, folders: dict[Any, dict[str, Any]], content: Any) -> Tree:
        tree: Tree = {}
        contents: dict[Any, bytes] = {}

        def walk(folder: Any, prefix: str) -> None:
            for name, node in folders[folder].items():
                path = f"{prefix}{name}"
                if isinstance(self.nodes[node], _Folder):
                    tree[path] = None
                    walk(node, f"{path}/")
                else:
                    if node not in contents:
                        contents[node] = content(self.nodes[node])
                    tree[path] = contents[node]

        walk("", "")
        return tree

    # Operations ------------------------------------------------------------------------------------------------------

    def _find(self, path: str) -> Any:
        node: Any = ""
        for name in PurePosixPath(path).parts:
            node = self._folder(node).names[name]
        return node

    def _folder(self, node: Any) -> _Folder:
        folder = self.nodes[node]
        assert isinstance(folder, _Folder)
        return folder

    def _file(self, node: Any) -> _File:
        file = self.nodes[node]
        assert isinstance(file, _File)
        return file

    def _new_folder(self) -> str:
        self._made += 1
        self.nodes[f"folder {self._made}"] = _Folder({}, {})
        return f"folder {self._made}"

    def _enter(self, path: str, node: Any, *, durable: bool = False) -> None:
        place = PurePosixPath(path)
        folder = self._folder(self._find(str(place.parent)))
        folder.names[place.name] = node
        if durable:
            folder.durable[place.name] = node
        else:
            folder.pending.append(((place.name, node),))

    def _leave(self, path: str) -> None:
        place = PurePosixPath(path)
        folder = self._folder(self._find(str(place.parent)))
        del folder.names[place.name]
        folder.pending.append(((place.name, None),))

    def _create(self, op: Op) -> None:
        self.nodes[op.node] = _File(bytearray(), b"")
        if op.path:
            self._enter(op.path, op.node)

    def _mkdir(self, op: Op) -> None:
        self._enter(op.path, self._new_folder())

    def _link(self, op: Op) -> None:
        self._enter(op.other, self._find(op.path))

    def _unlink(self, op: Op) -> None:
        self._leave(op.path)

    def _rmdir(self, op: Op) -> None:
        self._leave(op.path)

    def _rename(self, op: Op) -> None:
        source, target = PurePosixPath(op.path), PurePosixPath(op.other)
        assert source.parent == target.parent, "a rename between folders: what is durable of it, which folder says?"
        folder = self._folder(self._find(str(source.parent)))
        edit: Edit = ((source.name, None), (target.name, folder.names[source.name]))
        _edit(folder.names, edit)
        folder.pending.append(edit)

    def _write(self, op: Op) -> None:
        file = self._file(op.node)
        file.content[:] = _written(file.content, op.at, op.data)
        file.pending.append((op.at, op.data))

    def _truncate(self, op: Op) -> None:
        file = self._file(op.node)
        file.content[:] = bytes(file.content[: op.at]).ljust(op.at, b"\0")
        file.pending.append((op.at, None))

    def _sync(self, op: Op) -> None:
        if op.node:
            file = self._file(op.node)
            file.durable, file.pending = bytes(file.content), []
        else:
            folder = self._folder(self._find(op.path))
            folder.durable, folder.pending = dict(folder.names), []

    def _mark(self, _: Op) -> None:
        pass


def placed(tree: Tree, root: Path) -> None:
    """Make the files of a tree in a new folder."""
    root.mkdir()
    for path, content in sorted(tree.items()):
        if content is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(content)


def found(root: Path) -> Tree:
    """Return the files below a folder."""
    return {
        path.relative_to(root).as_posix(): None if path.is_dir() else path.read_bytes()
        for path in sorted(root.rglob("*"))
    }


def looks_of(tree: Tree) -> tuple[bytes, frozenset[str]]:
    """Return what tells trees apart for whoever reads them, and in which folders unfinished files lie.

    Left out are locks, folders of a repository without files, and what unfinished files hold.
    """
    seen, unfinished = hashlib.sha256(), set()
    inside = {str(folder) for path, it in tree.items() if it is not None for folder in PurePosixPath(path).parents}
    for path, content in sorted(tree.items()):
        folder, _, name = path.rpartition("/")
        if TEMPORARY.fullmatch(name):
            unfinished.add(UNIQUE.sub("", folder))
        elif name not in LOCKS and not (content is None and path not in inside):
            what = b"folder" if content is None else hashlib.sha256(content).digest()
            seen.update(path.encode() + b"\0" + what)
    return seen.digest(), frozenset(unfinished)


def _edit(names: dict[str, Any], edit: Edit) -> None:
    for name, node in edit:
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def _written(content: bytes | bytearray, at: int, data: bytes) -> bytes:
    return bytes(content[:at]).ljust(at, b"\0") + data + bytes(content[at + len(data) :])


def _seen(file: _File) -> bytes:
    return bytes(file.content)


def _flushed(file: _File) -> bytes:
    return file.durable


def _zeroed(file: _File) -> bytes:
    return file.durable[: len(file.content)].ljust(len(file.content), b"\0")


def _some(file: _File, chance: random.Random) -> bytes:
    """Some sectors of some of the writes."""
    if not file.pending:
        return file.durable
    content = file.durable
    for at, data in file.pending:
        if data is None:
            if chance.random() < 0.5:
                content = content[:at].ljust(at, b"\0")
            continue
        start = at
        while start < at + len(data):
            stop = min((start // SECTOR + 1) * SECTOR, at + len(data))
            if chance.random() < 0.5:
                content = _written(content, start, data[start - at : stop - at])
            start = stop
    if chance.random() < 0.5:
        size = max(len(content), len(file.content))
        content = content.ljust(size, b"\0")
    return content
