"""The encoder: what it answers, remembers, notices and refuses."""

from __future__ import annotations

import functools
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from kvatlas.index.errors import InputError, TokenizerError
from kvatlas.tokenize.segments.definition import definition_of
from kvatlas.tokenize.segments.encoder import SegmentEncoder
from tests.models.tokenizer_kinds import KINDS, NASTY, SPECIAL, byte_level_bpe, metaspace_bpe, with_tokens

CHAT = "".join(f"<|a|>user {n}\nThe quick brown fox\n\njumps {n} times.</s>\n" for n in range(16))
ALL_KINDS: dict[str, Callable[[], Tokenizer]] = {**KINDS, "Metaspace first": lambda: metaspace_bpe("first")}


@functools.cache
def definition(name: str) -> str:
    # Training gives another vocabulary each time.
    return with_tokens(ALL_KINDS[name]()).to_str()


def tokenizer_of(name: str = "byte-level BPE") -> Tokenizer:
    tokenizer = Tokenizer.from_str(definition(name))
    begin, end = ("<|a|>", tokenizer.token_to_id("<|a|>")), ("</s>", tokenizer.token_to_id("</s>"))
    tokenizer.post_processor = processors.TemplateProcessing("<|a|> $A </s>", "$A $B", [begin, end])
    return tokenizer


def encoder_of(
    tokenizer: Tokenizer | None = None,
    *,
    memo_bytes_max: int = 1 << 20,
    check_share: float = 0.0,
    piece_bytes: int = 8,
) -> SegmentEncoder:
    return SegmentEncoder(
        tokenizer or tokenizer_of(),
        name="model",
        memo_bytes_max=memo_bytes_max,
        check_share=check_share,
        piece_bytes=piece_bytes,
    )


def plain(tokenizer: Tokenizer, text: str, add_special_tokens: bool = False) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
    return ids


ENCODERS = {name: encoder_of(tokenizer_of(name)) for name in ALL_KINDS}
REFERENCES = {name: tokenizer_of(name) for name in ALL_KINDS}


@pytest.mark.parametrize("name", ALL_KINDS)
@given(parts=st.lists(st.sampled_from((*NASTY, *SPECIAL, "\n"))), add_special_tokens=st.booleans())
def test_answers_are_those_of_the_library(name: str, parts: list[str], add_special_tokens: bool) -> None:
    encoder, reference = ENCODERS[name], REFERENCES[name]
    text = "".join(parts)
    for _ in range(2):  # from the library, from the memo
        ids = encoder.encode(text, add_special_tokens=add_special_tokens)
        assert ids.dtype == np.uint32
        assert ids.tolist() == plain(reference, text, add_special_tokens)
    assert not encoder.exactness.is_disabled


@given(
    texts=st.lists(st.lists(st.sampled_from((*NASTY, *SPECIAL, "\n", "one\n"))).map("".join)),
    add_special_tokens=st.booleans(),
)
def test_many_texts_are_answered_as_each_alone(texts: list[str], add_special_tokens: bool) -> None:
    answers = ENCODERS["byte-level BPE"].encode_many(texts, add_special_tokens=add_special_tokens)
    reference = REFERENCES["byte-level BPE"]
    assert [ids.tolist() for ids in answers] == [plain(reference, text, add_special_tokens) for text in texts]


def test_of_a_next_turn_only_the_turn_is_encoded() -> None:
    encoder = encoder_of()
    encoder.encode(CHAT, add_special_tokens=False)
    before = encoder.statistics()
    turn = "<|a|>user 16\nsomething new</s>\n"
    encoder.encode(CHAT + turn, add_special_tokens=False)
    after = encoder.statistics()
    assert after["memo_missed_bytes"] - before["memo_missed_bytes"] == len("user 16\nsomething new")
    assert after["memo_hit_bytes"] - before["memo_hit_bytes"] == len(CHAT) - 16 * len("<|a|></s>") + 1


