"""Chats by chance, of everything that a chat completion request may say of a text chat."""

from __future__ import annotations

import json
import random
from typing import Any

from kvatlas.tokenize.chat.chat import Chat
from tests.e2e.chat_tokenizer import SPECIAL_TOKENS

_PIECES = (
    *(
        "hello",
        " world",
        "Ünïcödé",
        "你好",
        "🙂",
        "'s",
        "123",
        "3.14",
        "\n",
        "\n\n",
        "\r\n",
        "\t",
        " ",
        "   ",
    ),
    *(
        "\u00a0",
        "\u2028",
        "\u0301",
        "/",
        "\\",
        '"',
        "{",
        "}",
        "<",
        ">",
        "&",
        "{{ x }}",
        "{% if %}",
        "</think>",
    ),
    *("<think>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_response>", "<|endoftext|>", "\x00"),
    *SPECIAL_TOKENS,
)
_ROLES = ("system", "developer", "user", "assistant", "tool")


def random_text(source: random.Random, pieces_max: int = 8) -> str:
    """Up to so many pieces."""
    return "".join(source.choices(_PIECES, k=source.randrange(pieces_max + 1)))


def random_chat(source: random.Random) -> Chat:
    """1 to 7 messages, mostly in an order that templates accept."""
    messages = [_message(source, source.choice(_ROLES)) for _ in range(source.randrange(1, 8))]
    if source.random() < 0.7:
        messages.append(_message(source, "user"))
    continued = source.random() < 0.2
    fields: dict[str, Any] = {
        "messages": messages,
        "continue_final_message": continued,
        "add_generation_prompt": not continued and source.random() < 0.8,
        "add_special_tokens": source.random() < 0.1,
        "chat_template_kwargs": _arguments(source),
    }
    if source.random() < 0.4:
        fields["tools"] = [_tool(source) for _ in range(source.randrange(1, 4))]
    if source.random() < 0.2:
        fields["reasoning_effort"] = source.choice(("none", "low", "medium", "high"))
    if source.random() < 0.1:
        fields["documents"] = [{"title": random_text(source), "text": random_text(source)}]
    return Chat(**fields)


def _message(source: random.Random, role: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": role, "content": _content(source, role)}
    if role == "tool":
        message["tool_call_id"] = "call_1"
    if source.random() < 0.1:
        message["name"] = random_text(source, 2)
    if role == "assistant":
        _add_thoughts_and_calls(source, message)
    return message


def _content(source: random.Random, role: str) -> Any:
    chance = source.random()
    if chance < 0.25:
        return [{"type": "text", "text": random_text(source)} for _ in range(source.randrange(4))]
    if chance < 0.3 and role == "assistant":
        return None
    return random_text(source)


def _add_thoughts_and_calls(source: random.Random, message: dict[str, Any]) -> None:
    for name in ("reasoning", "reasoning_content"):
        if source.random() < 0.15:
            message[name] = random_text(source)
    if source.random() < 0.3:
        message["tool_calls"] = [_call(source) for _ in range(source.randrange(3))]


def _call(source: random.Random) -> dict[str, Any]:
    arguments = (
        "" if source.random() < 0.1 else json.dumps({"city": random_text(source), "n": _value(source)})
    )
    return {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": arguments}}


def _tool(source: random.Random) -> dict[str, Any]:
    function: dict[str, Any] = {"name": "look"}
    if source.random() < 0.7:
        function["description"] = random_text(source)
    if source.random() < 0.7:
        function["parameters"] = {"type": "object", "properties": {random_text(source): _value(source)}}
    if source.random() < 0.3:
        function["strict"] = source.random() < 0.5
    return {"type": "function", "function": dict(source.sample(list(function.items()), len(function)))}


def _arguments(source: random.Random) -> dict[str, Any]:
    drawn: dict[str, Any] = {}
    if source.random() < 0.3:
        drawn["enable_thinking"] = source.choice((True, False, None))
    if source.random() < 0.1:
        drawn[source.choice(("other", "tools_in_user_message", "date_string"))] = _value(source)
    return drawn


def _value(source: random.Random, depth: int = 2) -> Any:
    plain = (None, True, 1, -2.5, 1e22, 10**20, 0.1, random_text(source))
    if depth and source.random() < 0.4:
        return {random_text(source, 2): _value(source, depth - 1), "list": [_value(source, depth - 1)]}
    return source.choice(plain)
