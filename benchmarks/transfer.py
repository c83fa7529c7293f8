"""Push and pull, compared with plain copies of the same objects: to a local directory, and to a local S3 server.

    python benchmarks/transfer.py [--mib 1024] [--repeat 3] [--dimensions 384] [--folder DIR] [--only s3]

For cas_cache, it measures a push from a mirror and a pull into a new one, including hashes of objects and rows, a
mirror on the disk, its commits and its index. The peers move exactly the objects of that push and check nothing: s3fs
and obstore to and from memory, s3fs and s5cmd to and from files that are not flushed, `cp` from file to file with
fsync. The server is `rclone serve s3`; it uses the same cores, and everything writes to the same disk.

Each measurement is a process of its own, alternating with the others, after a sync of the disks. CPU is that of this
process, without the server. Memory is the peak increase: RssAnon, sampled, which excludes pages of mapped files, and
VmHWM, which includes them. Prints a table and, as its last line, one JSON object with all results. A pulled vector that
differs in any bit from the pushed one is an error.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

import numpy as np

from cas_cache import EncoderSpec, sync
from cas_cache.mirror import Mirror
from cas_cache.repository import Repository
from cas_cache.storage import open_storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SPEC = EncoderSpec(model="bench/transfer", revision="1")
BLOCK_BYTES = 64 << 20
"""Number of bytes of vectors that are made, and compared, at a time."""

KEY_BYTES, DIGEST_BYTES = 32, 8

CONCURRENCY = 4
"""Number of objects that a peer transfers at once; s5cmd uses its own default."""

SAMPLE_SECONDS = 0.005
PEERS = {"local": ("cp",), "s3": ("s3fs", "s3fs_files", "obstore", "s5cmd")}
Job = dict[str, Any]


# Measured functions: each prepares what is not measured and returns the function that is.


def push(job: Job) -> Callable[[], int]:
    """Push with cas_cache: the pending rows of a mirror become packs."""
    mirror, repository = Mirror(job["mirror"]), Repository(_opened(job))

    def work() -> int:
        report = sync.push(mirror, repository)
        if report.problems:
            raise SystemExit(f"the push had problems: {report.problems}")
        return report.bytes

    return work


def pull(job: Job) -> Callable[[], int]:
    """Pull with cas_cache: all packs, into a new mirror."""
    repository = Repository(_opened(job))

    def work() -> int:
        report = sync.pull(Mirror(job["mirror"]), repository)
        if report.problems:
            raise SystemExit(f"the pull had problems: {report.problems}")
        return report.bytes

    return work


def push_s3fs(job: Job) -> Callable[[], int]:
    """Push with plain s3fs, from memory."""
    filesystem, root = _s3fs(job)
    contents = {f"{root}/{name}": Path(job["files"], name).read_bytes() for name in job["names"]}

    def work() -> int:
        filesystem.pipe(contents, batch_size=CONCURRENCY)
        return sum(map(len, contents.values()))

    return work


def pull_s3fs(job: Job) -> Callable[[], int]:
    """Pull with plain s3fs, into memory."""
    filesystem, root = _s3fs(job)
    paths = [f"{root}/{name}" for name in job["names"]]
    return lambda: sum(map(len, filesystem.cat(paths, batch_size=CONCURRENCY).values()))


def push_s3fs_files(job: Job) -> Callable[[], int]:
    """Push with plain s3fs, from files."""
    filesystem, root = _s3fs(job)
    paths = [f"{job['files']}/{name}" for name in job["names"]]

    def work() -> int:
        filesystem.put(paths, [f"{root}/{name}" for name in job["names"]], batch_size=CONCURRENCY)
        return sum(Path(path).stat().st_size for path in paths)

    return work


def pull_s3fs_files(job: Job) -> Callable[[], int]:
    """Pull with plain s3fs, into files that it does not flush."""
    filesystem, root = _s3fs(job)
    paths = [f"{job['to']}/{name}" for name in job["names"]]

    def work() -> int:
        filesystem.get([f"{root}/{name}" for name in job["names"]], paths, batch_size=CONCURRENCY)
        return sum(Path(path).stat().st_size for path in paths)

    return work


def push_obstore(job: Job) -> Callable[[], int]:
    """Push with the object_store crate, from memory, one request per object."""
    import obstore

    store = _obstore(job)
    contents = {name: Path(job["files"], name).read_bytes() for name in job["names"]}

    def work() -> int:
        _each(lambda item: obstore.put(store, item[0], item[1], use_multipart=False), list(contents.items()))
        return sum(map(len, contents.values()))

    return work


def pull_obstore(job: Job) -> Callable[[], int]:
    """Pull with the object_store crate, into memory."""
    import obstore

    store = _obstore(job)
    return lambda: sum(map(len, _each(lambda name: obstore.get(store, name).bytes(), job["names"])))


def push_s5cmd(job: Job) -> Callable[[], int]:
    """Push with the s5cmd program, from files. The memory of its process is not measured."""
    return lambda: _s5cmd(job, f"{job['files']}/", f"{job['url']}/")


def pull_s5cmd(job: Job) -> Callable[[], int]:
    """Pull with the s5cmd program, into files that it does not flush."""
    return lambda: _s5cmd(job, f"{job['url']}/*", f"{job['to']}/")


def push_cp(job: Job) -> Callable[[], int]:
    """Push by copying files, and flush each file and folder."""
    return lambda: _copied(job["names"], Path(job["files"]), Path(job["url"]))


def pull_cp(job: Job) -> Callable[[], int]:
    """Pull by copying files, and flush each file and folder."""
    return lambda: _copied(job["names"], Path(job["url"]), Path(job["to"]))


def _opened(job: Job) -> Any:
    import zarr.storage  # noqa: F401 - an import, not work

    return open_storage(job["url"], job["options"])


def _s3fs(job: Job) -> tuple[Any, str]:
    import s3fs

    options = {**job["options"], "use_listings_cache": False, "skip_instance_cache": True}
    return s3fs.S3FileSystem(**options), job["url"].removeprefix("s3://")


def _obstore(job: Job) -> Any:
    from obstore.store import S3Store

    bucket, _, prefix = job["url"].removeprefix("s3://").partition("/")
    options = job["options"]
    return S3Store(
        bucket,
        prefix=prefix,
        endpoint=options["endpoint_url"],
        access_key_id=options["key"],
        secret_access_key=options["secret"],
        region="us-east-1",
        client_options={"allow_http": True, "timeout": "10m"},
    )


def _s5cmd(job: Job, source: str, target: str) -> int:
    options = job["options"]
    command = ["s5cmd", "--log", "error", "--endpoint-url", options["endpoint_url"], "cp"]
    keys = {"AWS_ACCESS_KEY_ID": options["key"], "AWS_SECRET_ACCESS_KEY": options["secret"], "AWS_REGION": "us-east-1"}
    subprocess.run([*command, source, target], check=True, env={**os.environ, **keys}, stdout=subprocess.DEVNULL)
    return int(job["bytes"])


def _copied(names: list[str], source: Path, target: Path) -> int:
    def copy(name: str) -> int:
        to = target / name
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, to)
        for path in (to, to.parent):
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        return to.stat().st_size

    return sum(_each(copy, names))


def _each(function: Callable[[Any], Any], items: list[Any]) -> list[Any]:
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        return list(pool.map(function, items))


JOBS = {f.__name__: f for f in (push, push_s3fs, push_s3fs_files, push_obstore, push_s5cmd, push_cp)}
JOBS |= {f.__name__: f for f in (pull, pull_s3fs, pull_s3fs_files, pull_obstore, pull_s5cmd, pull_cp)}


# The process that runs one job.


def memory() -> dict[str, float]:
    """Return RssAnon, VmRSS and VmHWM of this process in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {
        name: int(rest.split()[0]) * 1024 / 1e6
        for name, _, rest in (line.partition(":") for line in lines)
        if name in {"RssAnon", "VmRSS", "VmHWM"}
    }


