"""A view restricts a search to what a task asked for, and gives its ids."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from cas_cache.errors import ConfigurationError, MirrorError
from cas_cache.identity import EncoderSpec, keys_of_texts
from cas_cache.mirror import Mirror, View
from cas_cache.search import METRICS, open_search
from search_rows import INDEXES, SPEC, check_truth, filled, recall, texts, true_scores, vectors
from tiers import sampled

ROWS = 3000
QUERIES = vectors(12, 10**6)


def view_of(mirror: Mirror, asked: Any, *, task: str = "Task", ids: bool = True, spec: EncoderSpec = SPEC) -> View:
    """Record that a task asked for these rows, in this order."""
    view = View(task, spec.namespace, spec.model, spec.revision, "document", "default", "test")
    keys = keys_of_texts([f"text {row}" for row in asked])
    mirror.views.record(view, keys, None, [f"d{place}" for place in range(len(asked))] if ids else None)
    return view


def check_view(found: Any, asked: Any, rows: Any, metric: str) -> None:
    """Assert that rows, places, ids and scores belong together."""
    asked = np.asarray(asked)
    truth = true_scores(QUERIES, rows, metric)
    assert_array_equal(asked[found.positions], found.rows)
    assert found.ids == [[f"d{place}" for place in line] for line in found.positions.tolist()]
    assert_array_equal(found.keys, keys_of_texts(texts(ROWS))[found.rows])
    np.testing.assert_allclose(found.scores, np.take_along_axis(truth, found.rows, axis=1), rtol=2e-6, atol=2e-6)
    assert all(len(set(line)) == len(line) for line in found.positions.tolist())


RANDOM = np.random.default_rng(5)
ASKED = {
    "a run": np.arange(500, 900),
    "a run, backwards": np.arange(900, 500, -1),
    "some": RANDOM.choice(ROWS, 400, replace=False),
    "few": RANDOM.choice(ROWS, 40, replace=False),
    "most": RANDOM.choice(ROWS, 2500, replace=False),
    "with repeats": RANDOM.integers(0, 300, 900),
    "one row": np.full(7, 11),
}


@pytest.mark.parametrize("index", sampled([None, *INDEXES], keep=4))
@pytest.mark.parametrize("which", sampled(ASKED, keep=3))
def test_only_what_was_asked_for(tmp_path: Path, which: str, index: str | None) -> None:
    """Places and ids are of the rows that are shown; each place comes once, and none is missed but by an index."""
    rows, asked = vectors(ROWS), ASKED[which]
    filled(tmp_path, rows)
    mirror = Mirror(tmp_path)
    view = view_of(mirror, asked)
    found = open_search(mirror, SPEC, index=index).search(QUERIES, 10, view=view)
    assert found.rows.shape == (12, min(10, len(asked)))
    check_view(found, asked, rows, "cosine")
    truth = -np.sort(-true_scores(QUERIES, rows, "cosine")[:, asked], axis=1)[:, :10]
    exact = index is None or which in ("few", "one row")
    assert np.isclose(found.scores, truth, atol=2e-6).mean() >= (1 if exact else 0.7 if "PQ" in str(index) else 0.9)


@pytest.mark.parametrize("metric", METRICS)
def test_repeats_are_places_of_their_own(tmp_path: Path, metric: str) -> None:
    """A text that is in a corpus twice is two documents: both are found, the first place first."""
    rows = vectors(50)
    filled(tmp_path, rows)
    mirror = Mirror(tmp_path)
    best = int(np.argmax(true_scores(QUERIES[:1], rows, metric)))
    asked = [*range(50), best, best]
    found = open_search(mirror, SPEC, metric=metric).search(QUERIES[:1], 4, view=view_of(mirror, asked))
    assert found.rows[0, :3].tolist() == [best] * 3
    assert found.positions is not None
    assert found.positions[0, :3].tolist() == [best, 50, 51]
    assert found.ids is not None
    assert found.ids[0][:3] == [f"d{best}", "d50", "d51"]
    assert found.rows[0, 3] != best


def test_a_view_that_grows(tmp_path: Path) -> None:
    """What a task asks for later is found by the same searcher."""
    filled(tmp_path, vectors(100))
    mirror = Mirror(tmp_path)
    view = view_of(mirror, range(10))
    searcher = open_search(mirror, SPEC)
    assert searcher.search(QUERIES, 50, view=view).rows.shape == (12, 10)
    assert view_of(Mirror(tmp_path), range(20, 40)) == view
    assert searcher.search(QUERIES, 50, view=view).rows.shape == (12, 30)


def test_rows_that_are_not_here_are_passed_over(tmp_path: Path) -> None:
    """They come when they are here; a view of which nothing is here is an error."""
    filled(tmp_path, vectors(100))
    mirror = Mirror(tmp_path)
    view = view_of(mirror, range(90, 110))
    nothing = view_of(mirror, range(200, 210), task="Other")
    searcher = open_search(mirror, SPEC)
    found = searcher.search(QUERIES, 50, view=view)
    assert sorted(found.rows[0].tolist()) == list(range(90, 100))
    assert found.ids is not None
    assert sorted(found.ids[0]) == sorted(f"d{place}" for place in range(10))
    with pytest.raises(MirrorError, match="No row of the view of Other"):
        searcher.search(QUERIES, 5, view=nothing)
    filled(tmp_path, vectors(10, 100), first=100)
    assert searcher.search(QUERIES, 50, view=view).rows.shape == (12, 20)


def test_without_ids(tmp_path: Path) -> None:
    """Places, if the task gave no ids; neither, without a view."""
    filled(tmp_path, vectors(30))
    mirror = Mirror(tmp_path)
    searcher = open_search(mirror, SPEC)
    found = searcher.search(QUERIES, 3, view=view_of(mirror, [5, 4, 3], ids=False))
    assert found.ids is None
    assert found.positions is not None
    assert_array_equal(found.rows, 5 - found.positions)
    whole = searcher.search(QUERIES, 3)
    assert (whole.ids, whole.positions) == (None, None)


def test_rows_of_a_view_behind_the_index(tmp_path: Path) -> None:
    """They are searched exactly, like all rows that came later."""
    filled(tmp_path, vectors(ROWS - 100))
    mirror = Mirror(tmp_path)
    searcher = open_search(mirror, SPEC, index="HNSW32", metric="l2")
    late = vectors(100, ROWS)
    filled(tmp_path, late, first=ROWS - 100)
    asked = np.arange(1500, ROWS)[::-1]
    found = searcher.search(late[:5], 3, view=view_of(mirror, asked))
    assert searcher.covered == ROWS - 100
    assert found.rows[:, 0].tolist() == list(range(ROWS - 100, ROWS - 95))
    check_truth(found, late[:5], np.concatenate([vectors(ROWS - 100), late]), "l2")
    assert recall(found, late[:5], np.concatenate([vectors(ROWS - 100), late]), "l2") > 0.5


def test_a_view_of_another_namespace(tmp_path: Path) -> None:
    """Its keys would name other vectors."""
    other = EncoderSpec(model="org/model", revision="0000000", role="document")
    filled(tmp_path, vectors(10))
    mirror = Mirror(tmp_path)
    view = view_of(mirror, range(5), spec=other)
    with pytest.raises(ConfigurationError, match=f"is of the namespace {other.namespace}"):
        open_search(mirror, SPEC).search(QUERIES, 3, view=view)
