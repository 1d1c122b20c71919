"""Questions to /tokenize of a model server, as it takes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from kvatlas.index.errors import InputError, quoted
from kvatlas.tokenize.chat.chat import Chat

_TEXT_PARTS = frozenset({"text", "input_text", "output_text", "refusal", "thinking"})
_LETTERS_MAX = 300


def chat_question(model: str, chat: Chat) -> dict[str, Any]:
    """The body of /tokenize that gives the ids of a chat completion.

    It has no fields for documents and reasoning effort, which a chat completion hands to the template
    as it does the other arguments, and knows only the newer of two names for reasoning.
    """
    arguments = dict(chat.chat_template_kwargs)
    if chat.documents is not None:
        arguments["documents"] = chat.documents
    if chat.reasoning_effort is not None:
        arguments.setdefault("enable_thinking", chat.reasoning_effort != "none")
        arguments["reasoning_effort"] = chat.reasoning_effort
    question: dict[str, Any] = {
        "model": model,
        "messages": [_renamed(message) for message in chat.messages],
        "add_generation_prompt": chat.add_generation_prompt,
        "continue_final_message": chat.continue_final_message,
        "add_special_tokens": chat.add_special_tokens,
        "chat_template_kwargs": arguments,
    }
    if chat.tools is not None:
        question["tools"] = chat.tools
    if chat.chat_template is not None:
        question["chat_template"] = chat.chat_template
    return question


def _renamed(message: Any) -> Any:
    if not isinstance(message, Mapping) or "reasoning_content" not in message:
        return message
    renamed = dict(message)
    reasoning = renamed.pop("reasoning_content")
    if reasoning is not None and renamed.get("reasoning") is None:
        renamed["reasoning"] = reasoning
    return renamed


def encoded(question: Mapping[str, Any], what: str) -> bytes:
    """As JSON. Raises InputError, which begins with `what`, for what JSON cannot say."""
    try:
        return msgspec.json.encode(question)
    except (UnicodeEncodeError, TypeError, RecursionError, ValueError, OverflowError) as error:
        raise InputError(f"{what}: expected what JSON can say, got {brief(error)}") from None


def has_media(messages: Iterable[Any]) -> bool:
    """Whether a part of a content is no text."""
    return any(isinstance(message, Mapping) and _shows(message.get("content")) for message in messages)


def _shows(content: object) -> bool:
    parts = content if isinstance(content, (list, tuple)) else ()
    return any(isinstance(part, Mapping) and not _is_text(part) for part in parts)


def _is_text(part: Mapping[str, Any]) -> bool:
    """A part may leave out its type: its one field tells it then."""
    kind = part.get("type")
    return "text" in part if kind is None else isinstance(kind, str) and kind in _TEXT_PARTS


def brief(error: Exception) -> str:
    """What an error says, in a line or two."""
    return quoted(str(error) or type(error).__name__, _LETTERS_MAX)