def test_a_piece_of_several_texts_is_encoded_once() -> None:
    encoder = encoder_of()
    system = "<|a|>system\nBe kind.</s>"
    encoder.encode_many([f"{system}<|b|>user {n}" for n in range(8)], add_special_tokens=False)
    statistics = encoder.statistics()
    assert statistics["memo_pieces"] == 9  # the system prompt, eight users


def test_without_a_memo_nothing_is_remembered() -> None:
    encoder = encoder_of(memo_bytes_max=0)
    for _ in range(2):
        assert encoder.encode(CHAT, add_special_tokens=False).tolist() == plain(tokenizer_of(), CHAT)
    statistics = encoder.statistics()
    assert statistics["memo_pieces"] == statistics["memo_bytes"] == 0
    assert statistics["memo_bytes_max"] == 0


@pytest.mark.slow
def test_the_memo_stays_within_its_bytes_and_answers_stay_right() -> None:
    reference, encoder = tokenizer_of(), encoder_of(memo_bytes_max=64 << 10)
    for n in range(400):
        text = f"<|a|>{n}\n" + f"{n} " * (n % 50) + CHAT[n : 3 * n]
        assert encoder.encode(text, add_special_tokens=False).tolist() == plain(reference, text)
        assert encoder.statistics()["memo_bytes"] <= 64 << 10
    assert encoder.statistics()["memo_evicted"] > 0


def test_what_is_cleared_is_encoded_again() -> None:
    encoder = encoder_of()
    first = encoder.encode(CHAT, add_special_tokens=False)
    misses = encoder.statistics()["memo_misses"]
    encoder.clear()
    assert encoder.statistics()["memo_pieces"] == 0
    assert np.array_equal(encoder.encode(CHAT, add_special_tokens=False), first)
    assert encoder.statistics()["memo_misses"] == 2 * misses


def test_a_share_of_the_answers_is_checked_and_the_first_few_always() -> None:
    never, always = encoder_of(check_share=0.0), encoder_of(check_share=1.0)
    half = encoder_of(check_share=0.5)
    for encoder in (never, always, half):
        for _ in range(200):
            encoder.encode(CHAT[:40], add_special_tokens=True)
    assert never.statistics()["checked"] == 3
    assert always.statistics()["checked"] == 200
    assert 40 < half.statistics()["checked"] < 170  # one in 10^17 tries fails
    assert {encoder.statistics()["mismatches"] for encoder in (never, always, half)} == {0}


@pytest.mark.slow
def test_a_text_of_more_than_a_million_characters_is_not_compared() -> None:
    """Encoded whole it would take more memory than all its pieces, one after the other."""
    reference, encoder = tokenizer_of(), encoder_of(check_share=1.0)
    text = "<|a|>one two\n" * 90_000
    assert encoder.encode(text, add_special_tokens=False).tolist() == plain(reference, text)
    assert encoder.statistics()["checked"] == 0
    encoder.encode(CHAT, add_special_tokens=False)
    assert encoder.statistics()["checked"] == 1


