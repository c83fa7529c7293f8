"""Kill a process at its n-th storage operation, for every n. Runs in a process without threads, which forks.

Adds: `killed_everywhere`. What happens, and what is judged, happens in forked children; their parent starts nothing
that a child would miss.
"""

import gc
import importlib
import json
import os
import signal
import threading
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from cas_cache.repository import pack
from cas_cache.storage import open_storage, threads
from fault_injection import InOrder, Killing, points
from repository_fixtures import FLOWS, Found, Mirrors, Scene


def killed_everywhere(
    flow: str, afters: tuple[bool, ...], chunk_bytes: int, told: tuple[Path, str, Path, Path, Found]
) -> int:
    """Run a flow on a local directory, killed at its n-th operation, for n = 1, 2, ... until it ends by itself.

    Args:
        flow: A name in `FLOWS`.
        afters: Whether it is killed before the operation, after it, or once each.
        chunk_bytes: See `pack.CHUNK_BYTES`.
        told: What a `Scene` is made of, with an URL for the storage.

    Returns:
        That n.
    """
    pack.CHUNK_BYTES = chunk_bytes
    threads.pool = InOrder
    # What a killed process wrote, the system has: only where somebody pulls the plug does flushing matter.
    os.fsync = lambda _: None
    importlib.import_module("zarr")
    tqdm.set_lock(
        threading.RLock()
    )  # its own is one of multiprocessing, which complains about those of killed processes
    folder, url, *rest = told
    folder.mkdir()
    before = Scene(Mirrors(folder), open_storage(url), *rest)
    gc.freeze()  # children do not copy what they would only look at
    happens, seen = FLOWS[flow], set()
    for at, after in points(afters):
        scene = replace(before, mirrors=Mirrors(folder / f"{at} {after}")).again()
        assert scene.author, "copied before the child has its own"
        storage = Killing(scene.storage, at, after=after)
        ended = forked(lambda scene=scene, storage=storage: happens.happens(scene, storage))
        assert ended in {0, -signal.SIGKILL}, f"operation {at}: ended with {ended}"
        looks = looks_of(scene)
        if looks not in seen:
            seen.add(looks)
            assert forked(lambda scene=scene: (happens.judge(scene), happens.finishes(scene))) == 0, f"operation {at}"
        if ended == 0:
            return at
    raise AssertionError


def forked(function: Callable[[], object], *, threads: int = 1) -> int:
    """Call a function in a forked process; return 0, 1 if it raised, or the negative number of its signal.

    `threads` says how many there may be here: zarr's, once it was used, is none that a child would miss that writes no
    pack.
    """
    assert threading.active_count() <= threads, "the child would lack a thread"
    child = os.fork()
    if child == 0:
        try:
            function()
        except BaseException:  # noqa: BLE001 - told by the exit code
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def looks_of(scene: Scene) -> tuple[int, ...]:
    """Tell how far a flow came: how many objects there are, and how many runs of rows of the author wait for a pack."""
    states = [json.loads(path.read_bytes()) for path in scene.author.glob("namespaces/*/state.json")]
    waiting = [extent for state in states for extent in state["extents"] if extent[2] is None]
    return len(scene.storage.list("")), len(waiting), sum(extent[3] is not None for extent in waiting)
