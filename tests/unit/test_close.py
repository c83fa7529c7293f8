"""After `close` nothing is left, without the help of the garbage collector.

Each scenario runs in a process of its own with the collector off, and reports what it still holds: descriptors and
maps of files below its directory, threads, locks as another process sees them, and objects that only the collector
would free.
"""

import gc
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from background_runs import environment, joined
from cas_cache import EmbeddingCache
from cas_cache.errors import AlreadyClosed, CasCacheError
from cas_cache.identity import keys_of_texts
from cas_cache.mirror import Mirror
from cas_cache.mirror.evict import evict
from storages import SPEC, Memory, packs, texts, truth
from tiers import sampled

COMMON = '''
import gc, json, os, subprocess, sys, threading, warnings
from pathlib import Path
gc.disable()
import numpy as np
from cas_cache import EmbeddingCache, EncoderSpec
from cas_cache.errors import CasCacheError
from cas_cache.identity import keys_of_texts
from cas_cache.mirror import Mirror
warnings.simplefilter("ignore")
SPEC = EncoderSpec(model="org/model", revision="a1b2c3d")
root = Path(sys.argv[1])
mirror, remote, far = root / "mirror", root / "repository", root / "far"

def texts(n): return [f"text {i}" for i in range(n)]
def encode(batch): return np.array([[len(t), i] * 128 for i, t in enumerate(batch)], np.float32)

def evict_elsewhere(place):
    code = """if True:
        import json, sys
        from cas_cache.mirror import Mirror
        from cas_cache.mirror.evict import evict
        print(json.dumps(evict(Mirror(sys.argv[1]), 0).as_json()))"""
    return subprocess.run([sys.executable, "-c", code, place], capture_output=True, text=True, check=True).stdout

def left():
    links = []
    for number in os.listdir("/proc/self/fd"):
        try: links.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError: pass
    maps = [line.split(None, 5)[5].strip() for line in open("/proc/self/maps") if len(line.split(None, 5)) == 6]
    return {
        "descriptors": sorted(link for link in links if link.startswith(str(root))),
        "maps": sorted({name for name in maps if name.startswith(str(root))}),
        # The event loops of fsspec and zarr are one a process, and theirs.
        "threads": sorted({t.name for t in threading.enumerate()} - {"MainThread", "fsspecIO", "zarr_io"}),
    }
'''

END = """
found = left()
found["in_use"] = [json.loads(evict_elsewhere(place))["in_use"] for place in (mirror, far) if place.exists()]
gc.set_debug(gc.DEBUG_SAVEALL)
gc.collect()
found["cycles"] = sorted({type(it).__qualname__ for it in gc.garbage if type(it).__module__.startswith("cas_cache")})
print(json.dumps(found))
"""

