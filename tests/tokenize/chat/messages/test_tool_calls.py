"""Tools and calls of them get the fields and the order that the server's request models give them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kvatlas.index.errors import InputError
from kvatlas.tokenize.chat.messages.plain_values import PlainValues
from kvatlas.tokenize.chat.messages.tool_calls import developer_tools, offered_tools, tool_calls


def _offered(*tools: Any) -> str:
    return json.dumps(offered_tools(tools, PlainValues(64)))


def _called(*calls: Any) -> str:
    return json.dumps(tool_calls(list(calls), PlainValues(64), "$"))


def _call(arguments: Any) -> dict[str, Any]:
    return {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}


def test_a_tool_is_shown_complete_and_in_order() -> None:
    assert _offered({"function": {"name": "f"}}) == (
        '[{"type": "function", "function": {"name": "f", "description": null, "parameters": null}}]'
    )
    given = {"foo": 1, "function": {"strict": True, "parameters": {"z": 1, "a": 2}, "bar": 2, "name": "f"}}
    assert _offered(given) == (
        '[{"type": "function", "function": '
        '{"name": "f", "description": null, "parameters": {"z": 1, "a": 2}, "strict": true}}]'
    )


def test_a_deferred_tool_says_so_in_its_function_too() -> None:
    assert _offered({"function": {"name": "f"}, "defer_loading": False}) == (
        '[{"type": "function", "function": {"name": "f", "description": null, "parameters": null, '
        '"defer_loading": false}, "defer_loading": false}]'
    )
    inner_only = {"function": {"name": "f", "defer_loading": True}, "defer_loading": None}
    assert '"defer_loading": true}}]' in _offered(inner_only)


def test_a_tool_that_was_shown_once_is_shown_alike_again() -> None:
    once = offered_tools(
        [{"function": {"name": "f", "strict": None}, "defer_loading": True}], PlainValues(64)
    )
    assert offered_tools(once, PlainValues(64)) == once


def test_no_tools_and_an_empty_list_differ() -> None:
    assert offered_tools(None, PlainValues(64)) is None
    assert offered_tools([], PlainValues(64)) == []


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ({}, "$.tools: expected a list, got dict"),
        ([5], "$.tools[0]: expected an object, got int"),
        ([{"name": "f"}], "$.tools[0].function: expected an object, got NoneType"),
        ([{"function": {}}], "$.tools[0].function.name: expected a string, got NoneType"),
        ([{"type": "web", "function": {"name": "f"}}], "$.tools[0].type: expected 'function', got 'web'"),
        (
            [{"function": {"name": "f", "parameters": b""}}],
            "$.tools[0].function.parameters: expected what JSON",
        ),
    ],
)
def test_tools_that_no_server_takes_are_refused_with_their_place(tools: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        offered_tools(tools, PlainValues(64))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ('{"z": 1, "a": [{"b": "ü"}]}', {"z": 1, "a": [{"b": "ü"}]}),
        ({"a": 1}, {"a": 1}),
        *((empty, {}) for empty in ("", "{}", None, "null", "[]", "5", '"s"', "{bad", [1])),
    ],
)
def test_arguments_become_an_object(arguments: Any, shown: dict[str, Any]) -> None:
    assert json.loads(_called(_call(arguments))) == [
        {"id": "1", "type": "function", "function": {"name": "f", "arguments": shown}}
    ]


def test_a_call_is_shown_in_order_and_keeps_unknown_fields() -> None:
    given = {"index": 0, "type": "function", "function": {"x": 1, "name": "f", "arguments": "{}"}, "id": "1"}
    assert _called(given) == (
        '[{"id": "1", "function": {"arguments": {}, "name": "f", "x": 1}, "type": "function", "index": 0}]'
    )


def test_calls_of_the_caller_are_not_changed() -> None:
    given = _call('{"a": 1}')
    before = json.dumps(given)
    _called(given)
    assert json.dumps(given) == before


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (5, "$[0]: expected an object, got int"),
        ({"type": "custom", "custom": {}}, "$[0]: expected a call of a function, got type 'custom'"),
        ({"type": "function"}, "$[0]: expected a call of a function, got type 'function'"),
        (_call("[" * 100_000), "$[0].function.arguments: expected JSON that can be read, got "),
        (_call("9" * 10_000), "$[0].function.arguments: expected JSON that can be read, got "),
        (_call("[" + "1," * 1_000_001 + "1]"), "$[0].function.arguments: expected at most 1000000 entries"),
        (_call('{"a":' * 70 + "1" + "}" * 70), "$[0].function.arguments.a.a.a"),
    ],
)
def test_calls_that_no_server_takes_are_refused_with_their_place(call: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        tool_calls([call], PlainValues(64), "$")
    assert str(caught.value).startswith(message)


def test_tools_of_a_developer_are_ordered_only_where_all_are_valid() -> None:
    good = {"type": "function", "function": {"description": "d", "x": 1, "name": "f"}}
    assert json.dumps(developer_tools([good])) == (
        '[{"function": {"name": "f", "description": "d", "x": 1}, "type": "function"}]'
    )
    for bad in ({"name": "f"}, {"type": "function", "function": {"name": "f", "description": None}}):
        tools = [good, bad]
        assert developer_tools(tools) is tools
    assert developer_tools(None) is None