def test_a_wrong_answer_is_never_given_and_disables_the_memo(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = tokenizer_of()
    encoder = encoder_of(tokenizer, check_share=1.0)
    assert encoder.exactness.is_usable
    encoder.encode(CHAT, add_special_tokens=False)
    # Behind the encoder's back, the tokenizer becomes one whose pieces are not those of the whole.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    with caplog.at_level(logging.ERROR):
        for text in (CHAT, "one\ntwo\nthree", CHAT):
            ids = encoder.encode(text, add_special_tokens=False)
            assert ids.tolist() == plain(tokenizer, text)
    assert not encoder.exactness.is_usable
    assert encoder.exactness.is_proven and encoder.exactness.is_disabled
    assert "differed at token" in encoder.exactness.reason
    statistics = encoder.statistics()
    assert (
        statistics["mismatches"] == 1 and statistics["encoded_whole"] == 3 and statistics["memo_pieces"] == 0
    )
    [record] = caplog.records
    assert "model" in record.message and "quick" not in record.message


def test_a_wrong_answer_among_many_has_all_of_them_encoded_whole() -> None:
    tokenizer = tokenizer_of()
    encoder = encoder_of(tokenizer, check_share=1.0)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    texts = ["x", "one\ntwo\nthree\nfour", " y"]
    answers = encoder.encode_many(texts, add_special_tokens=True)
    assert [ids.tolist() for ids in answers] == [plain(tokenizer, text, True) for text in texts]
    assert encoder.exactness.is_disabled


def test_a_library_that_behaves_otherwise_is_noticed_at_the_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # A definition that the library does not follow: it says what another tokenizer is.
    other = byte_level_bpe(pre_tokenizers.ByteLevel(add_prefix_space=True))
    believed = tokenizer_of()
    monkeypatch.setattr("kvatlas.tokenize.segments.encoder.definition_of", lambda _: definition_of(believed))
    encoder = encoder_of(with_tokens(other))
    assert encoder.exactness.is_disabled and "trial" in encoder.exactness.reason
    assert encoder.encode("one\ntwo", add_special_tokens=False).tolist() == plain(other, "one\ntwo")
    assert len(caplog.records) == 1


def test_truncation_and_padding_are_taken_off() -> None:
    tokenizer = tokenizer_of()
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=16)
    encoder = encoder_of(tokenizer)
    assert encoder.exactness.is_proven
    assert encoder.encode(CHAT, add_special_tokens=True).tolist() == plain(tokenizer_of(), CHAT, True)
    assert encoder.encode("", add_special_tokens=False).tolist() == []


def test_a_tokenizer_that_is_not_proven_is_asked_for_the_whole() -> None:
    encoder, reference = encoder_of(tokenizer_of("Metaspace first")), tokenizer_of("Metaspace first")
    assert encoder.encode(CHAT, add_special_tokens=True).tolist() == plain(reference, CHAT, True)
    statistics = encoder.statistics()
    assert statistics["answers"] == statistics["encoded_whole"] == 1
    assert statistics["checked"] == statistics["memo_pieces"] == 0


def test_offsets_are_characters_of_the_whole_text() -> None:
    text = "é<|a|>日本 one"
    encoder, reference = encoder_of(), tokenizer_of().encode(text)
    ids, offsets = encoder.offsets(text, add_special_tokens=True)
    assert ids.tolist() == reference.ids and offsets.tolist() == [list(pair) for pair in reference.offsets]
    ids, offsets = encoder.offsets("", add_special_tokens=False)
    assert ids.shape == (0,) and offsets.shape == (0, 2)


@pytest.mark.parametrize("name", ["byte-level BPE", "Metaspace first"])
@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a\ud800b", "text[1]: expected text that UTF-8 can encode, got the lone surrogate U+D800"),
        ("<|a|>\udfff", "text[5]: expected text that UTF-8 can encode, got the lone surrogate U+DFFF"),
        ("\ud83d\ude42", "text[0]: expected text that UTF-8 can encode, got the lone surrogate U+D83D"),
        (7, "text: expected a str, got int"),
        (None, "text: expected a str, got NoneType"),
        (["a"], "text: expected a str, got list"),
    ],
)
def test_what_is_no_text_is_refused_with_its_place(name: str, text: str, named: str) -> None:
    encoder = ENCODERS[name]
    for call in (encoder.encode, encoder.encode_plain, encoder.offsets):
        with pytest.raises(InputError, match=re.escape(named)):
            call(text, add_special_tokens=False)
    with pytest.raises(InputError, match=re.escape(named)):
        encoder.encode_many(["fine", text], add_special_tokens=False)
    assert encoder.encode("one", add_special_tokens=False).tolist() == plain(REFERENCES[name], "one")


