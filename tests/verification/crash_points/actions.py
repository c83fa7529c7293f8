"""What happens to the `Team`: clocks that are set, old listings, damage, and what others do meanwhile.

Adds to `faults`: `Jumping`, a storage whose clock can be set; `Frozen`, a storage as an old reader sees it; `Fault`,
what goes wrong at which operation; `damaged`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cas_cache.storage import Storage
from cas_cache.testing import MemoryStorage
from fault_injection import Hooked


class Jumping(MemoryStorage):
    """A storage with a clock of its own: so many seconds ahead of everybody's."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead = 0.0

    def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
        kept = create_only and path in self.objects
        super().put(path, data, create_only=create_only)
        if not kept:
            self._modified[path] += self.ahead


class Frozen(Hooked):
    """What somebody sees who listed all at one time, and goes on reading."""

    def __init__(self, inner: Storage) -> None:
        super().__init__(inner)
        self._listed = inner.list("")

    def _call(self, number: int, verb: str, path: str, call: Callable[[], Any]) -> Any:
        if verb != "list":
            return call()
        return [it for it in self._listed if not path or it.path.startswith(f"{path}/")]


@dataclass(frozen=True)
class Fault:
    """What happens at the n-th storage operation.

    Attributes:
        at: n.
        kind: ``"dies"``, ``"fails"`` (and lives on with an error), ``"stalls"`` or ``"skews"`` (its clock is set).
        after: Whether that operation takes effect, where somebody dies or fails.
        acts: What others do while it stalls: names in `ACTS`.
        days: By which its clock is set.
    """

    at: int
    kind: str
    after: bool = False
    acts: tuple[str, ...] = ()
    days: float = 0.0


def damaged(data: bytes, how: str, at: int) -> bytes | None:
    """Return bytes with one flipped, or cut; None where the object is removed."""
    at %= len(data)
    return {"flip": data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], "cut": data[:at], "remove": None}[how]