@contextmanager
def sampled() -> Iterator[list[float]]:
    """Collect samples of RssAnon while the block runs."""
    samples = [memory()["RssAnon"]]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_SECONDS):
            samples.append(memory()["RssAnon"])

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


def run_child(job: Job) -> None:
    """Run one job and print its cost as JSON."""
    work = JOBS[job["what"]](job)
    before = memory()
    with sampled() as samples:
        busy, started = sum(os.times()[:4]), time.perf_counter()
        moved = work()
        seconds, busy = time.perf_counter() - started, sum(os.times()[:4]) - busy
    peak = {"anon": max(samples) - before["RssAnon"], "hwm": memory()["VmHWM"] - before["VmRSS"]}
    print(json.dumps({"seconds": seconds, "cpu": busy, "bytes": moved, **peak}))


# The process that sets up, measures in turn, and verifies.


def measured(what: str, job: Job) -> dict[str, float]:
    """Run one job in a new process."""
    os.sync()  # do not measure writes that the previous job left pending
    # Pages that a virtual machine's host has reclaimed return at 0.3 GB/s; without this, the first job would pay for
    # it.
    np.ones(2 * job["bytes"], np.uint8)
    command = [sys.executable, __file__, "--child", json.dumps({**job, "what": what})]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{what} failed")
    answer: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    # cas_cache sends and reads a few more documents than the objects of packs.
    if not job["bytes"] <= answer["bytes"] <= job["bytes"] * 1.01 + 10**6:
        raise SystemExit(f"{what} moved {answer['bytes']} bytes, not {job['bytes']}")
    return answer


