"""CAS_CACHE_TEST_REMOTE: tests run in a prefix of the user's bucket, and nothing else in it is touched."""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from cas_cache.storage import open_storage
from paths import ROOT
from user_remote import VARIABLE, UserRemote

SECRET = "not-shown-anywhere"  # LocalStack takes any


@pytest.fixture
def user(localstack: Any, s3_remote: Any) -> UserRemote:
    """A user's bucket, with things of the user's in it."""
    environment = {**localstack.environment, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}
    remote = UserRemote(f"s3://{s3_remote.bucket}/tests", environment)
    bucket = open_storage(f"s3://{s3_remote.bucket}", s3_remote.storage_options)
    for name in ("mine", "tests/mine", "tests2/mine", "emb/packs/mine"):
        bucket.put(name, b"1")
    return remote


@pytest.fixture
def there(user: UserRemote, s3_remote: Any) -> Iterator[set[str]]:
    """What is in the bucket before, which is what must be there at the end."""
    storage = open_storage(f"s3://{s3_remote.bucket}", s3_remote.storage_options)
    before = {listed.path for listed in storage.list("")}
    assert len(before) == 4
    yield before
    assert {listed.path for listed in storage.list("")} == before


@pytest.mark.parametrize("url", ["gs://bucket/x", "bucket/prefix", "s3://", "s3:///x", "s3://key@bucket", "s3://b//x"])
def test_only_a_bucket_is_taken(url: str) -> None:
    """Anything else stops the run before a test writes somewhere."""
    with pytest.raises(ValueError, match=VARIABLE):
        UserRemote.of_environment({VARIABLE: url})


def test_without_the_variable_there_is_none() -> None:
    """Whatever AWS_* says."""
    assert UserRemote.of_environment({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}) is None
    assert UserRemote.of_environment({VARIABLE: " "}) is None


def test_the_environment_is_the_users_and_is_not_shown() -> None:
    """AWS_* and nothing else; the endpoint for S3 alone goes before the general one."""
    environment = {VARIABLE: "s3://bucket/x/", "AWS_PROFILE": "me", "HOME": "/x", "AWS_SECRET_ACCESS_KEY": SECRET}
    remote = UserRemote.of_environment(environment)
    assert remote is not None
    assert remote.url == "s3://bucket/x"
    assert dict(remote.environment) == {"AWS_PROFILE": "me", "AWS_SECRET_ACCESS_KEY": SECRET}
    assert remote.storage_options == {}
    assert SECRET not in repr(remote)
    both = {**environment, "AWS_ENDPOINT_URL": "http://a", "AWS_ENDPOINT_URL_S3": "http://b"}
    remote = UserRemote.of_environment(both)
    assert remote is not None
    assert remote.storage_options == {"endpoint_url": "http://b"}


@pytest.mark.verify
def test_a_prefix_is_emptied_and_its_neighbours_are_not(
    user: UserRemote, there: set[str], s3_remote: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that begins with the same letters, when there are more objects than one page or request takes."""
    with user.prefix() as url:
        assert url.startswith(f"{user.url}/test-")
        storage = open_storage(url, s3_remote.storage_options)
        for n in range(1_050):
            storage.put(f"emb/{n}", b"")
        storage.put("emb2/x", b"")
        neighbour = open_storage(f"{url}2", s3_remote.storage_options)
        neighbour.put("x", b"")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "the test's own")
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert os.environ["AWS_ACCESS_KEY_ID"] == "the test's own"
    assert "AWS_SECRET_ACCESS_KEY" not in os.environ
    assert storage.list("") == []
    assert [listed.path for listed in neighbour.list("")] == ["x"]
    neighbour.delete("x")


@pytest.mark.verify
def test_a_failing_test_leaves_nothing(user: UserRemote, there: set[str], s3_remote: Any) -> None:
    """The prefix is emptied all the same."""

    def test() -> None:
        with user.prefix() as url:
            open_storage(url, s3_remote.storage_options).put("x", b"")
            raise AssertionError("as a test fails")

    with pytest.raises(AssertionError, match="as a test fails"):
        test()


@pytest.mark.verify
def test_the_tests_run_in_it(user: UserRemote, there: set[str]) -> None:
    """As CONTRIBUTING says: those that need no more than a prefix pass, the others say why they are skipped."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/contract/test_localstack.py"]
    command += ["tests/contract/test_storage_contract.py", "-k", "round_trip or own_bucket or s3 or neighbouring"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **user.environment, VARIABLE: user.url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"which {VARIABLE} is not for" in done.stdout
    assert f"needs a whole bucket; {VARIABLE}" in done.stdout
    assert " passed, 2 skipped" in done.stdout
    assert SECRET not in done.stdout + done.stderr


def test_a_wrong_url_stops_the_run() -> None:
    """Before anything is collected."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/contract/test_localstack.py"]
    environment = {**os.environ, VARIABLE: "team/emb"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "is not like s3://bucket/prefix" in done.stdout + done.stderr
