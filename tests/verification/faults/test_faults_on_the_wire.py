"""Every kind of fault of HTTP between s3fs, with its retries, and a real S3 server: in every verb, and in flows."""

import os
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from cas_cache.errors import RemoteError
from cas_cache.format import layout
from cas_cache.storage import Storage, open_storage
from cas_cache.storage.interface import ObjectInfo
from cas_cache.testing import MemoryStorage, WrappedStorage
from fault_flows import FLOWS, happened, judge
from fault_injection import DAY
from fault_proxy import WIRE_KINDS, FaultProxy, WireFault
from repository_fixtures import Mirrors, Scene
from scale import SCALE
from storages import SPEC
from tiers import sampled

ON_THE_WIRE = sorted(WIRE_KINDS)

PAGE = 5
"""Keys of a page of a listing."""

IMPATIENT = {"connect_timeout": 2, "read_timeout": 1.0, "retries": {"mode": "standard", "max_attempts": 2}}
"""A client that gives up after a few seconds; on the first request, s3fs itself tries twice."""

SECONDS: dict[str, float] = {"stall": 0.2, "timeout": 1.5, "skew": 10 * DAY}


@pytest.fixture(scope="module")
def proxy(localstack: Any) -> Iterator[FaultProxy]:
    with FaultProxy(localstack.endpoint_url, page=PAGE) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make mirrors quick, and waits between attempts short: botocore draws them from up to 20 s."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr("cas_cache.repository.marker.MARKER_PAUSES", (0.0, 0.0))
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)


def fault(kind: Any, **told: Any) -> WireFault:
    return WireFault(kind, seconds=SECONDS.get(kind, 0.0), **told)


class Below(WrappedStorage):
    """A folder of a storage as a storage: s3fs takes as long to be made as a hundred requests."""

    def __init__(self, inner: Storage, folder: str) -> None:
        super().__init__(inner)
        self.folder = folder

    def get(self, path: str, start: int, stop: int) -> bytes:
        return self.inner.get(f"{self.folder}/{path}", start, stop)

    def put(self, path: str, data: bytes | memoryview, *, create_only: bool = False) -> None:
        self.inner.put(f"{self.folder}/{path}", data, create_only=create_only)

    def list(self, prefix: str) -> list[ObjectInfo]:
        found = self.inner.list(f"{self.folder}/{prefix}".rstrip("/"))
        return [replace(it, path=it.path.removeprefix(f"{self.folder}/")) for it in found]

    def delete(self, path: str) -> None:
        self.inner.delete(f"{self.folder}/{path}")


@pytest.fixture(scope="module")
def s3(localstack: Any, proxy: FaultProxy) -> Storage:
    """Return a bucket through the proxy."""
    bucket = f"test-{uuid.uuid4().hex}"
    localstack.create_bucket(bucket)
    options = {**localstack.storage_options(), "endpoint_url": proxy.url, "config_kwargs": IMPATIENT}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        return open_storage(f"s3://{bucket}/emb", options)


@pytest.fixture
def storage(s3: Storage, proxy: FaultProxy) -> Storage:
    """Return an empty storage through the proxy."""
    proxy.inject()
    return Below(s3, uuid.uuid4().hex)


WRONG_BYTES = {"flipped-bit", "truncated", "range-wrong"}
"""Kinds that a storage cannot see: whoever reads must prove what was read."""

WRONG_ENTRIES = {"stale-entry", "missing-entry", "cut-listing", "skew"}
"""Kinds that no client of a listing can see."""

HEALED = {
    "error",
    "error-after",
    "lost-answer",
    "timeout",
    "stall",
    "slow-down",
    "short-body",
    "range-ignored",
    "duplicate-entry",
    "failing-page",
    "reset",
    "reset-in-body",
    "lost-token",
    "error-in-ok",
    "empty-ok",
    "foreign",
    "redirect",
}
"""Kinds that happen once and do not matter: the client asks again, or the answer is right in spite of it."""


