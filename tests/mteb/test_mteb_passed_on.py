"""Models whose answers are no dense vectors are passed through: plain's scores, nothing stored, one warning."""

import warnings
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
import torch
from mteb.models.model_implementations.cde_models import CDEWrapper
from mteb.models.model_meta import ModelMeta

import mteb_tasks as tasks
from cas_cache.errors import ConfigurationError, DataWarning, MissingDependency
from cas_cache.mteb import CachedEmbeddingWrapper, compat
from mteb_encoders import HashEncoder
from tiers import sampled


class Sparse(HashEncoder):
    """Answers with a sparse tensor, and does not say so in its metadata."""

    def answer(self, vectors: Any) -> Any:
        return torch.from_numpy(np.where(abs(vectors) > 1, vectors, 0).astype(np.float32)).to_sparse()

    def similarity(self, a: Any, b: Any) -> Any:
        return a.to_dense() @ b.to_dense().T


class Padded(HashEncoder):
    """Several vectors for each item, padded to the longest of the call, as mteb's ColPali models answer."""

    def answer(self, vectors: Any) -> Any:
        return np.stack([vectors, vectors], axis=1).astype(np.float32)[:, : 1 + len(vectors) % 2]

    def similarity(self, a: Any, b: Any) -> Any:
        return torch.as_tensor(np.asarray(a).sum(axis=1)) @ torch.as_tensor(np.asarray(b).sum(axis=1)).T


class Ragged(HashEncoder):
    """A list of matrices of several lengths."""

    def answer(self, vectors: Any) -> Any:
        return [torch.from_numpy(np.stack([v] * (1 + i % 3)).astype(np.float32)) for i, v in enumerate(vectors)]

    def similarity(self, a: Any, b: Any) -> Any:
        return torch.stack([v.sum(0) for v in a]) @ torch.stack([v.sum(0) for v in b]).T


class Contextual(HashEncoder, CDEWrapper):
    """mteb's contextual encoder, whose vectors depend on what came before: here, on how much."""

    def __init__(self) -> None:
        HashEncoder.__init__(self)

    def encode(self, inputs: Any, **kwargs: Any) -> Any:
        before = len(self.seen)
        return HashEncoder.encode(self, inputs, **kwargs) + before * np.arange(1, 65)

    def similarity(self, a: Any, b: Any) -> Any:
        return torch.as_tensor(a) @ torch.as_tensor(b).T


def passed_on(model: Any, folder: Path, **options: Any) -> CachedEmbeddingWrapper:
    """Wrap a model that says what it is, which warns."""
    with pytest.warns(DataWarning, match="evaluated without the cache"):
        return CachedEmbeddingWrapper(model, folder, **options)


@pytest.mark.parametrize("kind", sampled([Sparse, Padded, Ragged], keep=3))
def test_what_cannot_be_stored_is_passed_on(tmp_path: Path, kind: type[HashEncoder]) -> None:
    """If the first vectors show it, scores are those without a cache, one warning is shown, nothing is stored."""
    plain = tasks.scores(kind(), tasks.misleading_titles())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        with CachedEmbeddingWrapper(kind(), tmp_path / "mirror") as model:
            assert tasks.scores(model, tasks.misleading_titles()) == plain
            assert tasks.scores(model, tasks.misleading_titles()) == plain
            assert sum(ns.rows for ns in model.cache.mirror.namespaces()) == 0
    assert [kind.__name__ in str(w.message) for w in caught if w.category is DataWarning] == [True]


@pytest.mark.parametrize(
    "name", sampled(["mteb/baseline-random-sparse-encoder", "mteb/baseline-random-colbert"], keep=2)
)
def test_mtebs_own_sparse_and_multi_vector_models(tmp_path: Path, name: str) -> None:
    """Multi-vector models that declare it, also searching ones, are evaluated without the cache from the first call."""
    plain = tasks.scores(mteb.get_model(name), tasks.misleading_titles())
    model = passed_on(mteb.get_model(name), tmp_path / "mirror")
    assert tasks.scores(model, tasks.misleading_titles()) == plain
    model.close()


def test_contextual_encoders_are_never_shared(tmp_path: Path) -> None:
    """Vectors that depend on the dataset and on earlier calls are not cached: every run is a plain run."""
    plain = tasks.scores(Contextual(), tasks.misleading_titles())
    for _ in range(2):
        encoder = Contextual()
        model = passed_on(encoder, tmp_path / "mirror")
        assert tasks.scores(model, tasks.misleading_titles()) == plain
        assert encoder.seen


def test_late_interaction_is_told_by_the_metadata(tmp_path: Path) -> None:
    """The model type or the similarity in the metadata is enough."""
    for overwrites in ({"model_type": ["late-interaction"]}, {"similarity_fn_name": "MaxSim"}):
        encoder = HashEncoder()
        encoder.mteb_model_meta = ModelMeta.create_empty(overwrites={"name": "a/b", "revision": "1", **overwrites})
        passed_on(encoder, tmp_path / "mirror")


def test_only_cached_and_passed_on_contradict(tmp_path: Path) -> None:
    """With only_cached, a model that cannot be cached is an error before the evaluation."""
    with pytest.raises(ConfigurationError, match="without only_cached=True"):
        CachedEmbeddingWrapper(Contextual(), tmp_path / "mirror", only_cached=True)


@pytest.mark.parametrize(
    ("where", "part", "names"),
    [
        ("mteb.models.abs_encoder", "get_prompts_that_moved", ()),
        ("mteb.models.gone", "anything", ()),
        ("mteb.models.abs_encoder", "get_prompt", ("another_argument",)),
    ],
)
def test_a_version_whose_parts_moved_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, part: str, names: tuple[str, ...]
) -> None:
    """The message names part and versions, and nothing is cached."""
    monkeypatch.setattr(compat, "RELIED_ON", (*compat.RELIED_ON, (where, part, names)))
    with pytest.raises(MissingDependency, match=rf"mteb {mteb.__version__} is not one .*{part}"):
        CachedEmbeddingWrapper(HashEncoder(), tmp_path / "mirror")
    assert not (tmp_path / "mirror").exists()


def test_the_parts_of_this_version_are_there() -> None:
    """The parts that this package relies on exist in the installed releases."""
    compat.require_mteb()
    assert {where.partition(".")[0] for where, _, _ in compat.RELIED_ON} == {
        "mteb",
        "sentence_transformers",
        "datasets",
    }
