"""Rows that a slow job leaves behind when it is killed, and the time until its first rows are in the repository.

    python benchmarks/killed_job.py [--pace 10] [--kill-after 60] [--end SIGKILL]

A process encodes with an encoder that sleeps and makes ``--pace`` vectors a second, with a repository in a local folder
and default settings. After ``--kill-after`` seconds it is killed with SIGKILL, or ends itself by ``os._exit`` as
Spark's workers do. Then another process opens a cache on the same mirror and stays idle.

Prints seconds from the first encoded item to the first pack; rows that were encoded, committed and pushed when the
process ended; rows that it left pending; and seconds until the next process has pushed these. The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from cas_cache import EmbeddingCache, EncoderSpec
from cas_cache.mirror import Mirror

SPEC = EncoderSpec(model="bench/slow", revision="1")
ENDS = ("SIGKILL", "os._exit")


def main() -> None:
    """Run the two processes and print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pace", type=float, default=10.0, help="vectors a second")
    parser.add_argument("--kill-after", type=float, default=60.0, help="seconds")
    parser.add_argument("--end", choices=ENDS, default="SIGKILL")
    parser.add_argument("--role", choices=("job", "next"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role == "job":
        _job(arguments)
    elif arguments.role == "next":
        _next(arguments.folder)
    else:
        with tempfile.TemporaryDirectory() as folder:
            _watch(arguments, Path(folder))


def _opened(folder: Path) -> EmbeddingCache:
    return EmbeddingCache(folder / "mirror", remote=str(folder / "repository"), progress=False)


def _job(arguments: argparse.Namespace) -> None:
    began = time.monotonic()
    counted = arguments.folder / "encoded"

    def encode(texts: list[str]) -> Any:
        for _ in texts:
            if arguments.end == "os._exit" and time.monotonic() - began > arguments.kill_after:
                os._exit(0)
            time.sleep(1 / arguments.pace)
            with counted.open("ab") as file:
                file.write(b".")
        return np.ones((len(texts), 384), np.float32)

    print("begins", flush=True)
    _opened(arguments.folder).encode([f"text {n}" for n in range(100_000)], SPEC, encode)


def _next(folder: Path) -> None:
    with _opened(folder):
        print("open", flush=True)
        while _pending(folder):
            time.sleep(0.1)
        os._exit(0)


def _watch(arguments: argparse.Namespace, folder: Path) -> None:
    command = [sys.executable, __file__, *sys.argv[1:], "--folder", str(folder), "--role"]
    job = subprocess.Popen([*command, "job"], stdout=subprocess.PIPE, text=True)
    _wait_for_line(job)
    began, first = time.monotonic(), None
    while job.poll() is None and time.monotonic() - began < arguments.kill_after + 30:
        if first is None and any(folder.glob("repository/manifests/*/*")):
            first = time.monotonic() - began
        if arguments.end == "SIGKILL" and time.monotonic() - began > arguments.kill_after:
            job.send_signal(signal.SIGKILL)
            break
        time.sleep(0.05)
    job.wait()
    with Mirror(folder / "mirror", create=False) as mirror:
        committed = sum(ns.rows for ns in mirror.namespaces())
    pending = _pending(folder)
    after = subprocess.Popen([*command, "next"], stdout=subprocess.PIPE, text=True)
    _wait_for_line(after)
    began = time.monotonic()
    after.wait()
    found = {
        "first_pack_seconds": None if first is None else round(first, 1),
        "encoded": (folder / "encoded").stat().st_size,
        "committed": committed,
        "pushed": committed - pending,
        "pending": pending,
        "next_process_seconds": round(time.monotonic() - began, 1),
        "pending_then": _pending(folder),
    }
    for name, value in found.items():
        print(f"{name:<22}{value}")
    print(json.dumps(found))


def _wait_for_line(process: subprocess.Popen[str]) -> None:
    if process.stdout is not None:
        process.stdout.readline()


def _pending(folder: Path) -> int:
    with Mirror(folder / "mirror", create=False) as mirror:
        return sum(ns.pending_rows for ns in mirror.namespaces())


if __name__ == "__main__":
    main()