def make_source(folder: Path, mib: int, dimensions: int) -> None:
    """Fill a mirror with pending rows."""
    namespace = Mirror(folder).namespace(SPEC)
    rng = np.random.default_rng(0)
    left = (mib << 20) // (4 * dimensions)
    while left:
        rows = min(left, BLOCK_BYTES // (4 * dimensions))
        keys = np.frombuffer(rng.bytes(32 * rows), np.uint8).reshape(rows, 32)
        namespace.append(keys, rng.standard_normal((rows, dimensions), dtype=np.float32))
        left -= rows


def verify(source: Path, pulled: Path) -> None:
    """End the program unless the two mirrors have the same bytes for the same keys."""
    (one,), (other,) = Mirror(source).namespaces(), Mirror(pulled).namespaces()
    step = BLOCK_BYTES // one.row_bytes
    for start in range(0, one.rows, step):
        rows = np.arange(start, min(start + step, one.rows))
        found = other.find(one.keys[rows])
        if found.min() < 0 or one.take(rows).tobytes() != other.take(found).tobytes():
            raise SystemExit(f"the mirror that was pulled differs from the one that was pushed, from row {start} on")
    if one.rows != other.rows:
        raise SystemExit(f"{other.rows} rows were pulled, {one.rows} were pushed")


def measure(peers: list[str], source: Path, scratch: Path, place: Callable[[str], Job]) -> Iterator[tuple[str, Any]]:
    """Push once and pull once with cas_cache and every peer; yield the name of each measurement and its numbers."""
    Mirror(source).rebind()
    ours = place("ours")
    (ns,) = Mirror(source).namespaces()
    ours["bytes"] = ns.rows * (ns.row_bytes + KEY_BYTES + DIGEST_BYTES)
    pushed = measured("push", {**ours, "mirror": str(source)})
    yield "push", pushed
    files = Path(ours["files"])
    names = sorted(p.relative_to(files).as_posix() for p in files.rglob("*") if p.is_file())
    same = {"files": str(files), "names": names, "bytes": sum((files / name).stat().st_size for name in names)}
    for peer in peers:
        theirs = place(peer)
        yield f"push_{peer}", measured(f"push_{peer}", {**theirs, **same})
        shutil.rmtree(theirs["files"])
    yield "pull", measured("pull", {**ours, "mirror": str(scratch)})
    verify(source, scratch)
    shutil.rmtree(scratch)
    for peer in peers:
        yield f"pull_{peer}", measured(f"pull_{peer}", {**ours, **same, "to": str(scratch)})
        shutil.rmtree(scratch, ignore_errors=True)
    shutil.rmtree(files)


def table(kind: str, peers: list[str], results: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Print and return medians."""
    found = {
        what: {name: statistics.median(run[name] for run in runs) for name in runs[0]} for what, runs in results.items()
    }
    print(f"\n{kind:<18}{'MB/s':>7}{'ours/it':>9}{'CPU s':>8}{'RssAnon':>9}{'VmHWM':>8}   MB beyond the interpreter")
    for what in ("push", "pull"):
        speed = {w: found[w]["bytes"] / found[w]["seconds"] / 1e6 for w in (what, *(f"{what}_{p}" for p in peers))}
        for name, value in speed.items():
            who = name.replace("_", " ") if "_" in name else f"{name} ours"
            ratio = "" if name == what else f"{speed[what] / value:.2f}"
            kept = "-" if "s5cmd" in name else f"{found[name]['anon']:.0f}"
            mapped = "-" if "s5cmd" in name else f"{found[name]['hwm']:.0f}"
            print(f"{who:<18}{value:>7.0f}{ratio:>9}{found[name]['cpu']:>8.1f}{kept:>9}{mapped:>8}")
    return found


def installed(peer: str) -> bool:
    """Return True if a peer is installed."""
    package = peer.partition("_")[0]
    there = peer == "cp" or bool(shutil.which(peer) if peer == "s5cmd" else importlib.util.find_spec(package))
    if not there:
        print(f"{peer} is not installed and is left out")
    return there


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024, help="of vectors")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--folder", help="where to make the temporary folder; /dev/shm takes the disk out of it")
    parser.add_argument("--only", choices=PEERS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        run_child(json.loads(asked.child))
        return
    # Find the scripts of this environment, including s5cmd.
    os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        source, scratch, found = Path(folder, "source"), Path(folder, "pulled"), {}
        make_source(source, asked.mib, asked.dimensions)
        print(f"{asked.mib} MiB of {asked.dimensions} float32, medians of {asked.repeat}")
        for kind, all_peers in PEERS.items():
            if asked.only in {None, kind}:
                peers = [peer for peer in all_peers if installed(peer)]
                with PLACES[kind](Path(folder, kind)) as place:
                    results: dict[str, list[dict[str, float]]] = {}
                    for _ in range(asked.repeat):
                        for what, numbers in measure(peers, source, scratch, place):
                            results.setdefault(what, []).append(numbers)
                found[kind] = table(kind, peers, results)
    print(json.dumps({"mib": asked.mib, "dimensions": asked.dimensions, "repeat": asked.repeat, **found}))


@contextmanager
def local_directory(folder: Path) -> Iterator[Callable[[str], Job]]:
    """Yield a function that makes a place in a local directory."""

    def place(who: str) -> Job:
        at = folder / f"{who}-{secrets.token_hex(4)}"
        return {"url": str(at), "options": {}, "files": str(at)}

    yield place


@contextmanager
def loopback_s3(folder: Path) -> Iterator[Callable[[str], Job]]:
    """Yield a function that makes a place in a bucket of a server that runs until the block ends."""
    from servers import rclone

    with rclone(folder) as server:

        def place(who: str) -> Job:
            at = f"{who}-{secrets.token_hex(4)}"
            return {"url": f"{server.url}/{at}", "options": server.options, "files": str(folder / "data" / "team" / at)}

        yield place


PLACES = {"local": local_directory, "s3": loopback_s3}


if __name__ == "__main__":
    main()
