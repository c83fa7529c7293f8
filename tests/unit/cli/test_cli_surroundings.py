"""Commands on streams that are not UTF-8, under a locale without it, and for users without a home directory."""

import io
import json
import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cas_cache import EmbeddingCache, EncoderSpec
from cas_cache.cli import main
from tiers import sampled

SPEC = EncoderSpec(model="組織/モデル", revision="abc1234", prompt="検索クエリ: 😀 ", role="query")
TEXTS = ["ä", "日本", "x"]


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """Return a mirror whose path, repository, spec and texts are not ASCII."""
    with EmbeddingCache(tmp_path / "ミラー", remote=tmp_path / "répo") as cache:
        cache.put(TEXTS, np.arange(6, dtype=np.float32).reshape(3, 2), SPEC)
    return tmp_path / "ミラー"


def printed(monkeypatch: pytest.MonkeyPatch, encoding: str, *words: object) -> tuple[int, bytes, bytes]:
    """Run a command on strict streams of an encoding; return its exit code and what it wrote to each."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    monkeypatch.setattr(sys, "argv", ["cas-cache", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    out, err = (stream.buffer.getvalue() for stream in streams)  # type: ignore[attr-defined]
    return ended.value.code, out, err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
@pytest.mark.parametrize(
    ("words", "code"),
    sampled(
        [
            (("ls", "{mirror}"), 0),
            (("info", "{mirror}", "--namespace", SPEC.namespace[:12]), 0),
            (("status", "{mirror}"), 0),
            (("search", "{mirror}", "日本", "-k", "2"), 0),
            (("search", "{mirror}", "日本語"), 1),
            (("push", "{mirror}", "--model", "モデ"), 1),
            (("pull", "{mirror}", "--remote", "{mirror}é"), 1),
            (("ls", "-v", "{mirror}é"), 1),
            (("--nonsense-é",), 2),
        ],
        keep=4,
    ),
)
def test_no_encoding_is_too_small(
    mirror: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, words: tuple[str, ...], code: int
) -> None:
    """What an encoding lacks is escaped: the exit code is the same as in UTF-8, and there is no error of Python's."""
    words = tuple(word.format(mirror=mirror) for word in words)
    ended, out, err = printed(monkeypatch, encoding, *words)
    assert ended == code, err
    assert b"Unicode" not in out + err
    assert (out + err).decode(encoding)


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_json_is_ascii(mirror: Path, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    """Whatever the stream can carry; every letter is in it, as an escape, and DEL is one, too."""
    spec = EncoderSpec(model="a\x7fb", revision="1")
    with EmbeddingCache(mirror) as cache:
        cache.put(["x"], np.ones((1, 2), np.float32), spec)
    _, out, _ = printed(monkeypatch, encoding, "ls", mirror, "--json")
    assert out.isascii()
    found = {one["model"]: one["prompt"] for one in json.loads(out)["namespaces"]}
    assert found == {SPEC.model: SPEC.prompt, "a\x7fb": ""}
    assert json.loads(out)["mirror"] == str(mirror)


@pytest.mark.verify
def test_the_demo_on_ascii(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A rich table, and the paths of what is kept."""
    code, out, err = printed(monkeypatch, "cp1252", "demo", "--keep", tmp_path / "dëmo-日")
    assert (code, err) == (0, b"")
    assert b"warm cache" in out
    assert rb"\u65e5" in out


def test_a_locale_without_utf_8(mirror: Path) -> None:
    """Texts of the command line are read as UTF-8, paths as the system has them, and JSON has the letters."""
    environment = {**os.environ, "LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment.pop("PYTHONIOENCODING", None)
    command = [sys.executable, "-m", "cas_cache", "search", mirror, "日本", "-k", "1", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["model"], document["queries"][0]["query"]) == (SPEC.model, "日本")


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """No HOME, and a user id that no entry knows, as in many containers."""

    def unknown(uid: int) -> object:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "USER", "LOGNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.usefixtures("homeless")
def test_without_a_home(run: Any, mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that is named is enough; the default one is refused, and nothing called ~ is made."""
    monkeypatch.chdir(tmp_path)
    with EmbeddingCache(mirror) as cache:
        assert cache.get(TEXTS, SPEC)[1].all()
    for words in (("ls", mirror), ("status", mirror), ("pull", tmp_path / "new", "--remote", tmp_path / "répo")):
        assert (run(*words).code, run(*words).err) == (0, ""), words
    assert run("doctor", mirror, "--json").code == 0
    for words in (("ls",), ("pull", f"file://{tmp_path / 'répo'}"), ("keys", "new", "alice"), ("doctor",)):
        ended = run(*words)
        assert (ended.code, "Name a directory" in ended.err) == (1, True), (words, ended)
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("home", ["/dev/null", "/proc/1/none", "/" + "x" * 5000])
def test_a_home_that_cannot_be_used(run: Any, mirror: Path, monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    """It may be no directory, nobody's, or too long a name: settings are not looked for there."""
    monkeypatch.setenv("HOME", home)
    assert (run("ls", mirror).code, run("push", mirror).code) == (0, 0)
