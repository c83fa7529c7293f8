"""No credential ever enters an encoder spec, and nothing that merely looks like one is refused."""

from __future__ import annotations

import json
import pickle
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas_cache.errors import CredentialInSpec
from cas_cache.identity import EncoderSpec
from cas_cache.identity.credentials import find_credentials, redact, strip_credentials

ALPHANUMERIC = string.ascii_letters + string.digits
SECRET = "S3cretV4lueThatNobodyMaySee"
SECRET_NAMES = [
    "token", "use_auth_token", "hf_token", "hub_token", "access_token", "bearer_token", "github_token", "my_token",
    "api_key", "openai_api_key", "x_api_key", "api_key_2", "azure_key", "secret_key", "private_key", "account_key",
    "subscription_key", "aws_secret_access_key", "aws_access_key_id", "aws_session_token", "password", "db_password",
    "passwd", "passphrase", "pwd", "secret", "client_secret", "credentials", "connection_string", "authorization",
    "proxy_authorization", "auth", "cookie", "jwt",
]  # fmt: skip
HARMLESS = {
    "max_tokens": 8191, "num_tokens": 5, "tokenizer": "bert-base-uncased", "token_type": "segment",
    "token_type_ids": [0, 1],
    "pad_token": "[PAD]", "eos_token": "</s>", "cls_token": "CLS", "image_token": "<image>", "token": "[CLS]",
    "special_tokens": ["<a>", "<b>"], "tokens": ["a", "b"], "use_token": True, "token_dim": 4, "pooling": "last_token",
    "weights": "weights-" + "0123456789abcdef" * 2 + "01234567", "sha256": "0123456789abcdef" * 4, "key_dim": 64,
    "cache_key": "0123456789abcdef" * 4, "num_key_value_heads": 8, "query_key": "text", "author": "somebody",
    "model_key": "sentence-transformers/all-MiniLM-L6-v2", "api_key": None, "password": "", "auth_token": False,
    "base_url": "https://api.example.org/v1?model=a", "code": "git@github.com:org/repository.git",
    "clone": "ssh://git@github.com/org/repository", "client": "python", "headers": {"Content-Type": "application/json"},
    "url": "https://huggingface.co/org/model@main", "secretary": "a person", "monkey": "a1b2c3d4e5f6a7b8c9d0e1f2",
}  # fmt: skip
HARMLESS_TEXTS = [
    "Given a token, retrieve the documents that mention the API key and the password. ",
    "task: search result | query: ", "token: ", "Represent this Bearer token documentation: ",
    "sk-learn-embeddings-multilingual-large-v2", "hf_transformers", "risk-analysis-embeddings-multilingual-2024",
    "text-embedding-3-large@2024-01-25", "8b3219a92973c328a8e22fadcfa821b5dc75636a", "sha256:" + "ab12" * 16,
    "AKIAs are identifiers", "-----\nquery: ",
]  # fmt: skip


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))


SPELLINGS = [
    str, str.upper, str.title, camel, lambda name: name.replace("_", "-"), lambda name: name.replace("_", " "),
    lambda name: name.title().replace("_", "-"), lambda name: name.replace("_", "."), lambda name: camel("x_" + name),
    lambda name: name.upper().replace("_", "-"), lambda name: "default_" + name,
]  # fmt: skip


def base64url(length: int) -> st.SearchStrategy[str]:
    return st.text(ALPHANUMERIC, min_size=length, max_size=length)


KNOWN_SHAPES = st.one_of(
    base64url(34).map("hf_{}".format),
    base64url(36).map("ghp_{}".format),
    base64url(30).map("github_pat_{}".format),
    base64url(20).map("glpat-{}".format),
    base64url(40).map("sk-proj-0{}".format),
    base64url(40).map("sk-ant-api03-{}".format),
    base64url(40).map("sk-0{}".format),
    st.text(string.ascii_uppercase + string.digits, min_size=16, max_size=16).map("AKIA{}".format),
    base64url(35).map("AIza{}".format),
    base64url(24).map("eyJhbGciOiJIUzI1NiJ9.{}.abcdefgh".format),
    base64url(20).map("https://user:{}@example.org/v1".format),
    base64url(20).map("postgresql://{}@example.org/v1".format),
    base64url(20).map("https://example.org/v1?sig={}".format),
    base64url(64).map("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----".format),
    base64url(64).map("-----BEGIN OPENSSH PRIVATE KEY-----\n{}".format),
    base64url(24).map("Bearer 1{}".format),
    base64url(24).map("xoxb-{}".format),
)


