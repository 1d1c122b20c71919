"""Everything that is asked of a text: its token ids, its block keys, its scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from kvatlas.index.errors import InputError
from kvatlas.index.keys import Feature, TokenIds
from kvatlas.index.reading import Asked, AskedExplanation, Question
from kvatlas.index.scores import Explanation, Scores
from kvatlas.tokenize.chat.chat import Chat
from kvatlas.tokenize.chat.request import chat_of
from kvatlas.tokenize.prompt import TokenizedPrompt

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from kvatlas.tokenize.tokenizers import Tokenizers

ChatGiven = Chat | Sequence[Mapping[str, Any]] | Mapping[str, Any]
"""A chat: messages, a Chat, or the body of a chat completion request."""
Text = str | Chat
"""A prompt before it is tokenized: of a plain completion, or a chat."""


class Reader(Protocol):
    """Answers for token ids: `PromptReader`, or a reader of a cluster."""

    def score(self, token_ids: TokenIds, **asked: Unpack[Asked]) -> Scores: ...
    def explain(self, token_ids: TokenIds, **asked: Unpack[AskedExplanation]) -> Explanation: ...
    def question(self, token_ids: TokenIds, **asked: Unpack[Asked]) -> Question: ...


class PromptService:
    """Tokenizers and a reader, put together. Any thread may call any method.

    Methods raise what `Tokenizers` raises: InputError, TemplateError, TokenizerError,
    UnsupportedModelError; and what the reader does.
    """

    def __init__(self, tokenizers: Tokenizers, reader: Callable[[], Reader]) -> None:
        """`reader` is asked for anew each time: a cluster may have been started again."""
        self.tokenizers = tokenizers
        self._reader = reader

    def encode(self, text: str, model: str, add_special_tokens: bool = True) -> TokenizedPrompt:
        """Of a plain completion."""
        return self.tokenizers.encode(model, text, add_special_tokens=add_special_tokens)

    def encode_many(
        self, texts: Sequence[str], model: str, add_special_tokens: bool = True
    ) -> list[TokenizedPrompt]:
        """Of many; what none of them shares with an earlier one is encoded side by side."""
        return self.tokenizers.encode_many(model, texts, add_special_tokens=add_special_tokens)

    def encode_chat(self, chat: Chat, model: str) -> TokenizedPrompt:
        return self.tokenizers.encode_chat(model, chat)

    def tokenize(self, text: Text, model: str) -> TokenizedPrompt:
        """As the model server does for a completion or chat completion."""
        if isinstance(text, Chat):
            return self.encode_chat(text, model)
        return self.encode(text, model)

    def score(self, text: Text, asked: Asked) -> Scores:
        token_ids, features = self._ids(text, asked["model"], asked.get("features"))
        asked["features"] = features
        return self._reader().score(token_ids, **asked)

    def explain(self, text: Text, asked: AskedExplanation) -> Explanation:
        token_ids, features = self._ids(text, asked["model"], asked.get("features"))
        asked["features"] = features
        return self._reader().explain(token_ids, **asked)

    def block_keys(self, text: Text, asked: Asked) -> npt.NDArray[np.uint64]:
        """[n_blocks]"""
        token_ids, features = self._ids(text, asked["model"], asked.get("features"))
        asked["features"] = features
        return block_keys(self._reader(), token_ids, asked)

    def _ids(
        self, text: Text, model: str, features: Iterable[Feature] | None
    ) -> tuple[npt.NDArray[np.uint32], Iterable[Feature] | None]:
        """Features are the caller's, where given, else the chat's."""
        tokenized = self.tokenize(text, model)
        return tokenized.token_ids, tokenized.features if features is None else features


def block_keys(reader: Reader, token_ids: TokenIds, asked: Asked) -> npt.NDArray[np.uint64]:
    """The keys by which shards know the full blocks of a prompt [n_blocks].

    Raises InputError for a model whose block size nobody has announced.
    """
    question = reader.question(token_ids, **asked)
    if not question.block_size_tokens:
        raise InputError(f"model: expected one that a server has announced, got {asked['model']!r}")
    return question.keys


def text_of(prompt: str | None, messages: ChatGiven | None) -> Text:
    """A prompt or a chat however it was given; exactly one is not None.

    Raises InputError for what is neither, with the place in a chat that is malformed.
    """
    if messages is None:
        if not isinstance(prompt, str):
            raise InputError(f"prompt: expected a str, got {type(prompt).__name__}")
        return prompt
    return chat_of(messages)
