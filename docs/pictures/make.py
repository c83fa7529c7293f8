"""Write the pictures of this folder that show real output: `ls`, `status`, and the demo's table.

    python docs/pictures/make.py

The commands run in a new folder, on vectors that are made here. The demo's table is the one that README prints, so
that page and picture agree. architecture.svg and life-of-a-vector.svg are drawn by hand.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.text import Text

from cas_cache import EmbeddingCache, EncoderSpec

HERE = Path(__file__).parent
README = HERE.parents[1] / "README.md"
WIDTH = 80


def picture(title: str, output: str, width: int = WIDTH) -> str:
    """Return a terminal that shows some output, ANSI colours included."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123
        console = Console(record=True, width=width, file=nowhere, force_terminal=True, legacy_windows=False)
        console.print(Text.from_ansi(output))
    name = re.sub(r"\W+", "-", title)
    svg = console.export_svg(title=title, unique_id=name)
    # Fonts are not fetched from elsewhere: the text has its widths, so any monospaced font will do.
    svg = re.sub(r"@font-face \{.*?\}\n", "", svg, flags=re.DOTALL)
    return re.sub(r"[ \t]+$", "", svg.replace("Fira Code", "DejaVu Sans Mono"), flags=re.MULTILINE)


def outputs() -> dict[str, str]:
    """Return what `ls` and `status` print of a cache that is partly shared."""
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        fill(where)
        return {
            command: typed(where, command, "my_mirror", *remote)
            for command, remote in (("ls", ()), ("status", ("--remote", "shared")))
        }


def fill(where: Path) -> None:
    """Fill two mirrors and a repository: some rows local only, some remote only."""
    numbers = np.random.default_rng(0)
    documents = EncoderSpec(model="intfloat/e5-small-v2", revision="ffb93f3", prompt="passage: ", role="document")
    queries = EncoderSpec(model="intfloat/e5-small-v2", revision="ffb93f3", prompt="query: ", role="query")
    sentences = EncoderSpec(model="sentence-transformers/all-MiniLM-L6-v2", revision="c9745ed")
    remote = str(where / "shared")
    plan = (("a_colleagues", documents, 0, 3000), ("my_mirror", queries, 0, 300), ("my_mirror", documents, 0, 2000))
    for mirror, spec, first, last in plan:
        with EmbeddingCache(where / mirror, remote=remote, self_check=0, progress=False) as cache:
            cache.put([f"text {n}" for n in range(first, last)], numbers.random((last - first, 384), np.float32), spec)
    with EmbeddingCache(where / "a_colleagues", remote=remote, progress=False) as cache:
        cache.put([f"more {n}" for n in range(500)], numbers.random((500, 384), np.float32), documents)
    cache = EmbeddingCache(where / "my_mirror", progress=False)  # no remote: these are pending
    cache.put([f"text {n}" for n in range(1200)], numbers.random((1200, 384), np.float32), sentences)


def typed(where: Path, *words: str) -> str:
    """Return what a command prints on a terminal, after its own line."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CAS_CACHE_")}
    environment = {**kept, "FORCE_COLOR": "1", "COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "cas_cache", *words]
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, check=True)  # noqa: S603
    return f"$ cas-cache {' '.join(words)}\n{done.stdout}".rstrip()


def demo() -> str:
    """Return the table that README says `make demo` prints."""
    found = re.search(r"^```\n(┃.*?)^```$", README.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    if found is None:
        raise ValueError("README prints no table of the demo")
    return f"$ make demo\n{found[1]}".rstrip()


def pictures() -> dict[str, str]:
    """Return every picture of this folder that shows real output, by its name."""
    table = demo()
    found = {name: picture(f"cas-cache {name}", output) for name, output in outputs().items()}
    return found | {"demo": picture("make demo", table, max(map(len, table.splitlines())))}


if __name__ == "__main__":
    for name, svg in pictures().items():
        (HERE / f"{name}.svg").write_text(svg, "utf-8")
