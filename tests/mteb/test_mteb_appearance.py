"""The wrapper tells two encoders of one class apart that differ in an attribute, and two ways to run one model."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mteb.mocks.mock_tasks as mocks
import numpy as np
import pytest
from datasets import Dataset
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from torch.utils.data import DataLoader

from cas_cache.errors import SelfCheckFailed
from cas_cache.mteb import CachedEmbeddingWrapper
from cas_cache.mteb.compat import appearance

TASK = mocks.MockRetrievalTask().metadata
TEXTS = ["one", "two words", "three"]


@pytest.fixture(autouse=True)
def _on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CAS_CACHE_SELF_CHECK")


class Service(AbsEncoder):
    """As a class for a hosted model looks: settings beside a client, and a counter."""

    def __init__(self, **settings: Any) -> None:
        self.prefix, self.max_tokens, self.embed_dim, self.calls = "", 100, 2, 0
        self.client = SimpleNamespace(base_url="https://a/v1", api_key="sk-" + "a1B2" * 10)
        vars(self).update(settings)
        self.mteb_model_meta = ModelMeta.create_empty(overwrites={"name": "org/own", "revision": "abc1234"})

    def encode(self, inputs: Any, **_: Any) -> Any:
        """Return vectors that depend on every setting."""
        self.calls += 1
        texts = [(self.prefix + text)[: self.max_tokens] for batch in inputs for text in batch["text"]]
        server = float(self.client.base_url.count("b"))
        return np.array([[len(text), server + 1, *[1.0] * (self.embed_dim - 2)] for text in texts], np.float32)


def served(encoder: Any, mirror: Path) -> tuple[list[float], int, int]:
    """Return the first column, and how many texts were encoded and compared."""
    loader = DataLoader(Dataset.from_dict({"text": TEXTS}), batch_size=2)
    with CachedEmbeddingWrapper(encoder, mirror, push="manual") as cached:
        vectors = cached.encode(loader, task_metadata=TASK, hf_split="test", hf_subset="default")
        return np.asarray(vectors)[:, 0].tolist(), cached.stats.encoded, cached.stats.checked


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("prefix", "bbb"),
        ("max_tokens", 2),
        ("embed_dim", 3),
        ("client.base_url", SimpleNamespace(base_url="https://b/v1", api_key="sk-" + "c3D4" * 10)),
    ],
)
def test_another_setting_is_found_and_named(attribute: str, value: Any, tmp_path: Path) -> None:
    """A changed attribute is an error that names it; the first encoder, created again, is served without encoding."""
    first = served(Service(), tmp_path)
    with pytest.raises(SelfCheckFailed, match=r"model_id=, revision=") as failed:
        served(Service(**{attribute.partition(".")[0]: value}), tmp_path)
    assert failed.value.attributes == (attribute,)
    assert served(Service(), tmp_path) == (first[0], 0, 0)


def test_a_counter_and_a_new_key_cost_nothing(tmp_path: Path) -> None:
    """A counter and a new API key do not change the appearance."""
    served(Service(), tmp_path)
    client = SimpleNamespace(base_url="https://a/v1", api_key="sk-" + "e5F6" * 10)
    assert served(Service(calls=99, client=client), tmp_path)[1:] == (0, 0)


def test_how_a_known_model_runs_is_part_of_its_appearance() -> None:
    """Device, attention kernel and versions are in the appearance, and not in the identity."""
    torch = pytest.importorskip("torch")

    class Transformer(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, attention: str) -> None:
            super().__init__()
            self.auto_model = SimpleNamespace(config=SimpleNamespace(_attn_implementation=attention))

    def model(attention: str, device: str) -> Any:
        inner = torch.nn.Sequential(Transformer(attention))
        inner.device = torch.device(device)
        return SimpleNamespace(model=inner)

    base = appearance(model("sdpa", "cpu"))
    assert base == appearance(model("sdpa", "cpu"))
    assert base["version of torch"] == torch.__version__
    for other in (model("eager", "cpu"), model("sdpa", "cuda:1")):
        assert base != appearance(other)
