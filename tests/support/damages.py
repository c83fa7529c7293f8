"""Functions that damage the bytes of one object."""

from collections.abc import Callable


def _bit(at: float) -> Callable[[bytes], bytes]:
    """Return a function that flips a bit of the byte at a relative position."""

    def flip(data: bytes) -> bytes:
        where = round(at * (len(data) - 1))
        return data[:where] + bytes([data[where] ^ 1 << where % 8]) + data[where + 1 :]

    return flip


CHANGES: dict[str, Callable[[bytes], bytes | None]] = {
    "first byte flipped": _bit(0),
    "middle byte flipped": _bit(0.5),
    "last byte flipped": _bit(1),
    "last byte cut": lambda data: data[:-1],
    "second half cut": lambda data: data[: len(data) // 2],
    "second half zeroed": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "zeroed": lambda data: bytes(len(data)),
    "emptied": lambda _: b"",
    "a byte appended": lambda data: data + b"\0",
    "itself appended": lambda data: data + data,
    "reversed": lambda data: data[::-1],
    "deleted": lambda _: None,
}

"""Functions that damage the bytes of one object."""
