"""Encoder classes of mteb through the cache: plain, cold, warm, and a second machine in another process.

The classes share one mirror, one repository, and one name and revision of a model.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mteb_class_recipes import RECIPES
from mteb_class_runs import cached_scores, plain_scores
from paths import SUPPORT

QUICK = ("openai_models.OpenAIModel", "google_gemini.GoogleGeminiEmbeddingModel", "kalm_models.KALMWrapper")

pytestmark = [
    pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:An input array is constant"),
]


def check_here(name: str, place: Path) -> list[str]:
    """Check the runs of this process; return the plain scores."""
    plain = plain_scores(name)
    cold = cached_scores(name, place, "mirror")
    assert cold["scores"] == plain, "cold"
    assert cold["encoded"] > 0, "cold"
    warm = cached_scores(name, place, "mirror")
    assert warm["scores"] == plain, "warm"
    assert (warm["encoded"], warm["checked"]) == (0, 0), "warm"
    return plain


@pytest.mark.verify
def test_some_classes(tmp_path: Path) -> None:
    """A service with prompts by task, a class that reads title and body apart, and a subclass of a shared class."""
    for name in QUICK:
        plain = check_here(name, tmp_path)
        second = cached_scores(name, tmp_path, "second")
        assert second["scores"] == plain
        assert second["encoded"] == 0
        assert second["checked"] > 0


@pytest.mark.verify
def test_every_recipe(tmp_path: Path) -> None:
    """For each class, a second machine, a process with another hash seed, encodes only the rows that it compares."""
    assert len(RECIPES) >= 30
    plain, wrong = {}, {}
    for name in RECIPES:
        try:
            plain[name] = check_here(name, tmp_path)
        except Exception as err:  # noqa: BLE001 - one class that fails must not hide the others
            wrong[name] = f"{type(err).__name__}: {err}"
    done = subprocess.run(
        [sys.executable, "-m", "mteb_class_runs", str(tmp_path), *plain],
        env={**os.environ, "PYTHONHASHSEED": "1234567", "PYTHONPATH": str(SUPPORT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for name, second in json.loads(done.stdout).items():
        if second["scores"] != plain[name] or second["encoded"] or not second["checked"]:
            wrong[name] = f"second machine: {second['encoded']} encoded, {second['checked']} compared"
    assert wrong == {}
    print(f"{len(RECIPES)} classes were run")
