"""Cut a flow short at every one of its file operations, and judge what is left.

Adds: `Stage`, where a flow is recorded once; its recording is played to every crash point and power cut, each state is
judged once, by new objects. `refused` runs the flow anew for every operation that fails, because the process lives on.
"""

import gc
import os
import random
import re
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from copy import copy, deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cas_cache.errors import CasCacheError, ConfigurationError
from cas_cache.mirror import index
from cas_cache.repository import pack
from cas_cache.storage import open_storage, threads
from crash_points.crash_disk import Disk, Tree, found, looks_of, placed
from crash_points.crash_faults import NEEDS_ROOM, LastOne, Recording, Refusing
from crash_points.crash_flows import FILE_FLOWS, OLD, mirrors_whole
from crash_points.disk_faults import Op
from crash_points.killed import forked
from fault_injection import InOrder, World
from repository_fixtures import Flow, Found, Mirrors, Scene

Known = tuple[Found, Found, Found, list[int]]
"""What was acknowledged: see `Scene`."""

CHUNK_BYTES, SAVE_ROWS = 96, 6
REPOSITORY, MORE = "repository", "more"

KIND = re.compile(r"[0-9a-f]{16,}|/[0-9]+(?=/|$)")
"""Left out, what is done to files of one kind is alike."""


