"""What is no number, no array or out of range is refused with InputError, and changes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kvatlas.index._native import Candidates, LoadBook, Terms
from kvatlas.index.errors import InputError
from tests.index.choosing.native.fleets import SmallFleet

pytestmark = pytest.mark.native

NAN = float("nan")


def columns(**changed: Any) -> dict[str, Any]:
    return {
        "numbers": np.arange(2, dtype=np.uint32),
        "slots": np.arange(2, dtype=np.uint32),
        "discounts": np.ones(2, np.float32),
        **changed,
    }


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"slots": np.arange(3, dtype=np.uint32)}, "slots: expected 2 rows, got 3"),
        ({"slots": np.zeros(2, np.uint32)}, "slots: expected each once, got 0 twice"),
        ({"numbers": np.full(2, 7, np.uint32)}, "numbers: expected each once, got 7 twice"),
        ({"numbers": np.arange(2)}, "numbers: expected a contiguous array of uint32"),
        ({"numbers": [0, 1]}, "numbers: expected a contiguous array of uint32"),
        ({"discounts": np.array([1, 1.5], np.float32)}, r"discounts\[1\]: expected at most 1"),
        ({"discounts": np.array([NAN, 1], np.float32)}, r"discounts\[0\]"),
        ({"limits": np.array([0, NAN])}, r"limits\[1\]"),
        ({"limits": np.array([-1.0, 0])}, r"limits\[0\]: expected 0 to inf"),
        ({"limits": np.zeros((2, 1))}, "limits: expected a contiguous array of float64"),
        ({"offsets": np.array([0, 1e13])}, r"offsets\[1\]"),
        ({"rates": np.array([1e-9, 0])}, r"rates\[0\]"),
        ({"rates": np.zeros(4)[::2]}, "rates: expected a contiguous"),
        ({"requests_max": np.zeros(1, np.uint32)}, "requests_max: expected 2 rows, got 1"),
    ],
)
def test_candidates_that_do_not_fit_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Candidates(**columns(**changed))


def test_more_candidates_than_there_may_be_are_refused() -> None:
    many = np.arange(65_537, dtype=np.uint32)
    with pytest.raises(InputError, match="at most 65536"):
        Candidates(many, many, np.ones(65_537, np.float32))


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": "best"},
        {"overlap": -1.0},
        {"prefill": NAN},
        {"decode": float("inf")},
        {"temperature": 101.0},
        {"tier_costs": [0, 0, 0]},
        {"tier_costs": [0, 0, 0, NAN, 0]},
        {"tier_costs": [0, 0, 0, "x", 0]},
        {"hot_requests": -1},
        {"hot_requests": 1 << 40},
        {"session_bonus_tokens": -1.0},
    ],
)
def test_terms_that_are_no_weights_are_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Terms(**changed)


def asked(**changed: Any) -> dict[str, Any]:
    return {
        "now_s": 0.0,
        "request_id": "r",
        "prompt_tokens": 100,
        "output_tokens": 1,
        "workers": np.arange(2, dtype=np.uint32),
        "blocks": np.ones(2, np.uint32),
        "tier_blocks": np.ones((2, 5), np.uint32),
        "partial_rows": (),
        "block_size": 16,
        **changed,
    }


@pytest.mark.parametrize(
    "changed",
    [
        {"now_s": NAN},
        {"now_s": float("inf")},
        {"now_s": "soon"},
        {"request_id": b"r"},
        {"request_id": "\ud800"},
        {"prompt_tokens": -1},
        {"prompt_tokens": 1 << 32},
        {"prompt_tokens": 10**30},
        {"prompt_tokens": 1.5},
        {"output_tokens": -1},
        {"output_tokens": 1 << 32},
        {"output_tokens": True},
        {"block_size": -16},
        {"block_size": 1 << 32},
        {"workers": np.arange(3, dtype=np.uint32)},
        {"workers": np.arange(2)},
        {"workers": b"12345678"},
        {"blocks": np.ones(1, np.uint32)},
        {"blocks": np.ones(2)},
        {"tier_blocks": np.ones((2, 4), np.uint32)},
        {"tier_blocks": np.ones((3, 5), np.uint32)},
        {"tier_blocks": np.ones(10, np.uint32)},
        {"partial_rows": (2,)},
        {"partial_rows": (-1,)},
        {"hints": np.ones(3, np.float32)},
        {"hints": np.ones(2)},
        {"hints": np.array([-1, 0], np.float32)},
        {"hints": np.array([NAN, 0], np.float32)},
        {"hints": np.array([0, np.inf], np.float32)},
        {"bonus_row": -2},
        {"bonus_row": 2},
    ],
)
def test_a_question_that_is_none_is_refused_and_nothing_is_reserved(changed: dict[str, Any]) -> None:
    fleet = SmallFleet(2)
    with pytest.raises(InputError):
        fleet.book.choose(fleet.candidates, Terms(), **asked(**changed))
    with pytest.raises(InputError):
        fleet.book.pick(fleet.candidates, np.zeros(2), **asked(**changed))
    assert fleet.book.statistics()["choices"] == 0


@pytest.mark.parametrize("costs", [[0.0], [NAN, 0], [-float("inf"), 0], [0, -1e13]])
def test_costs_that_are_none_are_refused(costs: list[float]) -> None:
    with pytest.raises(InputError, match="costs"):
        SmallFleet(2).choose(costs=costs)


@pytest.mark.parametrize("most", [-1, 1 << 25, NAN, "many"])
def test_a_bound_that_is_none_is_refused(most: Any) -> None:
    with pytest.raises(InputError, match="reservations_max"):
        LoadBook(most)


def test_names_and_numbers_of_workers_are_checked() -> None:
    book = LoadBook(1)
    for pod, rank in (("p", -1), ("p", 1 << 21), ("\udcff", 0), (7, 0)):
        with pytest.raises(InputError):
            book.slot(pod, rank)  # type: ignore[arg-type]
    with pytest.raises(InputError):
        book.name(-1)
    assert book.name(0) is None


def test_a_fleet_beyond_the_most_workers_is_refused_until_one_leaves() -> None:
    book = LoadBook(1)
    for rank in range(1 << 16):
        book.slot("pod", rank)
    with pytest.raises(InputError, match="at most 65536 workers"):
        book.slot("one more", 0)
    book.forget("pod")
    assert book.name(book.slot("one more", 0)) == ("one more", 0)


@pytest.mark.parametrize(
    ("slots", "prefill", "requests"),
    [([0, 1], [1.0], [1]), ([0], [NAN], [1]), ([0], [-1.0], [1]), ([0], [1e13], [1]), ([0], [1.0], [1, 2])],
)
def test_sums_of_others_that_are_none_are_refused_whole(
    slots: list[int], prefill: list[float], requests: list[int]
) -> None:
    fleet = SmallFleet(2)
    with pytest.raises(InputError):
        fleet.book.set_remote(
            1,
            np.array(slots, np.uint32),
            np.array(prefill),
            np.zeros(len(slots)),
            np.array(requests, np.uint32),
            True,
        )
    assert fleet.book.statistics()["routers"] == 0


def test_times_and_counts_of_a_request_are_checked() -> None:
    fleet = SmallFleet(1)
    fleet.choose()
    book, known = fleet.book, fleet.last_id
    for call in (
        lambda: book.prefill_done(known, NAN),
        lambda: book.produced(known, -1, 0.0),
        lambda: book.produced(known, 1 << 32, 0.0),
        lambda: book.completed(known, 0.0, cached_tokens=-5),
        lambda: book.failed(known, float("inf")),
        lambda: book.expire(0.0, -1.0),
        lambda: book.expire(NAN, 1.0),
        lambda: book.snapshot(fleet.candidates, NAN),
    ):
        with pytest.raises(InputError):
            call()
    assert book.statistics()["reservations"] == 1


def test_the_largest_numbers_that_are_allowed_do_not_overflow() -> None:
    fleet = SmallFleet(2, reservations_max=5000)
    most = 2**32 - 1
    for at in range(3000):
        fleet.book.reserve(
            0, request_id=f"r{at}", prefill_tokens=most, prompt_tokens=most, output_tokens=most, now_s=-1e12
        )
    assert fleet.loads() == [(3000.0 * most, 6000.0 * most, 3000), (0, 0, 0)]
    decision = fleet.choose(most, held={0: most}, hints=[1e12, 0], now_s=1e12)
    assert decision.row == 1 and decision.credits.tolist() == pytest.approx([most, 0])
