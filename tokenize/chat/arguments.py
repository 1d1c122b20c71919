"""What a request gives its chat template besides the messages.

Source: vLLM 0.32, `build_chat_params` of the chat completion request, `merge_kwargs`,
`resolve_chat_template_kwargs`.
"""

from __future__ import annotations

from types import NoneType
from typing import Any

from kvatlas.index.errors import InputError
from kvatlas.tokenize.chat.chat import Chat
from kvatlas.tokenize.chat.messages.plain_values import PlainValues
from kvatlas.tokenize.chat.messages.tool_calls import offered_tools

_NOT_VARIABLES = frozenset(
    {
        *("chat_template", "continue_final_message", "conversation", "max_length", "padding", "self"),
        *("return_assistant_tokens_mask", "return_dict", "return_tensors", "tokenize", "tokenizer_kwargs"),
        "truncation",
    }
)
"""Arguments of the function that renders: no template sees them."""


def template_arguments(chat: Chat, values: PlainValues) -> dict[str, Any]:
    """The template arguments of a chat by name: its own fields over `chat_template_kwargs`, less unset ones.

    Raises InputError for values that JSON cannot hold, and for names that are not a request's to set.
    """
    given = values.take(chat.chat_template_kwargs, "$.chat_template_kwargs")
    if not isinstance(given, dict):
        raise InputError(f"$.chat_template_kwargs: expected an object, got {type(given).__name__}")
    if "messages" in given:
        raise InputError("$.chat_template_kwargs.messages: expected them as the request's messages")
    arguments = {name: value for name, value in given.items() if _is_set(value)}
    tools = offered_tools(chat.tools, values)
    if tools is not None:
        arguments.setdefault("tools", tools)
    documents = values.take(chat.documents, "$.documents")
    effort = chat.reasoning_effort
    if not isinstance(effort, (str, NoneType)):
        raise InputError(f"$.reasoning_effort: expected a string, got {type(effort).__name__}")
    if _is_set(documents):
        arguments["documents"] = documents
    if _is_set(effort):
        arguments["reasoning_effort"] = effort
    if effort is not None and "enable_thinking" not in given:
        arguments["enable_thinking"] = effort != "none"
    for name in ("tools", "documents"):
        _check_objects(arguments.get(name), f"$.{name}")
    return arguments


def visible(arguments: dict[str, Any], variables: frozenset[str]) -> dict[str, Any]:
    """Those of the arguments that a template which uses these variables shall see."""
    return {
        name: value for name, value in arguments.items() if name in variables and name not in _NOT_VARIABLES
    }


def _is_set(value: Any) -> bool:
    """The server counts "auto" as not set, wherever it stands."""
    return value is not None and value != "auto"


def _check_objects(given: Any, path: str) -> None:
    if given is None:
        return
    if not isinstance(given, list):
        raise InputError(f"{path}: expected a list, got {type(given).__name__}")
    for index, item in enumerate(given):
        if not isinstance(item, dict):
            raise InputError(f"{path}[{index}]: expected an object, got {type(item).__name__}")
