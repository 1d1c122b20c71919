"""Chats that no server would take, or that mean harm, by what they try; and what their error must name."""

from __future__ import annotations

import json
from typing import Any

from kvatlas.index.errors import InputError, KvatlasError, TemplateError, UnsupportedModelError
from kvatlas.tokenize.chat.chat import Chat, Media
from tests.tokenize.bad_input.victims import USER

Hostile = tuple[Any, type[KvatlasError], str]
BIG = "y" * (5 << 20)
DEEP = "[" * 100_000 + "]" * 100_000
CYCLIC: list[Any] = []
CYCLIC.append(CYCLIC)
_NUMBER: Any = 5
NAMELESS = Media(identifier=_NUMBER, n_tokens=1)


def of(**fields: Any) -> Chat:
    return Chat(**{"messages": [USER], **fields})


def says(content: Any, **more: Any) -> Chat:
    return of(messages=[{"role": "user", "content": content, **more}])


def calls(arguments: Any, **more: Any) -> Chat:
    call = {"type": "function", "function": {"name": "f", "arguments": arguments}, **more}
    return of(messages=[{"role": "assistant", "content": "", "tool_calls": [call]}])


def refuses(text: str) -> Chat:
    """The template puts a text of the request into its refusal."""
    return calls(json.dumps({"refuse": text}))


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **function}}


