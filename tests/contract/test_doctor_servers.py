"""The doctor with real servers: LocalStack, rclone, Google's emulator, Azurite; and its S3 policies, enforced.

LocalStack permits everything. `Gateway` stands in front of it and enforces a policy as S3 does, so that real pushes and
pulls use the policies that the doctor prints and show that they are minimal.
"""

import copy
import functools
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cas_cache import EmbeddingCache
from cas_cache.cli import main
from cas_cache.doctor import DoctorReport, Role, Status, examine_remote
from cas_cache.doctor.policies import s3_policy
from cas_cache.doctor.probe import Probe
from cas_cache.errors import AccessDenied, CasCacheError
from cas_cache.repository import Repository
from cas_cache.storage import open_storage
from cas_cache.testing import StorageContract
from policy_gateway import Gateway, Policy
from servers import SECRET, Place
from storages import SPEC, Encoder, texts

pytestmark = pytest.mark.verify

RAW_BODIES = pytest.mark.filterwarnings("ignore:Sending a large body directly with raw bytes:ResourceWarning")


@pytest.fixture
def gateway(localstack: Any, s3_remote: Any) -> Iterator[Gateway]:
    """Run a gateway in front of LocalStack, which checks no signatures and therefore permits this."""
    with Gateway(s3_remote.storage_options["endpoint_url"]) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def guarded(s3_remote: Any, gateway: Gateway) -> Place:
    """Return the bucket behind the gateway."""
    return Place(s3_remote.url, {**s3_remote.storage_options, "endpoint_url": gateway.endpoint})


def bad(report: DoctorReport) -> dict[str, str]:
    return {f.name: str(f.status) for f in report.findings if f.status in {Status.WARN, Status.FAIL}}


def told(report: DoctorReport, name: str) -> str:
    return " ".join(f"{f.what} {f.means} {f.repair}" for f in report.findings if f.name == name)


def examined(opener: Any, role: Role = Role.WRITER, **options: Any) -> DoctorReport:
    report = DoctorReport(role=role)
    examine_remote(report, opener, **{"trial": True, **options})
    return report


def push(place: Place, directory: Path, count: int = 3) -> None:
    with EmbeddingCache(
        directory, remote=place.url, storage_options=place.options, push="manual", on_remote_error="raise"
    ) as cache:
        cache.encode(texts(count), SPEC, Encoder())
        cache.push()


def pull(place: Place, directory: Path) -> None:
    with EmbeddingCache(
        directory,
        remote=place.url,
        storage_options=place.options,
        push="manual",
        on_remote_error="raise",
        read_only=True,
    ) as cache:
        assert cache.pull().rows > 0


# Policies, enforced ----------------------------------------------------------------------------------------------


def test_the_policies_work(guarded: Place, gateway: Gateway, tmp_path: Path) -> None:
    """A writer creates the repository and pushes, a reader pulls, a maintainer runs a trial; nothing is refused."""
    gateway.policy = s3_policy(guarded.url, Role.WRITER)
    push(guarded, tmp_path / "writer")
    gateway.policy = s3_policy(guarded.url, Role.READER)
    pull(guarded, tmp_path / "reader")
    report = examined(guarded, Role.READER)
    assert bad(report) == {}
    assert gateway.refused == []
    gateway.policy = s3_policy(guarded.url, Role.MAINTAINER)
    assert bad(examined(guarded)) == {}
    assert gateway.refused == []
    gateway.policy = s3_policy(guarded.url, Role.READER)
    with pytest.raises(AccessDenied):
        push(guarded, tmp_path / "writer", 5)


def test_the_policy_of_a_whole_bucket_works(guarded: Place, gateway: Gateway, tmp_path: Path) -> None:
    """Without a prefix there is no condition."""
    place = Place(guarded.url.removesuffix("/emb"), guarded.options)
    gateway.policy = s3_policy(place.url, Role.WRITER)
    push(place, tmp_path / "writer")
    pull(place, tmp_path / "reader")
    assert gateway.refused == []


def lessened(policy: Policy) -> Iterator[Policy]:
    """Yield the policy without one of its actions, resources or prefixes, for each of them."""
    for i, statement in enumerate(policy["Statement"]):
        for name in ("Action", "Resource"):
            for k in range(len(statement[name])):
                less = copy.deepcopy(policy)
                del less["Statement"][i][name][k]
                yield less
        for k in range(len(statement.get("Condition", {}).get("StringLike", {}).get("s3:prefix", []))):
            less = copy.deepcopy(policy)
            del less["Statement"][i]["Condition"]["StringLike"]["s3:prefix"][k]
            yield less


def test_the_policies_are_the_least(s3_remote: Any, guarded: Place, gateway: Gateway, tmp_path: Path) -> None:
    """If any one part is missing, some request of that role is refused."""
    tried = 0
    for less in lessened(s3_policy(guarded.url, Role.MAINTAINER)):
        tried += 1
        gateway.policy, gateway.refused = less, []
        try:
            push(guarded, tmp_path / f"writer-{tried}")
            pull(guarded, tmp_path / f"reader-{tried}")
            Repository(guarded()).delete(["packs/none"])
        except CasCacheError:
            pass
        assert gateway.refused, json.dumps(less)
        gateway.policy = None
        storage = open_storage(s3_remote.url, s3_remote.storage_options)
        for listed in storage.list(""):
            storage.delete(listed.path)
    assert tried == 10


