"""Bodies that callers send: what they ask about a prompt, and what became of a request."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from kvatlas.index.choosing.serving import Role
from kvatlas.index.errors import InputError
from kvatlas.index.keys import TokenIds
from kvatlas.index.shards import Strategy
from kvatlas.tokenize.chat.chat import Chat
from kvatlas.tokenize.chat.request import chat_of

TokenId = Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]
TokenCount = Annotated[int, Meta(ge=0, le=1 << 40)]
ShortText = Annotated[str, Meta(max_length=1024)]
RequestId = Annotated[str, Meta(max_length=1024, pattern=r"\A[^\x00-\x1f\x7f]*\Z")]
"""It stands in paths: none with a line's end could be told of again."""
FeatureGiven = tuple[str, TokenCount, TokenCount]
"""A multimodal item: identifier, offset, length in tokens."""

_CHAT_FIELDS = (
    "messages",
    "tools",
    "documents",
    "chat_template",
    "add_generation_prompt",
    "continue_final_message",
    "add_special_tokens",
    "chat_template_kwargs",
    "reasoning_effort",
)


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt, in one of four forms. The body of an OpenAI request is one, too: other fields are ignored."""

    model: str
    """As model servers call it."""
    token_ids: list[TokenId] | None = None
    token_bytes: bytes | None = None
    """The same, faster: little-endian uint32 in base64."""
    prompt: str | list[TokenId] | None = None
    """Of a completion: its text, or its token ids."""
    messages: list[dict[str, Any]] | None = None
    """Of a chat completion, with the fields below."""
    tools: list[dict[str, Any]] | None = None
    documents: list[dict[str, Any]] | None = None
    chat_template: str | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    add_special_tokens: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    lora: str | None = None
    """The adapter's name, as KV events have it."""
    cache_salt: str | None = None
    features: list[FeatureGiven] | None = None
    """Multimodal items of a prompt given as token ids: (identifier, offset, length)."""
    pods: list[str] | None = None
    """Only these."""

    def token_ids_given(self) -> TokenIds | None:
        """None: it is a text or a chat. Raises InputError unless there is exactly one prompt."""
        forms = [name for name in _FORMS if getattr(self, name) is not None]
        if len(forms) != 1:
            raise InputError(f"$: expected one of {', '.join(_FORMS)}, got {', '.join(forms) or 'none'}")
        if isinstance(self.prompt, list):
            return self.prompt
        return self.token_ids if self.token_ids is not None else self.token_bytes

    def text(self) -> str | None:
        """Of a completion."""
        return self.prompt if isinstance(self.prompt, str) else None

    def chat(self) -> Chat | None:
        if self.messages is None:
            return None
        return chat_of({name: getattr(self, name) for name in _CHAT_FIELDS})


_FORMS = ("token_ids", "token_bytes", "prompt", "messages")


class ScoreQuestion(Given, frozen=True, kw_only=True):
    """How much of a prompt each pod can reuse."""

    strategy: Strategy = "reusable"
    """`reusable` counts as the engine reuses, `longest_prefix` the leading blocks held in any tier."""


class ExplainQuestion(Given, frozen=True, kw_only=True):
    """Why each worker matches as far as it does."""


class ChooseQuestion(Given, frozen=True, kw_only=True):
    """Where a request should go."""

    request_id: RequestId = ""
    """What feedback and receipts name it by. Empty: one is made."""
    session: ShortText = ""
    """Requests of one session prefer the worker of the last."""
    labels: dict[str, str] = {}
    """That a pod must have."""
    near: dict[str, str] = {}
    """That a pod had better have."""
    role: Role | None = None
    """Only pods of this role. None: a prefill and a decode worker where pods are split so."""
    output_tokens: TokenCount | None = None
    """Expected."""
    reserve: bool = True
    """It counts as the worker's load until feedback ends it."""


class Produced(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens that have come out so far."""

    tokens: TokenCount


class Completed(msgspec.Struct, frozen=True, kw_only=True):
    """How a request has ended."""

    cached_tokens: TokenCount | None = None
    """That the server has reused, by its `usage`."""
    output_tokens: TokenCount | None = None


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """It was not served, or not to its end."""

    why: ShortText = ""


class PrefillDone(msgspec.Struct, frozen=True, kw_only=True):
    """Its first token is there."""
