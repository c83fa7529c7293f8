"""What a run reports with the cache is what it reports without: every text task of mteb's own tests, and some of ours.

Media are in `test_mteb_fidelity_media.py`.
"""

import functools
import itertools
import warnings
from typing import Any

import mteb.mocks
import pytest
from mteb.models.cache_wrappers import CachedEmbeddingWrapper as MtebsOwn

import mteb_tasks as tasks
from cas_cache.errors import CacheMiss
from cas_cache.mteb import CachedEmbeddingWrapper
from mteb_encoders import HashEncoder, TorchEncoder
from mteb_fidelity_encoders import MediaEncoder, instruct, sentence_transformer
from mteb_fidelity_runs import Plain, all_scores, check_four_runs, plain_run
from tiers import sampled

pytestmark = [
    # Data sets of two rows.
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:An input array is constant"),
    # mteb's own.
    pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:Conversations are a list of strings:UserWarning"),
]

MOCK_TASKS = {type(task).__name__: task for task in mteb.mocks.MOCK_TASK_TEST_GRID}
OWN_TASKS = {
    make.__name__: make
    for make in (
        tasks.misleading_titles, tasks.odd_texts, tasks.same_text_two_titles, tasks.instructions, tasks.conversations,
        tasks.two_languages, tasks.reranking, tasks.sts, tasks.pair_classification, tasks.classification,
        tasks.clustering, tasks.bitext, tasks.summarization,
    )
}  # fmt: skip
PROMPTS = {"query": "query: ", "document": "passage: ", "Classification": "classify: ", "STS-query": "sts: "}
ENCODERS = {
    "class of one's own": lambda: MediaEncoder(prompts=PROMPTS),
    "sentence-transformers": lambda: sentence_transformer(PROMPTS),
    "instructions": lambda: instruct(instruction_template="Instruct: {instruction}\n"),
}


@functools.cache
def plain_of(encoder: str, name: str) -> Plain:
    """The run without a cache, made once for all tests."""
    return plain_run(ENCODERS[encoder](), task_of(name))


def task_of(name: str) -> Any:
    return MOCK_TASKS[name] if name in MOCK_TASKS else OWN_TASKS[name]()


CASES = list(itertools.product([*MOCK_TASKS, *OWN_TASKS], ENCODERS))
QUICK = list(zip(OWN_TASKS, itertools.cycle(ENCODERS), strict=False))[::6]
"""Some tasks of ours; the encoders take turns."""


@pytest.mark.parametrize(("name", "encoder"), sampled(CASES, keep=QUICK))
def test_scores_and_what_is_encoded(name, encoder, tmp_path):
    """Plain, cold, warm, on a second machine: all scores are equal; each item of the plain run is encoded just once.

    On mteb's own text tasks, and on ours of every kind, with repeats, empty, very long and non-BMP texts.
    """
    check_four_runs(ENCODERS[encoder](), task_of(name), tmp_path, plain=plain_of(encoder, name))


@pytest.mark.parametrize(
    "name",
    sampled(
        ["misleading_titles", "conversations", "classification", "MockBitextMiningTask"], keep={"misleading_titles"}
    ),
)
@pytest.mark.verify
def test_in_several_processes(name, tmp_path):
    """With two loader processes, warm and on a second machine, nothing is encoded again."""
    encoder = "class of one's own"
    check_four_runs(ENCODERS[encoder](), task_of(name), tmp_path, plain=plain_of(encoder, name), num_proc=2)


@pytest.mark.verify
def test_every_task_and_encoder_in_one_cache(tmp_path):
    """Three encoders and all tasks share one cache, in chunks of five items: no score changes, cold or warm."""
    encoders = {name: make() for name, make in ENCODERS.items()}
    for run in ("cold", "warm"):
        for name in OWN_TASKS:
            for kind, encoder in encoders.items():
                model, identity = getattr(encoder, "model", encoder), getattr(encoder, "identity", {})
                with CachedEmbeddingWrapper(model, tmp_path, chunk_items=5, **identity) as cached:
                    found = all_scores(cached, task_of(name))
                assert found == plain_of(kind, name).scores, (run, kind, name)
                assert run == "cold" or encoder.forget() == [], (kind, name)
            for encoder in encoders.values():
                encoder.forget()


