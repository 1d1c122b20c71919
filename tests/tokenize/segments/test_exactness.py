"""Proofs: of tokenizers of every kind, that pieces have the ids of the whole, or that they need not."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, NormalizedString, PreTokenizedString, Tokenizer, models, normalizers
from tokenizers.normalizers import Normalizer
from tokenizers.pre_tokenizers import PreTokenizer

from kvatlas.tokenize._native import NO_LINES
from kvatlas.tokenize.segments.definition import definition_of
from kvatlas.tokenize.segments.exactness import prove
from tests.models.tokenizer_kinds import KINDS, NASTY, SPECIAL, byte_level_bpe, metaspace_bpe, with_tokens
from tests.models.tokenizer_pieces import encode_in_pieces

TEXTS = st.lists(st.sampled_from((*NASTY, *SPECIAL, *SPECIAL, "\n", "\n"))).map("".join)
REAL = {"qwen3": ("<|im_start|>", "<think>"), "gpt-oss": ("<|start|>", "<|message|>")}


@functools.cache
def kind(name: str) -> Tokenizer:
    return with_tokens(KINDS[name]())


@functools.cache
def real(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def naive(tokenizer: Tokenizer) -> list[tuple[str, int]]:
    """Every added token, as if it could be cut at."""
    return [(token.content, n) for n, token in tokenizer.get_added_tokens_decoder().items()]


@pytest.mark.parametrize("name", KINDS)
@given(text=TEXTS)
def test_pieces_of_every_kind_have_the_ids_of_the_whole(name: str, text: str) -> None:
    tokenizer = kind(name)
    exactness = prove(definition_of(tokenizer))
    assert exactness.is_proven and len(exactness.cuts) >= len(SPECIAL)
    pieces = encode_in_pieces(tokenizer, text, exactness.cuts, exactness.line_rule)
    assert pieces == tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
@given(data=st.data())
def test_pieces_of_real_tokenizers_have_the_ids_of_the_whole(
    name: str, data: st.DataObject, shared: Path
) -> None:
    tokenizer = real(shared / "tokenizers" / name)
    exactness = prove(definition_of(tokenizer))
    assert (
        exactness.is_proven
        and exactness.line_rule != NO_LINES
        and exactness.reason.endswith("into words where a line is ASCII.")
    )
    parts = st.sampled_from((*NASTY, *REAL[name], "\n", "\n")) | st.text(max_size=4)
    text = "".join(data.draw(st.lists(parts)))
    pieces = encode_in_pieces(tokenizer, text, exactness.cuts, exactness.line_rule)
    assert pieces == tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.slow
@pytest.mark.parametrize("name", [*KINDS, "first", *REAL])
def test_the_object_tells_what_its_file_tells(name: str, request: pytest.FixtureRequest) -> None:
    if name in REAL:
        tokenizer = real(request.getfixturevalue("shared") / "tokenizers" / name)
    else:
        tokenizer = metaspace_bpe("first") if name == "first" else kind(name)
    assert prove(definition_of(tokenizer)) == prove(json.loads(tokenizer.to_str()))


# Tokenizers whose texts must not be cut, a text that shows it, and what the reason names.


def random_bpe() -> Tokenizer:
    tokenizer = byte_level_bpe()
    tokenizer.model.dropout = 0.5
    return tokenizer


def random_unigram() -> Tokenizer:
    tokenizer = KINDS["Unigram"]()
    vocabulary = [(token, score) for token, score in json.loads(tokenizer.to_str())["model"]["vocab"]]
    tokenizer.model = models.Unigram(vocabulary, unk_id=0, alpha=0.1, nbest_size=64)
    return tokenizer


class FirstLetterUp:
    """A normalizer in Python that looks where the text begins."""

    def normalize(self, text: NormalizedString) -> None:
        text.prepend("^")


class Whole:
    """A pre-tokenizer in Python."""

    def pre_tokenize(self, text: PreTokenizedString) -> None:
        text.split(lambda index, piece: [piece] if index == 0 else [])


def with_python_parts() -> Tokenizer:
    tokenizer = byte_level_bpe()
    tokenizer.pre_tokenizer = PreTokenizer.custom(Whole())
    return tokenizer


def with_python_normalizer() -> Tokenizer:
    tokenizer = byte_level_bpe()
    tokenizer.normalizer = Normalizer.custom(FirstLetterUp())
    return tokenizer


BREAKING: dict[str, tuple[Callable[[], Tokenizer], str, str]] = {
    "a prefix on the first piece only": (
        lambda: metaspace_bpe("first"),
        "one<|a|>one",
        "prepend_scheme 'first'",
    ),
    "the same, unsplit": (
        lambda: metaspace_bpe("first", split=False),
        "one<|a|>one",
        "prepend_scheme 'first'",
    ),
    "dropout": (random_bpe, "The quick brown fox jumps over the lazy dog. " * 40, "dropout 0.5"),
    "sampling": (random_unigram, "The quick brown fox jumps over the lazy dog. " * 40, "alpha"),
    "a pre-tokenizer of somebody's": (with_python_parts, "one<|a|>one", "not of the library"),
}


@pytest.mark.parametrize("name", BREAKING)
def test_what_breaks_pieces_is_not_proven(name: str) -> None:
    make, text, named = BREAKING[name]
    tokenizer = with_tokens(make())
    exactness = prove(definition_of(tokenizer))
    assert not exactness.is_proven and not exactness.is_usable and not exactness.cuts
    assert named in exactness.reason and exactness.reason.startswith("Texts are encoded whole: ")
    plain = tokenizer.encode(text, add_special_tokens=False).ids
    assert encode_in_pieces(tokenizer, text, naive(tokenizer)) != plain


def test_a_normalizer_of_somebodys_is_not_proven() -> None:
    # Perhaps exact; nobody can know.
    assert not prove(definition_of(with_tokens(with_python_normalizer()))).is_proven


@pytest.mark.parametrize(
    ("tokens", "normalizer", "text"),
    [
        ([AddedToken("<m>", lstrip=True, normalized=False)], None, "one <m>one"),
        ([AddedToken("<m>", rstrip=True, normalized=False)], None, "<m> one"),
        ([AddedToken("on", single_word=True, normalized=False)], None, "one"),
        ([AddedToken("<m>", normalized=True)], normalizers.NFC(), "<m>\u0338"),
        ([AddedToken("<m>", normalized=True)], normalizers.Lowercase(), "<M>one<m>\u0338"),
    ],
)
def test_added_tokens_that_break_pieces_stay_in_them(
    tokens: list[AddedToken], normalizer: Normalizer | None, text: str
) -> None:
    tokenizer = with_tokens(byte_level_bpe(normalizer=normalizer), [*SPECIAL, *tokens])
    exactness = prove(definition_of(tokenizer))
    assert {content for content, _ in exactness.cuts} == set(SPECIAL)
    assert exactness.line_rule == NO_LINES and "lines stay whole" in exactness.reason
    for around in (text, f"<|a|>{text}</s>", f"x {text} <|a|> {text}\n"):
        plain = tokenizer.encode(around, add_special_tokens=False).ids
        assert encode_in_pieces(tokenizer, around, exactness.cuts) == plain
    if normalizer is None or normalizer.normalize_str("A") == "A":
        whole = tokenizer.encode(text, add_special_tokens=False).ids
        assert encode_in_pieces(tokenizer, text, naive(tokenizer)) != whole


def test_an_added_token_over_the_end_of_a_line_stays_whole() -> None:
    tokenizer = with_tokens(byte_level_bpe(), [*SPECIAL, AddedToken("o\no", lstrip=True, normalized=False)])
    exactness = prove(definition_of(tokenizer))
    text = "no\none"
    plain = tokenizer.encode(text).ids
    assert encode_in_pieces(tokenizer, text, exactness.cuts, exactness.line_rule) == plain
    assert encode_in_pieces(tokenizer, text, exactness.cuts, line_rule=3) != plain


STRANGE: dict[str, dict[str, Any]] = {
    "truncation": {"truncation": {"max_length": 8}},
    "padding": {"padding": {"length": 8}},
    "an unknown model": {"model": {"type": "Transformer"}},
    "an unknown option of a model": {"model": {"type": "BPE", "looks_ahead": False}},
    "no model": {"model": None},
    "an unknown normalizer": {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Reverse"}]}},
    "an unknown option of a normalizer": {
        "normalizer": {"type": "Prepend", "prepend": "_", "where": "first"}
    },
    "an unknown pre-tokenizer": {"pre_tokenizer": {"type": "Context"}},
    "an unknown scheme": {"pre_tokenizer": {"type": "Metaspace", "prepend_scheme": "last"}},
    "a scheme that is none": {"pre_tokenizer": {"type": "Metaspace", "prepend_scheme": []}},
    "a sequence of nothing": {"normalizer": {"type": "Sequence"}},
    "a list for a component": {"normalizer": ["NFC"]},
    "a type that is a list": {"normalizer": {"type": ["NFC"]}},
    "tokens that are texts": {"added_tokens": ["<a>"]},
    "a post-processor that names nothing": {"post_processor": {"type": "TemplateProcessing"}},
    "a special token that is missing": {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "x"}}, {"Sequence": {"id": "A"}}],
            "special_tokens": {},
        }
    },
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_definition_that_nobody_understands_proves_nothing(name: str) -> None:
    exactness = prove({**definition_of(kind("byte-level BPE")), **STRANGE[name]})
    assert not exactness.is_proven
    assert exactness.reason.endswith((".", ").")) and "\n" not in exactness.reason


def test_a_tokenizer_with_nothing_to_cut_at_says_so() -> None:
    exactness = prove(definition_of(byte_level_bpe(normalizer=normalizers.Lowercase())))
    assert not exactness.is_proven and "no added token" in exactness.reason
