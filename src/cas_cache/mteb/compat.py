"""The parts of mteb, sentence-transformers and torch that are not published interfaces.

Read in mteb 2.26.24 and sentence-transformers 6.2. When one of them moves, change this module (and `derived`).
"""

from __future__ import annotations

import inspect
import operator
import re
import warnings
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from cas_cache.errors import MissingDependency
from cas_cache.identity.credentials import strip_credentials
from cas_cache.models import appearance_of, describe, describe_encoder
from cas_cache.models.parts import is_module
from cas_cache.models.value_text import text_of
from cas_cache.mteb import classification
from cas_cache.mteb.arguments import plain, plain_arguments
from cas_cache.storage.redaction import first_line

UNLIMITED = 1 << 31
"""Tokens; the limit of a static embedding is infinite, and that of some tokenizers of transformers 10**30."""

DOCUMENT_PROMPTS = ("document", "passage", "corpus")
"""The prompts that sentence-transformers' `encode_document` looks for, in this order."""

CALIBRATED = frozenset({"int8", "uint8"})
"""Precisions that sentence-transformers quantizes by the range of a whole call."""

QUANTIZED = CALIBRATED | {"binary", "ubinary"}
"""Precisions that can be derived from the float vectors."""

RELIED_ON: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("mteb.models", "SentenceTransformerEncoderWrapper.encode", ("inputs", "task_metadata", "prompt_type")),
    ("mteb.models.instruct_wrapper", "InstructSentenceTransformerModel.encode", ("inputs", "task_metadata")),
    ("mteb.models.abs_encoder", "get_prompt", ("model_prompts", "task_metadata", "prompt_type")),
    ("mteb.models.abs_encoder", "AbsEncoder.get_task_instruction", ("task_metadata", "prompt_type")),
    ("sentence_transformers", "SentenceTransformer.encode_query", ()),
    ("sentence_transformers", "SentenceTransformer.get_model_kwargs", ()),
    ("sentence_transformers.util", "quantize_embeddings", ("precision", "ranges")),
    ("datasets", "Dataset.select", ("indices", "new_fingerprint")),
)
"""Parts by module, with the arguments they must take. A version that moved one would be misread, so it is refused."""


def require_mteb() -> None:
    """Check that mteb is installed, not broken, not too old, and has the parts that this package uses.

    Raises:
        MissingDependency: With the problem and the install command.
    """
    try:
        installed = version("mteb")
    except PackageNotFoundError as err:
        raise MissingDependency.of_package("This", "mteb") from err
    oldest = _oldest_mteb()
    if _numbers(installed) < _numbers(oldest):
        raise MissingDependency(
            f"mteb {installed} is older than mteb {oldest}, the oldest that this cas_cache was run with. Run: pip "
            f'install "mteb>={oldest}"'
        )
    try:
        import mteb  # noqa: F401
    except Exception as err:
        raise MissingDependency(
            f"mteb {installed} is installed, but importing it fails ({first_line(err)}). Run python -c 'import mteb' "
            "to see where, and repair or reinstall the package that it names."
        ) from err
    for where, part, names in RELIED_ON:
        try:
            member = operator.attrgetter(part)(import_module(where))
        except (ImportError, AttributeError) as err:
            raise MissingDependency(_moved(where, part, "does not exist")) from err
        if names and not set(names) <= set(inspect.signature(member).parameters):
            raise MissingDependency(_moved(where, part, f"does not take {', '.join(names)}"))


def _oldest_mteb() -> str:
    """Return the oldest mteb that the extra of this package accepts."""
    try:
        matches = [re.match(r"mteb\s*>=\s*([0-9.]+)", requirement) for requirement in requires("cas-cache") or ()]
    except PackageNotFoundError:
        return "0"  # run from a source tree that was not installed
    return next((match[1] for match in matches if match), "0")


def _numbers(text: str) -> tuple[int, ...]:
    """Return the release of a version as numbers: 2.26.24rc1 is (2, 26, 24)."""
    release = re.match(r"[0-9]+(?:\.[0-9]+)*", text)
    return tuple(map(int, release[0].split("."))) if release else ()


def _moved(where: str, part: str, what: str) -> str:
    package = where.partition(".")[0].replace("_", "-")
    return (
        f"{package} {version(package)} is not one that this cas_cache knows: {where}.{part} {what}. It was written for "
        "mteb 2.25 and 2.26, and sentence-transformers 6.2. Install these, or a newer cas_cache; nothing was cached."
    )


def as_encoder(model: Any) -> Any:
    """Return a model as mteb's encoder; a bare `SentenceTransformer` is wrapped as `mteb.evaluate` would wrap it.

    Raises:
        TypeError: If it is not an encoder, such as a cross-encoder, or is a wrapper that belongs around the cache.
    """
    from sentence_transformers import SentenceTransformer

    if isinstance(model, SentenceTransformer):
        from mteb.models import SentenceTransformerEncoderWrapper

        return SentenceTransformerEncoderWrapper(model)
    decision = classification.classify(model)
    if decision.treatment is classification.Treatment.REFUSED:
        raise TypeError(f"{type(model).__name__} cannot be cached: {decision.reason}.")
    needed = ("mteb_model_meta",) if classification.searches(model) else ("encode", "similarity", "mteb_model_meta")
    missing = [name for name in needed if not hasattr(model, name)]
    if missing:
        raise TypeError(
            f"{type(model).__name__} is not an mteb encoder: it has no {', '.join(missing)}. Pass a model from "
            "mteb.get_model, a SentenceTransformer, or a class that implements mteb's EncoderProtocol."
        )
    return model


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
    """Return what determines the vectors of a `SentenceTransformer`, except name, prompt and encode arguments."""
    parameter = next(iter(model.parameters()), None)
    length = getattr(model, "max_seq_length", None)
    return {
        "truncate_dim": getattr(model, "truncate_dim", None),
        "max_seq_length": None if (length or 0) >= UNLIMITED else length,  # a static embedding has no limit
        "backend": getattr(model, "backend", "torch"),
        "dtype": None if parameter is None else str(parameter.dtype).removeprefix("torch."),
        **describe(model).identity(),
    }


