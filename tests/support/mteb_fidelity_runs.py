"""The four runs of which each must be the first: without a cache, with a cold one, a warm one, on a second machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import mteb
import numpy as np
from mteb._set_seed import _set_seed

from cas_cache.mteb import CachedEmbeddingWrapper

if TYPE_CHECKING:
    from pathlib import Path

OTHERWISE = {"batch_size": 3, "device": "cpu", "show_progress_bar": False}
"""Encode arguments that change no vector, unlike those of the run before."""


def all_scores(model: Any, task: Any, *, num_proc: int = 1, **encode_kwargs: Any) -> dict[str, Any]:
    """Evaluate, and return all that mteb reports, by split and subset, as plain values, digit for digit."""
    # A task draws samples (and mocks their media) from generators that go on from run to run: every run begins anew.
    task.rng_state, task.np_rng = _set_seed(task.seed)
    results = mteb.evaluate(
        model,
        tasks=[task],
        cache=None,
        co2_tracker=False,
        show_progress_bar=False,
        num_proc=num_proc,
        encode_kwargs={"show_progress_bar": False, **encode_kwargs},
    )
    assert not results.exceptions
    found = results.task_results[0].scores
    subsets = task.hf_subsets or ["default"]
    assert {split: len(entries) for split, entries in found.items()} == dict.fromkeys(task.eval_splits, len(subsets))
    plain: dict[str, Any] = _plain(found)
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(inner) for inner in value]
    value = value.item() if isinstance(value, np.generic) else value
    return "nan" if isinstance(value, float) and np.isnan(value) else value


class Plain(NamedTuple):
    """A run without a cache."""

    scores: dict[str, Any]
    seen: list[Any]


def plain_run(encoder: Any, task: Any) -> Plain:
    """Evaluate an encoder as it is."""
    encoder.forget()
    scores = all_scores(getattr(encoder, "model", encoder), task)
    return Plain(scores, encoder.forget())


def check_four_runs(encoder: Any, task: Any, place: Path, *, plain: Plain | None = None, num_proc: int = 1) -> Plain:
    """Evaluate plain, cold, warm and on a second machine, and compare all that can be seen of them.

    Warm and second machine use other batches and name the device, and with `num_proc` as many processes. The second
    machine may not encode at all: it has an empty mirror, the same remote and ``only_cached``.

    Args:
        encoder: A `HashEncoder`, or a `Known` one.
        task: The task.
        place: An empty folder.
        plain: The run without a cache, if it was made.
        num_proc: Processes of the later runs.

    Returns:
        The run without a cache.
    """
    model, identity = getattr(encoder, "model", encoder), getattr(encoder, "identity", {})
    plain = plain or plain_run(encoder, task)
    assert plain.seen

    def run(mirror: str, *, processes: int = 1, only_cached: bool = False, **encode_kwargs: Any) -> Any:
        remote, options = str(place / "remote"), {"only_cached": only_cached, **identity}
        with CachedEmbeddingWrapper(model, place / mirror, remote=remote, **options) as cached:
            found = all_scores(cached, task, num_proc=processes, **encode_kwargs)
        return found, encoder.forget(), cached.stats

    cold, seen, stats = run("mirror")
    assert cold == plain.scores
    assert set(seen) == set(plain.seen), "the encoder did not see the items of the plain run"
    assert len(seen) == len(set(seen)), "an item was encoded twice"
    assert stats.encoded == len(seen)
    assert stats.bytes_pushed > 0

    warm, seen, stats = run("mirror", processes=num_proc, **OTHERWISE)
    assert warm == plain.scores
    assert seen == []
    assert (stats.misses, stats.bytes_pulled) == (0, 0)

    second, seen, stats = run("second", processes=num_proc, only_cached=True, **OTHERWISE)
    assert second == plain.scores
    assert seen == []
    assert stats.misses == 0
    assert stats.bytes_pulled > 0
    return plain
