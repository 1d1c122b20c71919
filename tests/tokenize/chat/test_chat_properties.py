"""Whatever a caller hands over, it is rendered or refused with one of our errors, and not changed."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvatlas.index.errors import KvatlasError
from kvatlas.tokenize.chat.rendering import ChatRenderer
from kvatlas.tokenize.chat.request import chat_of
from kvatlas.tokenize.chat.template_files import TemplateFiles
from kvatlas.tokenize.config import TokenizeLimits

_TEMPLATES = (
    "{% for message in messages %}{{ message | tojson }}{% endfor %}{{ [tools, documents] | tojson }}",
    "{% for message in messages %}{% for part in message.content %}{{ part.text }}{% endfor %}"
    "{% for call in message.tool_calls %}{{ call.function.arguments | tojson }}{% endfor %}{% endfor %}",
    "{% for message in messages %}{{ message['role'] + message['content'] | trim }}{% endfor %}",
)
_RENDERERS = [
    ChatRenderer(
        TemplateFiles(templates={"default": template}),
        limits=TokenizeLimits(),
        request_templates=True,
        model="m",
    )
    for template in _TEMPLATES
]
_ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
_TEXT = st.text(alphabet="a \n\ud800漢<|>{}%", max_size=8)


def _object(known: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """Mostly what is expected, and any of it may be missing or anything."""
    return st.fixed_dictionaries({}, optional={name: good | _ODD for name, good in known.items()})


_PART = _TEXT | _object(
    {
        "type": st.sampled_from(["text", "refusal", "thinking", "image_url", "tool_reference", "x"]),
        "text": _TEXT,
        "refusal": _TEXT,
        "image_url": st.just({"url": "u"}),
        "uuid": st.none(),
    }
)
_FUNCTION = _object({"name": _TEXT, "arguments": st.sampled_from(["", "{}", '{"a": 1}', "[", "null"])})
_CALL = _object({"id": _TEXT, "type": st.just("function"), "function": _FUNCTION})
_MESSAGE = _object(
    {
        "role": st.sampled_from(["user", "assistant", "system", "tool", "developer", "critic"]),
        "content": _TEXT | st.lists(_PART, max_size=3),
        "tool_calls": st.lists(_CALL, max_size=2),
        "reasoning": _TEXT,
        "reasoning_content": _TEXT,
        "name": _TEXT,
        "tools": _ODD,
    }
)
_TOOL = _object({"type": st.just("function"), "function": _object({"name": _TEXT, "parameters": _ODD})})
_BODY = _object(
    {
        "messages": st.lists(_MESSAGE, max_size=4),
        "tools": st.lists(_TOOL, max_size=2),
        "documents": st.lists(_ODD, max_size=2),
        "add_generation_prompt": st.booleans(),
        "continue_final_message": st.booleans(),
        "chat_template": st.none(),
        "chat_template_kwargs": st.dictionaries(
            st.sampled_from(["tools", "a", "messages", "chat_template"]), _ODD, max_size=2
        ),
        "reasoning_effort": st.sampled_from(["none", "low"]),
    }
)


@pytest.mark.parametrize("number", range(len(_TEMPLATES)))
@given(body=_BODY | _ODD)
@example(body={"messages": [{"role": "assistant", "content": "a", "tool_calls": [{}]}]})
@example(body={"messages": [{"role": [], "content": "a"}, {"role": "user", "content": []}]})
def test_any_chat_is_rendered_or_refused(number: int, body: Any) -> None:
    before = copy.deepcopy(body)
    with contextlib.suppress(KvatlasError):
        assert isinstance(_RENDERERS[number].render(chat_of(body)), str)
    assert repr(body) == repr(before)  # as text, since a number that is none equals nothing
