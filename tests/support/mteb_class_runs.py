"""Evaluate encoder classes of mteb through a cache; as a program, what a second machine gets.

    PYTHONPATH=tests/support python -m mteb_class_runs DIRECTORY [CLASS ...]

The program prints, for each class, its scores and what was encoded, with the mirror ``DIRECTORY/second`` and the
repository ``DIRECTORY/remote``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import mteb_tasks as tasks
from cas_cache.mteb import CachedEmbeddingWrapper
from mteb_class_recipes import RECIPES, fakes

TASKS = (tasks.misleading_titles, tasks.sts)


def plain_scores(name: str) -> list[str]:
    """Return the scores of a class without a cache."""
    with fakes():
        model = RECIPES[name]()
        return [tasks.scores(model, make()) for make in TASKS]


def cached_scores(name: str, place: Path, mirror: str) -> dict[str, Any]:
    """Return the scores of a class through a cache, and how many items were asked for, encoded and compared."""
    options = {"remote": str(place / "remote"), "self_check": 8, "progress": False}
    with fakes(), CachedEmbeddingWrapper(RECIPES[name](), place / mirror, **options) as model:
        scores = [tasks.scores(model, make()) for make in TASKS]
    stats = model.stats
    return {"scores": scores, "hits": stats.hits, "encoded": stats.encoded, "checked": stats.checked}


if __name__ == "__main__":
    directory, *names = sys.argv[1:]
    json.dump({name: cached_scores(name, Path(directory), "second") for name in names}, sys.stdout)
