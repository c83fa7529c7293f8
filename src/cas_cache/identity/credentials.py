"""Recognise credentials in the documents that identify encoders. Pure.

A spec is stored in plain text beside the vectors, and everybody who can read the repository can read it, so it must not
hold a token, a password or an API key. This module makes that decision for specs, for arguments of encoders, and for
messages: by the name of a value, by the known shapes of keys, and by randomness under a name that suggests a key.

It never returns or raises the text of a credential, only the place where it was found.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

REDACTED = "***"
"""The text that replaces a credential."""

MIN_RANDOM_RUN = 16
"""Minimum length of a run of letters and digits. Generated keys have 20 or more; words with digits are shorter."""

MIN_RANDOM_BITS = 3.0
"""Minimum Shannon entropy per character: random hex digits have about 3.5, random letters and digits about 4."""

MIN_SECRET_NUMBER = 10**5
"""Minimum number that may be a credential. Smaller ones under a name such as ``password`` are switches and counts."""


class Level(IntEnum):
    """How strongly the name of a value suggests that the value is a credential."""

    NEUTRAL = 0
    SUSPICIOUS = 1
    SECRET = 2


_SECRET_ENDINGS = re.compile(
    r"(?:(?:api|access|secret|private|account|subscription|sign(?:ing)?|shared|encryption|licen[sc]e|auth|master"
    r"|service|server|deploy|ssh|admin|openai|anthropic|cohere|voyage(?:ai)?|jina(?:ai)?|google|gemini|azure|aws|gcp"
    r"|hf|hugging_?face|mistral|nvidia|together|replicate|fireworks|groq|openrouter|wandb)_?key(?:_?id)?s?"
    r"|(?:api|access|auth|bearer|hf|hub|refresh|session|security|sas|oauth2?|user|login|personal_?access)_?tokens?"
    r"|token_?file_?content|secrets?|secret_?(?:access_?)?key|passw(?:or)?ds?|passphrases?|pwd|credentials?"
    r"|creds?|connection_?string|(?:proxy_?)?authori[sz]ation|auth|bearer|jwt|cookies?)$"
)
"""Endings of names of credentials, in lower case with an underscore between words."""

_NOT_A_CREDENTIAL = frozenset(
    [
        "additional",
        "audio",
        "begin",
        "bof",
        "boi",
        "bop",
        "bos",
        "break",
        "call",
        "class",
        "cls",
        "context",
        "doc",
        "document",
        "end",
        "eof",
        "eoi",
        "eop",
        "eos",
        "eot",
        "fake",
        "fim",
        "first",
        "image",
        "language",
        "last",
        "mask",
        "max",
        "min",
        "next",
        "pad",
        "passage",
        "placeholder",
        "pool",
        "pooling",
        "prefix",
        "prompt",
        "query",
        "sep",
        "special",
        "speaker",
        "start",
        "stop",
        "suffix",
        "summary",
        "text",
        "thinking",
        "title",
        "tool",
        "unk",
        "video",
        "vision",
    ]
)
"""Words before ``token`` in the names of a tokenizer's special tokens and of poolings."""

_SUSPICIOUS = frozenset(
    [
        "account",
        "auth",
        "authentication",
        "client",
        "clients",
        "header",
        "headers",
        "key",
        "keys",
        "login",
        "pass",
        "pat",
        "pin",
        "sas",
        "session",
        "sig",
        "signature",
        "tokens",
    ]
)
"""Words that may name a key, or a container of one."""

_DIGEST = frozenset(
    [
        "cache",
        "checksum",
        "commit",
        "content",
        "digest",
        "fingerprint",
        "hash",
        "md5",
        "revision",
        "sha",
        "sha1",
        "sha256",
        "weights",
    ]
)
"""Words of names whose values are random and public."""

_CONNECTIONS = re.compile(r"(?:^|_)(?:clients?|headers?|sessions?)$")
"""Names of connections to a service. Arguments with these names are not part of an identity, whatever they hold."""

_SPECIAL_TOKEN = re.compile(r"[<\[].*[>\]]")
_WORDS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
_RUN = re.compile(rf"[A-Za-z0-9]{{{MIN_RANDOM_RUN},}}")
_UUID = re.compile(r"(?i)\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")

_USERINFO = re.compile(r"(?<=://)(?!git@)[^/\s@]+@")

