"""Several processes, and killed processes: committed rows are neither lost nor mixed up."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cas_cache.mirror import Mirror
from cas_cache.mirror.check import check_mirror
from mirror_rows import SPEC, check_all, keys_for, vectors_for
from paths import SUPPORT

STRESS = int(os.environ.get("STRESS", "1"))
"""Multiple of the usual work: 10 means 200 kills, and about a minute of eight writers and four readers."""

SCRIPT = SUPPORT / "mirror_rows.py"


def appender(directory: Path, seed: int, items: int, rounds: int) -> Any:
    """Start a process that appends overlapping batches of deterministic rows."""
    arguments = [str(directory), str(seed), str(items), str(rounds)]
    return subprocess.Popen([sys.executable, str(SCRIPT), *arguments], stdout=subprocess.PIPE, text=True)


@pytest.mark.verify
def test_killed_in_a_loop_of_appends(tmp_path: Path) -> None:
    """After each kill at a random moment the mirror opens, and has every acknowledged row, bit for bit."""
    random = np.random.default_rng(20)
    committed: dict[bytes, int] = {}
    for seed in range(20 * STRESS):
        with appender(tmp_path, seed, 20_000, 1_000_000) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(random.uniform(0, 0.06))
            process.kill()
            acknowledged = [int(item) for line in process.stdout if line.endswith("\n") for item in line.split()]
        ns = Mirror(tmp_path, create=False).get(SPEC.namespace)
        assert ns is not None
        rows = check_all(ns)
        assert all(rows[key] == row for key, row in committed.items())
        assert all(key.tobytes() in rows for key in keys_for(acknowledged))
        committed = rows
    assert len(committed) > 1000, "nothing was appended: the test shows nothing"
    keys = keys_for(range(30_000))
    Mirror(tmp_path).namespace(SPEC).append(keys, vectors_for(keys))
    assert len(check_all(Mirror(tmp_path).namespace(SPEC))) == 30_000


@pytest.mark.verify
def test_eight_processes_append_while_four_read(tmp_path: Path) -> None:
    """Overlapping batches go to a mirror that does not exist at first: no row is lost, wrong, doubled, or moves."""
    directory = tmp_path / "mirror"
    rounds = 25 * STRESS
    writers = [appender(directory, seed, 3_000 * STRESS, rounds) for seed in range(8)]
    arguments = [sys.executable, str(SCRIPT), str(directory), "0", "0", "0"]
    readers = [subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    expected: set[int] = set()
    for process in writers:
        output = process.communicate(timeout=60 * STRESS)[0]
        assert process.returncode == 0
        expected.update(int(item) for line in output.splitlines()[1:] for item in line.split())
    for process in readers:
        output = process.communicate(timeout=60 * STRESS)[0]
        assert process.returncode == 0
        assert int(output.splitlines()[1]) <= len(expected)
    ns = Mirror(directory).namespace(SPEC)
    assert set(check_all(ns)) == {key.tobytes() for key in keys_for(sorted(expected))}
    assert check_mirror(Mirror(directory)).clean


@pytest.mark.verify
def test_many_processes_make_one_mirror(tmp_path: Path) -> None:
    """However many processes start at once on a new directory, each gets the same mirror and none is refused."""
    script = (
        "import sys, time; from pathlib import Path; from cas_cache.mirror import Mirror\n"
        "sys.path.insert(0, sys.argv[2]); from mirror_rows import SPEC\n"
        "print('ready', flush=True)\n"
        "while not Path(sys.argv[1], 'go').exists(): pass\n"
        "for i in range(20):\n"
        "    Mirror(Path(sys.argv[1], str(i))).namespace(SPEC)\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), str(SUPPORT)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ},
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    (tmp_path / "go").touch()
    for process in processes:
        _, error = process.communicate(timeout=60)
        assert process.returncode == 0, error.decode()
    assert all(len(Mirror(tmp_path / str(i), create=False).namespaces()) == 1 for i in range(20))