@pytest.mark.parametrize("kind", sampled(ON_THE_WIRE, keep=6))
def test_a_storage_tells(storage: Storage, proxy: FaultProxy, figure: Callable[[str, int], None], kind: Any) -> None:
    """Each verb: once, and always. The right answer, or an error of ours; never an empty listing, or a lost write."""
    body = bytes(range(100))
    for i in range(7):
        storage.put(f"folder/{i}", body)
    storage.list("folder")
    storage.delete("folder/6")
    listed = storage.list("folder")
    verbs: dict[str, Callable[[], Any]] = {
        "get": lambda: storage.get("folder/1", 10, 30),
        "list": lambda: [(it, it.modified) for it in storage.list("folder")],
        "put": lambda: storage.put("folder/1", body),
        "delete": lambda: storage.delete("folder/6"),
    }
    right = {"get": body[10:30], "list": [(it, it.modified) for it in listed]}
    cells = fired = 0
    for verb in sorted(fault(kind).verbs):
        # A client waits for each of these as long as it waits.
        for times in (1,) if kind == "timeout" and verb in {"list", "delete"} else (1, None):
            proxy.inject(fault(kind, verb=verb, times=times))
            try:
                answer = verbs[verb]()
            except RemoteError:
                answer = None
                assert not (times == 1 and kind in HEALED), kind
            else:
                if kind in WRONG_ENTRIES or (kind in WRONG_BYTES and verb == "get"):
                    assert answer != right[verb]
                elif verb in right:
                    assert [it[0] for it in answer] == listed if verb == "list" else answer == right[verb]
                else:
                    # What was acknowledged was done, or was so before.
                    assert verb == "delete" or storage.get("folder/1", 0, 100) == body
            assert proxy.fired, f"{kind} of {verb}"
            cells, fired = cells + 1, fired + len(proxy.fired)
            proxy.mend()
            assert [it.path for it in storage.list("folder")] == [it.path for it in listed]
    figure("fault kinds on the wire", 1)
    figure("fault cells on the wire", cells)
    figure("faults injected on the wire", fired)


# Flows ---------------------------------------------------------------------------------------------------------------

IN_CI = [
    ("lost-answer", "push", "put", "manifests/", 1),
    ("timeout", "push", "put", "manifests/", None),
    ("foreign", "first push", "put", "packs/", None),
    ("precondition-failed", "first push", "put", "cas-cache.json", 1),
    ("reset-in-body", "pull", "get", "packs/", 1),
    ("truncated", "pull", "get", "vectors/c", None),
    ("stale-entry", "pull", "list", "manifests", None),
    ("failing-page", "pull", "list", "manifests", None),
    ("range-wrong", "lazy pull", "get", "vectors/c", None),
    ("flipped-bit", "encode lazily", "get", "vectors/c", None),
    ("error-in-ok", "compact", "put", "packs/", 1),
    ("cut-listing", "prune", "list", "", 1),
]
"""What is injected each time: kind, flow, verb, path, how often."""


def cases() -> list[tuple[Any, str, Any, str, int | None]]:
    """Return those of CI; on a larger scale, every kind in every flow and verb in which it can happen."""
    if SCALE == 1:
        return list(IN_CI)
    every = [(kind, name, verb) for kind in ON_THE_WIRE for name in FLOWS for verb in sorted(WireFault(kind).verbs)]
    return [(*one, "", times) for one in every for times in (1, None)]


def copied(source: Storage, target: Storage) -> None:
    """Copy every object."""
    with ThreadPoolExecutor(8) as pool:
        paths = [(it.path, it.size) for it in source.list("")]
        list(pool.map(lambda it: target.put(it[0], source.get(it[0], 0, it[1])), paths))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Scene]:
    """Return what is there before each flow, made in memory."""
    made = {
        flow.scene: flow.scene(Mirrors(tmp_path_factory.mktemp("scene")), MemoryStorage()) for flow in FLOWS.values()
    }
    return {name: made[flow.scene] for name, flow in FLOWS.items()}


@pytest.mark.parametrize(("kind", "name", "verb", "path", "times"), sampled(cases(), keep=6))
def test_a_flow(  # noqa: PLR0917 - a cell
    storage: Storage,
    proxy: FaultProxy,
    scenes: dict[str, Scene],
    figure: Callable[[str, int], None],
    kind: Any,
    name: str,
    verb: Any,
    path: str,
    times: int | None,
) -> None:
    """Only errors of ours, no vector wrong, nothing acknowledged lost; without the fault the same command finishes."""
    flow, scene = FLOWS[name], scenes[name].again()
    copied(scene.storage, storage)
    if kind == "stale-entry":
        deleted = layout.manifest_path(SPEC.namespace, "e" * 64)
        storage.put(deleted, b"{}")
        storage.list("")
        storage.delete(deleted)
    proxy.inject(fault(kind, verb=verb, path=path, times=times))
    problems = happened(flow, scene, storage)
    fired = len(proxy.fired)
    proxy.mend()
    assert fired or SCALE > 1
    if fired and flow.tells and kind in WRONG_BYTES and times is None:
        assert problems, "nobody heard of the damage"
    left = replace(scene, storage=MemoryStorage())
    copied(storage, left.storage)
    judge(flow, left)
    figure("flows on the wire", 1)
    figure("faults injected on the wire", fired)
