"""`EncoderSpec`: the identity of the function that turned an item into a vector.

Two specs that differ in anything never share a vector; two equal specs always do. The spec is the readable document
that is stored beside the vectors; its hash, the namespace id, names their folder. A spec never guesses: a model without
a revision, or a parameter that JSON cannot represent, is an error. So is a credential, because everybody who can read
the cache can read the spec.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from typing import Any

from cas_cache.errors import CredentialInSpec, IdentityError, UnpinnedModel
from cas_cache.identity.canonical import canonical_json, freeze, parsed_json, plain_json, quoted
from cas_cache.identity.credentials import find_credentials, redact, strip_credentials

NAMESPACE_HEX = 32
"""Number of hex digits of a namespace id: 128 bits of SHA-256, enough that two specs never collide by chance."""

NAMESPACE_ID = re.compile(f"[0-9a-f]{{{NAMESPACE_HEX}}}")
"""Pattern of a namespace id; nothing else may become a path."""

UNPINNED_MODELS = frozenset({"", "none", "no_model_name/available"})
UNPINNED_REVISIONS = frozenset({"", "none", "no_revision_available", "main", "master", "head", "latest"})
"""Placeholders of other libraries for "unknown" (including a formatted None), and names of moving targets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """The identity of an encoder: equal specs, interchangeable vectors.

    Attributes:
        model: Name of the model, for example ``"sentence-transformers/all-MiniLM-L6-v2"``.
        revision: Identifier that pins the weights: a commit, a version, a fingerprint. Not a branch.
        prompt: The literal text put before every item, not the prompt's name.
        role: ``"query"``, ``"document"`` or None, for encoders that treat them differently.
        params: Everything else that changes a vector: precision, truncation, normalisation. Plain JSON.
        scope: Limits beyond which the vectors must not be shared, for example ``{"task": "NFCorpus"}``. Plain JSON.
        fields: The fields of an item that reach the encoder, in order. ``("text",)`` for texts.
        namespace: The namespace id: the first 32 hex digits of the SHA-256 of the canonical JSON.

    Raises:
        UnpinnedModel: If `model` or `revision` does not pin the weights.
        IdentityError: If a value is not plain JSON.
        CredentialInSpec: If a value is, or may be, a token, a password or a key.
    """

    model: str
    revision: str
    prompt: str = ""
    role: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    scope: Mapping[str, Any] = field(default_factory=dict)
    fields: tuple[str, ...] = ("text",)
    namespace: str = field(init=False, repr=False, compare=False)
    _canonical: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check and freeze the values."""
        self._freeze()
        check_no_credentials(self)

    def _freeze(self) -> None:
        check_pinned(self.model, self.revision)
        texts: dict[str, object] = {"prompt": self.prompt, "role": "" if self.role is None else self.role}
        for name, value in texts.items():
            if not isinstance(value, str):
                raise IdentityError(f"{name} is {quoted(value)}; it must be a string. Pass the text itself.")
        fields: object = self.fields
        names: tuple[object, ...] = tuple(fields) if isinstance(fields, tuple | list) else ()
        if not names or not all(isinstance(name, str) and name for name in names):
            raise IdentityError(f"fields is {quoted(self.fields)}; name at least one field, such as ('text',).")
        if len(set(self.fields)) != len(self.fields):
            raise IdentityError(f"fields is {quoted(self.fields)}; name each field once.")
        for name in ("params", "scope"):
            value = getattr(self, name)
            if not isinstance(value, Mapping):
                raise IdentityError(
                    f"{name} is a {type(value).__name__}; it must be a mapping of strings to plain JSON."
                )
            object.__setattr__(self, name, freeze(plain_json(value, name)))
        object.__setattr__(self, "fields", tuple(self.fields))
        # Encoded immediately, so that every existing spec has a canonical form and a name.
        canonical = canonical_json(self.document())
        object.__setattr__(self, "_canonical", canonical)
        object.__setattr__(self, "namespace", hashlib.sha256(canonical).hexdigest()[:NAMESPACE_HEX])

    def __hash__(self) -> int:
        return hash(self.namespace)

    def __eq__(self, other: object) -> bool:
        return self.canonical() == other.canonical() if isinstance(other, EncoderSpec) else NotImplemented

    def __reduce__(self) -> tuple[Any, ...]:
        # Read-only mappings cannot be copied or pickled; the canonical form can.
        return type(self).from_canonical, (self.canonical(),)

    def document(self) -> dict[str, Any]:
        """Return the spec as plain JSON, every field present."""
        return {
            "model": self.model,
            "revision": self.revision,
            "prompt": self.prompt,
            "role": self.role,
            "params": _thaw(self.params),
            "scope": _thaw(self.scope),
            "fields": list(self.fields),
        }

    def public_document(self) -> dict[str, Any]:
        """Return the spec as reports show it: `document` without credentials that an older version wrote."""
        document = self.document()
        return {n: strip_credentials(v) for n, v in document.items()} if self.credentials() else document

    def credentials(self) -> tuple[str, ...]:
        """Return the places of credentials in the spec, such as ``params['api_key']``.

        Only a spec that was read from a cache, and that an older version wrote, can have any.
        """
        places_of_fields = (find_credentials(value, name) for name, value in self.document().items())
        return tuple(place for places in places_of_fields for place in places)

    def canonical(self) -> bytes:
        """Return the canonical JSON of the spec, which is hashed and stored."""
        return self._canonical

    @classmethod
    def from_canonical(cls, data: bytes) -> EncoderSpec:
        """Parse bytes that `canonical` returned. A spec with credentials is accepted, so that it can be dropped.

        Raises:
            IdentityError: If `data` is not an encoder spec in canonical form.
        """
        try:
            document = parsed_json(data)
        except ValueError as err:
            raise IdentityError(f"Not an encoder spec: {err}.") from err
        expected = {f.name for f in dataclass_fields(cls) if f.init}
        if not isinstance(document, dict) or set(document) != expected or not isinstance(document["fields"], list):
            raise IdentityError(f"Not an encoder spec: expected an object with exactly {sorted(expected)}.")
        spec = cls.__new__(cls)
        for name, value in {**document, "fields": tuple(document["fields"])}.items():
            object.__setattr__(spec, name, value)
        spec._freeze()  # noqa: SLF001 - everything that the constructor does, except to refuse credentials
        if spec.canonical() != data:
            raise IdentityError("Not an encoder spec in canonical form; its hash would not be its name.")
        return spec


def names_of(spec: EncoderSpec | None) -> dict[str, str | None]:
    """Return the names of a spec for reports; None for each if the spec could not be read."""
    names = {name: getattr(spec, name, None) for name in ("model", "revision", "role", "prompt")}
    return {name: None if text is None else redact(text) for name, text in names.items()}


def check_no_credentials(spec: EncoderSpec) -> None:
    """Raise an error for a spec that holds a credential, before it is written anywhere.

    Raises:
        CredentialInSpec: If it holds one. The error names the places, never the values.
    """
    places = spec.credentials()
    if places:
        raise CredentialInSpec(
            f"The encoder spec of {quoted(spec.model)} has a value that is or may be a credential at "
            f"{', '.join(places)}. A spec is stored in plain text and can be read by everybody who reads the cache. "
            "Give the credential to the encoder only and leave it out of the spec. If the value changes vectors and is "
            "not a secret, use another name or a short description of it.",
            places=places,
        )


def check_pinned(model: object, revision: object) -> None:
    """Raise an error for a model whose name and revision do not pin its weights.

    Raises:
        UnpinnedModel: If they do not, with advice.
    """
    if not isinstance(model, str) or model.strip().lower() in UNPINNED_MODELS:
        raise UnpinnedModel(
            f"The model has no name (model={quoted(model)}), so its vectors could be taken for another model's. "
            "Name it: model_id='org/name' (EncoderSpec(model='org/name', ...))."
        )
    if not isinstance(revision, str) or revision.strip().lower().removeprefix("refs/heads/") in UNPINNED_REVISIONS:
        raise UnpinnedModel(
            f"The model {quoted(model)} has no revision that pins its weights (revision={quoted(revision)}), so two "
            "sets of weights could share vectors. Pass revision= with a commit or version, or a fingerprint of the "
            "weights: revision=cas_cache.mteb.weights_fingerprint(model)."
        )


def _thaw(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _thaw(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return [_thaw(v) for v in value]
    return value
