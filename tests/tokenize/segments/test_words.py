"""Words of lines: found as the library's split finds them, and the same ids alone as in place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from kvatlas.index.errors import InputError
from kvatlas.tokenize._native import (
    LINES_BEFORE_TEXT,
    LINES_BEFORE_TEXT_NOT_SLASH,
    NO_WORDS,
    WORDS_BY_CASE,
    WORDS_ONE_DIGIT,
    WORDS_THREE_DIGITS,
    Cutter,
    SegmentMemo,
)
from kvatlas.tokenize.segments.definition import definition_of
from kvatlas.tokenize.segments.encoder import SegmentEncoder
from kvatlas.tokenize.segments.exactness import prove
from kvatlas.tokenize.segments.lines import LLAMA3, O200K, QWEN2
from kvatlas.tokenize.segments.words import RULES, word_rule_of
from tests.models.tokenizer_kinds import NASTY, byte_level_bpe, with_tokens
from tests.models.tokenizer_pieces import cut_at_lines
from tests.profiles import examples

LINE_RULES = {
    WORDS_ONE_DIGIT: LINES_BEFORE_TEXT,
    WORDS_THREE_DIGITS: LINES_BEFORE_TEXT,
    WORDS_BY_CASE: LINES_BEFORE_TEXT_NOT_SLASH,
}
ASCII = "".join(map(chr, range(128)))
TELLING = "aZs'S'tTreREvlLdDmM09 \t\n\r\v\f./-(_\x00\x1c\x7f"
ascii_texts = st.text(st.sampled_from(TELLING) | st.sampled_from(ASCII), min_size=1, max_size=60)
mixed_texts = st.lists(st.sampled_from(NASTY + tuple(TELLING) + ("\n", "they're ", "3.14")), min_size=1).map(
    "".join
)


def words_of(text: str, word_rule: int) -> list[str]:
    """Pieces that a cutter makes, in order."""
    plan = SegmentMemo(0, 0).plan(Cutter((), LINE_RULES[word_rule], 1, word_rule), text)
    pieces = plan.missing()
    numbers = plan.ids([[number] for number in range(len(pieces))])
    return [pieces[number] for number in numbers]


def split_of(expression: str) -> Any:
    return pre_tokenizers.Split(Regex(expression), "isolated")


def parts(split: Any, text: str) -> list[str]:
    return [part for part, _ in split.pre_tokenize_str(text)]


@pytest.mark.parametrize("expression", RULES, ids=["Qwen2", "Llama 3", "o200k"])
@given(text=ascii_texts)
def test_words_of_ascii_are_the_matches_of_the_librarys_split(expression: str, text: str) -> None:
    assert words_of(text, RULES[expression]) == parts(split_of(expression), text)


@pytest.mark.slow
@pytest.mark.parametrize("expression", RULES, ids=["Qwen2", "Llama 3", "o200k"])
def test_all_short_texts_of_telling_characters_are_split_as_the_library_splits_them(expression: str) -> None:
    split, telling = split_of(expression), "aS'9 \n\r./l"
    texts = [""]
    for _ in range(4):
        texts = [text + character for text in texts for character in telling]
        for text in texts:
            assert words_of(text, RULES[expression]) == parts(split, text), repr(text)


@pytest.mark.parametrize("expression", RULES, ids=["Qwen2", "Llama 3", "o200k"])
@given(text=ascii_texts)
def test_a_word_alone_is_one_match(expression: str, text: str) -> None:
    for word in words_of(text, RULES[expression]):
        assert parts(split_of(expression), word) == [word]


@pytest.mark.parametrize("word_rule", LINE_RULES)
@given(text=mixed_texts)
def test_lines_with_other_characters_stay_whole(word_rule: int, text: str) -> None:
    expected = []
    for line in cut_at_lines(text, LINE_RULES[word_rule]):
        expected += words_of(line, word_rule) if line.isascii() else [line]
    assert words_of(text, word_rule) == expected
    assert "".join(expected) == text


def test_a_rule_that_there_is_not_is_refused() -> None:
    with pytest.raises(InputError, match="word_rule: expected 0 to 3, got 4"):
        Cutter((), LINES_BEFORE_TEXT, 1, 4)


@pytest.mark.slow
def test_long_runs_take_linear_time() -> None:
    for unit in (" ", "\n", "a", "A", "1", "-", "'", " \n", "'s", " -", "aA"):
        text = unit * 200_000
        for word_rule in LINE_RULES:
            assert "".join(words_of(text, word_rule)) == text


def of(pre_tokenizer: Any, normalizer: Any = None) -> Tokenizer:
    tokenizer = byte_level_bpe(pre_tokenizer, normalizer)
    return with_tokens(tokenizer)


def in_row(*steps: Any) -> Any:
    return pre_tokenizers.Sequence(list(steps))


def mapped(*, regex: bool = False) -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)


@pytest.mark.parametrize(
    ("pre_tokenizer", "rule"),
    [
        (in_row(split_of(QWEN2), mapped()), WORDS_ONE_DIGIT),
        (in_row(split_of(LLAMA3), mapped()), WORDS_THREE_DIGITS),
        (in_row(split_of(O200K), mapped()), WORDS_BY_CASE),
        (in_row(split_of(QWEN2), mapped(regex=True)), NO_WORDS),
        (in_row(split_of(QWEN2 + "|x"), mapped()), NO_WORDS),
        (in_row(pre_tokenizers.Split(Regex(QWEN2), "removed"), mapped()), NO_WORDS),
        (in_row(split_of(r"\p{N}"), split_of(QWEN2), mapped()), NO_WORDS),
        (mapped(regex=True), NO_WORDS),
    ],
)
def test_words_are_known_of_these_splits_alone(pre_tokenizer: Any, rule: int) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    assert word_rule_of(definition_of(tokenizer)) == rule


def test_where_lines_stay_whole_there_are_no_words() -> None:
    lower = of(in_row(split_of(QWEN2), mapped()), normalizers.Lowercase())
    assert prove(definition_of(lower)).word_rule == NO_WORDS
    assert prove(definition_of(of(in_row(split_of(QWEN2), mapped())))).word_rule == WORDS_ONE_DIGIT


@pytest.mark.slow
@pytest.mark.parametrize("expression", RULES, ids=["Qwen2", "Llama 3", "o200k"])
@given(texts=st.lists(ascii_texts | mixed_texts, min_size=1, max_size=4))
def test_ids_of_texts_by_words_are_the_librarys(expression: str, texts: list[str]) -> None:
    tokenizer = of(in_row(split_of(expression), mapped()), normalizers.NFC())
    encoder = SegmentEncoder(tokenizer, name="t", memo_bytes_max=1 << 20, check_share=0.0)
    for text in texts * 2:
        ids = encoder.encode(text, add_special_tokens=False)
        assert ids.tolist() == tokenizer.encode(text, add_special_tokens=False).ids
    assert encoder.exactness.is_usable


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3", "gpt-oss"])
def test_a_new_text_of_known_words_needs_nothing_of_the_library(shared: Path, name: str) -> None:
    tokenizer = Tokenizer.from_file(str(shared / "tokenizers" / name / "tokenizer.json"))
    encoder = SegmentEncoder(tokenizer, name=name, memo_bytes_max=64 << 20, check_share=0.0)
    first = "It's 12 o'clock; they're at https://example.com/x?y=1 (HTTPServer v2)\n\tdef f(x):\n" * 3
    second = "def f(x):\n\tthey're (HTTPServer v2) at https://example.com/x?y=1; It's 12 o'clock\n"
    for text in (first, second):
        ids = encoder.encode(text, add_special_tokens=False)
        assert ids.tolist() == tokenizer.encode(text, add_special_tokens=False).ids
    missed = encoder.statistics()["words_misses"]
    third = second.replace("It's", "they're") + first
    ids = encoder.encode(third, add_special_tokens=False)
    assert ids.tolist() == tokenizer.encode(third, add_special_tokens=False).ids
    counts = encoder.statistics()
    assert counts["words_misses"] == missed and counts["words_hits"] > 0
    assert counts["words_bytes"] <= counts["words_bytes_max"] == (64 << 20) // 8


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3", "gpt-oss"])
def test_words_of_real_texts_have_the_librarys_ids(shared: Path, name: str) -> None:
    tokenizer = Tokenizer.from_file(str(shared / "tokenizers" / name / "tokenizer.json"))
    encoder = SegmentEncoder(tokenizer, name=name, memo_bytes_max=1 << 18, check_share=0.0)
    for path in sorted(Path(json.__file__).parent.parent.glob("*.py"))[: examples(60)]:
        text = path.read_text(errors="replace")
        ids = encoder.encode(text, add_special_tokens=False)
        assert ids.tolist() == tokenizer.encode(text, add_special_tokens=False).ids, path.name
    assert encoder.statistics()["words_evicted"] > 0  # the bound was reached, and did no harm
