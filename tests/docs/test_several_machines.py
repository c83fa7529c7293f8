"""Several processes fill one cache: under torchrun, and as SLURM would start them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cas_cache import EmbeddingCache

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))
from fill_cache import SPEC, embed, share
from paths import ROOT
from tiers import sampled

EXAMPLES = ROOT / "examples"
TEXTS = [f"text {'aeiou'[n % 5] * (n % 7)} {n}" for n in range(500)]
LOOPBACK = {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A file of texts, some of them twice."""
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS + TEXTS[:20]) + "\n", "utf-8")
    return path


def started(*command: object, **environment: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, **{name: str(value) for name, value in environment.items()}},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def all_ended(processes: "list[subprocess.Popen[str]]", code: int = 0) -> list[str]:
    """What each printed; they were started together."""
    try:
        told = [process.communicate(timeout=180)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert [process.returncode for process in processes] == [code] * len(processes), "\n".join(told)
    return told


def ended(process: "subprocess.Popen[str]", code: int = 0) -> str:
    return all_ended([process], code)[0]


def holds_everything(mirror: Path, remote: str | None = None, **options: Any) -> bool:
    """Whether a cache has every text, with the vector that the encoder makes."""
    with EmbeddingCache(mirror, remote=remote, read_only=True, **options) as cache:
        vectors, found = cache.get(TEXTS, SPEC)
    return bool(found.all()) and np.array_equal(vectors, embed(TEXTS))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 499, 500, 501])
def test_the_shares_are_everything_once(size: int) -> None:
    """In order, whatever the number of processes; their sizes differ by one at most."""
    shares = [share(TEXTS, rank, size) for rank in range(size)]
    assert [text for part in shares for text in part] == TEXTS
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.verify
@pytest.mark.parametrize("layout", sampled(["one mirror", "mirrors of their own"], keep={"mirrors of their own"}))
def test_ranks_of_torchrun(texts: Path, tmp_path: Path, layout: str) -> None:
    """Two ranks encode their shares; rank 0 waits for the slower one, looks everything up and encodes nothing."""
    pytest.importorskip("torch")
    slower = tmp_path / "slower.py"
    slower.write_text(SLOWER.format(examples=str(EXAMPLES)), "utf-8")
    torchrun = Path(sys.executable).with_name("torchrun")
    command = [torchrun, "--standalone", "--nproc-per-node", "2", "--local-addr", "127.0.0.1"]
    command += [slower, texts]
    remote = None
    if layout == "one mirror":
        command += ["--mirror", tmp_path / "mirror"]
    else:
        remote = str(tmp_path / "repository")
        command += ["--mirror", tmp_path / "mirror-{rank}", "--remote", remote]
    out = ended(started(*command, **LOOPBACK))
    assert "2 ranks: 500 vectors, 0 encoded by rank 0 afterwards" in out
    if remote is None:
        assert holds_everything(tmp_path / "mirror")
    else:
        assert not holds_everything(tmp_path / "mirror-1"), "rank 1 encoded more than its share"
        assert holds_everything(tmp_path / "new", remote)


@pytest.mark.verify
@pytest.mark.parametrize("tasks", [4])
def test_tasks_of_slurm(texts: Path, tmp_path: Path, s3_remote: Any, tasks: int) -> None:
    """What srun would start: as many processes as there are tasks, at once, into one bucket."""
    options = s3_remote.storage_options
    names = {"endpoint_url": "AWS_ENDPOINT_URL", "key": "AWS_ACCESS_KEY_ID", "secret": "AWS_SECRET_ACCESS_KEY"}
    environment = {names[name]: value for name, value in options.items()}
    environment |= {"CAS_CACHE_REMOTE": s3_remote.url, "SLURM_NTASKS": tasks}
    command = [sys.executable, EXAMPLES / "fill_cache.py", texts, "--mirror", tmp_path / "{rank}"]
    processes = [started(*command, **environment, SLURM_PROCID=rank) for rank in range(tasks)]
    told = [out.strip() for out in all_ended(processes)]
    assert told == [f"rank {rank} of {tasks}: 125 vectors, 125 encoded" for rank in range(tasks)]
    command[-1] = tmp_path / "evaluate"
    told = [ended(started(*command, "--only-cached", **environment, SLURM_PROCID=0)).strip()]
    assert told == ["rank 0 of 4: 500 vectors, 0 encoded"]
    assert holds_everything(tmp_path / "new", s3_remote.url, storage_options=options)


@pytest.mark.verify
def test_a_task_that_died_is_noticed(texts: Path, tmp_path: Path) -> None:
    """The evaluation afterwards fails with what is missing; run again, the missing share alone is encoded."""
    command = [sys.executable, EXAMPLES / "fill_cache.py", texts, "--remote", tmp_path / "repository", "--mirror"]
    for rank in (0, 2):
        ended(started(*command, tmp_path / str(rank), SLURM_PROCID=rank, SLURM_NTASKS=3))
    out = ended(started(*command, tmp_path / "evaluate", "--only-cached"), code=1)
    assert "167 of 500 distinct items are not in the cache" in out
    again = [
        ended(started(*command, tmp_path / f"again-{rank}", SLURM_PROCID=rank, SLURM_NTASKS=3)) for rank in range(3)
    ]
    assert [out.strip().rpartition(", ")[2] for out in again] == ["0 encoded", "167 encoded", "0 encoded"]
    assert "0 encoded" in ended(started(*command, tmp_path / "evaluate", "--only-cached"))


@pytest.mark.verify
def test_the_batch_script(texts: Path, tmp_path: Path) -> None:
    """Its body runs, with a stand-in for srun that starts the tasks as SLURM does."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n', "utf-8")
    (tools / "srun").write_text(SRUN.format(python=sys.executable), "utf-8")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    script = (EXAMPLES / "fill_cache.sbatch").read_text("utf-8")
    assert script.count("s3://team/emb") == 1
    script = script.replace("s3://team/emb", str(tmp_path / "repository")).replace(" texts.txt", f" {texts}")
    environment = {"PATH": f"{tools}:/usr/bin:/bin", "SLURM_JOB_ID": 7, "SLURM_NTASKS": 8}
    out = ended(started("bash", "-c", script, SLURM_TMPDIR=tmp_path / "scratch", **environment))
    lines = sorted(out.splitlines())
    assert lines[-1] == "rank 7 of 8: 63 vectors, 63 encoded"
    assert "rank 0 of 1: 500 vectors, 0 encoded" in lines
    assert len(lines) == 9
    assert holds_everything(tmp_path / "new", str(tmp_path / "repository"))


SLOWER = """
import os, runpy, sys, time

sys.path.insert(0, {examples!r})
import fill_cache

embed = fill_cache.embed

def slow(texts):
    time.sleep(3 * int(os.environ["RANK"]))
    return embed(texts)

fill_cache.embed = slow
runpy.run_path({examples!r} + "/evaluate_ranks.py", run_name="__main__")
"""
SRUN = """#!{python}
import os, subprocess, sys

words = sys.argv[1:]
tasks = int(os.environ["SLURM_NTASKS"])
while words[0].startswith("-"):
    option = words.pop(0)
    if option.startswith("--ntasks="):
        tasks = int(option.partition("=")[2])
environments = [dict(os.environ, SLURM_PROCID=str(rank), SLURM_NTASKS=str(tasks)) for rank in range(tasks)]
started = [subprocess.Popen(words, env=environment) for environment in environments]
sys.exit(max([process.wait() for process in started]))
"""
