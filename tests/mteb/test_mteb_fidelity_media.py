"""What a run on images, audio or video reports with the cache is what it reports without."""

import itertools

import mteb
import mteb.mocks
import pytest

from cas_cache.mteb import CachedEmbeddingWrapper
from mteb_fidelity_decoders import MISSING, run_all
from mteb_fidelity_decoders import tasks as decoded_tasks
from mteb_fidelity_encoders import MediaEncoder, sentence_transformer
from mteb_fidelity_runs import all_scores, check_four_runs
from tiers import sampled

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning"),  # data sets of two rows
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:An input array is constant"),
]

IMAGE_TASKS = {type(task).__name__: task for task in mteb.mocks.MOCK_MIEB_TASK_GRID}
ENCODERS = {
    "class of one's own": MediaEncoder,
    "sentence-transformers": lambda: sentence_transformer({"query": "query: ", "document": "passage: "}),
}


@pytest.mark.parametrize(("name", "encoder"), sampled(itertools.product(IMAGE_TASKS, ENCODERS), keep=14))
def test_image_tasks(name, encoder, tmp_path):
    """All scores are equal, and the encoder sees each image, with its text if it has one, once."""
    check_four_runs(ENCODERS[encoder](), IMAGE_TASKS[name], tmp_path)


@pytest.mark.verify
@pytest.mark.parametrize("name", ["MockImageClassificationTask", "MockAny2AnyRetrievalI2TTask"])
def test_images_in_several_processes(name, tmp_path):
    """With two loader processes, no image is encoded again."""
    check_four_runs(MediaEncoder(), IMAGE_TASKS[name], tmp_path, num_proc=2)


def test_mteb_s_random_encoder(tmp_path):
    """The baseline of mteb has the scores of the plain run, cold and warm."""
    task, encoder = IMAGE_TASKS["MockAny2AnyRetrievalT2ITask"], mteb.get_model("mteb/baseline-random-encoder")
    plain = all_scores(encoder, task)
    for options in ({}, {"only_cached": True}):
        with CachedEmbeddingWrapper(encoder, tmp_path, revision="1", **options) as cached:
            assert all_scores(cached, task) == plain


@pytest.fixture(scope="module")
def decoded(tmp_path_factory):
    """What was wrong with each audio and video task; they run in one process."""
    return run_all(tmp_path_factory.mktemp("decoded"))


@pytest.mark.verify
@pytest.mark.skipif(bool(MISSING), reason=f"audio and video need {MISSING}: pip install torchcodec==0.11.1 av")
@pytest.mark.parametrize("name", decoded_tasks())
def test_audio_and_video_tasks(name, decoded):
    """All scores are equal, and the encoder sees each clip and film, decoded by torchcodec, once."""
    assert name in decoded, "the process ended before this task"
    assert decoded[name] is None, decoded[name]
