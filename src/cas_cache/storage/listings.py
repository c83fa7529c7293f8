"""Listings of fsspec file systems: complete, or an error.

Adds to fsspec, whose own `find` skips folders that it cannot list, even with ``on_error="raise"``, and to adlfs, which
takes a missing container for an empty one.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cas_cache.config.urls import EXTRAS

if TYPE_CHECKING:
    from collections.abc import Mapping

TEMPORARY = ".tmp-"
"""Prefix of the names of files that are not complete yet."""


def files_below(filesystem: Any, protocol: str, folder: str) -> dict[str, dict[str, Any]]:
    """Return the file system's information on each file below a folder, by name; empty if the folder does not exist."""
    from fsspec import AbstractFileSystem
    from fsspec.asyn import AsyncFileSystem

    if EXTRAS.get(protocol) == "azure":
        return _azure_files(filesystem, f"{folder}/")
    cls = type(filesystem)
    own = getattr(cls, "_find" if issubclass(cls, AsyncFileSystem) else "find", None)
    if own in (AbstractFileSystem.find, AsyncFileSystem._find):  # noqa: SLF001
        return _walk(filesystem, folder)
    files: dict[str, dict[str, Any]] = filesystem.find(folder, detail=True)
    return files


def _walk(filesystem: Any, folder: str) -> dict[str, dict[str, Any]]:
    """List a folder and all folders below it; a folder that does not exist, or is a file, has no files."""
    files: dict[str, dict[str, Any]] = {}
    folders = [folder]
    while folders:
        path = folders.pop()
        try:
            entries = filesystem.ls(path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            continue  # deleted since the folder above was listed
        for entry in entries:
            name = str(entry["name"]).rstrip("/")
            if entry["type"] == "directory" and name != path:
                folders.append(name)
            elif entry["type"] == "file" and not name.rpartition("/")[2].startswith(TEMPORARY):
                files[name] = entry
    files.pop(folder, None)  # some file systems list a file as the only entry of itself
    return files


def _azure_files(filesystem: Any, folder: str) -> dict[str, dict[str, Any]]:
    """Return the result of `find`, with one request per page. adlfs takes a missing container for an empty one."""
    from fsspec.asyn import sync

    container, _, below = folder.partition("/")

    async def blobs() -> list[Any]:
        async with filesystem.service_client.get_container_client(container=container) as client:
            return [blob async for blob in client.list_blobs(name_starts_with=below, include=["metadata"])]

    return {
        f"{container}/{blob.name}": {
            "size": blob.size,
            # Accounts with hierarchical namespaces list their folders as well.
            "type": "directory" if (blob.metadata or {}).get("hdi_isfolder") == "true" else "file",
            "last_modified": blob.last_modified,
        }
        for blob in sync(filesystem.loop, blobs)
    }


def modified(info: Mapping[str, Any]) -> float:
    """Return the time of the last write by the storage's clock; NaN if the listing does not have it."""
    for name in _MODIFIED:
        value = info.get(name)
        try:
            if isinstance(value, str):
                value = datetime.fromisoformat(value)
            if isinstance(value, datetime):
                return value.timestamp() if value.tzinfo else math.nan
            if isinstance(value, int | float):
                return float(value)
        except (ValueError, OverflowError):
            return math.nan
    return math.nan


_MODIFIED = ("LastModified", "last_modified", "updated", "mtime", "modified", "created")
"""Names of the time in a listing: of s3fs, adlfs, gcsfs, most others, sftp and memory. The service's own time comes
before `mtime`, which gcsfs lets uploaders set."""
