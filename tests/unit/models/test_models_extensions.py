"""Adapters, quantization, offload and other engines, with the real packages, in processes of their own.

Where two are told apart, the part of the description that sees them is then replaced by one that sees nothing, and they
are taken for one another: without it the assertions before would fail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


import pytest

from installed_releases import packages, run

pytestmark = pytest.mark.verify

ADAPTERS = """
import torch, warnings
from unittest.mock import patch
from tiny_models import encoded, model
from cas_cache.models import describe, description, modules, weights_fingerprint
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
warnings.simplefilter("ignore")

def adapted(alpha=4):
    built = model()
    torch.manual_seed(3)
    for name in ("one", "two"):
        inject_adapter_in_model(config(alpha), built[0].auto_model, name)
    for layer in layers(built): layer.set_adapter("two")
    return built.eval()

def config(alpha=4):
    return LoraConfig(r=4, lora_alpha=alpha, init_lora_weights=False, target_modules=["query", "value"])

def layers(built):
    return [part for part in built.modules() if isinstance(part, BaseTunerLayer)]

states = {"plain": model(), "two": adapted(), "stronger": adapted(64), "one": adapted(), "off": adapted()}
for layer in layers(states["one"]): layer.set_adapter("one")
for layer in layers(states["off"]): layer.enable_adapters(False)
vectors = {name: encoded(built) for name, built in states.items()}
prints = {name: weights_fingerprint(built) for name, built in states.items()}
looks = {name: describe(built).identity() for name, built in states.items()}
assert not torch.allclose(vectors["one"], vectors["two"], atol=1e-3)
assert len({str(look) for look in looks.values()}) == 5, looks
assert len(set(prints.values())) == 5, prints
with patch.object(modules, "adapters_of", lambda module: {}):
    blind = {name: describe(built).identity() for name, built in states.items()}
    assert blind["one"] == blind["two"] == blind["stronger"] == blind["off"], blind
again = adapted()
assert describe(again).identity() == looks["two"]
for layer in layers(again): layer.merge()
assert describe(again).identity() != looks["two"]
with patch.object(modules, "adapters_of", lambda module: {}), patch.object(description, "_sample", lambda *args: ""):
    assert describe(again).identity() == describe(adapted()).identity()
wrapped = model()
wrapped[0].model = get_peft_model(wrapped[0].auto_model, config())
on = describe(wrapped).identity()
with wrapped[0].auto_model.disable_adapter():
    assert describe(wrapped).identity() != on
assert describe(wrapped).identity() == on
"""

OFFLOAD = """
import torch, tempfile, warnings
from tiny_models import model
from cas_cache.models import describe, weights_fingerprint
from accelerate import cpu_offload, disk_offload
warnings.simplefilter("ignore")
plain = model()
expected, fingerprint = describe(plain).identity(), weights_fingerprint(plain)
for offload in (cpu_offload, lambda m, execution_device: disk_offload(m, tempfile.mkdtemp(), execution_device)):
    built = model()
    offload(built[0].auto_model, execution_device=torch.device("cpu"))
    assert any(parameter.is_meta for parameter in built.parameters())
    assert describe(built).identity() == expected, describe(built).document
    assert weights_fingerprint(built) == fingerprint
"""

TORCHAO = """
import torch, warnings
from unittest.mock import patch
from tiny_models import model
from cas_cache.models import describe, description, weights_fingerprint
from torchao.quantization import Int8WeightOnlyConfig, quantize_
warnings.simplefilter("ignore")
plain, one, two = model(), model(), model()
for built in (one, two): quantize_(built[0].auto_model, Int8WeightOnlyConfig())
assert describe(one).identity() == describe(two).identity() != describe(plain).identity()
assert weights_fingerprint(one) == weights_fingerprint(two) != weights_fingerprint(plain)
with patch.object(description, "_sample", lambda *args: ""):
    assert describe(one).identity() == describe(plain).identity()
