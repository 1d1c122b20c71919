"""Line ends at which pieces are cut: each rule's argument, tried on the library itself."""

from __future__ import annotations

import functools
import itertools
import json
import sys
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from kvatlas.tokenize._native import LINES_BEFORE_TEXT, LINES_BEFORE_TEXT_NOT_SLASH, NO_LINES, SINGLE_LINES
from kvatlas.tokenize.segments.definition import definition_of
from kvatlas.tokenize.segments.lines import RULES, line_rule_of
from tests.models.tokenizer_kinds import NASTY
from tests.models.tokenizer_pieces import WHITE_SPACE, cut_at_lines

DEEPSEEK = next(expression for expression in RULES if "A-Za-z" in expression)
GPT2 = next(expression for expression, rule in RULES.items() if rule == SINGLE_LINES)
O200K = next(e for e, rule in RULES.items() if rule == LINES_BEFORE_TEXT_NOT_SLASH and "(?i:" in e)
QWEN = next(iter(RULES))


def split(expression: str, behavior: str = "isolated", *, invert: bool = False) -> Any:
    return pre_tokenizers.Split(Regex(expression), behavior, invert=invert)


def bytes_only(*, prefix: bool = False, regex: bool = False) -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)


def in_row(*steps: Any) -> Any:
    return pre_tokenizers.Sequence(list(steps))


@functools.cache
def all_characters() -> list[str]:
    return [chr(n) for n in range(sys.maxunicode + 1) if not 0xD800 <= n < 0xE000]


@functools.cache
def assigned() -> list[str]:
    return [one for one in all_characters() if unicodedata.category(one) not in ("Cn", "Co")]


SPLITS: dict[str, Any] = {
    **{expression: in_row(split(expression), bytes_only()) for expression in RULES},
    "GPT-2 by ByteLevel": bytes_only(regex=True),
    "digits, then GPT-2": in_row(pre_tokenizers.Digits(individual_digits=True), bytes_only(regex=True)),
    "DeepSeek V3": in_row(split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK), bytes_only()),
    "with line ends unescaped": in_row(split(DEEPSEEK.replace(r"\r\n", "\r\n")), bytes_only()),
}


