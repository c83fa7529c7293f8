"""Encoder classes of mteb, made without a network: vendors' packages are fakes, weights are small and random.

A recipe returns an encoder of one class. What the class itself does (prompts, instructions, input types, batches,
dtypes) is mteb's code; only what it would load or call is replaced. A fake answers by the hash of what it was
sent, so that equal vectors mean equal requests, in every process.
"""

from __future__ import annotations

import io
import json
import sys
import types
import warnings
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from mteb.models.model_meta import ModelMeta, ScoringFunction

from mteb_encoders import DIMENSION, bag
from mteb_fidelity_encoders import HashModule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PACKAGE = "mteb.models.model_implementations"
PROMPTS = {"query": "search_query", "document": "search_document", "STS": "similarity", "Classification": "classes"}


def answer(*request: Any) -> list[float]:
    """Return what a service answers to a request for one item."""
    texts = [part for part in request if isinstance(part, str)]
    own = bag(f"request {json.dumps(request, sort_keys=True, default=str)}")
    found: list[float] = (sum(bag(text) for text in texts) + 0.1 * own).tolist()
    return found


class Anything:
    """Stands for any object of a vendor's package that only has to be there."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs


class Tokens:
    """A tokenizer of a vendor's package: words."""

    def encode(self, text: str) -> list[str]:
        """Return the words."""
        return text.split(" ")

    def decode(self, words: list[str]) -> str:
        """Return the text."""
        return " ".join(words)


def _data(vectors: Any) -> Any:
    return SimpleNamespace(data=[SimpleNamespace(embedding=vector, index=n) for n, vector in enumerate(vectors)])


class OpenAI(Anything):
    """The client of openai and of volcengine."""

    @property
    def embeddings(self) -> Any:
        """The endpoint."""
        return self

    def create(self, input: Any, **arguments: Any) -> Any:  # noqa: A002 - the vendor's name
        """Answer a list of texts."""
        arguments.pop("extra_body", None)
        return _data([answer(text, str(sorted(arguments))) for text in input])


class Cohere(Anything):
    """Both of cohere's clients."""

    def tokenize(self, text: str, **_: Any) -> Any:
        """Count words."""
        return SimpleNamespace(tokens=text.split())

    def embed(self, texts: list[str], input_type: str, **_: Any) -> Any:
        """Answer a list of texts."""
        return SimpleNamespace(embeddings=SimpleNamespace(float=[answer(text, input_type) for text in texts]))


class Voyage(Anything):
    """Voyage's client."""

    def tokenize(self, texts: list[str], **_: Any) -> Any:
        """Return words."""
        return [text.split() for text in texts]

    def count_tokens(self, texts: list[str], **_: Any) -> int:
        """Count words."""
        return sum(len(text.split()) for text in texts)

    def embed(self, texts: list[str], input_type: str, **_: Any) -> Any:
        """Answer a list of texts."""
        found = [answer(text, input_type) for text in texts]
        return SimpleNamespace(embeddings=found, total_tokens=len(texts))

    def multimodal_embed(self, inputs: Any, input_type: str, **_: Any) -> Any:
        """Answer a list of lists."""
        return SimpleNamespace(embeddings=[answer(*parts, input_type) for parts in inputs])


class Bedrock(Anything):
    """The runtime client of AWS."""

    def invoke_model(self, body: str, **_: Any) -> Any:
        """Answer as Titan, Cohere or Nova do."""
        sent = json.loads(body)
        if "inputText" in sent:
            found: Any = {"embedding": answer(sent["inputText"])}
        elif "texts" in sent:
            found = {"embeddings": [answer(text, sent["input_type"]) for text in sent["texts"]]}
        else:
            found = {"embeddings": [{"embedding": answer(json.dumps(sent, sort_keys=True))}]}
        return {"body": io.BytesIO(json.dumps(found).encode())}


class Gemini(Anything):
    """Google's client."""

    @property
    def aio(self) -> Any:
        """The asynchronous side."""
        return SimpleNamespace(models=self)

    async def embed_content(self, contents: Any, **_: Any) -> Any:
        """Answer one item."""
        return SimpleNamespace(embeddings=[SimpleNamespace(values=answer(_written(contents)))])


def _written(contents: Any) -> str:
    return contents if isinstance(contents, str) else json.dumps(contents, default=vars)


class Vertex(Anything):
    """Google's older client."""

    @classmethod
    def from_pretrained(cls, name: str) -> Any:
        """Return the model."""
        return cls(name)

    def get_embeddings(self, batch: Any, **_: Any) -> Any:
        """Answer a list of inputs."""
        return [SimpleNamespace(values=answer(*map(str, one.args), str(one.kwargs.get("task_type")))) for one in batch]


