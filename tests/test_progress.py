"""Progress bars: on where they are asked for or a terminal is, off by every switch."""

import os
import pty
import subprocess
import sys
import termios
import time

import numpy as np
import pytest

from cas_cache import EmbeddingCache, EncoderSpec, progress
from cas_cache.progress import counting, counting_if_slow

SPEC = EncoderSpec(model="m/m", revision="1")


def embed(texts):
    return np.array([[len(text), 1] for text in texts], np.float32)


def slowly(texts):
    time.sleep(0.15)  # tqdm writes ten times a second at most
    return embed(texts)


def bars(capsys: pytest.CaptureFixture[str]) -> set[str]:
    """Return what the bars were of that were shown."""
    shown = capsys.readouterr().err.replace("\r", "\n").splitlines()
    return {line.partition(":")[0] for line in shown if ":" in line}


def test_encoding_shows_items_across_chunks(tmp_path, capsys):
    """One bar counts what is encoded of what is missing, chunk by chunk; a warm call shows none."""
    with EmbeddingCache(tmp_path, progress=True, chunk_items=2) as cache:
        cache.encode(["a", "b"], SPEC, embed)
        capsys.readouterr()
        cache.encode(["a", "b", "c", "d", "e", "f", "g", "c"], SPEC, slowly)
        shown = capsys.readouterr().err
        assert "encode" in shown
        assert all(state in shown for state in ("0/5", "2/5", "4/5"))
        cache.encode(["a", "b", "c"], SPEC, embed)
        assert capsys.readouterr().err == ""


def test_every_bar_is_shown_where_it_is_asked_for(tmp_path, capsys):
    """Encoding, pushing and pulling show a bar each with progress=True."""
    with EmbeddingCache(tmp_path / "a", remote=str(tmp_path / "r"), progress=True, push="manual") as cache:
        cache.encode(["a"], SPEC, embed)
        assert bars(capsys) == {"pull", "encode"}
        cache.push()
        assert bars(capsys) == {"push"}
    with EmbeddingCache(tmp_path / "b", remote=str(tmp_path / "r"), progress=True) as cache:
        cache.encode(["a"], SPEC, embed)
        assert bars(capsys) == {"pull"}


@pytest.mark.parametrize("switch", ["argument", "setting", "no terminal"])
def test_bars_are_off(switch, tmp_path, capsys, monkeypatch):
    """Nothing is written where they are off, or nobody asked and stderr is no terminal."""
    if switch == "setting":
        monkeypatch.setenv("CAS_CACHE_PROGRESS", "0")
    options = {"progress": False} if switch == "argument" else {}
    with EmbeddingCache(tmp_path / "a", remote=str(tmp_path / "r"), **options) as cache:
        cache.encode(["a"], SPEC, embed)
        cache.push()
    with EmbeddingCache(tmp_path / "b", remote=str(tmp_path / "r"), **options) as cache:
        cache.encode(["a"], SPEC, embed)
    assert capsys.readouterr().err == ""


def test_the_setting_turns_them_on(tmp_path, capsys, monkeypatch):
    """CAS_CACHE_PROGRESS=1 shows them where there is no terminal."""
    monkeypatch.setenv("CAS_CACHE_PROGRESS", "1")
    with EmbeddingCache(tmp_path) as cache:
        cache.encode(["a"], SPEC, embed)
    assert bars(capsys) == {"encode"}


def test_a_call_may_turn_them_off(tmp_path, capsys):
    """The bars of one call, the pull in it included, go by that call's switch."""
    from cas_cache.identity import batch_of_texts

    with EmbeddingCache(tmp_path / "a", remote=str(tmp_path / "r"), progress=False) as cache:
        cache.encode(["a"], SPEC, embed)
    with EmbeddingCache(tmp_path / "b", remote=str(tmp_path / "r"), progress=True, push="manual") as cache:
        cache.encode_items(
            batch_of_texts(["a", "b"]), SPEC, lambda at: np.ones((len(at), 2), np.float32), progress=False
        )
    assert capsys.readouterr().err == ""


def test_a_terminal_has_them(tmp_path):
    """With nothing asked for, a process whose stderr is a terminal shows the bar."""
    code = (
        "import numpy, sys; from cas_cache import EmbeddingCache, EncoderSpec\n"
        "spec = EncoderSpec(model='m/m', revision='1')\n"
        "EmbeddingCache(sys.argv[1]).encode(['a'], spec, lambda t: numpy.ones((1, 2), 'float32'))\n"
    )
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], stderr=theirs, check=True, timeout=60)
    os.set_blocking(ours, False)
    assert b"encode" in os.read(ours, 65536)
    os.close(theirs)
    os.close(ours)


def test_tqdm_waits_until_it_is_needed(monkeypatch):
    """What shows no bar does not import tqdm."""
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with counting("encode", 3, progress=False) as tell:
        tell(3)
    counting_if_slow("look up", 3, progress=None)(3)
    with counting("encode", 0, progress=True):
        pass


def test_a_look_up_shows_a_bar_if_it_takes_long(capsys, monkeypatch):
    """A bar appears once it took a second, and goes when all is looked up; a quick one shows nothing."""
    tell = counting_if_slow("look up", 3, progress=True)
    for _ in range(3):
        tell(1)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "SLOW_SECONDS", 0.0)
    tell = counting_if_slow("look up", 3, progress=True)
    for _ in range(3):
        tell(1)
    assert "look up" in capsys.readouterr().err
