"""The how-to pages about sharing run as printed, in order, each in a folder of its own.

- ``sh`` blocks run in bash; what they export is there in the blocks that follow.
- ``python`` blocks run as scripts; one that begins with ``# NAME.py`` is that file, ``toml`` is the user's config.toml.
- A block that begins with ``# on another machine`` has another mirror.
- A ``text`` block right after one that runs holds lines of what that printed, in any order.

``s3://team`` is a bucket on LocalStack; `aws` has a stand-in, which makes it.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL
from typing import Any

import numpy as np
import pytest

from cas_cache import EmbeddingCache, EncoderSpec
from cas_cache.format.signing import Signer
from paths import ROOT

PAGES = ROOT / "docs" / "how-to"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```\n+", re.DOTALL | re.MULTILINE)
SHOWN_KEY = "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="  # of RFC 8032, 7.1, test 1
INSTALL = "pip install 'cas-cache[sign] @ git+https://github.com/cas-cache/cas-cache'"
AWS = """#!/bin/sh
# Makes a bucket, as `aws s3 mb s3://NAME` does.
[ "$1 $2" = "s3 mb" ] && exec curl -sSf -X PUT "$AWS_ENDPOINT_URL/${3#s3://}"
exit 2
"""


class Page:
    """A page that is played.

    Attributes:
        folder: Where its blocks run.
        environment: What they find; `sh` blocks change it.
        replaced: Texts of the page that stand for something here.
        said: What each block printed.
    """

    def __init__(self, name: str, folder: Path, replaced: dict[str, str]) -> None:
        self.text = (PAGES / name).read_text("utf-8")
        self.folder, self.replaced = folder, replaced
        self.said: list[str] = []
        self.groups: list[int] = []
        tools = folder / "bin"
        tools.mkdir()
        (tools / "aws").write_text(AWS, "utf-8")
        (tools / "aws").chmod(0o755)
        self.environment = {
            "PATH": os.pathsep.join([str(tools), str(Path(sys.executable).parent), "/usr/local/bin:/usr/bin:/bin"]),
            "HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "CAS_CACHE_DIR": str(folder / "mine"),
            "LANG": "C.UTF-8",
            "MASTER_ADDR": "127.0.0.1",
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
            **{name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ},
        }
        for shared in ("localstack", "examples"):
            (folder / shared).symlink_to(ROOT / shared)

    def play(self) -> None:
        """Run every block."""
        said_up_to = -1
        for found in BLOCK.finditer(self.text + "\n"):
            language, block = found[1], found[2]
            for there, here in self.replaced.items():
                block = block.replace(there, here)
            name = re.match(r"# (\w+\.py)\n", block)
            if language == "text" and found.start() == said_up_to:
                missing = Counter(block.splitlines()) - Counter(self.said[-1].splitlines())
                assert not missing, f"not printed: {list(missing)}\n{self.said[-1]}"
            elif language == "python" and name:
                (self.folder / name[1]).write_text(block, "utf-8")
            elif language == "toml":
                (self.folder / "config" / "cas_cache").mkdir(parents=True, exist_ok=True)
                (self.folder / "config" / "cas_cache" / "config.toml").write_text(block, "utf-8")
            elif language in {"sh", "python"}:
                self._run(language, block)
                said_up_to = found.end()

    def _run(self, language: str, block: str) -> None:
        state = self.folder / "environment"
        script = f"{block}\nenv -0 > {state}\n"
        command = (
            ["bash", "--norc", "-euo", "pipefail", "-c", script] if language == "sh" else [sys.executable, "-c", block]
        )
        away = block.startswith("# on another machine\n")
        environment = self.environment | ({"CAS_CACHE_DIR": str(self.folder / "another")} if away else {})
        log = self.folder / f"block-{len(self.said)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self.groups.append(process.pid)
            code = process.wait(timeout=300)
        self.said.append(log.read_text("utf-8"))
        assert code == 0, f"{block}\n{self.said[-1]}"
        if language == "sh" and not away:
            self.environment = dict(line.split("=", 1) for line in state.read_text("utf-8").split("\0") if line)
            self.environment.pop("_", None)

    def close(self) -> None:
        """End what was left in the background."""
        for group in self.groups:
            with suppress(ProcessLookupError):
                os.killpg(group, SIGKILL)


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Any]:
    """Return a function that plays a page."""
    pages = []

    def play(name: str, replaced: dict[str, str] | None = None, **environment: str) -> Page:
        page = Page(name, tmp_path, {} if replaced is None else replaced)
        pages.append(page)
        page.environment |= environment
        page.play()
        return page

    yield play
    for page in pages:
        page.close()


@pytest.fixture
def bucket() -> str:
    """A bucket's name that nobody has."""
    return f"team-{uuid.uuid4().hex}"


