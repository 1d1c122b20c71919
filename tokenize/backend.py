"""What every way to a model's token ids has in common."""

from __future__ import annotations

from typing import Protocol

import msgspec

from kvatlas.tokenize.chat.chat import Chat
from kvatlas.tokenize.prompt import TokenizedPrompt


class TokenizerStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """How one model's tokenizer is."""

    model: str
    served_by: str
    exactness: str = ""
    """What is memoised and why not more, in a sentence; empty where nothing is computed here."""
    counts: dict[str, int] = {}
    """Counters and sizes of its own kind (docs/tokenization.md)."""


class ModelTokenizer(Protocol):
    """Computes the token ids of one model. Any thread may call any method.

    All methods raise InputError for a text or chat that is malformed or too large, TemplateError where
    the chat template refuses, and TokenizerError where it cannot answer.
    """

    @property
    def model(self) -> str: ...
    @property
    def served_by(self) -> str: ...
    def encode(self, text: str, *, add_special_tokens: bool = True) -> TokenizedPrompt:
        """Of a plain completion."""
        ...

    def encode_chat(self, chat: Chat) -> TokenizedPrompt:
        """Of a chat completion."""
        ...

    def render_chat(self, chat: Chat) -> str:
        """The text that the chat template makes of a chat. Raises UnsupportedModelError where only ids
        can be had."""
        ...

    def is_current(self) -> bool:
        """False: what it was loaded from has changed since."""
        ...

    def statistics(self) -> TokenizerStatistics: ...
    def close(self) -> None:
        """Let go of files, memory and connections. Twice is fine."""
        ...


class TokenizerSource(Protocol):
    """A place where tokenizers come from."""

    @property
    def name(self) -> str:
        """As configuration and `served_by` call it."""
        ...

    def find(self, model: str) -> ModelTokenizer | None:
        """None: it has no such model. Raises TokenizerError where it has, and cannot load it."""
        ...

    def models(self) -> tuple[str, ...]:
        """Names that it knows beforehand; others may be found all the same."""
        ...
