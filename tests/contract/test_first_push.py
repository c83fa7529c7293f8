"""First pushes of several processes to one new prefix, on a server that overwrites in spite of create-only."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cas_cache import EmbeddingCache
from paths import SUPPORT
from servers import Place
from storages import SPEC, texts, truth

WORKERS = 8
ROWS = 3

WORKER = """
import json, sys
from cas_cache import EmbeddingCache
from storages import SPEC, truth
folder, options, mine = json.loads(sys.argv[1])
for number, url in enumerate(sys.stdin):
    with EmbeddingCache(f"{folder}/{number}", remote=url.strip(), storage_options=options, push="manual") as cache:
        cache.put(mine, truth(mine), SPEC)
        print("ready", flush=True)
        sys.stdin.readline()
        try:
            print(cache.push().rows, flush=True)
        except Exception as err:
            print(f"{type(err).__name__}: {err}", flush=True)
"""


@contextmanager
def workers(directory: Path, options: dict[str, Any]) -> Iterator[list[subprocess.Popen[str]]]:
    """Start processes that push their rows to the URLs they receive, each from a new mirror."""
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                WORKER,
                json.dumps([str(directory / str(number)), options, texts(ROWS, number * ROWS)]),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": str(SUPPORT), "CAS_CACHE_SELF_CHECK": "0"},
        )
        for number in range(WORKERS)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def told(processes: list[subprocess.Popen[str]], line: str) -> list[str]:
    """Send a line to all processes, and return their answers."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
    return [process.stdout.readline().strip() for process in processes if process.stdout is not None]


@pytest.mark.parametrize("times", [2, *[12] * 4], ids=str)
def test_eight_processes_push_first(rclone_place: Place, tmp_path: Path, times: int) -> None:
    """In fifty rounds, no push fails, and a new mirror finds the rows of all processes."""
    everything = texts(WORKERS * ROWS)
    with workers(tmp_path, rclone_place.options) as processes:
        for number in range(times):
            place = rclone_place.fresh()
            assert told(processes, place.url) == ["ready"] * WORKERS
            assert told(processes, "push") == [str(ROWS)] * WORKERS, f"attempt {number}"
            reader = tmp_path / f"reader-{number}"
            with EmbeddingCache(reader, remote=place.url, storage_options=place.options) as cache:
                vectors, found = cache.get(everything, SPEC)
            assert found.all()
            assert (vectors == truth(everything)).all()