@pytest.mark.verify
def test_share(play: Any, localstack: Any, bucket: str) -> None:
    """From no bucket to a colleague who has the vectors."""
    page = play("share.md", {"s3://team": f"s3://{bucket}"}, **localstack.environment)
    _, doctor, settings, _, status, pulled, found = page.said
    assert doctor.splitlines()[-1].endswith(" 0 warn, 0 FAIL")
    assert f"s3://{bucket}/emb" in settings
    assert "config.toml" in settings
    assert "pulled 1 pack, 3 rows" in pulled
    assert "acme/letters" in pulled
    assert found
    assert status.strip()


@pytest.mark.verify
def test_sign(play: Any, tmp_path: Path) -> None:
    """A key, a push, and a reader who trusts it. The key that the page shows stands for the one that is made."""
    file = tmp_path / "config" / "cas_cache" / "keys" / "alice.pem"

    class Replaced(dict[str, str]):
        def items(self) -> Any:
            made = Signer(file.read_bytes()).public if file.exists() else ""
            return [(INSTALL, "true"), (SHOWN_KEY, made)]

    _, new, _, _, there, _ = play("sign.md", Replaced()).said
    public = Signer(file.read_bytes()).public
    assert new.splitlines()[0] == public
    assert f"alice        {public}  signing trusted" in there
    assert "pulled 1 pack, 2 rows" in there


@pytest.mark.verify
def test_laptop(play: Any, localstack: Any, bucket: str, tmp_path: Path) -> None:
    """One model of several is pulled; offline nothing is asked for; what was encoded there is pushed later."""
    localstack.create_bucket(bucket)
    url, options = f"s3://{bucket}/emb", localstack.storage_options()
    with EmbeddingCache(tmp_path / "colleague", remote=url, storage_options=options) as cache:
        for model in ("acme/letters", "other/model"):
            cache.encode(["apple", "pear"], EncoderSpec(model=model, revision="v1", role="query"), encoder=letters)
    page = play("laptop.md", {"s3://team": f"s3://{bucket}"}, **localstack.environment)
    there, pulled, listed, keys, row, *_, pushed = page.said
    assert "other/model" in there
    assert "pulled 1 pack, 2 rows" in pulled
    assert "other/model" not in listed
    assert keys
    assert row
    assert "pushed 1 pack, 1 row" in pushed


@pytest.mark.verify
def test_localstack(play: Any, localstack: Any) -> None:
    """Both ways have one set of variables; the server starts, is used, and is used by another project's tests."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    page = play("localstack.md", {"4566": port, "localstack/run >": f"localstack/run --port {port} >"})
    variables = {f"export {name}={value}" for name, value in localstack.environment.items()}
    for line in variables:
        assert line.replace(str(localstack.port), "4566") in page.text
    assert "1 passed" in page.said[-1]


@pytest.mark.verify
@pytest.mark.skipif(shutil.which("torchrun", path=str(Path(sys.executable).parent)) is None, reason="no torchrun")
def test_several_machines(play: Any) -> None:
    """Ranks encode their shares; afterwards nothing is encoded. The batch script is the one in examples/."""
    page = play("several-machines.md")
    script = (ROOT / "examples" / "fill_cache.sbatch").read_text("utf-8")
    assert f"```bash\n{script}```" in page.text


def letters(texts: list[str]) -> Any:
    return np.array([[text.count(letter) for letter in "aeiou"] for text in texts], dtype=np.float32)