@dataclass
class Stage:
    """A flow on the files of one folder.

    Attributes:
        name: A name in `FILE_FLOWS`.
        folder: For everything; new.
        recording: Of the flow.
        seen: Looks of the states that were judged.
        points: How many crash points were looked at.
        cuts: How many power cuts were.
        judged: How many states that was.
        finish_each: In every so many-th of them the flow runs again.
        left: Of every so many-th state, files and what was acknowledged: see `twice`.
    """

    name: str
    folder: Path
    seen: set[tuple[bytes, str]] = field(default_factory=set)
    unfinished: set[str] = field(default_factory=set)
    points: int = 0
    cuts: int = 0
    judged: int = 0
    finish_each: int = 1
    left: list[tuple[Tree, Known]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.root = self.folder / "root"
        self.root.mkdir(parents=True)
        self.scene = self.flow.scene(Mirrors(self.root / MORE), open_storage(str(self.root / REPOSITORY)))
        mirrors = {it.relative_to(self.root).as_posix() for it in (self.scene.author, self.scene.reader)}
        mirrors.add(f"{MORE}/{OLD}")
        self.before = {path: it for path, it in found(self.root).items() if _of(path, mirrors)}
        self.known_before = _known(self.scene)
        self._made = 0
        self.recording = self._recorded()

    @property
    def flow(self) -> Flow:
        return FILE_FLOWS[self.name]

    def _recorded(self) -> Recording:
        """Let it happen once, on a copy, and write down what it does to files."""
        scene, root = self.placed(self.before, self.known_before)
        with Recording(root) as recording:
            scene.told = lambda: recording.mark(_known(scene))
            self.flow.happens(scene, scene.storage)
        assert Disk.after(recording).tree() == found(root), "something changed files behind our back"
        return recording

    def placed(self, tree: Tree, known: Known) -> tuple[Scene, Path]:
        """Return a scene with new objects on files of its own, and their folder."""
        self._made += 1
        root = self.folder / f"copy-{self._made}"
        placed(tree, root)
        author, reader = (root / it.relative_to(self.root) for it in (self.scene.author, self.scene.reader))
        storage = open_storage(str(root / REPOSITORY))
        mine = Mirrors(self.folder / f"copy-{self._made}-{MORE}")
        mine.judged = self.scene.mirrors.judged
        scene = Scene(mine, storage, author, reader, *deepcopy(known))
        return scene, root

    def deaths(self) -> None:
        """The process dies before the n-th operation, in the midst of it, and after it: what is left is judged."""
        for at, op, known, disk in self._steps():
            half = disk.torn(op)
            # After one is before the next.
            self.points += 2 + (half is not None)
            for tree in [disk.tree()] if half is None else [disk.tree(), half]:
                self.judge(tree, known, f"death at operation {at}: {op.verb} {op.path}")

    def twice(self, *, each: int) -> int:
        """Whoever goes on after a crash dies, too: at every operation, in every so many-th state that a crash left.

        Returns:
            How many crash points that were.
        """
        points = 0
        for tree, known in self.left[::each]:
            second = copy(self)
            second.before, second.known_before, second.left, second.points = tree, known, [], 0
            with suppress(CasCacheError):  # a drop that had finished finds nothing to drop
                second.recording = second._recorded()
                second.deaths()
            points += second.points
            self._made, self.judged = second._made, second.judged
        return points

    def power_cuts(self, seeds: int, *, every: int = 1) -> None:
        """The power goes off before the n-th operation: what was not flushed may be there or not.

        Args:
            seeds: How many of the many states that it may leave, besides that without any of it.
            every: Look at these, and at names without bytes, at every so many-th operation.
        """
        chance = random.Random(self.name)
        for at, op, known, disk in self._steps():
            trees = [disk.lost()]
            if at % every == 0:
                trees += [disk.names_only(), *(disk.cut(chance) for _ in range(seeds))]
            self.cuts += len(trees)
            for tree in trees:
                self.judge(tree, known, f"power cut before operation {at}: {op.verb} {op.path}")

    def _steps(self) -> Iterator[tuple[int, Op, Known, Disk]]:
        """Yield each operation with its number, what was acknowledged before it, and the disk before it."""
        known, disk = self.known_before, Disk(self.recording.before)
        for at, op in enumerate([*self.recording.ops, Op("mark", path="the end", data=known)]):
            yield at, op, known, disk
            known = op.data if op.verb == "mark" else known
            disk.play([op])

    def judge(self, tree: Tree, known: Known, when: str) -> None:
        """Look at a state with new objects, and let the flow run again, unless another like it was judged."""
        looks, unfinished = looks_of(tree)
        if (looks, repr(known)) in self.seen and unfinished <= self.unfinished:
            return
        self.seen.add((looks, repr(known)))
        self.unfinished |= unfinished
        self.judged += 1
        self.left.append((tree, known))
        scene, root = self.placed(tree, known)
        try:
            mirrors_whole(scene)
            self.flow.judge(scene)
            if self.judged % self.finish_each == 0:
                self.flow.finishes(scene)
                mirrors_whole(scene)
        except BaseException as err:
            err.add_note(f"{self.name}: {when}; the files are in {root}")
            raise

    def refused(self, *, full: bool, every: bool) -> int:
        """An operation fails, and the process lives on. Returns how many did.

        Args:
            full: Whether the disk is full from then on, so that all fails that needs room.
            every: Each operation once; or only the first of each kind.
        """
        ops = [op for op in self.recording.ops if op.verb != "mark"]
        kinds = {}
        for at, op in enumerate(ops, 1):
            if op.verb in NEEDS_ROOM or not full:
                kind = (op.verb, KIND.sub("", op.path))
                kinds[kind] = [*kinds.get(kind, []), at]
        chosen = {at for of in kinds.values() for at in (of if every else of[:1])}
        for at in sorted(chosen):
            scene, root = self.placed(self.before, self.known_before)
            files = Refusing(root, at, full=full)
            try:
                with files:
                    # What is derived may be left as it is, with no error. Whatever else is raised is a failure.
                    with suppress(CasCacheError):
                        self.flow.happens(scene, scene.storage)
                    assert files.reached
                    self._lives_on(scene, files)
            except BaseException as err:
                err.add_note(f"{self.name}: operation {at} failed: {files.failed[:1]}; the files are in {root}")
                raise
        return len(chosen)

    def _lives_on(self, scene: Scene, files: Refusing) -> None:
        files.room()
        try:
            self.flow.happens(scene, scene.storage)
        except ConfigurationError:
            assert self.name == "drop", "it had not finished all the same"
        mirrors_whole(scene)
        self.flow.judge(scene)


def _of(path: str, mirrors: set[str]) -> bool:
    """Whether a file is of the repository, one of the mirrors, or what is imported."""
    parts = path.split("/")
    return parts[0] == REPOSITORY or len(parts) == 1 or "/".join(parts[:2]) in mirrors


def _known(scene: Scene) -> Known:
    return deepcopy((scene.known, scene.mine, scene.here, scene.views))


def same_each_time(patches: pytest.MonkeyPatch) -> None:
    """Make the n-th operation the same in every run, chunks small, and index files frequent."""
    world = World(patches)
    world.begin()
    now = time.time()
    patches.setattr(time, "time", lambda: now)
    patches.setattr(threads, "pool", InOrder)
    patches.setattr(pack, "CHUNK_BYTES", CHUNK_BYTES)
    patches.setattr(index, "SAVE_ROWS", SAVE_ROWS)
    # Nobody pulls the plug of this machine.
    patches.setattr(os, "fsync", lambda _: None)


def killed_at_files(flow: str, folder: Path, every: int) -> int:
    """Kill a process at every so many-th file operation of a flow: before it, in the midst of it, after it.

    Runs in a process without threads, which forks.

    Returns:
        How many were killed.
    """
    patches = pytest.MonkeyPatch()
    same_each_time(patches)
    stage = Stage(flow, folder)
    gc.freeze()  # children do not copy what they would only look at
    killed = 0
    number = 0
    for place, op, _, disk in stage._steps():
        if op.verb == "mark":
            continue
        number += 1
        if number % every:
            continue
        before, half = disk.tree(), disk.torn(op)
        whole = op.verb == "write" and half is None  # what is not torn by a disk may be by a kill
        disk_after = Disk(stage.recording.before)
        disk_after.play(stage.recording.ops[: place + 1])
        for when, tree in (
            ("before", before),
            ("torn", None if whole else half or before),
            ("after", disk_after.tree()),
        ):
            scene, root = stage.placed(stage.before, stage.known_before)
            ended = forked(
                lambda scene=scene, root=root, at=number, when=when: _die(stage, scene, root, at, when), threads=2
            )
            assert ended == -signal.SIGKILL, f"operation {number}: {ended}"
            if tree is not None:
                assert looks_of(found(root)) == looks_of(tree), f"{when} operation {number}: {op.verb} {op.path}"
            killed += 1
    return killed


def _die(stage: Stage, scene: Scene, root: Path, at: int, when: str) -> None:
    with LastOne(root, at, when):
        stage.flow.happens(scene, scene.storage)
