"""From the body of a chat completion request to a chat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kvatlas.index.errors import InputError
from kvatlas.tokenize.chat.chat import Chat

_TRUE = frozenset({"true", "t", "yes", "y", "on", "1"})
_FALSE = frozenset({"false", "f", "no", "n", "off", "0"})


def chat_of(body: Mapping[str, Any] | Sequence[Mapping[str, Any]] | Chat) -> Chat:
    """The chat of a request: its parsed JSON body, or its messages alone.

    Takes the fields of OpenAI's API and of vLLM's that decide token ids and ignores others: `tool_choice`
    among them, for the server shows the tools whatever it is (unless it runs with
    `--exclude-tools-when-tool-choice-none`). Raises InputError with the place of a field of the wrong type;
    messages, tools and documents are checked when the chat is rendered.
    """
    if isinstance(body, Chat):
        return body
    if isinstance(body, (list, tuple)):
        return Chat(messages=body)
    if not isinstance(body, Mapping):
        raise InputError(f"$: expected a request body or a list of messages, got {type(body).__name__}")
    messages = _list(body, "messages")
    if messages is None:
        raise InputError("$.messages: expected a list, got nothing")
    return Chat(
        messages=messages,
        tools=_list(body, "tools"),
        documents=_list(body, "documents"),
        chat_template=_string(body, "chat_template"),
        add_generation_prompt=_flag(body, "add_generation_prompt", True),
        continue_final_message=_flag(body, "continue_final_message", False),
        add_special_tokens=_flag(body, "add_special_tokens", False),
        chat_template_kwargs=_mapping(body, "chat_template_kwargs"),
        reasoning_effort=_string(body, "reasoning_effort"),
    )


def _list(body: Mapping[str, Any], field: str) -> Sequence[Any] | None:
    value = body.get(field)
    if value is not None and not isinstance(value, (list, tuple)):
        raise InputError(f"$.{field}: expected a list, got {type(value).__name__}")
    return value


def _string(body: Mapping[str, Any], field: str) -> str | None:
    value = body.get(field)
    if value is not None and not isinstance(value, str):
        raise InputError(f"$.{field}: expected a string, got {type(value).__name__}")
    return value


def _mapping(body: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    value = body.get(field)
    if value is not None and not isinstance(value, Mapping):
        raise InputError(f"$.{field}: expected an object, got {type(value).__name__}")
    return {} if value is None else value


def _flag(body: Mapping[str, Any], field: str, default: bool) -> bool:
    """A boolean, or what servers read as one."""
    value = body.get(field)
    if value is None:
        return default
    if isinstance(value, bool):
        return value
    word = str(value).lower() if isinstance(value, (str, int, float)) else ""
    if word in _TRUE or value == 1:
        return True
    if word in _FALSE or value == 0:
        return False
    raise InputError(f"$.{field}: expected true or false, got {value!r:.40}")
