"""docs/how-to/notebooks-and-logs.md: its blocks run as printed, and the cell that it shows is the code's own."""

import logging
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from cas_cache import EmbeddingCache
from cas_cache.cli import cli
from cas_cache.stats import MIN_ITEMS
from paths import ROOT

PAGE = ROOT / "docs" / "how-to" / "notebooks-and-logs.md"
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
CELL = re.compile(r'(?<=<div class="cas-cache-cell">\n).*?(?=\n</div>)', re.DOTALL)


def settled(source: str, here: Path) -> str:
    """The table without what differs: where it was made, and how long things took."""
    shown = re.sub(r"(about )?\d+\.\d+ s\b", "TIME", source.replace(str(here), "/home/you"))
    return re.sub(r"\s+", " ", shown).strip()


def test_every_block_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In order, in one folder; what they print is what their comments and the text say."""
    monkeypatch.chdir(tmp_path)
    logger = logging.getLogger("cas_cache")
    monkeypatch.setattr(logger, "level", logger.level)  # a block sets it
    page, names = PAGE.read_text("utf-8"), {}  # type: ignore[var-annotated]
    kinds = []
    for kind, block in BLOCK.findall(page):
        kinds.append(kind)
        if kind == "sh":
            for line in block.splitlines():
                cli(shlex.split(line)[1:], standalone_mode=False)
            continue
        exec(compile(block, PAGE.name, "exec"), names)
        if block.rstrip().endswith("\ncache"):
            cell = CELL.search(page)
            assert cell is not None
            assert settled(cell[0], tmp_path) == settled(names["cache"]._repr_mimebundle_()["text/html"], tmp_path)
        if "summary()" in block:
            printed = capsys.readouterr().out.splitlines()
            assert printed[0].startswith("100 of 200 items from the cache (50.0%), 100 encoded")
            assert "100 rows (5.2 kB) are pending" in printed[2]
            assert printed[3:] == [found.strip() for found in re.findall(r"\)  # (Stats.*|0\.5 .*)", block)]
    assert kinds == ["python", "python", "sh", "python"]
    assert "pushed 1 pack" in capsys.readouterr().out
    assert EmbeddingCache("path_to_my_cache").mirror.namespaces()[0].pending_rows == 0


def test_the_numbers_and_fields_of_the_page() -> None:
    """Every count of `Stats` is in the table, and constants are those of the code."""
    from cas_cache import background
    from cas_cache.stats import Stats

    page = " ".join(PAGE.read_text("utf-8").split())
    stats: dict[str, Any] = Stats().as_json()
    assert [name for name in stats if f"`{name}`" not in page] == []
    assert f"Fewer than {MIN_ITEMS} items" in page
    assert f"after {background.LONG_PATIENCE:.0f} seconds" in page
    assert f"as soon as {background.ENOUGH_BYTES >> 20} MiB of vectors are pending" in page
    assert f"has been pending for {background.PUSH_SECONDS:.0f} seconds" in page
    assert "after a second a line" in page
    assert background.PATIENCE == 1.0