def settings_of_unknown(
    model: Any, task_metadata: Any, prompt_type: Any, *, user_pinned: bool = False
) -> dict[str, Any]:
    """Return what may change the vectors of an encoder of any class in one task: prompts, and a model inside."""
    settings = settings_of_any(model, user_pinned=user_pinned)
    if task_metadata.prompt:
        settings["task_prompt"] = task_metadata.prompt
    instruction = _instruction(model, task_metadata, prompt_type)
    if instruction:
        settings["instruction"] = instruction
    return settings


def settings_of_any(model: Any, *, user_pinned: bool = False) -> dict[str, Any]:
    """Return what may change the vectors of an encoder of any class, for all tasks."""
    from sentence_transformers import SentenceTransformer

    names = ("model_prompts", "prompts_dict", "prompt_priority", "apply_instruction_to_passages")
    settings = {name: value for name in names if (value := getattr(model, name, None))}
    template = getattr(model, "instruction_template", None)
    if template:
        settings["instruction_template"] = plain(
            template, "loader argument instruction_template", user_pinned=user_pinned
        )
    loaded = arguments_of_loader(model, user_pinned=user_pinned)
    if loaded:
        settings["loader"] = loaded
    inner = getattr(model, "model", None)
    if isinstance(inner, SentenceTransformer):
        own = {"prompts": inner.prompts, "default_prompt_name": inner.default_prompt_name}
        settings["model"] = {**settings_of_sentence_transformer(inner), **own}
    held = describe_encoder(model).get("holds")
    if held:
        settings["holds"] = held
    return settings


def arguments_of_loader(model: Any, *, user_pinned: bool) -> dict[str, Any]:
    """Return the arguments of the model's loader that change vectors.

    Raises:
        IdentityError: If an argument cannot be described, and the user did not name the model and its revision.
    """
    arguments = getattr(getattr(model, "mteb_model_meta", None), "loader_kwargs", None)
    return plain_arguments(arguments, "loader argument", user_pinned=user_pinned)


def appearance(model: Any) -> dict[str, str]:
    """Return the appearance of an mteb encoder: attributes that are not part of its identity.

    For a `SentenceTransformer` inside, these are device, attention kernel, compilation and versions.
    """
    appearance = appearance_of(model)
    meta = getattr(model, "mteb_model_meta", None)
    appearance.update(
        {f"{name} of the metadata": repr(getattr(meta, name, None)) for name in ("max_tokens", "embed_dim")}
    )
    inner = getattr(model, "model", None)
    first = next(iter(inner.children()), None) if inner is not None and is_module(inner) else None
    transformer = getattr(first, "auto_model", None)
    config = getattr(transformer, "config", None)
    if classification.is_known(model):  # for other classes it is in the identity
        experiment = strip_credentials(getattr(meta, "experiment_kwargs", None) or {})
        appearance.update(
            {f"argument {name}": text_of(value) or repr(type(value)) for name, value in experiment.items()}
        )
    appearance["device"] = str(getattr(inner, "device", None)).partition(":")[0]
    appearance["attention"] = str(getattr(config, "_attn_implementation", None))
    appearance["compiled"] = str(hasattr(transformer, "_orig_mod"))
    return appearance


def experiments_of(model: Any) -> dict[str | None, str | None]:
    """Return the names that mteb's cache wrapper gives to a model's folders, each with the requested precision.

    The name is None for default settings, and the precision is None if none is requested.

    Raises:
        MissingDependency: If mteb has moved the function that names them.
    """
    from mteb.types import OutputDType

    try:
        from mteb.models.model_meta import _merge_precision_into_experiment_kwargs as merged
        from mteb.models.model_meta import _serialize_experiment_kwargs_to_name as name_of
    except ImportError as err:
        part = "_serialize_experiment_kwargs_to_name"
        raise MissingDependency(_moved("mteb.models.model_meta", part, "does not exist")) from err

    own = getattr(getattr(model, "mteb_model_meta", None), "experiment_kwargs", None)
    names: dict[str | None, str | None] = {name_of(own): None}
    for precision in OutputDType:
        names.setdefault(name_of(merged(own, {"precision": precision.value})), precision.value)
    return names


def _instruction(model: Any, task_metadata: Any, prompt_type: Any) -> str | None:
    """Return the instruction that an `AbsEncoder` puts before each item, with its template; None without one."""
    from mteb.models.abs_encoder import AbsEncoder

    if not isinstance(model, AbsEncoder):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mteb warns that a task has no instruction, also for encoders that use none
        try:
            instruction: str = model.get_task_instruction(task_metadata, prompt_type)
        except (KeyError, ValueError):
            return None  # an encoder that uses the instruction fails, too
    return instruction


def _own_prompt(model: Any, role: str | None, name: str | None) -> str:
    """Return the prompt that a `SentenceTransformer` selects when it is given none, or only a name."""
    prompts = model.prompts or {}
    if name is not None:
        return prompts.get(name) or ""
    candidates = {"query": ("query",), "document": DOCUMENT_PROMPTS}.get(role or "", ())
    name = next((name for name in candidates if name in prompts), model.default_prompt_name)
    return prompts.get(name) or ""


def _role(prompt_type: Any) -> str | None:
    return None if prompt_type is None else str(getattr(prompt_type, "value", prompt_type))
