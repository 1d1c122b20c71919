"""Half a character is named by its place."""

from __future__ import annotations

from typing import Any

import pytest

from kvatlas.tokenize.chat.chat import Chat
from kvatlas.tokenize.chat.surrogates import name_surrogate

_HALF = "ab\ud83d"


def test_a_good_chat_has_none() -> None:
    assert name_surrogate(Chat(messages=[{"role": "user", "content": "\U0001f600 漢字"}])) is None


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"messages": [{"role": "user", "content": _HALF}]}, "$.messages[0].content[2]"),
        ({"messages": [{"content": [{"type": "text", "text": _HALF}]}]}, "$.messages[0].content[0].text[2]"),
        ({"messages": [{"content": "a", _HALF: 1}]}, "$.messages[0]"),
        ({"messages": [], "tools": [{"function": {"name": _HALF}}]}, "$.tools[0].function.name[2]"),
        ({"messages": [], "chat_template_kwargs": {"a": (_HALF,)}}, "$.chat_template_kwargs.a[0][2]"),
        ({"messages": [], "chat_template": _HALF}, "$.chat_template[2]"),
    ],
)
def test_its_place_is_named(fields: dict[str, Any], place: str) -> None:
    assert str(name_surrogate(Chat(**fields))) == f"{place}: expected Unicode text, got a lone surrogate"
