"""Every path in a repository, built and parsed. Pure.

::

    cas-cache.json
    specs/<namespace>.json
    manifests/<namespace>/<pack>.json
    packs/<pack>/<object>
    probes/<32 hex digits>                  probe to read the storage's clock; deleted at once
    doctor/<32 hex digits>/...              test objects of `cas-cache doctor`; deleted at its end
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from cas_cache.identity import NAMESPACE_ID

if TYPE_CHECKING:
    from collections.abc import Iterable

MARKER = "cas-cache.json"
MANIFESTS = "manifests"
PACKS = "packs"
PROBES = "probes"
SCRATCH = "doctor"
"""Folder in which each run of `cas-cache doctor --test-remote` has a folder of its own."""

_PACK = re.compile(r"[0-9a-f]{64}")
_OBJECT = re.compile(r"(keys/|vectors/|digests/)?(zarr\.json|c(/(0|[1-9][0-9]*)){1,32})")
_OBJECT_PATH = re.compile(r"packs/([0-9a-f]{64})/(.+)")
_SPEC_PATH = re.compile(r"specs/([0-9a-f]{32})\.json")
_PROBE_PATH = re.compile(r"probes/[0-9a-f]{32}")
_MANIFEST_PATH = re.compile(r"manifests/([0-9a-f]{32})/([0-9a-f]{64})\.json")


class PackRef(NamedTuple):
    """The full name of a pack in a repository.

    Attributes:
        namespace: The id of its namespace.
        pack: The pack's id.
    """

    namespace: str
    pack: str


class ObjectRef(NamedTuple):
    """The full name of an object of a pack.

    Attributes:
        pack: The pack's id.
        name: The object's path in the pack.
    """

    pack: str
    name: str


def repositories_below(paths: Iterable[str]) -> list[str]:
    """Return the prefixes of repositories among the paths of objects, as suggestions for a wrong URL."""
    return [path.removesuffix(f"/{MARKER}") for path in paths if path.endswith(f"/{MARKER}")]


def spec_path(namespace: str) -> str:
    """Return the path of a namespace's spec."""
    return f"specs/{_checked(NAMESPACE_ID, namespace, 'namespace id')}.json"


def parse_spec_path(path: str) -> str | None:
    """Return the namespace of a spec's path, or None for anything else."""
    match = _SPEC_PATH.fullmatch(path)
    return match[1] if match else None


def manifests_prefix(namespace: str | None = None) -> str:
    """Return the prefix of a namespace's manifests, or of all."""
    return MANIFESTS if namespace is None else f"{MANIFESTS}/{_checked(NAMESPACE_ID, namespace, 'namespace id')}"


def manifest_path(namespace: str, pack: str) -> str:
    """Return the path of a pack's manifest."""
    return f"{manifests_prefix(namespace)}/{_checked(_PACK, pack, 'pack id')}.json"


def parse_manifest_path(path: str) -> PackRef | None:
    """Return the pack whose manifest a path names, or None for anything else."""
    match = _MANIFEST_PATH.fullmatch(path)
    return PackRef(match[1], match[2]) if match else None


def object_path(pack: str, name: str) -> str:
    """Return the path of an object of a pack."""
    return f"{pack_prefix(pack)}/{_checked(_OBJECT, name, 'valid object name')}"


def pack_prefix(pack: str) -> str:
    """Return the prefix of a pack's objects."""
    return f"{PACKS}/{_checked(_PACK, pack, 'pack id')}"


def parse_object_path(path: str) -> ObjectRef | None:
    """Return the object that a path names, or None for anything else."""
    match = _OBJECT_PATH.fullmatch(path)
    return ObjectRef(match[1], match[2]) if match and is_object_name(match[2]) else None


def probe_path(name: str) -> str:
    """Return the path of a probe of the storage's clock."""
    return f"{PROBES}/{_checked(NAMESPACE_ID, name, 'probe')}"


def is_probe_path(path: str) -> bool:
    """Return True if a path is that of a probe."""
    return _PROBE_PATH.fullmatch(path) is not None


def is_object_name(name: str) -> bool:
    """Return True if an object in a pack can have this name; no other name may become a path."""
    return _OBJECT.fullmatch(name) is not None


def chunk_name(array: str, chunk: int, dimensions: int) -> str:
    """Return the name of a chunk that spans all but the first dimension of an array."""
    return f"{array}/c/{chunk}" + "/0" * (dimensions - 1)


def _checked(pattern: re.Pattern[str], value: str, what: str) -> str:
    if not pattern.fullmatch(value):
        msg = f"{value!r} is not a {what}"
        raise ValueError(msg)
    return value
