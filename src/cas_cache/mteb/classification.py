"""Decide how the cache treats an encoder, and give the reason: no other module decides it.

The vectors of a class are shared only if its `encode` is known to be a function of the item and the encoder spec.
Every other class that returns one dense vector for each item is scoped to the task, also one that mteb added after
`reviewed` was written. Encoders without such vectors are passed through, and objects that are not encoders are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cas_cache.mteb import reviewed


class Treatment(StrEnum):
    """Ways in which the cache treats the vectors of an encoder."""

    SHARED = "known function of the item"
    SCOPED = "scoped to the task"
    PASSED_THROUGH = "passed through"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Classification:
    """A treatment, and the reason for it as a sentence without its full stop."""

    treatment: Treatment
    reason: str


REASONS = {
    "sentence-transformers": Classification(
        Treatment.SHARED, "it hands the text, after a prompt that the cache computes too, to one `SentenceTransformer`"
    ),
    "task": Classification(
        Treatment.SCOPED,
        "its code is not one of the two that are known: it may look at the task, the role, the subset, the split and "
        "every field of a row",
    ),
    "unreviewed": Classification(
        Treatment.SCOPED, "this cas_cache does not know the class, which may look at whatever mteb hands to it"
    ),
    "contextual": Classification(
        Treatment.PASSED_THROUGH, "its vectors depend on the dataset, and on what was encoded before"
    ),
    "batch": Classification(
        Treatment.PASSED_THROUGH, "it averages over a batch: its vectors depend on what is encoded together"
    ),
    "zeros": Classification(
        Treatment.PASSED_THROUGH, "it answers with a zero vector where a request failed, which is not the item's vector"
    ),
    "multi-vector": Classification(Treatment.PASSED_THROUGH, "it makes several vectors for each item"),
    "sparse": Classification(Treatment.PASSED_THROUGH, "its vectors are sparse"),
    "searches": Classification(Treatment.PASSED_THROUGH, "it searches by itself"),
    "scores pairs": Classification(
        Treatment.REFUSED, "it scores pairs; there are no embeddings to cache. Evaluate it as it is"
    ),
    "compresses": Classification(
        Treatment.REFUSED,
        "it quantizes by the range of a whole call. Wrap the other way round: "
        "CompressionWrapper(CachedEmbeddingWrapper(model, ...))",
    ),
    "caches": Classification(Treatment.REFUSED, "it is a cache already. Wrap the encoder that is inside of it"),
}

INHERITED = {
    "CDEWrapper": "contextual",
    "PenguinEncoderModel": "batch",
    "CompressionWrapper": "compresses",
    "CachedEmbeddingWrapper": "caches",
}
"""Class names whose reason holds for every subclass; a class of the same name in another module counts as well."""


def classify(model: Any) -> Classification:
    """Return how the cache treats an encoder.

    Args:
        model: An mteb encoder; its class decides first, then its metadata.
    """
    return REASONS[_reason_of(model)]


def reason_not_to_cache(model: Any) -> str | None:
    """Return why the answers of an encoder are passed through; None if they are stored."""
    classification = classify(model)
    return classification.reason if classification.treatment is Treatment.PASSED_THROUGH else None


def _reason_of(model: Any) -> str:
    if hasattr(model, "predict"):
        return "scores pairs"
    inherited = next((INHERITED[base.__name__] for base in type(model).__mro__ if base.__name__ in INHERITED), None)
    if inherited:
        return inherited
    reason = reviewed.REASON_OF.get(path_of(type(model)), "unreviewed")
    if REASONS[reason].treatment is Treatment.PASSED_THROUGH:
        return reason
    if REASONS[reason].treatment is Treatment.SHARED and not is_known(model):
        reason = "unreviewed"
    return _reason_of_vectors(model) or reason


def _reason_of_vectors(model: Any) -> str | None:
    """Return why the vectors are not dense or not returned, from the metadata and the methods of a model."""
    meta = getattr(model, "mteb_model_meta", None)
    types = getattr(meta, "model_type", None) or ()
    similarity = getattr(meta, "similarity_fn_name", None)
    if "late-interaction" in types or getattr(similarity, "value", similarity) == "MaxSim":
        return "multi-vector"
    if "sparse" in types:
        return "sparse"
    return "searches" if searches(model) else None


def is_known(model: Any) -> bool:
    """Return True if the vectors of a model may be shared across tasks: exactly two classes, no subclass."""
    return is_sentence_transformer_wrapper(model) or is_instruct_wrapper(model)


def is_sentence_transformer_wrapper(model: Any) -> bool:
    """Return True for exactly mteb's wrapper, whose `encode` is known; not for a subclass, which may do anything."""
    from mteb.models import SentenceTransformerEncoderWrapper

    return type(model) is SentenceTransformerEncoderWrapper


def is_instruct_wrapper(model: Any) -> bool:
    """Return True for exactly mteb's instruction wrapper."""
    from mteb.models.instruct_wrapper import InstructSentenceTransformerModel

    return type(model) is InstructSentenceTransformerModel


def searches(model: Any) -> bool:
    """Return True if a model indexes and searches by itself: mteb's `SearchProtocol`."""
    return hasattr(model, "index") and hasattr(model, "search")


def calls_service(model: Any) -> bool:
    """Return True if a class, or one that it derives from, sends each item to a service that may charge for it."""
    return any(path_of(base) in reviewed.SERVICES for base in type(model).__mro__)


def path_of(cls: type) -> str:
    """Return the name under which `reviewed` lists a class of mteb: ``openai_models.OpenAIModel``."""
    module = cls.__module__.removeprefix("mteb.models.").removeprefix("model_implementations.")
    return f"{module}.{cls.__name__}"
