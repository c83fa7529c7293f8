"""A spec that an older version wrote with a credential in it: found, never copied, and dropped."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cas_cache import EmbeddingCache, EncoderSpec
from cas_cache.errors import CredentialInSpec

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "hf_" + "s3cReTvAlUe" * 4
DOCUMENT = {
    "fields": ["text"],
    "model": "org/m",
    "params": {"experiment": {"token": SECRET}},
    "prompt": "",
    "revision": "abc1234",
    "role": None,
    "scope": {},
}
OLD = EncoderSpec.from_canonical(json.dumps(DOCUMENT, sort_keys=True, separators=(",", ":")).encode())
GOOD = EncoderSpec(model="org/m", revision="abc1234")


def vectors(texts: list[str]) -> np.ndarray:
    return np.array([[len(text), 1.0] for text in texts], np.float32)


def cli(*args: str) -> tuple[int, str]:
    """Run a command in a process of its own; return its exit code and all that it printed."""
    done = subprocess.run([sys.executable, "-m", "cas_cache", *args], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + (done.stderr if "--json" not in args or done.returncode > 1 else "")


@pytest.fixture
def older_version(tmp_path: Path) -> Path:
    """A mirror and a repository of a version that wrote what it was given, with one good namespace beside it."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("mirror.mirror", "repository.repository", "sync.pushing"):
            patch.setattr(f"cas_cache.{module}.check_no_credentials", lambda _: None)
        with EmbeddingCache(tmp_path / "mirror", remote=tmp_path / "remote", push="manual") as cache:
            for spec in (OLD, GOOD):
                cache.encode(["a", "bb"], spec, vectors)
            cache.push()
            for spec in (OLD, GOOD):
                cache.encode(["ccc"], spec, vectors)
    return tmp_path


def test_the_secret_was_really_written(older_version):
    """The fixture is what it says."""
    assert SECRET in (older_version / "mirror" / "namespaces" / OLD.namespace / "spec.json").read_text()
    assert SECRET in (older_version / "remote" / "specs" / f"{OLD.namespace}.json").read_text()


@pytest.mark.verify
def test_check_finds_it_and_does_not_show_it(older_version):
    """In the repository and in the mirror, as text and as JSON."""
    for args in (["check", "--remote", f"{older_version}/remote"], ["check", f"{older_version}/mirror", "--mirror"]):
        code, said = cli(*args)
        assert code == 1
        assert "credential" in said
        assert "params['experiment']['token']" in said
        assert SECRET not in said
        code, said = cli(*args, "--json")
        findings = json.loads(said)["findings"]
        assert [f["namespace"] for f in findings if "credential" in f["kind"]] == [OLD.namespace]
        assert SECRET not in said


@pytest.mark.verify
def test_no_command_shows_it(older_version):
    """Everything that prints a spec."""
    mirror, remote = f"{older_version}/mirror", f"{older_version}/remote"
    for args in (
        ["info", mirror, "--namespace", OLD.namespace],
        ["ls", mirror],
        ["ls", "--remote", remote, "--repository"],
        ["status", mirror, "--remote", remote],
        ["push", mirror, "--remote", remote, "-vv"],
        ["pull", mirror, "--remote", remote, "-vv"],
    ):
        for more in ([], ["--json"]):
            code, said = cli(*args, *more)
            assert SECRET not in said, args
            assert code == 0 or args[0] in ("push", "pull"), said


def test_it_is_neither_pushed_nor_pulled_and_the_rest_is(older_version, caplog):
    """One bad namespace must not stop a team."""
    caplog.set_level("DEBUG")
    with EmbeddingCache(older_version / "mirror", remote=older_version / "remote", push="manual") as cache:
        report = cache.push()
        assert report.packs == 1
        assert [type(problem) for problem in report.problems] == [CredentialInSpec]
    for lazy in (False, True):
        with EmbeddingCache(older_version / f"new{lazy}", remote=older_version / "remote", lazy=lazy) as cache:
            report = cache.pull_keys() if lazy else cache.pull()
            assert [type(problem) for problem in report.problems] == [CredentialInSpec]
            assert cache.mirror.ids() == [GOOD.namespace]
            assert cache.encode(["a", "ccc"], GOOD, vectors).tolist() == [[1, 1], [3, 1]]
            assert cache.stats.encoded == 0
    assert SECRET not in caplog.text


def test_a_spec_with_a_credential_is_not_written(tmp_path):
    """A spec that was read from a file is not made by the constructor."""
    with EmbeddingCache(tmp_path / "mirror", remote=tmp_path / "remote", push="manual") as cache:
        with pytest.raises(CredentialInSpec):
            cache.encode(["a"], OLD, vectors)
        with pytest.raises(CredentialInSpec):
            cache.repository.publish_spec(OLD)
    assert not (tmp_path / "mirror" / "namespaces").exists()
    (tmp_path / "spec.json").write_bytes(OLD.canonical())


@pytest.mark.verify
def test_it_can_be_dropped(older_version):
    """As the documentation says."""
    code, said = cli("drop", "--remote", f"{older_version}/remote", "--namespace", OLD.namespace, "--yes", "--force")
    assert (code, SECRET in said) == (0, False), said
    code, said = cli("check", "--remote", f"{older_version}/remote")
    assert code == 0, said
    files = [path for path in older_version.joinpath("remote").rglob("*") if path.is_file()]
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
