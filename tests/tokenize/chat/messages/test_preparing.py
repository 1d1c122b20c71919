"""Messages become what vLLM shows a template of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kvatlas.index.errors import InputError
from kvatlas.tokenize.chat.messages.content import ContentFormat
from kvatlas.tokenize.chat.messages.plain_values import PlainValues
from kvatlas.tokenize.chat.messages.preparing import prepare_messages, without_developer


def _prepared(*messages: Any, content_format: ContentFormat = "string") -> list[dict[str, Any]]:
    return prepare_messages(messages, content_format, PlainValues(64)).messages


def test_plain_messages_are_passed_as_they_are() -> None:
    messages = [{"role": role, "content": "a"} for role in ("user", "assistant", "tool")]
    assert all(mine is given for mine, given in zip(_prepared(*messages), messages, strict=True))


def test_fields_come_in_the_servers_order_and_unknown_ones_go() -> None:
    given = {"name": "n", "foo": 1, "content": "a", "task": "t", "role": "user"}
    assert json.dumps(_prepared(given)) == '[{"role": "user", "content": "a", "name": "n", "task": "t"}]'
    assert json.dumps(_prepared({"content": "a", "role": "user"})) == '[{"role": "user", "content": "a"}]'


def test_a_template_that_wants_parts_gets_them_of_all_but_tools() -> None:
    messages = [{"role": role, "content": "a"} for role in ("user", "critic", "tool")]
    part = [{"type": "text", "text": "a"}]
    assert _prepared(*messages, content_format="openai") == [
        {"role": "user", "content": part},
        {"role": "critic", "content": part},
        {"role": "tool", "content": "a"},
    ]


def test_only_assistants_call_tools_and_no_calls_are_none() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert "tool_calls" not in _prepared({"role": "user", "content": "a", "tool_calls": [call]})[0]
    assert "tool_calls" not in _prepared({"role": "assistant", "tool_calls": []})[0]
    assert "tool_calls" not in _prepared({"role": "assistant", "tool_calls": None})[0]
    (assistant,) = _prepared({"role": "assistant", "tool_calls": [call]})
    assert assistant["content"] == "" and assistant["tool_calls"][0]["function"]["arguments"] == {}


@pytest.mark.parametrize(
    ("fields", "reasoning"),
    [
        ({"reasoning": "a"}, "a"),
        ({"reasoning_content": "a"}, "a"),
        ({"reasoning": "a", "reasoning_content": "b"}, "a"),
        ({"reasoning": None, "reasoning_content": "b"}, "b"),
        ({"reasoning": ""}, ""),
        ({"reasoning": None}, None),
    ],
)
def test_reasoning_goes_by_both_names(fields: dict[str, Any], reasoning: str | None) -> None:
    (message,) = _prepared({"role": "assistant", "content": "x", **fields})
    assert message.get("reasoning") == message.get("reasoning_content") == reasoning
    assert ("reasoning" in message) == (reasoning is not None)


def test_reasoning_is_the_assistants_alone() -> None:
    assert _prepared({"role": "user", "content": "x", "reasoning": "a"}) == [{"role": "user", "content": "x"}]


def test_results_of_tools_keep_the_id_of_their_call() -> None:
    (message,) = _prepared({"role": "tool", "content": "5", "tool_call_id": "c"})
    assert message == {"role": "tool", "content": "5", "tool_call_id": "c"}
    assert "tool_call_id" not in _prepared({"role": "function", "content": "5", "tool_call_id": "c"})[0]


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (5, "$.messages[1]: expected an object, got int"),
        ("hi", "$.messages[1]: expected an object, got str"),
        ({"content": "x"}, "$.messages[1].role: expected a string, got NoneType"),
        ({"role": ["user"], "content": "x"}, "$.messages[1].role: expected a string, got list"),
        (
            {"role": "user", "content": [{"type": "text", "text": 1}]},
            "$.messages[1].content[0].text: expected",
        ),
        ({"role": "user", "content": "x", "foo": b""}, "$.messages[1].foo: expected what JSON can hold"),
        ({"role": "assistant", "tool_calls": 5}, "$.messages[1].tool_calls: expected a list, got int"),
    ],
)
def test_messages_that_no_server_takes_are_refused_with_their_place(message: Any, error: str) -> None:
    with pytest.raises(InputError) as caught:
        _prepared({"role": "user", "content": "x"}, message)
    assert str(caught.value).startswith(error)


def _developed(*messages: dict[str, Any], content_format: ContentFormat = "string") -> list[dict[str, Any]]:
    return without_developer(_prepared(*messages, content_format=content_format))


def test_a_first_developer_becomes_the_system_without_tools() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    user = {"role": "user", "content": "b"}
    developer = {"role": "developer", "content": "a", "tools": tools, "name": "n"}
    assert _developed(developer, user) == [{"role": "system", "content": "a", "name": "n"}, user]


def test_developers_and_systems_merge_into_one_that_comes_first() -> None:
    merged = _developed(
        {"role": "system", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "developer", "content": ""},
        {"role": "developer", "content": [{"type": "text", "text": "c"}, {"type": "text", "text": "d"}]},
        content_format="openai",
    )
    assert [message["role"] for message in merged] == ["system", "user"]
    assert merged[0]["content"] == "a\n\nc\nd"


def test_a_late_developer_alone_moves_to_the_front() -> None:
    user = {"role": "user", "content": "b"}
    assert _developed(user, {"role": "developer", "content": "a"}) == [
        {"role": "system", "content": "a"},
        user,
    ]


def test_whether_a_developer_speaks_is_said() -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "developer", "content": "b"}]
    assert prepare_messages(messages, "string", PlainValues(64)).has_developer
    assert not prepare_messages(messages[:1], "string", PlainValues(64)).has_developer
