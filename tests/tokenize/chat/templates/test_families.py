"""Templates of every family, on chats by chance: the text of transformers' environment, or its refusal."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvatlas.index.errors import TemplateError
from kvatlas.tokenize.chat.templates.chat_template import ChatTemplate
from kvatlas.tokenize.config import TokenizeLimits
from tests.profiles import examples
from tests.tokenize.chat.templates.families import FAMILIES, FORMATS
from tests.tokenize.chat.templates.reference import NOON, REFERENCE

SHARED = os.environ.get("KVATLAS_SHARED")
LIMITS = TokenizeLimits(render_s_max=60.0)

words = st.text(max_size=12) | st.sampled_from(
    [
        "hello",
        "  padded \n",
        "<think>\na\n</think>\n\nb",
        "<tool_response>x</tool_response>",
        "<b>&amp;",
        "items",
    ]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 99) | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
calls = st.fixed_dictionaries(
    {
        "type": st.just("function"),
        "function": st.fixed_dictionaries(
            {"name": words, "arguments": words | st.dictionaries(words, json_values, max_size=3)}
        ),
    },
    optional={"id": words},
)
parts = st.lists(
    st.fixed_dictionaries({"type": st.just("text"), "text": words}) | st.just({"type": "image"}), max_size=3
)
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool", "other"])},
    optional={
        "content": words | parts | st.none(),
        "tool_calls": st.lists(calls, max_size=2) | st.none(),
        "reasoning_content": words,
        "tool_call_id": words,
        "tools": words,
    },
)
plain_messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"]), "content": words}
)
schemas = st.recursive(
    st.fixed_dictionaries({"type": st.sampled_from(["string", "number", "boolean"])}) | json_values,
    lambda inner: (
        st.fixed_dictionaries({"type": st.just("array"), "items": inner})
        | st.fixed_dictionaries({"type": st.just("object"), "additionalProperties": inner})
        | st.just({"type": ["string", "null"]})
    ),
    max_leaves=4,
)
tools = st.fixed_dictionaries(
    {
        "type": st.just("function"),
        "function": st.fixed_dictionaries(
            {
                "name": words,
                "parameters": st.fixed_dictionaries(
                    {"type": st.just("object"), "properties": st.dictionaries(words, schemas, max_size=3)},
                    optional={"required": st.lists(words, max_size=2)},
                ),
            },
            optional={"description": words, "return": words},
        ),
    }
)
chats = st.fixed_dictionaries(
    {
        "messages": st.lists(plain_messages, max_size=6) | st.lists(messages, max_size=6),
        "tools": st.none() | st.lists(tools, max_size=2),
        "documents": st.none() | st.lists(st.dictionaries(words, words, max_size=2), max_size=2),
        "add_generation_prompt": st.booleans(),
        "bos_token": st.just("<bos>"),
        "eos_token": st.just("<eos>"),
    },
    optional={"enable_thinking": st.booleans(), "strict": st.booleans(), "add_vision_id": st.booleans()},
)


class Pair:
    """A template here and in transformers' environment."""

    def __init__(self, source: str) -> None:
        self.ours = ChatTemplate(source, name="t", limits=LIMITS, clock=lambda: NOON)
        self._theirs = REFERENCE.from_string(source)

    def check(self, chat: dict[str, Any]) -> bool:
        """Whether it gives a text, which both do or neither."""
        try:
            expected = self._theirs.render(**chat)
        except Exception:
            with pytest.raises(TemplateError):
                self.ours.render(chat)
            return False
        assert self.ours.render(chat) == expected
        return True


@functools.cache
def pair(family: str) -> Pair:
    return Pair(FAMILIES[family])


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(FAMILIES))
@settings(max_examples=examples(150), deadline=None)
@given(chat=chats)
def test_a_family_gives_the_text_of_transformers_environment(family: str, chat: dict[str, Any]) -> None:
    pair(family).check(chat)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_family_renders_an_ordinary_chat_with_tools(family: str) -> None:
    tool = {"name": "f", "description": "Does\nit.", "parameters": {"properties": {"a": {"type": "string"}}}}
    call = {"type": "function", "id": "123456789", "function": {"name": "f", "arguments": {"a": "é"}}}
    chat = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "42", "tool_call_id": "123456789"},
            {"role": "assistant", "content": "<think>\nwell\n</think>\n\nIt is 42."},
            {"role": "user", "content": "Thanks"},
        ],
        "tools": [{"type": "function", "function": tool}],
        "documents": [{"title": "T", "text": "D"}],
        "add_generation_prompt": True,
        "bos_token": "<bos>",
        "eos_token": "<eos>",
    }
    assert pair(family).check(chat)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_content_format_of_a_family_is_found(family: str) -> None:
    assert pair(family).ours.content_format == FORMATS[family]


@pytest.mark.slow
@pytest.mark.skipif(SHARED is None, reason="KVATLAS_SHARED is not set")
@settings(max_examples=examples(300), deadline=None)
@given(chat=chats)
def test_qwen3s_own_template_gives_the_text_of_transformers_environment(chat: dict[str, Any]) -> None:
    qwen3_pair().check(chat)


@functools.cache
def qwen3_pair() -> Pair:
    assert SHARED is not None
    file = Path(SHARED) / "tokenizers" / "qwen3" / "tokenizer_config.json"
    return Pair(json.loads(file.read_text())["chat_template"])
