"""A request's body becomes a chat."""

from __future__ import annotations

from typing import Any

import pytest

from kvatlas.index.errors import InputError
from kvatlas.tokenize.chat.chat import Chat
from kvatlas.tokenize.chat.request import chat_of

_MESSAGES = [{"role": "user", "content": "hi"}]


def test_messages_alone_are_a_chat() -> None:
    assert chat_of(_MESSAGES) == Chat(messages=_MESSAGES)
    assert chat_of({"messages": _MESSAGES}) == Chat(messages=_MESSAGES)


def test_a_chat_stays_itself() -> None:
    chat = Chat(messages=_MESSAGES)
    assert chat_of(chat) is chat


def test_all_fields_that_decide_token_ids_are_taken_and_others_ignored() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    body = {
        "model": "m",
        "temperature": 0.5,
        "tool_choice": "none",
        "messages": _MESSAGES,
        "tools": tools,
        "documents": [{"title": "t"}],
        "chat_template": "{{ messages }}",
        "add_generation_prompt": False,
        "continue_final_message": True,
        "add_special_tokens": True,
        "chat_template_kwargs": {"enable_thinking": False},
        "reasoning_effort": "low",
    }
    assert chat_of(body) == Chat(
        messages=_MESSAGES,
        tools=tools,
        documents=[{"title": "t"}],
        chat_template="{{ messages }}",
        add_generation_prompt=False,
        continue_final_message=True,
        add_special_tokens=True,
        chat_template_kwargs={"enable_thinking": False},
        reasoning_effort="low",
    )


def test_null_is_as_if_left_out() -> None:
    fields = ("tools", "documents", "chat_template", "add_generation_prompt", "chat_template_kwargs")
    assert chat_of({"messages": _MESSAGES, **dict.fromkeys(fields)}) == Chat(messages=_MESSAGES)


@pytest.mark.parametrize(
    ("value", "read"), [(True, True), ("false", False), ("Yes", True), (1, True), (0, False), (1.0, True)]
)
def test_flags_are_read_as_servers_do(value: Any, read: bool) -> None:
    assert chat_of({"messages": _MESSAGES, "add_generation_prompt": value}).add_generation_prompt is read


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("hi", "$: expected a request body or a list of messages, got str"),
        (None, "$: expected a request body or a list of messages, got NoneType"),
        ({}, "$.messages: expected a list, got nothing"),
        ({"messages": "hi"}, "$.messages: expected a list, got str"),
        ({"messages": _MESSAGES, "tools": {}}, "$.tools: expected a list, got dict"),
        ({"messages": _MESSAGES, "chat_template": 5}, "$.chat_template: expected a string, got int"),
        (
            {"messages": _MESSAGES, "chat_template_kwargs": []},
            "$.chat_template_kwargs: expected an object, got list",
        ),
        ({"messages": _MESSAGES, "reasoning_effort": 5}, "$.reasoning_effort: expected a string, got int"),
        (
            {"messages": _MESSAGES, "add_special_tokens": 5},
            "$.add_special_tokens: expected true or false, got 5",
        ),
        (
            {"messages": _MESSAGES, "continue_final_message": {}},
            "$.continue_final_message: expected true or false, got {}",
        ),
    ],
)
def test_fields_of_the_wrong_type_are_refused_with_their_place(body: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        chat_of(body)
    assert str(caught.value) == message