@st.composite
def nested(draw: st.DrawFn, holder: object) -> object:
    """The value somewhere inside of lists and mappings with harmless names."""
    value = holder
    for _ in range(draw(st.integers(0, 4))):
        harmless = draw(st.sampled_from(sorted(HARMLESS)))
        kind = draw(st.sampled_from(["list", "mapping", "both"]))
        value = {"inner": value, harmless: HARMLESS[harmless]} if kind != "list" else [1, value, "x"]
        value = [value] if kind == "both" else value
    return value


def made(**fields: object) -> EncoderSpec:
    return EncoderSpec(**{"model": "org/m", "revision": "abc1234", **fields})


def refused(secret: str, **fields: object) -> None:
    """The spec is refused, and neither the error nor what led to it shows the secret."""
    with pytest.raises(CredentialInSpec) as caught:
        made(**fields)
    shown = f"{caught.value} {caught.value!r} {caught.value.places} {caught.value.__cause__!r}"
    assert secret not in shown
    assert caught.value.places
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@given(st.data(), st.sampled_from(SECRET_NAMES), st.sampled_from(SPELLINGS), st.sampled_from(["params", "scope"]))
def test_a_value_with_the_name_of_a_credential_is_refused(data, name, spelling, where):
    """At any depth, in lists, and in every spelling of the name."""
    value = data.draw(st.sampled_from([SECRET, [SECRET], {"x": SECRET}, {"a": ["b", SECRET]}]))
    refused(SECRET, **{where: {"outer": data.draw(nested({spelling(name): value}))}})


@given(st.data(), KNOWN_SHAPES, st.text(string.ascii_lowercase + " ", max_size=10))
def test_a_value_with_the_shape_of_a_credential_is_refused(data, secret, before):
    """Whatever its name is, and whatever text is around it."""
    text = f"{before} {secret}"
    refused(secret, params={"outer": data.draw(nested({"note": text}))})
    field = data.draw(st.sampled_from(["prompt", "model", "revision", "role"]))
    refused(secret, **{field: text})
    refused(secret, params={text: 1})
    refused(secret, fields=("text", text))


@pytest.mark.parametrize("name", ["key", "my_key", "headers", "default_headers", "session", "client", "authentication"])
@pytest.mark.parametrize(
    "value",
    ["q8F2mZ7tX1bN4vR9kL3w", "6f1c2a9b7d3e4f5061728394a5b6c7d8", "9a1b2c3d-1111-4222-8333-0123456789ab"],
)
def test_a_random_value_with_a_suspicious_name_is_refused(name, value):
    """Headers of any name carry keys."""
    refused(value, params={name: value})
    refused(value, params={name: {"X-Custom": [value]}})


def test_pairs_of_a_name_and_a_value_are_refused():
    """Headers are often a list of pairs."""
    refused(SECRET, params={"extra": [["Authorization", SECRET]]})
    refused(SECRET, params={"extra": [{"name": "api-key", "value": SECRET}]})
    refused(SECRET, params={"extra": [{"key": "X-Auth-Token", "value": SECRET}]})
    refused("94949494", params={"password": 94949494})
    refused(SECRET, params={"arguments": f"--api-key={SECRET}"})


@pytest.mark.parametrize(
    "value",
    [
        "export OPENAI_API_KEY=sk1234567890abc", "mxb_" + "aB3x" * 8, "esecret_" + "aB3x" * 8, "nk-" + "aB3x" * 8,
        "https://hooks.slack.com/services/T00000000/B00000000/" + "aB3x" * 6,
    ],
)  # fmt: skip
def test_more_shapes_of_keys(value):
    """Of services whose keys have a beginning of their own, and of variables of a shell."""
    refused(value, params={"note": value})


