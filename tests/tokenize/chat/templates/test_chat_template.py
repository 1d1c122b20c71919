"""A chat template: what it tells of itself, its errors, its limits."""

from __future__ import annotations

import re
import threading
from typing import Any

import pytest
from jinja2 import meta

from kvatlas.index.errors import InputError, TemplateError
from kvatlas.tokenize.chat.templates.chat_template import ChatTemplate
from kvatlas.tokenize.config import TokenizeLimits
from tests.tokenize.chat.templates.families import FAMILIES
from tests.tokenize.chat.templates.reference import NOON, REFERENCE

LIMITS = TokenizeLimits(render_s_max=30.0)


def template(source: str, **limits: Any) -> ChatTemplate:
    chosen = TokenizeLimits(**{"render_s_max": 30.0, **limits})
    return ChatTemplate(source, name="model-x", limits=chosen, clock=lambda: NOON)


def message_of(source: str, variables: dict[str, Any] | None = None, **limits: Any) -> str:
    with pytest.raises(TemplateError) as caught:
        template(source, **limits).render(variables or {})
    assert isinstance(caught.value, InputError)
    return str(caught.value)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_variables_are_those_that_jinja_finds_with_the_functions_of_transformers(family: str) -> None:
    found = meta.find_undeclared_variables(REFERENCE.parse(FAMILIES[family]))
    functions = {name for name in ("raise_exception", "strftime_now") if name in FAMILIES[family]}
    assert template(FAMILIES[family]).variables == found | functions


def test_variables_that_a_template_sets_are_not_its_variables() -> None:
    source = "{% set a = b %}{% for c in d %}{{ c }}{{ range(2) }}{{ lipsum }}{% endfor %}{{ a }}{{ e.f }}"
    assert template(source).variables == {"b", "d", "e"}


def test_mentions_looks_at_the_source() -> None:
    assert template("{% if role == 'developer' %}{% endif %}").mentions("'developer'")
    assert not template("{% if role == 'developer' %}{% endif %}").mentions('"developer"')


def test_the_message_of_raise_exception_comes_with_the_name_and_the_line() -> None:
    source = "a\n{% if messages %}\n\n{{ raise_exception('Only one: ' ~ messages|length) }}{% endif %}"
    assert message_of(source, {"messages": [1]}) == "chat template model-x, line 4: Only one: 1"


def test_the_message_of_raise_exception_is_cut_where_it_is_long() -> None:
    assert len(message_of("{{ raise_exception('a' * 1000000) }}")) < 3000


def test_a_failure_in_a_macro_names_the_line_in_the_macro() -> None:
    source = "{% macro m(x) %}\n{{ x.a.b }}\n{% endmacro %}\n\n{{ m({}) }}"
    assert message_of(source) == "chat template model-x, line 2: 'dict object' has no attribute 'a'"


def test_other_failures_say_their_type() -> None:
    assert "line 1: TypeError: " in message_of("{{ 1 + 'a' }}")
    assert "line 1: ZeroDivisionError: " in message_of("{{ 1 // 0 }}")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("\n{% if a %}", "line 2: Unexpected end of template"),
        ("\n\n{{ a b }}", "line 3: expected token 'end of print statement', got 'b'"),
        ("{{ a|urlize }}", "line 1: No filter named 'urlize'"),
        ("{% include 'a' %}", "line 1: chat templates cannot use {% include %}"),
        ("{% if a is nope %}{% endif %}{{ a is nope }}", "line 1: No test named 'nope'"),
        ("{% break %}", "'break' outside loop"),
    ],
)
def test_a_source_that_does_not_compile_says_where(source: str, said: str) -> None:
    with pytest.raises(TemplateError, match=re.escape(said)):
        template(source)


def test_a_source_that_is_too_large_is_refused() -> None:
    expected = r"expected at most 10 bytes \(limits.template_bytes_max\), got 12"
    with pytest.raises(TemplateError, match=expected):
        template("éééééé", template_bytes_max=10)
    assert template("éé", template_bytes_max=10).render({}) == "éé"