class GritLM(Anything):
    """The model of gritlm."""

    def encode(self, texts: list[str], instruction: str = "", **_: Any) -> Any:
        """Answer a list of texts."""
        return torch.tensor([answer(text, instruction) for text in texts])


class Static(Anything):
    """The model of model2vec."""

    @classmethod
    def from_pretrained(cls, name: str) -> Any:
        """Return the model."""
        return cls(name)

    def encode(self, texts: list[str], **_: Any) -> Any:
        """Answer a list of texts."""
        return torch.tensor([answer(text) for text in texts]).numpy()


class Flagged(Anything):
    """The models of llm2vec and of vllm."""

    def encode(self, texts: Any, pooling_task: str | None = None, **_: Any) -> Any:
        """Answer texts, or pairs of an instruction and a text."""
        found = [torch.tensor(answer(*([text] if isinstance(text, str) else text))) for text in texts]
        if pooling_task is None:
            return torch.stack(found)
        return [SimpleNamespace(outputs=SimpleNamespace(data=vector)) for vector in found]


class Batch(dict[str, torch.Tensor]):
    """What a tokenizer of transformers returns."""

    __getattr__ = dict.__getitem__

    def to(self, *_: Any, **__: Any) -> Any:
        """Stay on the CPU."""
        return self


class Words:
    """A tokenizer, and a processor, of transformers: a word is its hash."""

    pad_token_id, eos_token_id, model_max_length = 0, 1, 64
    padding_side = "right"

    def __call__(self, text: Any = None, **settings: Any) -> Any:
        """Return the ids of the words of texts, padded unless told otherwise."""
        rows = [[2 + int(abs(answer(word)[0]) * 1e6) % 500 for word in one.split()[:32]] + [1] for one in text]
        if settings.get("padding") is False:
            return {"input_ids": rows}
        return self.pad({"input_ids": rows})

    def pad(self, batch: Any, **_: Any) -> Batch:
        """Return rows as one tensor with its mask."""
        rows = batch["input_ids"]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        return Batch(
            input_ids=ids, attention_mask=(torch.arange(longest) < torch.tensor([[len(r)] for r in rows])).long()
        )

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of a processor."""
        return self

    def convert_ids_to_tokens(self, _: Any) -> str:
        """Name the separator of bge."""
        return "[unused1]"


class Network(torch.nn.Module):
    """Small random weights behind the interfaces of transformers."""

    def __init__(self, *, pooled: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(7)
            self.embedding = torch.nn.Embedding(502, 16, padding_idx=0)
        self.pooled = pooled
        self.device = torch.device("cpu")
        self.config = SimpleNamespace(max_length=64, max_seq_len=64)
        self.requires_grad_(requires_grad=False)

    def forward(self, input_ids: Any = None, attention_mask: Any = None, input_values: Any = None, **_: Any) -> Any:
        """Return hidden states, of which each knows the words before it."""
        found = self.embedding(input_ids if input_values is None else input_values)
        hidden = found.double().cumsum(1).float() / 8 + found
        mean = self._mean(found, attention_mask)
        return SimpleNamespace(last_hidden_state=mean if self.pooled else hidden, pooler_output=mean)

    def _mean(self, found: Any, mask: Any) -> Any:
        mask = mask.unsqueeze(-1)
        return ((found.double() * mask).sum(1) / mask.sum(1)).float()

    def encode(self, input_ids: Any, attention_mask: Any, task: str) -> Any:
        """Return what Ogma's own code returns."""
        return self._mean(self.embedding(input_ids), attention_mask) + len(task)

    def get_text_features(self, input_ids: Any, attention_mask: Any = None, **_: Any) -> Any:
        """Return one vector a text, as CLIP does."""
        return self._mean(self.embedding(input_ids), attention_mask)


def modules() -> dict[str, Any]:
    """Return the packages of vendors, by name."""
    found: dict[str, dict[str, Any]] = {
        "openai": {"OpenAI": OpenAI, "NotGiven": Anything},
        "tiktoken": {"get_encoding": lambda _: Tokens(), "Encoding": Tokens},
        "cohere": {"Client": Cohere, "ClientV2": Cohere},
        "voyageai": {"Client": Voyage},
        "google.genai": {"Client": Gemini},
        "google.genai.types": {"EmbedContentConfig": Anything, "Part": Anything, "Content": Anything},
        "vertexai": {},
        "vertexai.language_models": {"TextEmbeddingModel": Vertex, "TextEmbeddingInput": Anything},
        "gritlm": {"GritLM": GritLM},
        "model2vec": {"StaticModel": Static},
        "botocore.exceptions": {"ValidationError": type("ValidationError", (Exception,), {})},
    }
    made = {}
    for name, names in found.items():
        made[name] = types.ModuleType(name)
        vars(made[name]).update(names, __spec__=ModuleSpec(name, None))
    google = types.ModuleType("google")
    google.genai = made["google.genai"]  # type: ignore[attr-defined]
    return {**made, "google": google}


