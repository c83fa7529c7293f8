"""A demonstration that takes seconds: a real encoder and real texts, without a model or a download.

The texts are docstrings of Python's standard library. The encoder uses NumPy only: counts of character n-grams, hashed,
through a fixed projection. Its arithmetic is exact, so it computes the same bits on every machine, and any difference
between runs is caused by the cache.

    python -m cas_cache.demo

is the second machine: it reads its parameters from standard input, as JSON, and prints its `Run`.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import subprocess
import sys
import sysconfig
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.cache import EmbeddingCache
from cas_cache.config.keyring import Signing
from cas_cache.errors import CasCacheError, ConfigurationError
from cas_cache.identity import EncoderSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

MODULES = (
    *("argparse", "ast", "asyncio", "collections", "configparser", "ctypes", "datetime", "difflib", "email", "http"),
    *("imaplib", "inspect", "json", "logging", "multiprocessing", "os", "pathlib", "pickle", "random", "smtplib"),
    *("socket", "statistics", "string", "subprocess", "tarfile", "threading", "turtle", "typing", "unittest", "xml"),
)
"""Modules to read, if this Python has them; a package stands for all its modules."""

NGRAMS = (3, 4, 5)
BUCKETS = 4096
DIMENSION = 256
BATCH = 256
"""Number of texts that are counted at a time: 4 MB."""

QUERY = EncoderSpec(model="cas-cache/demo-ngrams", revision="1", prompt="query: ", role="query")
DOCUMENT = EncoderSpec(model="cas-cache/demo-ngrams", revision="1", role="document")


class Encoder:
    """Encoder that returns unit vectors.

    Attributes:
        seen: Number of texts that it received.
    """

    def __init__(self) -> None:
        self.seen = 0
        self._signs = _signs()

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return (n, 256) float32 vectors."""
        self.seen += len(texts)
        parts = [self._encoded(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]
        return np.concatenate(parts) if parts else np.empty((0, DIMENSION), np.float32)

    def _encoded(self, texts: Sequence[str]) -> NDArray[np.float32]:
        counts = np.stack([_counts(text) for text in texts])
        # Whole numbers below 2^24: sums are exact in float32, in whatever order they are computed.
        projected = (counts @ self._signs).astype(np.float64)
        lengths = np.sqrt((projected**2).sum(axis=1, keepdims=True))
        unit: NDArray[np.float32] = (projected / np.maximum(lengths, 1.0)).astype(np.float32)
        return unit


def _counts(text: str) -> NDArray[np.float32]:
    """Return how often an n-gram of the text's bytes falls into each bucket."""
    code = np.frombuffer(f" {text.lower()} ".encode(), np.uint8).astype(np.uint64)
    hits = []
    for n in NGRAMS:
        if len(code) >= n:
            grams = np.zeros(len(code) - n + 1, np.uint64)
            for at in range(n):
                grams = grams * np.uint64(257) + code[at : len(code) - n + 1 + at]
            hits.append((_mixed(grams) % np.uint64(BUCKETS)).astype(np.int64))
    buckets = np.concatenate(hits) if hits else np.empty(0, np.int64)
    return np.bincount(buckets, minlength=BUCKETS).astype(np.float32)


def _signs() -> NDArray[np.float32]:
    """Return the projection, (4096, 256): 1 or -1 from the bits of a hash, which no later NumPy can change."""
    words = _mixed(np.arange(1, BUCKETS * DIMENSION // 64 + 1, dtype=np.uint64)).astype("<u8")
    bits = np.unpackbits(words.view(np.uint8)).reshape(BUCKETS, DIMENSION)
    return bits.astype(np.float32) * 2 - 1


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the finalizer of SplitMix64 for each value, modulo 2^64."""
    values = values * np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts to encode: first lines of docstrings as queries, the rest as documents; some of both repeat."""

    queries: tuple[str, ...]
    documents: tuple[str, ...]

    @property
    def distinct(self) -> int:
        """Number of distinct vectors."""
        return len(set(self.queries)) + len(set(self.documents))

    def __len__(self) -> int:
        return len(self.queries) + len(self.documents)


def read_texts() -> Texts:
    """Read the docstrings of `MODULES` without importing them.

    Raises:
        ConfigurationError: If this Python has no source files.
    """
    root = Path(sysconfig.get_path("stdlib"))
    docstrings = [
        (first.strip(), rest.strip())
        for name in MODULES
        for path in _sources(root, name)
        for first, _, rest in (docstring.partition("\n") for docstring in _docstrings(path))
        if first.strip() and rest.strip()
    ]
    if not docstrings:
        raise ConfigurationError(
            f"There are no sources of the standard library in {root}, whose docstrings the demo encodes. Run it with a "
            "Python that has them."
        )
    return Texts(tuple(first for first, _ in docstrings), tuple(rest for _, rest in docstrings))


def _sources(root: Path, name: str) -> list[Path]:
    if (root / f"{name}.py").is_file():
        return [root / f"{name}.py"]
    return sorted(path for path in (root / name).rglob("*.py") if "test" not in path.parts)


def _docstrings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False)
            if docstring:
                yield inspect.cleandoc(docstring)


@dataclass(frozen=True, slots=True)
class Run:
    """Result and cost of one run.

    Attributes:
        name: Name of the run.
        encoded: Number of texts that were encoded because their vectors did not exist.
        compared: Number of texts that were encoded to compare their vectors with those that others pushed.
        seconds: Time from opening the cache until everything was pushed.
        bytes_up: Bytes written to the repository.
        bytes_down: Bytes read from the repository.
        mirror: Path of the mirror; None without a cache.
        sha256: Hash of all vectors, in order: equal if every bit is.
    """

    name: str
    encoded: int
    compared: int
    seconds: float
    bytes_up: int
    bytes_down: int
    mirror: str | None
    sha256: str


def run_plain(texts: Texts) -> Run:
    """Encode everything without a cache."""
    encoder, started = Encoder(), time.perf_counter()
    vectors = encoder([QUERY.prompt + text for text in texts.queries]), encoder(texts.documents)
    return Run("no cache", encoder.seen, 0, time.perf_counter() - started, 0, 0, None, _sha256(vectors))


def run_cached(
    name: str, texts: Texts, mirror: Path, remote: str, storage_options: Mapping[str, Any] | None = None
) -> Run:
    """Encode texts that are in neither the mirror nor the repository, and push their vectors.

    Raises:
        RemoteError: If the remote is unreachable or refuses a request.
    """
    encoder, started = Encoder(), time.perf_counter()
    # Arguments override the user's settings, which are meant for other caches.
    with EmbeddingCache(
        mirror,
        remote=remote,
        storage_options=storage_options or None,
        read_only=False,
        offline=False,
        on_remote_error="raise",
        progress=False,
        signing=Signing(trust="any"),
    ) as cache:
        vectors = (
            cache.encode(texts.queries, QUERY, encoder),
            cache.encode(texts.documents, DOCUMENT, encoder),
        )
    seconds, stats = time.perf_counter() - started, cache.stats
    encoded = encoder.seen - stats.checked
    up, down = stats.bytes_pushed, stats.bytes_pulled
    return Run(name, encoded, stats.checked, seconds, up, down, str(mirror), _sha256(vectors))


def run_elsewhere(name: str, mirror: Path, remote: str, storage_options: Mapping[str, Any] | None = None) -> Run:
    """Run in a new process, which reads the texts itself.

    Raises:
        CasCacheError: If it fails. Its message is on standard error.
    """
    asked = {"name": name, "mirror": str(mirror), "remote": remote, "storage_options": dict(storage_options or {})}
    command = [sys.executable, "-m", "cas_cache.demo"]
    # On standard input, because arguments are visible to every user of a machine and options may be secret.
    done = subprocess.run(command, input=json.dumps(asked), stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise CasCacheError(f"The process of the {name} ended with {done.returncode}. What it said is above.")
    return Run(**json.loads(done.stdout.splitlines()[-1]))


def what_is_wrong(runs: Sequence[Run], texts: Texts) -> list[str]:
    """Return broken promises: a vector that differs in a bit, or a text that was encoded twice.

    Args:
        runs: Runs without a cache, cold, warm, and on a second machine.
        texts: The texts that they encoded.
    """
    plain, cold, *later = runs
    wrong = [f"{run.name}: vectors differ from those without a cache" for run in runs if run.sha256 != plain.sha256]
    if cold.encoded > texts.distinct:
        wrong.append(f"{cold.name}: {cold.encoded} texts were encoded, of {texts.distinct} that differ")
    return wrong + [f"{run.name}: {run.encoded} texts were encoded again" for run in later if run.encoded]


def _sha256(vectors: Sequence[NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for part in vectors:
        digest.update(f"{part.dtype.str}{part.shape}".encode())
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def _second_machine() -> None:
    asked = json.load(sys.stdin)
    run = run_cached(asked["name"], read_texts(), Path(asked["mirror"]), asked["remote"], asked["storage_options"])
    sys.stdout.write(json.dumps(asdict(run)) + "\n")


if __name__ == "__main__":
    _second_machine()
