"""Texts of every width, lone surrogates, and calls that make no sense."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvatlas.index.errors import InputError
from kvatlas.tokenize._native import NO_LINES, Cutter, SegmentMemo

pytestmark = pytest.mark.native

CUTTER = Cutter([("|", 1)], NO_LINES, 1)
ALL = (
    "a" * 31
    + "é"
    + "b" * 40
    + "ß漢"
    + "c" * 33
    + "\U0010ffff\x00\x7f\x80\u07ff\u0800\ud7ff\ue000\uffff\U00010000"
)


@given(st.text(st.characters(codec="utf-8")))
@example(ALL)
@example(ALL[:32])
@example(ALL[:73])
def test_text_of_any_width_comes_back_unchanged(text: str) -> None:
    memo = SegmentMemo(1 << 20, 1)
    pieces = [piece for piece in dict.fromkeys(text.split("|")) if piece]
    plan = memo.plan(CUTTER, text)
    assert plan.missing() == pieces
    plan.ids([[i] for i in range(len(pieces))])
    assert memo.plan(CUTTER, text + "|x").missing() == [*(["x"] if "x" not in pieces else [])]
    assert memo.plan(CUTTER, "|" + text + "|😀").n_missing == ("😀" not in pieces)


def test_piece_is_found_whatever_the_width_of_the_text_around_it() -> None:
    memo = SegmentMemo(1 << 20, 1)
    memo.plan(CUTTER, "plain|é").ids([[5], [6]])
    for other in ("a", "é", "漢", "😀"):
        plan = memo.plan(CUTTER, f"plain|{other}|é")
        assert plan.ids([[7]] * plan.n_missing).tolist()[:2] == [5, 1]
        assert plan.n_missing == (other != "é")


@pytest.mark.parametrize("before", ["", "a", "é" * 50, "漢" * 33, "😀" * 64])
@pytest.mark.parametrize("surrogate", [0xD800, 0xDBFF, 0xDC00, 0xDFFF])
def test_lone_surrogate_is_refused_with_its_place(before: str, surrogate: int) -> None:
    memo = SegmentMemo(1 << 20, 1)
    place = rf"text\[{len(before)}\].*U\+{surrogate:X}$"
    with pytest.raises(InputError, match=place):
        memo.plan(CUTTER, before + chr(surrogate) + "tail" * 20 + "\ud801")
    assert memo.statistics().misses == 0


def test_text_that_is_no_str_is_refused() -> None:
    for text in (b"text", None, 5):
        with pytest.raises(InputError, match="text: expected a str"):
            SegmentMemo(0, 1).plan(CUTTER, text)  # type: ignore[arg-type]


def test_encoded_texts_that_do_not_fit_are_refused_and_the_plan_can_be_finished_all_the_same() -> None:
    memo = SegmentMemo(1 << 20, 1)
    plan = memo.plan(CUTTER, "a|b")
    for encoded in ([], [[1]], [[1], [2], [3]]):
        with pytest.raises(
            InputError, match=f"encoded: expected 2, one for each missing text, got {len(encoded)}"
        ):
            plan.ids(encoded)
    with pytest.raises(InputError, match=r"encoded\[1\]: token_ids\[2\].*got -1"):
        plan.ids([[1], [2, 3, -1]])
    with pytest.raises(InputError, match=r"encoded\[0\]: token_ids: expected"):
        plan.ids(["ab", [1]])
    assert memo.statistics().pieces == 0
    assert plan.ids([[4], np.array([5, 6], np.uint32)]).tolist() == [4, 1, 5, 6]


def test_second_finish_of_a_plan_is_an_error() -> None:
    plan = SegmentMemo(1 << 20, 1).plan(CUTTER, "a")
    plan.ids([[1]])
    with pytest.raises(InputError, match="ids: expected one call"):
        plan.ids([[1]])


def test_pieces_without_ids_and_ids_up_to_32_bits_are_kept() -> None:
    memo = SegmentMemo(1 << 20, 1)
    memo.plan(CUTTER, "none|all").ids([[], [0, 2**32 - 1]])
    assert memo.plan(CUTTER, "none|all|none").ids([]).tolist() == [1, 0, 2**32 - 1, 1]


def test_memo_and_cutter_live_as_long_as_a_plan_needs_them() -> None:
    plan = SegmentMemo(1 << 20, 1).plan(Cutter([("|", 9)], NO_LINES, 1), "é|" * 3)
    assert plan.ids([[3]]).tolist() == [3, 9] * 3
