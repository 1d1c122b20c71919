"""Tools that a request offers, and calls of them in its messages, as a template sees them.

The server's request models put fields into an order of their own, fill in those that are missing and drop
some; where a template writes a tool as JSON, that decides token ids.

Source: vLLM 0.32, `vllm/entrypoints/openai/chat_completion/protocol.py` and `vllm/renderers/chat_utils.py`.
"""

from __future__ import annotations

import json
from types import NoneType
from typing import Any

from kvatlas.index.errors import InputError
from kvatlas.tokenize.chat.messages.plain_values import VALUES_MAX, PlainValues

_CALL_ORDER = ("id", "function", "type")
_CALLED_ORDER = ("arguments", "name")
_OFFERED_ORDER = ("function", "type")
_FUNCTION_ORDER = ("name", "description", "parameters", "strict")


def offered_tools(tools: Any, values: PlainValues) -> list[dict[str, Any]] | None:
    """The tools of a request, complete and in the server's order of fields.

    Raises InputError for tools that are no functions, or have no name.
    """
    if tools is None:
        return None
    taken = values.take(tools, "$.tools")
    if not isinstance(taken, list):
        raise InputError(f"$.tools: expected a list, got {type(taken).__name__}")
    return [_offered(tool, f"$.tools[{index}]") for index, tool in enumerate(taken)]


def _offered(tool: Any, path: str) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise InputError(f"{path}: expected an object, got {type(tool).__name__}")
    if tool.get("type", "function") != "function":
        raise InputError(f"{path}.type: expected 'function', got {tool['type']!r:.80}")
    given = tool.get("function")
    if not isinstance(given, dict):
        raise InputError(f"{path}.function: expected an object, got {type(given).__name__}")
    if not isinstance(given.get("name"), str):
        raise InputError(f"{path}.function.name: expected a string, got {type(given.get('name')).__name__}")
    function = {name: given.get(name) for name in ("name", "description", "parameters")}
    if given.get("strict") is not None:
        function["strict"] = given["strict"]
    deferred = tool.get("defer_loading")
    function_deferred = deferred if given.get("defer_loading") is None else given["defer_loading"]
    if function_deferred is not None:
        function["defer_loading"] = function_deferred
    offered = {"type": "function", "function": function}
    return offered if deferred is None else {**offered, "defer_loading": deferred}


def developer_tools(tools: Any) -> Any:
    """The tools of a developer message: in the server's order of fields where all are valid."""
    if not (isinstance(tools, list) and all(map(_is_valid, tools))):
        return tools
    return [
        _ordered({**tool, "function": _ordered(tool["function"], _FUNCTION_ORDER)}, _OFFERED_ORDER)
        for tool in tools
    ]


def _is_valid(tool: Any) -> bool:
    function = tool.get("function") if isinstance(tool, dict) else None
    return (
        isinstance(function, dict)
        and tool.get("type") == "function"
        and isinstance(function.get("name"), str)
        and isinstance(function.get("description", ""), str)
        and isinstance(function.get("parameters", {}), dict)
        and isinstance(function.get("strict"), (bool, NoneType))
    )


def tool_calls(calls: Any, values: PlainValues, path: str) -> list[dict[str, Any]]:
    """The tool calls of an assistant's message: arguments as objects, in the server's order of fields.

    Arguments that are no JSON object count as an empty one, as the server treats them. Raises InputError for
    calls that are not of functions.
    """
    if not isinstance(calls, list):
        raise InputError(f"{path}: expected a list, got {type(calls).__name__}")
    return [_call(call, values, f"{path}[{index}]") for index, call in enumerate(calls)]


def _call(call: Any, values: PlainValues, path: str) -> dict[str, Any]:
    if not isinstance(call, dict):
        raise InputError(f"{path}: expected an object, got {type(call).__name__}")
    function = call.get("function")
    if call.get("type", "function") != "function" or not isinstance(function, dict):
        kind = call.get("type", "function")
        raise InputError(f"{path}: expected a call of a function, got type {kind!r:.80}")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = values.take(
            _parsed(arguments, f"{path}.function.arguments"), f"{path}.function.arguments"
        )
    called = _ordered(function, _CALLED_ORDER)
    called["arguments"] = arguments if isinstance(arguments, dict) else {}
    return _ordered({**call, "function": called}, _CALL_ORDER)


def _parsed(arguments: str, path: str) -> Any:
    # Before they are read: in memory a short entry takes thirty times its text.
    if len(arguments) > VALUES_MAX and arguments.count(",") > VALUES_MAX:
        raise InputError(f"{path}: expected at most {VALUES_MAX} entries in a chat, got more")
    try:
        return json.loads(arguments)
    except json.JSONDecodeError:
        return None
    except (RecursionError, ValueError) as error:
        raise InputError(f"{path}: expected JSON that can be read, got {error}") from None


def _ordered(given: dict[str, Any], order: tuple[str, ...]) -> dict[str, Any]:
    """The same entries, those of `order` first."""
    first = {name: given[name] for name in order if name in given}
    return first if len(first) == len(given) else {**first, **given}
