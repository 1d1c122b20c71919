"""Added tokens at which texts are cut, of every combination of their settings."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from kvatlas.tokenize.segments.cuts import cuts_of
from kvatlas.tokenize.segments.definition import definition_of
from kvatlas.tokenize.segments.exactness import prove
from tests.models.tokenizer_pieces import encode_in_pieces
from tests.profiles import examples

CLEAN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def token(content: str, token_id: int = 0, **settings: bool) -> dict[str, Any]:
    return {"content": content, "id": token_id, **CLEAN, **settings}


def contents(*tokens: dict[str, Any], is_normalized: bool = False, keeps_special: bool = False) -> set[str]:
    cuts = cuts_of(tokens, is_normalized=is_normalized, keeps_special=keeps_special)
    assert cuts.has_others == (len(cuts.tokens) < len(tokens))
    return {content for content, _ in cuts.tokens}


def characters_tokenizer(added: list[AddedToken], normalizer: Any) -> Tokenizer:
    """One token a character: what an added token takes or leaves is seen in the ids."""
    vocabulary = {chr(n): n for n in range(256)}
    tokenizer = Tokenizer(models.WordLevel({**vocabulary, "?": 256}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.add_tokens(added)
    return tokenizer


def test_clean_tokens_are_all_cut_at_also_where_they_overlap_each_other() -> None:
    assert contents(token("<a>"), token("a>b"), token("<a>b"), token("\n\n")) == {
        "<a>",
        "a>b",
        "<a>b",
        "\n\n",
    }


def test_a_token_that_overlaps_one_that_looks_around_is_not_cut_at() -> None:
    strips = token("b]", lstrip=True)
    assert contents(token("{a}"), token("[b]"), strips) == {"{a}"}  # holds it
    assert contents(token("{a}"), token("[b"), strips) == {"{a}"}  # its end is the other's begin
    assert contents(token("{a}"), token("]|"), strips) == {"{a}"}  # its begin is the other's end
    assert contents(token("{a}"), token("#"), token("{#}", lstrip=True)) == {"{a}"}  # lies in it


def test_what_overlaps_a_token_that_is_not_cut_at_is_not_cut_at_either() -> None:
    assert contents(token("[a]"), token("]b["), token("[c]"), token("c]", rstrip=True)) == set()
    assert contents(token("{a}"), token("]b["), token("[c]"), token("c]", rstrip=True)) == {"{a}"}


def test_beside_tokens_that_look_around_only_those_with_punctuation_at_both_ends_are_cut_at() -> None:
    some = [token(content) for content in ("<a>", "e", " {b}", "(b)\n", "_c_", "[d]é")]
    assert contents(*some) == {some["content"] for some in some}
    assert contents(*some, token("|w|", single_word=True)) == {"<a>"}


def test_normalized_tokens_are_cut_at_where_nothing_normalizes() -> None:
    tokens = token("<a>"), token("<n>", normalized=True)
    assert contents(*tokens) == {"<a>", "<n>"}
    assert contents(*tokens, is_normalized=True) == {"<a>"}
    assert contents(token("<a>"), token("a>n", normalized=True)) == {"<a>"}  # the library looks for <a> first


def test_special_tokens_that_are_to_be_encoded_as_text_are_not_cut_at() -> None:
    tokens = token("<a>"), token("<n>", special=False)
    assert contents(*tokens, keeps_special=True) == {"<n>"}


def test_monstrous_tokens_cost_no_time() -> None:
    assert contents(token("<a>"), token("x" * 1_000_000)) == set()
    assert contents(token("<a>"), token("<x>" * 1_000_000, lstrip=True)) == set()


PARTS = ("<", ">", "a", "b", " ", "\n", "A", "é", "_", "<a>", "a>", "b<")
FLAGS = st.fixed_dictionaries({name: st.sampled_from((False, False, True)) for name in CLEAN})
CONTENTS = st.lists(st.sampled_from(PARTS), min_size=1, max_size=3).map("".join)


@pytest.mark.slow
@settings(max_examples=examples(400))
@given(
    added=st.dictionaries(CONTENTS, FLAGS, max_size=5),
    normalizer=st.sampled_from((None, normalizers.Lowercase(), normalizers.Strip())),
    keeps_special=st.booleans(),
    texts=st.lists(st.lists(st.sampled_from(PARTS), max_size=12), min_size=8, max_size=8),
)
def test_pieces_have_the_ids_of_the_whole_whatever_tokens_there_are(
    added: dict[str, dict[str, bool]], normalizer: Any, keeps_special: bool, texts: list[list[str]]
) -> None:
    # Of a token that is normalized to nothing the library panics, or never ends; PlainEncoder refuses those.
    assume(normalizer is None or all(map(normalizer.normalize_str, added)))
    tokenizer = characters_tokenizer(
        [AddedToken(content, **flags) for content, flags in added.items()], normalizer
    )
    tokenizer.encode_special_tokens = keeps_special
    exactness = prove(definition_of(tokenizer))
    for text in map("".join, [*texts, [*added, *texts[0], *added]]):
        plain = ids_of_whole(tokenizer, text)
        if plain is not None:
            assert encode_in_pieces(tokenizer, text, exactness.cuts) == plain


def ids_of_whole(tokenizer: Tokenizer, text: str) -> list[int] | None:
    """None: the library panics, as it does of some tokens that begin or end with white space."""
    try:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        return None
    return ids


@pytest.mark.parametrize(
    ("content", "flags", "normalizer", "text"),
    [
        ("<t>", {"lstrip": True}, None, "a <t>"),
        ("<t>", {"rstrip": True}, None, "<t> a"),
        ("tt", {"single_word": True}, None, "att"),
        ("<t>", {"normalized": True}, normalizers.NFC(), "<t>\u0338"),
    ],
)
def test_each_setting_that_is_refused_would_make_wrong_cuts(
    content: str, flags: dict[str, bool], normalizer: Any, text: str
) -> None:
    assert_wrong_cut(AddedToken(content, **{**CLEAN, **flags}), None, normalizer, text)


@pytest.mark.parametrize(
    ("cut", "other", "text"),
    [
        (AddedToken("b>", **CLEAN), AddedToken("<ab", **{**CLEAN, "lstrip": True}), "<ab>"),
        (AddedToken("b>", **CLEAN), AddedToken("<ab", **{**CLEAN, "single_word": True}), "x<ab>"),
        (AddedToken("ww", **CLEAN), AddedToken("xx", **{**CLEAN, "single_word": True}), "wwxx"),
        (AddedToken("b>", **{**CLEAN, "normalized": True}), AddedToken("<ab", **CLEAN), "<ab>"),
        (AddedToken("<ab", **{**CLEAN, "normalized": True}), AddedToken("b>", **CLEAN), "<ab>"),
    ],
)
def test_each_neighbour_that_is_refused_would_make_wrong_cuts(
    cut: AddedToken, other: AddedToken, text: str
) -> None:
    assert_wrong_cut(cut, other, None, text)


def assert_wrong_cut(cut: AddedToken, other: AddedToken | None, normalizer: Any, text: str) -> None:
    """The proof does not cut there, and who did would get other ids."""
    tokenizer = characters_tokenizer([cut, other] if other else [cut], normalizer)
    assert cut.content not in dict(prove(definition_of(tokenizer)).cuts)
    naive = [(cut.content, tokenizer.token_to_id(cut.content) or 0)]
    assert encode_in_pieces(tokenizer, text, naive) != tokenizer.encode(text).ids
