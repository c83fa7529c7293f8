"""Everything of mteb, sentence-transformers and torch that is not a published interface, and how it is reached.

Read in mteb 2.26.24 and sentence-transformers 6.2. When one of these moves, this is the one module to mend.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from cas_cache.errors import MissingDependency
from cas_cache.identity import keys_of_rows
from cas_cache.mteb.fingerprint import weights_sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LAZY_FIELDS = ("image", "audio", "video")
"""Columns that are decoded row by row; a whole corpus of them need not fit in memory."""

DOCUMENT_PROMPTS = ("document", "passage", "corpus")
"""The prompts that sentence-transformers' `encode_document` looks for, in this order."""

BATCH_DEPENDENT = {
    "CDEWrapper": "its vectors depend on the texts that are encoded with them. Evaluate it as it is.",
    "CompressionWrapper": (
        "it quantizes by the range of a whole call. Wrap the other way round: "
        "CompressionWrapper(CachedEmbeddingWrapper(model, ...))."
    ),
    "CachedEmbeddingWrapper": "it is a cache already. Wrap the encoder that is inside of it.",
}
"""Classes, by name, whose vectors are no function of an item, and what to do instead."""

CALIBRATED = frozenset({"int8", "uint8"})
"""Precisions for which sentence-transformers takes the range of a whole call."""

QUANTIZED = CALIBRATED | {"binary", "ubinary"}
"""Precisions that follow from the float vectors."""

TOKENIZER_SETTINGS = ("padding_side", "truncation_side", "add_bos_token", "add_eos_token")


def require_mteb() -> None:
    """Refuse to go on without mteb.

    Raises:
        MissingDependency: With the install command.
    """
    try:
        import mteb  # noqa: F401
    except ImportError as err:
        raise MissingDependency("This needs mteb, which is not installed. Do: pip install mteb") from err


def as_encoder(model: Any) -> Any:
    """Return a model as mteb's encoder; a bare `SentenceTransformer` is wrapped as `mteb.evaluate` would wrap it.

    Raises:
        TypeError: If it is no encoder: a cross-encoder, or a search model; or one whose vectors depend on more than
            the item.
    """
    from sentence_transformers import SentenceTransformer

    if isinstance(model, SentenceTransformer):
        from mteb.models import SentenceTransformerEncoderWrapper

        return SentenceTransformerEncoderWrapper(model)
    if hasattr(model, "predict") or (hasattr(model, "index") and hasattr(model, "search")):
        raise TypeError(
            f"{type(model).__name__} scores or searches by itself; there are no embeddings to cache. Evaluate it as it "
            "is."
        )
    for ancestor in type(model).__mro__:
        if ancestor.__name__ in BATCH_DEPENDENT:
            raise TypeError(f"{type(model).__name__} cannot be cached: {BATCH_DEPENDENT[ancestor.__name__]}")
    missing = [name for name in ("encode", "similarity", "mteb_model_meta") if not hasattr(model, name)]
    if missing:
        raise TypeError(
            f"{type(model).__name__} is no mteb encoder: it has no {', '.join(missing)}. Pass a model from "
            "mteb.get_model, a SentenceTransformer, or a class that implements mteb's EncoderProtocol."
        )
    return model


def is_sentence_transformer_wrapper(model: Any) -> bool:
    """Whether it is exactly mteb's wrapper, whose `encode` is known; a subclass may do anything."""
    from mteb.models import SentenceTransformerEncoderWrapper

    return type(model) is SentenceTransformerEncoderWrapper


def is_instruct_wrapper(model: Any) -> bool:
    """Whether it is exactly mteb's instruction wrapper."""
    from mteb.models.instruct_wrapper import InstructSentenceTransformerModel

    return type(model) is InstructSentenceTransformerModel


def prompt_of_sentence_transformer(model: Any, task_metadata: Any, prompt_type: Any, name: str | None) -> str:
    """Return the text that `SentenceTransformerEncoderWrapper.encode` puts before each item.

    Args:
        model: The wrapper.
        task_metadata: The task's metadata.
        prompt_type: The role.
        name: The encode argument ``prompt_name``.
    """
    from mteb.models.abs_encoder import get_prompt

    prompt = get_prompt(model.model_prompts, task_metadata, prompt_type)
    return _own_prompt(model.model, _role(prompt_type), name) if prompt is None else prompt


def prompt_of_instruct(model: Any, task_metadata: Any, prompt_type: Any, name: str | None) -> str:
    """Return the text that `InstructSentenceTransformerModel.encode` puts before each item; arguments as above."""
    if not model.apply_instruction_to_passages and _role(prompt_type) == "document":
        return _own_prompt(model.model, None, name)
    instruction: str = model.get_task_instruction(task_metadata, prompt_type)
    return instruction


