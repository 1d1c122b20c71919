"""Where texts are cut: beside the plain model, over all white space, and with many added tokens."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvatlas.index.errors import InputError
from kvatlas.tokenize._native import (
    LINES_BEFORE_TEXT,
    LINES_BEFORE_TEXT_NOT_SLASH,
    NO_LINES,
    SINGLE_LINES,
    Cutter,
    SegmentMemo,
)
from tests.models import segment_memo as model

pytestmark = pytest.mark.native

FIRST_PIECE = 1 << 30
"""Ids from here on stand for pieces in `cut`; added tokens have smaller ones."""

RULES = (NO_LINES, LINES_BEFORE_TEXT, LINES_BEFORE_TEXT_NOT_SLASH, SINGLE_LINES)

# Few letters, so that added tokens overlap, are prefixes of each other and stand next to each other often.
letters = st.sampled_from(
    ["a", "b", "<", "\n", "\n", " ", "/", "\r", "\t", "é", "\x85", "\u2028", "\u3000", "漢", "😀"]
)
texts = st.text(letters, max_size=40)
contents = st.text(st.sampled_from(["a", "b", "<", "\n", "é", "漢", "😀"]), min_size=1, max_size=5)
token_lists = st.dictionaries(contents, st.integers(0, 1000), max_size=12)


def cut(added_tokens: Mapping[str, int], rule: int, piece_bytes: int, text: str) -> list[str | int]:
    """What the native cutter makes of a text: pieces and ids of added tokens, in order."""
    plan = SegmentMemo(0, 1).plan(Cutter(list(added_tokens.items()), rule, piece_bytes), text)
    missing = plan.missing()
    ids = plan.ids([[FIRST_PIECE + i] for i in range(len(missing))])
    out = [missing[i - FIRST_PIECE] if i >= FIRST_PIECE else i for i in ids.tolist()]
    assert plan.n_pieces == sum(isinstance(part, str) for part in out)
    assert len(set(missing)) == plan.n_missing == len(missing)
    return out


@given(token_lists, st.sampled_from(RULES), st.integers(1, 12), texts)
@example({"<a": 1, "<ab": 2, "b<": 3}, NO_LINES, 1, "<ab<a<<abb<")
@example({"aab": 1, "b": 2}, NO_LINES, 1, "aaab")
@example({"é": 1}, SINGLE_LINES, 1, "\n\na\nb\n é\nb")
@example({}, LINES_BEFORE_TEXT, 4, "漢\n漢\n漢")
def test_cuts_are_those_of_the_plain_model(
    added_tokens: dict[str, int], rule: int, piece_bytes: int, text: str
) -> None:
    assert cut(added_tokens, rule, piece_bytes, text) == model.cut(added_tokens, rule, piece_bytes, text)


@given(st.integers(1, 400), st.sampled_from(RULES), st.lists(texts, max_size=5))
def test_cuts_with_many_added_tokens_and_first_letters_are_those_of_the_model(
    count: int, rule: int, parts: list[str]
) -> None:
    added_tokens = {f"{chr(0x61 + i % 26)}{i}>": i for i in range(count)}
    text = "".join(f"{part}{chr(0x61 + i % 26)}{i * 7 % 450}>" for i, part in enumerate(parts))
    assert cut(added_tokens, rule, 6, text) == model.cut(added_tokens, rule, 6, text)


@pytest.mark.slow
def test_every_character_of_unicode_is_white_space_exactly_where_the_model_says_so() -> None:
    memo = SegmentMemo(0, 1)
    behind = Cutter([], LINES_BEFORE_TEXT, 1)
    around = Cutter([], SINGLE_LINES, 1)
    for code in range(sys.maxunicode + 1):
        if 0xD800 <= code < 0xE000:
            continue
        character = chr(code)
        is_cut = not model.is_space(character)
        after = memo.plan(behind, "a\n" + character).n_pieces == 2
        # A line end before it makes a cut of its own for "\n" itself.
        before = memo.plan(around, character + "\na").n_pieces == 2
        assert (after, before) == (is_cut, is_cut), hex(code)


def test_stretch_no_longer_than_piece_bytes_is_left_whole_and_a_longer_one_is_cut_at_the_first_line_end() -> (
    None
):
    assert cut({}, LINES_BEFORE_TEXT, 6, "ab\ncd\n") == ["ab\ncd\n"]
    assert cut({}, LINES_BEFORE_TEXT, 6, "ab\ncd\ne") == ["ab\ncd\n", "e"]
    assert cut({}, LINES_BEFORE_TEXT, 5, "ab\ncd\ne") == ["ab\ncd\n", "e"]
    assert cut({}, LINES_BEFORE_TEXT, 3, "ab\ncd\ne") == ["ab\n", "cd\n", "e"]
    assert cut({}, LINES_BEFORE_TEXT, 1, "ab\n\n\ncd\n") == ["ab\n\n\n", "cd\n"]
    assert cut({}, LINES_BEFORE_TEXT_NOT_SLASH, 1, "a\n/b\nc") == ["a\n/b\n", "c"]
    assert cut({}, SINGLE_LINES, 1, "a\n\nb\nc\n d") == ["a\n\nb\n", "c\n d"]
    assert cut({}, SINGLE_LINES, 1, "\na") == ["\na"]


def test_texts_with_a_common_beginning_have_common_pieces() -> None:
    lines = [f"line {i} of a document\n" for i in range(400)]
    short, long = (cut({}, LINES_BEFORE_TEXT, 500, "".join(lines[:n])) for n in (300, 400))
    assert long[: len(short) - 1] == short[:-1]
    assert len(short) > 10


def test_text_that_is_empty_or_only_added_tokens_has_no_pieces() -> None:
    assert cut({"<a>": 7}, LINES_BEFORE_TEXT, 1, "") == []
    assert cut({"<a>": 7, "<b>": 8}, LINES_BEFORE_TEXT, 1, "<a><b><a>") == [7, 8, 7]


def test_token_whose_beginning_repeats_is_found_behind_every_false_start() -> None:
    assert cut({"<<<|": 1}, NO_LINES, 1, "<<<<<|<<|<<<|") == ["<<", 1, "<<|", 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([("", 1)], 0, 1), "an empty one"),
        (([("a", 1), ("b", 2), ("a", 3)], 0, 1), "'a' twice"),
        (([("a", 1)], 4, 1), "line_rule: expected 0 to 3, got 4"),
        (([("a", 1)], 0, 0), "piece_bytes: expected at least 1"),
        (([("a", 1), ("b", 2**32)], 0, 1), r"added_tokens\[1\]: expected \(content, id"),
        (([("a", -1)], 0, 1), r"added_tokens\[0\]"),
        ((["ab"], 0, 1), r"added_tokens\[0\]"),
        (([(b"a", 1)], 0, 1), r"added_tokens\[0\]: expected a str, got bytes"),
        (([("a", 1), ("b\ud800", 1)], 0, 1), r"added_tokens\[1\].* lone surrogate U\+D800"),
    ],
)
def test_definition_that_is_no_cutter_raises_an_error_that_says_where(arguments: tuple, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(InputError, match=message):
        Cutter(*arguments)
