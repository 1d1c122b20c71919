"""What is learned of workers: how fast they prefill, how far predictions come true."""

from __future__ import annotations

import numpy as np
import pytest

from tests.index.choosing.native.fleets import SmallFleet, terms

pytestmark = pytest.mark.native

NO_DECODE = terms(decode=0)


def rate(fleet: SmallFleet, row: int = 0) -> float:
    return float(fleet.book.snapshot(fleet.candidates).prefill_rate[row])


def test_the_rate_is_known_after_three_stretches_not_counting_the_first_that_warms_up() -> None:
    fleet = SmallFleet(1)
    now_s = fleet.busy(0, 2000, 60.0)  # compiles
    now_s = fleet.busy(0, 2000, 1.0, from_s=now_s, times=2)
    assert rate(fleet) == 0
    fleet.busy(0, 2000, 1.0, from_s=now_s)
    assert rate(fleet) == pytest.approx(2000)


def test_a_stretch_needs_1024_tokens() -> None:
    for tokens, known in ((1023, 0), (1024, 1024)):
        fleet = SmallFleet(1)
        fleet.busy(0, tokens, 1.0, times=4)
        assert rate(fleet) == pytest.approx(known)


def test_short_prefills_say_something_only_together() -> None:
    fleet = SmallFleet(1)
    fleet.busy(0, 100, 0.2, times=50)  # alone each: begins anew
    assert rate(fleet) == 0
    for stretch in range(4):
        ids = [fleet.give(0, 100, now_s=float(stretch)) for _ in range(11)]
        for request_id in ids:
            fleet.book.prefill_done(request_id, stretch + 0.5)
    assert rate(fleet) == pytest.approx(2200)


def test_prefills_that_end_in_one_step_are_one_stretch_and_not_infinitely_fast() -> None:
    fleet = SmallFleet(1)
    for stretch in range(4):
        ids = [fleet.give(0, 1500, now_s=float(stretch)) for _ in range(2)]
        for request_id in ids:
            fleet.book.prefill_done(request_id, stretch + 0.5)
    assert rate(fleet) == pytest.approx(6000)


def test_prefills_that_end_within_a_millisecond_were_one_step_too() -> None:
    fleet = SmallFleet(1)
    for stretch in range(4):
        first, second = (fleet.give(0, 1500, now_s=float(stretch)) for _ in range(2))
        fleet.book.prefill_done(first, stretch + 0.5)
        fleet.book.prefill_done(second, stretch + 0.5005)
    assert rate(fleet) == pytest.approx(6000)


def test_while_another_router_has_work_there_nothing_is_learned() -> None:
    fleet = SmallFleet(1)
    share = remote(fleet, 500.0)
    assert share == (500.0, 0.0, 1)
    fleet.busy(0, 2000, 1.0, times=10)
    assert rate(fleet) == 0
    fleet.book.drop_remote(9)
    fleet.busy(0, 2000, 1.0, times=4)
    assert rate(fleet) == pytest.approx(2000)


def remote(fleet: SmallFleet, prefill: float) -> tuple[float, float, int]:
    fleet.book.set_remote(
        9, np.zeros(1, np.uint32), np.array([prefill]), np.zeros(1), np.ones(1, np.uint32), whole=True
    )
    return fleet.loads()[0]


def test_a_request_that_ends_without_saying_when_its_prefill_did_spoils_the_stretch() -> None:
    fleet = SmallFleet(1)
    for at in range(10):
        spoiler, other = (fleet.give(0, 2000, now_s=float(at)) for _ in range(2))
        fleet.book.failed(spoiler, at + 0.5)
        fleet.book.prefill_done(other, at + 0.5)
    assert rate(fleet) == 0


def test_one_slow_stretch_moves_the_rate_by_a_factor_at_most_and_it_comes_back() -> None:
    fleet = SmallFleet(1)
    now_s = fleet.busy(0, 2000, 1.0, times=10)
    now_s = fleet.busy(0, 2000, 1000.0, from_s=now_s)
    assert 2000 / 4 < rate(fleet) < 2000
    fleet.busy(0, 2000, 1.0, from_s=now_s, times=20)
    assert rate(fleet) == pytest.approx(2000, rel=0.05)


