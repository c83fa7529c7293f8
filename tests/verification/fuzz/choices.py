"""Bytes in, decisions out: one input format for hypothesis, for atheris, and for a file that replays a finding.

An input is a script. `Choices` reads decisions from it, and goes on with a generator that the script seeds when it is
used up: short scripts make long mutations, and the same script always the same ones.

`mutated` changes a real document: raw bytes (flips, cuts, insertions, repeats), or, where it is JSON, its values,
types, names and nesting.
"""

import json
import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

_T = TypeVar("_T")

NUMBERS = (
    0, 1, -1, 2, 31, 32, 33, 255, 2**31 - 1, 2**31, 2**32, 2**53, 2**60, 2**62, 2**63 - 1, 2**63, 2**64, -(2**63),
    10**30, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"), float("-inf"),
)  # fmt: skip
"""At the edges of the types that numbers go through."""

TEXTS = (
    "", "\0", "a\0b", "\ud800", "\udcff", "\x1b[2J\x1b]0;owned\x07", "\x9b31m", "\u202eabc", "é", "é", "😀", "../..",
    "/etc/passwd", "..", ".", "~nobody99/x", "%s{0}", "none", "main", "a" * 5000, "\u2028", "[red]x[/red]", "-", "=",
    "1e999", "0x10", "٣", "NaN", "s3://", "c/0", "keys/c/0", "vectors/c/99999999999999999999/0", "0" * 32, "f" * 64,
    "0" * 64 + "\n", "float64", "object", "|O", "2026-11-23T00:00:00Z",
)  # fmt: skip
"""Names, paths and characters that something somewhere treats as special."""

LITERALS = (
    b"NaN", b"-Infinity", b"1" * 5000, b"-" + b"9" * 400, b"1e999", b"[" * 3000, b'{"a":' * 3000, b'"\\ud800"', b"{",
    b'"\xff"', b"[" * 200 + b"]" * 200, b'{"a":' * 200 + b"1" + b"}" * 200, b"[" * 800 + b"]" * 800, b"{}", b"[]",
    b"true", b"null", b'""', b"\xef\xbb\xbf{}",
)  # fmt: skip
"""JSON, and nearly JSON, that readers stumble over."""