SCENARIOS = {
    "encode": """
with EmbeddingCache(mirror) as cache:
    cache.encode(texts(3000), SPEC, encode)
    cache.get(texts(10), SPEC)
""",
    "push, pull and look up": """
with EmbeddingCache(mirror, remote=str(remote)) as cache:
    cache.encode(texts(3000), SPEC, encode)
with EmbeddingCache(far, remote=str(remote)) as cache:
    cache.encode(texts(3000), SPEC, encode)
    cache.sync()
    cache.summary()
""",
    "lazy": """
with EmbeddingCache(mirror, remote=str(remote)) as cache:
    cache.encode(texts(3000), SPEC, encode)
with EmbeddingCache(far, remote=str(remote), lazy=True) as cache:
    cache.get(texts(10), SPEC)
""",
    "a remote that refuses": """
remote.write_text("a file")
with EmbeddingCache(mirror, remote=str(remote)) as cache:
    cache.encode(texts(3000), SPEC, encode)
""",
    "a remote that refuses, raised": """
remote.write_text("a file")
try:
    with EmbeddingCache(mirror, remote=str(remote), on_remote_error="raise") as cache:
        cache.put(texts(3000), encode(texts(3000)), SPEC)
except CasCacheError:
    pass
else:
    sys.exit("no error")
""",
    "a damaged pack": """
with EmbeddingCache(mirror, remote=str(remote)) as cache:
    cache.encode(texts(3000), SPEC, encode)
for chunk in remote.glob("packs/*/vectors/c/*/*"):
    chunk.write_bytes(bytes(chunk.stat().st_size))
with EmbeddingCache(far, remote=str(remote)) as cache:
    cache.encode(texts(10), SPEC, encode)
    report = cache.pull()
    assert report.problems
""",
    "an encoder that fails": """
try:
    with EmbeddingCache(mirror) as cache:
        cache.encode(texts(10), SPEC, encode)
        cache.encode(texts(100), SPEC, lambda batch: 1 / 0)
except ZeroDivisionError:
    pass
""",
    "a damaged namespace": """
with EmbeddingCache(mirror) as cache:
    cache.encode(texts(10), SPEC, encode)
state = mirror / "namespaces" / SPEC.namespace / "state.json"
whole = state.read_bytes()
state.write_text("{")
try:
    with EmbeddingCache(mirror) as cache:
        cache.encode(texts(10), SPEC, encode)
except CasCacheError as err:
    kept = err
state.write_bytes(whole)
""",
    "mirror and namespace": """
with EmbeddingCache(mirror) as cache:
    cache.encode(texts(3000), SPEC, encode)
with Mirror(mirror) as opened, opened.namespace(SPEC) as ns:
    ns.take(ns.find(keys_of_texts(texts(3000))))
    ns.append(keys_of_texts(["one more"]), encode(["one more"]))
""",
    "dropped without close": """
cache = EmbeddingCache(mirror, remote=str(remote), push="manual")
cache.encode(texts(3000), SPEC, encode)
del cache
""",
    "closed with pending rows": """
with EmbeddingCache(mirror, remote=str(remote), push_seconds=1000) as cache:
    cache.encode(texts(10), SPEC, encode)
    assert left()["threads"] == ["cas-cache-push"], left()
    cache.flush()
    assert left()["threads"] == [], left()
    cache.encode(texts(20), SPEC, encode)
""",
    "rows that an earlier process left": """
with EmbeddingCache(mirror, remote=str(remote), push="manual") as cache:
    cache.encode(texts(10), SPEC, encode)
with EmbeddingCache(mirror, remote=str(remote)):
    assert left()["threads"] == ["cas-cache-push"], left()
""",
    "dropped with pending rows": """
cache = EmbeddingCache(mirror, remote=str(remote), push_seconds=0.1)
cache.encode(texts(10), SPEC, encode)
del cache
import time
while left()["threads"]:  # the push, which takes its time
    time.sleep(0.01)
""",
}


@pytest.mark.parametrize("scenario", sampled(SCENARIOS, keep=6))
def test_nothing_is_left_after_close(tmp_path: Path, scenario: str) -> None:
    """No descriptor, map, thread or lock remains, and no object of ours is part of a reference cycle."""
    assert run(tmp_path, SCENARIOS[scenario]) == {
        "descriptors": [],
        "maps": [],
        "threads": [],
        "in_use": [[]] * sum((tmp_path / name).exists() for name in ("mirror", "far")),
        "cycles": [],
    }


@pytest.mark.verify
def test_an_array_stays_valid_after_close_and_eviction(tmp_path: Path) -> None:
    """A returned array keeps its own map: another process evicts at once, and the values stay. Then the map goes."""
    script = """
with EmbeddingCache(mirror, remote=str(remote), chunk_items=3000) as cache:
    cache.encode(texts(3000), SPEC, encode)
    vectors = cache.encode(texts(3000), SPEC, encode)
expected = encode(texts(3000))
mapped = left()["maps"]
assert len(json.loads(evict_elsewhere(mirror))["evicted"]) == 1 and len(mapped) == 1, mapped
assert (vectors == expected).all()
vectors[:] = 1
assert (vectors == 1).all()
del vectors
"""
    found = run(tmp_path, script)
    assert (found["descriptors"], found["maps"]) == ([], [])


