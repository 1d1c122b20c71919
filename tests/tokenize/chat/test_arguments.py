"""Template arguments are merged as vLLM merges them."""

from __future__ import annotations

from typing import Any

import pytest

from kvatlas.index.errors import InputError
from kvatlas.tokenize.chat.arguments import template_arguments, visible
from kvatlas.tokenize.chat.chat import Chat
from kvatlas.tokenize.chat.messages.plain_values import PlainValues


def _arguments(**fields: Any) -> dict[str, Any]:
    return template_arguments(Chat(messages=[], **fields), PlainValues(64))


def test_a_chat_without_any_gives_none() -> None:
    assert _arguments() == {}


def test_unset_values_are_left_out() -> None:
    assert _arguments(chat_template_kwargs={"a": None, "b": "auto", "c": False, "d": 0}) == {
        "c": False,
        "d": 0,
    }


def test_fields_of_the_request_go_before_template_arguments() -> None:
    fields = _arguments(
        documents=[{"title": "mine"}],
        reasoning_effort="low",
        chat_template_kwargs={"documents": [{"title": "other"}], "reasoning_effort": "high"},
    )
    assert fields == {"documents": [{"title": "mine"}], "reasoning_effort": "low", "enable_thinking": True}


def test_template_arguments_go_before_the_tools_of_the_request() -> None:
    tools = [{"function": {"name": "f"}}]
    assert _arguments(tools=tools, chat_template_kwargs={"tools": [{"raw": 1}]})["tools"] == [{"raw": 1}]
    assert _arguments(tools=tools)["tools"][0]["type"] == "function"
    assert _arguments(tools=[]) == {"tools": []}


@pytest.mark.parametrize(
    ("effort", "given", "thinking"),
    [
        ("none", {}, False),
        ("low", {}, True),
        ("low", {"enable_thinking": False}, False),
        ("none", {"enable_thinking": True}, True),
    ],
)
def test_effort_decides_thinking_where_nothing_else_does(effort: str, given: Any, thinking: bool) -> None:
    assert _arguments(reasoning_effort=effort, chat_template_kwargs=given)["enable_thinking"] is thinking


def test_thinking_that_is_given_as_null_is_not_decided() -> None:
    assert "enable_thinking" not in _arguments(
        reasoning_effort="low", chat_template_kwargs={"enable_thinking": None}
    )


def test_a_template_sees_what_it_uses_less_what_is_the_renderers_own() -> None:
    arguments = {"a": 1, "b": 2, "padding": True, "tools": []}
    assert visible(arguments, frozenset({"a", "padding", "tools"})) == {"a": 1, "tools": []}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"chat_template_kwargs": 5}, "$.chat_template_kwargs: expected an object, got int"),
        ({"chat_template_kwargs": {"messages": []}}, "$.chat_template_kwargs.messages: expected them as"),
        ({"chat_template_kwargs": {"a": {"b": object()}}}, "$.chat_template_kwargs.a.b: expected what JSON"),
        ({"chat_template_kwargs": {"tools": ["x"]}}, "$.tools[0]: expected an object, got str"),
        ({"documents": ["x"]}, "$.documents[0]: expected an object, got str"),
        ({"documents": {}}, "$.documents: expected a list, got dict"),
        ({"tools": {}}, "$.tools: expected a list, got dict"),
    ],
)
def test_what_no_server_takes_is_refused_with_its_place(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        _arguments(**fields)
    assert str(caught.value).startswith(message)
