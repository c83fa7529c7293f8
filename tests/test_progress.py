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
from cas_cache.progress import BYTES, Lines, plain_lines, progress_bar, progress_bar_if_slow

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


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def written(total: int, steps: list[tuple[float, int]], unit: str = BYTES) -> list[str]:
    """The lines of work that does so much after so many seconds, step by step."""
    clock, lines = Clock(), []
    with Lines("pull", total, unit, clock=clock, write=lines.append) as told:
        for seconds, done in steps:
            clock.now += seconds
            told.update(done)
    return lines


def test_a_line_every_ten_seconds_and_one_at_the_end():
    """With what is done, the rate, and the time that is left."""
    assert written(4 * 10**9, [(5, 10**8), (5, 9 * 10**8), (9, 10**8), (1, 9 * 10**8), (20, 2 * 10**9)]) == [
        "pull: 1.0 of 4.0 GB, 100.0 MB/s, 30 s left",
        "pull: 2.0 of 4.0 GB, 100.0 MB/s, 20 s left",
        "pull: 4.0 of 4.0 GB, 100.0 MB/s",
        "pull: 4.0 GB in 40 s, 100.0 MB/s",
    ]


def test_quick_work_writes_no_line():
    """Nor does work without an end that anybody waits for."""
    assert written(10**9, [(3, 5 * 10**8), (6.9, 5 * 10**8)]) == []
    assert written(10, []) == []


def test_lines_of_items_and_of_what_has_no_known_end():
    """Counts have no prefixes; what is not known is not guessed."""
    assert written(40_000, [(12, 10_000), (1, 30_000)], "rows") == [
        "pull: 10,000 of 40,000 rows, 833 rows/s, 36 s left",
        "pull: 40,000 rows in 13 s, 3,077 rows/s",
    ]
    assert written(0, [(10, 500)]) == ["pull: 500 B, 50 B/s", "pull: 500 B in 10 s, 50 B/s"]


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0 s"), (99, "99 s"), (100, "2 min"), (5_940, "99 min"), (7_500, "2 h 5 min")]
)
def test_times_read_well(seconds, shown):
    """In the unit in which people think."""
    assert progress._seconds(seconds) == shown


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
        assert "export: 2 of 4 rows" in (text := shown(None))
        assert "look up: 2 items" in text
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
    assert "B/s]" in command("pull", tmp_path / "p", *remote, CAS_CACHE_PROGRESS="1").stderr
    for words, line in (
        (("pull", tmp_path / "q", *remote), "pull: 16 of 48 B"),
        (("push", tmp_path / "m", *remote), "push: 8 of 8 B"),
        (("check", *remote), "check: 4 of 4 packs"),
        (("check", *remote, "--read-data"), "read: "),
        (("export", tmp_path / "m", tmp_path / "x", "--format", "npy", "-n", namespace), "export: 7 of 7 rows"),
        (("compact", *remote, "--at-least", "2"), "compact: "),
    ):
        result = command(*words)
        assert line in result.stderr
        assert "B/s]" not in result.stderr
        assert result.stdout
