"""Chats with tools: schemas, calls of all forms, results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kvatlas.tokenize.parity.case import Case, chatting, said, text_part, user

_SYSTEM = said("system", "You may use tools.")
_QUESTION = user("What is the weather in Paris and in Zürich?")
_TOLD = said("tool", '{"temperature": 21.5, "sky": "clear"}', tool_call_id="call_1")

_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Wetter für eine Stadt: \"now\" & <later>, 'quoted', 温度 ✓",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "A city."},
                "unit": {"enum": ["celsius", "fahrenheit"], "type": "string", "default": None},
                "days": {"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": 7},
            },
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
_BARE = {"type": "function", "function": {"name": "now"}}
_STRICT = {
    "type": "function",
    "function": {"strict": True, "parameters": {"z": 1, "a": 1.0, "m": 1e30}, "name": "strict"},
}
_EXTRA = {
    "function": {
        "name": "extra",
        "description": "Has more.",
        "parameters": {},
        "returns": {"type": "string"},
    },
    "type": "function",
    "owner": "somebody",
}


def tool_cases() -> Iterator[Case]:
    """Schemas come to the template by the server's rules: null for what is missing, unknown fields gone."""
    yield from _schemas()
    yield from _calls()
    yield from _results()


def _schemas() -> Iterator[Case]:
    chat = [_SYSTEM, _QUESTION]
    schemas: dict[str, list[Mapping[str, Any]]] = {
        "one": [_WEATHER],
        "several": [_WEATHER, _BARE, _STRICT],
        "without description and parameters": [_BARE],
        "strict": [_STRICT],
        "with fields that nobody knows": [_EXTRA],
        "none": [],
    }
    for name, tools in schemas.items():
        yield chatting(f"tools: {name}", chat, tools=tools)
    yield chatting("tools: no system prompt", [_QUESTION], tools=[_WEATHER])
    yield chatting("tools: a developer", [said("developer", "Be quick."), _QUESTION], tools=[_WEATHER])
    yield chatting("tools: a developer's own", [said("developer", "Be quick.", tools=[_BARE]), _QUESTION])


def _calls() -> Iterator[Case]:
    arguments: dict[str, object] = {
        "": '{"city": "Paris", "unit": "celsius"}',
        " with unusual characters": '{"city": "Z\\u00fcrich ✓ \\"quoted\\" </tool_call>"}',
        " with numbers": '{"a": 1e3, "b": 12345678901234567890, "c": 0.10, "d": -0.0, "e": 1E400}',
        " nested": '{"a": {"b": [1, 2.50, null, true, {"c": ""}]}, "d": {}}',
        " without arguments": "",
        " with an empty object": "{}",
        " with a list": "[1, 2]",
        " with null": "null",
        " with a word": '"Paris"',
        " with broken JSON": '{"city": "Par',
        " with spaces": ' { "city" : "Paris" } ',
    }
    for name, given in arguments.items():
        yield chatting(f"a call{name}", [_QUESTION, _call(given), _TOLD], tools=[_WEATHER])
    two = said("assistant", None, tool_calls=[_one("{}", "call_1"), _one('{"city": "Rome"}', "call_2")])
    yield chatting(
        "two calls", [_QUESTION, two, _TOLD, {**_TOLD, "tool_call_id": "call_2"}], tools=[_WEATHER]
    )
    for name, content in {
        "words": "I will look.",
        "nothing": "",
        "parts": [text_part("I will"), text_part("look.")],
    }.items():
        yield chatting(
            f"a call and {name}", [_QUESTION, {**_call("{}"), "content": content}, _TOLD], tools=[_WEATHER]
        )
    left_out = {"role": "assistant", "tool_calls": [_one("{}", "call_1")]}
    yield chatting("a call, content left out", [_QUESTION, left_out, _TOLD])
    yield chatting("a call without tools", [_QUESTION, _call("{}"), _TOLD])
    yield chatting(
        "no calls", [_QUESTION, said("assistant", "No.", tool_calls=[]), user("Why?")], tools=[_WEATHER]
    )
    yield chatting(
        "a call at the end", [_QUESTION, _call("{}")], tools=[_WEATHER], add_generation_prompt=False
    )


def _results() -> Iterator[Case]:
    asked = [_SYSTEM, _QUESTION, _call('{"city": "Paris"}')]
    contents: dict[str, object] = {
        "a text": "21 °C\n",
        "parts": [text_part('{"sky": "clear"}'), text_part("and warm")],
        "nothing": "",
    }
    for name, content in contents.items():
        yield chatting(f"a result: {name}", [*asked, {**_TOLD, "content": content}], tools=[_WEATHER])
    yield chatting("a result with a name", [*asked, {**_TOLD, "name": "get_weather"}], tools=[_WEATHER])
    yield chatting("a result without its call", [_QUESTION, said("tool", "21 °C", tool_call_id="x")])
    thinking = {**_call("{}"), "reasoning_content": "I have to look it up."}
    agent = [_SYSTEM, _QUESTION]
    for number in range(6):
        agent += [thinking, {**_TOLD, "content": f"{number} °C"}]
    yield chatting("six calls with thoughts", agent, tools=[_WEATHER, _BARE])
    yield chatting(
        "and an answer", [*agent, said("assistant", "It is 5 °C."), user("Thanks!")], tools=[_WEATHER]
    )


def _call(arguments: object) -> Mapping[str, Any]:
    return said("assistant", None, tool_calls=[_one(arguments, "call_1")])


def _one(arguments: object, call_id: str) -> Mapping[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