def run(directory: Path, script: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", COMMON + script + END, str(directory)],
        env={**environment(), "CAS_CACHE_SELF_CHECK": "0"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


USES: dict[str, Callable[[EmbeddingCache], Any]] = {
    "encode": lambda cache: cache.encode(["a"], SPEC, truth),
    "get": lambda cache: cache.get(["a"], SPEC),
    "put": lambda cache: cache.put(["a"], truth(["a"]), SPEC),
    "pull": lambda cache: cache.pull(),
    "pull_keys": lambda cache: cache.pull_keys(),
    "push": lambda cache: cache.push(),
    "sync": lambda cache: cache.sync(),
    "flush": lambda cache: cache.flush(),
    "mirror": lambda cache: cache.mirror.namespace(SPEC),
    "namespaces": lambda cache: cache.mirror.namespaces(),
}


@pytest.mark.parametrize("use", USES)
def test_a_closed_cache_says_so(tmp_path: Path, use: str) -> None:
    """Every use after `close` is an error that says to open the cache again; `close`, `stats` and repr are not."""
    with EmbeddingCache(tmp_path / "m", remote=str(tmp_path / "repository")) as cache:
        cache.encode(["a", "b"], SPEC, truth)
    with pytest.raises(AlreadyClosed, match="again"):
        USES[use](cache)
    cache.close()
    assert (cache.stats.misses, str(tmp_path) in repr(cache)) == (2, True)
    assert "1 row" not in cache.summary()


def test_a_closed_mirror_and_namespace_say_so(tmp_path: Path) -> None:
    """A namespace that was taken before its mirror was closed serves nothing, and neither does its catalogue."""
    with Mirror(tmp_path / "m") as mirror:
        ns = mirror.namespace(SPEC)
        ns.append(keys_of_texts(texts(3)), truth(texts(3)))
        catalogue = ns.remote_keys
    for use in (
        lambda: mirror.get(SPEC.namespace),
        lambda: ns.find(keys_of_texts(texts(3))),
        lambda: ns.take(np.arange(3)),
        lambda: ns.keys,
        lambda: ns.append(keys_of_texts(["x"]), truth(["x"])),
        lambda: next(ns.columns(10)),
        lambda: catalogue.packs,
        ns.refresh,
    ):
        with pytest.raises(AlreadyClosed, match="again"):
            use()
    assert ns.rows == 3
    with mirror.__class__(tmp_path / "m") as again:
        assert again.namespace(SPEC).rows == 3


def test_a_namespace_closes_alone(tmp_path: Path) -> None:
    """Its mirror opens it again."""
    with Mirror(tmp_path / "m") as mirror:
        with mirror.namespace(SPEC) as ns:
            ns.append(keys_of_texts(texts(3)), truth(texts(3)))
        mirror.forget(SPEC.namespace)
        assert mirror.namespace(SPEC).find(keys_of_texts(texts(3))).tolist() == [0, 1, 2]


def test_evict_in_this_process_works_right_after_close(tmp_path: Path) -> None:
    """The lock of a closed cache is gone, whoever still has the cache."""
    memory = Memory()
    gc.disable()
    try:
        cache = joined(tmp_path / "m", memory)
        cache.encode(texts(10), SPEC, truth)
        cache.close()
        assert len(packs(memory)) == 1
        with Mirror(tmp_path / "m") as mirror:
            report = evict(mirror, 0)
        assert (len(report.evicted), report.in_use) == (1, [])
    finally:
        gc.enable()


def test_a_close_that_cannot_push_closes_all_the_same(tmp_path: Path) -> None:
    """The error passes, rows stay pending, and nothing is open."""
    (tmp_path / "repository").write_text("a file")
    cache = EmbeddingCache(tmp_path / "m", remote=str(tmp_path / "repository"), on_remote_error="raise")
    cache.put(texts(3), truth(texts(3)), SPEC)
    with pytest.raises(CasCacheError):
        cache.close()
    with pytest.raises(AlreadyClosed):
        cache.get(texts(3), SPEC)
    with Mirror(tmp_path / "m") as mirror:
        assert mirror.namespace(SPEC).pending_rows == 3
        assert mirror.namespace(SPEC).reserve()
