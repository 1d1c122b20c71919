"""A cluster's tokenizers as a chooser wants them."""

from __future__ import annotations

from typing import cast

from kvatlas.actors.tokenizer.cluster_tokenizing import ClusterTokenizing
from kvatlas.index.prompts import Messages
from kvatlas.tokenize.pool.prompt_service import ChatGiven, Text, text_of
from kvatlas.tokenize.prompt import TokenizedPrompt


class ClusterTokenizers:
    """Texts and chats to token ids: by the cluster's pool, or in this process. Any thread may call it."""

    def __init__(self, texts: ClusterTokenizing) -> None:
        self._texts = texts

    def tokenize(
        self, model: str, *, prompt: str | None = None, messages: Messages | None = None
    ) -> TokenizedPrompt:
        """Raises InputError for a malformed text or chat, TokenizerError where nobody can tokenize it,
        OverloadedError when all who can have too much to do."""
        tokenized: TokenizedPrompt = self._texts.ask("tokenize", _text(prompt, messages), model)
        return tokenized

    async def tokenize_async(
        self, model: str, *, prompt: str | None = None, messages: Messages | None = None
    ) -> TokenizedPrompt:
        """As `tokenize`, awaited."""
        text = _text(prompt, messages)
        tokenized: TokenizedPrompt = await self._texts.ask_async("tokenize", text, model)
        return tokenized


def _text(prompt: str | None, messages: Messages | None) -> Text:
    return text_of(prompt, cast("ChatGiven | None", messages))
