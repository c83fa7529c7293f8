"""Several processes, and processes that are killed: committed rows are neither lost nor mixed up."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from cas_cache.mirror import Mirror
from mirror.mirror_rows import SPEC, check_all, keys_for, vectors_for

SCRIPT = Path(__file__).with_name("mirror_rows.py")


def appender(directory: Path, seed: int, items: int, rounds: int) -> Any:
    """A process that appends overlapping batches of deterministic rows."""
    arguments = [str(directory), str(seed), str(items), str(rounds)]
    return subprocess.Popen([sys.executable, str(SCRIPT), *arguments], stdout=subprocess.PIPE, text=True)


def test_killed_in_a_loop_of_appends(tmp_path: Path) -> None:
    """After each of 20 kills at random moments the mirror opens, and holds every acknowledged row, bit-equal."""
    random = np.random.default_rng(20)
    committed: dict[bytes, int] = {}
    for seed in range(20):
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


def test_four_processes_append_to_one_mirror(tmp_path: Path) -> None:
    """Four writers of overlapping batches, started on a directory that is not there, and a reader all the while."""
    processes = [appender(tmp_path / "mirror", seed, 3_000, 25) for seed in range(4)]
    reader = None
    while any(process.poll() is None for process in processes):
        if reader is None and (tmp_path / "mirror" / "cas-cache-mirror.json").exists():
            reader = Mirror(tmp_path / "mirror", create=False).namespace(SPEC)
        if reader is not None:
            reader.refresh()
            check_all(reader)
    expected: set[int] = set()
    for process in processes:
        output = process.communicate(timeout=60)[0]
        assert process.returncode == 0
        expected.update(int(item) for line in output.splitlines()[1:] for item in line.split())
    assert reader is not None
    for ns in (reader, Mirror(tmp_path / "mirror").namespace(SPEC)):
        assert set(check_all(ns)) == {key.tobytes() for key in keys_for(sorted(expected))}


def test_many_processes_make_one_mirror(tmp_path: Path) -> None:
    """However many start at once on a new directory, each gets the same mirror, none is refused."""
    script = (
        "import sys, time; from pathlib import Path; from cas_cache.mirror import Mirror\n"
        "sys.path.insert(0, sys.argv[2]); from mirror.mirror_rows import SPEC\n"
        "print('ready', flush=True)\n"
        "while not Path(sys.argv[1], 'go').exists(): pass\n"
        "for i in range(20):\n"
        "    Mirror(Path(sys.argv[1], str(i))).namespace(SPEC)\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), str(SCRIPT.parent.parent)],
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
