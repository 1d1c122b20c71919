"""A request's prompt as token ids, or why there are none and how long it is likely to be."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol, cast

from kvatlas.index.choosing.ask import Ask
from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.index.errors import InputError, OverloadedError, TokenizerError, quoted
from kvatlas.index.keys import Feature, TokenIds
from kvatlas.index.prompts import Messages, Tokenized, Tokenizing, check_one, count_tokens

_NO_IDS = b""
_CHARACTERS_PER_TOKEN = 4


class AsyncTokenizing(Tokenizing, Protocol):
    """Tokenizers that other processes hold."""

    async def tokenize_async(
        self, model: str, *, prompt: str | None = None, messages: Messages | None = None
    ) -> Tokenized: ...


class Prompted(NamedTuple):
    """A prompt as a choice wants it."""

    token_ids: TokenIds
    """Empty: not known."""
    tokens: int
    """How many; a guess where they are not known."""
    features: Iterable[Feature] | None
    reason: str = ""
    """Why there are no ids; empty: there are."""


class PromptIds:
    """Makes token ids with the tokenizers it was given. Any thread may call it."""

    def __init__(self, tokenizers: Tokenizing | None, config: ChoosingConfig) -> None:
        self._tokenizers = tokenizers
        self._config = config

    def of(
        self, ask: Ask, token_ids: TokenIds | None, prompt: str | None, messages: Messages | None
    ) -> Prompted:
        """Raises InputError for what is no prompt, TemplateError for a chat that its template refuses."""
        given = self._given(ask, token_ids, prompt, messages)
        if given is not None:
            return given
        assert self._tokenizers is not None
        try:
            return _told(ask, self._tokenizers.tokenize(ask.model, prompt=prompt, messages=messages))
        except (TokenizerError, OverloadedError) as error:
            return self._guess(ask, prompt, messages, quoted(error, 200))

    async def of_async(
        self, ask: Ask, token_ids: TokenIds | None, prompt: str | None, messages: Messages | None
    ) -> Prompted:
        """As `of`; tokenizing is awaited, in another process or thread."""
        given = self._given(ask, token_ids, prompt, messages)
        if given is not None:
            return given
        tokenizers = self._tokenizers
        assert tokenizers is not None
        try:
            if hasattr(tokenizers, "tokenize_async"):
                there = cast(AsyncTokenizing, tokenizers)
                return _told(ask, await there.tokenize_async(ask.model, prompt=prompt, messages=messages))
            tokenized = await asyncio.get_running_loop().run_in_executor(
                None, lambda: tokenizers.tokenize(ask.model, prompt=prompt, messages=messages)
            )
            return _told(ask, tokenized)
        except (TokenizerError, OverloadedError) as error:
            return self._guess(ask, prompt, messages, quoted(error, 200))

    def _given(
        self, ask: Ask, token_ids: TokenIds | None, prompt: str | None, messages: Messages | None
    ) -> Prompted | None:
        """What needs no tokenizer; None: the text does."""
        if token_ids is not None and prompt is None and messages is None:
            tokens = count_tokens(token_ids)
            if tokens == 0:
                raise InputError("token_ids: expected at least one, got none")
            return Prompted(token_ids, tokens, _kept(ask.features))
        if prompt is None and messages is None:
            return self._guess(ask, None, None, "no prompt was given")
        check_one(token_ids, prompt, messages)
        if prompt is not None and not isinstance(prompt, str):
            raise InputError(f"prompt: expected a str, got a {type(prompt).__name__}")
        if messages is not None and not isinstance(_turns(messages), (list, tuple)):
            raise InputError(f"messages: expected a list, got a {type(messages).__name__}")
        if self._tokenizers is None:
            return self._guess(ask, prompt, messages, "there is no tokenizer")
        return None

    def _guess(self, ask: Ask, prompt: str | None, messages: Messages | None, reason: str) -> Prompted:
        tokens = ask.prompt_tokens
        if tokens is None:
            characters = len(prompt) if prompt is not None else _characters(messages)
            tokens = characters // _CHARACTERS_PER_TOKEN or self._config.prompt_tokens_default
        return Prompted(_NO_IDS, tokens, None, reason)


def _told(ask: Ask, tokenized: Tokenized) -> Prompted:
    ids = tokenized.token_ids
    features = tokenized.features if ask.features is None else ask.features
    if len(ids) == 0:
        raise InputError("prompt: expected at least one token, got none")
    return Prompted(ids, len(ids), _kept(features))


def _kept(features: Iterable[Feature] | None) -> Iterable[Feature] | None:
    """To be read more than once."""
    if features is None or isinstance(features, (list, tuple)):
        return features
    try:
        return list(features)
    except TypeError as error:
        raise InputError(f"features: expected a list, got a {type(features).__name__}") from error


def _characters(messages: Messages | None) -> int:
    """Of the texts of a chat that stand in it as they are."""
    if messages is None:
        return 0
    contents = (turn.get("content") for turn in _turns(messages) if isinstance(turn, Mapping))
    return sum(len(content) for content in contents if isinstance(content, str))


def _turns(messages: Messages) -> Any:
    return getattr(messages, "messages", messages)