_SHAPES = re.compile(
    r"""
    -----BEGIN\ [A-Z0-9\ ]+-----(?:.*?-----END\ [A-Z0-9\ ]+-----|.*)             # PEM
    | \beyJ[\w-]{6,}\.[\w-]{6,}(?:\.[\w-]*)?                                     # JSON Web Token
    | \b(?:AKIA|ASIA)[A-Z0-9]{12,}\b                                             # AWS
    | \bAIza[\w-]{30,} | \bya29\.[\w-]{20,} | \bGOCSPX-[\w-]{20,}                # Google
    | \b(?:hf|api_org|jina|gsk|r8|fw|tgp_v1|npm|gh[pousr])_[A-Za-z0-9]{20,}      # Hugging Face, GitHub, and others
    | \b(?:mxb|esecret)_[A-Za-z0-9]{20,}                                         # Mixedbread, Anyscale
    | \bgithub_pat_\w{20,} | \bgl(?:pat|dt|rt|ptt|soat)-[\w-]{20,}               # GitHub, GitLab
    | \b[srp]k_(?:live|test)_[A-Za-z0-9]{16,}                                    # Stripe
    | (?<![\w-])sk-(?:ant|proj|or|svcacct|admin|None)-(?=[\w-]*[0-9])[\w-]{16,}  # Anthropic, OpenAI, OpenRouter
    | (?<![\w-])[sn]k-(?=[\w-]*[0-9])[A-Za-z0-9_]{20,}                           # OpenAI, DeepSeek, Nomic, and others
    | (?<![\w-])pa-(?=[\w-]*[0-9])(?=[\w-]*[A-Z])[\w-]{40,}                      # Voyage
    | \b(?:nvapi|xai|pplx|pcsk|pypi|dop_v1|SG)[-_.](?=[\w.-]*[0-9])[\w.-]{30,}   # NVIDIA, xAI, Perplexity, and others
    | \bdapi[0-9a-f]{32}\b | \bxox[abeoprs]-[\w-]{10,} | \bxapp-[\w-]{10,}       # Databricks, Slack
    | (?<=hooks\.slack\.com/services/)[\w/]{20,}
    | (?i:\b(?:Bearer|Basic|Token)\ +(?=\S*[0-9])[\w.~+/=-]{16,})                # the value of an Authorization header
    | (?i:(?<=[?&;])(?:sig|signature|x-(?:amz|goog)-(?:signature|credential|security-token)|access_token|token
        |api_?key|key|password|accountkey|sharedaccesssignature)=[^&\s*]{8,})    # signed URLs
    | (?i:(?<=[?&;\#])(?:[\w-]*[_-])?(?:sig|signature|token|key|secret|passw(?:or)?d|pwd|auth|credentials?|code)
        =(?=[^&\s*]*[0-9])[^&\s*]{16,})                                         # and URLs with a key under another name
    | (?i:(?<=--)(?:[a-z0-9]+[_-])*(?:key|token|secret|passw(?:or)?d)[\ =]["']?(?=[^\s"']*[0-9])[^\s"',;*]{8,})
    | (?i:(?<![a-z0-9])(?:api[_-]?key|access[_-]?token|auth[_-]?token|hf[_-]?token|client[_-]?secret|secret[_-]?key
        |password|accountkey|sharedaccess(?:key|signature))["']?\s*[=:]\s*["']?(?=[^\s"',;]*[0-9])[^\s"',;*]{8,})
    """,
    re.VERBOSE | re.DOTALL,
)


def level_of_name(name: str) -> Level:
    """Return what a name suggests about its value; the spelling (``apiKey``, ``API-KEY``, ``api_key``) is ignored."""
    words = _words_of(name)
    joined = "_".join(words)
    if _SECRET_ENDINGS.search(joined):
        return Level.SECRET
    if joined.endswith("token"):
        before = ["", *joined.removesuffix("token").rstrip("_").split("_")][-1]
        return Level.NEUTRAL if before in _NOT_A_CREDENTIAL else Level.SECRET
    return Level.SUSPICIOUS if _SUSPICIOUS.intersection(words) and not _DIGEST.intersection(words) else Level.NEUTRAL