def test_a_text_that_the_tokenizer_refuses_is_an_error_of_the_tokenizer() -> None:
    tokenizer = Tokenizer(models.WordLevel({"one": 0, "two": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    encoder = encoder_of(with_tokens(tokenizer))
    assert encoder.exactness.is_usable
    assert encoder.encode("one<|a|>two", add_special_tokens=False).tolist() == [0, 2, 1]
    with pytest.raises(TokenizerError, match=r"model: the tokenizer refuses a text: .*UNK"):
        encoder.encode("one<|a|>three", add_special_tokens=False)
    assert encoder.encode("two<|a|>one", add_special_tokens=False).tolist() == [1, 2, 0]


@pytest.mark.slow
def test_a_panic_of_the_library_is_an_error_of_the_tokenizer() -> None:
    tokenizer = tokenizer_of()
    tokenizer.pre_tokenizer = pre_tokenizers.FixedLength(0)
    encoder = encoder_of(tokenizer)
    with pytest.raises(TokenizerError, match="model: the tokenizer refuses a text: "):
        encoder.encode("é", add_special_tokens=False)


def test_a_tokenizer_on_which_the_library_never_ends_is_refused() -> None:
    tokenizer = tokenizer_of()
    tokenizer.normalizer = normalizers.Strip()
    tokenizer.add_tokens([AddedToken(" ", normalized=True)])
    with pytest.raises(TokenizerError, match="model: added token ' ' becomes nothing when it is normalized"):
        encoder_of(tokenizer)


def test_threads_get_the_right_answers_while_the_memo_is_cleared_and_full() -> None:
    encoder = encoder_of(memo_bytes_max=32 << 10, check_share=0.1)
    texts = [f"<|a|>{n}\n{CHAT[n * 7 : n * 11]}</s>\nend {n}" for n in range(60)]
    expected = [plain(tokenizer_of(), text, True) for text in texts]
    wrong: list[str] = []

    def ask(seed: int) -> None:
        order = np.random.default_rng(seed).permutation(np.tile(np.arange(len(texts)), 5))
        for n in order:
            if encoder.encode(texts[n], add_special_tokens=True).tolist() != expected[n]:
                wrong.append(texts[n])
            if n == 7:
                encoder.clear()

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and not encoder.exactness.is_disabled
    assert encoder.statistics()["answers"] == 6 * 5 * len(texts)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3", "gpt-oss"])
def test_real_tokenizers_are_remembered_and_right(name: str, shared: Path) -> None:
    reference = Tokenizer.from_file(str(shared / "tokenizers" / name / "tokenizer.json"))
    encoder = encoder_of(reference, check_share=1.0, piece_bytes=200)
    marks = [token.content for token in reference.get_added_tokens_decoder().values()][:6]
    text = "".join(f"{mark}\n{CHAT}{''.join(NASTY)}\n{mark}x" for mark in marks) + Path(__file__).read_text()
    for add_special_tokens in (False, True, False):
        ids = encoder.encode(text, add_special_tokens=add_special_tokens)
        assert ids.tolist() == plain(reference, text, add_special_tokens)
    statistics = encoder.statistics()
    assert statistics["checked"] == 3 and statistics["mismatches"] == 0
    assert statistics["memo_hits"] > statistics["memo_misses"] > 20


FORKED = """
import os
from tests.tokenize.segments.test_encoder import CHAT, encoder_of, plain
encoder = encoder_of()
expected = encoder.encode_plain(CHAT, add_special_tokens=False).tolist()
assert encoder.encode(CHAT, add_special_tokens=False).tolist() == expected
encoder.clear()
child = os.fork()
if child == 0:
    os._exit(encoder.encode(CHAT, add_special_tokens=False).tolist() != expected)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.slow
@pytest.mark.parametrize("parallelism", [None, "false"])
def test_without_the_librarys_threads_and_after_a_fork_answers_are_the_same(parallelism: str | None) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TOKENIZERS_PARALLELISM"}
    if parallelism is not None:
        environment["TOKENIZERS_PARALLELISM"] = parallelism
    subprocess.run([sys.executable, "-c", FORKED], check=True, env=environment, timeout=60)
