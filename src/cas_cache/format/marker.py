"""``cas-cache.json``, the marker that makes a prefix a repository. Pure."""

from __future__ import annotations

import re
from typing import Any

from cas_cache.errors import NotARepository, UnsupportedFormat
from cas_cache.format import layout
from cas_cache.identity import canonical_json, parsed_json, quoted

FORMAT = "cas-cache"
VERSION = 1
MAX_DOCUMENT_BYTES = 1 << 20
"""Maximum size of markers and specs; a larger object is neither."""


_ID = re.compile(r"[0-9A-Za-z_.-]{1,128}")
"""Pattern of a repository's id. New ids are 32 hex digits. Mirrors store the id, and people see it."""


def new_marker(name: str) -> bytes:
    """Return the marker of a new repository whose id is `name`."""
    return canonical_json(
        {"format": FORMAT, "version": VERSION, "id": name, "reader_features": [], "writer_features": []}
    )


def checked_marker(data: bytes, url: str) -> dict[str, Any]:
    """Parse and check the marker of a repository that this version may read.

    Raises:
        NotARepository: If it is not a marker.
        UnsupportedFormat: If the repository requires a feature of readers that this version does not know.
    """
    try:
        marker = parsed_json(data)
        if marker["format"] != FORMAT:
            msg = f"format {quoted(marker['format'])}"
            raise ValueError(msg)
        # Checked before anything that a newer version may have changed.
        version, reader = marker["version"], marker.get("reader_features", [])
        if version == VERSION:
            for name, type_ in (("id", str), ("reader_features", list), ("writer_features", list)):
                if not isinstance(marker[name], type_):
                    msg = f"{name} is {quoted(marker[name])}"
                    raise TypeError(msg)
            if not _ID.fullmatch(marker["id"]):
                msg = f"id is {quoted(marker['id'])}"
                raise ValueError(msg)
    except (ValueError, KeyError, TypeError) as err:
        if data.lstrip()[:1] == b"<":
            raise NotARepository(
                f"What answers for {url} sends HTML or XML instead of {layout.MARKER}, as a proxy or a login page "
                "does. Check the network and the endpoint."
            ) from err
        raise NotARepository(
            f"{layout.MARKER} at {url} is not a repository's ({err!r}). Name another prefix, or restore that file."
        ) from err
    if version != VERSION or reader:
        asks = f" and asks readers for {quoted(reader)}" if reader else ""
        raise UnsupportedFormat(
            f"{url} was written by a newer cas_cache: it has format version {quoted(version)}{asks}, and this one "
            f"reads version {VERSION} alone. Update cas_cache."
        )
    return dict(marker)