def find_credentials(value: object, where: str = "", level: Level = Level.NEUTRAL) -> Iterator[str]:
    """Yield the place of every credential in plain JSON, such as ``params['headers']['Authorization']``.

    Args:
        value: The value.
        where: The place of the value, for messages.
        level: The level of the value's name.
    """
    if isinstance(value, Mapping):
        for name, item in value.items():
            place = f"{where}[{redact(str(name))!r}]"
            if redact(str(name)) != str(name):
                yield place
            yield from find_credentials(item, place, _level_of_item(value, name, level))
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            yield from find_credentials(item, f"{where}[{position}]", _level_in_list(value, position, level))
    elif _is_credential(value, level):
        yield where


def strip_credentials(value: Any, level: Level = Level.NEUTRAL) -> Any:
    """Return a copy of an encoder's arguments without credentials and connections (clients, headers).

    Mapping items with such a name are removed. A credential that is recognised by its shape becomes ``***``, and the
    text around it stays: the host of a URL matters, its password does not.
    """
    if isinstance(value, Mapping):
        levels = {name: _level_of_item(value, name, level) for name in value}
        return {
            redact(name) if isinstance(name, str) else name: strip_credentials(item, levels[name])
            for name, item in value.items()
            if not (_is_left_out(name) and not _is_special_token(item)) and not _is_secret_object(item)
        }
    if isinstance(value, list | tuple):
        return [strip_credentials(item, _level_in_list(value, i, level)) for i, item in enumerate(value)]
    if isinstance(value, set | frozenset):
        return {strip_credentials(item, level) for item in value}
    if not _is_credential(value, level):
        return value
    shown = redact(value) if isinstance(value, str) and level is Level.NEUTRAL else REDACTED
    return shown if not _is_credential(shown, level) else REDACTED


def redact(text: str) -> str:
    """Return a text with everything replaced that has the shape of a credential."""
    return _SHAPES.sub(REDACTED, _USERINFO.sub("", text))


def _words_of(name: str) -> list[str]:
    """Return the words of a name in lower case, without trailing numbers and the word "value"."""
    words = [word.lower() for word in _WORDS.findall(name)]
    while len(words) > 1 and (words[-1].isdigit() or words[-1] == "value"):
        words.pop()
    return words


def _is_left_out(name: object) -> bool:
    if not isinstance(name, str):
        return False
    return level_of_name(name) is Level.SECRET or _CONNECTIONS.search("_".join(_words_of(name))) is not None


def _level_of_item(mapping: Mapping[Any, Any], name: object, level: Level) -> Level:
    """Return an item's level: its name's, its mapping's, or that of the name in ``{"name": ..., "value": ...}``."""
    label = next((label for key in ("name", "key", "header") if isinstance(label := mapping.get(key), str)), None)
    names = [name, label] if name == "value" else [name]
    return max(level, *(level_of_name(each) for each in names if isinstance(each, str)), Level.NEUTRAL)


def _level_in_list(values: list[Any] | tuple[Any, ...], position: int, level: Level) -> Level:
    """Return the level of a list's item; the second of a pair may be named by the first, as in lists of headers."""
    is_pair = position == 1 and len(values) == 2 and isinstance(values[0], str)
    return max(level, level_of_name(values[0])) if is_pair else level


def _is_credential(value: object, level: Level) -> bool:
    if isinstance(value, str):
        if redact(value) != value:
            return True
        if level is Level.SECRET:
            return bool(value.strip()) and not _is_special_token(value)
        return level is Level.SUSPICIOUS and _is_random(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return level is Level.SECRET and is_number and abs(value) >= MIN_SECRET_NUMBER  # type: ignore[arg-type]


def _is_special_token(value: object) -> bool:
    """Return True for a tokenizer's special token, such as ``[CLS]`` or ``</s>``, and for `REDACTED`."""
    return isinstance(value, str) and (value == REDACTED or _SPECIAL_TOKEN.fullmatch(value) is not None)


def _is_secret_object(value: object) -> bool:
    """Return True for the objects in which pydantic and others keep secrets."""
    return type(value).__name__ in ("SecretStr", "SecretBytes", "Secret")


def _is_random(text: str) -> bool:
    if _UUID.search(text):
        return True
    return any(_is_random_run(run) for run in _RUN.findall(text))


def _is_random_run(run: str) -> bool:
    counts = Counter(run).values()
    bits = -sum(count / len(run) * math.log2(count / len(run)) for count in counts)
    return any(map(str.isdigit, run)) and any(map(str.isalpha, run)) and bits >= MIN_RANDOM_BITS
