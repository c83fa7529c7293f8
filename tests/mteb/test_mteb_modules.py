"""Every module class of sentence-transformers works through the cache: plain, cold, warm and on a second machine."""

import mteb.mocks.mock_tasks as mocks
import numpy as np
import pytest
from datasets import Dataset
from mteb.models import SentenceTransformerEncoderWrapper
from mteb.types import PromptType
from sentence_transformers.sentence_transformer import modules as st
from torch.utils.data import DataLoader

from cas_cache.mteb import CachedEmbeddingWrapper
from tiers import sampled
from tiny_models import TEXTS, every_kind

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*deprecated.*"),
    pytest.mark.filterwarnings("ignore:.*has been renamed.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Prompt type .* not found in task metadata:UserWarning"),
    pytest.mark.filterwarnings("ignore:No prompt found on the abstask class:UserWarning"),
    pytest.mark.filterwarnings("ignore:dropout option adds dropout:UserWarning"),
]

KINDS = every_kind()

ABSTRACT = {"Module", "InputModule"}

IDENTITY = {"model_id": "org/any", "revision": "abc1234"}

CALL = {"task_metadata": mocks.MockRetrievalTask().metadata, "hf_split": "test", "hf_subset": "default"}


def answers(encoder):
    """The vectors of all texts as queries and as documents."""
    return {
        role: np.asarray(
            encoder.encode(DataLoader(Dataset.from_dict({"text": TEXTS}), batch_size=3), prompt_type=role, **CALL)
        )
        for role in (PromptType.query, PromptType.document)
    }


def test_every_class_is_in_the_sweep():
    """A class of a new release of sentence-transformers is named here until a model below uses it."""
    used = {type(module) for make in KINDS.values() for module in make().modules()}
    assert {name for name in set(st.__all__) - ABSTRACT if getattr(st, name) not in used} == set()


@pytest.mark.parametrize("kind", sampled(KINDS, keep=8))
def test_plain_cold_warm_and_a_second_machine_agree(kind, tmp_path):
    """The same vectors without a cache, with an empty one, with a full one, and from the repository."""
    plain = answers(SentenceTransformerEncoderWrapper(KINDS[kind]()))
    encoded = []
    for mirror in ("first", "first", "second"):
        model, remote = KINDS[kind](), str(tmp_path / "remote")
        with CachedEmbeddingWrapper(model, tmp_path / mirror, remote=remote, self_check=0, **IDENTITY) as cached:
            found = answers(cached)
            encoded.append(cached.stats.encoded)
        for role, vectors in plain.items():
            assert found[role].dtype == vectors.dtype
            np.testing.assert_allclose(found[role], vectors, rtol=0, atol=1e-5 if vectors.dtype == np.float32 else 3e-3)
    assert encoded[0] > 0
    assert encoded[1:] == [0, 0]
