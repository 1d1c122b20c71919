"""Text or parts: what vLLM 0.32 finds in each of these templates (checked against it once, by hand)."""

# Templates are long lines.
# ruff: noqa: E501

from __future__ import annotations

import pytest

from kvatlas.tokenize.chat.templates.chat_template import ChatTemplate
from kvatlas.tokenize.config import TokenizeLimits

PARTS = [
    "{% for m in messages %}{% for p in m.content %}{{ p }}{% endfor %}{% endfor %}",
    "{% for m in messages %}{% for p in m['content'] %}{{ p }}{% endfor %}{% endfor %}",
    "{% for m in messages[1:] %}{% for p in m.content|list %}{{ p }}{% endfor %}{% endfor %}",
    "{% for m in messages|reverse %}{% for p in m['content'][1:] if p %}{{ p }}{% endfor %}{% endfor %}",
    "{% set l = messages[1:] %}{% set k = l|list %}{% for m in k %}{% for p in m.content %}{% endfor %}{% endfor %}",
    "{% for content in x %}{% endfor %}{% for p in content %}{% endfor %}",
    "{% for m in messages %}{% set content = m.content %}{% for p in content %}{% endfor %}{% endfor %}",
    "{% macro r(c) %}{% for p in c %}{% endfor %}{% endmacro %}{% for m in messages %}{{ r(m.content) }}{% endfor %}",
    "{% macro r(a, c) %}{% for p in c %}{% endfor %}{% endmacro %}{% for m in messages %}{{ r(1, c=m.content) }}{% endfor %}",
    "{% macro r(c) %}{% for p in c %}{% endfor %}{% endmacro %}{% for m in messages %}{{ r(m['content']|list) }}{% endfor %}",
    "{% macro r(c) %}{% for m in messages %}{% for p in m.content %}{% endfor %}{% endfor %}{% endmacro %}",
    "{% for m in messages %}{% for p in m.content %}{% endfor %}{% for a, b in m.content %}{% endfor %}{% endfor %}",
    "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{% endfor %}"
    "{% endif %}{% endfor %}",
    "{% set a = messages %}{% set messages = a %}{% for m in a %}{% for p in m.content %}{% endfor %}{% endfor %}",
    "{% generation %}{% for m in messages %}{% for p in m.content %}{% endfor %}{% endfor %}{% endgeneration %}",
]
TEXT = [
    "plain",
    "{{ messages[0].content }}",
    "{% for m in messages %}{{ m.content }}{% endfor %}",
    "{% for m in messages %}{% for p in m.parts %}{% endfor %}{% endfor %}",
    "{% for m in others %}{% for p in m.content %}{% endfor %}{% endfor %}",
    "{% for m in x.messages %}{% for p in m.content %}{% endfor %}{% endfor %}",
    "{% for p in messages[0].content %}{% endfor %}",
    "{% for m in messages %}{% set c = m.content %}{% for p in c %}{% endfor %}{% endfor %}",
    "{% macro r(content) %}{% for p in content %}{% endfor %}{% endmacro %}{{ r(5) }}",
    "{% macro r(c) %}{% for p in c %}{% endfor %}{% endmacro %}{% for m in messages %}{{ r(m) }}{% endfor %}",
    "{% macro r(c) %}{% for p in c %}{% endfor %}{% endmacro %}{% for m in messages %}{{ q(m.content) }}{% endfor %}",
    # Loops and assignments of another kind than names, where vLLM's search gives up.
    "{% for m in messages %}{% for a, b in m.content %}{% endfor %}{% for p in m.content %}{% endfor %}{% endfor %}",
    "{% for a, b in messages %}{% endfor %}{% for m in messages %}{% for p in m.content %}{% endfor %}{% endfor %}",
    "{% set ns = namespace() %}{% set ns.l = messages %}{% for m in messages %}{% for p in m.content %}{% endfor %}{% endfor %}",
]


def format_of(source: str) -> str:
    return ChatTemplate(source, name="m", limits=TokenizeLimits()).content_format


@pytest.mark.parametrize("source", PARTS)
def test_a_template_that_loops_over_content_wants_parts(source: str) -> None:
    assert format_of(source) == "openai"


@pytest.mark.parametrize("source", TEXT)
def test_a_template_that_does_not_wants_text(source: str) -> None:
    assert format_of(source) == "string"
