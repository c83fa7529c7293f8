"""Item -> key: 32 bytes of SHA-256, in batches. Pure.

A text's key is the SHA-256 of its UTF-8 bytes, unchanged: no normalisation, no stripping, the same as mteb's. The key
of a row with other fields is the SHA-256 over the fields that reach the encoder, each as its name, a zero byte and the
32-byte digest of its content; so a title that moves into the text makes another item.

Digests of content. Text: as above. Image: mode, size, palette, transparency and orientation as JSON, a zero byte, the
pixels. Conversation: canonical JSON. Audio: dtype, shape and sampling rate as JSON, a zero byte, the samples. Video: a
header with its frame count, rate, rotation and pixel aspect ratio, and *every* frame with its time: a sample of the
frames would give one key to two films that differ elsewhere.

Images, audio clips and videos are duck-typed (`PIL.Image`, mteb's audio rows, torchcodec's decoders); none of these
packages is imported here.
"""

from __future__ import annotations

import hashlib
import json
import operator
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.errors import IdentityError, InvalidItem
from cas_cache.identity.canonical import MOST, canonical_json
from cas_cache.identity.texts import PIECE_CHARACTERS, Texts, as_texts, blocks_of, described_item, utf8_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

KEY_BYTES = 32

MIN_ITEMS = 1024
"""Minimum number of items for a digest of a batch; with fewer it saves less than a millisecond."""

EXIF_ORIENTATION = 0x0112
"""The only EXIF tag that loaders apply: it rotates the picture, not the pixels."""

VIDEO_FRAMES_AT_ONCE = 64
"""Number of frames decoded at a time: 64 frames of 1080p RGB are 400 MB."""


def keys_of_texts(texts: Iterable[str] | Texts, first: int = 0) -> NDArray[np.uint8]:
    """Return the keys of texts.

    Args:
        texts: n strings.
        first: The position of the first text, for error messages.

    Returns:
        (n, 32) uint8 keys.

    Raises:
        InvalidItem: If the texts are not a sequence of strings, or one of them holds a lone surrogate; the error names
            its position. See `as_texts`.
    """
    return _keys_of(as_texts(texts), first)


def _keys_of(texts: Texts, first: int = 0) -> NDArray[np.uint8]:
    # str.encode, not text.encode: an object that only resembles a string, or could change its text, has no key.
    sha256, encoded = hashlib.sha256, str.encode
    keys, start = np.empty((len(texts), KEY_BYTES), np.uint8), 0
    try:
        for block in blocks_of(texts):
            if max(map(str.__len__, block)) > PIECE_CHARACTERS:
                digests = [_sha256_of(text) for text in block]
            else:
                digests = [sha256(encoded(text)).digest() for text in block]
            keys[start : start + len(block)] = _stack(digests)
            start += len(block)
    except (UnicodeEncodeError, TypeError):
        # Slow, but only for the error: find the item that has no key.
        for position, text in enumerate(chain.from_iterable(blocks_of(texts)), first):
            _digest_text(text, f"item {position}")
        raise
    return keys


class Batch:
    """The items of one call.

    Args:
        size: Number of items.
        make_keys: Returns their keys, (size, 32) uint8.
        digest: Digest of everything that the keys are computed from, in order; None if there is no cheap one. It costs
            one hash over the bytes of all items, so a repeated batch is recognised without its keys, which cost one
            hash per item.
        texts: The items, if they are texts.
    """

    def __init__(
        self, size: int, make_keys: Callable[[], NDArray[np.uint8]], digest: bytes | None = None, texts: Texts = ()
    ) -> None:
        self.size = size
        self.digest = digest
        self.texts = texts
        self._make_keys = make_keys

    def __repr__(self) -> str:
        return f"Batch({self.size} items)"

    @cached_property
    def keys(self) -> NDArray[np.uint8]:
        """(size, 32) uint8 keys, computed at the first access.

        Raises:
            InvalidItem: If an item has no key.
        """
        return self._make_keys()


def batch_of_texts(texts: Iterable[str] | Texts) -> Batch:
    """Return texts as a batch.

    Raises:
        InvalidItem: If the texts are not a sequence or an iterator; see `as_texts`.
    """
    checked = as_texts(texts)
    digest = _digest_of_texts(checked) if len(checked) >= MIN_ITEMS else None
    return Batch(len(checked), lambda: _keys_of(checked), digest, checked)


