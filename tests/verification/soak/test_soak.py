"""The soak for some seconds: it holds, on a directory and on S3 through a faulty network; and its judge condemns.

The long run is `python tests/verification/soak/soak.py --minutes 10`.
"""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from soak.actions import Plan
from soak.soak import run
from soak.verdict import Verdict, rows_of
from soak.workers import OWN_ROWS, SPECS, batch, texts_of, vectors_of, wrong_rows

SCRIPT = Path(__file__).with_name("soak.py")
SHORT = 4 / 60
"""Minutes of a run here, from when every writer is at work."""


def soaked(folder: Path, server: Any = None, **plan: Any) -> Verdict:
    """Run with few processes; return the verdict, whose table is shown if the test fails."""
    verdict = run(
        Plan(**{"minutes": SHORT, "seed": 3, "writers": 3, "readers": 3, **plan}), folder / "soak", server=server
    )
    print("\n".join(verdict.lines()))
    return verdict


def note(verdict: Verdict, figure: Callable[[str, int], None]) -> None:
    """Note the figures of a run."""
    for name, number in (
        ("soak: operations", sum(verdict.operations.values())),
        ("soak: processes killed", sum(verdict.kills.values())),
        ("soak: faults injected", sum(verdict.faults.values())),
        ("soak: rows acknowledged", verdict.acknowledged),
        ("soak: rows verified", verdict.compared),
        ("soak: wrong vectors", verdict.wrong),
        ("soak: rows lost", verdict.lost),
        ("soak: false alarms of check", verdict.false_alarms),
    ):
        figure(name, number)


@pytest.mark.verify
def test_it_holds_on_a_directory(tmp_path: Path, figure: Callable[[str, int], None]) -> None:
    """Killed, stopped and failing calls: no wrong vector, no lost row, no false alarm, no error that is not typed."""
    verdict = soaked(tmp_path, remote="local")
    assert verdict.failures == []
    assert verdict.kills
    assert verdict.acknowledged > OWN_ROWS
    note(verdict, figure)


@pytest.mark.verify
def test_it_holds_on_s3(tmp_path: Path, localstack: Any, figure: Callable[[str, int], None]) -> None:
    """The same over the HTTP of a real client, with faults in it."""
    verdict = soaked(tmp_path, localstack, remote="localstack")
    assert verdict.failures == []
    assert verdict.kills
    note(verdict, figure)


@pytest.mark.verify
@pytest.mark.parametrize("sabotage", ["wrong", "lost", "error"])
def test_the_judge_condemns(tmp_path: Path, sabotage: str) -> None:
    """A reader that sees a wrong vector, a writer that acknowledges what it has not pushed, an untyped error."""
    verdict = soaked(tmp_path, remote="local", faults=False, sabotage=sabotage, writers=2, readers=1, minutes=1 / 60)
    reasons = "\n".join(verdict.failures)
    assert bool(verdict.wrong) == (sabotage == "wrong"), reasons
    assert bool(verdict.lost) == (sabotage == "lost"), reasons
    assert ("ZeroDivisionError" in reasons) == (sabotage == "error"), reasons


@pytest.mark.verify
def test_ctrl_c_ends_it_and_it_is_judged(tmp_path: Path) -> None:
    """The table is printed, the exit code is that of the verdict, and no process is left."""
    command = [sys.executable, str(SCRIPT), "--remote", "local", "--minutes", "1", "--writers", "1", "--readers", "1"]
    command += ["--faults", "off"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        deadline = time.monotonic() + 90
        while not any(b'"due": {"0"' in it.read_bytes() for it in tmp_path.glob("*/reader 0.journal")):
            assert process.poll() is None, process.stdout and process.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    assert "rows verified" in out
    assert list(tmp_path.iterdir()) == []


def test_what_is_compared() -> None:
    """A vector of the other encoder, of another text, of another kind, or with a bit flipped, is wrong."""
    texts = batch(0, 0, 0)
    right = vectors_of(0, texts)
    assert wrong_rows(0, texts, right) == 0
    assert wrong_rows(0, texts, vectors_of(1, texts)) == len(texts)
    assert wrong_rows(0, texts, right[::-1]) == len(texts)
    assert wrong_rows(0, texts, right.astype("float64")) == len(texts)
    right[3].view("uint8")[0] ^= 1
    assert wrong_rows(0, texts, right) == 1


def test_rows_are_counted_as_they_are_written() -> None:
    """The judge knows how many rows there are without writing them down."""
    turns = {0: 7, 1: 3, 5: 0}
    assert rows_of(turns) == sum(len(texts_of(turns, which)) for which in range(len(SPECS)))
    assert Counter(texts_of(turns, 0)).most_common(1)[0][1] == 1
