"""write_atomically: a name holds the old bytes or the new ones, never a part and never nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas_cache.files.disk import write_atomically

RACER = """
import sys, time
from pathlib import Path
from cas_cache.files.disk import write_atomically
folder, mine = Path(sys.argv[1]), sys.argv[2]
(folder / f"ready-{mine}").touch()
while not (folder / "go").exists():
    time.sleep(0.0005)
won = [write_atomically(folder / f"file-{i}", mine.encode() * 100_000, create_only=True) for i in range(10)]
print("".join("1" if w else "0" for w in won))
"""

OVERWRITER = """
import sys
from pathlib import Path
from cas_cache.files.disk import write_atomically
print("ready", flush=True)
while True:
    for letter in b"ab":
        write_atomically(Path(sys.argv[1]), bytes([letter]) * 300_000)
"""


def names(folder: Path) -> set[str]:
    """What is in a folder, dotfiles too."""
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    "data", [b"", b"x", b"new" * 100_000, memoryview(b"view")], ids=["empty", "one", "long", "view"]
)
def test_writes_and_overwrites(tmp_path: Path, data: bytes) -> None:
    """The file holds what was written, and nothing else is left."""
    path = tmp_path / "file"
    for content in (b"old", data):
        assert write_atomically(path, content)
        assert path.read_bytes() == content
    assert names(tmp_path) == {"file"}


def test_create_only_leaves_what_is_there(tmp_path: Path) -> None:
    """The first writer wins, the second is told."""
    path = tmp_path / "file"
    assert write_atomically(path, b"first", create_only=True)
    assert not write_atomically(path, b"second", create_only=True)
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == {"file"}


@pytest.mark.verify
def test_eight_processes_create_one_file(tmp_path: Path) -> None:
    """Each name has exactly one winner, and holds all of the winner's bytes."""
    racers = [
        subprocess.Popen([sys.executable, "-c", RACER, str(tmp_path), str(i)], stdout=subprocess.PIPE) for i in range(8)
    ]
    while len(list(tmp_path.glob("ready-*"))) < 8:
        assert all(racer.poll() is None for racer in racers)
    (tmp_path / "go").touch()
    won = [racer.communicate(timeout=60)[0].decode().strip() for racer in racers]
    for at in range(10):
        winners = [i for i, wins in enumerate(won) if wins[at] == "1"]
        assert len(winners) == 1
        assert (tmp_path / f"file-{at}").read_bytes() == str(winners[0]).encode() * 100_000
    assert not [name for name in names(tmp_path) if name.startswith(".")]


def test_reader_and_killed_writer_never_show_a_part(tmp_path: Path) -> None:
    """While another process writes over a file, and after it was killed doing so, the file is whole."""
    path = tmp_path / "file"
    with subprocess.Popen([sys.executable, "-c", OVERWRITER, str(path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        while not path.exists():
            assert writer.poll() is None
        for _ in range(200):
            data = path.read_bytes()
            assert data in (b"a" * 300_000, b"b" * 300_000)
        writer.kill()
    assert path.read_bytes() in (b"a" * 300_000, b"b" * 300_000)
    assert all(name.startswith(".tmp-") for name in names(tmp_path) - {"file"})
    assert write_atomically(path, b"again")
    assert path.read_bytes() == b"again"


@pytest.mark.parametrize(
    ("call", "create_only"),
    [
        ("os.fsync", False),
        ("os.fsync", True),
        ("pathlib.Path.replace", False),
        ("pathlib.Path.hardlink_to", True),
    ],
)
def test_failure_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, create_only: bool
) -> None:
    """A disk that refuses at any step changes nothing and leaves no temporary file."""

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / ("new" if create_only else "old")
    (tmp_path / "old").write_bytes(b"old")
    with monkeypatch.context() as broken:
        broken.setattr(call, refuse)
        with pytest.raises(OSError, match="No space"):
            write_atomically(path, b"new", create_only=create_only)
    assert names(tmp_path) == {"old"}
    assert (tmp_path / "old").read_bytes() == b"old"
    assert write_atomically(path, b"new", create_only=create_only)
    assert path.read_bytes() == b"new"


def test_bytes_are_durable_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is flushed before it is renamed, its folder after: no crash leaves a name without its bytes."""
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor: int) -> None:
        place = Path(f"/proc/self/fd/{descriptor}").readlink()
        steps.append("folder" if place.is_dir() else f"file of {place.stat().st_size}")
        fsync(descriptor)

    def noted_replace(self: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    write_atomically(tmp_path / "file", b"12345")
    assert steps == ["file of 5", "rename", "folder"]


def test_missing_folder_is_an_error(tmp_path: Path) -> None:
    """Nothing is made up."""
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "no" / "file", b"")
    assert names(tmp_path) == set()


@given(st.lists(st.binary(max_size=100), min_size=1, max_size=5))
def test_last_write_counts(tmp_path_factory: pytest.TempPathFactory, contents: list[bytes]) -> None:
    """However often it is written, the file holds what was written last."""
    path = tmp_path_factory.getbasetemp() / "last"
    for content in contents:
        write_atomically(path, content)
    assert path.read_bytes() == contents[-1]
