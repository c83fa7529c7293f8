"""Ctrl-C and SIGTERM: commands stop at once and cleanly, and the same command run again goes on.

The commands are processes of their own, the signals real, the repository LocalStack's behind a proxy that is slow. What
is local and too quick to be hit is made slow by a few lines around the command.
"""

import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cas_cache import EmbeddingCache, EncoderSpec
from cas_cache.mirror import Mirror
from cas_cache.repository import Repository
from cas_cache.repository import pack as pack_module
from cas_cache.storage import open_storage
from slow_proxy import SlowProxy, slow_proxy
from tiers import sampled

STOPPED = "cas-cache: stopped. Nothing is lost; the same command run again goes on.\n"
SPEC = EncoderSpec(model="org/large", revision="a1b2c3d", role="document")
ROWS, DIMENSION = 2048, 512
ROW_BYTES = 4 * DIMENSION
VECTOR_BYTES = ROWS * ROW_BYTES
CHUNK = 128 << 10
"""Bytes of a chunk: a pack of 16 is 2 MB, and the 4 MB of all rows are 2 packs."""
SLOW = 1 << 20
"""Bytes a second: all rows take 4 seconds."""
STUCK = 1000
"""Bytes a second: a chunk takes 131 seconds."""
STOP_SECONDS = 60
"""A command that waits for the chunks on their way takes longer to stop."""

TEXTS = [f"text {at}" for at in range(ROWS)]
VECTORS = np.random.default_rng(0).standard_normal((ROWS, DIMENSION)).astype(np.float32)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_module, "CHUNK_BYTES", CHUNK)


@pytest.fixture
def proxy(localstack: Any) -> Iterator[SlowProxy]:
    """Return a proxy before LocalStack."""
    with slow_proxy(localstack.endpoint_url) as proxy:
        yield proxy


@pytest.fixture
def url(localstack: Any) -> str:
    """Return the URL of a repository in a new bucket."""
    bucket = f"test-{uuid.uuid4().hex}"
    localstack.create_bucket(bucket)
    return f"s3://{bucket}/emb"


def filled(directory: Path, url: str, options: dict[str, Any], step: int = ROWS) -> EmbeddingCache:
    """A cache whose rows were pushed, `step` at a time."""
    cache = EmbeddingCache(directory, remote=url, storage_options=options, push="manual")
    for start in range(0, ROWS, step):
        cache.put(TEXTS[start : start + step], VECTORS[start : start + step], SPEC)
        cache.push()
    return cache


def options_of(proxy: SlowProxy) -> list[str]:
    """The options that lead a command through a proxy."""
    pairs = {"key": "test", "secret": "test", "endpoint_url": proxy.url}
    return [f"--storage-option={name}={value}" for name, value in pairs.items()]


WITH_SMALL_CHUNKS = f"""
import sys
from cas_cache.repository import pack
pack.CHUNK_BYTES = {CHUNK}
from cas_cache.cli import main
"""


def started(*words: object, before: str = "") -> subprocess.Popen[str]:
    """A command on its way."""
    call = [sys.executable, "-c", f"{WITH_SMALL_CHUNKS}\n{before}\nmain()", *map(str, words)]
    return subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(*words: object, before: str = "") -> subprocess.CompletedProcess[str]:
    """A command that was left to end."""
    process = started(*words, before=before)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def wait_for(process: subprocess.Popen[str], when: Callable[[], bool]) -> None:
    """Wait until something is so, while a command runs."""
    deadline = time.monotonic() + 240
    while not when():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def stopped(
    process: subprocess.Popen[str], when: Callable[[], bool], number: signal.Signals = signal.SIGINT
) -> tuple[int, str]:
    """Send a signal as soon as `when`; return exit code and what was said, if no chunk was waited for."""
    wait_for(process, when)
    process.send_signal(number)
    _, err = process.communicate(timeout=STOP_SECONDS)
    return process.returncode, err.lstrip("\n")  # which ends the line of a terminal's ^C


def stuck(proxy: SlowProxy, way: str, after: int) -> Callable[[], bool]:
    """Whether so many bytes have passed; from then on nearly none do, so that waiting for one's chunk takes minutes."""

    def is_so() -> bool:
        if getattr(proxy, way) > after:
            proxy.rate = STUCK
        return proxy.rate == STUCK

    return is_so


