"""Vectors that follow from stored ones: every size, normalisation and precision of one encoding.

sentence-transformers truncates, then normalises, then quantizes what its modules computed. So the namespace stores what
the modules computed, and a call's answer is derived from it by the same three steps, in the same order and dtype. Where
that would not be the model's answer (see `_truncates_last` and `_computes_in_float32`), size and normalisation stay
part of the identity, and the model applies them. Read in sentence-transformers 6.2, and private to it in part.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.errors import IdentityError
from cas_cache.models.names import top_package
from cas_cache.mteb import classification, compat, dataset_adapter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

FULL = (1 << 31) - 1
"""A truncate_dim beyond any model's: the encoder returns all dimensions, whatever its attribute says.

It is passed by argument. The attribute, or the context manager that sets it, is shared with other threads, and rows
that one of them truncated would be stored as whole ones."""

SIZE_KWARGS = frozenset({"truncate_dim", "normalize_embeddings"})

ENCODE_STEPS = frozenset({"encode", "encode_query", "encode_document", "forward", "_inference"})
"""Methods of a `SentenceTransformer` that its `encode` uses; a method that replaces one of them may do anything."""

NORMALISED_ROWS = 1 << 14
"""Rows that are normalised at a time: 64 MB for 1,024 dimensions, and as much again for the result in torch."""


@dataclass(frozen=True, slots=True)
class Derivation:
    """The steps that make the answer to one call from stored vectors, in this order.

    Attributes:
        is_sized: Size and normalisation are derived here. If not, the encoder applies them, and they are in its spec.
        truncate_dim: Number of leading dimensions that are kept; None for all.
        normalize: Then divide each vector by its length.
        precision: The precision to which vectors are then quantized; None for floats.
        is_widened: The answer is float32 whatever the precision, as mteb makes of tensors.
    """

    is_sized: bool = False
    truncate_dim: int | None = None
    normalize: bool = False
    precision: str | None = None
    is_widened: bool = False

    @property
    def is_calibrated(self) -> bool:
        """True if the answer depends on ranges."""
        return self.precision in compat.CALIBRATED

    @property
    def is_whole(self) -> bool:
        """True if the call requests all dimensions, not normalised: what is stored where the size is derived."""
        return self.is_sized and self.truncate_dim in (None, FULL) and not self.normalize

    def encoder_kwargs(self, encode_kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the encode arguments with which the encoder returns the vectors to store."""
        kwargs = self._without(encode_kwargs, size=self.is_sized)
        return {**kwargs, "truncate_dim": FULL} if self.truncate_dim is not None else kwargs

    def spec_kwargs(self, encode_kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the encode arguments that identify what the encoder returns, without the precision.

        Vectors that were truncated or normalised have an identity of their own, although the cache never requests them:
        a user who has such vectors and puts them into a cache must not put them among whole ones.
        """
        return self._without(encode_kwargs, size=self.is_whole)

    def stored_kwargs(self, encode_kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the encode arguments that identify the vectors to store."""
        return self._without(encode_kwargs, size=self.is_sized)

    def _without(self, encode_kwargs: Mapping[str, Any], *, size: bool) -> dict[str, Any]:
        dropped = {*(SIZE_KWARGS if size else ()), *(["precision"] if self.precision else [])}
        return {name: value for name, value in encode_kwargs.items() if name not in dropped}

    def answer(
        self, vectors: NDArray[Any], ranges: Callable[[NDArray[Any]], NDArray[np.float32]] | None = None
    ) -> NDArray[Any]:
        """Return a call's answer.

        Args:
            vectors: (n, d), the stored vectors of the call's items.
            ranges: Function from the (n, d') vectors to quantize to their (2, d') ranges. None takes the ranges from
                these vectors, as sentence-transformers does.

        Returns:
            (n, d') where d' is at most `truncate_dim`; (n, ceil(d' / 8)) for binary and ubinary.

        Raises:
            IdentityError: If vectors other than float32 are to be normalised: the model may round in another way.
        """
        if self.truncate_dim is not None and vectors.ndim > 1 and self.truncate_dim < vectors.shape[-1]:
            vectors = vectors[..., : self.truncate_dim]
            if not self.normalize and self.precision is None:
                vectors = vectors.copy()  # the rest of each row need not stay in memory, or mapped
        if not len(vectors):
            return vectors
        if self.normalize:
            vectors = _normalized(vectors)
        if self.precision is not None:
            from sentence_transformers.util import quantize_embeddings

            by = ranges(vectors) if ranges is not None and self.is_calibrated else None
            vectors = quantize_embeddings(vectors, precision=self.precision, ranges=by)
        return vectors.astype(np.float32) if self.is_widened else vectors


def derivation_of(
    model: Any, encode_kwargs: Mapping[str, Any], columns: tuple[str, ...], *, by_call: bool = True
) -> Derivation:
    """Return how the answer to a call is derived from stored vectors.

    Args:
        model: An mteb encoder. For a class that is not known, nothing is derived.
        encode_kwargs: The arguments of `encode`.
        columns: The columns of the prepared rows.
        by_call: Quantize int8 and uint8 by the range of the call, as sentence-transformers does, so that they are not
            functions of an item.

    Raises:
        IdentityError: If images, audio or video are to be quantized by the call: mteb does that by the loader's batch.
    """
    widens = classification.is_sentence_transformer_wrapper(model)
    if not (widens or classification.is_instruct_wrapper(model)):
        return Derivation()
    precision = encode_kwargs.get("precision")
    if precision not in compat.QUANTIZED:
        precision = None
    if by_call and precision in compat.CALIBRATED and any(field in columns for field in dataset_adapter.LAZY_FIELDS):
        raise IdentityError(
            f"precision={precision!r} of images, audio or video depends on the batches they come in. Evaluate without "
            "the cache, without precision, or with calibration='stored'."
        )
    # mteb's own wrapper converts tensors to float32, quantized ones too.
    is_widened = widens and precision is not None and bool(encode_kwargs.get("convert_to_tensor"))
    size = encode_kwargs.get("truncate_dim")
    if size is None:
        size = getattr(model.model, "truncate_dim", None)
    normalize = encode_kwargs.get("normalize_embeddings", False)
    if not _is_sizable(model.model, encode_kwargs, size, normalize):
        return Derivation(precision=precision, is_widened=is_widened)
    return Derivation(True, size, normalize, precision, is_widened)


def _is_sizable(model: Any, encode_kwargs: Mapping[str, Any], size: Any, normalize: Any) -> bool:
    """Return True if a size and a normalisation can be derived from what a `SentenceTransformer` computes."""
    is_plain = (size is None or (type(size) is int and size > 0)) and isinstance(normalize, bool)
    is_embedding = encode_kwargs.get("output_value", "sentence_embedding") == "sentence_embedding"
    if not (is_plain and is_embedding and _truncates_last(model)):
        return False
    # Truncation comes first: vectors that the encoder normalised cannot be truncated here.
    return not normalize or _computes_in_float32(model)


def _truncates_last(model: Any) -> bool:
    """Return True for a plain `SentenceTransformer`, which truncates and normalises what its modules computed.

    Modules of others (``trust_remote_code``) may truncate by themselves, and some take the size as an argument.
    """
    from sentence_transformers import SentenceTransformer

    if type(model) is not SentenceTransformer or not ENCODE_STEPS.isdisjoint(vars(model)):
        return False
    if "truncate_dim" not in inspect.signature(SentenceTransformer.encode).parameters:
        return False  # before sentence-transformers 5
    if not SIZE_KWARGS.isdisjoint(model.get_model_kwargs()):
        return False
    return all(top_package(type(module).__module__) == "sentence_transformers" for module in _modules(model))


def _modules(model: Any) -> Iterator[Any]:
    """Yield the modules that a `SentenceTransformer` runs one after another, those behind a router included."""
    for module in model.children():
        yield module
        for route in getattr(module, "sub_modules", {}).values():
            yield from _modules(route)


def _computes_in_float32(model: Any) -> bool:
    """Return True if a `SentenceTransformer` answers, and so normalises, in float32, as far as can be seen."""
    import torch

    dtypes = {parameter.dtype for parameter in model.parameters()}
    mixed = torch.is_autocast_enabled(model.device.type)
    return getattr(model, "backend", "torch") == "torch" and dtypes == {torch.float32} and not mixed


def _normalized(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """Return vectors divided by their lengths, as sentence-transformers does it: (n, d) float32, zeros stay zero."""
    import torch

    if vectors.dtype != np.float32:
        raise IdentityError(
            f"The model has float32 weights and answers in {vectors.dtype}, so it is not known how it would normalise. "
            "Leave normalize_embeddings out, or evaluate without the cache."
        )
    answer = np.empty(vectors.shape, np.float32)
    for first in range(0, len(vectors), NORMALISED_ROWS):
        rows = slice(first, first + NORMALISED_ROWS)
        answer[rows] = torch.nn.functional.normalize(torch.from_numpy(vectors[rows]), p=2, dim=1).numpy()
    return answer
