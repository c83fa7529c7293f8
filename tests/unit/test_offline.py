"""``CAS_CACHE_OFFLINE=1`` answers from the mirror with no network call at all, names of hosts included.

Each runs in a process of its own in which whatever would reach out ends the test: connecting, resolving, sending.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cas_cache import EmbeddingCache, EncoderSpec
from paths import SUPPORT
from tiers import sampled

SPEC = EncoderSpec(model="m/m", revision="1", role="query")
REMOTES = ("s3://team/emb", "gs://team/emb", "az://box/emb", "https://127.0.0.1:9/emb")
NETWORK = {"s3fs", "gcsfs", "adlfs", "aiobotocore", "botocore", "aiohttp"}

PATH = os.pathsep.join((str(SUPPORT), os.environ.get("PYTHONPATH", "")))

ENDPOINT = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}

GUARDED = """
import os, socket, sys

def refused(*arguments, **_):
    os.write(2, f"NETWORK {arguments!r}\\n".encode())
    os._exit(99)

for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "create_connection", "getfqdn"):
    setattr(socket, name, refused)
for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, refused)
"""

AFTERWARDS = """
loaded = {name.partition(".")[0] for name in sys.modules}
print("LOADED", *sorted(loaded))
"""

COMMAND = """
from cas_cache.cli import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
"""

LIBRARY = """
import numpy as np
from cas_cache import EmbeddingCache, EncoderSpec
from cas_cache.search import Searcher

spec = EncoderSpec(model="m/m", revision="1", role="query")
with EmbeddingCache(sys.argv[1], remote=sys.argv[2], progress=False) as cache:
    assert cache.offline
    vectors, found = cache.get(["a", "b", "other"], spec)
    assert found.tolist() == [True, True, False]
    np.testing.assert_array_equal(vectors[:2], [[1, 0], [0, 1]])
    answer = cache.encode(["a", "new"], spec, lambda texts: np.full((len(texts), 2), 7, np.float32))
    np.testing.assert_array_equal(answer, [[1, 0], [7, 7]])
    cache.put(["more"], np.ones((1, 2), np.float32), spec)
    for call in (cache.pull, cache.push, cache.sync):
        try:
            call()
        except ValueError as err:
            assert "offline" in str(err)
        else:
            raise AssertionError
    assert cache.mirror.namespace(spec).pending_rows == 4
"""

WRAPPER = """
import numpy as np
from cas_cache.mteb import CachedEmbeddingWrapper
from mteb_encoders import HashEncoder
from mteb_tasks import loader, metadata

call = {"task_metadata": metadata("A"), "hf_split": "test", "hf_subset": "default"}
for _ in range(2):
    with CachedEmbeddingWrapper(HashEncoder(), sys.argv[1], remote=sys.argv[2]) as model:
        plain = HashEncoder().encode(loader(["one", "two"]), **call)
        np.testing.assert_array_equal(model.encode(loader(["one", "two"]), **call), plain)
        assert model.stats.hits == (2 if _ else 0)
"""


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """Return a mirror with two rows."""
    EmbeddingCache(tmp_path / "m").put(["a", "b"], np.eye(2, dtype=np.float32), SPEC)
    return tmp_path / "m"


def guarded(code: str, *words: object, **environment: str) -> set[str]:
    """Run code where nothing may reach out; return which packages it loaded."""
    settings = {
        "CAS_CACHE_OFFLINE": "1",
        "PYTHONPATH": PATH,
        "HF_HUB_OFFLINE": "1",
        **environment,
    }
    process = subprocess.run(
        [sys.executable, "-c", GUARDED + code + AFTERWARDS, *map(str, words)],
        capture_output=True, text=True, check=False, timeout=120, env={**os.environ, **settings},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return set(process.stdout.rpartition("LOADED")[2].split())


def test_the_guard_bites(tmp_path: Path) -> None:
    """Without the setting the same look-up reaches out, and is caught."""
    code = "from cas_cache import EmbeddingCache; EmbeddingCache(sys.argv[1], remote=sys.argv[2]).pull()"
    process = subprocess.run(
        [sys.executable, "-c", GUARDED + code, str(tmp_path / "m"), "s3://team/emb"],
        capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, **ENDPOINT},
    )  # fmt: skip
    assert process.returncode == 99
    assert "NETWORK" in process.stderr


@pytest.mark.parametrize("remote", sampled(REMOTES, keep=2))
def test_the_library(mirror: Path, remote: str) -> None:
    """Get, encode and put are answered; pull and push say why not; no file system's package is even imported."""
    assert not guarded(LIBRARY, mirror, remote) & NETWORK


@pytest.mark.verify
def test_the_wrapper(mirror: Path) -> None:
    """An evaluation's encode, cold and warm."""
    loaded = guarded(WRAPPER, mirror, "s3://team/emb")
    assert "mteb" in loaded
    assert not loaded & {"s3fs", "aiobotocore"}


@pytest.mark.parametrize(
    "words",
    [
        ("ls", "{mirror}"),
        ("ls", "{mirror}", "--mirror", "--remote", "s3://team/emb"),
        ("info", "{mirror}", "--remote", "s3://team/emb"),
        ("info", "--settings"),
        ("search", "{mirror}", "a", "--json"),
        ("export", "{mirror}", "{mirror}.x", "--format", "npy", "-n", SPEC.namespace),
        ("check", "{mirror}", "--mirror"),
        ("evict", "{mirror}", "--max-size", "1GB", "--dry-run"),
    ],
    ids=lambda words: " ".join(words).replace("{mirror}", "CACHE"),
)
def test_commands(mirror: Path, words: tuple[str, ...]) -> None:
    """What looks at the mirror, with a remote in the settings."""
    arguments = [word.format(mirror=mirror) for word in words]
    assert not guarded(COMMAND, *arguments, CAS_CACHE_REMOTE="s3://team/emb") & NETWORK


def test_commands_that_need_the_network_say_so(run: Any, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, and exit code 1; nothing is asked."""
    monkeypatch.setenv("CAS_CACHE_OFFLINE", "1")
    for words in (
        ("pull", mirror),
        ("push", mirror),
        ("sync", mirror),
        ("status", mirror),
        ("check",),
        ("compact",),
        ("prune", "--yes"),
    ):
        result = run(*words, "--remote", "s3://team/emb")
        assert (result.code, result.out) == (1, "")
        assert "offline" in result.err
        assert result.err.count("\n") == 1