PARTS = (b"\0", b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\x1b[31m", b"\n", b'"', b"}", b"]", b",", b"{", b"PK\x03\x04")

MAX_GROWTH = 1 << 20
"""Bytes that a mutation may add, so that executions stay quick; what is larger has a test of its own."""


class Choices:
    """Decisions read from a script."""

    def __init__(self, script: bytes) -> None:
        self.script = script
        self._at = 0
        self._more = random.Random(script)

    def byte(self) -> int:
        """Return 0 to 255."""
        self._at += 1
        return self.script[self._at - 1] if self._at <= len(self.script) else self._more.randrange(256)

    def below(self, count: int) -> int:
        """Return 0 to count - 1."""
        value = self.byte()
        if count > 256:
            value = value << 8 | self.byte()
        if count > 1 << 16:
            value = value << 16 | self.byte() << 8 | self.byte()
        return value % count

    def of(self, items: Sequence[_T]) -> _T:
        """Return one of some items."""
        return items[self.below(len(items))]

    def rest(self) -> bytes:
        """Return what is left of the script."""
        at, self._at = self._at, max(self._at, len(self.script))
        return self.script[at:]

    def text(self) -> str:
        """Return a text: one of the special ones, some characters, or both."""
        kind = self.below(4)
        if kind == 0:
            return self.of(TEXTS)
        drawn = "".join(chr(self.below(0x80 if kind == 1 else 0x11000)) for _ in range(self.below(12)))
        return drawn if kind < 3 else drawn + self.of(TEXTS)

    def value(self, depth: int = 0) -> Any:  # noqa: PLR0911 - one a kind
        """Return any value that JSON has, or Python's JSON takes."""
        kind = self.below(9 if depth < 3 else 6)
        if kind < 2:
            return self.of(NUMBERS)
        if kind == 2:
            return self.below(1 << 20) - 100
        if kind < 5:
            return self.text()
        if kind == 5:
            return self.of((None, True, False))
        if kind == 6:
            return [self.value(depth + 1) for _ in range(self.below(5))]
        if kind == 7:
            return {self.text(): self.value(depth + 1) for _ in range(self.below(4))}
        nested: Any = self.below(9)
        for _ in range(self.of((3, 40, 400))):
            nested = [nested] if kind == 8 and self._more.randrange(2) else {"a": nested}
        return nested


def mutated(data: bytes, choices: Choices) -> bytes:
    """Return a document changed once or a few times, or, now and then, something else altogether."""
    kind = choices.below(8)
    if kind == 0:
        return choices.rest()
    if kind == 1:
        return data
    if kind < 6:
        try:
            document = json.loads(data)
        except (ValueError, RecursionError):
            pass
        else:
            return _mutated_json(document, choices)
    for _ in range(1 + choices.below(3)):
        data = mutated_bytes(data, choices)
    return data


def mutated_bytes(data: bytes, choices: Choices) -> bytes:
    """Return bytes of which some are flipped, cut, added or doubled."""
    at = choices.below(len(data) + 1)
    end = min(len(data), at + 1 + choices.below(40))
    kinds: tuple[Callable[[], bytes], ...] = (
        lambda: data[:at] + bytes([data[at] ^ (1 << choices.below(8))]) + data[at + 1 :] if at < len(data) else data,
        lambda: data[:at] + bytes([choices.byte()]) + data[at + 1 :],
        lambda: data[:at],
        lambda: data[:at] + data[end:],
        lambda: data[:at] + choices.of(PARTS) + data[at:],
        lambda: data[:at] + choices.of(LITERALS) + data[end:],
        lambda: data[:at] + data[at:end] * 50 + data[end:],
        lambda: data + bytes(choices.below(200)),
        lambda: data[:at] + bytes(end - at) + data[end:],
        lambda: data[:at] + choices.of((b"\xff", b"\0", b"\x80", b"\x7f")) * (end - at) + data[end:],
    )
    return choices.of(kinds)()


def _mutated_json(document: Any, choices: Choices) -> bytes:
    for _ in range(1 + choices.below(3)):
        document = _changed(document, choices)
    try:
        text = json.dumps(document, separators=(",", ":"), ensure_ascii=bool(choices.below(2)))
    except (RecursionError, ValueError):
        return b"["
    data = text.encode("utf-8", "surrogatepass")
    if choices.below(6) == 0:
        # A literal that no Python value becomes, in the place of a value.
        place = data.find(b":", choices.below(len(data) + 1))
        return data[: place + 1] + choices.of(LITERALS) + data[place + 2 :]
    if choices.below(10) == 0 and data[:1] == b"{":
        # A name twice: the last one counts for Python, not for all readers.
        return data[:-1] + b"," + data[1:]
    return data


def _changed(document: Any, choices: Choices) -> Any:  # noqa: PLR0911 - one a kind
    """Return a document with one place changed: itself, or a value, name or item in it."""
    if choices.below(12) == 0:
        return choices.value()
    if isinstance(document, dict) and document:
        name = choices.of(sorted(document))
        kind = choices.below(8)
        if kind == 0:
            return {key: value for key, value in document.items() if key != name}
        if kind == 1:
            return {**document, choices.text(): choices.value()}
        if kind == 2:
            return {choices.text() if key == name else key: value for key, value in document.items()}
        return {**document, name: _changed(document[name], choices)}
    if isinstance(document, list) and document:
        at = choices.below(len(document))
        kind = choices.below(6)
        if kind == 0:
            return document[:at] + document[at + 1 :]
        if kind == 1:
            return [*document, choices.value()]
        if kind == 2:
            return document * (2 + choices.below(40)) if len(document) < 100 else document
        return [*document[:at], _changed(document[at], choices), *document[at + 1 :]]
    return _like(document, choices)


def _like(value: Any, choices: Choices) -> Any:
    """Return a value for another: near it, of another type, or any."""
    kind = choices.below(6)
    if kind == 0 and isinstance(value, int):
        return value + choices.of((-1, 1, 2, 1000))
    if kind == 1 and isinstance(value, int):
        return choices.of((float(value % 2**60), hex(value), bool(value), [value], -value, value << 32))
    if kind < 3 and isinstance(value, str):
        return choices.of((value + "\n", value.upper(), value[:-1], value + choices.text(), choices.text() + value))
    return choices.value()
