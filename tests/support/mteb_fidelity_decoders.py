"""Audio and video tasks, in a process that can decode them: `python -m mteb_fidelity_decoders FOLDER`.

torchcodec, which mteb and datasets decode with, loads the FFmpeg libraries of the system. Where there are none it can
use those that PyAV brings along; these are named otherwise, so they are linked under the names that torchcodec asks the
loader for, and the loader looks for them where LD_LIBRARY_PATH said when the process began. Hence the process.

Prints one JSON object a line: the task, and what was wrong with it, or null.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

from paths import SUPPORT

MISSING = [name for name in ("torchcodec", "av") if importlib.util.find_spec(name) is None]
"""The packages without which nothing can be decoded: pip install torchcodec==0.11.1 av."""

SECONDS = 300


def library_path(links: Path) -> str:
    """Link PyAV's FFmpeg libraries under their usual names in a folder, and return an LD_LIBRARY_PATH."""
    spec = importlib.util.find_spec("av")
    assert spec is not None
    assert spec.origin is not None
    bundled = Path(spec.origin).parent.parent / "av.libs"
    for library in bundled.glob("lib*.so.*"):
        found = re.fullmatch(r"(lib(?:av|sw)\w+)-[0-9a-f]+\.so\.(\d+)\..*", library.name)
        if found:
            (links / f"{found[1]}.so.{found[2]}").symlink_to(library)
    return os.pathsep.join([str(links), str(bundled), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])])


def tasks() -> dict[str, Any]:
    """Return mteb's mock tasks of audio, of video, and of video with sound."""
    from mteb import mocks

    every = [*mocks.MOCK_MAEB_TASK_GRID, *mocks.MOCK_MVEB_TASK_GRID, *mocks.MOCK_MULTIMODAL_TASKS]
    return {type(task).__name__: task for task in every}


def run_all(place: Path) -> dict[str, str | None]:
    """Return for each task, run in a process of its own for all of them, what was wrong with it."""
    links = place / "libraries"
    links.mkdir(parents=True)
    path = os.pathsep.join([str(SUPPORT), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "mteb_fidelity_decoders", str(place)],
        env={**os.environ, "LD_LIBRARY_PATH": library_path(links), "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"task"')]
    return {answer["task"]: answer["problem"] for answer in answers}


def main(place: Path) -> None:
    """Run all tasks, and print what became of each."""
    from threadpoolctl import threadpool_limits

    from mteb_fidelity_encoders import MediaEncoder
    from mteb_fidelity_runs import check_four_runs

    warnings.simplefilter("ignore")
    with threadpool_limits(1):
        for name, task in tasks().items():
            problem = None
            try:
                check_four_runs(MediaEncoder(), task, place / name)
            except BaseException:  # noqa: BLE001 - whatever it is, the test fails with it
                problem = traceback.format_exc()
            print(json.dumps({"task": name, "problem": problem}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
