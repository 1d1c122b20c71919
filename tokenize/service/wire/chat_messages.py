"""Chats as what another service understands of them: all of it, or an error that names the field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvatlas.index.errors import InputError
from kvatlas.tokenize.chat.chat import Chat
from kvatlas.tokenize.service.wire.json_texts import to_json
from kvatlas.tokenize.service.wire.schema import message_class

_FIELDS = ("role", "content", "tool_calls")


def completion_request(model: str, chat: Chat, takes_chats: bool) -> Any:
    """A RenderChatCompletionRequest. `takes_chats`: the service is one of kvatlas and takes all of a chat.

    Raises InputError for what others have no field for: leaving it out would give other ids.
    """
    request = message_class("RenderChatCompletionRequest")
    if takes_chats:
        return request(model_name=model, chat_json=to_json(chat, "chat"))
    _check_said(chat)
    arguments = _arguments(chat)
    return request(
        model_name=model,
        messages=[_message(message, f"messages[{place}]") for place, message in enumerate(chat.messages)],
        tools_json=None if chat.tools is None else to_json(chat.tools, "tools"),
        chat_template=chat.chat_template or "",
        add_generation_prompt=chat.add_generation_prompt,
        continue_final_message=chat.continue_final_message,
        chat_template_kwargs=to_json(arguments, "chat_template_kwargs") if arguments else None,
    )


def template_request(model: str, chat: Chat) -> Any:
    """A ChatTemplateRequest for a service of kvatlas."""
    return message_class("ChatTemplateRequest")(model_name=model, chat_json=to_json(chat, "chat"))


def _check_said(chat: Chat) -> None:
    for name in ("media", "add_special_tokens"):
        if getattr(chat, name):
            raise _unsaid(name)


def _arguments(chat: Chat) -> dict[str, Any]:
    # A chat completion hands documents and effort to the template as it does these.
    arguments = dict(chat.chat_template_kwargs)
    if chat.documents is not None:
        arguments["documents"] = chat.documents
    if chat.reasoning_effort is not None:
        arguments.setdefault("enable_thinking", chat.reasoning_effort != "none")
        arguments["reasoning_effort"] = chat.reasoning_effort
    return arguments


def _unsaid(where: str) -> InputError:
    return InputError(f"{where}: expected what this tokenization service has a field for, got a value here")


def _message(message: Mapping[str, Any], where: str) -> Any:
    plain = {name: value for name, value in _mapping(message, where).items() if value is not None}
    for name in plain:
        if name not in _FIELDS:
            raise _unsaid(f"{where}.{name}")
    fields: dict[str, Any] = {"role": _text(plain.get("role"), f"{where}.role")}
    content = plain.get("content")
    if isinstance(content, (list, tuple)):
        fields["content_parts"] = [
            _part(part, f"{where}.content[{place}]") for place, part in enumerate(content)
        ]
    elif content is not None:
        fields["content"] = _text(content, f"{where}.content")
    if plain.get("tool_calls"):  # an empty list is as none to every server
        fields["tool_calls_json"] = to_json(plain["tool_calls"], f"{where}.tool_calls")
    return message_class("ChatMessage")(**fields)


def _part(part: Any, where: str) -> Any:
    kind = _mapping(part, where).get("type")
    if kind == "text" and set(part) <= {"type", "text"}:
        return message_class("ContentPart")(type="text", text=_text(part.get("text"), f"{where}.text"))
    if kind == "image_url" and set(part) <= {"type", "image_url"}:
        # `detail` beside the URL is of no consequence to vLLM.
        url = _mapping(part.get("image_url"), f"{where}.image_url").get("url")
        return message_class("ContentPart")(
            type=kind, image_url={"url": _text(url, f"{where}.image_url.url")}
        )
    raise _unsaid(where)


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: expected a mapping, got {type(value).__name__}")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: expected a str, got {type(value).__name__}")
    return value