def test_costs_are_seconds_once_half_of_the_workers_have_a_rate_and_others_have_the_mean() -> None:
    fleet = SmallFleet(3, rates=[0, 1000, 0])
    assert not fleet.choose(reserve=False).in_seconds
    fleet.busy(0, 2000, 1.0, times=4)
    decision = fleet.choose(1000, by=NO_DECODE, reserve=False, now_s=4.0)
    assert decision.in_seconds
    # 2 000 and 1 000 tokens/s: half a millisecond and one; the mean of these.
    assert decision.costs.tolist() == pytest.approx([0.5, 1.0, 0.75])


def test_the_faster_of_two_idle_workers_gets_the_request_though_tokens_are_equal() -> None:
    fleet = SmallFleet(2, rates=[1000, 3000])
    assert {fleet.choose(reserve=False, seed=seed).row for seed in range(20)} == {1}


def test_noise_in_measured_rates_does_not_decide_among_idle_workers() -> None:
    fleet = SmallFleet(5)
    end_s = 0.0
    for row, took_s in enumerate((1.0, 1.03, 0.97, 1.01, 4.0)):
        end_s = max(end_s, fleet.busy(row, 2000, took_s, times=6))
    chosen = [fleet.choose(reserve=False, now_s=end_s, seed=seed) for seed in range(100)]
    assert all(decision.in_seconds for decision in chosen)
    assert {decision.row for decision in chosen} == {0, 1, 2, 3}, "one of them is a slower machine"


def test_a_slow_worker_is_taken_for_an_average_one_again_while_nothing_is_measured() -> None:
    fleet = SmallFleet(2, rates=[0, 2000])
    end_s = fleet.busy(0, 2000, 4.0, times=4)  # 500 tokens/s

    def seconds(now_s: float) -> float:
        return float(fleet.choose(1000, by=NO_DECODE, reserve=False, now_s=now_s).costs[0])

    mean = (2.0 + 0.5) / 2
    assert seconds(end_s) == pytest.approx(2.0)
    assert seconds(end_s + 60) == pytest.approx((2.0 + mean) / 2)
    assert seconds(end_s + 6000) == pytest.approx(mean, rel=0.02)


def test_of_the_prefill_at_the_front_what_has_been_done_no_longer_counts() -> None:
    fleet = SmallFleet(1, rates=[1000])
    first = fleet.give(0, 800, now_s=0.0)
    fleet.give(0, 500, now_s=0.1)
    assert [fleet.loads(now_s)[0][0] for now_s in (0.0, 0.5, 0.8)] == pytest.approx([1300, 800, 500])
    assert fleet.loads(5.0)[0][0] == 500  # not more than the first, before it says so
    fleet.book.prefill_done(first, 5.0)
    assert fleet.loads(5.2)[0][0] == pytest.approx(300)
    assert fleet.loads(4.0)[0][0] == 500  # a clock that went back
    assert fleet.book.own()[1].tolist() == [500]  # told to others whole


def test_accuracy_begins_at_a_half_and_follows_what_was_reused_of_what_was_predicted() -> None:
    fleet = SmallFleet(1)

    def accuracy() -> float:
        return float(fleet.book.snapshot(fleet.candidates).accuracy[0])

    def complete(cached_tokens: int | None, hints: list[float] | None = None) -> None:
        fleet.choose(1000, held={0: 50}, hints=hints)
        fleet.book.completed(fleet.last_id, 1.0, cached_tokens=cached_tokens)

    assert accuracy() == 0.5
    complete(None)
    complete(0, hints=[900])  # the hint's prediction, not the index's
    assert accuracy() == 0.5
    complete(200)
    assert accuracy() == pytest.approx(0.5 + 0.1 * (0.25 - 0.5))
    for _ in range(60):
        complete(5000)  # more than was predicted is no more than right
    assert accuracy() == pytest.approx(1, abs=0.01)


def test_a_doubtful_worker_counts_by_the_accuracy_that_it_has_at_the_moment() -> None:
    fleet = SmallFleet(1, discounts=[-1])
    assert fleet.choose(1000, held={0: 50}, reserve=False).credits.tolist() == [400]
    for _ in range(60):
        fleet.choose(1000, held={0: 50})
        fleet.book.completed(fleet.last_id, 1.0, cached_tokens=0)
    assert fleet.choose(1000, held={0: 50}, reserve=False).credits[0] < 5