@pytest.mark.verify
def test_what_two_tasks_share_is_encoded_once(tmp_path):
    """A known encoder does not encode a text again that another task had in the same role and prompt."""
    encoder = sentence_transformer(PROMPTS)
    makers = (tasks.misleading_titles, tasks.same_text_two_titles, tasks.odd_texts, tasks.reranking, tasks.sts)
    plain = [plain_run(encoder, make()) for make in makers]
    with CachedEmbeddingWrapper(encoder.model, tmp_path, **encoder.identity) as cached:
        for make, expected in zip(makers, plain, strict=True):
            assert all_scores(cached, make()) == expected.scores
    seen = encoder.forget()
    assert set(seen) == {item for run in plain for item in run.seen}
    assert len(seen) == len(set(seen)) < sum(len(set(run.seen)) for run in plain)


@pytest.mark.parametrize("dtype", sampled(["float16", "float64", "int8"], keep={"float16"}))
@pytest.mark.verify
def test_arrays_of_other_types(dtype, tmp_path):
    """Scores are equal for arrays that are not float32."""
    for make in (tasks.misleading_titles, tasks.sts):
        check_four_runs(HashEncoder(dtype=dtype), make(), tmp_path / make.__name__)


@pytest.mark.parametrize("dtype", sampled(["float16", "float32", "bfloat16"], keep={"bfloat16"}))
@pytest.mark.verify
def test_tensors(dtype, tmp_path):
    """Scores are equal for torch tensors. mteb itself evaluates bfloat16 only for retrieval."""
    for make in (tasks.misleading_titles, tasks.sts)[: 1 if dtype == "bfloat16" else 2]:
        check_four_runs(TorchEncoder(dtype=dtype), make(), tmp_path / make.__name__)


def test_every_text_task_of_mteb_is_among_these():
    """All of mteb's mock tasks are used: the rest are of images, audio and video."""
    grid = mteb.mocks.ALL_MOCK_TASK_TEST_GRID
    text = {type(task).__name__ for task in grid if task.metadata.modalities == ["text"]}
    assert text == set(MOCK_TASKS)


@pytest.mark.filterwarnings("ignore:Dimension file not found:UserWarning")  # theirs, of every new directory
@pytest.mark.filterwarnings("ignore:No existing files found:UserWarning")
@pytest.mark.verify
def test_mtebs_own_wrapper_gives_another_score(tmp_path):
    """Misleading titles show that mteb's own wrapper doubles them and loses score, and that cas_cache's does not."""
    plain = check_four_runs(HashEncoder(), tasks.misleading_titles(), tmp_path)
    theirs = all_scores(MtebsOwn(HashEncoder(), tmp_path / "theirs"), tasks.misleading_titles())
    assert plain.scores["test"][0]["main_score"] == 1.0
    assert theirs["test"][0]["main_score"] < 0.8


def test_only_cached_raises_on_a_cold_cache(tmp_path):
    """A cold cache that may not encode raises CacheMiss; nothing reaches the encoder."""
    encoder = HashEncoder()
    model = CachedEmbeddingWrapper(encoder, tmp_path, only_cached=True)
    with pytest.raises(CacheMiss, match="only_cached"):
        all_scores(model, tasks.sts())
    assert encoder.seen == []


def test_a_remote_that_is_away_is_one_warning(tmp_path):
    """With a remote that cannot be written the evaluation goes on: one warning, same scores, nothing lost."""
    (tmp_path / "file").write_text("in the way")
    encoder = HashEncoder()
    plain = all_scores(encoder, tasks.misleading_titles())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with CachedEmbeddingWrapper(encoder, tmp_path / "mirror", remote=str(tmp_path / "file" / "remote")) as model:
            assert all_scores(model, tasks.misleading_titles()) == plain
    assert [w.category.__name__ for w in caught] == ["RemoteWarning"]
    encoder.forget()
    with CachedEmbeddingWrapper(encoder, tmp_path / "mirror", remote=str(tmp_path / "back")) as model:
        assert all_scores(model, tasks.misleading_titles()) == plain
    assert encoder.seen == []
    assert model.stats.bytes_pushed > 0


@pytest.mark.verify
def test_a_closed_port_is_one_warning(tmp_path):
    """An S3 endpoint that does not answer costs one warning, not the evaluation."""
    options = {
        "endpoint_url": "http://127.0.0.1:9",
        "key": "test",
        "secret": "test",
        "config_kwargs": {"connect_timeout": 1, "retries": {"max_attempts": 0}},
    }
    encoder = HashEncoder()
    plain = all_scores(encoder, tasks.sts())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with CachedEmbeddingWrapper(encoder, tmp_path, remote="s3://nowhere/emb", storage_options=options) as model:
            assert all_scores(model, tasks.sts()) == plain
    assert [w.category.__name__ for w in caught if w.category is not ResourceWarning] == ["RemoteWarning"]