def settings_of_sentence_transformer(model: Any) -> dict[str, Any]:
    """Return what changes the vectors of a `SentenceTransformer` besides weights, prompt and encode arguments."""
    parameter = next(iter(model.parameters()), None)
    pooled_prompt = [module.include_prompt for module in model.modules() if hasattr(module, "include_prompt")]
    tokenizer = getattr(model, "tokenizer", None)
    tokens = {s: v for s in TOKENIZER_SETTINGS if (v := getattr(tokenizer, s, None)) is not None}
    return {
        **tokens,
        "truncate_dim": getattr(model, "truncate_dim", None),
        "max_seq_length": getattr(model, "max_seq_length", None),
        "backend": getattr(model, "backend", "torch"),
        "dtype": None if parameter is None else str(parameter.dtype).removeprefix("torch."),
        "include_prompt": all(pooled_prompt),
        "weights": weights_sample(model),
    }


def settings_of_unknown(model: Any, task_metadata: Any, prompt_type: Any) -> dict[str, Any]:
    """Return what is known to change the vectors of a class that is not known: prompts, and a model inside."""
    from sentence_transformers import SentenceTransformer

    names = ("model_prompts", "prompts_dict", "prompt_priority", "apply_instruction_to_passages")
    settings = {name: value for name in names if (value := getattr(model, name, None))}
    template = getattr(model, "instruction_template", None)
    if template:
        settings["instruction_template"] = template if isinstance(template, str) else _name_of(template)
    if task_metadata.prompt:
        settings["task_prompt"] = task_metadata.prompt
    instruction = _instruction(model, task_metadata, prompt_type)
    if instruction:
        settings["instruction"] = instruction
    loaded = getattr(getattr(model, "mteb_model_meta", None), "loader_kwargs", None) or {}
    plain = {name: value for name, value in loaded.items() if isinstance(value, str | int | float | bool)}
    if plain:
        settings["loader"] = plain
    inner = getattr(model, "model", None)
    if isinstance(inner, SentenceTransformer):
        own = {"prompts": inner.prompts, "default_prompt_name": inner.default_prompt_name}
        settings["model"] = {**settings_of_sentence_transformer(inner), **own}
    return settings


def _instruction(model: Any, task_metadata: Any, prompt_type: Any) -> str | None:
    """The instruction that an `AbsEncoder` would put before each item, template included, if it uses one."""
    from mteb.models.abs_encoder import AbsEncoder

    if not isinstance(model, AbsEncoder):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a task has no instruction is no news for an encoder that uses none
        try:
            instruction: str = model.get_task_instruction(task_metadata, prompt_type)
        except (KeyError, ValueError):
            return None  # an encoder that asks for it cannot go on, either
    return instruction


def _name_of(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"


def quantized(vectors: NDArray[Any], precision: str) -> NDArray[Any]:
    """Return a call's float vectors in a precision of `QUANTIZED`, as sentence-transformers does it."""
    from sentence_transformers.util import quantize_embeddings

    answer: NDArray[Any] = quantize_embeddings(vectors, precision=precision)
    return answer


def column_names(dataset: Any) -> list[str]:
    """Return the columns of a loader's dataset, whatever kind it is."""
    if hasattr(dataset, "column_names"):
        return list(dataset.column_names)
    return list(dataset[0]) if len(dataset) else []


def keys_of_dataset(dataset: Any, fields: tuple[str, ...]) -> NDArray[np.uint8]:
    """Return the keys of a loader's dataset: whole columns at a time where it has columns."""
    present = [field for field in fields if field in column_names(dataset)]
    if hasattr(dataset, "column_names"):
        columns = {f: dataset[f] if f in LAZY_FIELDS else dataset[f][:] for f in present}
        return keys_of_rows(columns, fields)
    rows = [dataset[i] for i in range(len(dataset))]
    return keys_of_rows({f: [row[f] for row in rows] for f in present}, fields)


def rows_of_loader(loader: Any, positions: NDArray[np.int64]) -> Any:
    """Return a loader like `loader` over some rows of its dataset: the rows that mteb prepared, as they are."""
    from torch.utils.data import DataLoader, Subset

    class Rows(Subset):  # type: ignore[misc]
        """Some rows of a dataset; all else that encoders ask of one, such as ``features``, is the dataset's."""

        def __getattr__(self, name: str) -> Any:
            if name == "dataset" or name.startswith("__"):
                raise AttributeError(name)
            return getattr(self.dataset, name)

    dataset, chosen = loader.dataset, positions.tolist()
    return DataLoader(
        dataset.select(chosen) if hasattr(dataset, "select") else Rows(dataset, chosen),
        batch_size=loader.batch_size,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
    )


def _own_prompt(model: Any, role: str | None, name: str | None) -> str:
    """The prompt that a `SentenceTransformer` takes by itself when it is given none, or its name alone."""
    prompts = model.prompts or {}
    if name is not None:
        return prompts.get(name) or ""
    candidates = {"query": ("query",), "document": DOCUMENT_PROMPTS}.get(role or "", ())
    name = next((name for name in candidates if name in prompts), model.default_prompt_name)
    return prompts.get(name) or ""


def _role(prompt_type: Any) -> str | None:
    return None if prompt_type is None else str(getattr(prompt_type, "value", prompt_type))
