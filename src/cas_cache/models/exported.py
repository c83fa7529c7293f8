"""Describe models that ONNX Runtime and OpenVINO run. They have no tensors in torch, so their files are hashed."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cas_cache.errors import IdentityError
from cas_cache.models.configuration import describe_config
from cas_cache.models.names import class_name, is_library, top_package
from cas_cache.models.values import hashed, named_by_user

if TYPE_CHECKING:
    from cas_cache.models.functions import CodeReader

ENGINES = frozenset({"onnxruntime", "openvino", "optimum"})

FILE_ATTRIBUTES = ("path", "model_path", "_model_path", "_xml_path")


def is_exported(value: Any) -> bool:
    """Return True for a model of ONNX Runtime, OpenVINO or optimum, including one of a subclass."""
    if isinstance(value, type):
        return False
    return _is_of_engine(type(value).__mro__) and (_session(value) is not None or _graph(value) is not None)


@functools.lru_cache(maxsize=1024)
def _is_of_engine(classes: tuple[type, ...]) -> bool:
    return any(top_package(cls.__module__) in ENGINES for cls in classes)


def describe_exported(model: Any, where: str, code: CodeReader) -> Any:
    """Return plain JSON for an exported model: the name of its file, and the SHA-256 of its weights.

    Raises:
        IdentityError: If neither a file nor a graph can be read.
    """
    if (stated := named_by_user(model)) is not None:
        return stated
    described: dict[str, Any] = {}
    if not is_library(type(model)):
        described["class"] = code.own_class(type(model), where)
    config = getattr(model, "config", None)
    if hasattr(config, "to_diff_dict"):
        described["config"] = describe_config(config, where, code.value)
    return {**described, **_weights(model, where)}


def _weights(model: Any, where: str) -> dict[str, Any]:
    session, graph = _session(model), _graph(model)
    held = getattr(session, "_model_bytes", None)
    if held:
        return {"engine": "onnx", "sha256": hashlib.sha256(held).hexdigest()}
    file = _file_of(model) or _file_of(session) or _file_of(graph)
    if file is not None:
        return {"engine": "openvino" if file.suffix == ".xml" else "onnx", "file": file.name, "sha256": _hash_of(file)}
    if graph is not None:
        return {"engine": "openvino", "sha256": _hash_of_graph(graph)}
    raise IdentityError(
        f"{where} is a {class_name(type(model))} whose file cannot be found, so its weights cannot be read. Load it "
        "from a file, or evaluate without the cache."
    )


def _session(model: Any) -> Any:
    return model if type(model).__name__ == "InferenceSession" else getattr(model, "session", None)


def _graph(model: Any) -> Any:
    for value in (model, getattr(model, "model", None)):
        if hasattr(value, "get_ordered_ops"):
            return value
    return None


def _file_of(value: Any) -> Path | None:
    for name in FILE_ATTRIBUTES:
        path = getattr(value, name, None)
        if isinstance(path, str | Path) and Path(path).is_file():
            return Path(path)
    return None


def _hash_of(file: Path) -> str:
    """Return a SHA-256 over a file and the files of its weights: `model.bin`, `model.onnx_data`, `model.onnx.data`."""
    stem = file.with_suffix(".bin")
    beside = sorted(path for path in file.parent.glob(f"{file.name}*") if path.is_file() and path != file)
    files = [file, *beside, *([stem] if file.suffix == ".xml" and stem.is_file() else [])]
    hashes = []
    for path in files:
        stat = path.stat()
        hashes.append(_hash_of_bytes(str(path.resolve()), stat.st_mtime_ns, stat.st_size, stat.st_ino))
    return hashes[0] if len(hashes) == 1 else hashed("\0".join(hashes))


@functools.lru_cache(maxsize=256)
def _hash_of_bytes(path: str, _changed: int, _size: int, _inode: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_of_graph(graph: Any) -> str:
    """Return a SHA-256 over the operations of an OpenVINO graph: settings, inputs, and values of constants."""
    digest = hashlib.sha256()
    positions: dict[str, int] = {}
    for operation in graph.get_ordered_ops():
        operation_type = operation.get_type_name()
        positions[operation.get_name()] = len(positions)
        sources = [value.get_source_output() for value in operation.inputs()]
        inputs = [(positions.get(source.get_node().get_name()), source.get_index()) for source in sources]
        shape = operation.output(0).get_partial_shape() if operation.get_output_size() else ""
        digest.update(f"{operation_type}\0{shape}\0{sorted(operation.get_attributes().items())}\0{inputs}\0".encode())
        if operation_type == "Constant":
            digest.update(operation.get_data().tobytes())
    return digest.hexdigest()
