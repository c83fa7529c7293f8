"""Every flow is cut short at every file operation: nothing acknowledged is lost, and the same command finishes."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cas_cache.testing.processes import in_process
from crash_points.crash_faults import Recording
from crash_points.crash_files import Stage, killed_at_files, same_each_time
from crash_points.crash_flows import FILE_FLOWS
from scale import SCALE
from tiers import sampled


@pytest.fixture(autouse=True)
def _same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    same_each_time(monkeypatch)


EVERY = 9 if SCALE == 1 else 1
"""In CI, power cuts that leave a part are looked at for every so many-th operation."""

FINISH_EACH = 6 if SCALE == 1 else 1
"""In CI, a flow runs again in every so many-th of the states that it may leave."""

TWICE_EACH = 50 if SCALE == 1 else 5
"""In every so many-th of the states that a crash may leave, whoever goes on dies at every operation, too."""

AUDITED = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}


@pytest.fixture(params=sampled(FILE_FLOWS, keep={"first commit"}))
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Stage:
    return Stage(request.param, tmp_path / "stage")


@pytest.mark.verify
def test_cut_short_at_any_file_operation(stage: Stage, figure: Callable[[str, int], None]) -> None:
    """A death before it, in the midst of a write, after it, a power cut: nothing acknowledged is lost, it finishes."""
    stage.finish_each = FINISH_EACH
    stage.deaths()
    stage.power_cuts(SCALE, every=EVERY)
    assert stage.judged > 10
    figure("crash points of a second crash", stage.twice(each=TWICE_EACH))
    figure("crash points of file operations", stage.points)
    figure("crash points with a power cut", stage.cuts)
    figure("states judged", stage.judged)


@pytest.mark.verify
@pytest.mark.parametrize("full", [False, True] if SCALE > 1 else [False], ids=lambda full: "full" if full else "once")
def test_a_file_operation_that_fails(stage: Stage, figure: Callable[[str, int], None], full: bool) -> None:
    """With ENOSPC or EIO: an error of ours or none, and the same objects go on when there is room."""
    figure("file operations that failed", stage.refused(full=full, every=SCALE > 1))


def test_nothing_changes_a_file_unseen(stage: Stage) -> None:
    """What Python says that it opens for writing, makes, renames and deletes passes through `Files`, all of it.

    That the recording makes the very bytes that are there, `Stage` asserts for every flow: so do all writes.
    """
    scene, root = stage.placed(stage.before, stage.known_before)
    escaped: list[tuple[str, object]] = []
    with Recording(root) as recording:

        def hear(event: str, arguments: tuple[object, ...]) -> None:
            if not watching or recording.inside:
                return
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if (event in AUDITED or writes) and str(arguments[0]).startswith(str(root)):
                escaped.append((event, arguments[0]))

        watching = [True]
        sys.addaudithook(hear)  # for ever: so it may be told to be still
        try:
            stage.flow.happens(scene, scene.storage)
        finally:
            watching.clear()
    assert escaped == []
    assert recording.calls > 10


@pytest.mark.verify
@pytest.mark.parametrize("flow", ["commit", "evict"])
def test_a_process_killed_at_any_file_operation(tmp_path: Path, figure: Callable[[str, int], None], flow: str) -> None:
    """SIGKILL leaves what the recording says that it leaves, byte for byte, so what was judged is what happens."""
    killed = in_process("spawn", killed_at_files, flow, tmp_path / "stage", 7 if SCALE == 1 else 1)
    assert killed > 10
    figure("processes killed at a crash point", killed)
