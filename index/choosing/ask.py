"""What a request asks of a choice, besides its prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from typing import TypedDict, cast

import msgspec

from kvatlas.index.choosing.serving import Role
from kvatlas.index.errors import InputError
from kvatlas.index.keys import Feature

_TEXT_MAX = 4096
_LABELS_MAX = 64
_LABEL_MAX = 512
_ROLES = (None, "both", "prefill", "decode")
_TOKENS_MAX = 1 << 24


class Ask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One request. Raises InputError for values that are none, with their name."""

    model: str
    request_id: str = ""
    """Empty: one is made. The same id may be in flight twice."""
    tenant: str = ""
    """Whose request it is; empty: whoever has its `cache_salt`, else anybody's (`tenant_of`)."""
    session: str = ""
    """Requests of one session prefer the worker that served it last. Empty: none."""
    lora: str | None = None
    """Adapter's name: pods that are known not to serve it are left out."""
    cache_salt: str | None = None
    features: Iterable[Feature] | None = None
    """The prompt's multimodal items, where it is given as token ids."""
    pods: Collection[str] | None = None
    """Only these. A frozenset that is used again costs least. None: all of the model."""
    labels: Mapping[str, str] = {}
    """What a pod's labels must say."""
    near: Mapping[str, str] = {}
    """What they had better say: each that differs costs `near_tokens`."""
    role: Role | None = None
    """"prefill", "decode": one worker that can. "both": one worker, whatever its role. None: two where the
    model's pods have roles, else one."""
    output_tokens: int | None = None
    """Expected of the answer. None: `output_tokens_default`."""
    prompt_tokens: int | None = None
    """Of a prompt whose token ids are not known. None: guessed."""
    reserve: bool = True
    """Count it as load of the chosen worker at once. False: `Chooser.routed` does it later."""

    def __post_init__(self) -> None:
        for name, value in (
            ("model", self.model),
            ("request_id", self.request_id),
            ("tenant", self.tenant),
            ("session", self.session),
        ):
            if type(value) is not str or len(value) > _TEXT_MAX:
                raise InputError(
                    f"{name}: expected a str of at most {_TEXT_MAX} characters, got {_kind(value)}"
                )
        for name, tokens in (("output_tokens", self.output_tokens), ("prompt_tokens", self.prompt_tokens)):
            if tokens is not None and not (type(tokens) is int and 0 <= tokens <= _TOKENS_MAX):
                raise InputError(f"{name}: expected an int from 0 to {_TOKENS_MAX}, got {tokens!r:.80}")
        for name, text in (("lora", self.lora), ("cache_salt", self.cache_salt)):
            if text is not None and (type(text) is not str or len(text) > _TEXT_MAX):
                raise InputError(
                    f"{name}: expected a str of at most {_TEXT_MAX} characters, got {_kind(text)}"
                )
        if self.role not in _ROLES:
            raise InputError(f"role: expected one of {_ROLES}, got {self.role!r:.80}")
        if type(self.reserve) is not bool:
            raise InputError(f"reserve: expected a bool, got {_kind(self.reserve)}")
        for name, labels in (("labels", self.labels), ("near", self.near)):
            if labels or not isinstance(cast(object, labels), Mapping):
                _check_labels(name, labels)
        if isinstance(self.pods, str):
            raise InputError(f"pods: expected a collection of names, got the str {self.pods!r:.80}")


class AskFields(TypedDict, total=False):
    """The fields of an `Ask` as keyword arguments: of a whole one, or in place of another's."""

    model: str
    request_id: str
    tenant: str
    session: str
    lora: str | None
    cache_salt: str | None
    features: Iterable[Feature] | None
    pods: Collection[str] | None
    labels: Mapping[str, str]
    near: Mapping[str, str]
    role: Role | None
    output_tokens: int | None
    prompt_tokens: int | None
    reserve: bool


def ask_of(ask: Ask | None, fields: AskFields) -> Ask:
    """One of both. Raises InputError for fields that are none, and where nobody names a model."""
    if ask is not None and not fields:
        return ask
    try:
        return Ask(**fields) if ask is None else msgspec.structs.replace(ask, **fields)
    except TypeError as error:
        raise InputError(f"expected the fields of an Ask: {error}") from error


def tenant_of(tenant: str, cache_salt: str | None = None) -> str:
    """Whose receipts a request's are: the tenant's, else those of whoever knows its salt, else anybody's.

    Neither can be told from what it makes.
    """
    if tenant:
        return _digest(b"tenant\0", tenant)
    return _digest(b"salt\0", cache_salt) if cache_salt else ""


def _check_labels(name: str, labels: object) -> None:
    # Requests are remembered with their labels, until they end and as long as their receipts are kept.
    if not isinstance(labels, Mapping) or len(labels) > _LABELS_MAX:
        raise InputError(f"{name}: expected a mapping of at most {_LABELS_MAX}, got {_kind(labels)}")
    for label, value in labels.items():
        for text in (label, value):
            if type(text) is not str or len(text) > _LABEL_MAX:
                raise InputError(
                    f"{name}: expected texts of at most {_LABEL_MAX} characters, got {_kind(text)}"
                )


def _digest(kind: bytes, text: str) -> str:
    return hashlib.blake2b(kind + text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _kind(value: object) -> str:
    if isinstance(value, (str, Mapping)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