@pytest.mark.parametrize(
    ("action", "role", "expected"),
    [
        ("s3:ListBucket", Role.READER, {"list": "FAIL"}),
        ("s3:GetObject", Role.READER, {"get": "FAIL"}),
        ("s3:PutObject", Role.WRITER, {"put": "FAIL"}),
        ("s3:DeleteObject", Role.WRITER, {"delete": "warn", "cleaning": "warn"}),
    ],
)
def test_a_missing_permission_is_named(
    guarded: Place, gateway: Gateway, tmp_path: Path, action: str, role: Role, expected: dict[str, str]
) -> None:
    """The doctor names the action and prints the policy that grants it, for the root of the repository."""
    push(guarded, tmp_path / "writer")
    policy = s3_policy(guarded.url, Role.MAINTAINER)
    for statement in policy["Statement"]:
        statement["Action"] = [name for name in statement["Action"] if name != action]
    gateway.policy = policy
    report = examined(guarded, role)
    assert bad(report) == expected
    assert f"Grant {action};" in told(report, next(iter(expected)))
    needed = Role.MAINTAINER if action == "s3:DeleteObject" else role
    assert json.loads(report.policy) == s3_policy(guarded.url, needed)


def test_missing_names_are_forbidden_to_who_lists_other_prefixes(
    guarded: Place, gateway: Gateway, tmp_path: Path
) -> None:
    """S3 answers 403 to a GET of a missing name outside of the prefixes that may be listed."""
    push(guarded, tmp_path / "writer")
    policy = s3_policy(guarded.url, Role.READER)
    policy["Statement"][0]["Condition"]["StringLike"]["s3:prefix"] = ["emb/manifests/", "emb/doctor", "emb/doctor/"]
    gateway.policy = policy
    report = examined(guarded, Role.READER)
    assert bad(report) == {"missing": "FAIL"}
    assert "Grant s3:ListBucket;" in told(report, "missing")


# Servers ---------------------------------------------------------------------------------------------------------


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["cas-cache", "doctor", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    assert captured.err == ""
    return int(ended.value.code or 0), captured.out


def test_localstack(
    s3_remote: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command works as users run it, including other processes: no warning, and the bucket is left unchanged."""
    monkeypatch.setenv("CAS_CACHE_DIR", str(tmp_path))
    options = [f"--storage-option={key}={value}" for key, value in s3_remote.storage_options.items()]
    code, out = run(monkeypatch, capsys, s3_remote.url, "--test-remote", *options)
    assert code == 0, out
    assert out.splitlines()[-1].endswith(" 0 warn, 0 FAIL")
    assert "another-process" in out
    storage = open_storage(s3_remote.url, s3_remote.storage_options)
    assert storage.list("") == []
    assert list(tmp_path.iterdir()) == []


def test_a_bucket_that_is_not_there(s3_remote: Any) -> None:
    """If the bucket is missing, nothing else is tried."""
    report = examined(Place("s3://no-such-bucket-of-ours/emb", s3_remote.storage_options))
    assert bad(report) == {"reach": "FAIL"}
    assert "Check its name and region" in told(report, "reach")


def test_a_server_that_pays_no_heed_to_create_only(rclone_place: Place) -> None:
    """Rclone accepts If-None-Match and overwrites; s3:// declares that the storage does not."""
    place = rclone_place.fresh()
    report = examined(functools.partial(open_storage, place.url, place.options))
    assert bad(report) == {"create-only": "warn"}
    assert "Two people who make a repository at the same moment may end with two ids" in told(report, "create-only")
    assert "many-create-one-name" in told(report, "not-tried")
    assert place().list("") == []


def test_seaweedfs(seaweed_place: Place) -> None:
    """SeaweedFS keeps every guarantee, and nothing is left behind."""
    place = seaweed_place.fresh()
    assert bad(examined(place)) == {}
    assert place().list("") == []


def test_wrong_credentials(rclone_place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong credentials are told apart from a missing permission; neither a policy nor a secret is printed."""
    wrong = "x" + SECRET
    report = examined(rclone_place.fresh().with_options(secret=wrong), mirror_repository="0" * 32)
    assert bad(report) == {"credentials": "FAIL"}
    assert "no permission changes that" in told(report, "credentials")
    assert report.policy == ""
    assert SECRET not in json.dumps(report.as_json())
    assert wrong not in json.dumps(report.as_json())
    report = examined(Place("s3://team/emb", {"endpoint_url": rclone_place.options["endpoint_url"]}))
    assert bad(report) == {"credentials": "FAIL"}


class FewObjects(StorageContract):
    """The contract with few objects, because the emulator rewrites its index at every PUT."""

    many = 300


@RAW_BODIES
def test_google(google_place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulator keeps all guarantees but create-only."""
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    place = google_place.fresh()
    opener = functools.partial(open_storage, place.url, place.options)
    report = examined(opener, trial=False)
    Probe(opener, report, marked=False).run(FewObjects())
    assert bad(report) == {"create-only": "warn"}
    assert place().list("") == []


@RAW_BODIES
def test_azure(azure_place: Place) -> None:
    """Azurite keeps every guarantee; a wrong key is reported as credentials, not as a permission."""
    place = azure_place.fresh()
    assert bad(examined(place)) == {}
    assert place().list("") == []
    wrong = place.options["connection_string"].replace("Eby8", "AAAA")
    report = examined(place.with_options(connection_string=wrong))
    assert bad(report) == {"credentials": "FAIL"}
    assert "AAAA" not in json.dumps(report.as_json())
