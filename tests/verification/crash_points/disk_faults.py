"""Every operation that changes files below a folder passes one method: to be written down, refused, or the last.

Adds: `Files`, which stands in for what Python changes files by while it is entered; what comes of the n-th operation,
`crash_faults` says.

What it stands in for: the functions of `os`, and `open`, whose raw files are given a `write` and a `truncate` of its
own, so that buffered, text and temporary files end there too. What else changes files is refused. That nothing gets
past it is tested, by Python's audit events, and by making the files again from the recording.

A flush is an operation and nothing else: no test here pulls the plug of this machine.
"""

# What stands in for the functions of os works on what they are given.
# ruff: noqa: PTH100, PTH112, PTH115, PTH117, PTH118, PTH120, PTH208

import builtins
import io
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest

REAL_OPEN = io.open
REFUSED = (
    *("symlink", "mknod", "mkfifo", "truncate", "pwrite", "pwritev", "writev", "sendfile", "copy_file_range", "splice"),
    *("posix_fallocate", "chmod", "fchmod", "lchmod", "chown", "utime", "setxattr", "removexattr", "renames"),
)
"""Functions of `os` that nobody here calls: whoever begins to must teach `Files` what they do."""


class Op(NamedTuple):
    """An operation.

    Attributes:
        verb: ``create mkdir write truncate rename link unlink rmdir sync``, or ``mark``, which is none.
        path: Of what, below the root; empty if it has no name, or none that matters.
        node: Which file, by a number that no other file has.
        at: Where it is written; for ``truncate`` the new size.
        data: What is written; for ``mark`` anything.
        other: The new name.
    """

    verb: str
    path: str = ""
    node: int = 0
    at: int = 0
    data: Any = b""
    other: str = ""


