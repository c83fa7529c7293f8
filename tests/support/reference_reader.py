"""A reader of repositories, written from docs/spec/v1.md alone: it imports neither cas_cache nor zarr.

`read(root)` returns {namespace: (spec, {key: vector})} of a repository in a local directory and verifies all it reads.
At most 120 lines, so that the spec stays small enough for a stranger.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

FEATURES: set[str] = set()
MASK = 2**64 - 1


class Refused(Exception):
    """The repository, or a pack of it, may not be read."""


def read(root: Path) -> dict[str, tuple[dict[str, Any], dict[bytes, np.ndarray]]]:
    """Read every visible row; of several vectors of one key the first met stays."""
    marker = json.loads((root / "cas-cache.json").read_bytes())
    if marker["format"] != "cas-cache" or marker["version"] != 1 or set(marker["reader_features"]) - FEATURES:
        raise Refused("marker")
    found: dict[str, tuple[dict[str, Any], dict[bytes, np.ndarray]]] = {}
    for path in sorted((root / "manifests").glob("*/*.json")):
        namespace, pack = path.parent.name, path.stem
        if not (re.fullmatch("[0-9a-f]{32}", namespace) and re.fullmatch("[0-9a-f]{64}", pack)):
            continue
        if namespace not in found:
            found[namespace] = (read_spec(root, namespace), {})
        manifest = read_manifest(path.read_bytes(), namespace, pack)
        rows = found[namespace][1]
        for key, vector in read_pack(root / "packs" / pack, manifest):
            rows.setdefault(key, vector)
    return found


def read_spec(root: Path, namespace: str) -> dict[str, Any]:
    """Read a namespace's encoder spec, which must hash to its name and be in canonical form."""
    data = (root / "specs" / f"{namespace}.json").read_bytes()
    spec = json.loads(data)
    if hashlib.sha256(data).hexdigest()[:32] != namespace or canonical(spec) != data:
        raise Refused(f"spec {namespace}")
    return spec


def read_manifest(data: bytes, namespace: str, pack: str) -> dict[str, Any]:
    """Read a manifest, which must hash to its pack's id."""
    manifest = json.loads(data)
    if manifest["version"] != 1 or set(manifest["features"]) - FEATURES:
        raise Refused(f"pack {pack}: newer than this reader")
    if hashlib.sha256(data).hexdigest() != pack or manifest["namespace"] != namespace or canonical(manifest) != data:
        raise Refused(f"manifest {pack}")
    return manifest


def read_pack(folder: Path, manifest: dict[str, Any]) -> list[tuple[bytes, np.ndarray]]:
    """Read the rows of a pack: every object is checked against the manifest, every row against its digest."""
    keys = read_array(folder, manifest, "keys", np.dtype("u1"), (32,))
    vectors = read_array(folder, manifest, "vectors", np.dtype(manifest["dtype"]), tuple(manifest["shape"]))
    digests = read_array(folder, manifest, "digests", np.dtype("u8"), ())
    for key, vector, digest in zip(keys, vectors, digests, strict=True):
        if row_digest(key.tobytes(), vector.tobytes()) != int(digest):
            raise Refused(f"row {key.tobytes().hex()}")
    return [(key.tobytes(), vector) for key, vector in zip(keys, vectors, strict=True)]


def read_array(
    folder: Path, manifest: dict[str, Any], name: str, dtype: np.dtype, shape: tuple[int, ...]
) -> np.ndarray:
    """Join the chunks of an array and cut the padding off."""
    rows, step = manifest["rows"], manifest["chunk_rows"][name]
    chunks = []
    for chunk in range(-(-rows // step)):
        path = f"{name}/c/{chunk}" + "/0" * len(shape)
        data = (folder / path).read_bytes()
        record = manifest["objects"][path]
        if len(data) != record["size"] or hashlib.sha256(data).hexdigest() != record["sha256"]:
            raise Refused(f"object {path}")
        chunks.append(np.frombuffer(data, dtype.newbyteorder("<")).reshape(step, *shape))
    return np.concatenate(chunks)[:rows]


def row_digest(key: bytes, vector: bytes) -> int:
    """The multilinear hash of the spec, in plain integers."""
    data = key + vector + bytes(-len(vector) % 4)
    words = [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]
    factors = [splitmix64(i) | 1 for i in range(len(words) + 1)]
    return (factors[0] * len(vector) + sum(m * w for m, w in zip(factors[1:], words, strict=True))) & MASK


def splitmix64(index: int) -> int:
    """Output `index`, from 0, of SplitMix64 with seed 0."""
    z = (index + 1) * 0x9E3779B97F4A7C15 & MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return z ^ z >> 31


def canonical(value: Any) -> bytes:
    """The one form of a JSON value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
