"""A chat, as a request states it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec


class Media(msgspec.Struct, frozen=True, kw_only=True):
    """One image, video or audio of a chat, as the model server has processed it."""

    identifier: str
    """The hash by which the server's KV events name it."""
    n_tokens: int
    """Tokens that stand for it in the prompt, 1 or more."""


class Chat(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a chat completion request that decide its token ids.

    Messages, tools and documents are what JSON gives: mappings, lists, strings, numbers. They are
    checked when the chat is rendered, and never changed.
    """

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None = None
    documents: Sequence[Mapping[str, Any]] | None = None
    chat_template: str | None = None
    """In place of the model's own, where that is allowed."""
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    """The last message is left open. Not together with a generation prompt."""
    add_special_tokens: bool = False
    """As the server's field of this name: most templates write them themselves."""
    chat_template_kwargs: Mapping[str, Any] = {}
    """More variables; the template sees those that it uses."""
    reasoning_effort: str | None = None
    media: Sequence[Media] = ()
    """Its multimodal items in order of appearance, where the caller knows them."""
