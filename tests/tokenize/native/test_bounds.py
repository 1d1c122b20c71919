"""What the memo keeps and drops: one-time texts, large pieces, equal hashes, clears, memory that runs out."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from kvatlas.tokenize._native import LINES_BEFORE_TEXT, NO_LINES, Cutter, SegmentMemo

pytestmark = pytest.mark.native

CUTTER = Cutter([("|", 1)], NO_LINES, 1)
WORD = 2**64 - 1


def tokenize(memo: SegmentMemo, text: str, tokens_per_piece: int = 1) -> list[str]:
    """What was missing; each piece gets as many ids, made of its text's length."""
    plan = memo.plan(CUTTER, text)
    missing = plan.missing()
    plan.ids([np.full(tokens_per_piece, len(piece), np.uint32) for piece in missing])
    return missing


def first_secret(hash_seed: int) -> bytes:
    """Of tokenize/native/text_hash.hpp."""
    z = (hash_seed + 0x9E3779B97F4A7C15) & WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    return (z ^ (z >> 31)).to_bytes(8, "little")


def test_texts_of_one_hash_are_told_apart_and_the_second_is_not_remembered() -> None:
    """A word equal to the secret makes a product zero, whatever the next word is."""
    seed = next(
        seed for seed in range(10**6) if max(first_secret(seed)) < 0x80 and b"|" not in first_secret(seed)
    )
    word = first_secret(seed).decode()
    texts = [word + "8 bytes." + "the end", word + "8 others" + "the end"]
    memo = SegmentMemo(1 << 20, seed)
    assert memo.plan(CUTTER, "|".join(texts)).missing() == texts
    for _ in range(2):
        plans = [memo.plan(CUTTER, text) for text in texts]
        found = [plan.ids([[len(texts) + i]] * plan.n_missing).tolist() for i, plan in enumerate(plans)]
        assert found == [[2], [3]]
    both = memo.plan(CUTTER, "|".join(texts))
    assert both.missing() == texts[1:]
    assert both.ids([[3]]).tolist() == [2, 1, 3]
    assert memo.statistics().pieces == 1
    assert memo.statistics().refused == 3


def test_pieces_used_again_survive_a_flood_of_pieces_used_once() -> None:
    memo = SegmentMemo(1 << 20, 1)
    kept = [f"system prompt {i} " + "x" * 2000 for i in range(100)]
    for _ in range(2):
        for piece in kept:
            tokenize(memo, piece)
    for i in range(5000):
        tokenize(memo, f"asked once {i} " + "y" * 2000)
    assert memo.statistics().evicted > 4000
    assert [piece for piece in kept if tokenize(memo, piece)] == []


def test_each_use_of_a_kept_piece_is_worth_another_round_among_pieces_that_are_all_used_again() -> None:
    memo = SegmentMemo(1 << 20, 1)
    kept = [f"kept {i} " + "x" * 2000 for i in range(20)]
    for piece in kept * 2:
        tokenize(memo, piece)
    for i in range(600):  # the memo holds 480: the kept ones move on to the main queue
        tokenize(memo, f"once {i} " + "y" * 2000)
    for piece in kept * 3:
        assert tokenize(memo, piece) == []
    for i in range(1000):
        for _ in range(2):
            tokenize(memo, f"twice {i} " + "y" * 2000)
    assert [piece for piece in kept if tokenize(memo, piece)] == []


@pytest.mark.parametrize("was_cleared", [False, True])
def test_piece_that_comes_back_soon_after_it_was_dropped_is_kept_longer(was_cleared: bool) -> None:
    again = "again " + "x" * 2000

    def flood(memo: SegmentMemo, name: str, n: int) -> None:
        for i in range(n):
            tokenize(memo, f"{name} {i} " + "y" * 2000)

    def memo_after(n: int) -> SegmentMemo:
        memo = SegmentMemo(1 << 20, 1)
        if was_cleared:
            flood(memo, "cleared", 1000)
            memo.clear()
        tokenize(memo, again)
        flood(memo, "once", n)
        return memo

    n = next(n for n in range(0, 2000, 50) if memo_after(n).plan(CUTTER, again).n_missing)
    memo = memo_after(n)
    assert tokenize(memo, again) == [again]
    flood(memo, "once more", n)
    assert tokenize(memo, again) == []