def test_a_text_is_bounded_in_bytes_of_utf8() -> None:
    assert template("{{ x }}", text_bytes_max=40).render({"x": "é" * 20}) == "é" * 20
    assert "stopped: a value of more than 40 bytes" in message_of(
        "{{ x }}", {"x": "é" * 21}, text_bytes_max=40
    )
    assert "stopped: a value of more than 40 bytes" in message_of(
        "{{ x }}", {"x": "a" * 41}, text_bytes_max=40
    )


def test_the_time_is_bounded() -> None:
    source = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    assert message_of(source, render_s_max=0.05).endswith("stopped: it took too long (limits.render_s_max)")


@pytest.mark.slow
def test_a_text_may_be_built_by_appending_to_it_any_number_of_times() -> None:
    """20 000 appends copy 4 GB in all, of which one text is alive at a time."""
    source = (
        "{% set ns = namespace(text='') %}"
        "{% for m in messages %}{% set ns.text = ns.text + m.content %}{% endfor %}{{ ns.text }}"
    )
    variables = {"messages": [{"content": f"{n:020}"} for n in range(20_000)]}
    text = template(source, text_bytes_max=400_000).render(variables)
    assert text == "".join(f"{n:020}" for n in range(20_000))


def test_a_list_may_be_built_in_the_same_way() -> None:
    source = (
        "{% set ns = namespace(all=[]) %}"
        "{% for m in messages %}{% set ns.all = ns.all + [m] %}{% endfor %}{{ ns.all|length }}"
    )
    assert template(source, text_bytes_max=200_000).render({"messages": ["x"] * 5_000}) == "5000"


def test_texts_that_a_template_holds_are_bounded_together() -> None:
    source = (
        "{% set ns = namespace(all=[]) %}"
        "{% for i in range(99) %}{% set ns.all = ns.all + [x ~ i] %}{% endfor %}"
    )
    said = message_of(source, {"x": "a" * 90_000}, text_bytes_max=100_000)
    assert said.endswith("stopped: its values need too much memory")


def test_many_messages_of_a_long_template_fit_the_budget() -> None:
    """The most that limits allow by default: no limit may be in the way of an honest chat."""
    messages = [{"role": ("user", "assistant")[n % 2], "content": "hello " * 20} for n in range(20_000)]
    text = template(FAMILIES["chatml"]).render({"messages": messages, "tools": None})
    assert text.count("<|im_start|>") == 20_000


def test_a_failed_rendering_leaves_nothing_to_the_next() -> None:
    it = template("{% for i in range(n) %}{{ x * 1000 }}{% endfor %}", text_bytes_max=100_000)
    for _ in range(3):
        with pytest.raises(TemplateError):
            it.render({"n": 99, "x": "aaaa"})
        assert it.render({"n": 2, "x": "a"}) == "a" * 2000


def test_threads_share_a_template() -> None:
    it = template(FAMILIES["command"])
    chats = [{"messages": [{"role": "user", "content": f"{n}" * 50}], "bos_token": f"b{n}"} for n in range(8)]
    expected = [it.render(chat) for chat in chats]
    wrong: list[str] = []

    def work(n: int) -> None:
        for _ in range(100):
            text = it.render(chats[n])
            if text != expected[n]:
                wrong.append(text)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_date_is_the_clocks() -> None:
    assert template("{{ strftime_now('%d %b %Y') }}").render({}) == "04 Mar 2026"
    assert re.fullmatch(
        r"20\d\d", ChatTemplate("{{ strftime_now('%Y') }}", name="m", limits=LIMITS).render({})
    )


def test_variables_come_before_functions_of_the_same_name() -> None:
    assert template("{{ range }}{{ namespace }}").render({"range": 1, "namespace": "n"}) == "1n"
    assert "TypeError" in message_of("{{ range(3) }}", {"range": "text"})
