"""Vectors that follow from stored ones: every size, normalisation and precision of one encoding.

sentence-transformers truncates, then normalises, then quantizes what its modules computed. So the namespace holds what
the modules computed, and a call's answer is made from it by the same three steps, in the same order and dtype. Where
that would not be the model's answer (see `st_postprocess.truncates_last` and
`st_postprocess.computes_in_float32`), size and normalisation stay part of the identity, and the model does it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cas_cache.errors import IdentityError
from cas_cache.mteb import classification, compat, dataset_adapter, st_postprocess

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

FULL = (1 << 31) - 1
"""A truncate_dim beyond any model's: the encoder returns all dimensions, whatever its attribute says.

Passed by argument. The attribute, or the context manager that sets it, is shared with other threads, and rows that one
of them truncated would be stored as whole ones."""

SIZE_KWARGS = frozenset({"truncate_dim", "normalize_embeddings"})


@dataclass(frozen=True, slots=True)
class Derivation:
    """What is made of stored vectors to answer one call, in this order.

    Attributes:
        sized: Whether size and normalisation are made here. Else the encoder makes them, and they are in its spec.
        truncate_dim: How many of the first dimensions are kept; None for all.
        normalize: Whether each vector is then divided by its length.
        precision: What is then quantized to; None for floats.
        widened: Whether the answer is float32 whatever the precision: what mteb makes of tensors.
    """

    sized: bool = False
    truncate_dim: int | None = None
    normalize: bool = False
    precision: str | None = None
    widened: bool = False

    @property
    def calibrated(self) -> bool:
        """Whether the answer depends on ranges."""
        return self.precision in compat.CALIBRATED

    @property
    def whole(self) -> bool:
        """Whether all dimensions are asked for, not normalised: what is stored where size is derived."""
        return self.sized and self.truncate_dim in (None, FULL) and not self.normalize

    def encoder_kwargs(self, encode_kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the encode arguments with which the encoder returns what is stored."""
        kwargs = self._less(encode_kwargs, size=self.sized)
        return {**kwargs, "truncate_dim": FULL} if self.truncate_dim is not None else kwargs

    def spec_kwargs(self, encode_kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the encode arguments that are part of the identity of what the encoder returns, precision apart.

        Vectors that were truncated or normalised have one of their own, though they are never asked for: whoever has
        some and puts them into a cache must not put them among whole ones.
        """
        return self._less(encode_kwargs, size=self.whole)

    def _less(self, encode_kwargs: Mapping[str, Any], *, size: bool) -> dict[str, Any]:
        left_out = {*(SIZE_KWARGS if size else ()), *(["precision"] if self.precision else [])}
        return {name: value for name, value in encode_kwargs.items() if name not in left_out}

    def answer(
        self, vectors: NDArray[Any], ranges: Callable[[NDArray[Any]], NDArray[np.float32]] | None = None
    ) -> NDArray[Any]:
        """Return a call's answer.

        Args:
            vectors: (n, d), the stored vectors of the call's items.
            ranges: Given the (n, d') vectors to quantize, returns the (2, d') ranges to do it by. None takes them from
                these vectors, as sentence-transformers does.

        Returns:
            (n, d') where d' is at most `truncate_dim`; (n, ceil(d' / 8)) for binary and ubinary.

        Raises:
            IdentityError: If vectors that are no float32 are to be normalised: the model may round in another way.
        """
        if self.truncate_dim is not None and vectors.ndim > 1 and self.truncate_dim < vectors.shape[-1]:
            vectors = vectors[..., : self.truncate_dim]
            if not self.normalize and self.precision is None:
                vectors = vectors.copy()  # the rest of each row need not stay in memory, or mapped
        if not len(vectors):
            return vectors
        if self.normalize:
            if vectors.dtype != np.float32:
                raise IdentityError(
                    f"The model has float32 weights and answers in {vectors.dtype}, so how it would normalise cannot "
                    "be told. Leave normalize_embeddings out, or evaluate without the cache."
                )
            vectors = st_postprocess.normalized(vectors)
        if self.precision is not None:
            by = ranges(vectors) if ranges is not None and self.calibrated else None
            vectors = st_postprocess.quantized(vectors, self.precision, by)
        return vectors.astype(np.float32) if self.widened else vectors


def derivation_of(
    model: Any, encode_kwargs: Mapping[str, Any], columns: tuple[str, ...], *, by_call: bool = True
) -> Derivation:
    """Return what can be derived of what a call asks for.

    Args:
        model: An mteb encoder. Of a class that is not known, nothing is derived.
        encode_kwargs: What is passed to `encode`.
        columns: The columns of the prepared rows.
        by_call: Whether int8 and uint8 go by the range of the call, as sentence-transformers does it, so that they are
            no functions of an item.

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
    sized, size, normalize = _size(model.model, encode_kwargs)
    # mteb's own wrapper makes float32 of tensors, quantized ones too.
    widened = widens and precision is not None and bool(encode_kwargs.get("convert_to_tensor"))
    return Derivation(sized, size if sized else None, normalize and sized, precision, widened)


def _size(model: Any, encode_kwargs: Mapping[str, Any]) -> tuple[bool, int | None, bool]:
    """Whether a `SentenceTransformer`'s size and normalisation can be derived, and which are asked for."""
    size = encode_kwargs.get("truncate_dim")
    if size is None:
        size = getattr(model, "truncate_dim", None)
    normalize = encode_kwargs.get("normalize_embeddings", False)
    plain = (size is None or (type(size) is int and size > 0)) and isinstance(normalize, bool)
    whole = encode_kwargs.get("output_value", "sentence_embedding") == "sentence_embedding"
    if not (plain and whole and st_postprocess.truncates_last(model)):
        return False, None, False
    # Truncation comes first: vectors that the encoder normalised cannot be truncated here.
    return not normalize or st_postprocess.computes_in_float32(model), size, normalize