def test_piece_larger_than_a_sixteenth_of_the_memo_is_refused_and_others_stay() -> None:
    memo = SegmentMemo(1 << 20, 1)
    tokenize(memo, "small")
    large = "x" * (1 << 16)
    assert tokenize(memo, large) == [large]
    assert tokenize(memo, large) == [large]
    assert tokenize(memo, "x" * 60_000 + "|small") == ["x" * 60_000]
    assert tokenize(memo, "x" * 60_000 + "|small") == []
    assert tokenize(memo, "y", tokens_per_piece=1 << 14) == ["y"]
    assert memo.statistics().refused == 3


def test_bytes_never_exceed_the_bound_and_include_everything_that_is_held() -> None:
    for bytes_max in (1, 150, 1000, 10_000, 300_000):
        memo = SegmentMemo(bytes_max, 7)
        for i in range(2000):
            tokenize(memo, f"{i % 700}" * (1 + i % 13), tokens_per_piece=i % 5)
            now = memo.statistics()
            assert now.bytes <= bytes_max
            assert now.bytes >= now.pieces * 48 + now.tokens * 4
        assert (memo.statistics().pieces > 0) == (bytes_max >= 1000)


def test_large_memo_costs_at_most_eight_bytes_a_token_beside_the_text() -> None:
    memo = SegmentMemo(1 << 30, 1)
    text = "|".join(f"{i} " + "x" * 900 for i in range(5000))
    tokenize(memo, text, tokens_per_piece=230)
    now = memo.statistics()
    assert now.tokens == 5000 * 230
    assert now.bytes <= len(text) + 8 * now.tokens


def test_memo_without_bytes_remembers_nothing() -> None:
    memo = SegmentMemo(0, 1)
    assert tokenize(memo, "a|b|a") == ["a", "b"]
    assert tokenize(memo, "a|b|a") == ["a", "b"]
    now = memo.statistics()
    assert (now.hits, now.misses, now.pieces, now.refused) == (2, 4, 0, 0)


def test_what_a_plan_from_before_a_clear_brings_is_not_remembered() -> None:
    memo = SegmentMemo(1 << 20, 1)
    tokenize(memo, "held")
    plan = memo.plan(CUTTER, "held|new")
    memo.clear()
    assert plan.missing() == ["new"]
    assert plan.ids([[9]]).tolist() == [4, 1, 9]
    assert memo.plan(CUTTER, "held|new").missing() == ["held", "new"]


@pytest.mark.slow
def test_text_of_100_mb_and_one_of_a_million_pieces_are_cut_and_remembered() -> None:
    memo = SegmentMemo(1 << 30, 1)
    lines = Cutter([("<s>", 5)], LINES_BEFORE_TEXT, 4096)
    large = ("word " * 20 + "\n") * 1_000_000
    plan = memo.plan(lines, large)
    assert plan.n_pieces > 20_000
    assert plan.n_missing < 100  # lines are alike
    assert plan.ids([[1]] * plan.n_missing).size == plan.n_pieces
    many = "".join(f"{i}<s>" for i in range(1_000_000))
    plan = memo.plan(lines, many)
    assert (plan.n_pieces, plan.n_missing) == (1_000_000, 1_000_000)
    ids = plan.ids([[7]] * 1_000_000)
    assert ids.tolist() == [7, 5] * 1_000_000
    again = memo.plan(lines, many)
    assert again.n_missing == 0
    assert (again.ids([]) == ids).all()


SHORT_OF_MEMORY = """
import resource, sys
from kvatlas.tokenize._native import Cutter, SegmentMemo

cutter, memo = Cutter([("|", 1)], 0, 1), SegmentMemo(4 << 30, 1)
ascii, wide = "x" * (100 << 20), "\\u4e00" * (50 << 20)
memo.plan(cutter, "held").ids([[5]])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20),) * 2)
try:
    memo.plan(cutter, wide)
    sys.exit("no MemoryError for the UTF-8 of a text")
except MemoryError:
    pass
assert memo.plan(cutter, ascii).ids([[6]]).tolist() == [6]  # the answer is right, only not remembered
assert memo.statistics().refused == 1, memo.statistics().refused
assert memo.plan(cutter, ascii).n_missing == 1
assert memo.plan(cutter, "held|new").ids([[7]]).tolist() == [5, 1, 7]
assert memo.plan(cutter, "held|new").n_missing == 0
"""


@pytest.mark.slow
@pytest.mark.skipif("san.so" in os.environ.get("LD_PRELOAD", ""), reason="sanitizers need address space")
def test_memory_that_runs_out_is_an_error_or_a_refusal_and_the_memo_goes_on() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
