"""Messages of a request, as a chat template sees them.

Source: vLLM 0.32, `vllm/renderers/chat_utils.py` and `vllm/renderers/hf.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kvatlas.index.errors import InputError
from kvatlas.tokenize.chat.messages.content import ContentFormat, content_of
from kvatlas.tokenize.chat.messages.plain_values import PlainValues
from kvatlas.tokenize.chat.messages.tool_calls import developer_tools, tool_calls

Message = dict[str, Any]

_PLAIN_ROLES = ("user", "assistant", "tool")
"""Roles whose messages of a string alone need no look at the string."""


class Prepared(NamedTuple):
    """The messages of a chat for its template."""

    messages: list[Message]
    n_media: int
    has_developer: bool


def prepare_messages(
    messages: Sequence[Mapping[str, Any]], content_format: ContentFormat, values: PlainValues
) -> Prepared:
    """The messages in the form in which the template wants them; the caller's are not changed.

    A message of a role and a string alone, the usual one, is passed as it is where it can be. Raises
    InputError with the place of what no server takes.
    """
    prepared: list[Message] = []
    n_media = 0
    has_developer = False
    for index, message in enumerate(messages):
        if type(message) is dict and len(message) == 2:
            role, content = message.get("role"), message.get("content")
            if type(content) is str and type(role) is str and role in _PLAIN_ROLES:
                prepared.append(_plain(message, role, content, content_format))
                continue
        one, n_of_it = _prepared(message, content_format, values, f"$.messages[{index}]")
        prepared.append(one)
        n_media += n_of_it
        has_developer |= one["role"] == "developer"
    return Prepared(prepared, n_media, has_developer)


def _plain(message: Message, role: str, content: str, content_format: ContentFormat) -> Message:
    if content_format == "openai" and role != "tool":
        return {"role": role, "content": [{"type": "text", "text": content}]}
    return message if next(iter(message)) == "role" else {"role": role, "content": content}


def _prepared(
    given: Any, content_format: ContentFormat, values: PlainValues, path: str
) -> tuple[Message, int]:
    message = values.take(given, path)
    if not isinstance(message, dict):
        raise InputError(f"{path}: expected an object, got {type(message).__name__}")
    role = message.get("role")
    if not isinstance(role, str):
        raise InputError(f"{path}.role: expected a string, got {type(role).__name__}")
    content = content_of(message.get("content"), role, content_format, f"{path}.content")
    prepared: Message = {"role": role, "content": content.value}
    if role == "assistant":
        _add_assistant_fields(prepared, message, values, path)
    elif role == "tool" and "tool_call_id" in message:
        prepared["tool_call_id"] = message["tool_call_id"]
    for field in ("name", "task"):
        if isinstance(message.get(field), str):
            prepared[field] = message[field]
    if role == "developer":
        prepared["tools"] = developer_tools(message.get("tools"))
    return prepared, content.n_media


def _add_assistant_fields(prepared: Message, message: Message, values: PlainValues, path: str) -> None:
    calls = message.get("tool_calls")
    if calls:
        prepared["tool_calls"] = tool_calls(calls, values, f"{path}.tool_calls")
    reasoning = message.get("reasoning")
    if reasoning is None:
        reasoning = message.get("reasoning_content")
    if reasoning is not None:
        # Templates know it by the one name or the other.
        prepared["reasoning"] = prepared["reasoning_content"] = reasoning


def without_developer(messages: list[Message]) -> list[Message]:
    """The messages for a template that does not know the role: developers become systems, all systems one.

    That one comes first, joined by empty lines; where it alone was there, and first, it stays as it is.
    """
    renamed = [_as_system(message) if message["role"] == "developer" else message for message in messages]
    places = [index for index, message in enumerate(renamed) if message["role"] == "system"]
    if places == [0]:
        return renamed
    texts = [_text(renamed[index]["content"]) for index in places]
    merged = {"role": "system", "content": "\n\n".join(text for text in texts if text)}
    return [merged, *(message for message in renamed if message["role"] != "system")]


def _as_system(message: Message) -> Message:
    system = {**message, "role": "system"}
    system.pop("tools", None)
    return system


def _text(content: str | list[Message]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if "text" in part)
