"""`demo`: what a newcomer sees, and that it fails where the promise does not hold."""

import json
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cas_cache import demo
from cas_cache.mirror import Mirror
from cas_cache.repository import Repository
from cas_cache.storage import open_storage


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read a part of what is read, here and on the second machine."""
    monkeypatch.setattr(demo, "MODULES", ("json", "logging"))
    elsewhere = "import sys; import cas_cache.demo as demo; demo.MODULES = ('json', 'logging'); demo._second_machine()"
    run = subprocess.run

    def shortened(command: list[str], **options: Any) -> Any:
        assert command[1:] == ["-m", "cas_cache.demo"]
        return run([command[0], "-c", elsewhere], **options)

    monkeypatch.setattr(demo.subprocess, "run", shortened)


@pytest.mark.verify
def test_as_a_user_runs_it(tmp_path: Path) -> None:
    """In a process: a table, equal vectors, nothing encoded twice, and nothing left behind."""
    command = [sys.executable, "-m", "cas_cache", "demo"]
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {"PATH": "/usr/bin:/bin", "TMPDIR": str(temporary), "HOME": str(tmp_path), "COLUMNS": "80"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    cells = {name: numbers for name, *numbers in rows}
    encoded = {name: int(numbers[0].replace(",", "")) for name, numbers in cells.items()}
    assert encoded["no cache"] > encoded["cold cache"] > 1000
    assert (encoded["warm cache"], encoded["second machine"]) == (0, 0)
    assert int(cells["second machine"][1]) == 16
    assert "the same vectors, bit for bit" in done.stdout
    assert "cas-cache demo --keep demo" in done.stdout
    assert all(len(line) <= 80 for line in lines)
    assert list(temporary.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} <= {"temporary", ".cache"}


@pytest.mark.usefixtures("few")
@pytest.mark.verify
def test_what_is_kept_can_be_looked_at(run: Any, tmp_path: Path) -> None:
    """Each command that it tells to try next works."""
    result = run("demo", "--keep", tmp_path / "my demo", "--json")
    document = json.loads(result.out)
    assert (result.code, document["wrong"]) == (0, [])
    assert document["kept"] == str(tmp_path / "my demo")
    assert len({one["sha256"] for one in document["runs"]}) == 1
    assert len(document["next"]) == 4
    for line in document["next"]:
        first, *words = shlex.split(line)
        tried = run(*words)
        assert (first, tried.code) == ("cas-cache", 0), line
        assert tried.out
    again = run("demo", "--keep", tmp_path / "my demo")
    assert (again.code, "is not empty" in again.err) == (1, True)


@pytest.mark.usefixtures("few")
@pytest.mark.verify
def test_a_remote_is_used_and_left(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later demo encodes nothing, because somebody has; what the settings say of other caches does not count."""
    monkeypatch.setenv("CAS_CACHE_REMOTE", str(tmp_path / "mine"))
    monkeypatch.setenv("CAS_CACHE_OFFLINE", "0")
    first = json.loads(run("demo", "--remote", tmp_path / "team", "--json").out)
    assert (first["remote"], first["kept"]) == (str(tmp_path / "team"), None)
    assert Repository(open_storage(str(tmp_path / "team"), None)).open()
    second = json.loads(run("demo", "--remote", tmp_path / "team", "--json").out)
    assert [one["encoded"] for one in second["runs"][1:]] == [0, 0, 0]
    assert second["wrong"] == []
    assert "is " + str(tmp_path / "team") in run("demo", "--remote", tmp_path / "team").out
    assert not (tmp_path / "mine").exists()