@contextmanager
def replaced(stand_ins: dict[str, Any]) -> Iterator[None]:
    """Have modules replaced by name; unlike `mock.patch.dict`, keep what is imported meanwhile, such as torch."""
    before = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module


@contextmanager
def fakes() -> Iterator[None]:
    """Have the packages of vendors be fakes."""
    with replaced(modules()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def meta(**overwrites: Any) -> Any:
    """Return metadata under which a recipe's encoder is known."""
    return ModelMeta.create_empty(
        overwrites={
            "name": "test/recipe", "revision": "r1", "embed_dim": DIMENSION,
            "similarity_fn_name": ScoringFunction.COSINE, **overwrites,
        }
    )  # fmt: skip


class Lenient(HashModule):
    """The module of a repository that takes arguments of its own, such as ``task`` or ``domain``."""

    forward_kwargs = {"task", "domain"}  # noqa: RUF012 - the name and type are sentence-transformers'


def tiny() -> Any:
    """Return a `SentenceTransformer` with prompts under the names that mteb's classes look for."""
    from sentence_transformers import SentenceTransformer

    names = {"query", "document", *PROMPTS, *PROMPTS.values()}
    prompts = {name: f"{name}: " for name in sorted(names)}
    return SentenceTransformer(modules=[Lenient()], prompts=prompts, device="cpu")


def of(where: str, **attributes: Any) -> Callable[[], Any]:
    """Return a recipe that makes an object of a class without its constructor, which would load weights."""

    def make() -> Any:
        module, _, name = where.partition(":")
        cls = getattr(import_module(module if module.startswith("mteb.") else f"{PACKAGE}.{module}"), name)
        model = object.__new__(cls)
        if isinstance(model, torch.nn.Module):
            torch.nn.Module.__init__(model)
        for key, value in attributes.items():
            setattr(model, key, value() if isinstance(value, type) or value is tiny else value)
        model.mteb_model_meta = meta()
        return model

    return make


def made(where: str, *args: Any, **kwargs: Any) -> Callable[[], Any]:
    """Return a recipe that calls a class or a loader."""

    def make() -> Any:
        module, _, name = where.partition(":")
        home = import_module(module if module.startswith("mteb.") else f"{PACKAGE}.{module}")
        with mock.patch.dict(vars(home), {"requires_package": lambda *_, **__: None}):
            model = getattr(home, name)(*args, **kwargs)
        model.mteb_model_meta = meta()
        return model

    return make


WRAPPED = {
    "model": tiny, "model_prompts": PROMPTS, "fps": None, "max_frames": None, "num_frames": None,
    "target_sampling_rate": None, "max_samples": None,
}  # fmt: skip
INSTRUCTED = {
    "model": tiny, "model_name": "test/recipe", "instruction_template": "Instruct: {instruction}\n",
    "apply_instruction_to_passages": False, "add_eos_token": False, "prompts_dict": None,
}  # fmt: skip
CLIP = {"model": Network, "processor": Words, "device": "cpu"}

RECIPES: dict[str, Callable[[], Any]] = {
    # Services.
    "openai_models.OpenAIModel": made("openai_models:OpenAIModel", "openai/text-embedding-3-small", 64, embed_dim=64),
    "cohere_models.CohereTextEmbeddingModel": made(
        "cohere_models:CohereTextEmbeddingModel", "Cohere/Cohere-embed", "1", model_prompts=PROMPTS
    ),
    "voyage_models.VoyageModel": made(
        "voyage_models:VoyageModel", "voyageai/voyage-3", max_rpm=10**6, max_tpm=10**9,
        model_prompts={"query": "query", "document": "document"}, output_dtype="float",
    ),
    "bedrock_models.BedrockModel": of(
        "bedrock_models:BedrockModel", _client=Bedrock, _model_id="m", _provider="cohere", _max_batch_size=5,
        _max_sequence_length=4096, model_prompts=PROMPTS,
    ),
    "google_gemini.GoogleGeminiEmbeddingModel": made(
        "google_gemini:GoogleGeminiEmbeddingModel", "google/gemini", model_prompts={"query": "RETRIEVAL_QUERY"}
    ),
    "google_text_embedding.GoogleTextEmbeddingModel": made(
        "google_text_embedding:GoogleTextEmbeddingModel", "google/text", model_prompts=PROMPTS
    ),
    # Subclasses of the two that are known.
    "jina_models.JinaWrapper": of("jina_models:JinaWrapper", **WRAPPED),
    "jina_models.JinaV5TextWrapper": of("jina_models:JinaV5TextWrapper", **WRAPPED),
    "nomic_models.NomicWrapper": of("nomic_models:NomicWrapper", model_name="test/recipe", **WRAPPED),
    "uae_models.UAEWrapper": of("uae_models:UAEWrapper", **WRAPPED),
    "bekko_models.BekkoEncoderWrapper": of("bekko_models:BekkoEncoderWrapper", **WRAPPED),
    "aurola_omni_models.AuroLAOmniWrapper": of("aurola_omni_models:AuroLAOmniWrapper", **WRAPPED),
    "sentence_transformer_wrapper.SentenceTransformerMultimodalEncoderWrapper": of(
        "mteb.models.sentence_transformer_wrapper:SentenceTransformerMultimodalEncoderWrapper", **WRAPPED
    ),
    "kalm_models.KALMWrapper": of("kalm_models:KALMWrapper", **INSTRUCTED),
    "geevec_models.GeeVecLiteModel": of("geevec_models:GeeVecLiteModel", **INSTRUCTED),
    "bmretriever_models.BMRetrieverWrapper": of("bmretriever_models:BMRetrieverWrapper", **INSTRUCTED),
    "nvidia_models._NVEmbedWrapper": of("nvidia_models:_NVEmbedWrapper", **INSTRUCTED),
    "jasper_models.JasperModel": of("jasper_models:JasperModel", **INSTRUCTED),
    # The two.
    "sentence_transformer_wrapper.SentenceTransformerEncoderWrapper": of(
        "mteb.models.sentence_transformer_wrapper:SentenceTransformerEncoderWrapper", **WRAPPED
    ),
    "instruct_wrapper.InstructSentenceTransformerModel": of(
        "mteb.models.instruct_wrapper:InstructSentenceTransformerModel", **INSTRUCTED
    ),
    # Small random weights.
    "axiotic_models.OgmaWrapper": of(
        "axiotic_models:OgmaWrapper", model=Network, tokenizer=Words, device="cpu", max_length=64
    ),
    "byrne_models.ByrneEmbedModel": of(
        "byrne_models:ByrneEmbedModel", model=Network(pooled=True), tokenizer=Words, device="cpu", max_length=64
    ),
    "no_instruct_sentence_models.NoInstructModel": of(
        "no_instruct_sentence_models:NoInstructModel", model=Network, tokenizer=Words, device="cpu"
    ),
    "repllama_models.RepLLaMAModel": of(
        "repllama_models:RepLLaMAModel", model=Network, tokenizer=Words, model_prompts={"query": "q: "}
    ),
    "promptriever_models.PromptrieverModel": of(
        "promptriever_models:PromptrieverModel", model=Network, tokenizer=Words, model_prompts={"query": "q: "}
    ),
    "speecht5_models.SpeechT5Text": of(
        "speecht5_models:SpeechT5Text", tts_processor=Words, device="cpu",
        tts_model=SimpleNamespace(speecht5=SimpleNamespace(encoder=Network())),
    ),
    "clip_models.CLIPModel": of("clip_models:CLIPModel", **CLIP),
    "align_models.ALIGNModel": of("align_models:ALIGNModel", **CLIP),
    "metaclip_models.MetaClip2Model": of("metaclip_models:MetaClip2Model", **CLIP),
    "siglip_models.SiglipModelWrapper": of("siglip_models:SiglipModelWrapper", **CLIP),
    "xclip_models.XCLIPModel": of("xclip_models:XCLIPModel", **CLIP),
    "clap_models.ClapZeroShotWrapper": of("clap_models:ClapZeroShotWrapper", **CLIP),
    "wav2clip_model.Wav2ClipZeroShotWrapper": of(
        "wav2clip_model:Wav2ClipZeroShotWrapper", clip=Network, clip_processor=Words, device="cpu"
    ),
    # Other libraries, and none.
    "instruct_wrapper.InstructGritLMModel": made("mteb.models.instruct_wrapper:instruct_wrapper", "m", "embedding"),
    "model2vec_models.Model2VecModel": made("model2vec_models:Model2VecModel", "test/static"),
    "llm2vec_models.LLM2VecModel": of("llm2vec_models:LLM2VecModel", model=Flagged),
    "vllm_wrapper.VllmEncoderWrapper": of(
        "mteb.models.vllm_wrapper:VllmEncoderWrapper", llm=Flagged, prompts_dict=PROMPTS, use_instructions=False,
        apply_instruction_to_passages=False, instruction_template=None,
    ),
    "random_baseline.RandomEncoderBaseline": made("random_baseline:RandomEncoderBaseline", "test/random", "1"),
}  # fmt: skip
"""For each class, by the name that `cas_cache.mteb.reviewed` gives it, how to make an encoder of it."""