def rows_of(directory: Path) -> int:
    """How many rows a mirror has."""
    there = (directory / "cas-cache-mirror.json").exists()
    ns = Mirror(directory, create=False).get(SPEC.namespace) if there else None
    return 0 if ns is None else ns.rows


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.verify
def test_a_pull_goes_on_in_the_middle_of_a_pack(
    localstack: Any, proxy: SlowProxy, url: str, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """What was committed is not fetched again, packs that were read in part included: the bytes are counted."""
    filled(tmp_path / "there", url, localstack.storage_options())
    pull = ["pull", tmp_path / "here", "--remote", url, *options_of(proxy)]
    proxy.rate = SLOW
    assert stopped(started(*pull), stuck(proxy, "down", 1_300_000), number) == (code, STOPPED)
    had = rows_of(tmp_path / "here")
    assert 0 < had < ROWS
    assert had % (16 * CHUNK // ROW_BYTES), "the last pack was not read whole"
    proxy.rate, proxy.down = None, 0
    again = ended(*pull)
    assert (again.returncode, again.stderr) == (0, "")
    rest = (ROWS - had) * ROW_BYTES
    keys_and_manifests = ROWS * 40 + 200_000
    assert rest <= proxy.down < rest + keys_and_manifests
    assert proxy.down < VECTOR_BYTES
    vectors, found = EmbeddingCache(tmp_path / "here").get(TEXTS, SPEC)
    assert found.all()
    np.testing.assert_array_equal(vectors, VECTORS)


@pytest.mark.verify
def test_a_push_goes_on_at_the_pack(localstack: Any, proxy: SlowProxy, url: str, tmp_path: Path) -> None:
    """Packs that were published stay so; the same command sends the rest, and readers see whole packs only."""
    EmbeddingCache(tmp_path / "here").put(TEXTS, VECTORS, SPEC)
    push = ["push", tmp_path / "here", "--remote", url, *options_of(proxy)]
    proxy.rate = SLOW
    assert stopped(started(*push), stuck(proxy, "up", 2_600_000)) == (130, STOPPED)
    there = Repository(open_storage(url, localstack.storage_options()))
    assert there.open()
    assert len(there.packs()) == 1
    proxy.rate, proxy.up = None, 0
    again = ended(*push)
    assert (again.returncode, again.stderr) == (0, "")
    assert proxy.up < VECTOR_BYTES
    far = EmbeddingCache(tmp_path / "far", remote=url, storage_options=localstack.storage_options(), push="manual")
    assert far.pull().rows == ROWS
    np.testing.assert_array_equal(far.get(TEXTS, SPEC)[0], VECTORS)


@pytest.mark.verify
@pytest.mark.parametrize("command", sampled(["sync", "compact", "check"], keep={"compact"}))
def test_other_commands_stop_and_go_on(
    localstack: Any, proxy: SlowProxy, url: str, tmp_path: Path, command: str
) -> None:
    """In the middle of reading: a sync, a compaction, a check of the data."""
    filled(tmp_path / "there", url, localstack.storage_options(), step=ROWS // 16)
    EmbeddingCache(tmp_path / "here").put(["of here"], VECTORS[:1], SPEC)
    extra = {"sync": [], "compact": ["--at-least", "2"], "check": ["--repository", "--read-data"]}[command]
    words = [command, tmp_path / "here", "--remote", url, *extra, *options_of(proxy)]
    proxy.rate = SLOW
    assert stopped(started(*words), stuck(proxy, "down", 1_000_000)) == (130, STOPPED)
    proxy.rate = None
    again = ended(*words)
    assert (again.returncode, again.stderr) == (0, "")
    far = EmbeddingCache(tmp_path / "far", remote=url, storage_options=localstack.storage_options(), push="manual")
    assert far.pull().rows == ROWS + (command == "sync")
    np.testing.assert_array_equal(far.get(TEXTS, SPEC)[0], VECTORS)


SLOW_EXPORT = """
import time
from cas_cache.interop import exporting
exporting.CHUNK_BYTES = 1 << 16
quick = exporting.Selection.chunks
def slowly(self):
    for chunk in quick(self):
        time.sleep(0.05)
        yield chunk
exporting.Selection.chunks = slowly
"""


@pytest.mark.verify
@pytest.mark.parametrize("format_name", sampled(["npy", "parquet"], keep={"npy"}))
def test_an_export_leaves_nothing_half_made(tmp_path: Path, format_name: str) -> None:
    """Neither the target nor its temporary file is there; the next run makes it."""
    EmbeddingCache(tmp_path / "m").put(TEXTS, VECTORS, SPEC)
    (tmp_path / "out").mkdir()
    words = ["export", tmp_path / "m", tmp_path / "out" / "x", "--format", format_name, "-n", SPEC.namespace]
    process = started(*words, before=SLOW_EXPORT)
    assert stopped(process, lambda: any((tmp_path / "out").iterdir())) == (130, STOPPED)
    assert list((tmp_path / "out").iterdir()) == []
    assert ended(*words).returncode == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x"]


SLOW_IMPORT = """
import time
from cas_cache.interop import import_plan
quick = import_plan.storable
def slowly(*arguments):
    time.sleep(0.1)
    return quick(*arguments)
import_plan.CHUNK_BYTES = 1 << 18
import_plan.storable = slowly
"""


@pytest.mark.verify
def test_an_import_goes_on(tmp_path: Path) -> None:
    """What was committed stays, the next run takes the rest."""
    EmbeddingCache(tmp_path / "m").put(TEXTS, VECTORS, SPEC)
    old = tmp_path / "old" / "Task" / "document"
    old.parent.mkdir(parents=True)
    assert ended("export", tmp_path / "m", old, "--format", "mteb", "-n", SPEC.namespace).returncode == 0
    # The spec that is beside the files says whose they are.
    words = ["import", "mteb", old, tmp_path / "new", "--spec", old / "spec.json", "--accept-unsafe"]
    process = started(*words, before=SLOW_IMPORT)
    assert stopped(process, lambda: rows_of(tmp_path / "new") > 0) == (130, STOPPED)
    assert 0 < rows_of(tmp_path / "new") < ROWS
    assert ended(*words).returncode in (0, 1)
    vectors, found = EmbeddingCache(tmp_path / "new").get(TEXTS, SPEC)
    assert found.all()
    np.testing.assert_array_equal(vectors, VECTORS)


SLOW_END = """
import pathlib, time
from cas_cache import EmbeddingCache
def busy(self):
    pathlib.Path({marker!r}).touch()
    time.sleep(60)
EmbeddingCache.close = busy
"""


@pytest.mark.parametrize("second", sampled([signal.SIGINT, signal.SIGTERM], keep={signal.SIGTERM}))
def test_a_second_signal_ends_it_there_and_then(tmp_path: Path, second: signal.Signals) -> None:
    """While the first is still unwinding the command, whatever that waits for."""
    EmbeddingCache(tmp_path / "m").put(TEXTS[:1], VECTORS[:1], SPEC)
    first, then = tmp_path / "first", tmp_path / "then"
    # The first signal comes while the push goes on, the second while the cache is closed because of it.
    slow_push = f"""
from cas_cache import sync
def never(*_, **__):
    pathlib.Path({str(first)!r}).touch()
    time.sleep(60)
EmbeddingCache.push = never
"""
    before = SLOW_END.format(marker=str(then)) + slow_push
    process = started("push", tmp_path / "m", "--remote", tmp_path / "r", before=before)
    wait_for(process, first.exists)
    process.send_signal(signal.SIGINT)
    wait_for(process, then.exists)
    assert stopped(process, lambda: True, second) == (128 + second, "")


@pytest.mark.verify
def test_a_signal_that_is_ignored_stays_so(tmp_path: Path) -> None:
    """As under nohup, where somebody wants the command to go on without the terminal."""
    EmbeddingCache(tmp_path / "m").put(TEXTS, VECTORS, SPEC)
    words = ["export", tmp_path / "m", tmp_path / "x", "--format", "npy", "-n", SPEC.namespace]
    ignoring = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{SLOW_EXPORT}"
    process = started(*words, before=ignoring)
    wait_for(process, lambda: bool(list(tmp_path.glob(".tmp-*"))))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert (tmp_path / "x" / "vectors.npy").exists()