"""

ONNX = """
import numpy as np, onnx, tempfile, pathlib, onnxruntime
from unittest.mock import patch
from onnx import TensorProto, helper, numpy_helper
from cas_cache.models import describe_encoder, exported

def file(folder, scale, name="model.onnx"):
    weight = numpy_helper.from_array(np.full((4, 4), scale, np.float32), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 4])], [weight])
    path = pathlib.Path(folder) / name
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return str(path)

class Encoder:
    def __init__(self, path): self.session = onnxruntime.InferenceSession(path)

def look(*args): return describe_encoder(Encoder(file(tempfile.mkdtemp(), *args)))
assert look(1.0) == look(1.0)
assert len({str(look(1.0)), str(look(2.0)), str(look(1.0, "model_int8.onnx"))}) == 3
one, other = (Encoder(file(tempfile.mkdtemp(), scale)) for scale in (1.0, 2.0))
answers = [encoder.session.run(None, {"x": np.ones((1, 4), np.float32)})[0] for encoder in (one, other)]
assert not np.allclose(*answers)
with patch.object(exported, "_hash_of", lambda file: ""):
    assert look(1.0) == look(2.0) != look(1.0, "model_int8.onnx")
"""

OPENVINO = """
import numpy as np, openvino, pathlib, tempfile
from unittest.mock import patch
from openvino import opset13 as ops
from cas_cache.models import describe_encoder, exported

def graph(scale, transposed=False, first="x"):
    x, y = ops.parameter([-1, 4], np.float32, name="x"), ops.parameter([-1, 4], np.float32, name="y")
    weight = ops.constant(np.arange(16, dtype=np.float32).reshape(4, 4) * scale)
    left, right = (x, y) if first == "x" else (y, x)
    return openvino.Model([ops.matmul(ops.subtract(left, right), weight, False, transposed)], [x, y])

class Encoder:
    def __init__(self, scale, name=None, **settings):
        self.model = graph(scale, **settings)
        if name is not None:
            path = pathlib.Path(tempfile.mkdtemp()) / name
            openvino.save_model(self.model, path, compress_to_fp16=False)
            self.model = openvino.Core().read_model(path)
        self.compiled = openvino.Core().compile_model(self.model, "CPU")

    def encode(self): return self.compiled([np.ones((1, 4), np.float32), np.zeros((1, 4), np.float32)])[0]

for name in (None, "openvino_model.xml"):
    one, again, other = Encoder(1.0, name), Encoder(1.0, name), Encoder(2.0, name)
    assert not np.allclose(one.encode(), other.encode())
    assert describe_encoder(one) == describe_encoder(again) != describe_encoder(other), describe_encoder(one)
    with patch.object(exported, "_hash_of", lambda file: ""), patch.object(exported, "_hash_of_graph", lambda file: ""):
        assert describe_encoder(one) == describe_encoder(other)
    for setting in ({"transposed": True}, {"first": "y"}):  # with the same operations and constants
        changed = Encoder(1.0, name, **setting)
        assert not np.allclose(one.encode(), changed.encode())
        assert describe_encoder(one) != describe_encoder(changed), setting
"""


@pytest.mark.parametrize(
    ("script", "names"),
    [
        (ADAPTERS, ["peft", "accelerate"]),
        (OFFLOAD, ["accelerate"]),
        (TORCHAO, ["torchao"]),
        (ONNX, ["onnxruntime", "onnx", "flatbuffers", "protobuf", "ml_dtypes"]),
        (OPENVINO, ["openvino", "openvino-telemetry"]),
    ],
    ids=["peft", "accelerate", "torchao", "onnxruntime", "openvino"],
)
def test_with_the_real_package(script: str, names: list[str], tmp_path: Path) -> None:
    """Changes of a model by the package are in the description exactly if they change vectors."""
    run([packages(tmp_path, *names)], "-c", script)