class Files:
    """Stands in for what changes files below a root, while it is entered.

    Attributes:
        calls: How many operations there were.
        met: The last one.
    """

    def __init__(self, root: Path) -> None:
        self.root = os.path.realpath(root)
        self.calls = 0
        self.met = Op("none")
        self.inside = 0
        self._nodes: dict[tuple[int, int], int] = {}
        self._made = 0
        self._patches = pytest.MonkeyPatch()

    def __enter__(self) -> Self:
        real = {name: getattr(os, name) for name in dir(os) if callable(getattr(os, name))}
        self._real = real
        for name in ("open", "write", "ftruncate", "fsync", "fdatasync", "mkdir", "rmdir", "unlink", "link"):
            self._patches.setattr(os, name, getattr(self, f"_{name}", None) or self._fsync)
        self._patches.setattr(os, "remove", self._unlink)
        for name in ("rename", "replace"):
            self._patches.setattr(os, name, self._rename)
        for name in REFUSED:
            if name in real:
                self._patches.setattr(os, name, self._refusing(name))
        for module in (builtins, io):
            self._patches.setattr(module, "open", self._open_file)
        return self

    def __exit__(self, *_: object) -> None:
        self._patches.undo()

    def step(self, op: Op, call: Callable[[], Any], half: Callable[[], Any]) -> Any:
        """Do an operation, or not. `half` does half of a write, and nothing of anything else."""
        raise NotImplementedError

    def node_of(self, status: os.stat_result) -> int:
        """Return the number of a file; of one that was there before, a new one."""
        key = (status.st_dev, status.st_ino)
        if key not in self._nodes:
            self._nodes[key] = self._new_node()
        return self._nodes[key]

    def _step(self, op: Op, call: Callable[[], Any], half: Callable[[], Any] = lambda: None) -> Any:
        self.calls += 1
        self.met = op

        return self.step(op, lambda: self._seen(call), lambda: self._seen(half))

    def _seen(self, function: Callable[[], Any]) -> Any:
        """Call what is an operation by now, or changes nothing."""
        self.inside += 1
        try:
            return function()
        finally:
            self.inside -= 1

    def _new_node(self) -> int:
        self._made += 1
        return self._made

    def _below(self, path: Any, dir_fd: int | None = None) -> str | None:
        """The path of a name below the root, or None; the name itself may be a link."""
        if isinstance(path, int):
            place = os.readlink(f"/proc/self/fd/{path}")
        else:
            text = os.fsdecode(path)
            base = "" if dir_fd is None or os.path.isabs(text) else os.readlink(f"/proc/self/fd/{dir_fd}")
            folder, name = os.path.split(os.path.join(base, text).rstrip("/"))
            place = os.path.join(os.path.realpath(folder), name)
        if place != self.root and not place.startswith(f"{self.root}/"):
            return None
        return place[len(self.root) + 1 :]

    def _refusing(self, name: str) -> Callable[..., Any]:
        real = self._real[name]

        def refused(path: Any, *arguments: Any, **options: Any) -> Any:
            assert self._below(path) is None, f"os.{name} of {path}: Files does not know what it does"
            return real(path, *arguments, **options)

        return refused

    # Names -----------------------------------------------------------------------------------------------------------

    def _named(self, verb: str, real: str, path: Any, *arguments: Any, **options: Any) -> Any:
        below = self._below(path, options.get("dir_fd"))
        function = self._real[real]
        if below is None:
            return function(path, *arguments, **options)
        return self._step(Op(verb, below), lambda: function(path, *arguments, **options))

    def _mkdir(self, path: Any, *arguments: Any, **options: Any) -> None:
        # One that fails by itself changes nothing, and is none.
        fails = os.path.lexists(path) or not os.path.isdir(os.path.dirname(os.path.abspath(path)))
        if options.get("dir_fd") is None and fails:
            return self._seen(lambda: self._real["mkdir"](path, *arguments, **options))
        return self._named("mkdir", "mkdir", path, *arguments, **options)

    def _rmdir(self, path: Any, **options: Any) -> None:
        if options.get("dir_fd") is None and (not os.path.isdir(path) or os.listdir(path)):
            return self._seen(lambda: self._real["rmdir"](path))
        return self._named("rmdir", "rmdir", path, **options)

    def _unlink(self, path: Any, **options: Any) -> None:
        if options.get("dir_fd") is None and not os.path.lexists(path):
            return self._seen(lambda: self._real["unlink"](path))
        return self._named("unlink", "unlink", path, **options)

    def _rename(self, source: Any, target: Any, **options: Any) -> None:
        return self._to("rename", self._real["replace"], source, target, options)

    def _link(self, source: Any, target: Any, **options: Any) -> None:
        if os.path.lexists(target):
            return self._seen(lambda: self._real["link"](source, target, **options))
        return self._to("link", self._real["link"], source, target, options)

    def _to(self, verb: str, function: Callable[..., Any], source: Any, target: Any, options: dict[str, Any]) -> Any:
        one, other = self._below(source, options.get("src_dir_fd")), self._below(target, options.get("dst_dir_fd"))
        if one is None and other is None:
            return function(source, target, **options)
        assert one is not None, f"{verb} into the root from {source}"
        assert other is not None, f"{verb} out of the root to {target}"
        return self._step(Op(verb, one, other=other), lambda: function(source, target, **options))

    # Contents --------------------------------------------------------------------------------------------------------

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        real: Callable[..., int] = self._real["open"]

        def call() -> int:
            return real(path, flags, mode, dir_fd=dir_fd)

        below = self._below(path, dir_fd)
        if below is None:
            return call()
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            return self._created("", call)
        try:
            status = os.stat(path, dir_fd=dir_fd)
        except FileNotFoundError:
            return self._created(below, call) if flags & os.O_CREAT else call()
        if flags & os.O_TRUNC and stat.S_ISREG(status.st_mode):
            opened: int = self._step(Op("truncate", below, self.node_of(status)), call)
            return opened
        changes_nothing: int = self._seen(call)
        return changes_nothing

    def _created(self, below: str, call: Callable[[], int]) -> int:
        node = self._new_node()

        def create() -> int:
            descriptor = call()
            status = os.fstat(descriptor)
            self._nodes[status.st_dev, status.st_ino] = node
            return descriptor

        descriptor: int = self._step(Op("create", below, node), create)
        return descriptor

    def _write(self, descriptor: int, data: Any) -> int:
        return self.written(descriptor, data, lambda some: self._real["write"](descriptor, some))

    def written(self, descriptor: int, data: Any, write: Callable[[memoryview], int]) -> int:
        """Write to an open file by the function given."""
        status = os.fstat(descriptor)
        below = self._below(descriptor) if stat.S_ISREG(status.st_mode) else None
        view = memoryview(data).cast("B")
        if below is None:
            return write(view)
        at = os.lseek(descriptor, 0, os.SEEK_CUR)
        op = Op("write", below, self.node_of(status), at, bytes(view))
        count: int = self._step(op, lambda: write(view), lambda: write(view[: len(view) // 2]))
        return count

    def _ftruncate(self, descriptor: int, size: int) -> None:
        return self.cut(descriptor, size, lambda: self._real["ftruncate"](descriptor, size))

    def cut(self, descriptor: int, size: int, call: Callable[[], Any]) -> Any:
        """Give an open file a size, by the function given."""
        below = self._below(descriptor)
        if below is None:
            return call()
        return self._step(Op("truncate", below, self.node_of(os.fstat(descriptor)), size), call)

    def _fsync(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        below = self._below(descriptor) if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode) else None
        if below is not None:
            folder = stat.S_ISDIR(status.st_mode)
            self._step(Op("sync", below if folder else "", 0 if folder else self.node_of(status)), lambda: None)

    def _open_file(  # noqa: PLR0917 - as `open`
        self,
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        if not set(mode) & set("wxa+") or self._below(file) is None:
            return REAL_OPEN(file, mode, buffering, encoding, errors, newline, closefd, opener)
        assert "a" not in mode, "Files does not know where it writes"
        raw_mode = "".join(letter for letter in mode if letter in "rwx+")
        if isinstance(file, int):
            raw = _Raw(self, file, raw_mode, closefd)
        else:
            by = opener or (lambda path, flags: self._open(path, flags, 0o666))
            raw = self._seen(lambda: _Raw(self, file, raw_mode, closefd, by))
        if "b" in mode and buffering == 0:
            return raw
        binary: Any = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return binary if "b" in mode else io.TextIOWrapper(binary, encoding, errors, newline)


class _Raw(io.FileIO):
    """A file whose writes pass through `Files`; what is buffered ends here."""

    def __init__(self, files: Files, *arguments: Any) -> None:
        self._files = files
        super().__init__(*arguments)

    def write(self, data: Any, /) -> int:
        return self._files.written(self.fileno(), data, super().write)

    def truncate(self, size: int | None = None, /) -> int:
        to = self.tell() if size is None else size
        cut = super().truncate
        self._files.cut(self.fileno(), to, lambda: cut(to))
        return to
