"""Words of others in messages: on one line, bounded, fit for logs, terminals and UTF-8."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.index.errors import quoted

_ANYTHING = st.text(st.characters(exclude_categories=()), max_size=50)


@given(_ANYTHING, st.integers(0, 60))
def test_words_are_printable_and_bounded(words: str, characters_max: int) -> None:
    said = quoted(words, characters_max)
    said.encode()
    assert said.isprintable()
    assert len(said) <= 10 * characters_max


@given(st.text(st.characters(categories=("L", "N", "P", "S")), max_size=50))
def test_ordinary_words_stay_as_they_are(words: str) -> None:
    assert quoted(words) == words


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("a\r\nb", "a\\r\\nb"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\ud800é", "\\ud800é"),
        ("\u2028\u202e", "\\u2028\\u202e"),
        (ValueError("no\tway"), "no\\tway"),
        ("a" * 5000, "a" * 1024),
    ],
)
def test_what_a_line_cannot_hold_is_written_out(words: object, said: str) -> None:
    assert quoted(words) == said