@pytest.mark.parametrize(
    "given",
    [
        {"base_url": "https://example.org/v1?subscription-key=q8Zr3XvT7Lm2Kd9WfB4h"},
        {"base_url": "https://example.org/v1#client_secret=q8Zr3XvT7Lm2Kd9WfB4h"},
        {"arguments": "--api-key q8Zr3XvT7Lm2Kd9WfB4h"},
        {"user_pass": "q8Zr3XvT7Lm2Kd9WfB4h"},
        {"tokens": {"q8Zr3XvT7Lm2Kd9WfB4h"}},
    ],
)
def test_keys_under_other_names_are_left_out(given):
    """In URLs, arguments of a command, and sets."""
    assert "q8Zr3XvT7Lm2Kd9WfB4h" not in repr(strip_credentials(given))


def test_a_limit_in_tokens_is_no_credential():
    """It changes vectors, so it must not be left out of an identity either."""
    assert strip_credentials({"max_token": 5, "query_max_token": 6}) == {"max_token": 5, "query_max_token": 6}
    assert strip_credentials({"creds": {"user": "a"}}) == {}


@pytest.mark.parametrize("name", sorted(HARMLESS))
def test_what_is_not_a_credential_is_accepted(name):
    """Settings of tokenizers, digests, names and switches."""
    value = {name: HARMLESS[name]}
    assert made(params=value, scope={"inner": [value]}).credentials() == ()


@pytest.mark.parametrize("text", HARMLESS_TEXTS)
def test_a_text_about_credentials_is_accepted(text):
    """A prompt may speak of tokens, and a revision is usually a hash."""
    assert made(model=f"org/{text}", revision=text, prompt=text, params={"note": text}).prompt == text


@given(
    st.text("0123456789abcdef", min_size=7, max_size=64),
    st.lists(st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=12), min_size=1, max_size=5),
)
def test_hashes_and_names_are_accepted(digest, words):
    """Commits, digests and namespaced names of any length."""
    name = "-".join(words)
    revisions = [digest + "0", f"weights-{digest}", f"sha256:{digest}", f"v1.0-{digest}"]
    for revision in revisions:
        made(model=f"org/model-{name}", revision=revision, params={"weights": digest, "adapter": f"org/{name}"})


ARGUMENT_NAMES = st.sampled_from([*SECRET_NAMES, *HARMLESS, "client"])
ARGUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=40) | KNOWN_SHAPES,
    lambda value: st.lists(value, max_size=3) | st.dictionaries(ARGUMENT_NAMES, value, max_size=4),
    max_leaves=8,
)


@given(ARGUMENTS)
def test_stripped_arguments_hold_no_credential(value):
    """What is left of an encoder's arguments can always enter a spec."""
    assert list(find_credentials(strip_credentials(value))) == []
    assert strip_credentials(strip_credentials(value)) == strip_credentials(value)


def test_stripping_keeps_what_surrounds_a_credential():
    """The host of a URL decides which model answers; who is asking does not."""
    given_arguments = {
        "base_url": "https://me:pw@api.example.org/v1",
        "api_key": "x",
        "client": object(),
        "max_tokens": 5,
    }
    assert strip_credentials(given_arguments) == {"base_url": "https://api.example.org/v1", "max_tokens": 5}
    assert redact("GET https://me:pw@h/x?a=1") == "GET https://h/x?a=1"


def test_a_spec_of_an_older_version_can_be_read_and_not_be_made_again():
    """Reading must work, or the namespace could be neither found nor dropped."""
    document = {**made().document(), "params": {"experiment": {"token": SECRET}}, "prompt": "hf_" + "aB3" * 10}
    data = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    old = EncoderSpec.from_canonical(data)
    assert old.canonical() == data
    assert old.credentials() == ("prompt", "params['experiment']['token']")
    assert SECRET not in json.dumps(old.public_document())
    assert "aB3aB3" not in json.dumps(old.public_document())
    with pytest.raises(CredentialInSpec):
        EncoderSpec(**{**document, "fields": ("text",)})
