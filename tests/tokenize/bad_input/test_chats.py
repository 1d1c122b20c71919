"""Hostile chats through the real tokenizers: one clear error each, counted, and the others served."""

from __future__ import annotations

import re
from typing import Any

import pytest

from kvatlas.index.errors import UnsupportedModelError
from kvatlas.tokenize.chat.chat import Chat
from kvatlas.tokenize.tokenizers import Tokenizers
from tests.tokenize.bad_input.hostile_chats import CHATS, CYCLIC
from tests.tokenize.bad_input.victims import USER, check_served, refusal
from tests.tokenize.chat.templates.reference import reference_render

pytestmark = pytest.mark.timeout(120)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHATS)
def test_hostile_chat_is_one_clear_error(tokenizers: Tokenizers, name: str) -> None:
    chat, kind, words = CHATS[name]
    error = refusal(tokenizers, lambda: tokenizers.encode_chat("curious", chat))
    assert type(error) is kind
    assert re.search(words, str(error))


@pytest.mark.parametrize("name", CHATS)
def test_rendering_alone_refuses_it_as_well_or_gives_text(tokenizers: Tokenizers, name: str) -> None:
    chat, kind, _ = CHATS[name]
    try:
        text = tokenizers.render_chat("curious", chat)
    except kind:
        return
    # Half a character can be rendered; it is the tokenizer that cannot take it.
    assert "\ud800" in text


def test_chat_of_a_model_without_template_is_said(tokenizers: Tokenizers) -> None:
    error = refusal(tokenizers, lambda: tokenizers.encode_chat("bare", Chat(messages=[USER])))
    assert isinstance(error, UnsupportedModelError) and "chat template" in str(error)


def test_body_of_a_request_is_a_chat_too(tokenizers: Tokenizers) -> None:
    body: Any = {"messages": [USER]}
    expected = tokenizers.encode_chat("good", Chat(messages=[USER])).token_ids.tolist()
    assert tokenizers.encode_chat("good", body).token_ids.tolist() == expected
    assert tokenizers.render_chat("good", body) == tokenizers.render_chat("good", Chat(messages=[USER]))


def test_list_that_holds_itself_is_refused_also_where_no_template_looks(tokenizers: Tokenizers) -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "hello", "name": CYCLIC}]
    refusal(tokenizers, lambda: tokenizers.encode_chat("good", Chat(messages=messages)))


NAMES = (
    "items",
    "keys",
    "values",
    "get",
    "pop",
    "update",
    "__class__",
    "__init__",
    "mro",
    "self",
    "loop",
    "0",
)
LOOKS = tuple(f"{{{{ a.{name} is defined }}}}{{{{ a['{name}'] }}}}" for name in NAMES if name != "0")
CALLS = (
    "{% for k, v in a.items() %}{{ k }}={{ v }};{% endfor %}",
    "{{ a.get('items') }}",
    "{{ a.keys() | list }}",
)


@pytest.mark.parametrize("source", [*LOOKS, *CALLS])
def test_fields_named_like_methods_give_what_jinja_gives(tokenizers: Tokenizers, source: str) -> None:
    """A JSON schema has `items`: the field must not stand for the method, nor the other way round."""
    hostile = {name: f"<{name}>" for name in NAMES}
    tools = [{"type": "function", "function": {"name": "f", "parameters": hostile}}]
    template = "{% set a = tools[0].function.parameters %}" + source
    expected = reference_render(template, {"tools": tools})
    assert expected is not None
    chat = Chat(messages=[USER], tools=tools, chat_template=template)
    assert tokenizers.render_chat("curious", chat) == expected


FUNCTIONS = (
    *("raise_exception", "strftime_now", "namespace", "range", "loop", "self", "context", "environment"),
    *("bos_token", "add_generation_prompt", "caller", "varargs", "x"),
)


def test_arguments_named_like_functions_stay_in_their_own_request(tokenizers: Tokenizers) -> None:
    hostile: dict[str, Any] = dict.fromkeys(FUNCTIONS, "STOLEN")
    before = tokenizers.render_chat("curious", Chat(messages=[USER]))
    given = Chat(messages=[USER], chat_template_kwargs=hostile)
    assert "STOLEN" in tokenizers.render_chat("curious", given)
    assert tokenizers.render_chat("curious", Chat(messages=[USER])) == before
    refused = Chat(messages=[{"role": "bad", "content": "x"}], chat_template_kwargs=hostile)
    refusal(tokenizers, lambda: tokenizers.encode_chat("curious", refused))
    check_served(tokenizers)


def test_template_of_one_request_is_not_that_of_the_next(tokenizers: Tokenizers) -> None:
    before = tokenizers.render_chat("good", Chat(messages=[USER]))
    for number in range(40):
        own = Chat(messages=[USER], chat_template=f"mine {number}")
        assert tokenizers.render_chat("good", own) == f"mine {number}"
    assert tokenizers.render_chat("good", Chat(messages=[USER])) == before
    [counts] = [one.counts for one in tokenizers.statistics().loaded if one.model == "good"]
    assert counts["templates"] <= 20 and counts["templates_dropped"] >= 20
