"""Chats out of the messages that a client sends."""

from __future__ import annotations

from typing import Any

from kvatlas.index.errors import InputError
from kvatlas.tokenize.chat.chat import Chat
from kvatlas.tokenize.service.wire.json_texts import from_json

Json = dict[str, Any]


def chat_of_completion(request: Any) -> Chat:
    """Of a RenderChatCompletionRequest. Raises InputError with the field's name."""
    if request.HasField("chat_json"):
        return from_json(request.chat_json, Chat, "chat_json")
    return Chat(
        messages=[_message(message, place) for place, message in enumerate(request.messages)],
        tools=from_json(request.tools_json, list[Json], "tools_json") if request.tools_json else None,
        chat_template=request.chat_template or None,
        add_generation_prompt=request.add_generation_prompt
        if request.HasField("add_generation_prompt")
        else True,
        continue_final_message=request.continue_final_message,
        chat_template_kwargs=from_json(request.chat_template_kwargs, Json, "chat_template_kwargs")
        if request.chat_template_kwargs
        else {},
    )


def chat_of_template(request: Any) -> Chat:
    """Of a ChatTemplateRequest. Raises InputError with the field's name."""
    if request.HasField("chat_json"):
        return from_json(request.chat_json, Chat, "chat_json")
    messages = [message for turn in request.conversation_turns for message in turn.messages]
    return Chat(
        messages=[_message(message, place) for place, message in enumerate(messages)],
        tools=[_fields(tool.tool) for tool in request.tools] or None,
        documents=[_fields(document.document) for document in request.documents] or None,
        chat_template=request.chat_template or None,
        add_generation_prompt=request.add_generation_prompt,
        continue_final_message=request.continue_final_message,
        chat_template_kwargs=_fields(request.chat_template_kwargs),
    )


def _message(message: Any, place: int) -> Json:
    where = f"messages[{place}]"
    plain: Json = {"role": message.role}
    if message.content_parts:
        if message.HasField("content"):
            raise InputError(f"{where}: expected either content or content_parts, got both")
        plain["content"] = [_part(part) for part in message.content_parts]
    elif message.HasField("content"):
        plain["content"] = message.content
    if message.tool_calls_json:
        plain["tool_calls"] = from_json(message.tool_calls_json, list[Json], f"{where}.tool_calls_json")
    return plain


def _part(part: Any) -> Json:
    plain: Json = {"type": part.type}
    if part.HasField("text"):
        plain["text"] = part.text
    if part.HasField("image_url"):
        plain["image_url"] = {"url": part.image_url.url}
    return plain


def _fields(values: Any) -> Json:
    # The wire does not keep the order of a map; sorted, one request has one text.
    return {name: _value(values[name]) for name in sorted(values)}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "list_value":
        return [_value(entry) for entry in value.list_value.values]
    if kind == "struct_value":
        return _fields(value.struct_value.fields)
    if kind == "number_value" and value.number_value.is_integer():
        return int(value.number_value)  # the wire has no integers, and 5 must not be written 5.0
    return getattr(value, kind)
