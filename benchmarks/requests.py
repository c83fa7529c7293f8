"""Network use of laptops and CI: a sync with nothing to do, and a few rows of a large namespace.

    python benchmarks/requests.py [--packs 10000] [--rows 1000000] [--dimensions 384] [--only no_op]

*No-op*: ``cas-cache sync`` of a mirror that knows all packs of a large repository, in a running process and in a new
one. It is compared with s3fs, which lists the same names. rclone takes most of that time to look at 10,000 files, so
the sync is measured again with a proxy in front of it that remembers its responses. *Lazy*: 1,000 adjacent rows, and
1,000 scattered rows, of a large namespace, with a new mirror. It is compared with s3fs, which reads the same ranges,
and with a pull of everything, which comes first, because the server is slow when it first reads an object. Requests are
those of aiohttp; bytes are those of the objects' contents. The server is `rclone serve s3` on this machine. A vector
that differs in any bit from the stored one is an error.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

import aiohttp
import fsspec
import numpy as np

from cas_cache import EmbeddingCache, EncoderSpec
from cas_cache.format import layout
from cas_cache.format.rows import digest_rows
from cas_cache.identity import keys_of_texts
from cas_cache.repository import Repository
from cas_cache.repository.reading import plan_ranges
from cas_cache.storage.local import LocalStorage
from servers import Place, rclone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

SPEC = EncoderSpec(model="bench/requests", revision="1")
ASKED = 1000


class Unflushed(LocalStorage):
    """A directory whose files are not flushed, because the creation of 10,000 packs is not measured."""

    def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:  # noqa: ARG002
        """See `Storage.put`."""
        file = Path(self.url, path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


class Rows:
    """Rows for a pack."""

    def __init__(self, texts: list[str], vectors: NDArray[np.float32]) -> None:
        keys = keys_of_texts(texts)
        self.columns: dict[str, Any] = {"keys": keys, "vectors": vectors, "digests": digest_rows(keys, vectors)}
        self.rows, self.dtype, self.shape = len(texts), vectors.dtype, vectors.shape[1:]

    def column(self, array: str, start: int, stop: int) -> NDArray[Any]:
        """See `PackRows.column`."""
        return self.columns[array][start:stop]


@dataclass
class Count:
    """HTTP requests of this process."""

    requests: int = 0


@contextmanager
def counted() -> Iterator[Count]:
    """Count the requests of aiohttp while the block runs."""
    count, send = Count(), aiohttp.ClientSession._request  # noqa: SLF001 - the only place that sees all requests

    async def counting(*args: Any, **kwargs: Any) -> Any:
        count.requests += 1
        return await send(*args, **kwargs)

    aiohttp.ClientSession._request = counting  # noqa: SLF001
    try:
        yield count
    finally:
        aiohttp.ClientSession._request = send  # noqa: SLF001


def no_op(folder: Path, server: Place, packs: int) -> dict[str, Any]:
    """Sync a mirror that knows all packs of a repository."""
    place, repository = _repository(folder, server)
    for number in range(packs):
        rows = Rows([f"text {number}"], np.full((1, 4), number, np.float32))
        repository.publish(SPEC.namespace, rows, f"{number:032x}")
    began = time.perf_counter()
    with EmbeddingCache(folder / "mirror", remote=place.url, storage_options=place.options, progress=False) as cache:
        pulled = cache.pull()
    first = time.perf_counter() - began
    if pulled.packs != packs or pulled.problems:
        raise SystemExit(f"the pull was not whole: {pulled}")
    # Another object in a process that has imported everything: what a long-running program sees.
    with (
        counted() as count,
        EmbeddingCache(folder / "mirror", remote=place.url, storage_options=place.options, progress=False) as cache,
    ):
        began = time.perf_counter()
        reports = cache.sync()
        seconds = time.perf_counter() - began
    if any(report.packs or report.problems for report in reports):
        raise SystemExit(f"there was something to do: {reports}")
    peer = _names_by_s3fs(place, packs)
    with remembering(place) as quick:
        for _ in range(2):  # the second time, the proxy remembers
            began = time.perf_counter()
            with EmbeddingCache(folder / "mirror", remote=quick.url, storage_options=quick.options) as cache:
                cache.sync()
            at_once = time.perf_counter() - began
        peer_at_once = _names_by_s3fs(quick, packs)
    command = [sys.executable, "-m", "cas_cache", "sync", str(folder / "mirror"), "--remote", place.url, "--json"]
    for name, value in place.options.items():
        if not isinstance(value, dict):
            command += ["--storage-option", f"{name}={value}"]
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    whole = time.perf_counter() - began
    print(f"no-op sync of {packs:,} packs: {count.requests} requests, {seconds:.2f} s; as a new process {whole:.2f} s")
    print(f"  s3fs lists the names in {peer:.2f} s; the first pull took {first:.0f} s")
    print(f"  from a server that has its answers ready: {at_once:.2f} s, s3fs {peer_at_once:.2f} s")
    return {
        "packs": packs,
        "requests": count.requests,
        "seconds": seconds,
        "process_seconds": whole,
        "s3fs_seconds": peer,
        "ready_seconds": at_once,
        "ready_s3fs_seconds": peer_at_once,
        "first_pull_seconds": first,
    }


@contextmanager
def remembering(place: Place) -> Iterator[Place]:
    """Put a proxy before a server that forwards only the first request for each URL."""
    behind = place.options["endpoint_url"]
    answers: dict[str, tuple[int, bytes]] = {}

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path not in answers:
                # Keep the Host header, which was signed.
                asked = urllib.request.Request(behind + self.path, headers=dict(self.headers))
                with urllib.request.urlopen(asked) as answer:
                    answers[self.path] = answer.status, answer.read()
            status, content = answers[self.path]
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield place.with_options(endpoint_url=f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


def _names_by_s3fs(place: Place, packs: int) -> float:
    """Return the seconds that s3fs takes to list the manifests with an open connection."""
    filesystem = fsspec.filesystem("s3", **place.options, use_listings_cache=False, skip_instance_cache=True)
    root = place.url.partition("://")[2]
    filesystem.cat_file(f"{root}/{layout.MARKER}", start=0, end=1000)
    began = time.perf_counter()
    names = filesystem.find(f"{root}/{layout.manifests_prefix(None)}")
    seconds = time.perf_counter() - began
    if len(names) != packs:
        raise SystemExit(f"s3fs lists {len(names)} names")
    return seconds


def lazy(folder: Path, server: Place, rows: int, dimensions: int) -> dict[str, Any]:
    """Request 1,000 of many rows."""
    place, repository = _repository(folder, server)
    at_once = min(rows, 500_000)
    for first in range(0, rows, at_once):
        texts = [f"text {i}" for i in range(first, min(first + at_once, rows))]
        repository.publish(SPEC.namespace, Rows(texts, _vectors(first, len(texts), dimensions)), f"{first:032d}")
    found: dict[str, Any] = {"rows": rows}
    scattered = np.sort(np.random.default_rng(0).choice(rows, ASKED, replace=False))
    asked = {"together": np.arange(rows // 2, rows // 2 + ASKED), "scattered": scattered}
    options: dict[str, Any] = {"remote": place.url, "storage_options": place.options, "progress": False}
    with EmbeddingCache(folder / "whole", **options) as cache:
        began = time.perf_counter()
        size = cache.pull().bytes
        found["whole"] = {"bytes": size, "seconds": time.perf_counter() - began}
        print(f"a pull of all: {size / 1e6:.1f} MB, {found['whole']['seconds']:.2f} s")
    with EmbeddingCache(folder / "lazy", lazy=True, only_cached=True, self_check=0, **options) as cache:
        began = time.perf_counter()
        keys = cache.pull_keys()
        found["keys"] = {"bytes": keys.bytes, "seconds": time.perf_counter() - began}
        print(f"keys of {rows:,} rows: {keys.bytes / 1e6:.1f} MB, {found['keys']['seconds']:.2f} s")
        for what, numbers in asked.items():
            before = cache.stats.bytes_pulled
            with counted() as count:
                began = time.perf_counter()
                answer = cache.encode([f"text {i}" for i in numbers.tolist()], SPEC, _never)
                seconds = time.perf_counter() - began
            for number, row in zip(numbers.tolist(), answer, strict=True):
                if not np.array_equal(row, _vectors(number, 1, dimensions)[0]):
                    raise SystemExit(f"row {number} is wrong")
            size = cache.stats.bytes_pulled - before
            ratio = size / answer.nbytes
            peer = _ranges_by_s3fs(place, repository, numbers)
            print(
                f"{ASKED:,} rows {what}: {size / 1e6:.2f} MB, {ratio:.2f} x their bytes, {count.requests} requests, "
                f"{seconds:.2f} s; s3fs takes {peer:.2f} s for the same ranges"
            )
            found[what] = {
                "bytes": size,
                "ratio": ratio,
                "requests": count.requests,
                "seconds": seconds,
                "s3fs_seconds": peer,
            }
    return found


def _ranges_by_s3fs(place: Place, repository: Repository, numbers: NDArray[np.int64]) -> float:
    """Return the seconds that s3fs, with default settings, takes for the ranges of these rows."""
    paths, starts, ends = [], [], []
    for namespace, pack in repository.packs():
        manifest = repository.manifest(namespace, pack)
        first = int(manifest.nonce, 10)
        mine = numbers[(numbers >= first) & (numbers < first + manifest.rows)] - first
        for part in plan_ranges(manifest, mine):
            paths.append(f"{place.url.partition('://')[2]}/{layout.object_path(pack, part.name)}")
            starts.append((part.start - part.first) * manifest.vector_bytes)
            ends.append((part.stop - part.first) * manifest.vector_bytes)
    filesystem = fsspec.filesystem("s3", **place.options, skip_instance_cache=True)
    began = time.perf_counter()
    filesystem.cat_ranges(paths, starts, ends)
    return time.perf_counter() - began


def _repository(folder: Path, server: Place) -> tuple[Place, Repository]:
    """Create a repository; return its place on the server, and the repository."""
    place = server.fresh()
    root = folder / "server" / "data" / place.url.partition("://")[2]
    root.mkdir(parents=True)
    repository = Repository(Unflushed(str(root)))
    repository.create()
    repository.publish_spec(SPEC)
    return place, repository


def _vectors(first: int, count: int, dimensions: int) -> NDArray[np.float32]:
    """Return vectors that are derived from their row numbers, all different."""
    numbers = np.arange(first, first + count, dtype=np.float32)[:, None]
    return (
        np.sin(numbers * np.float32(0.37) + np.arange(dimensions, dtype=np.float32)[None], dtype=np.float32) + numbers
    )


def _never(_: list[str]) -> Any:
    raise SystemExit("the encoder was asked")


def main() -> None:
    """Run both benchmarks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--packs", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--only", choices=("no_op", "lazy"))
    given = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as name:
        # Each has a server of its own, because rclone remembers the folders that it has read.
        if given.only != "lazy":
            folder = Path(name, "no_op")
            with rclone(folder / "server") as server:
                found["no_op"] = no_op(folder, server, given.packs)
        if given.only != "no_op":
            folder = Path(name, "lazy")
            with rclone(folder / "server") as server:
                found["lazy"] = lazy(folder, server, given.rows, given.dimensions)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
