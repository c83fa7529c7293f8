"""What has no identity that can be written down is refused, before anything is encoded."""

import pytest

from cas_cache.errors import IdentityError, UnpinnedModel
from cas_cache.mteb import CachedEmbeddingWrapper
from mteb_encoders import HashEncoder
from mteb_tasks import loader, metadata

TEXTS = [f"topic{i}" for i in range(9)]
CALL = {"task_metadata": metadata("A"), "hf_split": "test", "hf_subset": "default"}


def test_an_argument_that_is_no_plain_value_is_refused(tmp_path):
    """An argument that cannot be described is an error that names it, and nothing is encoded."""
    encoder = HashEncoder()
    with pytest.raises(IdentityError, match="anything"):
        CachedEmbeddingWrapper(encoder, tmp_path).encode(loader(TEXTS), **CALL, anything=object())
    assert encoder.seen == []


@pytest.mark.parametrize(
    ("made", "way_out"),
    [
        ({"name": None}, "model_id="),
        ({"name": "no_model_name/available"}, "model_id="),
        ({"revision": None}, "weights_fingerprint"),
        ({"revision": "no_revision_available"}, "revision="),
        ({"revision": "main"}, "revision="),
    ],
)
def test_a_model_without_identity_is_refused_at_once(made, way_out, tmp_path):
    """Construction fails with advice in the message, and works with model_id and revision."""
    encoder = HashEncoder(**made)
    with pytest.raises(UnpinnedModel, match=way_out):
        CachedEmbeddingWrapper(encoder, tmp_path)
    assert list(tmp_path.iterdir()) == []
    model = CachedEmbeddingWrapper(encoder, tmp_path, model_id="org/name", revision="1")
    assert len(model.encode(loader(TEXTS), **CALL)) == len(TEXTS)
    assert {(ns.spec.model, ns.spec.revision) for ns in model.cache.mirror.namespaces()} == {("org/name", "1")}


def test_a_key_that_is_no_string_is_refused(tmp_path):
    """Keys that are not strings are refused: in JSON, 1 and "1" would be the same."""
    with CachedEmbeddingWrapper(HashEncoder(), tmp_path) as model, pytest.raises(IdentityError, match="not a string"):
        model.encode(loader(["a"]), **CALL, anything={1: "a"})
