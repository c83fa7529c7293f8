"""``cas-cache.json``: what makes a prefix a repository. Pure."""

from __future__ import annotations

import json
from typing import Any

from cas_cache.errors import NotARepository, UnsupportedFormat
from cas_cache.identity import canonical_json
from cas_cache.repository import layout

FORMAT = "cas-cache"
VERSION = 1
MOST_DOCUMENT_BYTES = 1 << 20
"""Markers and specs are small; what is larger is not one."""


def new_marker(name: str) -> bytes:
    """Return the marker of a new repository whose id is `name`."""
    return canonical_json(
        {"format": FORMAT, "version": VERSION, "id": name, "reader_features": [], "writer_features": []}
    )


def checked_marker(data: bytes, url: str) -> dict[str, Any]:
    """Return the marker of a repository that this version may read.

    Raises:
        NotARepository: If it is no marker.
        UnsupportedFormat: If it asks readers for what this version does not know.
    """
    try:
        marker = json.loads(data)
        if marker["format"] != FORMAT:
            msg = f"format {marker['format']!r}"
            raise ValueError(msg)
        # Before all else that a newer version may have changed.
        version, reader = marker["version"], marker.get("reader_features", [])
        if version == VERSION:
            for name, kind in (("id", str), ("reader_features", list), ("writer_features", list)):
                if not isinstance(marker[name], kind):
                    msg = f"{name} is {marker[name]!r}"
                    raise TypeError(msg)
    except (ValueError, KeyError, TypeError, RecursionError) as err:
        if data.lstrip()[:1] == b"<":
            raise NotARepository(
                f"What answers for {url} sends HTML or XML instead of {layout.MARKER}, as a proxy or a login page "
                "does. Check the network and the endpoint."
            ) from err
        raise NotARepository(
            f"{layout.MARKER} at {url} is not a repository's ({err!r}). Name another prefix, or restore that file."
        ) from err
    if version != VERSION or reader:
        asks = f" and asks readers for {reader}" if reader else ""
        raise UnsupportedFormat(
            f"{url} was written by a newer cas_cache: it has format version {version!r}{asks}, and this one reads "
            f"version {VERSION} alone. Update cas_cache."
        )
    return dict(marker)
