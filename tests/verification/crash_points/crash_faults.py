"""What comes of file operations: they are written down, one fails, or one is the last.

Adds to `disk_faults.Files`: `Recording` writes the operations down; `Refusing` lets the n-th fail, and the process
lives on; `LastOne` kills the process there.
"""

import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from crash_points.disk_faults import Files, Op

NEEDS_ROOM = frozenset({"create", "mkdir", "write", "truncate", "rename", "link"})


class Recording(Files):
    """Writes down every operation.

    Attributes:
        ops: All of them, in order, and the marks between them.
        before: What was there, by path: the number of the file, and what it held; a folder is None.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.ops: list[Op] = []
        self.before: dict[str, tuple[int, bytes] | None] = {}
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root).as_posix()
            self.before[name] = None if path.is_dir() else (self.node_of(path.stat()), path.read_bytes())

    def mark(self, what: Any) -> None:
        """Note that something was acknowledged by now."""
        self.ops.append(Op("mark", data=what))

    def step(self, op: Op, call: Callable[[], Any], half: Callable[[], Any]) -> Any:
        result = call()
        self.ops.append(op._replace(data=op.data[:result]) if op.verb == "write" else op)
        return result


class Refusing(Files):
    """The n-th operation fails, and the process lives on.

    Args:
        root: Below which operations count.
        at: n.
        full: Whether the disk is full from then on, until `room` is made, rather than for one operation.

    What needs room fails with ENOSPC, a write after half of it; everything else with EIO.
    """

    def __init__(self, root: Path, at: int, *, full: bool) -> None:
        super().__init__(root)
        self.at, self.full = at, full
        self.failed: list[Op] = []

    def room(self) -> None:
        """Make room, and mend the disk."""
        self.at = sys.maxsize

    @property
    def reached(self) -> bool:
        """Whether anything failed."""
        return bool(self.failed)

    def step(self, op: Op, call: Callable[[], Any], half: Callable[[], Any]) -> Any:
        room = op.verb in NEEDS_ROOM
        if self.calls < self.at or (self.calls > self.at and not (self.full and room)):
            return call()
        half()
        self.failed.append(op)
        code = errno.ENOSPC if room else errno.EIO
        raise OSError(code, os.strerror(code), op.path)


class LastOne(Files):
    """The n-th operation is the last: the process is killed before it, in the midst of it, or after it.

    Args:
        root: Below which operations count.
        at: n.
        when: ``"before"``, ``"torn"`` or ``"after"``.
    """

    def __init__(self, root: Path, at: int, when: str) -> None:
        super().__init__(root)
        self.at, self.when = at, when

    def step(self, op: Op, call: Callable[[], Any], half: Callable[[], Any]) -> Any:
        if self.calls < self.at:
            return call()
        {"before": lambda: None, "torn": half, "after": call}[self.when]()
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError
