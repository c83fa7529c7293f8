"""Scores with the cache are the scores without it: plain, cold, warm, and on a second machine."""

import warnings
from pathlib import Path

import mteb.mocks
import pytest

from cas_cache.errors import CacheMiss
from cas_cache.mteb import CachedEmbeddingWrapper
from mteb_integration import mteb_tasks as tasks
from mteb_integration.mteb_encoders import HashEncoder, TitleBodyEncoder

MOCK_TASKS = {type(task).__name__: task for task in mteb.mocks.MOCK_TASK_TEST_GRID}
IMAGE_TASKS = {type(task).__name__: task for task in mteb.mocks.MOCK_MIEB_TASK_GRID}
OWN_TASKS = [
    tasks.misleading_titles,
    tasks.odd_texts,
    tasks.same_text_two_titles,
    tasks.instructions,
    tasks.conversations,
    tasks.reranking,
    tasks.sts,
    tasks.pair_classification,
    tasks.classification,
    tasks.clustering,
]


def four_runs(encoder, task, place: Path) -> str:
    """Evaluate plain, cold, warm, on a second machine and there with only_cached; return the plain scores."""
    plain = tasks.scores(encoder, task)
    seen_plain = encoder.forget()

    def run(mirror, **options):
        with CachedEmbeddingWrapper(encoder, place / mirror, remote=str(place / "remote"), **options) as model:
            found = tasks.scores(model, task)
        return found, encoder.forget(), model.stats

    cold, seen, _ = run("mirror")
    assert cold == plain
    assert set(seen) == set(seen_plain)
    assert len(seen) == len(set(seen)), "a text was encoded twice"
    warm, seen, _ = run("mirror")
    assert (warm, seen) == (plain, [])
    second, seen, stats = run("second", only_cached=True)
    assert (second, seen) == (plain, [])
    assert stats.misses == 0
    assert stats.bytes_pulled > 0
    return plain


@pytest.mark.parametrize("encoder", [HashEncoder, TitleBodyEncoder])
@pytest.mark.parametrize("make", OWN_TASKS)
def test_same_scores_on_own_tasks(make, encoder, tmp_path):
    """All scores are equal on titles, instructions, conversations, repeats and odd texts, of every kind of task."""
    four_runs(encoder(), make(), tmp_path)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")  # data sets of two rows
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning")  # mteb's bitext mining
@pytest.mark.parametrize("name", MOCK_TASKS)
def test_same_scores_on_mock_tasks(name, tmp_path):
    """All scores are equal on every text task that mteb itself tests with."""
    four_runs(TitleBodyEncoder(), MOCK_TASKS[name], tmp_path)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore:An input array is constant")  # two rows again
@pytest.mark.parametrize("name", IMAGE_TASKS)
def test_same_scores_on_image_tasks(name, tmp_path):
    """All scores are equal on mteb's mock image tasks, one of which has a dataset without `select`."""
    task = IMAGE_TASKS[name]
    task.load_data()  # once: each load draws other images
    encoder = mteb.get_model("mteb/baseline-random-encoder")
    plain = tasks.scores(encoder, task)
    for options in ({}, {"only_cached": True}):
        assert tasks.scores(CachedEmbeddingWrapper(encoder, tmp_path, revision="1", **options), task) == plain


@pytest.mark.filterwarnings("ignore:Dimension file not found:UserWarning")  # theirs, of every new directory
@pytest.mark.filterwarnings("ignore:No existing files found:UserWarning")
def test_mtebs_own_wrapper_gives_another_score(tmp_path):
    """The misleading titles tell: mteb's own wrapper doubles them and loses score, cas_cache's does not."""
    from mteb.models.cache_wrappers import CachedEmbeddingWrapper as MtebsOwn

    plain = four_runs(HashEncoder(), tasks.misleading_titles(), tmp_path)
    theirs = tasks.scores(MtebsOwn(HashEncoder(), tmp_path / "theirs"), tasks.misleading_titles())
    assert tasks.main_score(plain) == 1.0
    assert tasks.main_score(theirs) < 0.8


def test_two_splits_and_a_small_chunk_size(tmp_path):
    """Chunks of three items, and a second split of the same texts, change nothing."""
    task = tasks.retrieval(
        "TwoSplits",
        [{"id": f"d{i}", "title": "", "text": f"topic{i} word"} for i in range(10)],
        [{"id": f"q{i}", "text": f"topic{i}"} for i in range(10)],
        {f"q{i}": {f"d{i}": 1} for i in range(10)},
        eval_splits=["dev", "test"],
    )
    encoder = HashEncoder()
    plain = tasks.scores(encoder, task)
    with CachedEmbeddingWrapper(encoder, tmp_path, chunk_items=3) as model:
        assert tasks.scores(model, task) == plain
        assert tasks.scores(model, task) == plain


def test_only_cached_raises_on_a_cold_cache(tmp_path):
    """A cold cache that may not encode raises CacheMiss; nothing reaches the encoder."""
    encoder = HashEncoder()
    model = CachedEmbeddingWrapper(encoder, tmp_path, only_cached=True)
    with pytest.raises(CacheMiss, match="only_cached"):
        tasks.scores(model, tasks.sts())
    assert encoder.seen == []


def test_a_remote_that_is_away_is_one_warning(tmp_path):
    """With a remote that cannot be written the evaluation goes on: one warning, same scores, nothing lost."""
    (tmp_path / "file").write_text("in the way")
    encoder = HashEncoder()
    plain = tasks.scores(encoder, tasks.misleading_titles())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with CachedEmbeddingWrapper(encoder, tmp_path / "mirror", remote=str(tmp_path / "file" / "remote")) as model:
            assert tasks.scores(model, tasks.misleading_titles()) == plain
    assert [w.category.__name__ for w in caught] == ["RemoteWarning"]
    encoder.forget()
    with CachedEmbeddingWrapper(encoder, tmp_path / "mirror", remote=str(tmp_path / "back")) as model:
        assert tasks.scores(model, tasks.misleading_titles()) == plain
    assert encoder.seen == []
    assert model.stats.bytes_pushed > 0


def test_a_closed_port_is_one_warning(tmp_path):
    """An S3 endpoint that does not answer costs one warning, not the evaluation."""
    options = {
        "endpoint_url": "http://127.0.0.1:9",
        "key": "test",
        "secret": "test",
        "config_kwargs": {"connect_timeout": 1, "retries": {"max_attempts": 0}},
    }
    encoder = HashEncoder()
    plain = tasks.scores(encoder, tasks.sts())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with CachedEmbeddingWrapper(encoder, tmp_path, remote="s3://nowhere/emb", storage_options=options) as model:
            assert tasks.scores(model, tasks.sts()) == plain
    assert [w.category.__name__ for w in caught if w.category is not ResourceWarning] == ["RemoteWarning"]