def digest_of_batch(kind: str, parts: Iterable[bytes]) -> bytes:
    """Return the digest of a batch: 32 bytes.

    Args:
        kind: Name of the way in which the parts were made; different kinds never have the same digest.
        parts: Parts of fixed length, or hashes, so that the boundary between two is unambiguous.
    """
    digest = hashlib.sha256(f"cas-cache batch 1 {kind}".encode())
    for part in parts:
        digest.update(part)
    return digest.digest()


def _digest_of_texts(texts: Texts) -> bytes | None:
    """Return a digest of the lengths and the characters of all texts; the lengths say where each text ends."""
    lengths, characters = hashlib.sha256(), hashlib.sha256()
    try:
        for block in blocks_of(texts):
            for piece in utf8_of(block):
                characters.update(piece)
            # str.__len__ rather than len, because a subclass of str could return another length.
            lengths.update(np.fromiter(map(str.__len__, block), np.int64, len(block)).data)
    except (TypeError, UnicodeEncodeError):
        return None  # computing the keys reports the text and what is wrong with it
    return digest_of_batch("texts", [lengths.digest(), characters.digest()])


def first_of_each(keys: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first position of each distinct key, in order of first appearance, and each key's distinct key.

    Args:
        keys: (n, 32) uint8 keys.

    Returns:
        (u,) int64 positions, ascending, and (n,) int64, the index of each key's distinct key.
    """
    _, first, inverse = np.unique(prefixes_of(keys), return_index=True, return_inverse=True)
    if not np.array_equal(keys[first[inverse]], keys):
        # Two keys share 8 bytes. By chance this happens to one in 2**64 pairs, so this slow path is almost never taken.
        seen: dict[bytes, int] = {}
        inverse = np.array([seen.setdefault(key.tobytes(), len(seen)) for key in keys], np.int64)
        first = np.unique(inverse, return_index=True)[1]
    order = np.argsort(first, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return first[order].astype(np.int64), rank[inverse]


def prefixes_of(keys: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the first 8 bytes of each key as one number."""
    prefixes: NDArray[np.uint64] = np.ascontiguousarray(keys[:, :8]).view(np.uint64).reshape(-1)
    return prefixes


def keys_of_rows(
    columns: Mapping[str, Sequence[Any]], fields: Sequence[str] = ("text",), first: int = 0
) -> NDArray[np.uint8]:
    """Return the keys of rows given as columns.

    Args:
        columns: One sequence of n values for each field of the rows. Fields other than `fields` are ignored.
        fields: The fields that reach the encoder, as in `EncoderSpec.fields`. A field without a column is skipped; a
            value of None in a column counts as absent in its row.
        first: The position of the first row, for error messages.

    Returns:
        (n, 32) uint8 keys.

    Raises:
        InvalidItem: If no field is present in a row, the columns differ in length, or a value has no digest.
    """
    if tuple(fields) == ("text",) and "text" in columns:
        return keys_of_texts(columns["text"], first)
    present = [field for field in fields if field in columns]
    for field in present:
        _digest_text(field, "the name of a field")
    if not present:
        raise InvalidItem(f"The rows have the columns {sorted(columns)}; none of {list(fields)} is among them.")
    counts = {field: len(columns[field]) for field in present}
    if len(set(counts.values())) != 1:
        raise InvalidItem(f"The columns differ in length: {counts}.")
    rows = zip(*(columns[field] for field in present), strict=True)
    return _stack([_digest_row(position, present, row) for position, row in enumerate(rows, first)])


def _sha256_of(text: str) -> bytes:
    """Return the SHA-256 of a text's UTF-8 bytes without holding all of them in memory."""
    digest = hashlib.sha256()
    for piece in utf8_of([text]):
        digest.update(piece)
    return digest.digest()


def _stack(digests: list[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, KEY_BYTES)


def _digest_row(position: int, fields: list[str], row: tuple[Any, ...]) -> bytes:
    digest = hashlib.sha256()
    empty = True
    for field, value in zip(fields, row, strict=True):
        if value is not None:
            empty = False
            digest.update(field.encode() + b"\0" + _DIGESTS.get(field, _digest_text)(value, f"item {position}"))
    if empty:
        raise InvalidItem(f"Item {position} has none of the fields {fields}.")
    return digest.digest()


def _digest_text(text: object, where: str) -> bytes:
    if not isinstance(text, str):
        raise InvalidItem(f"{where} {described_item(text)}.")
    try:
        return hashlib.sha256(str.encode(text)).digest()
    except UnicodeEncodeError as err:
        raise InvalidItem(
            f"{where} holds a lone surrogate at position {err.start}, which UTF-8 cannot encode. "
            "Repair the text, for example with text.encode('utf-8', 'replace').decode()."
        ) from err


def _digest_json(value: Any, where: str) -> bytes:
    try:
        return hashlib.sha256(canonical_json(value)).digest()
    except IdentityError as err:
        raise InvalidItem(f"{where} has no key: {err}") from err


def _digest_image(image: Any, where: str) -> bytes:
    if not all(hasattr(image, name) for name in ("mode", "size", "tobytes")):
        raise InvalidItem(f"{where}: an image is a PIL.Image, not a {type(image).__name__}.")
    # Read the pixels first: this completes the mode, palette and EXIF of an image that comes from a file.
    pixels = image.tobytes()
    transparency = image.info.get("transparency") if hasattr(image, "info") else None
    orientation = image.getexif().get(EXIF_ORIENTATION) if hasattr(image, "getexif") else None
    header = {
        "mode": image.mode,
        "size": list(image.size),
        "palette": list(image.getpalette("RGBA") or []) if image.mode in ("P", "PA") else None,
        "transparency": list(transparency) if isinstance(transparency, bytes | bytearray) else transparency,
        "orientation": orientation if orientation is None or type(orientation) is int else repr(orientation),
    }
    return _digest_content(header, [pixels])


def _digest_audio(audio: Any, where: str) -> bytes:
    try:
        samples, rate = np.asarray(audio["array"]), operator.index(audio["sampling_rate"])
        if abs(rate) >= MOST:
            msg = "no rate"
            raise ValueError(msg)
    except (IndexError, KeyError, TypeError, ValueError) as err:
        raise InvalidItem(f"{where}: audio is a row with an 'array' and a whole 'sampling_rate' ({err!r}).") from err
    if samples.dtype.kind not in "biuf":
        raise InvalidItem(f"{where}: audio samples are numbers, not {samples.dtype}.")
    return _digest_content({**_array_header(samples), "sampling_rate": rate}, [_array_bytes(samples)])


def _digest_video(video: Any, where: str) -> bytes:
    if not hasattr(video, "get_frames_in_range") or not hasattr(video, "metadata"):
        raise InvalidItem(f"{where}: a video is a torchcodec VideoDecoder, not a {type(video).__name__}.")
    count, metadata = len(video), video.metadata
    header = {
        "frames": count,
        "fps": str(metadata.average_fps),
        "rotation": str(getattr(metadata, "rotation", None)),
        "pixel_aspect_ratio": str(getattr(metadata, "pixel_aspect_ratio", None)),
    }

    def frames() -> Iterable[bytes]:
        for start in range(0, count, VIDEO_FRAMES_AT_ONCE):
            batch = video.get_frames_in_range(start, min(start + VIDEO_FRAMES_AT_ONCE, count))
            # The same frames at other times are another film to an encoder that samples by time.
            for part in (batch.data, getattr(batch, "pts_seconds", ())):
                array = np.asarray(part)
                yield json.dumps(_array_header(array), sort_keys=True).encode() + b"\0"
                yield _array_bytes(array)

    return _digest_content(header, frames())


def _array_header(array: NDArray[Any]) -> dict[str, Any]:
    return {"dtype": array.dtype.newbyteorder("<").str, "shape": list(array.shape)}


def _array_bytes(array: NDArray[Any]) -> bytes:
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def _digest_content(header: dict[str, Any], chunks: Iterable[bytes]) -> bytes:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True, separators=(",", ":")).encode() + b"\0")
    for chunk in chunks:
        digest.update(chunk)
    return digest.digest()


_DIGESTS: dict[str, Callable[[Any, str], bytes]] = {
    "text": _digest_text,
    "conversation": _digest_json,
    "image": _digest_image,
    "audio": _digest_audio,
    "video": _digest_video,
}