def test_settings_that_forbid_it(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A named remote is not written to against the settings; options without a remote are usage."""
    assert run("demo", "--storage-option", "a=b").code == 2
    for name in ("CAS_CACHE_OFFLINE", "CAS_CACHE_READ_ONLY"):
        monkeypatch.setenv(name, "1")
        result = run("demo", "--remote", tmp_path / "team")
        assert (result.code, name in result.err) == (1, True)
        monkeypatch.delenv(name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("few")
@pytest.mark.verify
def test_offline_it_still_shows_itself(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own repository is a temporary directory, and no network."""
    monkeypatch.setenv("CAS_CACHE_OFFLINE", "1")
    monkeypatch.setenv("CAS_CACHE_READ_ONLY", "1")
    assert run("demo").code == 0


@pytest.mark.verify
@pytest.mark.usefixtures("few")
def test_a_broken_promise_is_exit_code_1(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vector that differs in one bit, and a text that is encoded again."""
    texts = demo.read_texts()
    plain = demo.run_plain(texts)
    right = [plain, replace(plain, encoded=texts.distinct), replace(plain, encoded=0), replace(plain, encoded=0)]
    assert demo.what_is_wrong(right, texts) == []
    assert len(demo.what_is_wrong([*right[:2], replace(right[2], encoded=1), right[3]], texts)) == 1
    assert len(demo.what_is_wrong([*right[:3], replace(right[3], sha256="0")], texts)) == 1
    assert len(demo.what_is_wrong([right[0], replace(right[1], encoded=texts.distinct + 1), *right[2:]], texts)) == 1
    called = demo.run_cached
    monkeypatch.setattr(demo, "run_cached", lambda *args: replace(called(*args), sha256="0"))
    result = run("demo")
    assert (result.code, "vectors differ" in result.out) == (1, True)


@pytest.mark.usefixtures("few")
def test_a_second_machine_that_fails_is_told(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the code of its process."""
    monkeypatch.setattr(demo, "sys", type("Sys", (), {"executable": "/bin/false"}))
    result = run("demo")
    assert (result.code, "ended with 1" in result.err) == (1, True)


def test_the_encoder_is_exact() -> None:
    """The same bits in batches of any size and order, unit length, and texts that are alike are near."""
    texts = ["", "a", "Return the key.", "Return the keys.", "Open a socket to a host.", "é模型", "x" * 5000]
    encoder = demo.Encoder()
    together = encoder(texts)
    assert (together.shape, together.dtype, encoder.seen) == ((7, 256), np.float32, 7)
    one_by_one = np.concatenate([encoder([text]) for text in texts])
    assert together.tobytes() == one_by_one.tobytes()
    assert encoder(texts[::-1])[::-1].tobytes() == together.tobytes()
    # The first has no n-gram: a zero vector, which is a vector like any other.
    np.testing.assert_allclose(np.linalg.norm(together[1:], axis=1), 1, rtol=1e-6)
    assert together[2] @ together[3] > 0.6 > abs(together[2] @ together[4])


@pytest.mark.usefixtures("few")
def test_texts_repeat(tmp_path: Path) -> None:
    """Some docstrings do, so that there is something to encode once."""
    texts = demo.read_texts()
    assert len(texts.queries) == len(texts.documents) > 20
    assert texts.distinct < len(texts)
    demo.run_cached("cold", texts, tmp_path / "mirror", str(tmp_path / "remote"))
    assert sum(ns.rows for ns in Mirror(tmp_path / "mirror").namespaces()) == texts.distinct


@pytest.mark.verify
def test_on_s3(s3_remote: Any, run: Any, few: None) -> None:
    """With storage options, which the second machine is told on its standard input; then `ls --repository` shows it.

    The server comes first: `few` replaces `subprocess.run`, by which it is installed.
    """
    options = [f"--storage-option={key}={value}" for key, value in s3_remote.storage_options.items()]
    document = json.loads(run("demo", "--remote", s3_remote.url, "--json", *options).out)
    assert document["wrong"] == []
    assert [one["encoded"] == 0 for one in document["runs"]] == [False, False, True, True]
    assert document["runs"][3]["bytes_down"] > 0
    listed = json.loads(run("ls", s3_remote.url, "--repository", "--json", *options).out)["namespaces"]
    assert sum(one["rows"] for one in listed) == document["distinct"]
