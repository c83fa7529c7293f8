"""What modes files get: a new mirror is its owner's alone, everything else is what the umask leaves."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import hostile_mirrors as mirrors
from cas_cache.errors import MirrorWriteError
from cas_cache.identity import keys_of_texts
from cas_cache.mirror import Mirror
from cas_cache.storage import open_storage
from cas_cache.testing.processes import in_process

PRIVATE_KEPT = {"author", "mirror"}


@pytest.fixture(params=[0o022, 0o077, 0o002, 0o027], ids="{:03o}".format)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def wrong_modes(folder: Path, umask: int) -> dict[str, str]:
    """The files and folders below one that have another mode than the umask leaves."""
    found = {}
    for path in folder.rglob("*"):
        expected = (0o777 if path.is_dir() else 0o666) & ~umask
        if mode_of(path) != expected:
            found[str(path.relative_to(folder))] = f"{mode_of(path):03o}"
    return found


def test_modes(tmp_path: Path, umask: int) -> None:
    """Of every file and folder of a new mirror and a new repository, after all there is to do; and of what goes out."""
    mirrors.make(tmp_path)
    mirrors.take_out(tmp_path / "mirror", tmp_path / "out")
    assert mirrors.all_of_it(tmp_path / "mirror", tmp_path / "remote") == {}
    mirrors.maintain(tmp_path / "remote")
    for name in sorted(PRIVATE_KEPT):
        assert mode_of(tmp_path / name) == 0o700
        assert wrong_modes(tmp_path / name, umask) == {}
    assert mode_of(tmp_path / "remote") == 0o777 & ~umask
    assert wrong_modes(tmp_path / "remote", umask) == {}
    assert mode_of(tmp_path / "out") == 0o777 & ~umask
    assert wrong_modes(tmp_path / "out", umask) == {}


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o2770, 0o1777], ids="{:04o}".format)
def test_a_directory_that_is_there_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    """Whoever wants a mirror for several users makes its directory beforehand; opened again, it stays as it is."""
    directory = tmp_path / "shared"
    directory.mkdir()
    directory.chmod(mode)
    for _ in range(2):
        Mirror(directory).namespace(mirrors.SPEC)
        assert mode_of(directory) == mode


@pytest.mark.verify
def test_temporary_files(tmp_path: Path, umask: int) -> None:
    """While a file is written it has the mode that it is to have, so that nobody reads it in between."""
    seen = set()
    # os.replace is what ends a temporary file's life.
    replace = Path.replace

    def looked_at(path: Path, target: Path) -> Path:
        seen.add((path.name[:5], mode_of(path)))
        return replace(path, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", looked_at)
        mirrors.make(tmp_path)
    assert seen == {(".tmp-", 0o666 & ~umask)}


def test_the_file_of_a_merge_is_nobody_elses(tmp_path: Path) -> None:
    """What a compaction sets aside in the directory for temporary files has no name, or is its owner's alone."""
    script = (
        "import os, tempfile; from cas_cache.repository import compacting\n"
        "file = compacting.tempfile.TemporaryFile(prefix='cas-cache-')\n"
        "print(oct(os.fstat(file.fileno()).st_mode & 0o777), os.listdir(tempfile.gettempdir()))\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True, umask=0
    )
    assert done.stdout.split(None, 1) == ["0o600", "[]\n"]


def encode_as(user: int, group: int, directory: str, rows: int) -> int:
    """Become a user, with the umask 002, encode, and return how many rows were not there."""
    os.setgroups([])
    os.setgid(group)
    os.setuid(user)
    os.umask(0o002)
    with mirrors.small_files(), mirrors.opened(Path(directory)) as cache:
        cache.encode(mirrors.TEXTS[:rows], mirrors.SPEC, mirrors.embed)
        keys = keys_of_texts(mirrors.TEXTS[:rows])
        cache.mirror.views.record(mirrors.view_of(), keys, keys, [str(row) for row in range(rows)])
        return cache.stats.encoded


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become others")
@pytest.mark.parametrize("directory_mode", [0o2770, 0o2777], ids="{:04o}".format)
def test_users_of_one_group_share_a_mirror(place: Path, directory_mode: int) -> None:
    """In a directory made beforehand, which the group may write, with the umask 002: each goes on after the others."""
    assert place  # it has imported what another user may not be allowed to read
    group = 54321
    directory = Path(tempfile.mkdtemp())
    try:
        os.chown(directory, 0, group)
        directory.chmod(directory_mode)
        done = [
            in_process("fork", encode_as, user, group, str(directory / "."), rows)
            for user, rows in ((54401, 20), (54402, 50), (54401, 80))
        ]
        assert done == [20, 30, 30]
        assert mode_of(directory) == directory_mode
    finally:
        shutil.rmtree(directory)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")
def test_a_directory_that_may_not_be_written(tmp_path: Path) -> None:
    """It is refused with what to do."""
    (tmp_path / "no").mkdir(mode=0o500)
    with pytest.raises(MirrorWriteError, match="may write"):
        Mirror(tmp_path / "no" / "mirror")


def test_a_new_repository_has_the_modes_of_the_umask(tmp_path: Path, umask: int) -> None:
    """Folders that a push makes on the way are as the umask leaves them: sharing a directory is the user's business."""
    open_storage(str(tmp_path / "a" / "b")).put("x/y/z", b"1")
    for path in (tmp_path / "a", tmp_path / "a/b", tmp_path / "a/b/x", tmp_path / "a/b/x/y"):
        assert mode_of(path) == 0o777 & ~umask
    assert mode_of(tmp_path / "a/b/x/y/z") == 0o666 & ~umask
