"""Make ``tests/golden/v1``: a small repository that every later version must read, kept in git.

    python tests/golden/make.py DIRECTORY

Run once for a format version, and never again into the folder that is kept: what is there was written by the version
of its time. It holds three namespaces; packs of several chunks with padding; float32, float16 and int8; rows of zeros;
one key with two vectors in two packs; a merge of two packs, which are still there; a pack without a manifest; objects
that are not ours. ``expected.json`` beside it
says what a reader finds: for each namespace the hex keys and the hex bytes of their vectors (for the key with two,
both).
"""

import json
import sys
from pathlib import Path
from unittest import mock

import numpy as np

from cas_cache.format.rows import digest_rows
from cas_cache.identity import EncoderSpec, keys_of_texts
from cas_cache.repository import Repository, pack
from cas_cache.storage import open_storage

SMALL_CHUNK_BYTES = 256


class Rows:
    """Rows in memory, as a pack takes them."""

    def __init__(self, texts: list[str], vectors: np.ndarray) -> None:
        self.arrays = {"keys": keys_of_texts(texts), "vectors": vectors}
        self.arrays["digests"] = digest_rows(self.arrays["keys"], vectors)
        self.rows, self.dtype, self.shape = len(texts), vectors.dtype, vectors.shape[1:]

    def column(self, array: str, start: int, stop: int) -> np.ndarray:
        """See `PackRows`."""
        return self.arrays[array][start:stop]


def contents() -> list[tuple[EncoderSpec, str, Rows]]:
    """Return (spec, nonce, rows) of each pack."""
    queries = EncoderSpec(model="golden/model", revision="r1", prompt="query: ", role="query")
    documents = EncoderSpec(model="golden/model", revision="r1", role="document", params={"truncate_dim": 3})
    bits = EncoderSpec(model="golden/b\u00eft\U0001f600", revision="2", scope={"task": "T"}, fields=("text", "title"))
    a = np.arange(33, dtype=np.float32).reshape(11, 3) / 7
    b = np.vstack([a[:1] + 1, np.zeros((5, 3), np.float32)])
    return [
        (queries, "0" * 31 + "1", Rows([f"q{i}" for i in range(4)], np.linspace(-1, 1, 20).astype("f2").reshape(4, 5))),
        (documents, "0" * 31 + "2", Rows([f"d{i}" for i in range(11)], a)),
        (documents, "0" * 31 + "3", Rows(["d0", "", "e\u0301", "\u00e9", "\U0001f600", " "], b)),
        (bits, "0" * 31 + "4", Rows(["x", "y"], np.arange(-6, 6, dtype=np.int8).reshape(2, 3, 2))),
    ]


def merge(repository: Repository) -> None:
    """Merge the two packs of documents, each key once."""
    _, (spec, _, first), (_, _, second), _ = contents()
    texts = [f"d{i}" for i in range(11)] + ["", "e\u0301", "\u00e9", "\U0001f600", " "]
    rows = Rows(texts, np.vstack([first.arrays["vectors"], second.arrays["vectors"][1:]]))
    sources = tuple(sorted(pack for _, pack in repository.packs(spec.namespace)))
    repository.commit(repository.stage(spec.namespace, rows, "0" * 31 + "5", sources))


def main(directory: Path) -> None:
    """Write the repository and what it holds."""
    expected: dict[str, dict[str, list[str]]] = {}
    repository = Repository(open_storage(str(directory / "repository")))
    with mock.patch("secrets.token_hex", lambda n: "ab" * n), mock.patch.object(pack, "CHUNK_BYTES", SMALL_CHUNK_BYTES):
        for spec, nonce, rows in contents():
            repository.publish_spec(spec)
            repository.publish(spec.namespace, rows, nonce)
            found = expected.setdefault(spec.namespace, {})
            for key, vector in zip(rows.arrays["keys"], rows.arrays["vectors"], strict=True):
                found.setdefault(key.tobytes().hex(), []).append(vector.tobytes().hex())
        merge(repository)
    root = directory / "repository"
    foreign = root / "packs" / ("f" * 64) / "vectors" / "c" / "0"
    foreign.mkdir(parents=True)
    (foreign / "0").write_bytes(b"a pack without a manifest")
    (root / "manifests" / "notes.txt").write_text("not ours")
    (directory / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
