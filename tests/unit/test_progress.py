"""Progress bars: on where they are asked for or a terminal is, off by every switch."""

import os
import pty
import re
import subprocess
import sys
import termios
import time

import numpy as np
import pytest

from cas_cache import EmbeddingCache, EncoderSpec, progress
from cas_cache.progress import bar_of, is_shown, plain_lines, progress_bar, progress_bar_if_slow

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
    """Nothing is written where they are off, or nobody asked and stderr is not a terminal."""
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
    """CAS_CACHE_PROGRESS=1 shows them where there is not a terminal."""
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
    with progress_bar("encode", 3, progress=False) as advance:
        advance(3)
    progress_bar_if_slow("look up", 3, progress=None)(3)
    with progress_bar("encode", 0, progress=True):
        pass


def test_a_look_up_shows_a_bar_if_it_takes_long(capsys, monkeypatch):
    """A bar appears once it took a second, and goes when all is looked up; a quick one shows nothing."""
    advance = progress_bar_if_slow("look up", 3, progress=True)
    for _ in range(3):
        advance(1)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "SLOW_SECONDS", 0.0)
    advance = progress_bar_if_slow("look up", 3, progress=True)
    for _ in range(3):
        advance(1)
    assert "look up" in capsys.readouterr().err


# Lines in a log ----------------------------------------------------------------------------------------------------


def test_lines_of_a_log(capsys, monkeypatch):
    """What is done, of how much, since when, the rate and the time that is left; the last line stays."""
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with plain_lines(), bar_of("pull", 4 * 10**9, None) as bar:
        bar.update(10**9)
        bar.update(3 * 10**9)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("pull: 100% 4.00G/4.00G [00:0")
    for line in lines:
        assert re.fullmatch(r"pull: +\d+% \S+/4\.00G \[[\d:]+<[\d:?]+, +\S+B/s\]", line)
    with plain_lines(), bar_of("export", 0, None, "rows") as bar:
        bar.total = 40_000
        bar.update(10_000)
    assert "export:  25% 10000/40000 [00:0" in capsys.readouterr().err


def test_quick_work_writes_no_line(capsys):
    """Neither at its start nor at its end."""
    with plain_lines():
        for total in (0, 3):
            with bar_of("pull", total, None) as bar:
                bar.update(3)
    assert capsys.readouterr().err == ""


def test_a_bar_and_its_stand_in_take_the_same_calls(capsys):
    """Code that reports progress does not ask if it is shown."""
    for shown in (True, False):
        with bar_of("pull", 0, shown) as bar:
            bar.total = 3
            bar.update(2)
            bar.update(0)
            bar.clear()
            assert (bar.total, bar.n) == (3, 2)
        bar.close()
    with progress_bar("nothing", 0, progress=True) as advance:
        advance(0)
    assert "nothing" not in capsys.readouterr().err


def test_without_stderr_nothing_is_shown(monkeypatch):
    """As in a program without a console."""
    monkeypatch.setattr(sys, "stderr", None)
    assert [is_shown(switch) for switch in (True, False, None)] == [False, False, False]
    with plain_lines(), bar_of("pull", 3, None) as bar:
        bar.update(3)


def test_where_lines_are_written(capsys, monkeypatch):
    """Only inside `plain_lines`, only where there is not a terminal, and by no switch that says no."""
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)

    def shown(switch: bool | None) -> str:
        with progress_bar("export", 4, switch, "rows") as advance:
            advance(2)
        progress_bar_if_slow("look up", 2, switch)(2)
        return capsys.readouterr().err

    assert shown(None) == "", "the library writes none"
    with plain_lines():
        assert "export:  50% 2/4 [" in (text := shown(None))
        assert "look up: 100% 2/2 [" in text
        assert "\r" not in text
        assert shown(False) == ""
        assert "\r" in shown(True)
    assert shown(None) == ""


QUICK = """
import sys
from cas_cache import progress
progress.LINE_SECONDS = 0.0
from cas_cache.cli import main
main()
"""


def command(*words, **environment):
    """A command whose lines come at every step, in a log."""
    call = [sys.executable, "-c", QUICK, *map(str, words)]
    environment = {**os.environ, **environment}
    return subprocess.run(call, capture_output=True, text=True, check=True, timeout=60, env=environment)


@pytest.mark.verify
def test_commands_write_lines_to_a_log(tmp_path):
    """Whatever takes long says how far it is; -q and CAS_CACHE_PROGRESS=0 say nothing, 1 shows bars."""
    namespace, remote = SPEC.namespace, ("--remote", tmp_path / "r")
    for part in ("ab", "cd", "ef"):
        with EmbeddingCache(tmp_path / "m", remote=str(tmp_path / "r")) as cache:
            cache.encode(list(part), SPEC, embed)
    EmbeddingCache(tmp_path / "m").put(["z"], np.ones((1, 2), np.float32), SPEC)
    assert command("pull", tmp_path / "n", *remote, "-q").stderr == ""
    assert command("pull", tmp_path / "o", *remote, CAS_CACHE_PROGRESS="0").stderr == ""
    bar = command("pull", tmp_path / "p", *remote, CAS_CACHE_PROGRESS="1").stderr
    assert bar.startswith("\npull"), "a carriage return, which reads as a new line"
    for words, line in (
        (("pull", tmp_path / "q", *remote), "pull:  33% 16.0/48.0 ["),
        (("push", tmp_path / "m", *remote), "push: 100% 8.00/8.00 ["),
        (("check", *remote), "check: 100% 4/4 ["),
        (("check", *remote, "--read-data"), "read: "),
        (("export", tmp_path / "m", tmp_path / "x", "--format", "npy", "-n", namespace), "export: 100% 7/7 ["),
        (("compact", *remote, "--at-least", "2"), "compact: "),
    ):
        result = command(*words)
        assert line in result.stderr
        assert not any(line.isspace() or not line for line in result.stderr.splitlines())
        assert result.stdout