MESSAGES: dict[str, Hostile] = {
    "no messages": (of(messages=[]), InputError, r"\$\.messages: expected 1 to"),
    "none": (of(messages=None), InputError, r"\$\.messages: expected a list, got NoneType"),
    "a text for messages": (of(messages="hello"), InputError, "expected a list, got str"),
    "one message without its list": (of(messages=USER), InputError, "expected a list, got dict"),
    "an iterator": (of(messages=iter([USER])), InputError, "expected a list, got list_iterator"),
    "lists in the list": (of(messages=[[USER]]), InputError, r"messages\[0\]: expected an object, got list"),
    "100 000 messages": (of(messages=[USER] * 100_000), InputError, "expected 1 to 20000, got 100000"),
    "a chat of 100 MB": (says("z" * (100 << 20)), TemplateError, "text_bytes_max"),
    "a million parts": (
        says([{"type": "text", "text": "x"}] * 1_100_000),
        InputError,
        "at most 1000000 entries",
    ),
    "a number for a role": (
        of(messages=[{"role": 5, "content": "x"}]),
        InputError,
        r"\[0\]\.role: expected a str",
    ),
    "no role": (of(messages=[{"content": "x"}]), InputError, r"\[0\]\.role: expected a string"),
    "bytes": (says(b"\xff"), InputError, r"content: expected what JSON can hold, got bytes"),
    "a set": (says({1}), InputError, "got set"),
    "a lone surrogate": (says("ab\ud800"), InputError, r"messages\[0\]\.content\[2\]: .*surrogate"),
    "a name with line ends": (says("x", **{"a\nb\x1b[31m": b""}), InputError, r"\.a\\nb\\x1b\[31m: "),
    "a name of megabytes": (says("x", **{BIG: b""}), InputError, r"\.y{40}: "),
    "a name of half a character": (says("x", **{"\ud800": b""}), InputError, r"\.\\ud800: "),
    "a number for a name": (of(messages=[{**USER, 5: 6}]), InputError, "strings as keys, got int"),
    "a list in itself": (says(CYCLIC), InputError, "levels"),
    "a part without type": (says([{BIG: 1}]), InputError, "expected a part with a type"),
    "a part of megabytes of type": (says([{"type": BIG}]), InputError, "known type of content part"),
    "embeddings": (says([{"type": "prompt_embeds", "data": "x"}]), InputError, "no token ids"),
    "an image where there is no place": (
        says([{"type": "image_url", "image_url": {"url": "x"}}]),
        UnsupportedModelError,
        "expected text alone, got 1 images",
    ),
    "a role that the template refuses": (
        of(messages=[{"role": "bad", "content": "no"}]),
        TemplateError,
        "no",
    ),
}
TOOLS: dict[str, Hostile] = {
    "a text for tools": (of(tools="x"), InputError, r"\$\.tools: expected a list, got str"),
    "tools in themselves": (of(tools=CYCLIC), InputError, "levels"),
    "a schema in itself": (of(tools=[tool(parameters=CYCLIC)]), InputError, "levels"),
    "a tool of no function": (
        of(tools=[{"type": BIG, "function": {}}]),
        InputError,
        "expected 'function', got 'yyy",
    ),
    "a tool without name": (of(tools=[{"function": {}}]), InputError, r"function\.name: expected a string"),
    "a call of no function": (calls("{}", type=BIG), InputError, "a call of a function, got type 'yyy"),
    "deep arguments": (calls(DEEP), InputError, r"arguments: expected JSON that can be read"),
    "arguments deeper than allowed": (calls('{"a":' + "[" * 99 + "]" * 99 + "}"), InputError, "levels"),
    "a number of many digits": (calls('{"a":' + "1" * 5000 + "}"), InputError, "4300 digits"),
    "a number too long to be written": (calls({"a": 10**10_000}), TemplateError, "4300 digits"),
    "half a character in arguments": (calls('{"a":"\\ud800"}'), InputError, "surrogate"),
    "a refusal of megabytes": (refuses("z" * (5 << 20)), TemplateError, "line 1: zzz"),
    "a refusal with line ends": (
        refuses("a\r\nERROR b\x1b[2J\u2028"),
        TemplateError,
        r"a\\r\\nERROR b\\x1b\[2J\\u2028",
    ),
    "a refusal with half a character": (refuses("\ud800"), TemplateError, r"line 1: \\ud800"),
}
FIELDS: dict[str, Hostile] = {
    "messages as arguments": (of(chat_template_kwargs={"messages": []}), InputError, r"kwargs\.messages: "),
    "tools as arguments": (of(chat_template_kwargs={"tools": 5}), InputError, r"\$\.tools: expected a list"),
    "a text for arguments": (of(chat_template_kwargs="x"), InputError, "expected an object, got str"),
    "a number for an argument's name": (of(chat_template_kwargs={5: 1}), InputError, "strings as keys"),
    "an argument's name of megabytes": (of(chat_template_kwargs={BIG: b""}), InputError, r"\.y{40}: "),
    "a number for the effort": (
        of(reasoning_effort=5),
        InputError,
        r"reasoning_effort: expected a string, got int",
    ),
    "a list in itself for the effort": (
        of(reasoning_effort=CYCLIC),
        InputError,
        "expected a string, got list",
    ),
    "a text for documents": (of(documents="x"), InputError, r"\$\.documents: expected a list"),
    "a number as a document": (of(documents=[5]), InputError, r"documents\[0\]: expected an object"),
    "a word for a flag": (of(add_generation_prompt="no"), InputError, "expected true or false, got str"),
    "a number for a flag": (of(add_special_tokens=1), InputError, "expected true or false, got int"),
    "to go on and to begin": (of(continue_final_message=True), InputError, "continue_final_message: "),
    "a number for media": (of(media=5), InputError, "media: expected a list of Media"),
    "numbers as media": (of(media=[5]), InputError, "media: expected a list of Media"),
    "a number as identifier": (of(media=[NAMELESS]), InputError, "string as its identifier"),
    "media of nothing": (of(media=[Media(identifier="x", n_tokens=1)]), InputError, "media: expected"),
    "no chat": (5, InputError, "expected a request body or a list of messages, got int"),
    "nothing": (None, InputError, "got NoneType"),
}
TEMPLATES: dict[str, Hostile] = {
    "a number": (of(chat_template=5), InputError, r"\$\.chat_template: expected a string, got int"),
    "a number among arguments": (of(chat_template_kwargs={"chat_template": 5}), InputError, "got int"),
    "what does not parse": (of(chat_template="{% for %}"), TemplateError, "line 1: Expected an expression"),
    "half a character": (of(chat_template="a\ud800"), InputError, r"\$\.chat_template\[1\]: .*surrogate"),
    "megabytes": (of(chat_template="x" * (2 << 20)), TemplateError, "at most 1048576 bytes"),
    "an endless loop": (
        of(chat_template="{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"),
        TemplateError,
        "took too long|too much memory",  # whichever limit a machine comes to first
    ),
    "a long text": (of(chat_template="{{ 'a' * 10 ** 10 }}"), TemplateError, "text_bytes_max"),
    "what belongs to Python": (of(chat_template="{{ messages.__class__.__mro__ }}"), TemplateError, "unsafe"),
    "the same by the arguments": (
        of(chat_template_kwargs={"chat_template": "{{ ''.__class__.__mro__ }}"}),
        TemplateError,
        "unsafe",
    ),
    "a name of megabytes": (of(chat_template="{{ messages." + "z" * 900_000 + ".y }}"), TemplateError, "zzz"),
    "a filter of megabytes": (
        of(chat_template="{{ 1|" + "z" * 900_000 + " }}"),
        TemplateError,
        "No filter named",
    ),
    "changing the messages": (of(chat_template="{{ messages.append(1) }}"), TemplateError, "unsafe|append"),
}
CHATS = MESSAGES | TOOLS | FIELDS | {f"a template: {name}": case for name, case in TEMPLATES.items()}