def rule_of(pre_tokenizer: Any, normalizer: Any = None, model: Any = None) -> int:
    tokenizer = Tokenizer(model or models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return line_rule_of(definition_of(tokenizer))


def parts(pre_tokenizer: Any, text: str) -> list[str]:
    return [part for part, _ in pre_tokenizer.pre_tokenize_str(text)]


def assert_exact(pre_tokenizer: Any, rule: int, text: str) -> None:
    whole = parts(pre_tokenizer, text)
    pieces = [part for piece in cut_at_lines(text, rule) for part in parts(pre_tokenizer, piece)]
    assert pieces == whole, repr(text)


@pytest.mark.parametrize("name", SPLITS)
@given(text=st.lists(st.sampled_from(NASTY + ("\n",) * 12), min_size=3).map("".join))
def test_the_lines_of_a_text_are_split_as_the_text_is(name: str, text: str) -> None:
    rule = rule_of(SPLITS[name])
    assert rule != NO_LINES
    assert_exact(SPLITS[name], rule, text)


@pytest.mark.slow
@pytest.mark.parametrize("name", SPLITS)
def test_every_short_text_is_split_as_its_lines_are(name: str) -> None:
    before = ("", "\n", "\r", " ", "\u00a0", "a", "1", "/", "!", "'", "\u0301")
    behind = ("", "\n", "\r", " ", "a", "s", "1", "/", "!", "\u0301")
    rule = rule_of(SPLITS[name])
    for text in itertools.product(before, before, "\n", behind, behind):
        assert_exact(SPLITS[name], rule, "".join(text))


@pytest.mark.parametrize(
    ("pre_tokenizer", "rule", "text"),
    [
        (split(QWEN), LINES_BEFORE_TEXT, "a\n\nb"),
        (split(DEEPSEEK), LINES_BEFORE_TEXT, "a\n \nb"),
        (split(O200K), LINES_BEFORE_TEXT_NOT_SLASH, "a!\n/b"),
        (split(GPT2), SINGLE_LINES, "a \nb"),
        (split(GPT2), SINGLE_LINES, "a\n  b"),
    ],
)
def test_at_other_line_ends_a_cut_would_be_wrong(pre_tokenizer: Any, rule: int, text: str) -> None:
    assert RULES.get(pre_tokenizer_expression(pre_tokenizer)) == rule
    place = text.index("\n") + 1
    assert parts(pre_tokenizer, text[:place]) + parts(pre_tokenizer, text[place:]) != parts(
        pre_tokenizer, text
    )
    assert cut_at_lines(text[: place + 1], rule) == [text[: place + 1]]


def pre_tokenizer_expression(pre_tokenizer: Any) -> str:
    expression: str = json.loads(pre_tokenizer.__getstate__())["pattern"]["Regex"]
    return expression


REFUSED_NEEDED = {
    "a prefix space before each line": (bytes_only(prefix=True, regex=True), "a\nb"),
    "lines are symbols like others": (in_row(split(r"\w+|[^\w]+"), bytes_only()), "a.\n.b"),
    "what does not match is isolated": (in_row(split(r"\p{N}", invert=True), bytes_only()), "a\nb"),
    "no split at all": (in_row(bytes_only()), "a\nb"),
    "digits only": (in_row(pre_tokenizers.Digits(), bytes_only()), "a\nb"),
}


@pytest.mark.parametrize("name", REFUSED_NEEDED)
def test_unknown_splits_keep_their_lines_together(name: str) -> None:
    pre_tokenizer, text = REFUSED_NEEDED[name]
    assert rule_of(pre_tokenizer) == NO_LINES
    with pytest.raises(AssertionError):  # so the refusal is needed
        assert_exact(pre_tokenizer, LINES_BEFORE_TEXT, text)


def test_what_is_not_argued_for_keeps_its_lines_together() -> None:
    # Perhaps exact, but nobody has shown it.
    known = in_row(split(QWEN), bytes_only())
    assert rule_of(known) == LINES_BEFORE_TEXT
    assert rule_of(known, normalizers.NFKC()) == NO_LINES
    assert rule_of(known, normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])) == NO_LINES
    assert rule_of(known, model=models.Unigram()) == NO_LINES
    assert rule_of(split(QWEN)) == NO_LINES
    assert rule_of(in_row(split(QWEN, "merged_with_next"), bytes_only())) == NO_LINES
    assert rule_of(in_row(bytes_only(), split(QWEN), bytes_only())) == NO_LINES
    assert rule_of(in_row(split(QWEN + "|x"), bytes_only())) == NO_LINES


@pytest.mark.slow
def test_nfc_changes_nothing_across_a_line_feed() -> None:
    nfc = normalizers.NFC()
    lines = [
        around
        for character in assigned()
        if character != "\n"
        for around in (character, f"\u0301{character}")
    ]
    assert nfc.normalize_str("\n".join(lines)).split("\n") == [nfc.normalize_str(line) for line in lines]


@pytest.mark.slow
def test_nfc_keeps_white_space_and_slashes_apart_from_all_else() -> None:
    nfc = normalizers.NFC()
    for character in assigned():
        normal = nfc.normalize_str(character)
        if character in WHITE_SPACE:
            assert len(normal) == 1 and normal in WHITE_SPACE
        else:
            assert not set(normal) & set(WHITE_SPACE)
            assert ("/" in normal) == (character == "/")


@pytest.mark.slow
def test_white_space_is_what_the_library_calls_so() -> None:
    others = "".join(parts(split(r"\s", "removed"), "".join(all_characters())))
    assert others == "".join(character for character in all_characters() if character not in WHITE_SPACE)
