"""Every encoder class of the installed mteb is classified, and the page in the docs says how."""

import importlib.util
import logging
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from mteb.models import SentenceTransformerEncoderWrapper
from mteb.models.instruct_wrapper import InstructSentenceTransformerModel
from mteb.models.model_implementations import MODEL_REGISTRY
from mteb.models.model_implementations.penguin_models import PenguinEncoderModel

import mteb_tasks as tasks
from cas_cache.errors import DataWarning
from cas_cache.mteb import CachedEmbeddingWrapper, reviewed
from cas_cache.mteb.classification import REASONS, Treatment, classify, path_of
from mteb_class_recipes import RECIPES, fakes
from mteb_encoders import HashEncoder
from paths import ROOT

PAGE = ROOT / "docs" / "reference" / "mteb-encoders.md"
WITHOUT_LOADER = {name for name, meta in MODEL_REGISTRY.items() if meta.loader is None}


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """The script that makes the page, and that finds the classes in mteb's source."""
    spec = importlib.util.spec_from_file_location("make_mteb_encoders", PAGE.with_name("make_mteb_encoders.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def encoders(generator: ModuleType) -> dict[str, Any]:
    """The encoder classes of the installed mteb."""
    found: dict[str, Any] = generator.encoder_classes(generator.source_classes())
    return found


def test_every_class_is_reviewed(encoders: dict[str, Any]) -> None:
    """A new class of mteb is named here. Until it is reviewed it is scoped, or treated by its metadata."""
    assert len(encoders) > 150
    assert sorted(set(encoders) - set(reviewed.REASON_OF)) == [], "read these classes, and add them to reviewed.py"
    assert sorted(set(reviewed.REASON_OF) - set(encoders)) == [], "mteb has these no more; remove them from reviewed.py"
    assert set(reviewed.SERVICES) <= set(encoders)
    assert set(reviewed.REASON_OF.values()) <= set(REASONS)


def test_every_registered_loader_makes_a_reviewed_class(generator: ModuleType, encoders: dict[str, Any]) -> None:
    """Every model that mteb registers has a class of the table, except those without a loader."""
    counts, unknown = generator.registered_models(encoders)
    assert set(unknown) == WITHOUT_LOADER
    assert set(counts) <= set(encoders)
    assert counts.total() == len(MODEL_REGISTRY) - len(WITHOUT_LOADER)


def test_the_decision_is_that_of_the_table() -> None:
    """The treatment of each registered model, by class and metadata, is the reviewed one."""
    wrong = {}
    for name, meta in MODEL_REGISTRY.items():
        if not isinstance(meta.loader, type):
            continue
        model = object.__new__(meta.loader)
        if path_of(meta.loader) == "uembed_models.UEmbedEncoder":
            meta = meta.model_copy(update={"model_type": ["dense"]})  # noqa: PLW2901 - what its constructor does
        own = isinstance(getattr(meta.loader, "mteb_model_meta", None), property)
        setattr(model, "_mteb_model_meta" if own else "mteb_model_meta", meta)
        expected = REASONS[reviewed.REASON_OF[path_of(meta.loader)]].treatment
        if classify(model).treatment is not expected:
            wrong[name] = (path_of(meta.loader), classify(model).treatment, expected)
    assert wrong == {}


def test_the_page_is_up_to_date(generator: ModuleType) -> None:
    """docs/reference/mteb-encoders.md is what the script prints for the mteb that it names."""
    page = PAGE.read_text("utf-8")
    if f"Made with mteb {version('mteb')} " not in page:
        pytest.skip("the page was made with another mteb")
    assert generator.page() == page


def bare(cls: type, **meta: Any) -> Any:
    """Return an object of a class that was not constructed, with metadata."""
    model = object.__new__(cls)
    model.mteb_model_meta = SimpleNamespace(model_type=["dense"], similarity_fn_name="cosine", **meta)  # type: ignore[attr-defined]
    return model


def test_exactly_two_classes_are_shared() -> None:
    """Only exactly two classes are shared, no subclass, whatever its name and module."""
    for known in (SentenceTransformerEncoderWrapper, InstructSentenceTransformerModel):
        assert classify(bare(known)).treatment is Treatment.SHARED
        copy = type(known.__name__, (known,), {"__module__": known.__module__, "__qualname__": known.__qualname__})
        assert path_of(copy) == path_of(known)
        assert classify(bare(copy)).treatment is Treatment.SCOPED


def test_a_class_of_a_newer_mteb_is_scoped() -> None:
    """A class outside of the table is scoped, unless its metadata or methods say otherwise."""
    home = {"__module__": "mteb.models.model_implementations.models_of_tomorrow", "encode": lambda *_, **__: None}
    new = type("TomorrowWrapper", (), home)
    assert path_of(new) == "models_of_tomorrow.TomorrowWrapper"
    assert classify(bare(new)) == REASONS["unreviewed"]
    searching = type("TomorrowSearch", (new,), {"index": None, "search": None})
    assert classify(bare(searching)) == REASONS["searches"]
    scoring = type("TomorrowReranker", (new,), {"predict": None})
    assert classify(bare(scoring)).treatment is Treatment.REFUSED
    colbert = bare(new)
    colbert.mteb_model_meta.similarity_fn_name = "MaxSim"
    assert classify(colbert) == REASONS["multi-vector"]


class Averaging(HashEncoder, PenguinEncoderModel):
    """mteb's vision encoder that returns one vector a batch, here with as many as there are items."""


def test_a_class_that_averages_over_a_batch_is_passed_through(tmp_path: Path) -> None:
    """Vectors that depend on other items are never stored."""
    plain = tasks.scores(Averaging(), tasks.misleading_titles())
    with pytest.warns(DataWarning, match="averages over a batch"):
        model = CachedEmbeddingWrapper(Averaging(), tmp_path)
    assert tasks.scores(model, tasks.misleading_titles()) == plain
    assert sum(ns.rows for ns in model.cache.mirror.namespaces()) == 0


def test_what_a_service_may_cost_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Wrapping a model of a paid service is logged once, only if the self-check may send items."""
    caplog.set_level(logging.INFO, logger="cas_cache.mteb.wrapper")
    with fakes():
        model = RECIPES["openai_models.OpenAIModel"]()
    for options, expected in (
        ({"self_check": 8}, 1),
        ({"self_check": 0}, 0),
        ({"self_check": 8, "only_cached": True}, 0),
    ):
        caplog.clear()
        CachedEmbeddingWrapper(model, tmp_path, **options)
        assert sum("may charge" in record.message for record in caplog.records) == expected
    caplog.clear()
    CachedEmbeddingWrapper(HashEncoder(), tmp_path, self_check=8)
    assert not caplog.records
