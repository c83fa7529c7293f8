"""The demo, run as a user runs it, on the harder of its two remotes."""

import os
import re
import subprocess
import sys

import pytest

from distinct_texts import distinct_texts
from paths import ROOT


@pytest.mark.verify
@pytest.mark.localstack
def test_the_demo_gives_equal_scores_on_localstack() -> None:
    """A real model, plain, cold, warm and on a second machine: equal scores, nothing encoded twice."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    del environment["CAS_CACHE_SELF_CHECK"]  # as a user has it
    command = [sys.executable, "examples/demo.py", "--remote", "localstack"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r"│ (plain|cold cache|warm cache|second machine) +│ ([\d.]+) │ +([\d,]+) │ +(\d+) │", done.stdout)
    assert [name for name, *_ in rows] == ["plain", "cold cache", "warm cache", "second machine"]
    assert len({score for _, score, *_ in rows}) == 1
    assert [encoded for _, _, encoded, _ in rows] == ["2,300", f"{distinct_texts():,}", "0", "0"]
    assert [compared for *_, compared in rows] == ["0", "0", "0", "16"]
    assert f"vectors in the map: ({distinct_texts()}, 384) float32" in done.stdout


def test_the_demo_fails_when_something_differs() -> None:
    """A differing score, an item encoded twice, and a comparison that did not happen, are found."""
    sys.path.insert(0, str(ROOT / "examples"))
    from demo import Run, differences

    same = [Run(name, {"main_score": 0.5}) for name in ("plain", "cold", "warm", "second")]
    same[3].checked = 8
    assert differences(same) == []
    same[1].scores = {"main_score": 0.50001}
    same[3].encoded = 1
    assert len(differences(same)) == 2
    same[3].checked = 0
    assert len(differences(same)) == 3
